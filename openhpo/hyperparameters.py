"""The kinds of hyperparameters, and what a configuration is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from openhpo.errors import UserError

Value: TypeAlias = bool | int | float | str
Config: TypeAlias = dict[str, Any]


def readable(value: Any, digits: int = 6) -> str:
    """A value as people read it, fractions with so many digits."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Float:
    """A real number between two bounds, both included; `log=True` searches its logarithm."""

    bounds: tuple[float, float]
    log: bool = False

    def check(self) -> None:
        """Raise UserError where no value is possible."""
        _check_bounds(self.bounds, self.log)


@dataclass(frozen=True)
class Integer:
    """A whole number between two bounds, both included; `log=True` searches its logarithm."""

    bounds: tuple[int, int]
    log: bool = False

    def check(self) -> None:
        """Raise UserError where no value is possible."""
        if not all(isinstance(bound, int) and not isinstance(bound, bool) for bound in self.bounds):
            raise UserError(f"the bounds {self.bounds} of an Integer have to be whole numbers; use Float for others")
        for bound in self.bounds:
            _check_width(bound)
        _check_bounds(self.bounds, self.log)


@dataclass(frozen=True)
class Categorical:
    """One of several values; `ordered=True` says that neighbours are alike (an ordinal hyperparameter)."""

    choices: Sequence[Value]
    ordered: bool = False

    def check(self) -> None:
        """Raise UserError where no value is possible."""
        if not self.choices:
            raise UserError("a Categorical needs at least one choice")
        if len(set(self.choices)) < len(self.choices):
            raise UserError(f"the choices {list(self.choices)} repeat themselves")
        for choice in self.choices:
            if not isinstance(choice, bool | int | float | str):
                raise UserError(f"the choice {choice!r} is neither a number, a text nor a truth value")
            if isinstance(choice, int):
                _check_width(choice)


Hyperparameter: TypeAlias = Float | Integer | Categorical


def _check_width(number: int) -> None:
    if not -(1 << 63) <= number < 1 << 63:
        raise UserError(f"{number} is beyond the whole numbers of 64 bits; search a Float, or its logarithm")


def _check_bounds(bounds: Sequence[float], log: bool) -> None:
    if len(bounds) != 2 or not all(isinstance(bound, int | float) and math.isfinite(bound) for bound in bounds):
        raise UserError(f"the bounds {bounds} have to be two finite numbers")
    lower, upper = bounds
    if lower >= upper:
        raise UserError(f"the lower bound {lower} is not below the upper bound {upper}")
    if log and lower <= 0:
        raise UserError(f"with log=True the lower bound has to be above 0, and it is {lower}")
