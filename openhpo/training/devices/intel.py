"""Intel's GPUs, which torch calls xpu."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from openhpo.training.devices.base import Seen, TorchDevice, seen_as, torch_is_built_for

MASK = "ZE_AFFINITY_MASK"


def look() -> Seen | None:
    """The GPUs or tiles that are visible to this process."""
    if not torch_is_built_for("xpu"):
        return None
    import torch

    if not hasattr(torch, "xpu"):
        return None
    properties = [torch.xpu.get_device_properties(number) for number in range(torch.xpu.device_count())]
    return seen_as("xpu", properties, os.environ.get(MASK, ""))


class Xpu(TorchDevice):
    """One GPU or tile.

    Args:
        number: Among those that this process sees.
        identity: Its own.
        ranks: That train on this node.
    """

    def __init__(self, number: int, identity: str = "", ranks: int = 1) -> None:
        super().__init__(f"xpu:{number}", identity)
        self._number = number

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Each thread has a current GPU in torch, and a new thread's is the first one."""
        import torch

        with torch.xpu.device(self._number):
            yield
