"""Gaussian processes of the losses and of the requirements, by BoTorch's models and GPyTorch's kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import torch

from openhpo.samplers.observations import chosen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float64]

COARSE = 100  # rows of the first fit
NOISE = (-10.0, 3.0)  # mean and standard deviation, before anything is known, of the logarithm of the noise's variance


def fitted(rows: Floats, values: Floats, variances: Floats) -> Any:
    """A process of these values.

    Args:
        rows: Shape [observations, dimensions].
        values: Shape [observations]; NaN where there is none.
        variances: Of the values; empty where they are to be found.
    """
    there = numpy.isfinite(values)
    rows, values = rows[there], values[there]
    variances = variances[there] if len(variances) else variances
    state = None
    sizes = [COARSE, len(rows)] if len(rows) > 2 * COARSE else [len(rows)]
    for size, iterations in zip(sizes, (50, 50) if len(sizes) == 1 else (50, 8), strict=False):
        kept = chosen(values, size)
        process = _process(rows[kept], values[kept], variances[kept] if len(variances) else variances)
        if state is not None:
            own = process.state_dict()
            process.load_state_dict(own | {name: tensor for name, tensor in state.items() if tensor.shape == own[name].shape})
        _fit(process, iterations)
        state = {name: tensor for name, tensor in process.state_dict().items() if "outcome_transform" not in name}
    assert isinstance(process, torch.nn.Module)
    return process.eval()


def _process(rows: Floats, values: Floats, variances: Floats) -> Any:
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Standardize
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.means import ConstantMean
    from gpytorch.priors import GammaPrior, LogNormalPrior

    noise, likelihood = None, None
    if len(variances):
        usual = numpy.nanmean(variances) if numpy.isfinite(variances).any() else 0.0
        least = 1e-6 * max(float(numpy.var(values)), 1e-12)
        noise = torch.as_tensor(numpy.maximum(numpy.where(numpy.isfinite(variances), variances, usual), least))[:, None]
    else:  # it may be as good as none
        least_noise = GreaterThan(1e-8, transform=None, initial_value=1e-4)
        likelihood = GaussianLikelihood(noise_prior=LogNormalPrior(*NOISE), noise_constraint=least_noise)
    lengths = LogNormalPrior(0.0, 1.0)  # in parts of a range
    mean = ConstantMean()
    mean.constant.requires_grad_(False)  # that of the trials: where nobody was, things may be as good as on average
    lower = GreaterThan(0.025, transform=None, initial_value=lengths.mode)
    matern = MaternKernel(2.5, ard_num_dims=rows.shape[1], lengthscale_prior=lengths, lengthscale_constraint=lower)
    kernel = ScaleKernel(matern, outputscale_prior=GammaPrior(2.0, 1.0))
    kernel.outputscale = 1.0
    return SingleTaskGP(
        torch.as_tensor(rows),
        torch.as_tensor(values)[:, None],
        train_Yvar=noise,
        likelihood=likelihood,
        covar_module=kernel,
        mean_module=mean,
        outcome_transform=Standardize(1),
    )


def _fit(process: Any, iterations: int) -> None:
    """Maximise the marginal likelihood; where that fails numerically, the kernel stays as it was."""
    from botorch.exceptions import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from gpytorch.mlls import ExactMarginalLogLikelihood

    likelihood = ExactMarginalLogLikelihood(process.likelihood, process)
    try:
        fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": iterations}}, max_attempts=1)
    except (ModelFittingError, RuntimeError, ValueError):
        process.eval()
