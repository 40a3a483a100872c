"""The GPU of an Apple computer, which torch calls mps; there is one."""

from __future__ import annotations

import importlib.util
import sys

from openhpo.training.devices.base import Seen, TorchDevice


def look() -> Seen | None:
    """The GPU, where torch can use it."""
    if sys.platform != "darwin" or importlib.util.find_spec("torch") is None:
        return None
    import torch

    return Seen("mps", ("the GPU",)) if torch.backends.mps.is_available() else None


def device(number: int, identity: str, ranks: int = 1) -> TorchDevice:
    return TorchDevice("mps", identity)
