"""Quasi-random search: a scrambled Sobol sequence (Owen 1998; Joe and Kuo 2008 for the direction numbers, by SciPy).

Covers the space more evenly than random draws, best with a power of two of trials. Forbidden points are left out, and
the sequence moves up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openhpo.errors import UserError
from openhpo.hyperparameters import Config
from openhpo.samplers.base import Suggest
from openhpo.space import ATTEMPTS, Space
from openhpo.stages import TrialRecord

if TYPE_CHECKING:
    import numpy

BLOCK = 256  # points drawn at once; a power of two keeps SciPy's sequence balanced
MOST_DIMENSIONS = 21201  # that SciPy has direction numbers for


class Sobol:
    """Fill the space evenly."""

    def bind(self, space: Space, seed: int) -> SobolPoints:
        return SobolPoints(space, seed)

    def definition(self) -> dict[str, Any]:
        return {"sampler": "Sobol"}


class SobolPoints(Suggest):
    """The Sobol sequence in one space."""

    learns = False

    def __init__(self, space: Space, seed: int) -> None:
        if len(space.free) > MOST_DIMENSIONS:
            raise UserError(f"a Sobol sequence has at most {MOST_DIMENSIONS} dimensions, and this space {len(space.free)}")
        self._space = space
        self._seed = seed
        self._points: list[Config] = []
        self._sequence: Any = None
        self._refused = 0

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config:
        while len(self._points) <= number:
            self._extend()
        return dict(self._points[number])

    def _extend(self) -> None:
        if not self._space.free:
            self._points.append(self._space.from_unit([]) or {})
            return
        if self._sequence is None:
            from scipy.stats import qmc  # a second of import that only this sampler needs

            self._sequence = qmc.Sobol(len(self._space.free), scramble=True, seed=self._seed)
        for point in self._sequence.random(BLOCK).tolist():
            config = self._space.from_unit(point)
            if config is not None:
                self._points.append(config)
                self._refused = 0
            else:
                self._refused += 1
        if self._refused > ATTEMPTS:
            raise UserError(f"{self._refused:,} points in a row were forbidden; loosen {list(self._space.forbidden)}")
