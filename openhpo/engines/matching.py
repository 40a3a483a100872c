"""Learning curve matching ("Neural Network Hyperparameter Optimization with MagmaDNN and OpenDIEL", Ouyang, McBride, Febbo,
Wong, Tomov and Yin).

Accumulation: the first trials train in full; their objective at the cumulative points and at the end is recorded. Checking: at
each checkpoint the Euclidean distance between the trial's curve so far and every recorded complete curve, over the cumulative
points up to there, finds the most similar complete training. How that one ended is the prediction; the part of the recorded
ends that are better than the prediction is its rank percentage, and above a threshold the trial is stopped. Trials that
complete in the checking stage are recorded too. The published finding: slightly better and more stable than random search at
equal cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openhpo.engines.base import Engine, Request
from openhpo.engines.neighbours import Neighbours
from openhpo.errors import UserError, whole
from openhpo.objective import Score
from openhpo.space import Space
from openhpo.stages import State, TrialRecord, Verdict

if TYPE_CHECKING:
    from sortedcontainers import SortedList

FAR = 1e30  # in the place of an objective that is not finite


class LearningCurveMatching(Engine):
    """Stop trials that look like recorded ones that ended badly.

    Args:
        max_steps: What a trial trains to where it is not stopped.
        points: The cumulative points: steps at which curves are compared. By default every step up to the last checkpoint.
        checkpoints: Steps at which a trial may be stopped. By default a quarter and a half of `max_steps`.
        accumulation: How many trials train in full first.
        threshold: The rank percentage above which a trial is stopped, as a part of 1.
    """

    extendable = True

    def __init__(
        self,
        max_steps: int,
        checkpoints: Sequence[int] | None = None,
        points: Sequence[int] | None = None,
        accumulation: int = 8,
        threshold: float = 0.5,
    ) -> None:
        self.max_steps = whole(max_steps, "the number of steps of a trial", 2)
        given = [max_steps // 4, max_steps // 2] if checkpoints is None else checkpoints
        self.checkpoints = sorted({whole(step, "a checkpoint", 0) for step in given} - ({0} if checkpoints is None else set()))
        if not self.checkpoints or self.checkpoints[0] < 1 or self.checkpoints[-1] >= max_steps:
            raise UserError(f"the checkpoints have to lie between step 1 and step {max_steps - 1}, and they are {list(given)}")
        self.points = sorted({whole(step, "a point") for step in points or range(1, self.checkpoints[-1] + 1)})
        if self.points[0] > self.checkpoints[0]:
            raise UserError(f"the first checkpoint is step {self.checkpoints[0]}, and no point lies up to there: {self.points}")
        self.accumulation = whole(accumulation, "accumulation")
        if not 0 < threshold <= 1:
            raise UserError(f"the rank threshold has to lie between 0 and 1, and it is {threshold}")
        self.threshold = threshold

    def start(self, space: Space, total: int, seed: int) -> None:
        from sortedcontainers import SortedList

        self._places = {step: sum(point <= step for point in self.points) for step in self.checkpoints}
        self._curves = {step: Neighbours(self._places[step]) for step in self.checkpoints}
        self._ends: list[Score] = []  # of the recorded trials, in the order of recording
        self._ranking: SortedList = SortedList()

    def request(self, trials: Sequence[TrialRecord], more: bool, waiting: int) -> Request | None:
        return Request(self.max_steps) if more else None

    def checks(self, start: int, stop: int) -> tuple[int, ...]:
        return tuple(step for step in self.checkpoints if start < step < stop)

    def judge(self, trial: TrialRecord, step: int) -> Verdict:
        if step not in self._curves or trial.number < self.accumulation or len(self._ends) < self.accumulation:
            return Verdict.CONTINUE
        return Verdict.STOP if self.rank_percentage(trial, step) > self.threshold else Verdict.CONTINUE

    def rank_percentage(self, trial: TrialRecord, step: int) -> float:
        """The part of the recorded ends that are better than the one predicted for a trial at a checkpoint."""
        prediction = self._ends[self._curves[step].nearest(self._curve(trial, self._places[step]))]
        return float(self._ranking.bisect_left(prediction)) / len(self._ranking)

    def _curve(self, trial: TrialRecord, places: int) -> list[float]:
        losses = [trial.losses[point - 1] for point in self.points[:places]]
        return [loss if abs(loss) < FAR else FAR for loss in losses]  # false for NaN

    def rest(self, trial: TrialRecord) -> Sequence[int]:
        if trial.state is State.DONE and trial.step >= self.points[-1]:
            for step, curves in self._curves.items():
                curves.add(self._curve(trial, self._places[step]))
            self._ends.append(trial.last)
            self._ranking.add(trial.last)
        return ()

    def definition(self) -> dict[str, Any]:
        return {
            "engine": "LearningCurveMatching",
            "max_steps": self.max_steps,
            "checkpoints": self.checkpoints,
            "points": self.points,
            "accumulation": self.accumulation,
            "threshold": self.threshold,
        }
