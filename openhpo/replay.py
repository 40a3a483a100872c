"""The hyperparameters that a model was trained with, step by step, as a space of one point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openhpo.lineage import Span
from openhpo.schedules import Constant, Schedule, Switch
from openhpo.space import Space


def space_of(space: Space, lineage: Sequence[Span]) -> Space:
    """What was in force along a lineage, as fixed values and schedules.

    Args:
        space: The study's, which says how schedules come from their parameters.
        lineage: As `Result.lineage` gives it.
    """
    courses = [space.course(span.config) for span in lineage]
    starts = [span.start for span in lineage]
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for course in courses for name in (*course.constants, *course.schedules)):
        parts = [course.schedules.get(name) or course.constants.get(name) for course in courses]
        found[name] = _joined(starts, parts)
    return Space(found)


def _joined(starts: Sequence[int], parts: Sequence[Any]) -> Any:
    """One value or schedule where all are the same, else a schedule that switches from one to the next."""
    kept = [
        (start, part)
        for place, (start, part) in enumerate(zip(starts, parts, strict=True))
        if not place or part != parts[place - 1]
    ]
    if len(kept) == 1:
        return kept[0][1]
    schedules = [part if isinstance(part, Schedule) else Constant(part) for _, part in kept]
    return Switch(tuple(start for start, _ in kept), tuple(schedules))
