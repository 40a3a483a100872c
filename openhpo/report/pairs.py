"""The objective over any two hyperparameters: a surface between two numbers, cells where one of them is a choice.

The page computes the same from the same values in the browser (contours.js), because of 200 hyperparameters there are 19,900
pairs; a test compares the two.
"""

from __future__ import annotations

import base64
import math
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from openhpo.objective import NO_SCORE
from openhpo.report.numbers import Candidate, Floats, Numbers

Indices = NDArray[numpy.int64]

MOST_VALUES = 200_000  # that a page holds, over all hyperparameters
MOST_CANDIDATES = 20_000  # of which a browser computes a surface at once
GRID = 40  # points of a surface in each direction
FEWEST = 10  # candidates that a surface takes
NEAR = 2.0  # candidates that have to be near a point of it
CELL = 3  # candidates that a cell takes
BINS = 12  # cells along a number at most
INACTIVE = "(inactive)"
EDGE = 1e-9  # of a bin: what lies on the border is in the upper one, whatever the rounding of a logarithm


class Axis(NamedTuple):
    """A hyperparameter of all candidates.

    Attributes:
        name: Its name.
        kind: "linear" or "log", and "choices" of what is no number.
        whole: Whether it has whole numbers alone.
        texts: The choices, in the order of the space, "(inactive)" first where it is so for some; else empty.
        values: Numbers, NaN where it is inactive; places in `texts` of what is none.
    """

    name: str
    kind: str
    whole: bool
    texts: list[str]
    values: NDArray[Any]

    def places(self, values: Floats) -> Floats:
        """Where values lie along the axis: logarithms to the base of 10 of what is searched in logarithms."""
        return numpy.log10(values) if self.kind == "log" else values

    @property
    def decades(self) -> float:
        """How many powers of ten lie between the least number and the largest."""
        return math.log10(float(numpy.nanmax(self.values)) / float(numpy.nanmin(self.values)))

    def described(self) -> dict[str, Any]:
        """As JSON."""
        found = {"name": self.name, "kind": self.kind, "whole": self.whole, "texts": self.texts, "values": packed(self.values)}
        return found | ({"decades": self.decades} if self.kind == "log" else {})


class Surface(NamedTuple):
    """Means of the objective on a grid.

    Attributes:
        x, y: Where the points are.
        z: Shape [y, x]; NaN where fewer than NEAR candidates are near.
    """

    x: Floats
    y: Floats
    z: Floats


class Cells(NamedTuple):
    """The objective in cells.

    Attributes:
        x, y: The borders of the cells; of choices k - 0.5 and k + 0.5 around the k-th.
        counts: Shape [y, x]: how many candidates each cell has.
        median: Of their objective; NaN where there are fewer than CELL.
        best: The best of it; NaN where there is none.
    """

    x: Floats
    y: Floats
    counts: Indices
    median: Floats
    best: Floats


class Pairs(NamedTuple):
    """Candidates with what they were and what they came to, the best first.

    Attributes:
        axes: The hyperparameters, those first that have most to do with the objective.
        values: The objective.
        numbers: The candidates' numbers.
        sign: 1 where less is better, -1 where more is.
        limits: Between which values colours tell apart what is worse or better; what is outside counts as they do.
        total: How many candidates there are; more than here where these are an even part.
    """

    axes: list[Axis]
    values: Floats
    numbers: NDArray[numpy.int32]
    sign: float
    limits: tuple[float, float]
    total: int

    def rows(self, one: int, other: int) -> Indices:
        """The candidates that have both hyperparameters."""
        return numpy.flatnonzero(~(numpy.isnan(self.axes[one].values) | numpy.isnan(self.axes[other].values)))

    def surface(self, one: int, other: int) -> Surface | None:
        """The mean over the candidates near each point; none where there are too few, or where nothing differs.

        Near is by a Gaussian in each direction, whose width is Scott's rule for two dimensions: the standard deviation times
        n to the power of -1/6 (D. W. Scott, Multivariate Density Estimation, 1992). A mean never leaves the range of what was
        observed, as a polynomial would.
        """
        rows = self.rows(one, other)
        if len(rows) < FEWEST:
            return None
        unit = numpy.linspace(0.0, 1.0, GRID)
        grid, weights = list[Floats](), list[Floats]()
        for axis in (self.axes[one], self.axes[other]):
            places = axis.places(axis.values[rows].astype(float))
            low, high = float(places.min()), float(places.max())
            if low == high:
                return None
            places = (places - low) / (high - low)
            width = places.std() * len(rows) ** (-1 / 6)
            weights.append(numpy.exp(-(((places[:, None] - unit) / width) ** 2) / 2))
            ends = low + unit * (high - low)
            grid.append(10.0**ends if axis.kind == "log" else ends)
        values = numpy.clip(self.values[rows], *self.limits)
        near = weights[1].T @ weights[0]
        sums = weights[1].T @ (values[:, None] * weights[0])
        found = numpy.full(near.shape, math.nan)
        numpy.divide(sums, near, out=found, where=near >= NEAR)
        return Surface(grid[0], grid[1], found)

    def cells(self, one: int, other: int) -> Cells:
        """The median of each cell of a pair of which one at least is a choice."""
        rows = self.rows(one, other)
        x, columns = self._cut(one, rows, len(self.axes[other].texts))
        y, lines = self._cut(other, rows, len(self.axes[one].texts))
        shape = len(y) - 1, len(x) - 1
        counts = numpy.zeros(shape, numpy.int64)
        median, best = numpy.full(shape, math.nan), numpy.full(shape, math.nan)
        values, place = self.values[rows], lines * shape[1] + columns
        for cell in numpy.unique(place).tolist():
            mine, at = values[place == cell], divmod(cell, shape[1])
            counts[at], best[at] = len(mine), self.sign * (self.sign * mine).min()
            if len(mine) >= CELL:
                median[at] = numpy.median(mine)
        return Cells(x, y, counts, median, best)

    def _cut(self, number: int, rows: Indices, others: int) -> tuple[NDArray[Any], Indices]:
        """Cut an axis into cells: their borders, and which of them each candidate is in."""
        axis = self.axes[number]
        if axis.kind == "choices":
            return numpy.arange(len(axis.texts) + 1) - 0.5, axis.values[rows].astype(numpy.int64)
        if not len(rows):
            return numpy.array([-0.5, 0.5]), numpy.zeros(0, numpy.int64)
        places = axis.places(axis.values[rows].astype(float))
        low, high = float(places.min()), float(places.max())
        count = min(BINS, max(2, math.floor(math.sqrt(len(rows) / (2 * others)) + 0.5)))
        if low == high:
            low, high, count = low - 0.5, high + 0.5, 1
        elif axis.whole and axis.kind == "linear":
            width = math.ceil((high - low + 1) / count)
            count = math.ceil((high - low + 1) / width)
            low, high = low - 0.5, low - 0.5 + width * count
        borders: Floats = low + (high - low) * numpy.arange(count + 1) / count
        inside = numpy.minimum(numpy.floor((places - low) / (high - low) * count + EDGE), count - 1).astype(numpy.int64)
        return (10.0**borders if axis.kind == "log" else borders), inside

    def described(self) -> dict[str, Any]:
        """As JSON, with what decides how pairs are shown."""
        return {
            "axes": [axis.described() for axis in self.axes],
            "values": packed(self.values.astype(small_type(self.values))),
            "numbers": packed(self.numbers),
            "sign": self.sign,
            "limits": self.limits,
            "grid": GRID,
            "fewest": FEWEST,
            "near": NEAR,
            "cell": CELL,
            "bins": BINS,
            "edge": EDGE,
        }


