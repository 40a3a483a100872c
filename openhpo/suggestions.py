"""Where the configurations of a study come from: first what its user wants tried, then its sampler.

A slow sampler is asked elsewhere: `draw` gives a call to make in another thread, on a copy of what is known, and `suggested`
takes what came of it. So what a study does follows from when suggestions came, which its file tells, and never from how long
anything took.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from openhpo.errors import UserError, meant
from openhpo.hyperparameters import Config
from openhpo.keyed import KeyedGenerator, key
from openhpo.objective import Score
from openhpo.samplers import Sampler
from openhpo.samplers.sobol import SobolPoints
from openhpo.space import ATTEMPTS, Space
from openhpo.stages import State, TrialRecord

FINAL = frozenset({State.DONE, State.STOPPED, State.FAILED})


class Suggestion(NamedTuple):
    """What a sampler said.

    Attributes:
        config: The configuration; None where the search is over.
        remarks: What the study file should tell of it.
    """

    config: Config | None
    remarks: Sequence[dict[str, Any]] = ()


class Known(NamedTuple):
    """What a sampler knows from an earlier study.

    Attributes:
        source: What that one is called.
        trials: Its trials, scored by this study's objective.
    """

    source: str
    trials: Sequence[TrialRecord]

    def definition(self) -> dict[str, Any]:
        """All of it in plain JSON; of learning curves what improves."""
        trials = [
            {
                "config": trial.config,
                "state": trial.state.value,
                "step": trial.step,
                "score": trial.score.definition(),
                "best_step": trial.best_step,
                "curve": [
                    [step, loss if math.isfinite(loss) else None]
                    for step, loss in enumerate(trial.losses, 1)
                    if not math.isnan(loss)
                ],
            }
            for trial in self.trials
        ]
        return {"source": self.source, "trials": trials}

    @staticmethod
    def from_definition(definition: Mapping[str, Any]) -> Known:
        """What `definition` describes."""
        return Known(definition["source"], [_record(place, described) for place, described in enumerate(definition["trials"])])


def _record(place: int, described: Mapping[str, Any]) -> TrialRecord:
    record = TrialRecord(-1 - place, described["config"], State(described["state"]), described["step"])
    record.losses.extend([math.nan] * record.step)
    for step, loss in described["curve"]:
        record.losses[step - 1] = math.inf if loss is None else loss
    record.score = record.last = Score.from_definition(described["score"])
    record.best_step = described["best_step"]
    return record


class Suggestions:
    """The configurations of a study, one after the other.

    Args:
        sampler: What to try.
        space: What may be tried.
        seed: The study's.
        prior: Configurations to try first; what one leaves open is drawn.
        known: What an earlier study has found.

    Raises:
        UserError: The sampler cannot search this space, or a configuration to try first is none.
    """

    def __init__(
        self, sampler: Sampler, space: Space, seed: int, prior: Sequence[Config] = (), known: Known | None = None
    ) -> None:
        self._suggest = sampler.bind(space, seed)
        self._space = space
        self._seed = seed
        self._prior = prior
        self._check_prior()
        self._history = [] if known is None else list(known.trials)
        self._copies: list[TrialRecord] = []
        self._keyed = KeyedGenerator()
        self._recalled: Sequence[Config] = ()
        self._deferred = False
        self._ready: deque[Suggestion] = deque()
        self._asked = False  # somebody is making a suggestion
        self._points: SobolPoints | None = None

    @property
    def learns(self) -> bool:
        """Whether they depend on results."""
        return self._suggest.learns

    @property
    def ends(self) -> bool:
        """Whether there may be fewer than were asked for."""
        return self._suggest.ends

    @property
    def concludes(self) -> bool:
        """Whether the sampler is to be asked once more at the end."""
        return self._deferred and self._suggest.ends

    @property
    def size(self) -> int | None:
        """How many there are; None for any number."""
        return self._suggest.size

    def defer(self) -> None:
        """From now on have a slow sampler asked by `draw`, and by nothing else."""
        self._deferred = self._suggest.slow

    def recall(self, configs: Sequence[Config]) -> None:
        """From now on, give the first trials these configurations instead of asking the sampler.

        A sampler that learns does so by sums whose last bits may differ from machine to machine, and takes its time.

        Raises:
            ValueError: One of them is none of the space.
        """
        space = self._suggest.reach or self._space
        for number, config in enumerate(configs):
            if not space.holds(config):
                raise ValueError(f"the configuration of trial {number} is none of its space")
        self._recalled = configs

    def add(self, record: TrialRecord) -> None:
        """A trial begins."""
        self._history.append(record)

    def ready(self, number: int) -> bool:
        """Whether a trial of that number may begin, as far as the sampler is concerned."""
        return number < len(self._prior) or bool(self._ready) or self._suggest.ready(number, self._history)

    def take(self, number: int) -> Suggestion | None:
        """The configuration of that trial; None where it has yet to be suggested."""
        recalled = Suggestion(dict(self._recalled[number])) if number < len(self._recalled) else None
        if number < len(self._prior):
            return recalled or Suggestion(self._completed(number))
        if not self._deferred:
            return recalled or self._make(number, self._history, self._keyed)
        if self._ready:
            return self._ready.popleft()
        if self._suggest.waits:
            return None
        if recalled is None:
            self._keyed.rekey(self._seed, number)
            recalled = Suggestion(self._meanwhile(number))
        return recalled

    def draw(self, number: int, *, awaited: bool) -> Callable[[], Suggestion] | None:
        """What to call in another thread to have the next configuration suggested, if that is the thing to do now.

        Args:
            number: That of the next trial.
            awaited: Whether a trainer waits for it.
        """
        wanted = awaited or not (self._suggest.waits or self._ready)
        if not self._deferred or self._asked or not wanted or not self._suggest.ready(number, self._history):
            return None
        self._asked = True
        return partial(self._make, number, self._snapshot(), KeyedGenerator())

    def _meanwhile(self, number: int) -> Config:
        """What to try where nobody waits for the sampler: a sequence of its own, as the sampler may begin with one too."""
        if self._points is None:
            self._points = SobolPoints(self._space, key(self._seed, -1) >> 1)
        return self._points(number, (), self._keyed.generator)

    def suggested(self, suggestion: Suggestion) -> None:
        """A suggestion was made, here or by a run before."""
        self._suggest.heard(suggestion.remarks)
        self._asked = False
        self._ready.append(suggestion)

    def concluded(self, suggestion: Suggestion) -> None:
        """One was made after the last trial, for what is remarked there."""
        self._suggest.heard(suggestion.remarks)
        self._asked = False

    def _make(self, number: int, history: Sequence[TrialRecord], keyed: KeyedGenerator) -> Suggestion:
        keyed.rekey(self._seed, number)
        config = self._suggest(number, history, keyed.generator)
        return Suggestion(config, tuple(self._suggest.remarks()))

    def _snapshot(self) -> list[TrialRecord]:
        """A copy of the history that does not change any more."""
        copies = self._copies
        for place, record in enumerate(self._history):
            if place < len(copies) and copies[place].state in FINAL and copies[place].config is record.config:
                continue
            copies[place : place + 1] = [copied(record)]
        return list(copies)

    # ---- what the user wants tried first

    def _check_prior(self) -> None:
        if self._prior and self.size is not None:
            raise UserError("prior goes with samplers that can try anything, and this one has a list of its own")
        free = self._space.free
        for values in self._prior:
            for name, value in values.items():
                if name not in free:
                    raise UserError(
                        f"prior names {name!r}, which is not searched: there are {', '.join(free)}.{meant(name, free)}"
                    )
                if not self._space.rules.legal(name, value):
                    raise UserError(f"prior: {name} cannot be {value!r}, as it is {self._space.hyperparameters[name]}")

    def _completed(self, number: int) -> Config:
        self._keyed.rekey(self._seed, number)
        rules, free = self._space.rules, self._space.free
        for _ in range(ATTEMPTS):
            units = zip(free, self._keyed.generator.random(len(free)).tolist(), strict=True)
            drawn = {name: rules.value(name, unit) for name, unit in units}
            config = self._space.configuration({**drawn, **self._prior[number]})
            if config is not None and config.keys() >= self._prior[number].keys():
                return config
        rules = [*self._space.conditions.values(), *self._space.forbidden]
        raise UserError(f"prior: no configuration has {dict(self._prior[number])}; the space has the rules {'; '.join(rules)}")


def copied(record: TrialRecord) -> TrialRecord:
    """A record that does not change with this one."""
    found = copy.copy(record)
    found.losses = record.losses[:]
    found.errors = record.errors[:]
    return found


def prior_of(prior: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[Config]:
    """Configurations to try first, of one or of several.

    Raises:
        UserError: It is something else.
    """
    given = [] if prior is None else [prior] if isinstance(prior, Mapping) else list(prior)
    if not all(isinstance(values, Mapping) for values in given):
        raise UserError(f"prior has to be a dictionary such as {{'lr': 0.1}}, or a list of them, not {prior!r}")
    return [dict(values) for values in given]
