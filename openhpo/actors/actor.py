"""The actor: a plain class whose methods are called one at a time, each with a message."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from openhpo.actors.messages import Address, Message, Notice, encode

if TYPE_CHECKING:
    from openhpo.actors.loop import EventLoop, Outgoing, Timer
    from openhpo.actors.transport import Buffer

Method = TypeVar("Method", bound=Callable[..., None])


class Handler(NamedTuple):
    """A method of an actor and whether it takes the buffers of its message as well."""

    function: Callable[..., None]
    takes_buffers: bool


def handles(kind: type[Message | Notice]) -> Callable[[Method], Method]:
    """Mark a method as the handler of one type of message.

    The method is called as `method(message, sender)`, or as `method(message, sender, buffers)` where it has a third
    parameter; `buffers` is then a list of one-dimensional uint8 arrays that belong to the receiver.
    """
    if not (isinstance(kind, type) and issubclass(kind, Message | Notice)):
        raise TypeError(f"handles() takes a subclass of Message, not {kind!r}")

    def mark(method: Method) -> Method:
        method.__dict__["handled"] = kind
        return method

    return mark


class Actor:
    """Subclass it, mark methods with `@handles(SomeMessage)`, and give an instance to `openhpo.run_actors`.

    All methods run in the main thread of the actor's process, one at a time, and have to return soon: what takes long
    goes to `work`. What an actor raises ends the run on every rank with that traceback.
    """

    handlers: ClassVar[dict[type, Handler]] = {}
    relaxed = False  # True while a message may lie for a millisecond: its rank then leaves the core to its worker threads
    address: Address
    _loop: EventLoop
    _outgoing: dict[Address, Outgoing]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own: dict[type, Handler] = {}
        for method in vars(cls).values():
            kind = getattr(method, "handled", None)
            if kind is None:
                continue
            if kind in own:
                raise TypeError(f"{cls.__name__} has two handlers for {kind.__name__}")
            own[kind] = Handler(method, len(inspect.signature(method).parameters) > 3)
        cls.handlers = {**cls.handlers, **own}

    def on_start(self) -> None:
        """Called once, before any message; every other rank may still be starting."""

    def on_stop(self) -> None:
        """Called once when the actor ends, also when the run ends because something failed."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self._loop.transport.rank

    @property
    def size(self) -> int:
        """How many processes take part."""
        return self._loop.transport.size

    @property
    def failure(self) -> BaseException | None:
        """In `on_stop`: what ended the run, when it did not end well."""
        return self._loop.failure

    def now(self) -> float:
        """Seconds on the transport's clock: monotonic, virtual in a simulation, not comparable between ranks."""
        return self._loop.transport.now()

    def send(self, address: Address, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Send `message` to the actor at `address`, without waiting; it arrives at most once, in order.

        Args:
            address: The receiver, which may be on this rank too.
            message: Encoded at once, so later changes of what it refers to are not seen.
            buffers: Contiguous arrays or bytes to move beside the message, with no copy on the sender's side: leave them
                as they are until the receiver has answered.

        Raises:
            TypeError: What is sent is not a `Message`, or a field of it cannot be encoded.
            ValueError: There is no such rank.
        """
        outgoing = self._outgoing.get(address)
        if outgoing is None:
            outgoing = self._outgoing[address] = self._loop.outgoing(self.address.name, address)
        if not isinstance(message, Message):
            raise TypeError(f"send() takes a Message, not {type(message).__name__}; a Notice never leaves its rank")
        if buffers:
            self._loop.send_with_buffers(outgoing, encode(message), buffers)
        else:
            outgoing.add(encode(message))

    def flush(self) -> None:
        """Let what this handler has sent so far leave now, where it has more to do before it returns."""
        self._loop.flush()

    def after(self, seconds: float, message: Message | Notice) -> Timer:
        """Deliver `message` to this actor itself after that time; `cancel()` on what is returned takes it back."""
        return self._loop.after(self.address.name, seconds, message)

    def work(self, function: Callable[..., Any], *args: Any) -> int:
        """Call `function(*args)` in a worker thread; its end arrives as `WorkDone` or `WorkFailed` with this ticket."""
        return self._loop.work(self.address.name, function, args)

    def post(self, message: Message | Notice) -> None:
        """Deliver `message` to this actor itself. The one method that other threads may call."""
        self._loop.post(self.address.name, message)

    def stop(self) -> None:
        """End this actor after the present message. A process leaves the run when its last actor has ended."""
        self._loop.stop(self.address.name)

    def stop_all(self, without: Iterable[int] = ()) -> None:
        """End every actor on every rank, once what this rank has sent so far has been delivered.

        Args:
            without: Ranks that have not been heard of for long, which nobody is to wait for.
        """
        self._loop.stop_everywhere(without)