def pairs_of(numbers: Numbers) -> Pairs | None:
    """The hyperparameters and results of all candidates that have one; none where there is nothing to pair.

    Where they are too many for a page, an even part of them by rank, the best one included.
    """
    scored = [one for one in numbers.candidates if one.score != NO_SCORE and math.isfinite(one.value)]
    there = {name for one in scored for name in one.config}
    names = [name for name in numbers.hyperparameters if name in there]
    names = numbers.rank(names, len(names))
    if len(names) < 2 or len(scored) < 2:
        return None
    stride = math.ceil(len(scored) / min(MOST_CANDIDATES, MOST_VALUES / len(names)))
    part = sorted(scored, key=lambda one: one.score)[::stride]
    values = numpy.array([one.value for one in part], float)
    sign = float(numbers.objective.sign)
    return Pairs(
        [_axis(numbers, name, part) for name in names],
        values.astype(small_type(values)).astype(float),
        numpy.array([one.number for one in part], numpy.int32),
        sign,
        _limits(values, sign),
        len(scored),
    )


def _axis(numbers: Numbers, name: str, part: list[Candidate]) -> Axis:
    values = [one.config.get(name) for one in part]
    there = [value for value in values if value is not None]
    if numbers.is_number(name):
        log = numbers.logarithmic(name) and all(value > 0 for value in there)
        column = numpy.array([math.nan if value is None else float(value) for value in values])
        whole = all(isinstance(value, int) for value in there)
        return Axis(name, "log" if log else "linear", whole, [], column.astype(small_type(column)))
    chosen = {str(value) for value in there}
    texts = [choice for choice in numbers.choices(name) if choice in chosen]
    texts = [INACTIVE, *texts] if len(there) < len(values) else texts
    place = {text: index for index, text in enumerate(texts)}
    codes = [place[INACTIVE if value is None else str(value)] for value in values]
    return Axis(name, "choices", False, texts, numpy.array(codes, numpy.int8 if len(texts) < 128 else numpy.int32))


def _limits(values: Floats, sign: float) -> tuple[float, float]:
    """Without those of diverged trainings, which would take all of the scale."""
    losses = sign * values
    low, high = numpy.quantile(losses, (0.0, 0.9)).tolist()
    if low == high:
        margin = 0.5 * max(1.0, abs(low))
        low, high = low - margin, high + margin
    else:
        high = min(high + 0.2 * (high - low), float(losses.max()))
    ends = sign * low, sign * high
    return min(ends), max(ends)


def small_type(values: Floats) -> Any:
    """The type that takes least space: seven digits, unless numbers are too large for it."""
    largest = numpy.nanmax(numpy.abs(values), initial=0.0)
    return numpy.float64 if largest > numpy.finfo(numpy.float32).max else numpy.float32


def packed(values: NDArray[Any]) -> dict[str, str]:
    """An array as plotly packs it into JSON."""
    little = values.astype(values.dtype.newbyteorder("<"))
    return {"dtype": f"{values.dtype.kind}{values.dtype.itemsize}", "bdata": base64.b64encode(little.tobytes()).decode()}
