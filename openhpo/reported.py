"""The metrics of every step, for callbacks that are told of steps which a trial takes over from others.

The study itself keeps scores alone. Here a value takes 8 bytes; what earlier runs reported is read from their file.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

from openhpo.lineage import Lineage
from openhpo.storage import Tables


@dataclass(slots=True)
class Part:
    """Consecutive steps of a stage with the same metrics.

    Attributes:
        names: The metrics.
        first: The first step.
        end: The step after the last one.
        values: Of each step, one after the other.
    """

    names: tuple[str, ...]
    first: int
    end: int
    values: array[float] = field(default_factory=lambda: array("d"))


class Reported:
    """What stages have reported.

    Args:
        earlier: The study as earlier runs left it.
    """

    def __init__(self, earlier: Tables | None = None) -> None:
        self._parts: dict[int, list[Part]] = {}
        self._earlier = earlier
        self._lineage = None if earlier is None else Lineage(earlier)

    def add(self, stage: int, first: int, names: Sequence[str], values: NDArray[numpy.float64]) -> None:
        """A stage has reported more steps.

        Args:
            stage: Its number.
            first: The first of these steps.
            names: The metrics, one a column.
            values: Shape [steps, metrics].
        """
        parts = self._parts.setdefault(stage, [])
        if not parts or parts[-1].names != tuple(names) or parts[-1].end != first:
            parts.append(Part(tuple(names), first, first))
        parts[-1].end += len(values)
        parts[-1].values.frombytes(values.tobytes())

    def at(self, stage: int, step: int) -> dict[str, float]:
        """The metrics of a step, which counts over the whole trial, that a stage has reported.

        Raises:
            KeyError: It has not.
        """
        for part in self._parts.get(stage, ()):
            if part.first <= step < part.end:
                at = (step - part.first) * len(part.names)
                return dict(zip(part.names, part.values[at : at + len(part.names)], strict=True))
        return self._before(stage, step)

    def _before(self, stage: int, step: int) -> dict[str, float]:
        tables, lineage = self._earlier, self._lineage
        if tables is None or lineage is None:
            raise KeyError(stage)
        order, begin = lineage.by_stage
        row = order[begin[stage] + step - 1 - int(tables.stages["start"][lineage.row_of[stage]])]
        return tables.reported(int(row))
