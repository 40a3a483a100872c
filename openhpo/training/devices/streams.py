"""The streams of a GPU, for copies that go on beside the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openhpo.training.staging import flat_bytes


class CudaStreams:
    """The streams of a GPU that torch drives through CUDA or ROCm.

    Args:
        number: Of the GPU, as this process sees it.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._side: Any = None

    def takes(self, tensor: Any) -> bool:
        return bool(tensor.device.type == "cuda" and tensor.device.index == self._number)

    def pinned(self, size: int) -> Any:
        import torch

        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:  # beyond what the system lets a process lock
            return None

    def _current(self) -> Any:
        import torch

        return torch.cuda.current_stream(self._number)

    def branch(self) -> None:
        from torch import cuda

        make: Any = cuda.Stream  # which torch has not annotated
        if self._side is None:
            self._side = make(self._number)
        self._side.wait_stream(self._current())

    def flat(self, tensor: Any, dtype: str) -> Any:
        import torch

        tensor.record_stream(self._side)  # so that its memory, if the training lets it go, is not given out before it is read
        with torch.cuda.stream(self._side):
            return flat_bytes(tensor.detach().to(getattr(torch, dtype)).resolve_conj().resolve_neg().contiguous())

    def download(self, source: Any, place: Any) -> None:
        import torch

        with torch.cuda.stream(self._side):
            place.copy_(source, non_blocking=True)

    def mark(self) -> Any:
        return self._marked(self._side)

    def join(self, event: Any) -> None:
        self._current().wait_event(event)

    def wait(self, event: Any) -> None:
        event.synchronize()

    def room(self, dtype: str, shape: Sequence[int]) -> Any:
        import torch

        try:
            return torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=f"cuda:{self._number}")
        except torch.OutOfMemoryError:
            return None

    def upload(self, source: Any, place: Any) -> None:
        place.copy_(source, non_blocking=True)

    def mark_training(self) -> Any:
        return self._marked(self._current())

    def _marked(self, stream: Any) -> Any:
        from torch import cuda

        make: Any = cuda.Event
        event = make(blocking=True)  # a thread that waits for it sleeps
        event.record(stream)
        return event
