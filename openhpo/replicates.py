"""A configuration that is trained several times with different seeds, as engines and samplers see it: one trial with means.

Rules:
- A step is known once every replicate has come to it that has not failed before. One whose training ended by itself counts at
  later steps with the last score that it had, one that failed no longer.
- A configuration is feasible where each of its replicates is.
- A configuration fails when fewer than half of its replicates are left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from openhpo.keyed import key
from openhpo.objective import Margins, Score
from openhpo.stages import AT_REST, State, TrialRecord


class Replicates:
    """The replicates of one configuration.

    Attributes:
        record: The configuration as one trial; `losses` are means and `errors` their standard errors.
        trials: Its replicates.
        stopped: Whether its engine has stopped it.

    Args:
        record: A new one.
        trials: New ones.
    """

    __slots__ = ("_scores", "record", "stopped", "trials")

    def __init__(self, record: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        self.record = record
        self.trials = trials
        self.stopped = False
        self._scores: list[list[Score | None]] = [[] for _ in trials]

    def tell(self, trial: TrialRecord, score: Score | None) -> None:
        """A replicate has come to its next step."""
        self._scores[trial.number % len(self.trials)].append(score)

    def known(self) -> Iterator[int]:
        """Take in the steps that have become known; yields each."""
        while True:
            step, found, reported = self.record.step + 1, list[Score | None](), False
            for trial, scores in zip(self.trials, self._scores, strict=True):
                if len(scores) >= step:
                    found.append(scores[step - 1])
                    reported = True
                elif trial.state is State.DONE and scores:
                    found.append(next((score for score in reversed(scores) if score is not None), None))
                elif trial.state not in (State.DONE, State.FAILED):
                    return
            if not reported:
                return
            self._take(step, found)
            yield step

    def _take(self, step: int, found: list[Score | None]) -> None:
        record, scores = self.record, [score for score in found if score is not None]
        record.step = step
        if len(scores) < len(found):  # one of them did not report what the objective needs
            record.losses.append(math.nan)
            record.errors.append(math.nan)
            return
        score = mean_of(scores)
        record.last = score
        record.losses.append(score.loss if math.isfinite(score.loss) else math.nan)
        record.errors.append(standard_error([one.loss for one in scores]))
        if score < record.score:
            record.score, record.best_step = score, step

    @property
    def lost(self) -> bool:
        """Whether too few are left."""
        failed = sum(trial.state is State.FAILED for trial in self.trials)
        return len(self.trials) - failed < (len(self.trials) + 1) // 2

    @property
    def rests(self) -> State | None:
        """How the configuration has come to rest; None while one of its replicates has not."""
        states = {trial.state for trial in self.trials}
        if not states <= AT_REST:
            return None
        if self.lost:
            return State.FAILED
        if self.stopped:
            return State.STOPPED
        return State.DONE if states <= {State.DONE, State.FAILED} else State.PAUSED

    @property
    def error(self) -> str:
        """What the first of those that failed failed with."""
        return next((trial.error for trial in self.trials if trial.state is State.FAILED), "")


def mean_of(scores: Sequence[Score]) -> Score:
    """The score of a configuration from those of its replicates."""
    count = len(scores)
    margins = Margins(math.fsum(sides) / count for sides in zip(*(score.margins for score in scores), strict=True))
    losses = [score.loss for score in scores]
    loss = math.fsum(losses) / count if all(math.isfinite(loss) for loss in losses) else math.inf
    return Score(math.fsum(score.violation for score in scores) / count, loss, margins)


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean of some values; NaN of a single one."""
    count = len(values)
    if count < 2 or not all(math.isfinite(value) for value in values):
        return math.nan
    mean = math.fsum(values) / count
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)


def seed_of(seed: int, replicate: int) -> int:
    """The seed of a replicate; the first one has the study's, so that more replicates change nothing of it."""
    return seed if replicate == 0 else key(seed, -replicate) >> 1
