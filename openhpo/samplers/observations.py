"""The history of a study as arrays, for models of the objective and of the requirements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy

from openhpo.hyperparameters import Config
from openhpo.samplers.coordinates import Coordinates
from openhpo.stages import AT_REST, State, TrialRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float64]

MOST_ROWS = 500  # that a model is fitted to
LEVELS = 6  # different numbers of steps that are told apart
LEAST_AT_LEVEL = 4  # trials that have to have come to a number of steps for it to be the one that counts
TAME = 2.0  # times as far above the median as the best is below it: beyond that losses are drawn in


class Observations(NamedTuple):
    """What is known of the trials at rest.

    Attributes:
        rows: Coordinates of the configurations and, where trials were trained for different numbers of steps, the step, in
            logarithms from 0 to 1, of each observation.
        losses: Of each, as a model is to see them; NaN where there is none.
        variances: Of these, where they are means of replicates; empty otherwise.
        margins: [observation, requirement] how far it is from being met.
        ended: Rows of the configurations at the step that counts.
        pending: Those of the trials that run.
    """

    rows: Floats
    losses: Floats
    variances: Floats
    margins: Floats
    ended: Floats
    pending: Floats


def observed(history: Sequence[TrialRecord], coordinates: Coordinates) -> Observations | None:
    """What is known; None while no trial has come to rest without failing.

    A trial that is done, at its goal or because its training returned, counts as having come to every number of steps. One
    that failed counts as the worst of the others.
    """
    at_rest = [trial for trial in history if trial.state in AT_REST]
    levels = levels_of(at_rest)
    if not levels:
        return None
    several, top = len(levels) > 1, math.log(levels[-1]) or 1.0
    enough = [level for level in levels if sum(reached(trial, level) for trial in at_rest) >= LEAST_AT_LEVEL]
    target = enough[-1] if enough else levels[0]

    def place(config: Config, step: int) -> list[float]:
        row = coordinates.row(config)
        return [*row, math.log(step) / top] if several else row

    width = max(len(trial.score.margins) for trial in at_rest)
    absent = [math.nan] * width
    rows, losses, errors, margins, failed = [], [], [], [], []
    for trial in at_rest:
        lost = trial.state is State.FAILED or not trial.losses
        for level in [target] if lost else [level for level in levels if reached(trial, level)]:
            loss, error = (math.nan, math.nan) if lost else best_until(trial, level)
            last = not lost and level == max(each for each in levels if reached(trial, each))
            rows.append(place(trial.config, level))
            losses.append(loss)
            errors.append(error)
            margins.append(list(trial.score.margins) if last and trial.score.margins else absent)
            failed.append(lost)
    known = numpy.array(losses, float)
    known[~numpy.isfinite(known)] = math.nan
    if numpy.isfinite(known).any():
        known[failed] = numpy.nanmax(known)
    known, slopes = tamed(known)
    variances = numpy.array(errors, float) ** 2 * slopes**2
    kept = chosen(known, MOST_ROWS)
    table = numpy.array(rows, float)
    running = [place(trial.config, target) for trial in history if trial.state not in AT_REST]
    return Observations(
        table[kept],
        known[kept],
        variances[kept] if numpy.isfinite(variances).any() else numpy.empty(0),
        numpy.array(margins, float).reshape(len(rows), width)[kept],
        numpy.array([place(trial.config, target) for trial in at_rest], float),
        numpy.array(running, float).reshape(-1, table.shape[1]),
    )


def reached(trial: TrialRecord, step: int) -> bool:
    """Whether a trial at rest has come to a step."""
    return trial.step >= step or trial.state is State.DONE


def levels_of(at_rest: Sequence[TrialRecord]) -> list[int]:
    """The numbers of steps that trials have come to rest at before they were done, and the largest of all; at most `LEVELS`."""
    trained = [trial for trial in at_rest if trial.state is not State.FAILED and trial.step]
    if not trained:
        return []
    most = max(trial.step for trial in trained)
    steps = sorted({trial.step for trial in trained if trial.state is not State.DONE} | {most})
    if len(steps) <= LEVELS:
        return steps
    ratio = (steps[-1] / steps[0]) ** (1 / (LEVELS - 1))
    wanted = [steps[0] * ratio**place for place in range(LEVELS)]
    return sorted({min(steps, key=lambda step: abs(math.log(step / at))) for at in wanted})


def best_until(trial: TrialRecord, step: int) -> tuple[float, float]:
    """The smallest loss of the first steps, and its standard error."""
    found = math.nan
    place = 0
    for at in range(min(step, len(trial.losses))):
        if not trial.losses[at] >= found:
            found, place = (trial.losses[at], at) if not math.isnan(trial.losses[at]) else (found, place)
    return found, trial.errors[place] if trial.errors else math.nan


def tamed(losses: Floats) -> tuple[Floats, Floats]:
    """Losses with the worst drawn in, as trainings that diverge would tell nothing but that; and the slopes of that.

    Returns:
        Both of the shape of `losses`.
    """
    finite = losses[numpy.isfinite(losses)]
    slopes = numpy.ones_like(losses)
    if not len(finite):
        return losses, slopes
    middle = float(numpy.median(finite))
    scale = middle - float(finite.min())
    if scale <= 0:
        scale = float(finite.max()) - middle
    if scale <= 0:
        return losses, slopes
    middle += TAME * scale
    beyond = (losses - middle) / scale
    with numpy.errstate(invalid="ignore"):
        high = beyond > 0
    found = losses.copy()
    found[high] = middle + scale * beyond[high] / (1 + beyond[high])
    slopes[high] = 1 / (1 + beyond[high]) ** 2
    return found, slopes


def squashed(margins: Floats) -> Floats:
    """Margins without outliers, the sign kept."""
    finite = numpy.abs(margins[numpy.isfinite(margins)])
    most = 5 * float(numpy.median(finite[finite > 0])) if (finite > 0).any() else 1.0
    return numpy.clip(margins, -most, most)


def chosen(losses: Floats, most: int) -> NDArray[numpy.int64]:
    """The places of at most so many: the better half of them, and others evenly by rank."""
    order = numpy.argsort(numpy.where(numpy.isnan(losses), numpy.inf, losses), kind="stable")
    if len(order) <= most:
        return numpy.arange(len(losses))
    others = order[most // 2 :]
    spread = others[numpy.linspace(0, len(others) - 1, most - most // 2).astype(int)]
    return numpy.sort(numpy.concatenate([order[: most // 2], spread]))
