"""Schedules: hyperparameters whose value is a function of the steps trained.

A schedule is a function of t, the steps trained so far: step k (they count from 1) is the span from t = k - 1 to t = k, and the
value in force at a step is the one at its beginning. The parameters of a schedule are numbers, hyperparameters
(`Float((1e-3, 1.0), log=True)`), or texts that name another hyperparameter or compute from some ("peak / 10").

Whether two schedules are the same function is decided on a canonical form, pieces of constants, lines, powers and cosines with
exact rational coefficients, and the value in force is computed from that form alone: equal forms give equal bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

from openhpo.errors import UserError
from openhpo.expressions import Expression
from openhpo.hyperparameters import Categorical, Float, Hyperparameter, Integer, Value

Number: TypeAlias = Any  # int or float; before it is resolved also a hyperparameter or a text


class Held(NamedTuple):
    """One value, which need not be a number."""

    kind: str  # 1, 1.0 and True are equal to Python, but not the same hyperparameter value
    value: Value

    def at(self, t: Fraction) -> Any:
        return self.value


class Line(NamedTuple):
    """intercept + slope t."""

    intercept: Fraction
    slope: Fraction

    def at(self, t: Fraction) -> float:
        return float(self.intercept + self.slope * t)


class Power(NamedTuple):
    """end + scale ((stop - t) / length)^power, up to `stop`.

    A whole power has length 1 and what `scale` then is, as pieces of one such curve are the same function wherever they begin.
    For another power that number need not be rational: curves of different lengths count as different functions.
    """

    end: Fraction
    scale: Fraction
    stop: Fraction
    length: Fraction
    power: Fraction

    def at(self, t: Fraction) -> float:
        left = (self.stop - t) / self.length
        whole = self.power.denominator == 1
        share = left**self.power.numerator if whole else Fraction(math.pow(left, self.power))
        return float(self.end + self.scale * share)


class Wave(NamedTuple):
    """Half a cosine, from `high` at `begin` to `low` at `begin + length`."""

    high: Fraction
    low: Fraction
    begin: Fraction
    length: Fraction

    def at(self, t: Fraction) -> float:
        down = (1 - math.cos(math.pi * float((t - self.begin) / self.length))) / 2
        return float(self.high) - float(self.high - self.low) * down


Form: TypeAlias = Held | Line | Power | Wave


class Piece(NamedTuple):
    """A form that is in force until t = `stop`; None for ever."""

    form: Form
    stop: Fraction | None


def exact(number: float) -> Fraction:
    """The decimal number that was written, not the binary one beside it: 0.3 is three times 0.1."""
    return Fraction(number) if isinstance(number, int) else Fraction(repr(float(number)))


def held(value: Value) -> Held:
    return Held(type(value).__name__, value)


def line(start: Fraction, end: Fraction, begin: Fraction, length: Fraction) -> Form:
    """From `start` at t = `begin` to `end`, `length` later."""
    if start == end:
        return held(float(start))
    slope = (end - start) / length
    return Line(start - slope * begin, slope)


def curve(start: Fraction, end: Fraction, begin: Fraction, length: Fraction, power: Fraction) -> Form:
    """From `start` at t = `begin` to `end`, `length` later, as a power of what is left of it."""
    if start == end or power == 1:
        return line(start, end, begin, length)
    if power.denominator == 1:
        return Power(end, (start - end) / length**power.numerator, begin + length, Fraction(1), power)
    return Power(end, start - end, begin + length, length, power)


@dataclass(frozen=True)
class Schedule:
    """A function of the steps trained. Subclasses say which; all times are in steps, and may be fractions of one."""

    def spans(self, begin: Fraction) -> Iterator[Piece]:
        """The canonical form, beginning at t = `begin`, of a schedule whose parameters are numbers."""
        raise NotImplementedError

    @property
    def length(self) -> Fraction | None:
        """Steps after which it only holds its last value; None where it goes on for ever."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise UserError where the parameters, as far as they are numbers, make no sense."""

    # ---- parameters

    def parameters(self, name: str) -> dict[str, Hyperparameter]:
        """The hyperparameters among its parameters, by dotted name, such as "lr.factor" or "lr.every.0"."""
        return {path: item for path, item in self._leaves(name) if isinstance(item, Float | Integer | Categorical)}

    def references(self, name: str) -> dict[str, Expression]:
        """The parameters that are computed from other hyperparameters."""
        return {path: Expression(item) for path, item in self._leaves(name) if isinstance(item, str)}

    def _leaves(self, name: str) -> Iterator[tuple[str, Any]]:
        for field in fields(self):
            yield from _leaves(f"{name}.{field.name}", getattr(self, field.name))

    def resolve(self, name: str, config: Mapping[str, Any]) -> Schedule:
        """This schedule with numbers for its parameters.

        Args:
            name: The hyperparameter that it is.
            config: Values by name.

        Raises:
            UserError: The numbers make no sense.
            KeyError: A parameter has no value, because it is inactive.
        """
        changes = {f.name: _resolved(f"{name}.{f.name}", getattr(self, f.name), config) for f in fields(self)}
        found = replace(self, **changes)
        try:
            found.check()
        except UserError as error:
            raise UserError(f"the schedule {name!r}: {error}") from None
        return found

    def definition(self) -> dict[str, Any]:
        """What identifies it, in plain JSON."""
        return {"type": type(self).__name__, **{f.name: _defined(getattr(self, f.name)) for f in fields(self)}}

    def at(self, t: float) -> Any:
        """The value after `t` steps, of a schedule whose parameters are numbers."""
        time = Fraction(t)
        return next(piece.form for piece in self.spans(Fraction(0)) if piece.stop is None or time < piece.stop).at(time)


