"""A Parzen estimator: a density over a space, with one product kernel an observation and one that knows nothing.

A number's kernel is a Gaussian that is cut off at the ends of the range, a choice's the one of Aitchison and Aitken (Biometrika
1976). Where a hyperparameter is inactive on either side, its kernel says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from openhpo.samplers.coordinates import Coordinates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float64]

NARROWEST = 0.01  # the least width of a kernel, in parts of the range


class Parzen:
    """A density made from observations.

    Args:
        coordinates: What the columns mean.
        rows: The observations, shape [observations, columns].
        weights: How much each counts, shape [observations].
        width: How wide a number's kernel is, in standard deviations of the observations for one of them; of n it is
            n ** (-1 / (4 + dimensions)) of that (Scott, "Multivariate Density Estimation", 1992).
        prior: How much the kernel that knows nothing counts.
    """

    def __init__(self, coordinates: Coordinates, rows: Floats, weights: Floats, width: float, prior: float) -> None:
        from scipy.special import ndtr

        self._numbers, self._categories = coordinates.numbers, coordinates.categories
        self._choices = coordinates.choices[self._categories].tolist()
        self._rows = rows
        self._weights = numpy.append(weights, prior) / (weights.sum() + prior)
        count, places = len(rows), rows[:, self._numbers]
        active = ~numpy.isnan(places)
        self._active = active.astype(float)
        self._means = numpy.where(active, places, 0.5)
        self._widths = width * _deviations(self._means, self._active) * max(count, 1) ** (-1 / (4 + rows.shape[1]))
        self._widths = numpy.clip(self._widths, NARROWEST, 1.0)
        self._below, self._upto = ndtr(-self._means / self._widths), ndtr((1.0 - self._means) / self._widths)
        inside = numpy.log(numpy.sqrt(2 * numpy.pi) * self._widths * (self._upto - self._below))
        # a Gaussian's exponent is a product of something of the point and something of the observation
        parts = (self._active, self._active * self._means, self._active * (self._means**2 * self._widths**-2.0 / 2 + inside))
        self._of_rows = numpy.concatenate(parts, axis=1).T
        self._others = [(choices - 1) / (count + choices) for choices in self._choices]  # how likely a choice is another one

    def logarithms(self, rows: Floats) -> Floats:
        """The logarithm of the density at each row. Takes rows times observations exponentials."""
        places = rows[:, self._numbers]
        active = ~numpy.isnan(places)
        places, known, sharpness = numpy.where(active, places, 0.0), active.astype(float), self._widths**-2.0
        logs = numpy.concatenate([places**2 * sharpness / -2, places * sharpness, -known], axis=1) @ self._of_rows
        blank = numpy.zeros(len(rows))
        for column, choices, other in zip(self._categories.tolist(), self._choices, self._others, strict=True):
            if choices == 1:
                continue
            here, there = rows[:, column, None], self._rows[:, column]
            alike = numpy.where(here == there, numpy.log1p(-other), numpy.log(other / (choices - 1)))
            logs += numpy.where(numpy.isnan(here) | numpy.isnan(there), 0.0, alike)
            blank -= numpy.where(numpy.isnan(here[:, 0]), 0.0, numpy.log(choices))
        top = numpy.maximum(logs.max(axis=1, initial=-numpy.inf), blank)
        numpy.exp(logs - top[:, None], out=logs)
        found: Floats = numpy.log(logs @ self._weights[:-1] + numpy.exp(blank - top) * self._weights[-1]) + top
        return found

    def draw(self, rng: numpy.random.Generator, count: int) -> Floats:
        """Rows from this density, with a value in every column, shape [count, columns]."""
        from scipy.special import ndtri

        kernels = rng.choice(len(self._weights), size=count, p=self._weights)
        units = rng.random((count, self._rows.shape[1]))
        rows = units.copy()
        known = numpy.flatnonzero(kernels < len(self._rows))
        mine = kernels[known]
        even = units[numpy.ix_(known, self._numbers)]
        at = self._below[mine] + even * (self._upto[mine] - self._below[mine])
        drawn = numpy.clip(self._means[mine] + self._widths * ndtri(at), 0.0, 1.0)
        rows[numpy.ix_(known, self._numbers)] = numpy.where(self._active[mine] > 0, drawn, even)
        stays = rng.random((len(known), len(self._choices)))
        for place, (column, choices) in enumerate(zip(self._categories.tolist(), self._choices, strict=True)):
            rows[:, column] = numpy.floor(units[:, column] * choices)
            there = self._rows[mine, column]
            same = (stays[:, place] * (choices - 1) >= self._others[place] * choices) & ~numpy.isnan(there)
            rows[known[same], column] = there[same]
        return rows


def _deviations(means: Floats, active: Floats) -> Floats:
    """Standard deviations by column, as if one more observation lay anywhere."""
    counts = active.sum(axis=0)
    mean = (active * means).sum(axis=0) / numpy.maximum(counts, 1)
    squares = (active * (means - mean) ** 2).sum(axis=0)
    found: Floats = numpy.sqrt((squares + 1 / 12) / (counts + 1))
    return found
