"""Tensors on their way between a device and host memory, through a pinned buffer and on a stream of their own.

A copy into ordinary memory stops the device and the thread that asks for it. One into pinned memory does neither: it is queued
on a side stream, which first waits for what the training has queued, and the training's next kernels wait for it on the device,
as they may overwrite what it reads. The thread goes on at once. Whoever uses the bytes waits for them, and moves them from the
pinned buffer to their place; the buffer is one for a rank, reused, and limited in size. A state that is larger than the buffer
goes through it in parts, for which the thread has to wait.

`Streams` is all that is asked of torch, so that the order of things can be tested without a GPU.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy
from numpy.typing import NDArray

PIECE = 64 << 20  # bytes that are queued at once: the host moves one while the next one is on its way
RING = 4  # pieces at least that an upload divides the buffer into, so that one is filled while others are on their way
PART_OF_MEMORY = 1 / 16  # of a node, for the pinned buffers of all its ranks together

Bytes = NDArray[numpy.uint8]
Item = tuple[int, int, Any, str]  # a tensor's place in a state's buffer, its bytes there, the tensor, its element type there


class Streams(Protocol):
    """What a device does in order. Arguments and results are tensors and events of torch."""

    def takes(self, tensor: Any) -> bool:
        """Whether a tensor lies on this device."""

    def pinned(self, size: int) -> Any:
        """A pinned tensor of so many bytes; None where the system gives none."""

    def branch(self) -> None:
        """Have the side stream wait for all that the training has queued."""

    def flat(self, tensor: Any, dtype: str) -> Any:
        """A tensor's elements in that type, as bytes in a row; whatever that takes is queued on the side stream."""

    def download(self, source: Any, place: Any) -> None:
        """Queue a copy to pinned memory on the side stream."""

    def mark(self) -> Any:
        """An event after all that is queued on the side stream."""

    def join(self, event: Any) -> None:
        """Have what the training queues from now on wait for an event of the side stream."""

    def wait(self, event: Any) -> None:
        """Have this thread wait for an event."""

    def room(self, dtype: str, shape: Sequence[int]) -> Any:
        """A new tensor on the device; None where there is no memory for it."""

    def upload(self, source: Any, place: Any) -> None:
        """Queue a copy from pinned memory on the training's stream."""

    def mark_training(self) -> Any:
        """An event after all that the training has queued."""


class Arriving:
    """Bytes of a state that are still on their way from the device.

    Args:
        streams: Of the device.
        data: Where the bytes go.
    """

    def __init__(self, streams: Streams, data: Bytes) -> None:
        self._streams = streams
        self._data = data
        self._lock = threading.Lock()
        self._parts: list[tuple[Any, list[tuple[int, Any]]]] = []  # events, and what is in the buffer after them

    def expect(self, event: Any, pieces: list[tuple[int, Any]]) -> None:
        """After that event these pieces of pinned memory have come, each for that place."""
        self._parts.append((event, pieces))

    def wait(self) -> None:
        """Wait until all bytes are in their place. Any thread may call this, and any number of times."""
        with self._lock:
            while self._parts:
                event, pieces = self._parts[0]
                self._streams.wait(event)
                for at, piece in pieces:
                    self._data[at : at + len(piece)] = piece.numpy()
                del self._parts[0]


