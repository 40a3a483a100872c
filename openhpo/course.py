"""What is in force at each step of a trial, and how far two trials are the same computation."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from openhpo.hyperparameters import Config
from openhpo.schedules import Form, Piece, Schedule, held


class Course:
    """A configuration as a sequence: every hyperparameter a constant or a schedule over the steps.

    Attributes:
        config: The configuration it comes from, parameters of schedules included.
        constants: What is the same at every step.
        schedules: What is not, each with numbers for its parameters.
        study: The place of the study whose space the configuration is of.

    Args:
        config: As above.
        constants: As above.
        schedules: As above.
        identity: What else tells computations apart: the seed.
    """

    __slots__ = ("_identity", "_lines", "config", "constants", "schedules", "study")

    def __init__(self, config: Config, constants: Config, schedules: Mapping[str, Schedule], identity: Hashable = 0) -> None:
        self.config = config
        self.study = 0
        self.constants = constants
        self.schedules = dict(schedules)
        self._lines = {name: Pieces(self.schedules[name]) for name in sorted(self.schedules)}
        named = tuple(sorted((name, *held(value)) for name, value in constants.items()))
        self._identity = (identity, named, tuple(self._lines))

    def key(self, step: int) -> Hashable:
        """What is in force once `step` steps are trained; equal keys are the same function from there on, for a while."""
        if not self._lines:
            return self._identity
        return (self._identity, *(line.at(step).form for line in self._lines.values()))

    def parting(self, other: Course, step: int, limit: int) -> int:
        """How far both are the same, given that they are up to `step`: steps trained, at most `limit`."""
        if self._identity != other._identity:
            return step
        for mine, theirs in zip(self._lines.values(), other._lines.values(), strict=True):
            # a step in whose middle they part is not shared
            limit = max(step, int(mine.parting(theirs, Fraction(step), Fraction(limit))))
        return limit

    def value(self, name: str, t: float) -> Any:
        """A schedule's value after `t` steps.

        Raises:
            KeyError: There is no such schedule.
        """
        time = Fraction(t)
        return self._lines[name].at(time).form.at(time)

    def at(self, t: float) -> Values:
        """All hyperparameters as they are after `t` steps."""
        return Values(self, t)

    def turns(self, start: int, stop: int) -> list[int]:
        """The steps between these two from which on another piece of a schedule is in force, in order."""
        found = set()
        for line in self._lines.values():
            place = line.place(start)
            while (end := line[place].stop) is not None and end < stop:
                found.add(math.ceil(end))
                place += 1
        return sorted(step for step in found if start < step < stop)


class Values(Mapping[str, Any]):
    """The hyperparameters in force at one moment, by name."""

    def __init__(self, course: Course, t: float) -> None:
        self._course = course
        self._t = t

    def __getitem__(self, name: str) -> Any:
        if name in self._course.constants:
            return self._course.constants[name]
        return self._course.value(name, self._t)

    def __iter__(self) -> Iterator[str]:
        yield from self._course.constants
        yield from self._course.schedules

    def __len__(self) -> int:
        return len(self._course.constants) + len(self._course.schedules)


class Pieces:
    """The canonical pieces of a schedule, made as they are needed, neighbours of the same form joined."""

    __slots__ = ("_coming", "_made")

    def __init__(self, schedule: Schedule) -> None:
        self._coming = _joined(schedule.spans(Fraction(0)))
        self._made: list[Piece] = []

    def __getitem__(self, place: int) -> Piece:
        while len(self._made) <= place:
            self._made.append(next(self._coming))
        return self._made[place]

    def place(self, t: Fraction | int) -> int:
        """Which piece is in force at t."""
        low = 0
        while True:
            if low == len(self._made):
                self[low]
            made = self._made
            if made[-1].stop is not None and made[-1].stop <= t:
                low = len(made)
                continue
            high = len(made) - 1
            low = 0
            while low < high:  # the first piece that ends after t
                middle = (low + high) // 2
                stop = made[middle].stop
                if stop is not None and stop <= t:
                    low = middle + 1
                else:
                    high = middle
            return low

    def at(self, t: Fraction | int) -> Piece:
        return self[self.place(t)]

    def parting(self, other: Pieces, t: Fraction, limit: Fraction) -> Fraction:
        """Where from t on the two become different functions, at most `limit`."""
        mine, theirs = self.place(t), other.place(t)
        while t < limit:
            a, b = self[mine], other[theirs]
            if a.form != b.form:
                return t
            t = min(limit if a.stop is None else a.stop, limit if b.stop is None else b.stop)
            mine += a.stop == t
            theirs += b.stop == t
        return limit


def _joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    before: Piece | None = None
    begin = Fraction(0)
    for piece in pieces:
        if piece.stop is not None and piece.stop <= begin:
            continue
        if before is not None and before.form != piece.form:
            yield before
        before = piece
        if piece.stop is None:
            break
        begin = piece.stop
    assert before is not None
    yield Piece(before.form, None)


__all__ = ["Course", "Form", "Pieces", "Values"]
