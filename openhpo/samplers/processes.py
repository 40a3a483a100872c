"""Gaussian processes of losses and of requirements: a Matern kernel 5/2 with a length for each dimension, in closed form.

They are what BoTorch's `SingleTaskGP` with a `MaternKernel` in a `ScaleKernel`, the priors below and `Standardize` would be
(Balandat et al., NeurIPS 2020), but that the slopes of the likelihood are written down rather than derived: a fit to 100 trials
takes a tenth of the time, and it touches no random numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy
from numpy.linalg import LinAlgError
from scipy.linalg import lapack
from scipy.optimize import minimize

from openhpo.samplers.observations import chosen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float64]

MOST_ROWS = 500  # that a process is fitted to
COARSE = 100  # rows of the first fit
FIRST, SECOND = 50, 8  # iterations of it, and of the one to all rows
NOISE = (-10.0, 3.0)  # mean and standard deviation, before anything is known, of the logarithm of the noise's variance
LEAST_NOISE = 1e-8  # variance, in parts of that of the values
JITTER = 1e-8  # variance that a drawn function has besides: Cholesky needs some
SHORTEST = 0.025  # length, in parts of a range


@dataclass
class Process:
    """A process, given observations.

    Attributes:
        rows: Shape [observations, dimensions].
        targets: Of each, standardised.
        noise: The variance of each.
        lengths: Of each dimension.
        scale: The variance before anything is known.
        mean: What is 0 of the targets.
        spread: What is 1.
        root: Of the covariance of the targets, lower triangular.
    """

    rows: Floats
    targets: Floats
    noise: Floats
    lengths: Floats
    scale: float
    mean: float
    spread: float
    root: Floats

    def between(self, one: Floats, other: Floats) -> Floats:
        """Covariances, shape [ones, others]."""
        found: Floats = self.scale * _matern(_squares(one / self.lengths, other / self.lengths))[0]
        return found

    def slopes(self, row: Floats, others: Floats) -> tuple[Floats, Floats]:
        """Covariances of one row with others, and their slopes by the row's places, shape [others, dimensions]."""
        apart = (row - others) / self.lengths
        value, slope = _matern((apart**2).sum(axis=1))
        return self.scale * value, (2 * self.scale * slope)[:, None] * apart / self.lengths

    def means(self, rows: Floats) -> Floats:
        """What is expected at rows, standardised."""
        found: Floats = self.between(rows, self.rows) @ _solved(self.root, self.targets)
        return found

    def drawn(self, rows: Floats, rng: numpy.random.Generator) -> Floats:
        """One function that the process may be, at rows, standardised."""
        half = lapack.dtrtrs(self.root, self.between(self.rows, rows), lower=1)[0]
        covariance = self.between(rows, rows) - half.T @ half + JITTER * numpy.eye(len(rows))
        found: Floats = self.means(rows) + safe_root(covariance) @ rng.standard_normal(len(rows))
        return found


def _squares(one: Floats, other: Floats) -> Floats:
    found = -2.0 * (one @ other.T)
    found += (one**2).sum(axis=1)[:, None]
    found += (other**2).sum(axis=1)
    squares: Floats = numpy.maximum(found, 0.0, out=found)
    return squares


def _matern(squares: Floats) -> tuple[Floats, Floats]:
    """The kernel as a function of squared distances, and its slope by them."""
    r = numpy.sqrt(5.0 * squares)
    fall = numpy.exp(-r)
    fall_more = (1.0 + r) * fall
    return fall_more + squares * (5 / 3) * fall, fall_more * (-5 / 6)


def _solved(root: Floats, targets: Floats) -> Floats:
    found: Floats = lapack.dpotrs(root, targets, lower=1)[0]
    return found


def cholesky(matrix: Floats) -> Floats:
    """NumPy's, because SciPy's keeps the interpreter's lock, and with it the rank's other threads, for as long as it takes."""
    found: Floats = numpy.asfortranarray(numpy.linalg.cholesky(matrix))
    return found


def safe_root(matrix: Floats) -> Floats:
    """The Cholesky factor, of the matrix with something added to its diagonal where it needs that."""
    extra = 0.0
    for _ in range(8):
        try:
            found: Floats = cholesky(matrix + extra * numpy.eye(len(matrix)))
            return found
        except LinAlgError:
            extra = max(1e-9 * float(numpy.diag(matrix).mean()), 10 * extra)
    raise LinAlgError("a covariance is far from positive definite")


