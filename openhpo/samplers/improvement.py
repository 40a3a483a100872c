"""Noisy expected improvement (Letham, Karrer, Ottoni and Bakshy, Bayesian Analysis 2019), in logarithms.

What the best trials and those that still run really come to is not known: it is drawn from the process some times, and for each
draw the improvement on the best of them is integrated in closed form, so that it is exact where it is a matter of one in a
million. The logarithm is stable far into the tails (Ament, Daulton, Eriksson, Balandat and Bakshy, NeurIPS 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from linear_operator.utils.cholesky import psd_safe_cholesky

if TYPE_CHECKING:
    import numpy

DRAWS = 64
NOISELESS = 1e-10  # variance, in parts of the objective's, that a drawn outcome is taken to have: Cholesky needs some


class Posterior:
    """A process, given its observations and drawn outcomes at further points.

    Args:
        process: A BoTorch `SingleTaskGP` without transforms of its inputs.
        points: Shape [points, dimensions].
        rng: Decides the draws.
    """

    def __init__(self, process: Any, points: torch.Tensor, rng: numpy.random.Generator) -> None:
        self._kernel = process.covar_module
        self._shift = process.mean_module.constant.detach()
        rows, targets = process.train_inputs[0], process.train_targets - self._shift
        noise = process.likelihood.noise.detach().expand(len(rows))
        with torch.no_grad():
            root = psd_safe_cholesky(self._between(rows, rows) + torch.diag(noise))
            weights = torch.linalg.solve_triangular(root, self._between(rows, points), upper=False)
            solved = torch.linalg.solve_triangular(root, targets[:, None], upper=False)
            covariance = self._between(points, points) - weights.T @ weights
            extra = psd_safe_cholesky(_symmetric(covariance) + NOISELESS * torch.eye(len(points)))
            # the same for observations and points together: [[root, 0], [weights', extra]]
            self._root = torch.cat([torch.cat([root, torch.zeros_like(weights)], 1), torch.cat([weights.T, extra], 1)], 0)
            normal = torch.as_tensor(rng.standard_normal((len(points), DRAWS)))
            self.draws = self._shift + weights.T @ solved + extra @ normal  # [points, draws]
            self._solved = torch.cat([solved.expand(-1, DRAWS), normal], 0)
        self._rows = torch.cat([rows, points], 0)
        self._observed = len(rows)

    def _between(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._kernel(one, other).to_dense()
        return found

    def at(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means for each draw, shape [rows, draws], and standard deviations, shape [rows]."""
        weights = torch.linalg.solve_triangular(self._root, self._between(self._rows, rows), upper=False)
        return self._shift + weights.T @ self._solved, self._spread(rows, weights)

    def without_draws(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and standard deviations given the observations alone, both of shape [rows]."""
        count = self._observed
        root, known = self._root[:count, :count], self._rows[:count]
        weights = torch.linalg.solve_triangular(root, self._between(known, rows), upper=False)
        return self._shift + weights.T @ self._solved[:count, 0], self._spread(rows, weights)

    def _spread(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        prior = self._kernel(rows, diag=True)
        found: torch.Tensor = (prior - (weights**2).sum(dim=0)).clamp_min(1e-12).sqrt()
        return found


class NoisyImprovement:
    """The logarithm of the expected improvement on what trials really come to, given that requirements are met.

    Args:
        processes: Of the objective, the smaller the better; of each requirement, met below 0. Each standardised.
        thresholds: What 0 is of each requirement's standardised process.
        points: The trials, shape [trials, dimensions]: those that ended and those that run.
        rng: Decides the draws.
    """

    def __init__(
        self, processes: Sequence[Any], thresholds: Sequence[float], points: torch.Tensor, rng: numpy.random.Generator
    ) -> None:
        posteriors = [Posterior(process, points, rng) for process in processes]
        self._objective, self._requirements = posteriors[0], list(zip(posteriors[1:], thresholds, strict=True))
        draws = self._objective.draws
        met = torch.ones_like(draws, dtype=torch.bool)
        for posterior, threshold in self._requirements:
            met &= posterior.draws <= threshold
        worst = draws.max(dim=0).values  # where nothing meets them, whatever does is an improvement
        self._best = torch.where(met.any(dim=0), torch.where(met, draws, torch.inf).min(dim=0).values, worst)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """At rows of shape [rows, dimensions]; returns shape [rows]."""
        means, spread = self._objective.at(rows)
        gains = log_improvement((self._best - means) / spread[:, None])
        found = torch.logsumexp(gains, dim=1) - math.log(DRAWS) + spread.log()
        for posterior, threshold in self._requirements:
            mean, deviation = posterior.without_draws(rows)
            found = found + torch.special.log_ndtr((threshold - mean) / deviation)
        return found


def log_improvement(z: torch.Tensor) -> torch.Tensor:
    """log(phi(z) + z Phi(z)), elementwise, without loss of digits for z far below 0."""
    near = z > -1.0
    upper = torch.where(near, z, torch.zeros_like(z))
    straight = (torch.exp(-(upper**2) / 2) / math.sqrt(2 * math.pi) + upper * torch.special.ndtr(upper)).log()
    far = torch.where(near, torch.full_like(z, -2.0), z).clamp_min(-1e100)
    middle = far.clamp_min(-1e3)
    tail = torch.log1p(middle * math.sqrt(math.pi / 2) * torch.special.erfcx(-middle / math.sqrt(2)))
    tail = torch.where(far < -1e3, -2 * (-far).log(), tail)  # its limit: 1 / z^2
    return torch.where(near, straight, tail - far**2 / 2 - math.log(2 * math.pi) / 2)


def _symmetric(matrix: torch.Tensor) -> torch.Tensor:
    return (matrix + matrix.T) / 2
