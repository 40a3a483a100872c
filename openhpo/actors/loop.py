"""The event loop of one rank: it alone calls actors, and it never waits inside one."""

from __future__ import annotations

import heapq
import itertools
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec
import numpy

from openhpo.actors.errors import ActorFailed, Deserted
from openhpo.actors.messages import Address, Message, Notice, PeerLost, WorkDone, WorkFailed, encode, pack, route
from openhpo.actors.transport import Buffer, Lost, Transport
from openhpo.errors import UserError

if TYPE_CHECKING:
    from openhpo.actors.actor import Actor

BURST = 64  # frames handled before timers and worker threads get their turn
SOONEST = 1e-9  # seconds; a timer never fires at the moment it is set, so virtual time goes on whatever actors do
PACK = 256  # messages in one frame at most
HERE = "(event loop)"


class Goodbye(msgspec.Struct, frozen=True, tag=True):
    """Between loops: every actor of the receiving rank is to end; the absent ranks are not waited for."""

    absent: tuple[int, ...] = ()


class Failure(msgspec.Struct, frozen=True, tag=True):
    """Between loops: the run failed on that rank."""

    rank: int
    actor: str
    doing: str
    text: str
    user_error: bool


SYSTEM = b"\0"  # the head of a frame from loop to loop
_system_decoder = msgspec.msgpack.Decoder(Goodbye | Failure)


class Posts(Protocol):
    """Where other threads leave messages for this process's actors: `drive.Mailbox`, or a simulation."""

    def put(self, item: tuple[EventLoop, str, Message | Notice], /) -> None: ...


class Pool(Protocol):
    """What runs functions beside the event loop."""

    def submit(self, task: Callable[[], None], /) -> None: ...


class Timer:
    """A message to oneself at a later time."""

    __slots__ = ("cancelled", "message", "name")

    def __init__(self, name: str, message: Message | Notice) -> None:
        self.name = name
        self.message = message
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Outgoing:
    """Messages from one actor to another that leave together, when the handler that sent them returns."""

    __slots__ = ("_loop", "encoded", "head", "rank")

    def __init__(self, loop: EventLoop, rank: int, head: bytes) -> None:
        self._loop = loop
        self.rank = rank
        self.head = head
        self.encoded: list[bytes] = []

    def add(self, message: bytes) -> None:
        if not self.encoded:
            self._loop.waiting.append(self)
        self.encoded.append(message)
        if len(self.encoded) == PACK:
            self._loop.flush()