def fitted(rows: Floats, values: Floats, variances: Floats) -> Process:
    """A process of these values, with the lengths, scale and noise that are the likeliest.

    Args:
        rows: Shape [observations, dimensions].
        values: Shape [observations]; NaN where there is none.
        variances: Of the values; empty where they are to be found.
    """
    there = numpy.flatnonzero(numpy.isfinite(values))
    there = there[chosen(values[there], MOST_ROWS)]
    rows, values = rows[there], values[there]
    mean, spread = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
    spread = spread if spread > 1e-300 else 1.0
    targets, noise = (values - mean) / spread, None
    if len(variances):
        variances = variances[there]
        usual = numpy.nanmean(variances) if numpy.isfinite(variances).any() else 0.0
        noise = numpy.maximum(numpy.where(numpy.isfinite(variances), variances, usual) / spread**2, 1e-6)
    at = _usual(rows.shape[1], len(variances) == 0)
    if len(rows) > 2 * COARSE:
        kept = chosen(values, COARSE)
        at = _likeliest(at, rows[kept], targets[kept], None if noise is None else noise[kept], FIRST)
        at = _likeliest(at, rows, targets, noise, SECOND)
    else:
        at = _likeliest(at, rows, targets, noise, FIRST)
    width = rows.shape[1]
    if noise is None:
        noise = numpy.full(len(rows), math.exp(at[width + 1]))
    return _process(rows, targets, noise, at, mean, spread)


def supposed(rows: Floats, values: Floats, spread: float) -> Process:
    """A process of few values, which are thought to be so far apart; its lengths are the usual ones."""
    at = _usual(rows.shape[1], True)
    mean = float(values.mean()) if len(values) else 0.0
    noise = numpy.full(len(rows), math.exp(at[-1]))
    return _process(rows, (values - mean) / spread, noise, at, mean, spread)


def _usual(width: int, noisy: bool) -> Floats:
    """Logarithms of lengths, scale and noise to begin with."""
    return numpy.array([-1.0] * width + [0.0] + [math.log(1e-4)] * noisy)


def _process(rows: Floats, targets: Floats, noise: Floats, at: Floats, mean: float, spread: float) -> Process:
    width = rows.shape[1]
    lengths, scale = numpy.exp(at[:width]), math.exp(at[width])
    covariance = scale * _matern(_squares(rows / lengths, rows / lengths))[0]
    root = safe_root(covariance + numpy.diag(noise))
    return Process(rows, targets, noise, lengths, scale, mean, spread, root)


def _likeliest(at: Floats, rows: Floats, targets: Floats, noise: Floats | None, iterations: int) -> Floats:
    width = rows.shape[1]
    bounds = [(math.log(SHORTEST), 7.0)] * width + [(-9.0, 6.0)] + [(math.log(LEAST_NOISE), 3.0)] * (len(at) - width - 1)
    found = minimize(
        unlikelihood, at, (rows, targets, noise), "L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": iterations}
    )
    best: Floats = found.x if math.isfinite(found.fun) else at
    return best


def unlikelihood(at: Floats, rows: Floats, targets: Floats, noise: Floats | None) -> tuple[float, Floats]:
    """Less the logarithm of how likely targets and parameters are together, and its slopes.

    Args:
        at: Logarithms of lengths, scale and, where it is to be found, noise.
        rows: Shape [observations, dimensions].
        targets: Shape [observations].
        noise: Variances, where they are known.
    """
    width, count = rows.shape[1], len(rows)
    lengths, scale = numpy.exp(at[:width]), math.exp(at[width])
    scaled = rows / lengths
    value, slope = _matern(_squares(scaled, scaled))
    covariance = scale * value
    covariance[numpy.diag_indices(count)] = scale + (math.exp(at[width + 1]) if noise is None else noise)
    try:
        root = cholesky(covariance)
    except LinAlgError:
        return 1e10, numpy.zeros_like(at)
    weights = _solved(root, targets)
    # twice the slope of the likelihood by the covariance
    inner = lapack.dpotri(root, lower=1)[0]
    inner = numpy.outer(weights, weights) - (inner + inner.T - numpy.diag(inner.diagonal()))
    found = targets @ weights / 2 + numpy.log(root.diagonal()).sum() + count * math.log(2 * math.pi) / 2
    by_square = inner * slope * scale
    sums = by_square.sum(axis=1)
    by_length = -2 * (2 * (sums @ scaled**2) - 2 * (scaled * (by_square @ scaled)).sum(axis=0))  # of the logarithm
    slopes = numpy.empty_like(at)
    slopes[:width] = -by_length / 2
    slopes[width] = -(inner * value).sum() * scale / 2
    # lengths: lognormal(0, 1); scale: gamma(2, 1)
    logs = at[:width]
    found += (logs + logs**2 / 2).sum() + width * math.log(2 * math.pi) / 2
    slopes[:width] += 1 + logs
    found += scale - at[width]
    slopes[width] += scale - 1
    if noise is None:
        variance = math.exp(at[width + 1])
        apart = (at[width + 1] - NOISE[0]) / NOISE[1]
        found += at[width + 1] + apart**2 / 2 + math.log(NOISE[1] * math.sqrt(2 * math.pi))
        slopes[width + 1] = -inner.trace() * variance / 2 + 1 + apart / NOISE[1]
    return float(found), slopes
