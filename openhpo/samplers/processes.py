"""Gaussian processes of losses and of requirements: BoTorch's models, fitted by BoTorch (Balandat et al., NeurIPS 2020).

What a fitted process says of rows is written down in closed form, with its slopes: an improvement asks for that thousands of
times, one row at a time, where building a graph of tensors for each takes ten times as long.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
from numpy.linalg import LinAlgError
from scipy.linalg import lapack

from openhpo.samplers.observations import chosen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float64]

MOST_ROWS = 500  # that a process is fitted to
COARSE = 100  # rows of the first fit
FIRST, SECOND = 50, 8  # iterations of it, and of the one to all rows
USUAL = 0.36787944117144233  # a length, before anything is known: the mode of its prior
NOISE = (-10.0, 3.0)  # mean and standard deviation, before anything is known, of the logarithm of the noise's variance
LEAST_NOISE, USUAL_NOISE = 1e-8, 1e-4  # variance, in parts of that of the values
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
    model = None
    sizes = [(COARSE, FIRST), (len(rows), SECOND)] if len(rows) > 2 * COARSE else [(len(rows), FIRST)]
    for size, iterations in sizes:
        kept = chosen(values, size)
        model = _fitted_to(rows[kept], targets[kept], None if noise is None else noise[kept], iterations, model)
    assert model is not None
    kernel = model.covar_module
    lengths = kernel.base_kernel.lengthscale.detach().numpy().ravel().astype(float)
    if noise is None:
        noise = numpy.full(len(rows), float(model.likelihood.noise.detach().ravel()[0]))
    return _process(rows, targets, noise, lengths, float(kernel.outputscale.detach()), mean, spread)


def supposed(rows: Floats, values: Floats, spread: float) -> Process:
    """A process of few values, which are thought to be so far apart; its lengths are the usual ones."""
    mean = float(values.mean()) if len(values) else 0.0
    noise, lengths = numpy.full(len(rows), USUAL_NOISE), numpy.full(rows.shape[1], USUAL)
    return _process(rows, (values - mean) / spread, noise, lengths, 1.0, mean, spread)


def _process(
    rows: Floats, targets: Floats, noise: Floats, lengths: Floats, scale: float, mean: float, spread: float
) -> Process:
    covariance = scale * _matern(_squares(rows / lengths, rows / lengths))[0]
    root = safe_root(covariance + numpy.diag(noise))
    return Process(rows, targets, noise, lengths, scale, mean, spread, root)


def _fitted_to(rows: Floats, targets: Floats, noise: Floats | None, iterations: int, before: Any) -> Any:
    """BoTorch's model of standardised values, whose marginal likelihood is maximised from that of another one on; where that
    fails numerically, it stays as it was.
    """
    from botorch.exceptions import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from gpytorch.mlls import ExactMarginalLogLikelihood

    model = _model(rows, targets, noise)
    if before is not None:
        own, known = model.state_dict(), before.state_dict()
        model.load_state_dict(own | {name: known[name] for name, tensor in own.items() if known[name].shape == tensor.shape})
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    with contextlib.suppress(ModelFittingError, RuntimeError, ValueError):
        fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": iterations}}, max_attempts=1)
    return model.eval()


def _model(rows: Floats, targets: Floats, noise: Floats | None) -> Any:
    import torch
    from botorch.models import SingleTaskGP
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.means import ConstantMean
    from gpytorch.priors import GammaPrior, LogNormalPrior

    likelihood = None
    if noise is None:  # it may be as good as none
        least = GreaterThan(LEAST_NOISE, transform=None, initial_value=USUAL_NOISE)
        likelihood = GaussianLikelihood(noise_prior=LogNormalPrior(*NOISE), noise_constraint=least)
    lengths = LogNormalPrior(0.0, 1.0)  # in parts of a range
    mean = ConstantMean()
    mean.constant.requires_grad_(False)  # that of the trials: where nobody was, things may be as good as on average
    shortest = GreaterThan(SHORTEST, transform=None, initial_value=lengths.mode)
    matern = MaternKernel(2.5, ard_num_dims=rows.shape[1], lengthscale_prior=lengths, lengthscale_constraint=shortest)
    kernel = ScaleKernel(matern, outputscale_prior=GammaPrior(2.0, 1.0))
    kernel.outputscale = 1.0
    return SingleTaskGP(
        torch.as_tensor(rows),
        torch.as_tensor(targets)[:, None],
        train_Yvar=None if noise is None else torch.as_tensor(noise)[:, None],
        likelihood=likelihood,
        covar_module=kernel,
        mean_module=mean,
        outcome_transform=None,
    )
