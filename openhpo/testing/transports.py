"""What every transport promises to actors.

Subclass `TransportContract` in a test file, and give pytest a fixture `play` that runs actors over the transport, and a
fixture `size` with the number of ranks. Under mpirun every rank runs the suite, and each sees its own actors only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
import numpy
import pytest
from numpy.typing import NDArray

from openhpo.actors import Actor, ActorFailed, Address, Message, Notice, Stuck, WorkDone, WorkFailed, handles
from openhpo.errors import UserError

Cast = Callable[[int, int], Mapping[str, Actor]]


class Play(Protocol):
    """Runs actors to their end over the transport under test."""

    def __call__(self, cast: Cast, deadline: float = 30.0) -> dict[Address, Any]:
        """Return the actors of this process; raise what `run_actors` raises."""


class Number(Message):
    """A numbered message."""

    value: int
    data: bytes = b""
    items: list[int] = msgspec.field(default_factory=list)


class Question(Message):
    """Wants a `Number` back."""

    value: int


class Unheard(Message):
    """Nobody handles this."""


class Nudge(Notice):
    """A note to oneself."""

    text: str


class Ring(Actor):
    """Passes a token twice around."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_start(self) -> None:
        if self.rank == 0:
            self.send(self.address, Number(0))

    @handles(Number)
    def on_token(self, token: Number, sender: Address) -> None:
        self.seen.append(token.value)
        if token.value == 2 * self.size:
            self.stop_all()
        else:
            self.send(Address((self.rank + 1) % self.size, "ring"), Number(token.value + 1))


