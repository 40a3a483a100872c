"""NVIDIA's GPUs through CUDA, and AMD's through ROCm, whose builds of torch go by the same name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from openhpo.training.devices.base import Seen, TorchDevice, seen_as, torch_is_built_for
from openhpo.training.devices.streams import CudaStreams
from openhpo.training.staging import Copier, pinned_limit

MASKS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")  # torch and its drivers heed them


def look() -> Seen | None:
    """The GPUs that are visible to this process, which masks and the batch system limit."""
    if not torch_is_built_for("cuda", "hip"):
        return None
    import torch

    properties: list[Any] = []
    for number in range(torch.cuda.device_count()):
        try:
            properties.append(torch.cuda.get_device_properties(number))
        except RuntimeError:  # the training will tell what is wrong with it
            properties.append(None)
    return seen_as("cuda", properties, next((os.environ[name] for name in MASKS if os.environ.get(name)), ""))


class Cuda(TorchDevice):
    """One GPU.

    Args:
        number: Among those that this process sees.
        identity: Its own.
        ranks: That train on this node.
    """

    def __init__(self, number: int, identity: str = "", ranks: int = 1) -> None:
        super().__init__(f"cuda:{number}", identity)
        self._number = number
        self.copier = Copier(CudaStreams(number), pinned_limit(ranks))

    @contextlib.contextmanager
    def tf32(self) -> Iterator[None]:
        """Settings of the whole process, put back afterwards."""
        switches, name, on = _tf32_switches()
        before = [getattr(switch, name) for switch in switches]
        for switch in switches:
            setattr(switch, name, on)
        try:
            yield
        finally:
            for switch, was in zip(switches, before, strict=True):
                setattr(switch, name, was)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Each thread has a current GPU in torch, and a new thread's is the first one."""
        import torch

        with torch.cuda.device(self._number):
            yield


def _tf32_switches() -> tuple[list[Any], str, Any]:
    """The objects of torch that turn TF32 on, their attribute for it, and its value."""
    from torch.backends import cuda, cudnn

    switches: list[Any] = [cuda.matmul, cudnn]
    try:
        for switch in switches:
            _ = switch.allow_tf32
    except RuntimeError:  # the training code has set the newer ones, and torch refuses a mixture
        newer: Any = cudnn
        return [cuda.matmul, newer.conv, newer.rnn], "fp32_precision", "tf32"
    return switches, "allow_tf32", True
