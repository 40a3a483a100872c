"""Optimisers for large batches that torch does not have. Importing this imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from openhpo.errors import UserError


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling: every layer's update in proportion to the norm of its weights.

    Algorithm 1 of You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks" (2017, arXiv 1708.03888). With
    weights w and gradients g of one layer, momentum m, weight decay beta, trust coefficient eta and learning rate gamma::

        lambda = eta |w| / (|g| + beta |w|), or 1 where |w| or |g| is 0
        v = m v + gamma lambda (g + beta w)
        w = w - v

    The learning rate is a part of v, so a change of it does not change the steps already in v, unlike in torch's SGD.

    Biases and the parameters of normalisation layers, which are those of at most one dimension, are excluded: they have
    lambda = 1 and no weight decay, as in MLPerf's reference for ResNet-50. Their norms say little (they begin at 0 or 1), and
    decay would pull scales to 0. A group with `"exclude": False` adapts and decays these too.

    All options may differ from group to group and change from step to step through `param_groups`.

    Args:
        params: Parameters, or groups of them.
        lr: gamma. With the usual eta it is far above that of SGD, from 1 to 50 or so.
        momentum: m.
        weight_decay: beta.
        trust_coefficient: eta.
        exclude: Whether tensors of at most one dimension are excluded.

    Raises:
        UserError: A number is out of its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        exclude: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "exclude": exclude,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options that it does not name are those of the optimiser.

        Raises:
            UserError: A number is out of its range.
        """
        options = {**self.defaults, **param_group}
        for name in ("lr", "momentum", "weight_decay"):
            _check(name, options[name], "at least 0", lambda number: number >= 0)
        _check("momentum", options["momentum"], "below 1", lambda number: number < 1)
        _check("trust_coefficient", options["trust_coefficient"], "above 0", lambda number: number > 0)
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; parameters without a gradient stay as they are.

        Args:
            closure: Computes the loss and the gradients anew, where given.

        Returns:
            What `closure` returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self._update(weights, weights.grad, group)
        return loss

    def _update(self, weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weights]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weights)
        rate: float | Tensor = group["lr"]
        update = gradient
        if weights.ndim > 1 or not group["exclude"]:
            decay = group["weight_decay"]
            rate = rate * _trust_ratio(weights, gradient, decay, group["trust_coefficient"])
            update = gradient.add(weights, alpha=decay)
        velocity = state["momentum_buffer"]
        velocity.mul_(group["momentum"]).add_(update * rate)
        weights.sub_(velocity)


def _trust_ratio(weights: Tensor, gradient: Tensor, decay: float, trust: float) -> Tensor:
    """lambda, as a tensor without dimensions: a device never waits for the host."""
    dtype = torch.promote_types(weights.dtype, torch.float32)  # squares of half precision overflow
    weights_norm = torch.linalg.vector_norm(weights, dtype=dtype)
    gradient_norm = torch.linalg.vector_norm(gradient, dtype=dtype)
    ratio = trust * weights_norm / (gradient_norm + decay * weights_norm)
    return torch.where((weights_norm > 0) & (gradient_norm > 0), ratio, 1.0)


def _check(name: str, number: Any, bound: str, holds: Callable[[float], bool]) -> None:
    if not (isinstance(number, Real) and math.isfinite(number) and holds(float(number))):
        raise UserError(f"LARS: {name} has to be a number {bound}, not {number!r}")