class Copier:
    """Copies tensors between one device and host memory; used by one training thread at a time.

    Args:
        streams: Of the device.
        limit: Bytes of pinned memory at most.
        piece: Bytes queued at once.
    """

    def __init__(self, streams: Streams, limit: int, piece: int = PIECE) -> None:
        self._streams = streams
        self._limit = limit
        self._piece = min(piece, limit)
        self._buffer: Any = None
        self._full = 0  # bytes of the buffer that are in use, from its beginning on
        self._arriving: Arriving | None = None  # the download that has the buffer
        self._leaving: deque[tuple[int, int, Any]] = (
            deque()
        )  # uploads: from where to where in the buffer, and until which event
        self._refused = False  # the system gives no pinned memory

    def takes(self, tensor: Any) -> bool:
        """Whether a tensor is on this device."""
        return self._streams.takes(tensor)

    def download(self, items: Sequence[Item], data: Bytes) -> Arriving | None:
        """Queue copies of tensors to their places in a buffer.

        What is queued from now on, on the stream that is the current one, may change the tensors.

        Returns:
            What to wait for before the bytes are used; None where there is no pinned memory, and nothing was done.
        """
        self._settle()
        if not self._reserve(sum(size for _, size, _, _ in items)):
            return None
        self._arriving = Arriving(self._streams, data)
        self._full = 0
        self._streams.branch()
        try:
            self._queue(items, self._arriving)
        except BaseException:
            self._streams.wait(self._streams.mark())  # what is queued already still writes to the buffer
            self._arriving = None
            raise
        return self._arriving

    def _queue(self, items: Sequence[Item], arriving: Arriving) -> None:
        pieces: list[tuple[int, Any]] = []
        queued = 0
        for at, size, tensor, dtype in items:
            source = self._streams.flat(tensor, dtype)
            for begin in range(0, size, self._piece):
                part = source[begin : begin + self._piece]
                over = self._full + len(part) > len(self._buffer)
                if queued and (over or queued + len(part) > self._piece):
                    arriving.expect(self._streams.mark(), pieces)
                    pieces, queued = [], 0
                if over:
                    arriving.wait()
                    self._full = 0
                place = self._buffer[self._full : self._full + len(part)]
                self._streams.download(part, place)
                pieces.append((at + begin, place))
                self._full += len(part)
                queued += len(part)
        event = self._streams.mark()
        arriving.expect(event, pieces)
        self._streams.join(event)

    def upload(self, part: Bytes, dtype: str, shape: Sequence[int]) -> Any:
        """A tensor on the device with these bytes, which are read before this returns.

        Returns:
            None where there is no pinned memory, or no room on the device.
        """
        if self._arriving is not None:
            self._settle()
        found = self._streams.room(dtype, shape) if self._reserve(self._piece) else None
        if found is None:
            return None
        place = flat_bytes(found)
        step = min(self._piece, -(-len(self._buffer) // RING))
        for begin in range(0, len(part), step):
            piece = part[begin : begin + step]
            source = self._next(len(piece))
            source.numpy()[...] = piece
            self._streams.upload(source, place[begin : begin + len(piece)])
            self._leaving.append((self._full - len(piece), self._full, self._streams.mark_training()))
        return found

    def _next(self, size: int) -> Any:
        """So many bytes of the buffer that no upload reads any more, in turns from its beginning to its end."""
        begin = self._full
        if begin + size > len(self._buffer):
            while self._leaving and self._leaving[0][0] >= begin:  # of the round before, at the end that is left out now
                self._streams.wait(self._leaving.popleft()[2])
            begin = 0
        while self._leaving and self._leaving[0][0] < begin + size and begin < self._leaving[0][1]:
            self._streams.wait(self._leaving.popleft()[2])
        self._full = begin + size
        return self._buffer[begin : self._full]

    def _settle(self) -> None:
        """Wait until nobody uses the buffer."""
        if self._arriving is not None:
            self._arriving.wait()
        while self._leaving:
            self._streams.wait(self._leaving.popleft()[2])
        self._arriving, self._full = None, 0

    def _reserve(self, size: int) -> bool:
        """Make the buffer large enough for so many bytes, within its limit; return whether there is one."""
        wanted = min(self._limit, max(self._piece, 1 << max(0, size - 1).bit_length()))  # torch rounds it up to that anyway
        if not self._refused and (self._buffer is None or len(self._buffer) < wanted):
            self._settle()
            self._buffer = None  # before there is another
            self._buffer = self._streams.pinned(wanted)
            self._refused = self._buffer is None
        return self._buffer is not None


def flat_bytes(tensor: Any) -> Any:
    """A contiguous tensor's elements as bytes in a row, in the same memory."""
    import torch

    return tensor.reshape(-1).view(torch.uint8)


def pinned_limit(ranks_on_node: int) -> int:
    """A rank's share of the memory of its node that may be pinned, in bytes."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 8 << 30
    return max(PIECE, int(memory * PART_OF_MEMORY / max(1, ranks_on_node)))
