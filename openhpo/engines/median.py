"""The median stopping rule (Golovin et al., "Google Vizier", KDD 2017, section 3.2.2).

A trial is stopped at step s where its best objective so far is worse than the median of the running averages, over the steps up
to s, of the trials that have completed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openhpo.engines.base import Engine, Request
from openhpo.errors import whole
from openhpo.objective import NO_SCORE, Score
from openhpo.space import Space
from openhpo.stages import State, TrialRecord, Verdict

if TYPE_CHECKING:
    from sortedcontainers import SortedList


class MedianStopping(Engine):
    """Stop trials that are worse than the completed ones were on average by then.

    Args:
        max_steps: What a trial trains to where it is not stopped.
        grace: The first step at which it may be.
        interval: Steps between two looks.
        startup: Trials that have to be complete before any is stopped.
    """

    extendable = True

    def __init__(self, max_steps: int, grace: int = 1, interval: int = 1, startup: int = 5) -> None:
        self.max_steps = whole(max_steps, "the number of steps of a trial")
        self.grace = whole(grace, "grace")
        self.interval = whole(interval, "interval")
        self.startup = whole(startup, "startup")
        self._looks = range(grace, max_steps, interval)

    def start(self, space: Space, total: int, seed: int) -> None:
        from sortedcontainers import SortedList

        self._averages: dict[int, SortedList] = {step: SortedList() for step in self._looks}
        self._sums: dict[int, tuple[Score, int]] = {}  # by trial: the sum of its scores, and how many
        self._seen: dict[int, list[tuple[int, Score]]] = {}  # by trial: its running averages at the looks

    def request(self, trials: Sequence[TrialRecord], more: bool, waiting: int) -> Request | None:
        return Request(self.max_steps) if more else None

    def judge(self, trial: TrialRecord, step: int) -> Verdict:
        total, count = self._sums.get(trial.number, (Score(0.0, 0.0), 0))
        total = Score(total.violation + trial.last.violation, total.loss + trial.last.loss)
        self._sums[trial.number] = (total, count + 1)
        if step not in self._looks:
            return Verdict.CONTINUE
        average = Score(total.violation / (count + 1), total.loss / (count + 1))
        self._seen.setdefault(trial.number, []).append((step, average))
        others = self._averages[step]
        if len(others) < self.startup:
            return Verdict.CONTINUE
        median = others[(len(others) - 1) // 2]  # of an even number the better of the middle two
        return Verdict.STOP if trial.score > median else Verdict.CONTINUE

    def checks(self, start: int, stop: int) -> tuple[int, ...]:
        return tuple(step for step in self._looks if start < step < stop)

    def rest(self, trial: TrialRecord) -> Sequence[int]:
        self._sums.pop(trial.number, None)
        seen = self._seen.pop(trial.number, [])
        if trial.state is State.DONE:
            for step, average in seen:
                # a sum that is not a number comes from infinities of both signs
                self._averages[step].add(average if average.loss == average.loss else NO_SCORE)
        return ()

    def definition(self) -> dict[str, Any]:
        return {
            "engine": "MedianStopping",
            "max_steps": self.max_steps,
            "grace": self.grace,
            "interval": self.interval,
            "startup": self.startup,
        }
