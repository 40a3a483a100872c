"""One call of the training function, in its thread: it trains a stage, rests with its state alive, and goes on with another."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

from openhpo.actors import Notice
from openhpo.course import Course
from openhpo.outbox import Outbox
from openhpo.stages import Stage
from openhpo.training import Trial


class StepsReady(Notice, frozen=True):
    """The training thread has left reports."""


class Rested(Notice, frozen=True):
    """The training thread has come to the end of its stage, and waits with its state alive."""


class Lowered(Notice, frozen=True):
    """The training thread has copied its state to host memory."""

    state: int
    snapshot: Any


class Continue(NamedTuple):
    """Go on with another stage; copy the state first where others need it."""

    stage: Stage
    course: Course
    keep: bool


class Copy(NamedTuple):
    """Copy the state, and wait on."""


class Leave(NamedTuple):
    """End; copy the state first where others need it."""

    keep: bool


class Session:
    """The two ends of a training thread. The methods of the first part are the event loop's, those of the second the thread's.

    Attributes:
        state: The name of the state that is alive in the thread; None while it trains.
        course: What is in force in the stage.
        wanted: Whether anybody may need that state.
        leaving: Whether the thread is about to end.
        promised: States whose copy is on its way.

    Args:
        post: Leaves a notice for the actor; called from the thread.
        spare: A buffer for the next copy, where there is one.
    """

    def __init__(self, stage: Stage, course: Course, post: Callable[[Notice], None], spare: Callable[[int], Any]) -> None:
        self._post = post
        self._spare = spare
        self._orders: SimpleQueue[Continue | Copy | Leave] = SimpleQueue()
        self.promised: set[int] = set()
        self._copied: int | None = None  # the last state whose copy was ordered
        self.wanted = True
        self.leaving = False
        self._checked = False
        self._begin(stage, course)

    def _begin(self, stage: Stage, course: Course) -> None:
        self.stage = stage
        self.course = course
        self.state: int | None = None
        self.outbox = Outbox(self._wake, stage.stop, stage.checks)

    # ---- for the event loop

    def rests(self) -> None:
        """The thread has said that it rests."""
        self.state = self.stage.id
        self.wanted = True

    def fits(self, stage: Stage, course: Course) -> bool:
        """Whether the thread can go on with that stage: its state is alive here, and the set-up would be the same."""
        return not self.leaving and self.state == stage.parent and self.course.constants == course.constants

    def go_on(self, stage: Stage, course: Course) -> None:
        keep = stage.keep and self._promise()
        self._begin(stage, course)
        self._orders.put(Continue(stage, course, keep))

    def copy(self) -> bool:
        """Have the state copied; return whether it is going to arrive as `Lowered`, which it does once."""
        if self.leaving or not self._promise():
            return False
        self._orders.put(Copy())
        return True

    def leave(self) -> None:
        """End the thread; a state that is wanted arrives as `Lowered` before."""
        if not self.leaving:
            self.leaving = True
            self.outbox.stop()
            self._orders.put(Leave(self.wanted and self._promise()))

    def _promise(self) -> bool:
        """Note that the state which is alive will be copied; return whether that is still to be ordered."""
        if self.state is None or self._copied == self.state:
            return False
        self._copied = self.state
        self.promised.add(self.state)
        return True

    # ---- for the training thread

    def _wake(self) -> None:
        self._post(StepsReady())

    def put(self, step: int, metrics: dict[str, float]) -> bool:
        return self.outbox.put(step, metrics)

    def rest(self, trial: Trial) -> tuple[Stage, Course] | None:
        stage = trial.stage
        if not stage.park:
            return None
        if not self._checked:
            trial.check_state()  # now, while the stage can still fail for it
            self._checked = True
        self._post(Rested())
        while True:
            order = self._orders.get()
            if isinstance(order, Copy) or order.keep:
                snapshot = trial.lower(self._spare)
                self._post(Lowered(stage.id, snapshot))
                del snapshot
            if isinstance(order, Continue):
                return order.stage, order.course
            if isinstance(order, Leave):
                return None
