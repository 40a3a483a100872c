"""The history of a study as arrays, for models of the objective and of the requirements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy

from openhpo.samplers.coordinates import Coordinates
from openhpo.stages import AT_REST, State, TrialRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float64]

LEVELS = 6  # different numbers of steps that are told apart
TAME = 2.0  # times as far above the median as the best is below it: beyond that losses are drawn in


class Observations(NamedTuple):
    """What is known of the trials.

    Attributes:
        rows: Coordinates of the configurations of those that have reported, or failed, one each.
        losses: [level, trial] after each number of steps that is told apart, as a model is to see them; NaN where none.
        variances: Of these, where they are means of replicates; empty otherwise.
        margins: [trial, requirement] how far it is from being met.
        pending: Coordinates of the trials that run.
    """

    rows: Floats
    losses: Floats
    variances: Floats
    margins: Floats
    pending: Floats


def observed(history: Sequence[TrialRecord], coordinates: Coordinates) -> Observations | None:
    """What is known; None while no trial has come to rest without failing.

    A trial that is done, at its goal or because its training
    returned, counts as having come to every number of steps. One that failed counts as the worst of the others.
    """
    at_rest = [trial for trial in history if trial.state in AT_REST]
    levels = levels_of(at_rest)
    if not levels:
        return None
    running = [trial for trial in history if trial.state not in AT_REST]
    known = at_rest + [trial for trial in running if trial.step >= levels[0]]  # that go on from where they paused
    lost = numpy.array([trial.state is State.FAILED or not trial.losses for trial in known])
    found = numpy.full((2, len(levels), len(known)), math.nan)
    for place, trial in enumerate(known):
        for row, level in enumerate(levels):
            if not lost[place] and reached(trial, level):
                found[:, row, place] = best_until(trial, level)
    losses, errors = found
    losses[~numpy.isfinite(losses)] = math.nan
    variances = errors**2
    for row, of_level in enumerate(losses):
        if numpy.isfinite(of_level).any():
            of_level[lost] = numpy.nanmax(of_level)
        losses[row], slopes = tamed(of_level)
        variances[row] *= slopes**2
    width = max(len(trial.score.margins) for trial in at_rest)
    absent = [math.nan] * width
    told = zip(known, lost, strict=True)
    margins = [list(trial.score.margins) if trial.score.margins and not gone else absent for trial, gone in told]
    return Observations(
        numpy.array([coordinates.row(trial.config) for trial in known], float),
        losses,
        variances if numpy.isfinite(variances).any() else numpy.empty((len(levels), 0)),
        numpy.array(margins, float).reshape(len(known), width),
        numpy.array([coordinates.row(trial.config) for trial in running], float).reshape(
            len(running), len(coordinates.choices)
        ),
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
