"""What actors say to each other, and how it is written on the wire."""

from typing import Any, NamedTuple, dataclass_transform

import msgspec


class Address(NamedTuple):
    """Where an actor lives: the rank of its process, and its name there."""

    rank: int
    name: str

    def __str__(self) -> str:
        return f"{self.name!r} on rank {self.rank}"


@dataclass_transform(frozen_default=True)
class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What one actor sends to another; subclass it and declare typed fields.

    A message is immutable, and is encoded by MessagePack with its type's name in front. Fields may be numbers, strings,
    bytes, lists, tuples, dicts, other Structs and unions of these. Large arrays do not belong in a field: pass them as
    `buffers` of `Actor.send`, which moves them without a copy.
    """


@dataclass_transform(frozen_default=True)
class Notice(msgspec.Struct, frozen=True):
    """A message that never leaves its rank: what an actor's own process tells it. Any Python object fits in a field."""


class PeerLost(Notice, frozen=True):
    """The process of `rank` is gone; nothing more will come from it, and what is sent to it is dropped."""

    rank: int


class Interrupted(Notice, frozen=True):
    """This process was asked to end, by that signal: SIGTERM, SIGUSR1, or the first SIGINT.

    Where no actor of a process handles it, signals do what they do otherwise.
    """

    signal: int


class WorkDone(Notice, frozen=True):
    """A function given to `Actor.work` returned."""

    ticket: int
    result: Any


class WorkFailed(Notice, frozen=True):
    """A function given to `Actor.work` raised; an actor without a handler for this fails with the exception itself."""

    ticket: int
    error: BaseException


encode = msgspec.msgpack.Encoder().encode


def route(target: str, sender: str) -> bytes:
    """The head of a frame, which says between which two actors it travels: a length byte, then both names."""
    names = f"{target}\0{sender}".encode()
    if len(names) > 255:
        raise ValueError(f"the names {target!r} and {sender!r} are too long: an actor's name may have 120 bytes")
    return bytes([len(names)]) + names


def pack(head: bytes, encoded: list[bytes]) -> bytes:
    """A frame: its head, and a MessagePack array of the messages. What is sent at once travels together."""
    count = len(encoded)
    length = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return b"".join((head, length, *encoded))
