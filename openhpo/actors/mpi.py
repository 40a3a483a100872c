"""The transport over MPI.

Control frames travel on one duplicated communicator, bulk buffers on another, so that neither delays the other. A frame
with buffers carries their sizes at its end; the receiver posts receives of exactly these sizes, straight into the arrays
that the handler gets. Buffers between two ranks are received in the order of their announcements, so they need no tags.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
from mpi4py import MPI
from numpy.typing import NDArray

from openhpo.actors.transport import Buffer, Frame, Lost

PLAIN, WITH_BUFFERS = 1, 2  # tags of control frames
LARGE = 1 << 20  # bytes from which a buffer is worth keeping
PIECE = 1 << 30  # bytes; several MPI libraries mishandle counts over 2 GiB
WINDOW = 64  # frames handed to MPI at once for one receiver; with thousands pending, Open MPI slows down a hundredfold
ROOM = 1 << 16  # bytes of the buffer for control frames


@dataclass
class Incoming:
    """A frame whose buffers are still on their way, and the frames that have to wait for it."""

    frame: Frame
    requests: list[Any]
    source: int
    head: bytes
    later: deque[Frame | Incoming] = field(default_factory=deque)


@dataclass
class Lane:
    """Control frames to one rank that have not left yet: those that MPI has, and those it is spared for now."""

    requests: deque[tuple[Any, bytes]] = field(default_factory=deque)
    backlog: deque[tuple[bytes, int]] = field(default_factory=deque)


class MpiTransport:
    """One rank's end of an MPI job.

    Args:
        comm: All ranks of the run; COMM_WORLD by default. It is duplicated, so its other users are not disturbed.
        matched_probe: Receive with Improbe and Mrecv. False takes Iprobe and Recv, for fabrics that mishandle matched
            probes; OPENHPO_MATCHED_PROBE=0 in the environment says the same.
    """

    polls = True

    def __init__(self, comm: MPI.Intracomm | None = None, *, matched_probe: bool | None = None) -> None:
        world = MPI.COMM_WORLD if comm is None else comm
        self.rank = world.rank
        self.size = world.size
        self._control = world.Dup()
        self._bulk = world.Dup()
        if matched_probe is None:
            matched_probe = os.environ.get("OPENHPO_MATCHED_PROBE", "1") != "0"
        self._matched = matched_probe
        self._status = MPI.Status()
        self._view = memoryview(bytearray(ROOM))  # used again for every frame that fits
        self._lanes: dict[int, Lane] = {}  # of the ranks to which something waits
        self._bulk_sending: list[tuple[int, Any, Buffer]] = []
        self._incoming: list[Incoming] = []
        self._room = Room()
        self._ready: deque[Frame | Lost] = deque()
        self._lost: set[int] = set()

    def now(self) -> float:
        return time.monotonic()

    def wake_at(self, time: float) -> None:
        pass  # the clock is real

    # ---- sending

    def send(self, rank: int, data: bytes, buffers: Sequence[Buffer] = ()) -> None:
        if rank in self._lost:
            return
        try:
            if buffers:
                self._send_with_buffers(rank, data, [numpy.frombuffer(buffer, numpy.uint8) for buffer in buffers])
            else:
                self._send_frame(rank, data, PLAIN)
        except MPI.Exception as error:
            self._note_loss(error)

    def _send_with_buffers(self, rank: int, data: bytes, arrays: Sequence[NDArray[numpy.uint8]]) -> None:
        sizes = [array.size for array in arrays]
        self._send_frame(rank, data + struct.pack(f"<{len(sizes)}QH", *sizes, len(sizes)), WITH_BUFFERS)
        for array in arrays:
            for piece in _pieces(array):
                self._bulk_sending.append((rank, self._bulk.Isend([piece, MPI.BYTE], rank), piece))

    def _send_frame(self, rank: int, data: bytes, tag: int) -> None:
        lane = self._lanes.get(rank)
        if lane is None:
            request = self._control.Isend([data, MPI.BYTE], rank, tag)
            if not request.Test():  # a small frame has nearly always left by now
                self._lanes[rank] = Lane(deque([(request, data)]))
        else:
            lane.backlog.append((data, tag))

    def busy(self) -> bool:
        # a frame that has not left means that MPI's own buffers are full, and only calls to MPI empty them
        return bool(self._incoming or self._bulk_sending or self._lanes)

    def close(self, patience: float) -> None:
        end = self.now() + patience
        while (self._lanes or self._bulk_sending) and self.now() < end:
            self._push()

    def _push(self) -> None:
        """Let go of what has left, and hand MPI what follows."""
        for rank, lane in list(self._lanes.items()):
            try:
                self._push_lane(rank, lane)
            except MPI.Exception as error:
                self._note_loss(error)
            if rank in self._lost or not (lane.requests or lane.backlog):
                del self._lanes[rank]
        if self._bulk_sending:
            self._bulk_sending = [sending for sending in self._bulk_sending if not self._has_left(sending[0], sending[1])]

    def _push_lane(self, rank: int, lane: Lane) -> None:
        while True:
            while lane.backlog and len(lane.requests) < WINDOW:
                data, tag = lane.backlog.popleft()
                lane.requests.append((self._control.Isend([data, MPI.BYTE], rank, tag), data))
            if not lane.requests or not lane.requests[0][0].Test():
                return
            lane.requests.popleft()

    def _has_left(self, rank: int, request: Any) -> bool:
        try:
            return rank in self._lost or bool(request.Test())
        except MPI.Exception as error:
            self._note_loss(error)
            return rank in self._lost

    # ---- receiving

    def receive(self) -> Frame | Lost | None:
        if self._lanes or self._bulk_sending:
            self._push()
        if self._incoming:
            self._land()
        if self._ready:
            return self._ready.popleft()
        try:
            data = self._take()
        except MPI.Exception as error:
            self._note_loss(error)
            data = None
        if data is not None:
            source, tag = self._status.Get_source(), self._status.Get_tag()
            if tag == PLAIN and not self._incoming:
                return source, data, []
            self._set_aside(source, bytes(data), tag)
        return self._ready.popleft() if self._ready else None

    def _take(self) -> memoryview | None:
        """Receive the next control frame, if there is one; the status then tells its source and tag.

        Looks twice, because the first look often only takes in what the second then finds.
        """
        status, find = self._status, self._control.Improbe if self._matched else self._control.Iprobe
        found = find(MPI.ANY_SOURCE, MPI.ANY_TAG, status) or find(MPI.ANY_SOURCE, MPI.ANY_TAG, status)
        if not found:
            return None
        count = status.Get_count(MPI.BYTE)
        view = self._view if count <= ROOM else memoryview(bytearray(count))
        if isinstance(found, MPI.Message):
            found.Recv([view, count, MPI.BYTE])
        else:
            self._control.Recv([view, count, MPI.BYTE], status.Get_source(), status.Get_tag())
        return view[:count]

    def _set_aside(self, source: int, data: bytes, tag: int) -> None:
        """Take in a frame that has to wait for its buffers, or for those of an earlier one between the same actors."""
        if tag == PLAIN:
            arrival: Frame | Incoming = (source, data, [])
        else:
            data, sizes = _announced(data)
            buffers = [self._room.take(size) for size in sizes]
            requests = [self._bulk.Irecv([piece, MPI.BYTE], source) for buffer in buffers for piece in _pieces(buffer)]
            arrival = Incoming((source, data, buffers), requests, source, _head(data))
        before = next((i for i in self._incoming if i.source == source and i.head == _head(data)), None)
        if before is not None:
            before.later.append(arrival)
        elif isinstance(arrival, Incoming):
            self._incoming.append(arrival)
        else:
            self._ready.append(arrival)

    def _land(self) -> None:
        """Pass on the frames whose buffers are complete, each with those that waited for it."""
        still: list[Incoming] = []
        for incoming in self._incoming:
            current: Incoming | None = incoming
            while current is not None and self._has_landed(current):
                current = self._release(current)
            if current is not None:
                still.append(current)
        self._incoming = [incoming for incoming in still if incoming.source not in self._lost]

    def _has_landed(self, incoming: Incoming) -> bool:
        try:
            return bool(MPI.Request.Testall(incoming.requests))
        except MPI.Exception as error:
            self._note_loss(error)
            return False

    def _release(self, landed: Incoming) -> Incoming | None:
        """Pass on a complete frame and what waited for it, up to the next that is incomplete, which is returned."""
        self._ready.append(landed.frame)
        while landed.later:
            following = landed.later.popleft()
            if isinstance(following, Incoming):
                following.later = landed.later
                return following
            self._ready.append(following)
        return None

    # ---- failures of peers (ULFM)

    def _note_loss(self, error: MPI.Exception) -> None:
        """Turn the news of a dead process into `Lost`; any other MPI error is a bug, and goes up.

        Under ULFM a death shows as MPI_ERR_PROC_FAILED from operations on any source until it is acknowledged.
        """
        if error.Get_error_class() not in (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING):
            raise error
        self._control.Ack_failed()
        failed = self._control.Get_failed()
        ranks = failed.Translate_ranks(list(range(failed.size)), self._control.Get_group())
        for rank in set(ranks) - self._lost:
            self._lost.add(rank)
            self._ready.append(Lost(rank))
        self._incoming = [incoming for incoming in self._incoming if incoming.source not in self._lost]


def _head(data: bytes) -> bytes:
    return data[: data[0] + 1]


def _pieces(array: NDArray[numpy.uint8]) -> list[NDArray[numpy.uint8]]:
    return [array[start : start + PIECE] for start in range(0, array.size, PIECE)]


def _announced(data: bytes) -> tuple[bytes, tuple[int, ...]]:
    """Split the sizes off a frame with buffers."""
    (count,) = struct.unpack_from("<H", data, len(data) - 2)
    start = len(data) - 2 - 8 * count
    return data[:start], struct.unpack_from(f"<{count}Q", data, start)


class Room:
    """Memory for what is received.

    Writing to fresh memory takes longer than the transfer itself, so the last large buffer is used again where nobody refers
    to it any more.
    """

    def __init__(self) -> None:
        self._last: NDArray[numpy.uint8] | None = None

    def take(self, size: int) -> NDArray[numpy.uint8]:
        """A buffer that nobody else has."""
        last = self._last
        # three references: the attribute, the variable and the argument
        if last is not None and last.size == size and sys.getrefcount(last) == 3:
            return last
        buffer = numpy.empty(size, numpy.uint8)
        if size >= LARGE:
            self._last = buffer
        return buffer