class EventLoop:
    """Runs the actors of one rank over a transport. `step` does what there is to do now and returns."""

    def __init__(self, transport: Transport, posts: Posts, pool: Pool) -> None:
        self.transport = transport
        self.actors: dict[str, Actor] = {}
        self.ended: set[str] = set()
        self.waiting: list[Outgoing] = []
        self.absent: set[int] = set()  # ranks that are gone, or do not answer
        self.failure: BaseException | None = None  # why the run ends, when it does not end well
        self._posts = posts
        self._pool = pool
        self._decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {}
        self._routes: dict[tuple[int, bytes], tuple[str, Address]] = {}
        self._to_self: deque[tuple[int, bytes, list[Any]]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._now_in: tuple[str, object] = (HERE, "starting")  # actor and message, for the report of a failure

    # ---- starting and stopping

    def start(self, actors: dict[str, Actor]) -> None:
        """Take the actors in, all of them before the first `on_start`, so that they may greet each other."""
        for name, actor in actors.items():
            kinds = tuple(kind for kind in actor.handlers if issubclass(kind, Message))
            if kinds:
                self._decoders[name] = msgspec.msgpack.Decoder(list[_union(kinds)])  # type: ignore[misc]
            actor._loop = self
            actor._outgoing = {}
            actor.address = Address(self.transport.rank, name)
            self.actors[name] = actor
        try:
            for name, actor in actors.items():
                self._now_in = (name, "starting")
                actor.on_start()
            self.flush()
        except Exception as error:
            self._fail(error)

    def stop(self, name: str) -> None:
        actor = self.actors.pop(name, None)
        if actor is not None:
            self.ended.add(name)
            self._now_in = (name, "stopping")
            actor.on_stop()

    def stop_here(self) -> None:
        """End all actors of this rank, the last that started first."""
        for name in reversed(list(self.actors)):
            self.stop(name)

    def stop_everywhere(self, without: Iterable[int] = ()) -> None:
        self.flush()
        self.absent.update(without)
        goodbye = Goodbye(tuple(sorted(self.absent)))
        self._tell_others(goodbye)
        # not at once: what this rank sent to itself before is still to be delivered
        self._to_self.append((self.transport.rank, SYSTEM + encode(goodbye), []))

    # ---- what actors call

    def outgoing(self, sender: str, address: Address) -> Outgoing:
        """Where messages between these two wait for the end of the handler."""
        if not 0 <= address.rank < self.transport.size:
            raise ValueError(f"there is no rank {address.rank}: this run has {self.transport.size}, counted from 0")
        return Outgoing(self, address.rank, route(address.name, sender))

    def send_with_buffers(self, outgoing: Outgoing, message: bytes, buffers: Sequence[Buffer]) -> None:
        self.flush()  # what was sent before has to arrive before
        self._carry(outgoing.rank, pack(outgoing.head, [message]), buffers)

    def flush(self) -> None:
        """Hand the transport what the handlers so far have sent."""
        for outgoing in self.waiting:
            data = pack(outgoing.head, outgoing.encoded)
            outgoing.encoded.clear()
            self._carry(outgoing.rank, data, ())
        self.waiting.clear()

    def _carry(self, rank: int, data: bytes, buffers: Sequence[Buffer]) -> None:
        if rank == self.transport.rank:
            # a copy, as a message to another rank would be: two actors never share memory by accident
            self._to_self.append((rank, data, [numpy.frombuffer(buffer, numpy.uint8).copy() for buffer in buffers]))
        else:
            self.transport.send(rank, data, buffers)

    def after(self, name: str, seconds: float, message: Message | Notice) -> Timer:
        time = self.transport.now() + max(seconds, SOONEST)
        timer = Timer(name, message)
        heapq.heappush(self._timers, (time, next(self._count), timer))
        self.transport.wake_at(time)
        return timer

    def post(self, name: str, message: Message | Notice) -> None:
        self._posts.put((self, name, message))

    def work(self, name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> int:
        ticket = next(self._count)
        self._pool.submit(partial(self._run_task, name, ticket, function, args))
        return ticket

    def _run_task(self, name: str, ticket: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            outcome: Notice = WorkDone(ticket, function(*args))
        except BaseException as error:  # whatever ends the function has to reach its actor
            outcome = WorkFailed(ticket, error)
        self.post(name, outcome)

    # ---- what drives the loop

    @property
    def next_timer(self) -> float | None:
        """When `step` has to be called again even if nothing arrives."""
        return self._timers[0][0] if self._timers else None

    def step(self) -> bool:
        """Handle what has arrived and what is due; return whether there was anything."""
        try:
            worked = self._take_arrivals()
            if self._timers:
                worked = self._take_timers() or worked
            return worked
        except Exception as error:
            self._fail(error)

    def take_post(self, name: str, message: Message | Notice) -> None:
        """Hand an actor what one of its threads left for it."""
        try:
            self._hand_over(name, message)
            self.flush()
        except Exception as error:
            self._fail(error)

    # ---- inside

    def _take_arrivals(self) -> bool:
        own = len(self._to_self)
        for _ in range(own):  # not what these send in turn: an actor that talks to itself must not keep others waiting
            self._take_frame(*self._to_self.popleft())
            self.flush()
        receive = self.transport.receive
        for count in range(BURST):
            arrival = receive()
            if arrival is None:
                return count > 0 or own > 0
            if isinstance(arrival, Lost):
                self._take_loss(arrival)
            else:
                self._take_frame(*arrival)
            if self.waiting:
                self.flush()
        return True

    def _take_timers(self) -> bool:
        now, due = self.transport.now(), []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        # only those that are due already: one that renews itself at once must not keep messages waiting
        for timer in due:
            if not timer.cancelled:
                self._hand_over(timer.name, timer.message)
                self.flush()
        return bool(due)

    def _take_frame(self, source: int, data: memoryview | bytes, buffers: list[Any]) -> None:
        body = data[0] + 1
        head = bytes(data[:body])
        ends = self._routes.get((source, head))
        if ends is None:
            if head == SYSTEM:
                self._take_system(_system_decoder.decode(data[body:]))
                return
            target, _, sender_name = head[1:].decode().partition("\0")
            ends = self._routes[source, head] = (target, Address(source, sender_name))
        name, sender = ends
        actor = self.actors.get(name)
        if actor is None:
            self._refuse(name, sender)
            return
        try:
            messages = self._decoders[name].decode(data[body:])
        except (msgspec.DecodeError, KeyError) as error:
            self._now_in = (name, f"reading a message from {sender}")
            known = ", ".join(kind.__name__ for kind in actor.handlers if issubclass(kind, Message)) or "nothing"
            raise TypeError(f"{type(actor).__name__} does not handle this message ({error}); it handles: {known}") from None
        handlers, here = actor.handlers, self.actors
        for message in messages:
            if name not in here:
                return  # it stopped at an earlier message of this frame
            self._now_in = (name, message)
            function, takes_buffers = handlers[type(message)]
            if takes_buffers:
                function(actor, message, sender, buffers)
            elif buffers:
                raise TypeError(f"{function.__qualname__} has no parameter for the buffers that came with its message")
            else:
                function(actor, message, sender)

    def _refuse(self, name: str, sender: Address) -> None:
        if name in self.ended:
            return  # the actor left while this was on its way
        self._now_in = (HERE, f"taking a message from {sender}")
        there = ", ".join(sorted(self.actors)) or "none"
        raise LookupError(f"rank {self.transport.rank} has no actor named {name!r}; it has: {there}")

    def _hand_over(self, name: str, message: Message | Notice) -> None:
        actor = self.actors.get(name)
        if actor is None:
            return  # it ended before its timer or its worker
        self._now_in = (name, message)
        handler = actor.handlers.get(type(message))
        if handler is not None:
            handler.function(actor, message, actor.address)
        elif isinstance(message, WorkFailed):
            raise message.error
        else:
            raise TypeError(f"{type(actor).__name__} has no handler for {type(message).__name__}")

    def _take_loss(self, loss: Lost) -> None:
        self.absent.add(loss.rank)
        watchers = [name for name, actor in self.actors.items() if PeerLost in actor.handlers]
        if self.actors and not watchers:
            self._now_in = (HERE, "watching its peers")
            raise ConnectionError(f"rank {loss.rank} is gone, and no actor here handles PeerLost")
        for name in watchers:
            self._hand_over(name, PeerLost(loss.rank))

    def _take_system(self, message: Goodbye | Failure) -> None:
        if isinstance(message, Goodbye):
            self.absent.update(message.absent)
            self.stop_here()
            return
        if message.user_error:
            raise _Relayed(UserError(message.text))
        # a thousand ranks must not print the same traceback: the one where it happened and the first do
        remote = message.text if self.transport.rank == 0 else ""
        raise _Relayed(ActorFailed(message.rank, message.actor, message.doing, remote))

    def _fail(self, error: Exception) -> NoReturn:
        """Make sure that every rank hears of an exception before it goes up here."""
        if isinstance(error, _Relayed):
            raise error.error from None
        if isinstance(error, Deserted):
            raise error
        actor, doing = self._now_in
        text = doing if isinstance(doing, str) else f"handling {type(doing).__name__}"
        usage = isinstance(error, UserError)
        told = str(error) if usage else "".join(traceback.format_exception(error))
        self._tell_others(Failure(self.transport.rank, actor, text, told, usage))
        if usage:
            raise error
        raise ActorFailed(self.transport.rank, actor, text) from error

    def _tell_others(self, message: Goodbye | Failure) -> None:
        data = SYSTEM + encode(message)
        for rank in range(self.transport.size):
            if rank != self.transport.rank:
                self.transport.send(rank, data)


class _Relayed(Exception):
    """Carries a failure that another rank has already told everybody."""

    def __init__(self, error: UserError | ActorFailed) -> None:
        self.error = error


def _union(kinds: tuple[type, ...]) -> Any:
    union: Any = kinds[0]
    for kind in kinds[1:]:
        union = union | kind
    return union
