"""Noisy expected improvement (Letham, Karrer, Ottoni and Bakshy, Bayesian Analysis 2019), in logarithms.

What the best trials and those that still run really come to is not known: it is drawn from the process some times, and for each
draw the improvement on the best of them is integrated in closed form, so that it is exact where it is a matter of one in a
million. The logarithm is stable far into the tails (Ament, Daulton, Eriksson, Balandat and Bakshy, NeurIPS 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy
from scipy.linalg import lapack
from scipy.special import erfcx, log_ndtr, ndtr

from openhpo.samplers.processes import Process, safe_root

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float64]

DRAWS = 64
NOISELESS = 1e-10  # variance, in parts of the objective's, that a drawn outcome is taken to have: Cholesky needs some
BLOCK = 64  # columns that are solved for at once: SciPy keeps the interpreter's lock for as long as that takes
LEAST_SPREAD = 1e-12  # variance that is left anywhere


class Posterior:
    """A process, given its observations and drawn outcomes at further points.

    Args:
        process: What is known without them.
        points: Shape [points, dimensions].
        normal: Decides the draws, shape [points, draws].
    """

    def __init__(self, process: Process, points: Floats, normal: Floats) -> None:
        self._process = process
        weights = _forward(process.root, process.between(process.rows, points))
        solved = _forward(process.root, process.targets[:, None])
        covariance = process.between(points, points) - weights.T @ weights
        extra = safe_root((covariance + covariance.T) / 2 + NOISELESS * numpy.eye(len(points)))
        self.draws: Floats = weights.T @ solved + extra @ normal  # [points, draws]
        # the root of observations and points together is [[root, 0], [weights', extra]]
        count = len(process.rows)
        self._root = numpy.zeros((count + len(points),) * 2, order="F")
        self._root[:count, :count], self._root[count:, :count], self._root[count:, count:] = process.root, weights.T, extra
        self._rows = numpy.concatenate([process.rows, points])
        together = numpy.concatenate([numpy.repeat(solved, normal.shape[1], axis=1), normal])
        self._weights = _backward(self._root, together)  # of the covariances with a place in what is expected there
        self._alone = _backward(process.root, solved)[:, 0]

    def at(self, rows: Floats) -> tuple[Floats, Floats]:
        """Means for each draw, shape [rows, draws], and variances, shape [rows]."""
        between = self._process.between(self._rows, rows)
        half = _forward(self._root, between)
        return between.T @ self._weights, numpy.maximum(self._process.scale - (half**2).sum(axis=0), LEAST_SPREAD)

    def slopes(self, row: Floats) -> tuple[Floats, float, Floats, Floats]:
        """Means for each draw and the variance at one row, and a matrix [rows, dimensions] whose product with weights is the
        slope of the mean, and the slope of the variance.
        """
        between, slopes = self._process.slopes(row, self._rows)
        half = _forward(self._root, between[:, None])
        variance = self._process.scale - float((half**2).sum())
        falls = -2 * _backward(self._root, half)[:, 0] @ slopes
        if variance < LEAST_SPREAD:
            variance, falls = LEAST_SPREAD, numpy.zeros_like(falls)
        return between @ self._weights, variance, slopes, falls

    def mean_slope(self, slopes: Floats, weights: Floats) -> Floats:
        """The slope of a weighted sum of the means of draws."""
        found: Floats = (self._weights @ weights) @ slopes
        return found

    def without_draws(self, rows: Floats) -> tuple[Floats, Floats]:
        """Means and standard deviations given the observations alone, both of shape [rows]."""
        between = self._process.between(self._process.rows, rows)
        half = _forward(self._process.root, between)
        spread = numpy.maximum(self._process.scale - (half**2).sum(axis=0), LEAST_SPREAD)
        return between.T @ self._alone, numpy.sqrt(spread)

    def without_draws_slopes(self, row: Floats) -> tuple[float, float, Floats, Floats]:
        """The same at one row, and their slopes."""
        between, slopes = self._process.slopes(row, self._process.rows)
        half = _forward(self._process.root, between[:, None])
        spread = math.sqrt(max(self._process.scale - float((half**2).sum()), LEAST_SPREAD))
        falls = -_backward(self._process.root, half)[:, 0] @ slopes / spread
        return float(between @ self._alone), spread, self._alone @ slopes, falls


def _forward(root: Floats, right: Floats) -> Floats:
    if right.shape[1] <= BLOCK:
        found: Floats = lapack.dtrtrs(root, right, lower=1)[0]
        return found
    starts = range(0, right.shape[1], BLOCK)
    return numpy.concatenate([lapack.dtrtrs(root, right[:, at : at + BLOCK], lower=1)[0] for at in starts], axis=1)


def _backward(root: Floats, right: Floats) -> Floats:
    found: Floats = lapack.dtrtrs(root, right, lower=1, trans=1)[0]
    return found


class NoisyImprovement:
    """The logarithm of the expected improvement on what trials really come to, given that requirements are met.

    Args:
        objective: Processes, and the factors by which their sum, which the smaller the better, has each.
        requirements: Processes, and what each has to be at most.
        points: The trials, shape [trials, dimensions]: those that ended and those that run.
        rng: Decides the draws.
        sure: Look for what is expected to be the best instead, so less the mean counts.
    """

    def __init__(
        self,
        objective: Sequence[tuple[float, Process]],
        requirements: Sequence[tuple[float, Process]],
        points: Floats,
        rng: numpy.random.Generator,
        *,
        sure: bool = False,
    ) -> None:
        self._sure = sure
        shape = (len(points), DRAWS)
        self._parts = [(factor, Posterior(process, points, rng.standard_normal(shape))) for factor, process in objective]
        self._requirements = [(most, Posterior(process, points, rng.standard_normal(shape))) for most, process in requirements]
        draws = sum((factor * part.draws for factor, part in self._parts), numpy.zeros(shape))
        met = numpy.ones(shape, bool)
        for most, part in self._requirements:
            met &= part.draws <= most
        worst = draws.max(axis=0)  # where nothing meets them, whatever does is an improvement
        self._best = numpy.where(met.any(axis=0), numpy.where(met, draws, numpy.inf).min(axis=0), worst)

    def __call__(self, rows: Floats) -> Floats:
        """At rows of shape [rows, dimensions]; returns shape [rows]."""
        found = self._expected(rows) if self._sure else self._improvement(rows)
        for most, part in self._requirements:
            mean, deviation = part.without_draws(rows)
            found = found + log_ndtr((most - mean) / deviation)
        return found

    def slope(self, row: Floats) -> tuple[float, Floats]:
        """At one row, and the slope there, shape [dimensions]."""
        found, slope = self._expected_slope(row) if self._sure else self._improvement_slope(row)
        for most, part in self._requirements:
            mean, deviation, rise, wider = part.without_draws_slopes(row)
            u = (most - mean) / deviation
            log = float(log_ndtr(u))
            found += log
            slope += math.exp(-(u**2) / 2 - math.log(2 * math.pi) / 2 - log) * (-rise - u * wider) / deviation
        return found, slope

    def _expected(self, rows: Floats) -> Floats:
        return -sum((factor * part.without_draws(rows)[0] for factor, part in self._parts), numpy.zeros(len(rows)))

    def _expected_slope(self, row: Floats) -> tuple[float, Floats]:
        found, slope = 0.0, numpy.zeros(len(row))
        for factor, part in self._parts:
            mean, _, rise, _ = part.without_draws_slopes(row)
            found -= factor * mean
            slope -= factor * rise
        return found, slope

    def _improvement(self, rows: Floats) -> Floats:
        means, variances = numpy.zeros((len(rows), DRAWS)), numpy.zeros(len(rows))
        for factor, part in self._parts:
            mean, variance = part.at(rows)
            means += factor * mean
            variances += factor**2 * variance
        spread = numpy.sqrt(variances)
        found: Floats = _log_mean(log_improvement((self._best - means) / spread[:, None])) + numpy.log(spread)
        return found

    def _improvement_slope(self, row: Floats) -> tuple[float, Floats]:
        means, variance, fall, slopes = numpy.zeros(DRAWS), 0.0, numpy.zeros(len(row)), []
        for factor, part in self._parts:
            mean, own, of_mean, of_variance = part.slopes(row)
            means += factor * mean
            variance += factor**2 * own
            fall += factor**2 * of_variance
            slopes.append(of_mean)
        spread = math.sqrt(variance)
        fall = fall / (2 * spread)
        z = (self._best - means) / spread
        gain = float(_log_mean(log_improvement(z)))
        # the slope of log(phi(z) + z Phi(z)) is Phi(z) over it
        weights = numpy.exp(log_ndtr(z) - gain) / DRAWS
        slope = (1 - weights @ z) * fall / spread
        for (factor, part), of_mean in zip(self._parts, slopes, strict=True):
            slope -= factor / spread * part.mean_slope(of_mean, weights)
        return gain + math.log(spread), slope


def _log_mean(logs: Floats) -> Floats:
    """The logarithm of the mean of what is given in logarithms, over the last axis."""
    most = logs.max(axis=-1)
    found: Floats = numpy.log(numpy.exp(logs - most[..., None]).mean(axis=-1)) + most
    return found


def log_improvement(z: Floats) -> Floats:
    """log(phi(z) + z Phi(z)), elementwise, without loss of digits for z far below 0."""
    near = z > -1.0
    upper = numpy.where(near, z, 0.0)
    straight = numpy.log(numpy.exp(-(upper**2) / 2) / math.sqrt(2 * math.pi) + upper * ndtr(upper))
    far = numpy.maximum(numpy.where(near, -2.0, z), -1e100)
    middle = numpy.maximum(far, -1e3)
    tail = numpy.log1p(middle * math.sqrt(math.pi / 2) * erfcx(-middle / math.sqrt(2)))
    tail = numpy.where(far < -1e3, -2 * numpy.log(-far), tail)  # its limit: 1 / z^2
    found: Floats = numpy.where(near, straight, tail - far**2 / 2 - math.log(2 * math.pi) / 2)
    return found
