"""An MPI communicator for training on several ranks, whose members can be woken when one of them has failed.

What waits in MPI waits in C, where nothing reaches it. The operations that are used most are therefore begun without waiting,
and asked for until they are done: between two questions the thread can be stopped, and sees that its group is broken. It is an
mpi4py communicator in all else, and its other operations are MPI's own.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy
from mpi4py import MPI

SPIN = 2e-4  # seconds of asking without a pause
SHORTEST, LONGEST = 2e-5, 1e-3  # seconds between two questions then: operations of several rounds go on only when asked for
PART = 0.01  # of the time waited so far, which a pause may take
TAGS = 1 << 14  # MPI promises twice as many

_left: list[tuple[Any, ...]] = []  # what MPI may still read or write after somebody has stopped waiting for it


class LeftAlone(RuntimeError):
    """Another member has left the group in the midst of something."""


def finish(request: Any, broken: Callable[[], bool], *buffers: Any) -> None:
    """Wait until an operation is done.

    Args:
        request: The operation.
        broken: Whether another member has failed, so that it never will be.
        buffers: What it reads and writes.

    Raises:
        LeftAlone: The group is broken.
    """
    began = time.monotonic()
    try:
        while not request.Test():
            if broken():
                raise LeftAlone("another rank has left the group that trains this trial")
            waited = time.monotonic() - began
            time.sleep(0 if waited < SPIN else min(max(PART * waited, SHORTEST), LONGEST))
    except BaseException:  # also where this thread is stopped
        _left.append((request, buffers))
        raise


class Communicator(MPI.Intracomm):
    """The ranks that train a trial.

    Attributes:
        broken: Whether one of them has failed. What `Dup` and `Split` make of this one does not know.
    """

    broken: Callable[[], bool] = staticmethod(lambda: False)

    def _finish(self, request: Any, *buffers: Any) -> None:
        finish(request, self.broken, *buffers)

    # ---- buffers, as NumPy's arrays

    def Barrier(self) -> None:  # noqa: N802 (the names are MPI's)
        self._finish(self.Ibarrier())

    def Bcast(self, buf: Any, root: int = 0) -> None:  # noqa: N802
        self._finish(self.Ibcast(buf, root), buf)

    def Gather(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> None:  # noqa: N802
        self._finish(self.Igather(sendbuf, recvbuf, root), sendbuf, recvbuf)

    def Scatter(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> None:  # noqa: N802
        self._finish(self.Iscatter(sendbuf, recvbuf, root), sendbuf, recvbuf)

    def Allgather(self, sendbuf: Any, recvbuf: Any) -> None:  # noqa: N802
        self._finish(self.Iallgather(sendbuf, recvbuf), sendbuf, recvbuf)

    def Reduce(self, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM, root: int = 0) -> None:  # noqa: N802
        self._finish(self.Ireduce(sendbuf, recvbuf, op, root), sendbuf, recvbuf)

    def Allreduce(self, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> None:  # noqa: N802
        self._finish(self.Iallreduce(sendbuf, recvbuf, op), sendbuf, recvbuf)

    # ---- Python's objects, pickled as mpi4py does

    def barrier(self) -> None:
        self.Barrier()

    def bcast(self, obj: Any, root: int = 0) -> Any:
        data = _pickled(obj) if self.rank == root else b""
        size = numpy.array([len(data)])
        self.Bcast(size, root)
        buffer = numpy.frombuffer(data, numpy.uint8) if self.rank == root else numpy.empty(size[0], numpy.uint8)
        self.Bcast(buffer, root)
        return obj if self.rank == root else MPI.pickle.loads(buffer)

    def gather(self, sendobj: Any, root: int = 0) -> list[Any] | None:
        found = self.allgather(sendobj)  # which moves more, but has one way to do it
        return found if self.rank == root else None

    def scatter(self, sendobj: Sequence[Any] | None, root: int = 0) -> Any:
        here = self.rank == root
        if here and (sendobj is None or len(sendobj) != self.size):
            raise ValueError(f"scatter needs an object for each of {self.size} ranks")
        parts = [_pickled(each) for each in sendobj or ()] if here else []
        sizes, size = numpy.array([len(part) for part in parts]), numpy.zeros(1, int)
        self.Scatter(sizes if here else None, size, root)
        data, buffer = b"".join(parts), numpy.empty(size[0], numpy.uint8)
        sent = [data, sizes.tolist(), MPI.BYTE] if here else None
        self._finish(self.Iscatterv(sent, buffer, root), data, buffer)
        return MPI.pickle.loads(buffer)

    def allgather(self, sendobj: Any) -> list[Any]:
        data, sizes = _pickled(sendobj), numpy.zeros(self.size, int)
        self.Allgather(numpy.array([len(data)]), sizes)
        buffer = numpy.empty(sizes.sum(), numpy.uint8)
        self._finish(self.Iallgatherv([data, MPI.BYTE], [buffer, sizes.tolist(), MPI.BYTE]), data, buffer)
        ends = numpy.cumsum(sizes)
        return [MPI.pickle.loads(buffer[end - size : end]) for end, size in zip(ends, sizes, strict=True)]

    def reduce(self, sendobj: Any, op: Callable[[Any, Any], Any] = MPI.SUM, root: int = 0) -> Any:
        found = self.gather(sendobj, root)
        return None if found is None else functools.reduce(op, found)

    def allreduce(self, sendobj: Any, op: Callable[[Any, Any], Any] = MPI.SUM) -> Any:
        return functools.reduce(op, self.allgather(sendobj))


def _pickled(item: Any) -> bytes:
    return bytes(MPI.pickle.dumps(item))


def connect(ranks: Sequence[int], member: int, number: int, broken: Callable[[], bool]) -> Communicator | None:
    """Make a communicator of these ranks of the job, each of which has to call this; None where MPI makes none after a death.

    They wait for one another first, as nothing wakes those who are in MPI's own operation while one of them fails.

    Args:
        ranks: The first one leads.
        member: The place of this one.
        number: Tells this from what the same ranks may have left unfinished before.
        broken: Whether one of them has failed.

    Raises:
        LeftAlone: The group is broken.
    """
    world, tag = MPI.COMM_WORLD, number % TAGS
    members = world.Get_group().Incl(ranks)
    agree(ranks, member, tag, broken, well=True)
    try:
        made = world.Create_group(members, tag)
    except MPI.Exception as error:
        if error.Get_error_class() != MPI.ERR_PROC_FAILED:
            raise
        made = MPI.Intracomm()
    if not agree(ranks, member, tag, broken, well=bool(made)):
        return None  # Create_from_group, and intercommunicators merged one by one, now and then hang in Open MPI then
    comm = Communicator(made)
    comm.broken = broken
    return comm


def agree(ranks: Sequence[int], member: int, tag: int, broken: Callable[[], bool], *, well: bool) -> bool:
    """Wait for all members; return whether all is well for each of them."""
    world = MPI.COMM_WORLD

    def receive(other: int) -> bool:
        buffer = bytearray(1)
        request = world.Irecv(buffer, other, tag)
        try:
            finish(request, broken, buffer)
        except BaseException:
            request.Cancel()
            raise
        return buffer[0] == 1

    def send(other: int, word: bool) -> None:
        finish(world.Isend(bytes([word]), other, tag), broken)

    if member > 0:
        send(ranks[0], well)
        return receive(ranks[0])
    words = [receive(other) for other in ranks[1:]]
    for other in ranks[1:]:
        send(other, well and all(words))
    return well and all(words)