@dataclass(frozen=True)
class Constant(Schedule):
    """One value; `steps` says for how long, where another schedule follows in a Chain."""

    value: Any
    steps: Number | None = None

    def spans(self, begin: Fraction) -> Iterator[Piece]:
        yield Piece(held(self.value), None)

    @property
    def length(self) -> Fraction | None:
        return None if self.steps is None else exact(self.steps)

    def check(self) -> None:
        _above_zero("steps", self.steps)


@dataclass(frozen=True)
class Steps(Schedule):
    """Piecewise constant: `values` one after the other, each but the last for its number of steps in `lengths`."""

    values: Sequence[Any]
    lengths: Sequence[Number]

    def spans(self, begin: Fraction) -> Iterator[Piece]:
        for value, length in zip(self.values[:-1], self.lengths, strict=True):
            begin += exact(length)
            yield Piece(held(value), begin)
        yield Piece(held(self.values[-1]), None)

    @property
    def length(self) -> Fraction:
        return sum(map(exact, self.lengths), Fraction(0))

    def check(self) -> None:
        if len(self.values) != len(self.lengths) + 1:
            raise UserError(
                f"Steps needs a length for each value but the last, not {len(self.lengths)} for {len(self.values)} values"
            )
        _above_zero("lengths", *self.lengths)


@dataclass(frozen=True)
class Linear(Schedule):
    """From `start` to `end` in so many steps, then `end`."""

    start: Number
    end: Number
    steps: Number

    def spans(self, begin: Fraction) -> Iterator[Piece]:
        length = exact(self.steps)
        yield Piece(line(exact(self.start), exact(self.end), begin, length), begin + length)
        yield Piece(held(float(self.end)), None)

    @property
    def length(self) -> Fraction:
        return exact(self.steps)

    def check(self) -> None:
        _above_zero("steps", self.steps)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """From `start` to `end` in so many steps as a power of the steps left, then `end`; without `power` along a parabola.

    LARS was published with this after a warm-up (You et al. 2017): Chain(Warmup(8.0, 5), Polynomial(8.0, 0.0, 85)).
    """

    start: Number
    end: Number
    steps: Number
    power: Number = 2

    def spans(self, begin: Fraction) -> Iterator[Piece]:
        length = exact(self.steps)
        yield Piece(curve(exact(self.start), exact(self.end), begin, length, exact(self.power)), begin + length)
        yield Piece(held(float(self.end)), None)

    @property
    def length(self) -> Fraction:
        return exact(self.steps)

    def check(self) -> None:
        _above_zero("steps", self.steps)
        _above_zero("power", self.power)


