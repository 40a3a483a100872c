"""Where training runs: one accelerator a rank, chosen by its place on its node.

A new kind of accelerator is one small class here. Gaudi has not run on the hardware: it is tested against a stand-in
module that records calls.
"""

from __future__ import annotations

import contextlib
import importlib.util
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from openhpo.errors import UserError

PRECISIONS = ("fp32", "bf16")


_NOTHING = contextlib.nullcontext()


class Device(Protocol):
    """One rank's accelerator. Attributes and methods import torch only when they are used."""

    name: str  # as torch spells it: "cpu", "cuda:0", "hpu"

    def autocast(self, precision: str) -> contextlib.AbstractContextManager[Any]:
        """The context in which a forward pass runs in that precision."""

    def backward(self, loss: Any, optimizer: Any) -> None:
        """Compute gradients and take one optimisation step."""


class TorchDevice:
    """A device that torch knows by name and treats like any other: the CPU, CUDA and ROCm."""

    def __init__(self, name: str) -> None:
        self.name = name

    def autocast(self, precision: str) -> contextlib.AbstractContextManager[Any]:
        if precision == "fp32":
            return _NOTHING
        import torch

        return torch.autocast(self.name.partition(":")[0], dtype=torch.bfloat16)

    def backward(self, loss: Any, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


class Gaudi(TorchDevice):
    """Intel Gaudi in lazy mode, where operations pile up until a step mark sends them to the device."""

    def __init__(self) -> None:
        super().__init__("hpu")
        self._core = importlib.import_module("habana_frameworks.torch.core")

    def backward(self, loss: Any, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._core.mark_step()
        optimizer.step()
        self._core.mark_step()


def _gaudi(local_rank: int) -> Device | None:
    return Gaudi() if importlib.util.find_spec("habana_frameworks") is not None else None


def _cuda(local_rank: int) -> Device | None:
    if "torch" not in sys.modules and not _has_gpu_torch():
        return None
    import torch

    count = torch.cuda.device_count()
    return TorchDevice(f"cuda:{local_rank % count}") if count else None


def _has_gpu_torch() -> bool:
    """Whether torch is installed, and built for GPUs; known without loading it, which takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py")
    try:
        build = runpy.run_path(str(version))
    except OSError:
        return True  # its import will tell
    return any(build.get(kind) is not None for kind in ("cuda", "hip"))


def _cpu(local_rank: int) -> Device | None:
    return TorchDevice("cpu")


KINDS: dict[str, Callable[[int], Device | None]] = {"hpu": _gaudi, "cuda": _cuda, "cpu": _cpu}  # the best first


def choose_device(wish: str, local_rank: int) -> Device:
    """The device of a rank.

    Args:
        wish: "auto" for the best kind there is, or a kind.
        local_rank: The rank's place on its node, which picks among several devices.

    Raises:
        UserError: There is no such device here.
    """
    if wish != "auto" and wish not in KINDS:
        raise UserError(f"there is no device {wish!r}: choose auto, {', '.join(KINDS)}")
    for kind, find in KINDS.items():
        if wish in ("auto", kind):
            device = find(local_rank)
            if device is not None:
                return device
    raise UserError(f"no {wish} device was found on this node; choose another, or auto")
