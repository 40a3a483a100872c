"""Successive halving (Karnin, Koren and Somekh 2013; Jamieson and Talwalkar, AISTATS 2016), synchronous.

n configurations train for r steps; of these the best n / eta go on to r eta steps, of those the best n / eta^2 to r eta^2, and
so on up to R. A rung is decided when all that were asked for there have come to rest. Trials go on from where they paused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from openhpo.engines.base import Engine, Request, rungs_between
from openhpo.objective import NO_SCORE
from openhpo.space import Space
from openhpo.stages import State, TrialRecord


class Bracket:
    """One run of successive halving.

    Args:
        size: n, the configurations in the first rung.
        rungs: Their steps, the last one R.
        eta: The reduction factor; rung k takes n / eta^k trials, rounded down, but one at least.
    """

    def __init__(self, size: int, rungs: Sequence[int], eta: int) -> None:
        self.size = size
        self.rungs = list(rungs)
        self.sizes = [max(1, size // eta**rung) for rung in range(len(rungs))]
        self.begun = 0  # trials asked for in the first rung
        self.rung = 0
        self.queue: deque[int] = deque()  # promoted, not yet asked for
        self._expected = size  # trials that are to come to rest in this rung
        self._rested: list[TrialRecord] = []

    @property
    def full(self) -> bool:
        """Whether all configurations of the first rung have been asked for."""
        return self.begun >= self.size

    @property
    def over(self) -> bool:
        """Whether the last rung is decided, or nobody was left for the next."""
        return self._expected == 0

    def rest(self, trial: TrialRecord) -> list[int]:
        """Take in that a trial has come to rest; return those that are out."""
        self._rested.append(trial)
        return self._decide() if len(self._rested) == self._expected else []

    def _decide(self) -> list[int]:
        rested, self._rested = self._rested, []
        alive = [trial for trial in rested if trial.state is State.PAUSED]
        ranked = sorted(alive, key=lambda trial: (trial.last, trial.number))
        self.rung += 1
        room = self.sizes[self.rung] if self.rung < len(self.sizes) else 0
        promoted = [trial.number for trial in ranked[:room] if trial.last != NO_SCORE]
        self.queue.extend(sorted(promoted))
        self._expected = len(promoted)
        return sorted({trial.number for trial in rested} - set(promoted))

    def next(self) -> Request | None:
        """The next promotion."""
        if not self.queue:
            return None
        return Request(self.rungs[self.rung], self.queue.popleft(), priority=self.rung)


class SuccessiveHalving(Engine):
    """Train all trials a little, the best of them further, and so on.

    Args:
        max_steps: R, what the last rung trains to.
        min_steps: r, what the first one does.
        reduction_factor: eta; one in so many goes on to the next rung.
    """

    promotes = True

    def __init__(self, max_steps: int, min_steps: int = 1, reduction_factor: int = 3) -> None:
        self.rungs = rungs_between(min_steps, max_steps, reduction_factor)
        self.max_steps = max_steps
        self.min_steps = min_steps
        self.reduction_factor = reduction_factor

    def start(self, space: Space, total: int, seed: int) -> None:
        self._bracket = Bracket(total, self.rungs, self.reduction_factor)

    def request(self, trials: Sequence[TrialRecord], more: bool, waiting: int) -> Request | None:
        if more and not self._bracket.full:
            self._bracket.begun += 1
            return Request(self.rungs[0])
        return self._bracket.next()

    def rest(self, trial: TrialRecord) -> Sequence[int]:
        return self._bracket.rest(trial)

    def expected_steps(self, total: int) -> float:
        bracket = Bracket(total, self.rungs, self.reduction_factor)
        return float(steps_of(bracket))

    def definition(self) -> dict[str, Any]:
        return {
            "engine": "SuccessiveHalving",
            "max_steps": self.max_steps,
            "min_steps": self.min_steps,
            "reduction_factor": self.reduction_factor,
        }


def steps_of(bracket: Bracket) -> int:
    """The steps that a bracket takes where promoted trials go on from where they paused."""
    ends = zip([0, *bracket.rungs], bracket.rungs, strict=False)
    return sum(size * (stop - start) for size, (start, stop) in zip(bracket.sizes, ends, strict=False))
