"""The two ends of the training thread of a rank that follows: it trains what its leader trains, a step at a time."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from openhpo.course import Course
from openhpo.stages import Stage
from openhpo.training import Trial, TrialStopped
from openhpo.training.group import Group
from openhpo.training.thread import TrainingThread


class Following:
    """What a leader says, on its way to the training thread, which may still have to begin; what is yielded there counts for
    nothing.

    Attributes:
        leader: The leader's rank.
        number: By which the leader knows the group.
        stage: What they train.
        group: Those that train together; None before it begins.
        told: Whether the thread has been told to end.
        thread: The thread.

    Args:
        leader, number, stage: As above.
        measure: Called from the training thread after a step, with the stage, and whether it was the last one of it: tells
            the leader how much memory this rank takes.
    """

    def __init__(self, leader: int, number: int, stage: Stage, measure: Callable[[Stage, bool], None]) -> None:
        self.leader = leader
        self.number = number
        self.stage = stage
        self.group: Group | None = None
        self.told = False
        self.thread = TrainingThread()
        self._measure = measure
        self._trained = stage  # as the thread knows it, which may be a stage behind
        self._words: SimpleQueue[tuple[Stage, Course] | bool] = SimpleQueue()
        self._texts: SimpleQueue[str | None] = SimpleQueue()

    # ---- for the event loop

    def next(self) -> None:
        """The leader has reported a step, and goes on."""
        self._words.put(True)

    def onward(self, stage: Stage, course: Course) -> None:
        """The leader goes on with another stage."""
        self.stage = stage
        self._words.put((stage, course))

    def meet(self, text: str) -> None:
        """The leader's training has something to tell this one."""
        self._texts.put(text)

    def leave(self, *, abrupt: bool) -> None:
        """The training is over.

        Args:
            abrupt: In the midst of a step; the group cannot be used any more.
        """
        self.told = True
        self._words.put(False)
        if abrupt:
            if self.group is not None:
                self.group.broken = True
            self._texts.put(None)
            self.thread.stop()

    # ---- for the training thread

    def heard(self, _: str | None) -> str:
        """What the leader's training tells this one, once it is there."""
        text = self._texts.get()
        if text is None:
            raise TrialStopped
        return text

    def put(self, step: int, metrics: dict[str, float]) -> bool:
        stage, last = self._trained, step >= self._trained.stop
        if last or step == stage.start + 1 or step in stage.checks:
            self._measure(stage, last)
        return last or self._words.get() is True

    def between(self, trial: Trial) -> bool:
        return True

    def rest(self, trial: Trial) -> Any:
        word = self._words.get()
        if not isinstance(word, tuple):
            return None
        self._trained = word[0]
        return word

    def end(self) -> None:
        """The training is over; where nobody said so, the others must not wait for this rank."""
        if self.group is not None and not self.told:
            self.group.broken = True
