"""Failures of training: what to say of them, and running out of memory, which frameworks tell in many ways."""

from __future__ import annotations

import contextlib
import gc
import traceback
from pathlib import Path
from typing import Any

from openhpo.libraries import loaded

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

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


def forget_frames(error: BaseException) -> None:
    """Let go what the frames of a failed training hold; the traceback still tells where they were."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


def start_measuring(device: str) -> None:
    """From now on look for the peak of memory anew.

    Args:
        device: As torch spells it.
    """
    backend = _backend(device)
    if backend is not None:
        backend.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")  # Linux: the peak of what is resident begins anew


def measured(device: str) -> tuple[int, int]:
    """Bytes at the peak since `start_measuring`, and bytes that there are; 0 where that is not known.

    Of an accelerator what torch has reserved, of the host what is resident of this process.
    """
    backend = _backend(device)
    if backend is not None:
        return int(backend.max_memory_reserved()), int(backend.mem_get_info()[1])
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10, 0
    return 0, 0


def _backend(device: str) -> Any:
    """Torch's module of an accelerator that tells how much memory is used; None for the host, and where it does not."""
    torch = loaded("torch")
    backend = None if torch is None else getattr(torch, device.partition(":")[0], None)
    return backend if hasattr(backend, "max_memory_reserved") and device != "cpu" else None


def release_memory(error: BaseException) -> None:
    """After running out of memory: let what the failed training held go, so that the next one does not fail for it."""
    if not out_of_memory(error):
        return
    error.__traceback__ = None  # whose frames hold the tensors
    gc.collect()
    torch = loaded("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
