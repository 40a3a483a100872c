"""Whether what a search found holds: its best configurations, trained again with seeds that the search has not seen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openhpo.engines import Full
from openhpo.errors import UserError, whole
from openhpo.hyperparameters import Categorical, Integer
from openhpo.keyed import key
from openhpo.launch import run
from openhpo.objective import NO_SCORE
from openhpo.result import Result, load
from openhpo.samplers import Listed
from openhpo.space import Space
from openhpo.stages import State
from openhpo.study import Best

CONFIDENCE = 0.95
SLACK = 1e-6  # of a bound: ConfigSpace takes a value at a bound for one beyond it where a logarithm has rounded it so


@dataclass(frozen=True)
class Validated:
    """A configuration, trained again.

    Attributes:
        found: As the search found it.
        values: The objective of each new training at the step that was the best in the search, so that nothing is chosen anew;
            of a training that ended before, at its last step. A first step that was not reached is infinite.
        failed: How many of them failed.
    """

    found: Best
    values: list[float]
    failed: int

    @property
    def mean(self) -> float:
        """Of the values; NaN where there is none."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float:
        """Their standard deviation; NaN of fewer than two."""
        finite = len(self.values) > 1 and all(math.isfinite(value) for value in self.values)
        return statistics.stdev(self.values) if finite else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the mean, by Student's t; NaN of fewer than two values."""
        from scipy.stats import t

        count = len(self.values)
        if count < 2:
            return math.nan, math.nan
        half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * self.spread / math.sqrt(count)
        return self.mean - half, self.mean + half


def validate(
    train: Callable[..., Any],
    study: str | Path,
    *,
    top: int = 5,
    replicates: int = 10,
    seed: int | None = None,
    into: str | Path | None = None,
    precision: str | None = None,
    **more: Any,
) -> list[Validated]:
    """Train the best configurations of a study again, each with several new seeds. Under `mpirun` every rank calls this.

    The best of many trials owes its place to luck as well as to its hyperparameters; what it comes to with other seeds is what
    can be expected of it. The trainings are a study of their own, in `into`, which is continued where it was interrupted.

    Args:
        train: The training function.
        study: The study's folder.
        top: How many configurations.
        replicates: How often to train each.
        seed: Decides the new seeds; by default one that follows from the study's.
        into: The folder of the new study; within that of the old one by default.
        precision: The arithmetic; the study's by default.
        more: Further arguments of `run`, such as ranks, device, time_limit or app.

    Returns:
        The best mean first.

    Raises:
        UserError: There is no such study, it has no result yet, or its trials changed hyperparameters in training.
    """
    result = load(study)
    best = result.top(whole(top, "top"))
    if not best:
        raise UserError(f"no trial of {study} has a result to validate")
    if result.forks:
        raise UserError(
            f"trials of {result.definition['engine']} change hyperparameters in training, so none can be trained again by its "
            "configuration: `openhpo replay` repeats one"
        )
    name = f"validation-top-{top}-replicates-{replicates}" + ("" if precision is None else f"-{precision}")
    seed = key(int(result.definition["seed"]), 1 << 40) >> 1 if seed is None else seed
    again = run(
        train,
        space_of(result, best),
        result.objective,
        engine=Full(int(result.definition["max_steps"])),
        sampler=Listed([found.config for found in best]),
        trials=len(best),
        replicates=whole(replicates, "replicates"),
        study=Path(into) if into is not None else result.path / name,
        seed=seed,
        precision=precision or str(result.definition.get("precision", "fp32")),
        **more,
    )
    if not again.finished:
        raise UserError(
            f"the validation has come to {len(again.configs)} of its {len(best) * again.replicates} trainings, and not all "
            "are at their end: call it again, with the same arguments, to go on"
        )
    found = [validated(again, place, one) for place, one in enumerate(best)]
    sign = result.objective.sign
    return sorted(found, key=lambda one: math.inf if math.isnan(one.mean) else sign * one.mean)


def space_of(result: Result, best: Sequence[Best]) -> Space:
    """The space of a study, made so wide that it holds these configurations: a refinement may have moved its boundaries."""
    space = Space.from_definition(result.definition["space"])
    wide = {}
    for name in space.free:
        item = space.hyperparameters[name]
        values = [found.config[name] for found in best if name in found.config]
        if isinstance(item, Categorical) or not values:
            continue
        low, high = min(item.bounds[0], *values), max(item.bounds[1], *values)
        if (low, high) != tuple(item.bounds):
            wide[name] = (low, high) if isinstance(item, Integer) else (low - SLACK * abs(low), high + SLACK * abs(high))
    return space.within(wide) if wide else space


def validated(again: Result, place: int, found: Best) -> Validated:
    """What the replicates of a configuration came to."""
    values, failed = [], 0
    for trial in range(place * again.replicates, (place + 1) * again.replicates):
        value = _value(again, trial, found.step)
        if again.states[trial] is State.FAILED or value is None:
            failed += 1
        else:
            values.append(value)
    return Validated(found, values, failed)


def _value(again: Result, trial: int, step: int) -> float | None:
    """The objective of a trial at a step, or at its last one before."""
    if again.objective.ends:
        score = again.scores[trial][0]
        return None if score == NO_SCORE else again.objective.value(score)
    found: float | None = None
    for at, metrics in again.reports(trial):
        score_there = again.objective.score(at, metrics)
        if at <= step and score_there is not None and score_there != NO_SCORE:
            found = again.objective.value(score_there)
    return found


def as_dict(found: Validated) -> Mapping[str, Any]:
    """One in plain JSON."""
    low, high = found.interval
    return {
        "trial": found.found.trial,
        "config": found.found.config,
        "searched": found.found.value,
        "mean": found.mean,
        "spread": found.spread,
        "interval": [low, high],
        "values": found.values,
        "failed": found.failed,
    }
