"""What makes one trial better than another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from openhpo.errors import UserError, meant
from openhpo.expressions import Expression, Requirement

Metrics = Mapping[str, float]


class Margins(tuple[float, ...]):
    """How far each requirement is from being met; below 0, with how much to spare. As good as any others: of two scores they
    decide nothing.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple)

    def __lt__(self, other: object) -> bool:
        return False

    __gt__ = __lt__

    def __le__(self, other: object) -> bool:
        return True

    __ge__ = __le__

    def __hash__(self) -> int:
        return 0


NO_MARGINS = Margins()


class Score(msgspec.Struct, frozen=True, order=True, gc=False):
    """A trial's standing after one step; the smaller one, by the fields in their order, is the better one.

    Feasible before infeasible, and among infeasible ones the one that comes closer to its requirements (Deb, "An
    efficient constraint handling method for genetic algorithms", 2000).
    """

    violation: float
    loss: float  # the objective, negated where it is maximised
    margins: Margins = NO_MARGINS

    def definition(self) -> dict[str, Any]:
        """It in plain JSON, where what is infinite is null."""
        finite = [part if math.isfinite(part) else None for part in (self.violation, self.loss)]
        return {"violation": finite[0], "loss": finite[1], "margins": list(self.margins)}

    @staticmethod
    def from_definition(definition: Mapping[str, Any]) -> Score:
        """The score that `definition` describes."""
        violation, loss = (math.inf if definition[part] is None else definition[part] for part in ("violation", "loss"))
        return Score(violation, loss, Margins(definition["margins"]))


NO_SCORE = Score(math.inf, math.inf)


@dataclass(frozen=True)
class FirstStep:
    """The first step at which a requirement holds, as a metric."""

    text: str

    def __str__(self) -> str:
        return f"first_step({self.text!r})"


def first_step(requirement: str) -> FirstStep:
    """The metric "first step at which `requirement` holds", such as the converged epoch of MLPerf training runs.

    A trial that has not got there is infeasible, and ranks by how far away it is.
    """
    Requirement(requirement)
    return FirstStep(requirement)


@dataclass(frozen=True)
class Objective:
    """A metric to optimise, requirements to meet, and metrics derived from those that training yields.

    Args:
        metric: The name of a metric, an expression in metrics, or `first_step(...)`.
        require: Comparisons that a trial must satisfy, each such as "val_accuracy >= 0.759".
        derived: Names for expressions in metrics, such as {"gap": "val_loss - train_loss"}.
    """

    metric: str | FirstStep
    require: str | Sequence[str] = ()
    derived: Mapping[str, str] = field(default_factory=dict)
    sign: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        texts = [self.require] if isinstance(self.require, str) else list(self.require)
        derived = {name: Expression(text) for name, text in self.derived.items()}
        requirements = [Requirement(text) for text in texts]
        target: Expression | None = None
        plain = ""
        if isinstance(self.metric, FirstStep):
            requirements.append(Requirement(self.metric.text))
        elif self.metric.isidentifier() and self.metric not in derived:
            plain = self.metric
        elif not any(sign in self.metric for sign in "+-*/("):
            plain = self.metric  # any other text is a metric's name too, such as "val/loss"
        else:
            target = Expression(self.metric)
        if plain in derived:
            target, plain = derived[plain], ""
        needs = set().union(*(requirement.names for requirement in requirements), *(e.names for e in derived.values()))
        needs |= {plain} if plain else target.names if target else set()
        keep = object.__setattr__
        keep(self, "require", tuple(texts))
        keep(self, "_requirements", requirements)
        keep(self, "_derived", derived)
        keep(self, "_target", target)
        keep(self, "_plain", plain)
        keep(self, "needs", frozenset(needs - set(derived)))

    needs: ClassVar[frozenset[str]]  # the metrics that training has to yield
    _requirements: ClassVar[list[Requirement]]
    _derived: ClassVar[dict[str, Expression]]
    _target: ClassVar[Expression | None]
    _plain: ClassVar[str]

    def score(self, step: int, metrics: Metrics) -> Score | None:
        """How good a trial is with these metrics of that step.

        Returns:
            None where a metric is absent; NO_SCORE itself where one is not finite.
        """
        try:
            margins = NO_MARGINS
            if not self._requirements and self._plain:
                value, violation = metrics[self._plain], 0.0
            else:
                value, violation, margins = self._evaluate(step, metrics)
        except KeyError:
            return None
        if value - value != 0.0 and (not violation or violation == math.inf):  # infinite or not a number
            return NO_SCORE
        return Score(violation, self.sign * value, margins)

    def _evaluate(self, step: int, metrics: Metrics) -> tuple[float, float, Margins]:
        if self._derived:
            metrics = {**metrics, **{name: expression(metrics) for name, expression in self._derived.items()}}
        violation = sum(requirement.violation(metrics) for requirement in self._requirements)
        margins = Margins(requirement.margin(metrics) for requirement in self._requirements)
        if isinstance(self.metric, FirstStep):
            return (math.inf if violation else float(step)), violation, margins
        value = self._target(metrics) if self._target else metrics[self._plain]
        if not math.isfinite(value):
            return math.inf * self.sign, math.inf, margins
        return value, violation, margins

    @property
    def ends(self) -> bool:
        """Whether a trial that meets the requirements has nothing to gain by going on."""
        return isinstance(self.metric, FirstStep)

    def value(self, score: Score) -> float:
        """The metric itself, with the sign it was reported with."""
        return self.sign * score.loss

    def missing(self, seen: set[str]) -> str:
        """What to tell a user whose training never yielded a metric that is needed."""
        name = min(self.needs - seen)
        return (
            f"the metric {name!r} was never yielded: train yields {', '.join(sorted(seen)) or 'nothing'}."
            f"{meant(name, seen)} Name one of these with --maximize or --minimize, or yield {name!r}."
        )

    def __str__(self) -> str:
        text = f"{type(self).__name__.lower()} {self.metric}"
        return f"{text} subject to {', '.join(self.require)}" if self.require else text

    def definition(self) -> dict[str, Any]:
        """What identifies this objective, in plain JSON."""
        return {
            "direction": type(self).__name__.lower(),
            "metric": {"first_step": self.metric.text} if isinstance(self.metric, FirstStep) else self.metric,
            "require": list(self.require),
            "derived": dict(self.derived),
        }

    @staticmethod
    def from_definition(definition: Mapping[str, Any]) -> Objective:
        """The objective that `definition` describes."""
        kinds: dict[str, type[Objective]] = {"minimize": Minimize, "maximize": Maximize}
        metric = definition["metric"]
        if isinstance(metric, Mapping):
            metric = first_step(metric["first_step"])
        return kinds[definition["direction"]](metric, definition["require"], definition["derived"])


class Minimize(Objective):
    """The smaller the metric, the better: `Minimize("val_loss", require="val_accuracy >= 0.759")`."""


class Maximize(Objective):
    """The larger the metric, the better: `Maximize("val_accuracy")`."""

    sign = -1.0


def objective_of(metric: Objective | str | None) -> Objective:
    """Take an objective as it is.

    Raises:
        UserError: There is none.
    """
    if isinstance(metric, Objective):
        return metric
    raise UserError(f"the objective has to be hpo.Minimize(...) or hpo.Maximize(...), not {metric!r}")
