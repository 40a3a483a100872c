"""A run of many ranks in virtual time: the same actors, a model of the network, and one seed that decides everything."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy

from openhpo.actors.actor import Actor
from openhpo.actors.errors import Stuck
from openhpo.actors.loop import EventLoop
from openhpo.actors.messages import Address, Message, Notice
from openhpo.actors.transport import Buffer, Frame, Lost

TURN = 1e-7  # seconds that one turn of an event loop takes


class Simulation:
    """Ranks, their event loops, and a queue of what happens when.

    Nothing waits: time jumps to the next event. Events at the same time happen in an order drawn from the seed, which
    flushes out assumptions about it; frames between the same two ranks keep theirs.

    Args:
        actors: Gives the actors of a rank: `actors(rank, size) -> {name: actor}`.
        size: How many ranks.
        seed: Decides the order of ties, the delays, and which messages a dying rank takes along.
        latency: Seconds a message takes at least.
        jitter: Each message takes up to this many seconds more.
        bandwidth: Bytes a second of the data lane.
        detection: Seconds until the death of a rank is noticed.
    """

    def __init__(
        self,
        actors: Callable[[int, int], Mapping[str, Actor]],
        size: int,
        *,
        seed: int = 0,
        latency: float = 2e-6,
        jitter: float = 1e-6,
        bandwidth: float = 10e9,
        detection: float = 1e-3,
    ) -> None:
        self.time = 0.0
        self.size = size
        self._actors = actors
        self._random = random.Random(seed)
        self._latency = latency
        self._jitter = jitter
        self._bandwidth = bandwidth
        self._detection = detection
        self._events: list[tuple[float, float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._last: dict[tuple[int, int], float] = {}
        self._dead: set[int] = set()
        self._cut: set[tuple[int, int]] = set()
        self._frozen: dict[int, float] = {}
        self._lines: dict[tuple[int, int], deque[Frame | Lost]] = {}
        self._posts: list[deque[tuple[EventLoop, str, Message | Notice]]] = [deque() for _ in range(size)]
        self._severed: dict[tuple[int, int], float] = {}
        self.loops = [EventLoop(SimulatedTransport(self, rank), self, self) for rank in range(size)]

    def run(self, until: float = math.inf) -> dict[Address, Actor]:
        """Go on until every actor has ended; return them all.

        Raises:
            Stuck: Nothing is left to happen, or the virtual time `until` is reached, and actors are still there.
        """
        try:
            return self._run(until)
        except BaseException as error:
            for loop in self.loops:
                loop.failure = error
                loop.stop_here()
            raise

    def _run(self, until: float) -> dict[Address, Actor]:
        cast = [dict(self._actors(rank, self.size)) for rank in range(self.size)]
        for loop, actors in zip(self.loops, cast, strict=True):
            loop.start(actors)
            self.wake(loop, 0.0)
        while self._events and self._events[0][0] <= until:
            self.time, _, _, event = heapq.heappop(self._events)
            event()
        left = [str(actor.address) for loop in self.loops for actor in loop.actors.values()]
        if left:
            raise Stuck(f"at {self.time:.6f} s of virtual time nothing more happens, but there still is: {', '.join(left)}")
        return {Address(rank, name): actor for rank, actors in enumerate(cast) for name, actor in actors.items()}

    def kill(self, rank: int) -> None:
        """Take a rank away: its actors vanish without a word, its messages under way may be lost, the others are told."""
        self._dead.add(rank)
        self.loops[rank].actors.clear()
        for loop in self.loops:
            if loop.transport.rank not in self._dead:
                self._arrive(loop.transport.rank, Lost(rank), self.time + self._detection)

    def freeze(self, rank: int, seconds: float) -> None:
        """Have a rank stand still for so long, as a stopped process does; what arrives meanwhile it takes in afterwards."""
        self._frozen[rank] = max(self._frozen.get(rank, 0.0), self.time + seconds)

    def _thaws(self, rank: int) -> float | None:
        """When a rank that stands still goes on."""
        until = self._frozen.get(rank, 0.0)
        return until if until > self.time else None

    def cut(self, one: int, other: int, seconds: float) -> None:
        """Have no frame travel between two ranks for so long; what is sent meanwhile arrives afterwards."""
        for pair in ((one, other), (other, one)):
            self._severed[pair] = max(self._severed.get(pair, 0.0), self.time + seconds)

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Let something happen at that virtual time."""
        heapq.heappush(self._events, (time, self._random.random(), next(self._count), event))

    def wake(self, loop: EventLoop, time: float) -> None:
        """Step a loop at that virtual time."""

        def event() -> None:
            thaw = self._thaws(loop.transport.rank)
            if thaw is not None:
                self.at(thaw, event)
            else:
                self._step(loop)

        self.at(time, event)

    def _step(self, loop: EventLoop) -> None:
        if loop.step():
            self.wake(loop, self.time + TURN)  # for what it has sent itself

    def carry(self, source: int, rank: int, data: bytes, buffers: Sequence[Buffer]) -> None:
        """Put a frame on the wire."""
        copies = [numpy.frombuffer(buffer, numpy.uint8).copy() for buffer in buffers]
        size = len(data) + sum(copy.size for copy in copies)
        time = self.time + self._latency + self._random.random() * self._jitter + size / self._bandwidth
        time = max(time, self._severed.get((source, rank), 0.0))
        self._arrive(rank, (source, data, copies), self._after_last((source, rank), time))

    def _after_last(self, pair: tuple[int, int], time: float) -> float:
        """Never before what this pair sent earlier, and never at the same time, where a tie would be drawn."""
        time = max(time, math.nextafter(self._last.get(pair, 0.0), math.inf))
        self._last[pair] = time
        return time

    def _arrive(self, rank: int, arrival: Frame | Lost, time: float) -> None:
        loop = self.loops[rank]
        source = arrival.rank if isinstance(arrival, Lost) else arrival[0]
        line = self._lines.setdefault((source, rank), deque())
        line.append(arrival)  # each event delivers what comes next, as a rank that stood still must not change the order

        def event() -> None:
            if rank in self._dead:
                return
            thaw = self._thaws(rank)
            if thaw is not None:
                self.at(self._after_last((source, rank), thaw), event)
                return
            arrival = line.popleft()
            if not isinstance(arrival, Lost) and self._died_with_sender(arrival[0], rank):
                return
            assert isinstance(loop.transport, SimulatedTransport)
            loop.transport.arrived.append(arrival)
            self._step(loop)

        self.at(time, event)

    def _died_with_sender(self, source: int, rank: int) -> bool:
        """Whether a frame is lost because its sender is gone; then all that follow it are."""
        if source in self._dead and self._random.random() < 0.5:
            self._cut.add((source, rank))
        return (source, rank) in self._cut

    # ---- Posts and Pool for the loops: a worker's function runs at once, and takes no virtual time

    def put(self, item: tuple[EventLoop, str, Message | Notice], /) -> None:
        loop = item[0]
        here = loop.transport.rank
        self._posts[here].append(item)

        def event() -> None:
            thaw = self._thaws(here)
            if here in self._dead:
                return
            if thaw is not None:
                self.at(self._after_last((here, here), thaw), event)
                return
            _, name, message = self._posts[here].popleft()
            loop.take_post(name, message)
            self._step(loop)

        self.at(self._after_last((here, here), self.time), event)

    def submit(self, task: Callable[[], None], /) -> None:
        self.at(self.time, task)


class SimulatedTransport:
    """One rank's end of a simulation."""

    polls = False

    def __init__(self, simulation: Simulation, rank: int) -> None:
        self.rank = rank
        self.size = simulation.size
        self.arrived: deque[Frame | Lost] = deque()
        self._simulation = simulation

    def now(self) -> float:
        return self._simulation.time

    def send(self, rank: int, data: bytes, buffers: Sequence[Buffer] = ()) -> None:
        self._simulation.carry(self.rank, rank, data, buffers)

    def receive(self) -> Frame | Lost | None:
        return self.arrived.popleft() if self.arrived else None

    def busy(self) -> bool:
        return False

    def wake_at(self, time: float) -> None:
        self._simulation.wake(self._simulation.loops[self.rank], time)

    def close(self, patience: float) -> None:
        pass
