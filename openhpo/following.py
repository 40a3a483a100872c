"""The two ends of the training thread of a rank that follows: it trains what its leader trains, a step at a time."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

from openhpo.course import Course
from openhpo.stages import Stage
from openhpo.training import Trial
from openhpo.training.group import Group
from openhpo.training.thread import TrainingThread


class Following:
    """What a leader says, on its way to the training thread; what is yielded there counts for nothing.

    Attributes:
        leader: The leader's rank.
        group: Those that train together.
        stage: What they train.
        told: Whether the thread has been told to end.
        thread: The thread.
    """

    def __init__(self, leader: int, group: Group, stage: Stage) -> None:
        self.leader = leader
        self.group = group
        self.stage = stage
        self._stop = stage.stop  # as the thread knows it, which may be a stage behind
        self.told = False
        self.thread = TrainingThread()
        self._words: SimpleQueue[tuple[Stage, Course] | bool] = SimpleQueue()

    # ---- for the event loop

    def next(self) -> None:
        """The leader has reported a step, and goes on."""
        self._words.put(True)

    def onward(self, stage: Stage, course: Course) -> None:
        """The leader goes on with another stage."""
        self.stage = stage
        self._words.put((stage, course))

    def leave(self, *, abrupt: bool) -> None:
        """The training is over.

        Args:
            abrupt: In the midst of a step; the group cannot be used any more.
        """
        self.told = True
        self.group.broken = self.group.broken or abrupt
        self._words.put(False)
        if abrupt:
            self.thread.stop()

    # ---- for the training thread

    def put(self, step: int, metrics: dict[str, float]) -> bool:
        return step >= self._stop or self._words.get() is True

    def between(self, trial: Trial) -> bool:
        return True

    def rest(self, trial: Trial) -> Any:
        word = self._words.get()
        if not isinstance(word, tuple):
            return None
        self._stop = word[0].stop
        return word

    def end(self) -> None:
        """The training is over; where nobody said so, the others must not wait for this rank."""
        self.group.broken = self.group.broken or not self.told
