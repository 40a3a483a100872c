"""Configurations as rows of numbers, for samplers that fit a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from openhpo.hyperparameters import Categorical, Config, Integer
from openhpo.space import Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALMOST_ONE = 1.0 - 2.0**-53
MOST_CELLS = 1000  # whole numbers with more values are taken for continuous


class Coordinates:
    """One column a free hyperparameter: for numbers and ordered choices the place in their range, from 0 to 1, in log space
    where the space says so; for other choices the place in their list; NaN where the hyperparameter is inactive.

    Attributes:
        choices: Shape [columns]: how many choices there are; 0 for what has an order.
        numbers: The columns that have an order.
        categories: The others.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        items = [space.hyperparameters[name] for name in space.free]
        self.choices = numpy.array(
            [len(item.choices) if isinstance(item, Categorical) and not item.ordered else 0 for item in items], int
        )
        self.numbers = numpy.flatnonzero(self.choices == 0)
        self.categories = numpy.flatnonzero(self.choices)
        self._cells = [None if self.choices[column] else self._centres(name) for column, name in enumerate(space.free)]

    def _centres(self, name: str) -> NDArray[numpy.float64] | None:
        """The coordinates of all values of a hyperparameter that has few."""
        item, rules = self.space.hyperparameters[name], self.space.rules
        values: Sequence[Any] = ()
        if isinstance(item, Categorical):
            values = item.choices
        elif isinstance(item, Integer) and item.bounds[1] - item.bounds[0] < MOST_CELLS:
            values = range(item.bounds[0], item.bounds[1] + 1)
        return numpy.array([rules.unit(name, value) for value in values]) if values else None

    def row(self, config: Mapping[str, Any]) -> list[float]:
        """A configuration as coordinates."""
        rules, row = self.space.rules, []
        for name, choices in zip(self.space.free, self.choices.tolist(), strict=True):
            unit = rules.unit(name, config[name]) if name in config else numpy.nan
            row.append(unit * choices - 0.5 if choices else unit)
        return row

    def snapped(self, rows: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
        """Rows with every coordinate moved to one that a value has."""
        rows = rows.copy()
        for column, cells in enumerate(self._cells):
            if cells is not None:
                rows[:, column] = cells[numpy.searchsorted((cells[1:] + cells[:-1]) / 2, rows[:, column])]
        return rows

    def config(self, row: Sequence[float]) -> Config | None:
        """The configuration at coordinates of which none is missing; None where it is forbidden."""
        pairs = zip(row, self.choices.tolist(), strict=True)
        return self.space.from_unit([(at + 0.5) / choices if choices else min(at, ALMOST_ONE) for at, choices in pairs])

    def possible(self, rows: NDArray[numpy.float64]) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
        """Of rows with a value in every column those that are not forbidden: as they are, and with NaN for what is inactive."""
        if self.space.rules.plain:
            return rows, rows
        found = [(row, config) for row in rows if (config := self.config(row.tolist())) is not None]
        kept = numpy.array([row for row, _ in found]).reshape(-1, rows.shape[1])
        active = numpy.array([[name in config for name in self.space.free] for _, config in found], bool).reshape(kept.shape)
        return kept, numpy.where(active, kept, numpy.nan)
