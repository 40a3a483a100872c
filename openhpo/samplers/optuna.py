"""Any sampler of Optuna (Akiba, Sano, Yanase, Ohta and Koyama, KDD 2019): TPESampler, GPSampler, CmaEsSampler, ...

For each suggestion Optuna is given a study in memory that holds the history, and a sampler made anew, seeded by the trial's
number. So suggestions are a function of the history, as others are; but for what a sampler keeps with trials, as CmaEsSampler
does, which is known as long as the run goes on: continued by another run, such a search begins anew from its best trial.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openhpo.errors import UserError, meant
from openhpo.hyperparameters import Categorical, Config, Float
from openhpo.samplers.base import Suggest
from openhpo.samplers.sobol import SobolPoints
from openhpo.space import Space
from openhpo.stages import AT_REST, State, TrialRecord

if TYPE_CHECKING:
    import numpy

ATTEMPTS = 20  # suggestions that may be forbidden before a point is drawn evenly
SEQUENCES = {"QMCSampler": "sobol", "GridSampler": "grid", "BruteForceSampler": "grid"}  # each the same anew in each study


class Optuna:
    """Have Optuna decide what to try next. Needs `pip install openhpo[optuna]`.

    Args:
        name: A class of `optuna.samplers`, such as "TPESampler", or a dotted path to another one.
        wait: Whether an idle trainer waits for a suggestion, or trains a point of a quasi-random sequence meanwhile.
        options: What the class takes, plain values alone: multivariate=True.

    Raises:
        UserError: Optuna is not installed, or has no such sampler, or that does not take these options.
    """

    def __init__(self, name: str = "TPESampler", *, wait: bool = True, **options: Any) -> None:
        if "seed" in options:
            raise UserError("the study's seed is what decides Optuna's samplers too: give seed= or --seed there")
        self.name = name
        self.wait = wait
        self.options = options

    def bind(self, space: Space, seed: int) -> OptunaSearch:
        return OptunaSearch(self, space, seed)

    def definition(self) -> dict[str, Any]:
        return {"sampler": "Optuna", "name": self.name, "wait": self.wait, "options": self.options}

    def find(self) -> Any:
        """The class."""
        try:
            import optuna
        except ImportError:
            raise UserError("samplers of Optuna need Optuna: pip install 'openhpo[optuna]'") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if "." not in self.name:
            if not hasattr(optuna.samplers, self.name):
                known = [name for name in optuna.samplers.__all__ if name.endswith("Sampler")]
                raise UserError(f"Optuna has no sampler {self.name!r}.{meant(self.name, known)} It has {', '.join(known)}")
            return getattr(optuna.samplers, self.name)
        module, _, name = self.name.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"there is no sampler {self.name!r}: {error}") from None


class OptunaSearch(Suggest):
    """A sampler of Optuna in one space."""

    slow = True

    def __init__(self, sampler: Optuna, space: Space, seed: int) -> None:
        if sampler.name in SEQUENCES:
            raise UserError(
                f"{sampler.name} goes through a sequence that openhpo has itself: --sampler {SEQUENCES[sampler.name]}"
            )
        self._class = sampler.find()
        self._options = sampler.options
        self._name = sampler.name
        self._space = space
        self._even = SobolPoints(space, seed)
        self.waits = sampler.wait
        self._distributions = {name: self._distribution(name) for name in space.free}
        self._kept: dict[str, dict[str, Any]] = {}  # what Optuna's sampler keeps with a trial, by its configuration
        self._sampler(0)

    def _sampler(self, seed: int) -> Any:
        import warnings

        import optuna

        options = {**self._options, "seed": seed}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            try:
                return self._class(**options)
            except (TypeError, ValueError, ImportError) as error:
                raise UserError(f"Optuna's {self._name} cannot be made: {error}") from None

    def _distribution(self, name: str) -> Any:
        from optuna import distributions

        item = self._space.hyperparameters[name]
        if isinstance(item, Categorical):
            places = len(item.choices)
            if item.ordered:
                return distributions.IntDistribution(0, places - 1)
            return distributions.CategoricalDistribution(range(places))
        if isinstance(item, Float):
            return distributions.FloatDistribution(*item.bounds, item.log)
        return distributions.IntDistribution(*item.bounds, item.log)

    # ---- values here and there: choices are known there by their places

    def _there(self, name: str, value: Any) -> Any:
        item = self._space.hyperparameters[name]
        return list(item.choices).index(value) if isinstance(item, Categorical) else value

    def _here(self, name: str, value: Any) -> Any:
        item = self._space.hyperparameters[name]
        return item.choices[value] if isinstance(item, Categorical) else value

    # ---- suggestions

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config:
        import warnings

        import optuna

        if not self._space.free:
            return self._even(number, history, rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(sampler=self._sampler(int(rng.integers(1 << 32))))
            study.add_trials([self._trial(record) for record in history])
            for _ in range(ATTEMPTS):
                trial = study.ask()
                config = self._config(trial)
                if config is not None:
                    self._kept[_key(config)] = dict(study.get_trials(deepcopy=False)[-1].system_attrs)
                    return config
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return self._space.sample(rng)

    def _config(self, trial: Any) -> Config | None:
        """Ask for the active hyperparameters, parents before children."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        values: Config = {}
        rules = self._space.rules
        for name in rules.order:
            if name not in self._distributions or not rules.is_active(name, {**self._space.fixed, **values}):
                continue
            asked = self._distributions[name]
            if isinstance(asked, CategoricalDistribution):
                found = trial.suggest_categorical(name, asked.choices)
            elif isinstance(asked, FloatDistribution):
                found = trial.suggest_float(name, asked.low, asked.high, log=asked.log)
            else:
                found = trial.suggest_int(name, asked.low, asked.high, log=asked.log)
            values[name] = self._here(name, found)
        return self._space.configuration(values)

    def _trial(self, record: TrialRecord) -> Any:
        """A trial as Optuna knows it; one that its engine ended, or may continue, counts as pruned."""
        from optuna.trial import TrialState, create_trial

        params = {name: self._there(name, record.config[name]) for name in self._distributions if name in record.config}
        state, value = TrialState.RUNNING, None
        if record.state is State.FAILED or (record.state in AT_REST and math.isnan(record.score.loss)):
            state = TrialState.FAIL
        elif record.state is State.DONE:
            state, value = TrialState.COMPLETE, record.score.loss
            if record.score.violation == math.inf:
                state, value = TrialState.FAIL, None
        elif record.state in AT_REST:
            state = TrialState.PRUNED
        kept = dict(self._kept.get(_key(record.config), {}))
        if record.score.margins and state in (TrialState.COMPLETE, TrialState.PRUNED):
            kept["constraints"] = list(record.score.margins)
        return create_trial(
            state=state,
            value=value,
            params=params,
            distributions={name: self._distributions[name] for name in params},
            system_attrs=kept,
            intermediate_values={step: loss for step, loss in enumerate(record.losses, 1) if not math.isnan(loss)},
        )


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
