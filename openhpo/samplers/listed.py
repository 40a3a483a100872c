"""Configurations from a list, in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openhpo.errors import UserError
from openhpo.hyperparameters import Config
from openhpo.samplers.base import Suggest
from openhpo.space import Space
from openhpo.stages import TrialRecord

if TYPE_CHECKING:
    import numpy


class Listed:
    """Try these, one after the other.

    Args:
        configs: Each a complete configuration of the space; what the space fixes may be left out.
    """

    def __init__(self, configs: Sequence[Mapping[str, Any]]) -> None:
        self.configs = [dict(config) for config in configs]

    def bind(self, space: Space, seed: int) -> Listing:
        return Listing(self.configs, space)

    def definition(self) -> dict[str, Any]:
        return {"sampler": "Listed", "configs": self.configs}


class Listing(Suggest):
    """A list of configurations of one space.

    Raises:
        UserError: It is empty, or one of them is none of the space.
    """

    learns = False

    def __init__(self, configs: Sequence[Config], space: Space) -> None:
        if not configs:
            raise UserError("the list of configurations is empty")
        self._configs = [{**space.fixed, **config} for config in configs]
        for number, config in enumerate(self._configs):
            if not space.holds(config):
                raise UserError(f"number {number} of the listed configurations is none of the space: {config}")
        self.size = len(configs)

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config:
        return dict(self._configs[number])
