"""Population based training (Jaderberg et al. 2017, arXiv 1711.09846), asynchronous.

A member trains `interval` steps (step), reports its objective (eval), and is then ready: where it is among the worst quarter of
the population it goes on with the model of one of the best quarter (exploit, truncation selection) and hyperparameters derived
from that one's (explore: each is multiplied by 0.8 or 1.2, or drawn anew). No member waits for another: it is compared with
what the others reported last, and takes its donor's state from where that one last rested, while the donor trains on. A
member's steps are those of the model it holds, so it may jump ahead or back; it is done when its model has trained for
`max_steps`.

Where there are fewer trainers than members, those that have trained least are taken first.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from openhpo.engines.base import Engine, Request
from openhpo.errors import UserError, meant, whole
from openhpo.hyperparameters import Categorical, Config, Float, Integer
from openhpo.keyed import KeyedGenerator
from openhpo.objective import NO_SCORE, Score
from openhpo.space import Space
from openhpo.stages import State, TrialRecord

if TYPE_CHECKING:
    import numpy
    from sortedcontainers import SortedList

ATTEMPTS = 100  # to find a configuration that is not forbidden


class PopulationBased(Engine):
    """Evolve models and hyperparameters together. The study's trials are the members.

    Args:
        max_steps: What a model trains to.
        interval: Steps between two decisions.
        quantile: The part of the population that is replaced, and the part that donors come from.
        factors: What a number is multiplied by when it is perturbed; an ordinal moves to a neighbour instead.
        resample: The probability that a hyperparameter is drawn anew instead. A choice without order only changes so.
        mutate: The hyperparameters that may change during training, which reads them anew at each step; all Float ones by
        default.
    """

    forks = True

    def __init__(
        self,
        max_steps: int,
        interval: int = 1,
        quantile: float = 0.25,
        factors: Sequence[float] = (0.8, 1.2),
        resample: float = 0.25,
        mutate: Sequence[str] | None = None,
    ) -> None:
        self.max_steps = whole(max_steps, "the number of steps of a trial")
        self.interval = whole(interval, "interval")
        if not 0 < quantile <= 0.5:
            raise UserError(f"quantile has to lie above 0 and be at most 0.5, and it is {quantile}")
        if not 0 <= resample <= 1:
            raise UserError(f"resample is a probability between 0 and 1, not {resample}")
        if not factors or not all(isinstance(factor, int | float) and factor > 0 for factor in factors):
            raise UserError(f"factors have to be numbers above 0, and they are {factors!r}")
        self.quantile = quantile
        self.factors = list(factors)
        self.resample = resample
        self.mutate = None if mutate is None else list(mutate)

    def start(self, space: Space, total: int, seed: int) -> None:
        from sortedcontainers import SortedList

        if total < 2:
            raise UserError("population based training needs two members at least: trials=8, or --trials 8")
        for name in self.mutate or ():
            if name not in space.free:
                raise UserError(f"mutate names {name!r}, which is not searched.{meant(name, space.free)}")
        self._names = (
            [name for name in space.free if isinstance(space.hyperparameters[name], Float)]
            if self.mutate is None
            else self.mutate
        )
        if not self._names:
            raise UserError(
                f"there is nothing to mutate: no Float is searched. Name some of {', '.join(space.free)}: mutate=[…]"
            )
        self._space = space
        self._seed = seed
        self._keyed = KeyedGenerator()  # for each decision of a member
        self._ranking: SortedList = SortedList()  # (violation, loss, member), the best first
        self._rests: dict[int, Rest] = {}  # by member, of those whose model still is the one that rested
        self._to_begin = total
        self._decisions: dict[int, int] = {}  # by member, how many there were
        self._ready: list[tuple[int, int]] = []  # heap of (steps, member)
        self._batch = 0  # the steps of those that are being handed out together

    def request(self, trials: Sequence[TrialRecord], more: bool, waiting: int) -> Request | None:
        if self._to_begin:  # those have trained least
            if not more:
                return None
            self._to_begin -= 1
            return Request(min(self.interval, self.max_steps))
        if self._ready and (waiting == 0 or self._ready[0][0] <= self._batch):
            self._batch, number = heapq.heappop(self._ready)
            return self._go_on(number)
        return None

    def _go_on(self, member: int) -> Request:
        rest = self._rests[member]
        decision = self._decisions[member] = self._decisions.get(member, 0) + 1
        self._keyed.rekey(self._seed, (member + 1 << 32) + decision)
        rng = self._keyed.generator
        donor = self._donor(member, rng)
        if donor is None:
            return Request(min(rest.step + self.interval, self.max_steps), member, -rest.step)
        self._forget(member)  # its model is gone, and what it scored with it
        theirs = self._rests[donor]
        stop = min(theirs.step + self.interval, self.max_steps)
        return Request(stop, member, -theirs.step, donor, self._explore(theirs.config, rng))

    def _donor(self, member: int, rng: numpy.random.Generator) -> int | None:
        """Truncation selection: whom a member of the worst quarter is to copy."""
        few = int(len(self._ranking) * self.quantile)
        if few == 0 or self._ranking.index(self._rests[member].place) < len(self._ranking) - few:
            return None
        donor = int(self._ranking[int(rng.integers(few))][-1])
        rest = self._rests[donor]
        # a model that is done has nothing left to train
        return None if rest.score == NO_SCORE or rest.done else donor

    def _explore(self, config: Config, rng: numpy.random.Generator) -> Config:
        """Hyperparameters derived from a donor's."""
        rules = self._space.rules
        for _ in range(ATTEMPTS):
            values = {name: rules.value(name, rng.random()) for name in self._space.free}  # for those that become active
            fresh = {name: values[name] for name in self._names}
            for name in self._names:
                if name in config and rng.random() >= self.resample:
                    fresh[name] = self._perturb(name, config[name], rng)
            found = self._space.configuration({**values, **config, **fresh})
            if found is not None:
                return found
        return config

    def _perturb(self, name: str, value: Any, rng: numpy.random.Generator) -> Any:
        item = self._space.hyperparameters[name]
        factor = self.factors[int(rng.integers(len(self.factors)))]
        if isinstance(item, Categorical):
            if not item.ordered:
                return value
            place = list(item.choices).index(value) + (1 if factor > 1 else -1)
            return item.choices[min(max(place, 0), len(item.choices) - 1)]
        lower, upper = item.bounds
        if isinstance(item, Integer):
            moved = round(value * factor)
            value = moved if moved != value else value + (1 if factor > 1 else -1)
        else:
            value = value * factor
        return min(max(value, lower), upper)

    def rest(self, trial: TrialRecord) -> Sequence[int]:
        self._forget(trial.number)
        if trial.state in (State.PAUSED, State.DONE):
            # numbers side by side, as these are compared some thirty times a decision
            place = (trial.last.violation, trial.last.loss, trial.number)
            done = trial.state is State.DONE or trial.step >= self.max_steps
            self._rests[trial.number] = Rest(trial.last, trial.step, trial.config, place, done)
            self._ranking.add(place)
        if trial.state is State.PAUSED:
            heapq.heappush(self._ready, (trial.step, trial.number))
        return ()

    def _forget(self, member: int) -> None:
        rest = self._rests.pop(member, None)
        if rest is not None:
            self._ranking.remove(rest.place)

    def definition(self) -> dict[str, Any]:
        return {
            "engine": "PopulationBased",
            "max_steps": self.max_steps,
            "interval": self.interval,
            "quantile": self.quantile,
            "factors": self.factors,
            "resample": self.resample,
            "mutate": self.mutate,
        }


class Rest(msgspec.Struct, frozen=True, gc=False):
    """Where a member last came to rest."""

    score: Score
    step: int
    config: Config
    place: tuple[float, float, int]  # in the ranking
    done: bool = False
