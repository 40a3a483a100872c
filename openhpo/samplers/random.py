"""Random search (Bergstra and Bengio, JMLR 2012): independent uniform draws, in log space where the space says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openhpo.hyperparameters import Config
from openhpo.samplers.base import Suggest
from openhpo.space import Space
from openhpo.stages import TrialRecord

if TYPE_CHECKING:
    import numpy


class Random:
    """Draw every configuration independently."""

    def bind(self, space: Space, seed: int) -> RandomDraws:
        return RandomDraws(space)

    def definition(self) -> dict[str, Any]:
        return {"sampler": "Random"}


class RandomDraws(Suggest):
    """Random search of one space."""

    learns = False

    def __init__(self, space: Space) -> None:
        self._space = space

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config:
        return self._space.sample(rng)
