"""Studies beside each other: the best so far at equal steps, seconds or trials."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy

from openhpo.errors import UserError
from openhpo.report.numbers import Floats, Numbers
from openhpo.result import load_together

WAYS = ("steps", "seconds", "trials")


@dataclass
class Group:
    """Studies that differ by their seed alone.

    Attributes:
        name: What tells them from the others.
        members: The studies.
    """

    name: str
    members: list[Numbers]

    def at(self, way: str, points: Floats) -> tuple[Floats, Floats]:
        """The best so far at some points: mean and standard deviation over the members.

        Args:
            way: "steps", "seconds" or "trials".
            points: So many of these, in order.

        Returns:
            Both of the shape of `points`; NaN where not every member has a result yet, or one has ended before.
        """
        curves = numpy.stack([best_at(numbers, way, points) for numbers in self.members])
        there = numpy.isfinite(curves).all(axis=0)
        mean, spread = numpy.full(len(points), math.nan), numpy.full(len(points), math.nan)
        mean[there] = curves[:, there].mean(axis=0)
        if len(self.members) > 1:
            spread[there] = curves[:, there].std(axis=0, ddof=1)
        return mean, spread

    @cached_property
    def ends(self) -> tuple[float | None, float | None]:
        """The best of each at its end: mean and standard deviation."""
        values = [numbers.best.value for numbers in self.members if numbers.best is not None]
        values = [value for value in values if math.isfinite(value)]
        if not values:
            return None, None
        return float(numpy.mean(values)), float(numpy.std(values, ddof=1)) if len(values) > 1 else None


def best_at(numbers: Numbers, way: str, points: Floats) -> Floats:
    """The best so far of one study; NaN before it had a result and after it has ended."""
    found = numpy.full(len(points), math.nan)
    for each in numbers.improvements:
        found[points >= getattr(each, way)] = each.value
    end = {"steps": numbers.costs.trained, "seconds": numbers.elapsed, "trials": len(numbers.candidates)}[way]
    found[points > end] = math.nan
    return found


def points_of(groups: Sequence[Group], way: str, count: int) -> Floats:
    """Points at which all can be compared, evenly in the logarithm, up to where the first one ends."""
    numbers = [member for group in groups for member in group.members]
    ends = {
        "steps": min(float(each.costs.trained) for each in numbers),
        "seconds": min(each.elapsed for each in numbers),
        "trials": min(float(len(each.candidates)) for each in numbers),
    }
    end = ends[way]
    begin = max(end / 3 ** (count - 1), end / 1000 if way == "seconds" else 1.0)
    found: Floats = numpy.geomspace(begin, end, count) if end > 0 else numpy.zeros(1)
    found[-1] = end  # to the last digit
    return found if way == "seconds" else numpy.unique(numpy.ceil(found))


def grouped(studies: Sequence[str | Path]) -> list[Group]:
    """Studies, with those together that differ by their seed alone.

    Raises:
        UserError: One cannot be read, or they optimise different things.
    """
    members = [Numbers(result) for study in studies for result in load_together(study).values()]
    objectives = {json.dumps(numbers.objective.definition(), sort_keys=True) for numbers in members}
    if len(objectives) > 1:
        texts = sorted({str(numbers.objective) for numbers in members})
        raise UserError(f"studies of different objectives cannot be compared: {'; '.join(texts)}")
    groups: dict[str, Group] = {}
    for numbers in members:
        rest = {name: value for name, value in numbers.result.definition.items() if name != "seed"}
        key = json.dumps(rest, sort_keys=True)
        groups.setdefault(key, Group("", [])).members.append(numbers)
    found = list(groups.values())
    for group, name in zip(found, _names(found), strict=True):
        group.name = name
    return found


def _names(groups: Sequence[Group]) -> list[str]:
    """What each is called: its method where that tells them apart, else its folder too."""
    definitions = [group.members[0].result.definition for group in groups]
    methods = [f"{each.get('sampler')}, {each.get('engine')}" for each in definitions]
    folders = [group.members[0].result.path.name for group in groups]
    return [
        method if methods.count(method) == 1 else f"{folder} ({method})"
        for method, folder in zip(methods, folders, strict=True)
    ]
