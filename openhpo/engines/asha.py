"""ASHA, asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020).

Rung k = 0, 1, ... holds the trials that have trained for r eta^(s + k) steps, the last rung those that have trained for R. An
idle trainer takes a promotion, from the highest rung in which a trial is among the best 1 / eta and has not been promoted yet
(algorithm 2, get_job); where there is none, a new trial begins in rung 0. Nobody waits for a rung to fill.

The stopping variant (as in Ray Tune and Syne Tune) never pauses: at each rung a trial goes on where it is among the best 1 /
eta of those that have got there so far, and is stopped otherwise.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import msgspec

from openhpo.engines.base import Engine, Request, rungs_between
from openhpo.errors import UserError, whole
from openhpo.objective import NO_SCORE, Score
from openhpo.space import Space
from openhpo.stages import State, TrialRecord, Verdict


class Rung:
    """The trials that have come to a rung, the best 1 / eta of them apart; taking one in costs O(log n)."""

    def __init__(self, eta: int) -> None:
        self._eta = eta
        self._count = 0
        self._top: list[Worst] = []  # heap of the best count / eta, the worst of them first
        self._rest: list[tuple[Score, int]] = []  # heap of the others, the best first
        self._within: set[int] = set()  # numbers in top that have not been promoted
        self._promoted: set[int] = set()  # some of them may have fallen out of top since
        self._ready: list[tuple[Score, int]] = []  # heap of those, the best first; some may have left since

    def add(self, score: Score, number: int) -> bool:
        """Take a trial in; return whether it is among the best 1 / eta."""
        self._count += 1
        heapq.heappush(self._rest, (score, number))
        if len(self._top) < self._count // self._eta:
            self._admit()
        elif self._top and self._top[0] < Worst(score, number):
            gone = heapq.heappop(self._top)
            self._within.discard(gone.number)
            heapq.heappush(self._rest, (gone.score, gone.number))
            self._admit()
        return number in self._within

    def _admit(self) -> None:
        score, number = heapq.heappop(self._rest)
        heapq.heappush(self._top, Worst(score, number))
        if number not in self._promoted:
            self._within.add(number)
            heapq.heappush(self._ready, (score, number))

    def promote(self) -> int | None:
        """Take the best trial that is to be promoted."""
        while self._ready:
            score, number = heapq.heappop(self._ready)
            if number in self._within and score != NO_SCORE:
                self._within.remove(number)
                self._promoted.add(number)
                return number
        return None

    def __len__(self) -> int:
        return self._count


class Worst(msgspec.Struct, frozen=True, gc=False):
    """Sorts the other way round."""

    score: Score
    number: int

    def __lt__(self, other: Worst) -> bool:
        return (self.score, self.number) > (other.score, other.number)


class ASHA(Engine):
    """Promote the best of each rung as soon as that is known.

    Args:
        max_steps: R, what the last rung trains to.
        min_steps: r, what rung 0 does where s is 0.
        reduction_factor: eta.
        early_stopping_rate: s; the first rung is r eta^s.
        stopping: The stopping variant.
        double_ranks: Train a trial on twice as many ranks from each rung on, as RASDA does (Aach, Sedona, Lintermann et al.,
            "Resource-Adaptive Successive Doubling for Hyperparameter Optimization with Large Datasets on High-Performance
            Computing Systems", arXiv 2412.02729, 2024). Only where trials pause at rungs.

    Raises:
        UserError: The numbers make no sense.
    """

    extendable = True
    promotes = True

    def __init__(
        self,
        max_steps: int,
        min_steps: int = 1,
        reduction_factor: int = 3,
        early_stopping_rate: int = 0,
        *,
        stopping: bool = False,
        double_ranks: bool = False,
    ) -> None:
        rungs = rungs_between(min_steps, max_steps, reduction_factor)
        if whole(early_stopping_rate, "early_stopping_rate", 0) >= len(rungs):
            raise UserError(f"early_stopping_rate is {early_stopping_rate}, but there are only {len(rungs)} rungs: {rungs}")
        self.rungs = rungs[early_stopping_rate:]
        self.max_steps = max_steps
        self.min_steps = min_steps
        self.reduction_factor = reduction_factor
        self.early_stopping_rate = early_stopping_rate
        if stopping and double_ranks:
            raise UserError("double_ranks needs trials that pause at rungs: with stopping they do not")
        self.stopping = stopping
        self.widens = double_ranks

    def start(self, space: Space, total: int, seed: int) -> None:
        self._rungs = {step: Rung(self.reduction_factor) for step in self.rungs[:-1]}
        self._next = dict(zip(self.rungs, self.rungs[1:], strict=False))
        self._level = {step: level for level, step in enumerate(self.rungs)}
        self._from_above = [(step, self._rungs[step]) for step in reversed(self.rungs[:-1])]

    def request(self, trials: Sequence[TrialRecord], more: bool, waiting: int) -> Request | None:
        if self.stopping:
            return Request(self.max_steps) if more else None
        for step, rung in self._from_above:
            number = rung.promote()
            if number is not None:
                return Request(self._next[step], number, priority=self._level[step] + 1)
        return Request(self.rungs[0]) if more else None

    def rest(self, trial: TrialRecord) -> Sequence[int]:
        if trial.state is State.PAUSED:
            self._rungs[trial.step].add(trial.last, trial.number)
        return ()

    def judge(self, trial: TrialRecord, step: int) -> Verdict:
        if not self.stopping or step not in self._rungs:
            return Verdict.CONTINUE
        rung = self._rungs[step]
        among = rung.add(trial.last, trial.number)
        # the first eta - 1 go on, as there is nothing to tell from yet
        return Verdict.CONTINUE if among or len(rung) < self.reduction_factor else Verdict.STOP

    def checks(self, start: int, stop: int) -> tuple[int, ...]:
        return tuple(step for step in self.rungs if start < step < stop) if self.stopping else ()

    def widening(self, step: int) -> int:
        return 1 << sum(rung <= step for rung in self.rungs)

    def expected_steps(self, total: int) -> float:
        ends = zip([0, *self.rungs], self.rungs, strict=False)
        return float(sum(total / self.reduction_factor**k * (stop - start) for k, (start, stop) in enumerate(ends)))

    def definition(self) -> dict[str, Any]:
        return {
            "engine": "ASHA",
            "max_steps": self.max_steps,
            "min_steps": self.min_steps,
            "reduction_factor": self.reduction_factor,
            "early_stopping_rate": self.early_stopping_rate,
            "stopping": self.stopping,
            **({"double_ranks": True} if self.widens else {}),
        }
