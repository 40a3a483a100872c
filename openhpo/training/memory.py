"""Failures of training: what to say of them, and running out of memory, which frameworks tell in many ways."""

from __future__ import annotations

import gc

from openhpo.libraries import loaded

SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "memory allocation failed")


def out_of_memory(error: BaseException) -> str:
    """Which memory an exception says is used up: "host" or "accelerator"; empty where it is about something else.

    torch raises OutOfMemoryError for CUDA and ROCm, and RuntimeError for the host's memory and from other back ends.
    """
    if isinstance(error, MemoryError):
        return "host"
    name, text = type(error).__name__, str(error).lower()
    if name == "OutOfMemoryError":
        return "accelerator"
    if isinstance(error, RuntimeError | OSError) and any(sign in text for sign in SIGNS):
        return "host" if "cpuallocator" in text or isinstance(error, OSError) else "accelerator"
    return ""


def describe(error: BaseException) -> str:
    """One line for a list of failures."""
    told = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    where = out_of_memory(error)
    return f"out of {where} memory ({told})" if where else told


def release_memory(error: BaseException) -> None:
    """After running out of memory: let what the failed training held go, so that the next one does not fail for it."""
    if not out_of_memory(error):
        return
    error.__traceback__ = None  # whose frames hold the tensors
    gc.collect()
    torch = loaded("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
