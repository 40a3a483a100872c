"""A loss after several numbers of steps, level by level: each is so much of the one before, and something of its own.

f_l = r_l f_(l-1) + d_l with a Gaussian process d_l of its own (Kennedy and O'Hagan, "Predicting the output from a complex
computer code when fast approximations are available", Biometrika 2000). As whoever comes to a level came to those before, the
likelihood is a product over the levels, and each is fitted to what trials came to beyond r_l times what they had (Le Gratiet
and Garnier, "Recursive co-kriging model", International Journal for Uncertainty Quantification 2014). So how much an early
loss says of a late one is learnt, be it nothing, or the contrary, and levels need no common scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from openhpo.samplers.processes import Process, fitted, supposed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float64]

TIE, DOUBT = 0.5, 0.5  # what r is thought to be before anything is known, in standard deviations of both levels; how surely
FEW = 10  # trials at a level: with fewer, what it has of its own is not fitted to them, but nearly unknown where nobody was


@dataclass
class Ladder:
    """What is known of a loss at the last of some levels.

    Attributes:
        parts: Independent processes, and the factor by which each goes into the last level.
        hurdles: What a loss at the first level has to be at most to be among as many as went on, and the process of these.
    """

    parts: list[tuple[float, Process]]
    hurdles: list[tuple[float, Process]]

    def means(self, rows: Floats) -> Floats:
        """What is expected at the last level, but for a constant."""
        found: Floats = sum((factor * process.means(rows) for factor, process in self.parts), numpy.zeros(len(rows)))
        return found


def climbed(rows: Floats, losses: Floats, variances: Floats) -> Ladder:
    """Fit all levels.

    Args:
        rows: Shape [trials, dimensions].
        losses: Shape [levels, trials]; NaN where a trial has not come to a level.
        variances: Of these, or of shape [levels, 0].
    """
    processes = [fitted(rows, losses[0], variances[0])]
    ties: list[float] = []
    for lower, upper, errors in zip(losses, losses[1:], variances[1:], strict=False):
        both = numpy.isfinite(lower) & numpy.isfinite(upper)
        spread = float(numpy.std(lower[numpy.isfinite(lower)])) or 1.0
        tie, rest = tied(lower[both], upper[both], spread)
        ties.append(tie)
        own = upper[both] - tie * lower[both]
        if both.sum() < FEW:
            processes.append(supposed(rows[both], own, rest))
        else:
            processes.append(fitted(rows[both], own, errors[both] if len(errors) else errors))
    factor, parts = 1.0, []
    for process, tie in zip(reversed(processes), [*reversed(ties), 0.0], strict=True):
        parts.append((factor * process.spread, process))
        factor *= tie
    top = parts[0][0]
    hurdles = []
    if ties:
        known = losses[0][numpy.isfinite(losses[0])]
        limit = float(numpy.quantile(known, numpy.isfinite(losses[1]).sum() / len(known)))
        hurdles.append(((limit - processes[0].mean) / processes[0].spread, processes[0]))
    return Ladder([(factor / top, process) for factor, process in parts if factor], hurdles)


def tied(lower: Floats, upper: Floats, spread: float) -> tuple[float, float]:
    """By how much a level rises with the one before: by least squares, with what is thought before as one more trial.

    Returns:
        That, and how far the level is thought to be from it where trials are few.
    """
    rest = math.sqrt(1 - TIE**2) * spread
    if len(lower) < FEW:
        return TIE, rest
    a, b = lower - lower.mean(), upper - upper.mean()
    own, other = math.sqrt(float(a @ a) / len(a)), math.sqrt(float(b @ b) / len(b))
    if own < 1e-300 or other < 1e-300:
        return 0.0, rest
    weight = (1 - TIE**2) / DOUBT**2
    return (float(a @ b) / (own * other) + weight * TIE) / (len(a) + weight) * other / own, rest
