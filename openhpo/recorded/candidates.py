"""Which recorded configurations simulated trials may get, and what these then do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from openhpo.errors import UserError, meant
from openhpo.hyperparameters import Categorical, Config, Float, Integer, Value
from openhpo.objective import NO_SCORE, Objective
from openhpo.recorded.recording import Recording
from openhpo.samplers import Suggest
from openhpo.space import Space
from openhpo.stages import TrialRecord

if TYPE_CHECKING:
    from numpy.random import Generator

AGAIN = "drawn again"  # in a configuration that was drawn before, so that it is trained for itself


class RecordedFailure(Exception):
    """Training raised here when it was recorded."""


class Candidates:
    """The configurations that are recorded far enough, and what training them gives.

    A training that failed when it was recorded, by raising or by an objective that was not finite, fails at the same step.
    Where others were stopped before they came that far, only a part of the failures counts, so that they are not too many.

    Attributes:
        recording: What they come from.
        rows: Their places there.
        played: Steps that have been trained.

    Args:
        recording: What was recorded.
        objective: What is optimised.
        steps: How far a trial may go.
        forks: Whether a model whose objective is not finite is replaced instead of failing.
        axes: Values by hyperparameter, where only configurations with these are wanted.

    Raises:
        UserError: There is no such configuration, or the objective needs a metric that is not recorded.
    """

    def __init__(
        self,
        recording: Recording,
        objective: Objective,
        steps: int,
        *,
        forks: bool = False,
        axes: Mapping[str, int | Sequence[Value]] | None = None,
    ) -> None:
        _check_metrics(recording, objective)
        if steps > recording.longest:
            raise UserError(
                f"{recording.source} has no configuration that is recorded for {steps} steps: the longest is recorded for "
                f"{recording.longest}, so say --steps {recording.longest} at most"
            )
        self.recording = recording
        failed = numpy.zeros_like(recording.lengths) if forks else _failures(recording, objective)
        self._last = numpy.where(failed > 0, failed, recording.lengths)  # steps that a trial can be told of
        self._crashes = recording.crashed & (failed == 0)
        self.rows = _usable(recording, steps, recording.crashed | (failed > 0))
        if axes:
            self.rows = self.rows[_on_axes(recording, axes)[self.rows]]
        if not len(self.rows):
            raise UserError(f"{recording.source} has no configuration with these values that is recorded for {steps} steps")
        self._places = [(name, recording.metrics.index(name)) for name in sorted(objective.needs)]
        self._all_reported = bool(recording.reported.all())
        self._row_of = {_key(recording.configs[row]): row for row in self.rows.tolist()}
        self._nearest: Nearest | None = None
        self.played = 0

    def config(self, row: int, times: int) -> Config:
        """A configuration for a trial, when it was drawn so many times before."""
        config = dict(self.recording.configs[row])
        if times:
            config[AGAIN] = times
            self._row_of[_key(config)] = row
        return config

    def curve(self, config: Config, step: int) -> dict[str, float]:
        """What a configuration reports at a step; the nearest one recorded, where it was changed in training.

        Raises:
            RecordedFailure: Training raised there.
        """
        row = self._row(config)
        last = self._last.item(row)
        if step <= last:
            self.played += 1
        elif self._crashes.item(row):
            raise RecordedFailure(f"it failed at step {last + 1} when it was recorded")
        at, values, reported = min(step, last) - 1, self.recording.values, self.recording.reported
        if self._all_reported:
            return {name: values.item(row, at, place) for name, place in self._places}
        return {name: values.item(row, at, place) for name, place in self._places if reported.item(row, at, place)}

    def pace(self, config: Config, step: int) -> float:
        """Seconds that a step takes; none after a failure."""
        row = self._row(config)
        last = self._last.item(row) + self._crashes.item(row)
        return self.recording.seconds.item(row, step - 1) if step <= last else 0.0

    def setup(self, config: Config) -> float:
        """Seconds before the first step."""
        return self.recording.setup.item(self._row(config))

    def _row(self, config: Config) -> int:
        key = _key(config)
        row = self._row_of.get(key)
        if row is None:
            if self._nearest is None:
                self._nearest = Nearest(self.recording.space, [self.recording.configs[row] for row in self.rows.tolist()])
            row = self._row_of[key] = int(self.rows[self._nearest(config)])
        return row


def _key(config: Config) -> tuple[tuple[str, Any], ...]:
    return tuple(config.items())


def _check_metrics(recording: Recording, objective: Objective) -> None:
    for name in sorted(objective.needs - set(recording.metrics)):
        raise UserError(
            f"{recording.source} has no metric {name!r}; it has {', '.join(recording.metrics) or 'none'}."
            f"{meant(name, recording.metrics)}"
        )


def _usable(recording: Recording, steps: int, fails: NDArray[numpy.bool_]) -> NDArray[numpy.int64]:
    """The configurations recorded so far, and those that failed before: of these as large a part as of those that did not."""
    far = recording.lengths >= steps
    short = int((~far & ~fails).sum())
    early = numpy.flatnonzero(~far & fails)
    kept = early[: round(len(early) * int(far.sum()) / (int(far.sum()) + short))]
    return numpy.sort(numpy.concatenate([numpy.flatnonzero(far), kept]))


def _failures(recording: Recording, objective: Objective) -> NDArray[numpy.int64]:
    """The first step whose objective is not finite, by configuration; 0 where there is none."""
    places = [recording.metrics.index(name) for name in sorted(objective.needs)]
    not_finite = ~numpy.isfinite(recording.values[:, :, places]) & recording.reported[:, :, places]
    odd: NDArray[numpy.bool_] = numpy.any(not_finite, axis=2)
    found = numpy.zeros_like(recording.lengths)
    for row in numpy.flatnonzero(odd.any(axis=1)).tolist():
        steps = (numpy.flatnonzero(odd[row]) + 1).tolist()
        found[row] = next((step for step in steps if _score_is_lost(recording, objective, row, step)), 0)
    return found


def _score_is_lost(recording: Recording, objective: Objective, row: int, step: int) -> bool:
    values, reported = recording.values[row, step - 1].tolist(), recording.reported[row, step - 1].tolist()
    told = {name: value for name, value, there in zip(recording.metrics, values, reported, strict=True) if there}
    return objective.score(step, told) == NO_SCORE


def _on_axes(recording: Recording, axes: Mapping[str, int | Sequence[Value]]) -> NDArray[numpy.bool_]:
    """Whether a configuration lies on a grid."""
    names = list(dict.fromkeys(name for config in recording.configs for name in config))
    found = numpy.ones(len(recording.configs), bool)
    for name, values in axes.items():
        if name not in names:
            raise UserError(f"{recording.source} has no hyperparameter {name!r}.{meant(name, names)}")
        if isinstance(values, int):
            raise UserError(
                f"--axis {name}={values}: only what is recorded can be simulated, so name the values: {name}=0.1,0.2"
            )
        found &= [config.get(name) in values for config in recording.configs]
    if not found.any():
        raise UserError(f"{recording.source} has no configuration with these values of {', '.join(axes)}")
    return found


class Recorded:
    """A sampler of recorded configurations: each once, in an order drawn from the seed; then all again in another order.

    Args:
        candidates: The configurations.
        once: Whether there are no more trials than these, as in a grid.
    """

    def __init__(self, candidates: Candidates, *, once: bool = False) -> None:
        self._candidates = candidates
        self._once = once

    def bind(self, space: Space, seed: int) -> Draws:
        return Draws(self._candidates, seed, once=self._once)

    def definition(self) -> dict[str, Any]:
        return {"sampler": "Recorded", "source": self._candidates.recording.source, "once": self._once}


class Draws(Suggest):
    """Recorded configurations for one study."""

    learns = False

    def __init__(self, candidates: Candidates, seed: int, *, once: bool) -> None:
        self._candidates = candidates
        self._seed = seed
        self._orders: list[list[int]] = []  # one for each time that all are drawn
        self.size = len(candidates.rows) if once else None

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: Generator) -> Config:
        times, place = divmod(number, len(self._candidates.rows))
        while len(self._orders) <= times:
            order = numpy.random.default_rng((self._seed, len(self._orders))).permutation(self._candidates.rows)
            self._orders.append(order.tolist())
        return self._candidates.config(self._orders[times][place], times)


class Nearest:
    """Finds the nearest of some configurations.

    A number counts by its place in its range, in log space where it is searched so; of a Categorical any two choices are as far
    apart as the ends of a range, and so is what is inactive from what is not, at least.
    """

    def __init__(self, space: Space, configs: Sequence[Config]) -> None:
        self._items = {name: item for name, item in space.hyperparameters.items() if name not in space.fixed}
        self._points = numpy.array([self._point(config) for config in configs])

    def __call__(self, config: Config) -> int:
        return int(((self._points - self._point(config)) ** 2).sum(axis=1).argmin())

    def _point(self, config: Config) -> list[float]:
        point: list[float] = []
        for name, item in self._items.items():
            value = config.get(name)
            if isinstance(item, Categorical):
                point += [math.sqrt(0.5) * (value == choice) for choice in item.choices]
            else:
                point.append(-1.0 if value is None else _part(item, value))
        return point


def _part(item: Float | Integer, value: float) -> float:
    """Where a number lies in its range, from 0 to 1."""
    lower, upper = item.bounds
    if item.log:
        lower, upper, value = math.log(lower), math.log(upper), math.log(value)
    return (value - lower) / (upper - lower)
