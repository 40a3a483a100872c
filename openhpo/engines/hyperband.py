"""Hyperband (Li, Jamieson, DeSalvo, Rostamizadeh and Talwalkar, JMLR 2018, algorithm 1).

Brackets s = s_max, ..., 0 of successive halving, each with n = ceil((s_max + 1) eta^s / (s + 1)) configurations that begin with
r = R eta^-s steps; s_max is the largest s with eta^s <= R / r_min. Sweep follows sweep until the trials are used up. A
bracket's rungs wait for all their trials, but brackets do not wait for each other: idle trainers begin the next one.

With bracket selection (Li et al., "Hyper-Tune", PVLDB 2022) sweeps are replaced by a choice before each bracket: a kind of them
has the larger a share the fewer its first steps are and the better they tell the order that more steps lead to. How well they
tell it is measured by Kendall's tau on the study's trials here, where the paper has surrogate models. A part of the brackets is
divided evenly all the same, so that none dies out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy
from numpy.typing import NDArray

from openhpo.engines.base import Engine, Request, rungs_between
from openhpo.engines.halving import Bracket, steps_of
from openhpo.space import Space
from openhpo.stages import TrialRecord

SWEPT = 0.25  # the part of the brackets that is divided evenly, whatever is known
ASSUMED = (2.0, 4)  # before any two trials can be compared: of four pairs three are in order
COMPARED = 200  # trials at most, the last ones, whose order is compared with that at a later rung


class Hyperband(Engine):
    """Successive halving with several compromises between many short and few long trials.

    Args:
        max_steps: R, the most a trial trains.
        min_steps: The least a trial trains.
        reduction_factor: eta.
        select_brackets: Choose each bracket by how well its first rung has told the order of the later ones, instead of sweep
            after sweep; the first one is that with the most trials. Objectives are compared, whether requirements are met or
            not. The number of trials is what takes about the steps of a sweep.
    """

    promotes = True

    def __init__(self, max_steps: int, min_steps: int = 1, reduction_factor: int = 3, *, select_brackets: bool = False) -> None:
        rungs_between(min_steps, max_steps, reduction_factor)
        self.max_steps = max_steps
        self.min_steps = min_steps
        self.reduction_factor = reduction_factor
        self.select_brackets = select_brackets
        sweep = self.sweep()
        weights = shares(sweep, []) if select_brackets else numpy.ones(len(sweep))
        steps, sizes = [steps_of(bracket) for bracket in sweep], [bracket.size for bracket in sweep]
        self._steps = float(weights @ steps / (weights @ sizes))  # of a trial, in the mean
        self.size = round(sum(steps) / self._steps)

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
        self._due = numpy.zeros(len(self.sweep()))  # how many brackets of each kind should have been begun, and were not
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
            self._open(trials)
        bracket = self._brackets[-1]
        bracket.begun += 1
        self._left -= 1
        self._of[len(trials)] = bracket
        return Request(bracket.rungs[0])

    def _open(self, trials: Sequence[TrialRecord]) -> None:
        if self.select_brackets:
            bracket = self._select(trials)
        else:
            self._coming = self._coming or self.sweep()
            bracket = self._coming.pop(0)
        if bracket.size > self._left:  # the last one gets what is left
            bracket = Bracket(self._left, bracket.rungs, self.reduction_factor)
        self._brackets = [other for other in self._brackets if not other.over] + [bracket]

    def _select(self, trials: Sequence[TrialRecord]) -> Bracket:
        """The bracket that is most overdue by the shares that each should have."""
        sweep = self.sweep()
        self._due += shares(sweep, trials)
        chosen = int(numpy.argmax(self._due)) if trials else 0
        self._due[chosen] -= 1
        return sweep[chosen]

    def rest(self, trial: TrialRecord) -> Sequence[int]:
        return self._of[trial.number].rest(trial)

    def expected_steps(self, total: int) -> float:
        return self._steps * total

    def definition(self) -> dict[str, Any]:
        return {
            "engine": "Hyperband",
            "max_steps": self.max_steps,
            "min_steps": self.min_steps,
            "reduction_factor": self.reduction_factor,
            **({"select_brackets": True} if self.select_brackets else {}),
        }


def shares(sweep: Sequence[Bracket], trials: Sequence[TrialRecord]) -> NDArray[numpy.float64]:
    """How large a part of the next brackets each should be.

    Args:
        sweep: The brackets, one of each kind.
        trials: What is known.

    Returns:
        [bracket], at least `SWEPT` / brackets each, 1 in sum. The rest is in proportion to tau / r, where r is what a trial
        trains first, and tau how well the order of trials there agrees with that at the bracket's later rungs, in their mean; a
        bracket that trains to the end at once has 1.
    """
    worth = numpy.array([_foresight(bracket.rungs, trials) / bracket.rungs[0] for bracket in sweep])
    found: NDArray[numpy.float64] = SWEPT / len(sweep) + (1 - SWEPT) * worth / worth.sum()
    return found


def _foresight(rungs: Sequence[int], trials: Sequence[TrialRecord]) -> float:
    """How well the first rung tells the later ones' order: 0 (not at all, or wrongly) to 1."""
    if len(rungs) == 1:
        return 1.0
    found = []
    for rung in rungs[1:]:
        there = islice((trial.losses for trial in reversed(trials) if len(trial.losses) >= rung), COMPARED)
        pairs = numpy.array([(_last(losses, rungs[0]), _last(losses, rung)) for losses in there]).reshape(-1, 2)
        first, later = pairs[numpy.isfinite(pairs).all(axis=1)].T
        one, other = numpy.triu_indices(len(first), 1)
        agreeing = numpy.sign(first[one] - first[other]) @ numpy.sign(later[one] - later[other])
        found.append((agreeing + ASSUMED[0]) / (len(one) + ASSUMED[1]))
    return max(0.0, float(numpy.mean(found)))


def _last(losses: Sequence[float], step: int) -> float:
    """The last loss that was reported up to a step; NaN where none was."""
    return next((losses[place] for place in range(step - 1, -1, -1) if math.isfinite(losses[place])), math.nan)
