"""All ranks of a run in one process: for trying things out, for tests, and for a study on one rank without MPI."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import numpy

from openhpo.actors.transport import Buffer, Frame, Lost


class LocalTransport:
    """One rank's end of a run whose ranks share a process and a thread.

    Args:
        rank: This end's rank.
        queues: One a rank, shared by all ends, as `local_transports` makes them.
    """

    polls = False

    def __init__(self, rank: int, queues: list[deque[Frame | Lost] | None]) -> None:
        self.rank = rank
        self.size = len(queues)
        self._queues = queues

    def now(self) -> float:
        return time.monotonic()

    def send(self, rank: int, data: bytes, buffers: Sequence[Buffer] = ()) -> None:
        queue = self._queues[rank]
        if queue is not None:
            # copies: between real ranks the two sides never share memory, so here they must not either
            queue.append((self.rank, data, [numpy.frombuffer(buffer, numpy.uint8).copy() for buffer in buffers]))

    def receive(self) -> Frame | Lost | None:
        queue = self._queues[self.rank]
        return queue.popleft() if queue else None

    def busy(self) -> bool:
        return False

    def wake_at(self, time: float) -> None:
        pass  # the clock is real

    def close(self, patience: float) -> None:
        pass  # what is sent is delivered at once

    def kill(self) -> None:
        """Take this rank away as its death would: its messages are lost, and the others are told."""
        self._queues[self.rank] = None
        for queue in self._queues:
            if queue is not None:
                queue.append(Lost(self.rank))


def local_transports(size: int) -> list[LocalTransport]:
    """The ends of a run of `size` ranks in this process."""
    queues: list[deque[Frame | Lost] | None] = [deque() for _ in range(size)]
    return [LocalTransport(rank, queues) for rank in range(size)]
