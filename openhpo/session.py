"""One call of the training function, in its thread: it trains a stage, rests with its state alive, and goes on with another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

from openhpo.actors import Notice
from openhpo.course import Course
from openhpo.outbox import Outbox
from openhpo.stages import Stage, StateName
from openhpo.training import Trial
from openhpo.training.group import Group
from openhpo.training.peaks import Peaks
from openhpo.training.states import CannotLower
from openhpo.training.thread import TrainingThread


class StepsReady(Notice, frozen=True):
    """The training thread has left reports."""


class Rested(Notice, frozen=True):
    """The training thread has come to the end of its stage, and waits with its state alive."""


class Gathering(Notice, frozen=True):
    """The training thread has come to the end of its stage, and waits for what the other ranks of its group say of it."""


class Passed(Notice, frozen=True):
    """The training thread has reported a step, and goes on to the next one.

    Attributes:
        stage: The number of its stage.
        step: The step.
    """

    stage: int
    step: int


class Lowered(Notice, frozen=True):
    """The training thread has copied its state to host memory.

    Attributes:
        state: Its name.
        snapshot: The copy; None where it cannot be made.
        between: Whether the copy was made between two steps, and not where the thread rests.
        error: Why it cannot be made.
    """

    state: StateName
    snapshot: Any
    between: bool = False
    error: str = ""


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
        interrupted: Whether it ended between two steps, as it was asked to.
        promised: States whose copy is on its way.
        thread: The thread.
        group: The ranks that train with this one; None where it is alone.
        error: What training is to raise at its next report.
        peaks: What the other ranks took of memory in the stage.

    Args:
        post: Leaves a notice for the actor; called from the thread.
        spare: A buffer for the next copy, where there is one.
        group: As above.
    """

    def __init__(
        self,
        stage: Stage,
        course: Course,
        post: Callable[[Notice], None],
        spare: Callable[[int], Any],
        group: Group | None = None,
    ) -> None:
        self.group = group
        self.error: Exception | None = None
        self._post = post
        self._spare = spare
        self._orders: SimpleQueue[Continue | Copy | Leave] = SimpleQueue()
        self._between: deque[Copy | Leave] = deque()  # orders for between two steps
        self.promised: set[StateName] = set()
        self._copied: StateName | None = None  # the last state whose copy was ordered
        self.wanted = True
        self.leaving = False
        self.interrupted = False
        self.thread = TrainingThread()
        self._checked = False
        self._arriving: threading.Thread | None = None  # waits for the bytes of the last copy, and delivers it
        self._lost: BaseException | None = None  # what that thread met with
        self._begin(stage, course)

    def _begin(self, stage: Stage, course: Course) -> None:
        self.stage = stage
        self.course = course
        self.state: StateName | None = None
        self.outbox = Outbox(self._wake, stage.stop, stage.checks)
        self.peaks = Peaks(() if self.group is None else self.group.ranks[1:])

    # ---- for the event loop

    def rests(self) -> None:
        """The thread has said that it rests."""
        self.state = self.stage.after
        self.wanted = True

    def fits(self, stage: Stage, course: Course) -> bool:
        """Whether the thread can go on with that stage: its state is alive here, and the set-up would be the same."""
        if self.leaving or self.stage.ranks != stage.ranks or (self.group is not None and self.group.broken):
            return False
        return self.state == stage.before and self.course.constants == course.constants

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

    def copy_between(self) -> None:
        """Have the state copied after the present step."""
        self._between.append(Copy())

    def leave_between(self) -> None:
        """Have the state copied after the present step, and end the thread."""
        self._between.append(Leave(keep=True))

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
        goes_on = self.outbox.put(step, metrics)
        if self.error is not None:
            raise self.error
        return goes_on

    def between(self, trial: Trial) -> bool:
        goes_on = not self._between or self._obey(trial)
        if goes_on and self.group is not None:
            self._post(Passed(trial.stage.id, trial.step))
        return goes_on

    def _obey(self, trial: Trial) -> bool:
        order = self._between.popleft()
        state = StateName(trial.stage.id, trial.step)
        try:
            self._deliver(Lowered(state, trial.lower(self._spare, wait=False), between=True))
        except CannotLower as error:
            self._post(Lowered(state, None, between=True, error=str(error)))
        self.interrupted = isinstance(order, Leave)
        return not self.interrupted

    def rest(self, trial: Trial) -> tuple[Stage, Course] | None:
        stage = trial.stage
        self.settle()
        self._gather()
        self._between.clear()  # the end of a stage comes between no steps
        if not stage.park:
            return None
        if not self._checked:
            trial.check_state()  # now, while the stage can still fail for it
            self._checked = True
        self._post(Rested())
        while True:
            order = self._orders.get()
            if isinstance(order, Copy) or order.keep:
                self._deliver(Lowered(stage.after, trial.lower(self._spare, wait=False)))
            if isinstance(order, Continue):
                return order.stage, order.course
            if isinstance(order, Leave):
                return None

    def _gather(self) -> None:
        if not self.peaks.complete:
            self._post(Gathering())
            self.peaks.wait()

    def _deliver(self, lowered: Lowered) -> None:
        """Leave a copy for the event loop once all of its bytes are there; the training need not wait for them."""
        self.settle()
        if lowered.snapshot.arriving is None:
            self._post(lowered)
        else:
            self._arriving = threading.Thread(target=self._await, args=(lowered,), daemon=True)
            self._arriving.start()

    def _await(self, lowered: Lowered) -> None:
        try:
            lowered.snapshot.arriving.wait()
        except BaseException as error:
            self._lost = error  # raised in the training thread, whose device this comes from
        else:
            self._post(lowered)

    def settle(self) -> None:
        """Wait for the copy that is under way, as all that is said of a state has to follow it."""
        arriving, self._arriving = self._arriving, None
        if arriving is not None:
            arriving.join()
        if self._lost is not None:
            lost, self._lost = self._lost, None
            raise lost
