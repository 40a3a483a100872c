"""Hyperband (Li, Jamieson, DeSalvo, Rostamizadeh and Talwalkar, JMLR 2018, algorithm 1).

Brackets s = s_max, ..., 0 of successive halving, each with n = ceil((s_max + 1) eta^s / (s + 1)) configurations that begin with
r = R eta^-s steps; s_max is the largest s with eta^s <= R / r_min. Sweep follows sweep until the trials are used up. A
bracket's rungs wait for all their trials, but brackets do not wait for each other: idle trainers begin the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from openhpo.engines.base import Engine, Request, rungs_between
from openhpo.engines.halving import Bracket, steps_of
from openhpo.space import Space
from openhpo.stages import TrialRecord


class Hyperband(Engine):
    """Successive halving with several compromises between many short and few long trials.

    Args:
        max_steps: R, the most a trial trains.
        min_steps: The least a trial trains.
        reduction_factor: eta.
    """

    promotes = True

    def __init__(self, max_steps: int, min_steps: int = 1, reduction_factor: int = 3) -> None:
        rungs_between(min_steps, max_steps, reduction_factor)
        self.max_steps = max_steps
        self.min_steps = min_steps
        self.reduction_factor = reduction_factor
        self.size = sum(bracket.size for bracket in self.sweep())

    def sweep(self) -> list[Bracket]:
        """The brackets of one sweep, the one with the most trials first."""
        eta, brackets = self.reduction_factor, []
        s_max = 0  # in whole numbers, as floor(log(81) / log(3)) is 3 in floating point
        while self.min_steps * eta ** (s_max + 1) <= self.max_steps:
            s_max += 1
        for s in range(s_max, -1, -1):
            size = math.ceil((s_max + 1) * eta**s / (s + 1))
            rungs = [max(1, round(self.max_steps / eta ** (s - rung))) for rung in range(s + 1)]
            brackets.append(Bracket(size, rungs, eta))
        return brackets

    def start(self, space: Space, total: int, seed: int) -> None:
        self._left = total
        self._coming: list[Bracket] = []
        self._brackets: list[Bracket] = []
        self._of: dict[int, Bracket] = {}

    def request(self, trials: Sequence[TrialRecord], more: bool, waiting: int) -> Request | None:
        for bracket in self._brackets:
            promotion = bracket.next()
            if promotion is not None:
                return promotion
        if not more:
            return None
        if not self._brackets or self._brackets[-1].full:
            self._open()
        bracket = self._brackets[-1]
        bracket.begun += 1
        self._left -= 1
        self._of[len(trials)] = bracket
        return Request(bracket.rungs[0])

    def _open(self) -> None:
        self._coming = self._coming or self.sweep()
        bracket = self._coming.pop(0)
        if bracket.size > self._left:  # the last one gets what is left
            bracket = Bracket(self._left, bracket.rungs, self.reduction_factor)
        self._brackets = [other for other in self._brackets if not other.over] + [bracket]

    def rest(self, trial: TrialRecord) -> Sequence[int]:
        return self._of[trial.number].rest(trial)

    def expected_steps(self, total: int) -> float:
        sweep = self.sweep()
        return sum(steps_of(bracket) for bracket in sweep) * total / sum(bracket.size for bracket in sweep)

    def definition(self) -> dict[str, Any]:
        return {
            "engine": "Hyperband",
            "max_steps": self.max_steps,
            "min_steps": self.min_steps,
            "reduction_factor": self.reduction_factor,
        }
