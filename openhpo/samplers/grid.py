"""Grid search: the Cartesian product of values of every hyperparameter.

A hyperparameter that is inactive in a combination is not multiplied out there, and forbidden combinations are skipped.
Source of the name: the grid engine of "Neural Network Hyperparameter Optimization with MagmaDNN and OpenDIEL".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openhpo.errors import UserError, meant
from openhpo.hyperparameters import Categorical, Config, Hyperparameter, Integer, Value
from openhpo.samplers.base import Suggest
from openhpo.space import Space
from openhpo.stages import TrialRecord

if TYPE_CHECKING:
    import numpy

MOST_POINTS = 1_000_000  # kept in memory


class Grid:
    """Try every combination, the last axis fastest.

    Args:
        axes: By hyperparameter, either the values to try or how many to spread evenly over its range, ends included,
            in log space where the space says so. A Categorical or Integer that is not named takes all its values.
    """

    def __init__(self, axes: Mapping[str, int | Sequence[Value]] | None = None, **more: int | Sequence[Value]) -> None:
        self.axes = {**(axes or {}), **more}

    def bind(self, space: Space, seed: int) -> GridPoints:
        return GridPoints(space, self.axes)

    def definition(self) -> dict[str, Any]:
        axes = {name: axis if isinstance(axis, int) else list(axis) for name, axis in self.axes.items()}
        return {"sampler": "Grid", "axes": axes}


class GridPoints(Suggest):
    """The points of a grid in one space.

    Raises:
        UserError: An axis is missing, unknown or holds a value that its hyperparameter may not have.
    """

    learns = False

    def __init__(self, space: Space, axes: Mapping[str, int | Sequence[Value]]) -> None:
        for name in axes:
            if name not in space.free:
                reason = "is fixed" if name in space.fixed else f"does not exist.{meant(name, space.free)}"
                raise UserError(f"the grid has an axis {name!r}, but this hyperparameter {reason}")
        self._space = space
        self._axes = {name: _values(space, name, axes.get(name)) for name in space.free}
        order = {name: place for place, name in enumerate(space.names)}
        positions = {name: {value: at for at, value in enumerate(axis)} for name, axis in self._axes.items()}
        points = list(self._points({}, [name for name in space.rules.order if name in self._axes]))
        # the order of the axes is the user's, not that of parents and children
        points.sort(key=lambda p: [positions[n][p[n]] if n in p else -1 for n in sorted(self._axes, key=order.__getitem__)])
        self._configs = [config for point in points if (config := space.configuration(point)) is not None]
        if not self._configs:
            raise UserError("every point of the grid is forbidden")
        self.size = len(self._configs)

    def _points(self, point: Config, left: list[str]) -> Iterator[Config]:
        """All combinations of the active ones of the hyperparameters left, parents before children."""
        if not left:
            yield point
            return
        name, *rest = left
        if not self._space.rules.is_active(name, {**self._space.fixed, **point}):
            yield from self._points(point, rest)
            return
        for value in self._axes[name]:
            yield from self._points({**point, name: value}, rest)

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config:
        return dict(self._configs[number])


def _values(space: Space, name: str, axis: int | Sequence[Value] | None) -> list[Value]:
    item = space.hyperparameters[name]
    if axis is None:
        axis = _all_values(name, item)
    if isinstance(axis, int):
        if axis < 1:
            raise UserError(f"the grid's axis {name!r} needs at least one value, not {axis}")
        values = list(item.choices[:axis]) if isinstance(item, Categorical) else _spread(space, name, axis)
    else:
        values = [*dict.fromkeys([axis] if isinstance(axis, str | float) else axis)]
    if not values:
        raise UserError(f"the grid's axis {name!r} has no values")
    for value in values:
        if not space.rules.legal(name, value):
            raise UserError(f"the grid's axis {name!r} holds {value!r}, which it cannot be: it is {item}")
    return values


def _all_values(name: str, item: Hyperparameter) -> list[Value]:
    if isinstance(item, Categorical):
        return list(item.choices)
    if isinstance(item, Integer) and item.bounds[1] - item.bounds[0] < MOST_POINTS:
        return list(range(item.bounds[0], item.bounds[1] + 1))
    raise UserError(f"a grid over {name!r} needs a count or values, because it is {item}: say {name}=5 or {name}=0.1,0.2")


def _spread(space: Space, name: str, count: int) -> list[Value]:
    if count == 1:
        return [space.rules.between(name, 0.5)]
    values = [space.rules.between(name, index / (count - 1)) for index in range(count)]
    return list(dict.fromkeys(values))  # a narrow Integer has fewer values than were asked for
