"""What carries frames between ranks. The obligations below are tested by `openhpo.testing.TransportContract`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy
    from numpy.typing import NDArray

Buffer: TypeAlias = Any  # whatever has a contiguous buffer: bytes, bytearray, memoryview, numpy arrays


# From which rank, the frame (head and body), and the buffers beside it. The frame is valid only until the next call of
# `receive`: it may be the transport's own memory. A plain tuple, because one is made for every frame.
Frame: TypeAlias = "tuple[int, memoryview | bytes, list[NDArray[numpy.uint8]]]"


@dataclass(frozen=True)
class Lost:
    """The process of that rank is gone."""

    rank: int


class Transport(Protocol):
    """Moves frames between the ranks of one run.

    A frame from one rank to another arrives at most once; frames with the same head (the same two actors) arrive in the
    order they were sent, those with buffers included. Nothing here blocks.
    """

    rank: int
    size: int
    polls: bool  # whether frames arrive without anybody telling, so that an idle loop has to look for them

    def now(self) -> float:
        """Seconds on a monotonic clock."""

    def send(self, rank: int, data: bytes, buffers: Sequence[Buffer] = ()) -> None:
        """Send to another rank. The transport keeps `buffers` alive, and reads them until the receiver has them."""

    def receive(self) -> Frame | Lost | None:
        """What came next, or None when there is nothing now."""

    def busy(self) -> bool:
        """Whether bulk data is moving, so that an idle loop should not sleep."""

    def wake_at(self, time: float) -> None:
        """The loop on this rank has something to do at `time`; a transport with a real clock may ignore it."""

    def close(self, patience: float) -> None:
        """Wait for what was sent to leave, for at most `patience` seconds."""