class Collector(Actor):
    """Keeps what arrives at rank 0, and ends the run when it has all."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.received: list[tuple[Address, Number, list[NDArray[numpy.uint8]]]] = []

    @handles(Number)
    def on_number(self, message: Number, sender: Address, buffers: list[NDArray[numpy.uint8]]) -> None:
        self.received.append((sender, message, buffers))
        if len(self.received) == self.expected:
            self.stop_all()


class Sender(Actor):
    """Sends what it is told to at its start."""

    def __init__(self, send: Callable[[Actor], None]) -> None:
        self.act = send

    def on_start(self) -> None:
        self.act(self)


class Misbehaving(Actor):
    """Does something on the last rank when rank 0 asks, and keeps a list of its own end."""

    def __init__(self, act: Callable[[Actor], None]) -> None:
        self.act = act
        self.stopped = 0

    def on_start(self) -> None:
        if self.rank == 0:
            self.send(Address(self.size - 1, "actor"), Question(0))

    def on_stop(self) -> None:
        self.stopped += 1

    @handles(Question)
    def on_question(self, message: Question, sender: Address) -> None:
        self.act(self)


HOME = Address(0, "collector")


def collected(play: Play, size: int, send: Callable[[Actor], None], each: int) -> list[Any]:
    """What the collector on rank 0 received when every rank sends `each` messages; [] on other ranks under MPI."""
    actors = play(lambda rank, size: {"sender": Sender(send), **({"collector": Collector(each * size)} if rank == 0 else {})})
    return list(actors[HOME].received) if HOME in actors else []


class TransportContract:
    """The promises, each a test."""

    def test_a_token_visits_the_ranks_in_turn(self, play: Play, size: int) -> None:
        for address, ring in play(lambda rank, size: {"ring": Ring()}).items():
            assert ring.seen == [hop for hop in range(2 * size + 1) if hop % size == address.rank]

    def test_messages_between_two_actors_arrive_once_and_in_order(self, play: Play, size: int) -> None:
        def send(actor: Actor) -> None:
            for value in range(3000):
                actor.send(HOME, Number(value))

        received = collected(play, size, send, 3000)
        for rank in range(size if received else 0):
            assert [message.value for sender, message, _ in received if sender.rank == rank] == list(range(3000))

    def test_large_messages_and_buffers_keep_the_order_too(self, play: Play, size: int) -> None:
        def send(actor: Actor) -> None:
            for value in range(0, 60, 3):
                actor.send(HOME, Number(value), [numpy.full(300_000, value, numpy.uint8), numpy.full(7, value, numpy.uint8)])
                actor.send(HOME, Number(value + 1))
                actor.send(HOME, Number(value + 2, os.urandom(200_000)))

        received = collected(play, size, send, 60)
        for rank in range(size if received else 0):
            assert [message.value for sender, message, _ in received if sender.rank == rank] == list(range(60))

    @pytest.mark.parametrize("length", [0, 1, 65_537, 5_000_000])
    def test_buffers_arrive_as_they_were_sent(self, play: Play, size: int, length: int) -> None:
        content = numpy.random.default_rng(length).integers(0, 256, length, numpy.uint8)
        floats = numpy.linspace(0, 1, 100)

        def send(actor: Actor) -> None:
            actor.send(HOME, Number(actor.rank), [content, floats, b"plain bytes"])

        for sender, message, (first, second, third) in collected(play, size, send, 1):
            assert message.value == sender.rank
            assert numpy.array_equal(first, content)
            assert numpy.array_equal(second.view(float), floats)
            assert third.tobytes() == b"plain bytes"

    def test_the_receiver_owns_its_buffers(self, play: Play, size: int) -> None:
        content = numpy.zeros(1000, numpy.uint8)

        def send(actor: Actor) -> None:
            actor.send(HOME, Number(0), [content])

        for _, _, (buffer,) in collected(play, size, send, 1):
            numpy.add(buffer, 1, out=buffer)
            assert buffer.tolist() == [1] * 1000
        assert not content.any()

    def test_what_was_sent_does_not_change_afterwards(self, play: Play, size: int) -> None:
        def send(actor: Actor) -> None:
            items = [1, 2]
            actor.send(HOME, Number(0, items=items))
            items.append(3)

        for _, message, _ in collected(play, size, send, 1):
            assert message.items == [1, 2]

    def test_a_flood_from_everywhere_loses_nothing(self, play: Play, size: int) -> None:
        class Flood(Actor):
            def __init__(self) -> None:
                self.total = 0

            def on_start(self) -> None:
                for value in range(4000):
                    for rank in range(self.size):
                        self.send(Address(rank, "flood"), Number(value))

            @handles(Number)
            def on_number(self, message: Number, sender: Address) -> None:
                self.total += 1
                if self.total == 4000 * self.size:
                    self.stop()  # each for itself: what it sent still has to leave

        for flood in play(lambda rank, size: {"flood": Flood()}).values():
            assert flood.total == 4000 * size

    def test_two_actors_of_one_rank_talk_like_others(self, play: Play, size: int) -> None:
        class Asking(Actor):
            def on_start(self) -> None:
                self.send(Address(self.rank, "answering"), Question(20))

            @handles(Number)
            def on_number(self, message: Number, sender: Address) -> None:
                self.answer = (message.value, sender.name)
                self.stop()

        class Answering(Actor):
            @handles(Question)
            def on_question(self, message: Question, sender: Address) -> None:
                self.send(sender, Number(message.value + 1))
                self.stop()

        actors = play(lambda rank, size: {"asking": Asking(), "answering": Answering()})
        assert [actor.answer for actor in actors.values() if isinstance(actor, Asking)] == [(21, "answering")] * (
            len(actors) // 2
        )

    def test_timers_fire_in_the_order_of_their_times_and_can_be_cancelled(self, play: Play, size: int) -> None:
        class Clock(Actor):
            def __init__(self) -> None:
                self.heard: list[str] = []

            def on_start(self) -> None:
                self.began = self.now()
                self.after(0.02, Nudge("second"))
                self.after(0.01, Nudge("never")).cancel()
                self.after(0.0, Nudge("first"))
                self.after(0.03, Nudge("third"))

            @handles(Nudge)
            def on_nudge(self, message: Nudge, sender: Address) -> None:
                self.heard.append(message.text)
                if message.text == "third":
                    self.took = self.now() - self.began
                    self.stop()

        for clock in play(lambda rank, size: {"clock": Clock()}).values():
            assert clock.heard == ["first", "second", "third"]
            assert clock.took >= 0.03

    def test_a_timer_that_renews_itself_does_not_keep_messages_waiting(self, play: Play, size: int) -> None:
        class Restless(Actor):
            def on_start(self) -> None:
                self.after(0.0, Nudge("again"))
                self.send(Address((self.rank + 1) % self.size, "restless"), Number(0))

            @handles(Nudge)
            def on_nudge(self, message: Nudge, sender: Address) -> None:
                self.after(0.0, Nudge("again"))

            @handles(Number)
            def on_number(self, message: Number, sender: Address) -> None:
                self.stop()

        play(lambda rank, size: {"restless": Restless()})

    def test_an_actor_that_talks_to_itself_does_not_keep_messages_waiting(self, play: Play, size: int) -> None:
        class Murmuring(Actor):
            def on_start(self) -> None:
                self.send(self.address, Question(0))
                self.send(Address((self.rank + 1) % self.size, "murmuring"), Number(0))

            @handles(Question)
            def on_question(self, message: Question, sender: Address) -> None:
                self.send(self.address, message)

            @handles(Number)
            def on_number(self, message: Number, sender: Address) -> None:
                self.stop()

        play(lambda rank, size: {"murmuring": Murmuring()})

    def test_work_comes_back_as_a_message(self, play: Play, size: int) -> None:
        class Working(Actor):
            def __init__(self) -> None:
                self.results: dict[int, Any] = {}
                self.notes: list[str] = []

            def on_start(self) -> None:
                self.good = self.work(self.compute, 6, 7)
                self.bad = self.work(int, "no number")

            def compute(self, a: int, b: int) -> int:
                self.post(Nudge("from the worker"))
                return a * b

            @handles(Nudge)
            def on_nudge(self, message: Nudge, sender: Address) -> None:
                self.notes.append(message.text)

            @handles(WorkDone)
            def on_done(self, message: WorkDone, sender: Address) -> None:
                self.finish(message.ticket, message.result)

            @handles(WorkFailed)
            def on_failed(self, message: WorkFailed, sender: Address) -> None:
                self.finish(message.ticket, message.error)

            def finish(self, ticket: int, outcome: Any) -> None:
                self.results[ticket] = outcome
                if len(self.results) == 2:
                    self.stop()

        for actor in play(lambda rank, size: {"working": Working()}).values():
            assert actor.results[actor.good] == 42
            assert isinstance(actor.results[actor.bad], ValueError)
            assert actor.notes == ["from the worker"]

    def test_messages_to_an_actor_that_has_ended_are_dropped(self, play: Play, size: int) -> None:
        class Brief(Actor):
            def __init__(self) -> None:
                self.heard = 0

            @handles(Number)
            def on_number(self, message: Number, sender: Address) -> None:
                self.heard += 1
                self.stop()

        def send(actor: Actor) -> None:
            for value in range(10):
                actor.send(Address(actor.rank, "brief"), Number(value))
            actor.send(HOME, Number(0))

        actors = play(
            lambda rank, size: {
                "brief": Brief(),
                "sender": Sender(send),
                **({"collector": Collector(size)} if rank == 0 else {}),
            }
        )
        assert all(actor.heard == 1 for actor in actors.values() if isinstance(actor, Brief))

    def test_what_was_sent_before_stop_all_is_delivered(self, play: Play, size: int) -> None:
        class Last(Actor):
            def __init__(self) -> None:
                self.heard: list[int] = []

            def on_start(self) -> None:
                if self.rank == 0:
                    for value in range(100):
                        for rank in range(self.size):
                            self.send(Address(rank, "last"), Number(value))
                    self.stop_all()

            @handles(Number)
            def on_number(self, message: Number, sender: Address) -> None:
                self.heard.append(message.value)

        for actor in play(lambda rank, size: {"last": Last()}).values():
            assert actor.heard == list(range(100))

    def test_an_exception_in_a_handler_ends_the_run_everywhere(self, play: Play, size: int) -> None:
        def fail(actor: Actor) -> None:
            raise ZeroDivisionError("on purpose")

        cast: dict[int, Misbehaving] = {}
        with pytest.raises(ActorFailed, match=f"'actor' on rank {size - 1} failed while handling Question") as caught:
            play(lambda rank, size: {"actor": cast.setdefault(rank, Misbehaving(fail))})
        if size - 1 in cast:  # here is where it happened
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        elif 0 in cast:
            assert "ZeroDivisionError: on purpose" in caught.value.remote
        assert all(actor.stopped == 1 for actor in cast.values())

    def test_a_users_mistake_ends_the_run_with_its_message(self, play: Play, size: int) -> None:
        def refuse(actor: Actor) -> None:
            raise UserError("choose another value")

        with pytest.raises(UserError, match=r"^choose another value$"):
            play(lambda rank, size: {"actor": Misbehaving(refuse)})

    def test_failed_work_that_nobody_handles_is_not_swallowed(self, play: Play, size: int) -> None:
        with pytest.raises(ActorFailed, match="handling WorkFailed"):
            play(lambda rank, size: {"actor": Misbehaving(lambda actor: void(actor.work(int, "no number")))})

    def test_a_message_that_its_receiver_does_not_handle_is_an_error(self, play: Play, size: int) -> None:
        with pytest.raises(ActorFailed, match="reading a message") as caught:
            play(lambda rank, size: {"actor": Misbehaving(lambda actor: actor.send(Address(0, "actor"), Unheard()))})
        if caught.value.__cause__ is not None:
            assert "does not handle" in str(caught.value.__cause__)
            assert "Question" in str(caught.value.__cause__)

    def test_what_is_no_message_cannot_be_sent(self, play: Play, size: int) -> None:
        def send(actor: Actor) -> None:
            with pytest.raises(TypeError, match="takes a Message"):
                actor.send(Address(0, "actor"), "text")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="a Notice never leaves"):
                actor.send(Address(0, "actor"), Nudge("x"))  # type: ignore[arg-type]
            actor.stop_all()

        play(lambda rank, size: {"actor": Misbehaving(send)})

    def test_an_unknown_actor_or_rank_is_an_error(self, play: Play, size: int) -> None:
        def send(actor: Actor) -> None:
            with pytest.raises(ValueError, match="there is no rank 99"):
                actor.send(Address(99, "actor"), Question(0))
            actor.send(Address(0, "nobody"), Question(0))

        with pytest.raises(ActorFailed, match="taking a message") as caught:
            play(lambda rank, size: {"actor": Misbehaving(send)})
        if caught.value.__cause__ is not None:
            assert "no actor named 'nobody'; it has: actor" in str(caught.value.__cause__)

    def test_a_run_that_does_not_end_is_given_up_at_its_deadline(self, play: Play, size: int) -> None:
        with pytest.raises(Stuck, match="actor"):
            play(lambda rank, size: {"actor": Misbehaving(lambda actor: None)}, deadline=0.2)


def void(_: object) -> None:
    """Drop a value."""