@dataclass(frozen=True)
class Warmup(Schedule):
    """A linear warm-up over so many steps: step k of them has k / steps of `to` (Goyal et al. 2017), or begins at `start`."""

    to: Number
    steps: Number
    start: Number | None = None

    def spans(self, begin: Fraction) -> Iterator[Piece]:
        to, length = exact(self.to), exact(self.steps)
        # one step early, so that the last step of the warm-up has `to` itself
        start, ramp = (to / length, length - 1) if self.start is None else (exact(self.start), length)
        if ramp > 0:
            yield Piece(line(start, to, begin, ramp), begin + ramp)
        yield Piece(held(float(self.to)), None)

    @property
    def length(self) -> Fraction:
        return exact(self.steps)

    def check(self) -> None:
        _above_zero("steps", self.steps)


@dataclass(frozen=True)
class Exponential(Schedule):
    """`initial`, multiplied by `factor` every so many steps.

    `every` is one number of steps, or several: the periods before the first, second, ... multiplication, the last of them.
    With whole numbers for `initial` and `factor` the values are whole, as a batch size has to be.
    """

    initial: Number
    factor: Number
    every: Number | Sequence[Number]
    steps: Number | None = None

    def spans(self, begin: Fraction) -> Iterator[Piece]:
        whole = isinstance(self.initial, int) and isinstance(self.factor, int)
        value, factor = exact(self.initial), exact(self.factor)
        several = isinstance(self.every, list | tuple)
        last = None if self.steps is None else begin + exact(self.steps)
        periods: Iterable[Number] = self.every if several else itertools.repeat(self.every)
        for period in periods:
            begin += exact(period)
            if (last is not None and begin >= last) or value * factor == value:
                break
            form = held(int(value) if whole else float(value))
            yield Piece(form, begin)
            if form.value == 0.0:  # too small for a floating-point number, now and for ever
                break
            value *= factor
        yield Piece(held(int(value) if whole else float(value)), None)

    @property
    def length(self) -> Fraction | None:
        if self.steps is not None:
            return exact(self.steps)
        return sum(map(exact, self.every), Fraction(0)) if isinstance(self.every, list | tuple) else None

    def check(self) -> None:
        _above_zero("every", *(self.every if isinstance(self.every, list | tuple) else [self.every]))
        _above_zero("steps", self.steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From `high` to `low` along half a cosine in so many steps, then `low` (Loshchilov and Hutter 2017, without restarts)."""

    high: Number
    low: Number
    steps: Number

    def spans(self, begin: Fraction) -> Iterator[Piece]:
        high, low, length = exact(self.high), exact(self.low), exact(self.steps)
        if high != low:
            yield Piece(Wave(high, low, begin, length), begin + length)
        yield Piece(held(float(self.low)), None)

    @property
    def length(self) -> Fraction:
        return exact(self.steps)

    def check(self) -> None:
        _above_zero("steps", self.steps)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """Triangles from `low` up to `high` and back, one every `period` steps (Smith 2017).

    `decay` multiplies the height of each triangle after the first; `steps` ends the cycles at `low`.
    """

    low: Number
    high: Number
    period: Number
    decay: Number = 1.0
    steps: Number | None = None

    def spans(self, begin: Fraction) -> Iterator[Piece]:
        low, height, half = exact(self.low), exact(self.high) - exact(self.low), exact(self.period) / 2
        decay = exact(self.decay)
        last = None if self.steps is None else begin + exact(self.steps)
        while height:
            for start, end in ((low, low + height), (low + height, low)):
                if last is not None and begin >= last:
                    break
                stop = begin + half if last is None else min(begin + half, last)
                yield Piece(line(start, end, begin, half), stop)
                begin += half
            if last is not None and begin >= last:
                break
            height *= decay
        yield Piece(held(float(self.low)), None)

    @property
    def length(self) -> Fraction | None:
        return None if self.steps is None else exact(self.steps)

    def check(self) -> None:
        _above_zero("period", self.period)
        _above_zero("steps", self.steps)
        if isinstance(self.decay, int | float) and not 0 <= self.decay <= 1:
            raise UserError(f"decay has to lie between 0 and 1, and it is {self.decay}")


@dataclass(frozen=True)
class Chain(Schedule):
    """Schedules one after the other, each for its length: Chain(Warmup(0.1, 5), Cosine(0.1, 0.0, 95))."""

    parts: Sequence[Schedule]

    def __init__(self, *parts: Schedule | Sequence[Schedule]) -> None:
        given = parts[0] if len(parts) == 1 and not isinstance(parts[0], Schedule) else parts
        object.__setattr__(self, "parts", tuple(given))

    def spans(self, begin: Fraction) -> Iterator[Piece]:
        for part in self.parts[:-1]:
            assert part.length is not None
            stop = begin + part.length
            for piece in part.spans(begin):
                if piece.stop is None or piece.stop >= stop:
                    yield Piece(piece.form, stop)
                    break
                yield piece
            begin = stop
        yield from self.parts[-1].spans(begin)

    @property
    def length(self) -> Fraction | None:
        lengths = [part.length for part in self.parts]
        return None if lengths[-1] is None else sum((length for length in lengths if length is not None), Fraction(0))

    def resolve(self, name: str, config: Mapping[str, Any]) -> Schedule:
        found = Chain(*(part.resolve(f"{name}.{place}", config) for place, part in enumerate(self.parts)))
        found.check()
        return found

    def _leaves(self, name: str) -> Iterator[tuple[str, Any]]:
        for place, part in enumerate(self.parts):
            yield from part._leaves(f"{name}.{place}")

    def check(self) -> None:
        if not self.parts or not all(isinstance(part, Schedule) for part in self.parts):
            raise UserError("a Chain takes schedules: Chain(Warmup(0.1, 5), Constant(0.1))")
        for part in self.parts:
            part.check()
        for part in self.parts[:-1]:
            if getattr(part, "steps", 1) is None and _endless(part):
                raise UserError(f"in a Chain every schedule but the last needs an end: give {type(part).__name__} its steps")


@dataclass(frozen=True)
class Switch(Schedule):
    """Other schedules from certain steps on, all of them functions of the same t: what population based training makes.

    `starts` are the steps trained when each of `parts` comes into force, the first of them 0.
    """

    starts: Sequence[int]
    parts: Sequence[Schedule]

    def spans(self, begin: Fraction) -> Iterator[Piece]:
        for part, start, stop in zip(self.parts, self.starts, [*self.starts[1:], None], strict=True):
            until = None if stop is None else begin + stop
            for piece in part.spans(begin):
                if piece.stop is not None and piece.stop <= begin + start:
                    continue
                if until is not None and (piece.stop is None or piece.stop >= until):
                    yield Piece(piece.form, until)
                    break
                yield piece

    @property
    def length(self) -> None:
        return None

    def _leaves(self, name: str) -> Iterator[tuple[str, Any]]:
        yield from ()

    def resolve(self, name: str, config: Mapping[str, Any]) -> Schedule:
        return self

    def check(self) -> None:
        if not self.parts or len(self.parts) != len(self.starts) or self.starts[0] != 0:
            raise UserError("Switch needs a start for every part, the first of them 0")


def _endless(part: Schedule) -> bool:
    if isinstance(part, Constant | Cyclic):
        return True
    return isinstance(part, Exponential) and not isinstance(part.every, list | tuple)


def _leaves(path: str, item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, list | tuple):
        for place, inner in enumerate(item):
            yield from _leaves(f"{path}.{place}", inner)
    else:
        yield path, item


def _resolved(path: str, item: Any, config: Mapping[str, Any]) -> Any:
    if isinstance(item, Float | Integer | Categorical):
        return config[path]
    if isinstance(item, list | tuple):
        return tuple(_resolved(f"{path}.{place}", inner, config) for place, inner in enumerate(item))
    if isinstance(item, str):
        return config[item] if item in config else Expression(item)(config)
    return item


def _defined(item: Any) -> Any:
    if isinstance(item, Schedule):
        return item.definition()
    if isinstance(item, Float | Integer | Categorical):
        return {"type": type(item).__name__}  # described among the space's hyperparameters
    if isinstance(item, list | tuple):
        return [_defined(inner) for inner in item]
    return item


def _above_zero(name: str, *numbers: Any) -> None:
    for given in numbers:
        number = given.bounds[0] if isinstance(given, Float | Integer) else given
        if isinstance(number, Categorical):
            _above_zero(name, *number.choices)
        elif isinstance(number, int | float) and not (number > 0 and math.isfinite(number)):
            raise UserError(f"{name} has to be above 0, and it is {number}")


FROM_NAME: dict[str, Callable[..., Schedule]] = {
    kind.__name__: kind for kind in (Constant, Steps, Linear, Polynomial, Warmup, Exponential, Cosine, Cyclic, Chain, Switch)
}
