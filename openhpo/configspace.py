"""The bridge to ConfigSpace, which decides what is active, legal and forbidden. Imported only where decisions are made."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ConfigSpace as cs
from ConfigSpace.types import NotSet

from openhpo.errors import UserError, meant
from openhpo.expressions import parse
from openhpo.hyperparameters import Categorical, Config, Float, Hyperparameter, Integer

_CONDITIONS: dict[type[ast.cmpop], Any] = {
    ast.Eq: cs.EqualsCondition,
    ast.NotEq: cs.NotEqualsCondition,
    ast.Lt: cs.LessThanCondition,
    ast.Gt: cs.GreaterThanCondition,
    ast.In: cs.InCondition,
}
_FORBIDDEN: dict[type[ast.cmpop], Any] = {
    ast.Eq: cs.ForbiddenEqualsClause,
    ast.Lt: cs.ForbiddenLessThanClause,
    ast.LtE: cs.ForbiddenLessThanEqualsClause,
    ast.Gt: cs.ForbiddenGreaterThanClause,
    ast.GtE: cs.ForbiddenGreaterThanEqualsClause,
    ast.In: cs.ForbiddenInClause,
}
_RELATIONS: dict[type[ast.cmpop], Any] = {
    ast.Eq: cs.ForbiddenEqualsRelation,
    ast.Lt: cs.ForbiddenLessThanRelation,
    ast.LtE: cs.ForbiddenLessThanEqualsRelation,
    ast.Gt: cs.ForbiddenGreaterThanRelation,
    ast.GtE: cs.ForbiddenGreaterThanEqualsRelation,
}


class Rules:
    """ConfigSpace's view of a space."""

    def __init__(
        self,
        hyperparameters: Mapping[str, Hyperparameter],
        conditions: Mapping[str, str],
        forbidden: Sequence[str],
        given: cs.ConfigurationSpace | None,
    ) -> None:
        self._choices = {name: item.choices for name, item in hyperparameters.items() if isinstance(item, Categorical)}
        self._places = {name: {choice: place for place, choice in enumerate(c)} for name, c in self._choices.items()}
        self._integers = {name: item for name, item in hyperparameters.items() if isinstance(item, Integer)}
        self.space = _build(hyperparameters, conditions) if given is None else given
        self._items = {name: self.space[name] for name in self.space}
        self._conditions: dict[str, list[Any]] = {}
        for condition in self.space.conditions:
            self._conditions.setdefault(condition.child.name, []).append(condition)
        # not added to the space, which would refuse those that its own default configuration breaks
        clauses = [_parsed("the forbidden clause", text, partial(_clause, self.space)) for text in forbidden]
        self._forbidden = [*self.space.forbidden_clauses, *clauses]

    def legal(self, name: str, value: Any) -> bool:
        """Whether a hyperparameter may have that value, by itself."""
        if name in self._choices:
            return value in self._choices[name]
        return isinstance(value, int | float) and bool(self._items[name].legal_value(value))

    def value(self, name: str, unit: float) -> Any:
        """The value of a hyperparameter at a coordinate in [0, 1)."""
        item = self._items[name]
        if name in self._choices:
            choices = self._choices[name]
            weights = getattr(item, "probabilities", None)
            return choices[_weighted(weights, unit) if weights is not None else int(unit * len(choices))]
        if name in self._integers:
            return _whole(self._integers[name], unit)
        return self.between(name, unit)

    def unit(self, name: str, value: Any) -> float:
        """The coordinate of a value: one at which `value` returns it, in the midst of those that do."""
        if name in self._choices:
            return (self._places[name][value] + 0.5) / len(self._choices[name])
        if name in self._integers:
            return _place(self._integers[name], value)
        return float(self._items[name].to_vector(value))

    def between(self, name: str, fraction: float) -> Any:
        """The value of a number at a fraction of its range, from its lower bound at 0 to its upper at 1."""
        return _plain(self._items[name].to_value(fraction))

    def active(self, values: Mapping[str, Any]) -> Config:
        """Of the values, those whose conditions hold; parents come before children."""
        if not self._conditions:
            return {name: values[name] for name in self._items}
        known = dict.fromkeys(self._items, NotSet)
        for name in self._items:
            if all(condition.satisfied_by_value(known) for condition in self._conditions.get(name, ())):
                known[name] = values[name]
        return {name: value for name, value in known.items() if value is not NotSet}

    def is_active(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether a hyperparameter's conditions hold, given the values of those before it in `order`."""
        known = {**dict.fromkeys(self._items, NotSet), **values}
        return all(condition.satisfied_by_value(known) for condition in self._conditions.get(name, ()))

    @property
    def plain(self) -> bool:
        """Whether every hyperparameter is always active, and nothing forbidden."""
        return not self._conditions and not self._forbidden

    @property
    def order(self) -> list[str]:
        """All hyperparameters, parents before children."""
        return list(self._items)

    def forbids(self, config: Config) -> bool:
        """Whether the combination is forbidden; a clause about an inactive hyperparameter does not apply."""
        return any(_applies(clause, config) and clause.is_forbidden_value(config) for clause in self._forbidden)


def _applies(clause: Any, config: Config) -> bool:
    if isinstance(clause, cs.ForbiddenAndConjunction):
        return all(_applies(component, config) for component in clause.components)
    if hasattr(clause, "components"):
        return any(_applies(component, config) for component in clause.components)
    if hasattr(clause, "hyperparameter"):
        return clause.hyperparameter.name in config
    return clause.left.name in config and clause.right.name in config


def _whole(item: Integer, unit: float) -> int:
    """A whole number such that all are equally likely, or as likely as their logarithms' distances."""
    lower, upper = item.bounds
    if item.log:
        low, high = math.log(lower - 0.5), math.log(upper + 0.5)
        value = round(math.exp(low + unit * (high - low)))
    else:
        value = lower + int(unit * (upper - lower + 1))
    return max(lower, min(upper, value))


def _place(item: Integer, value: int) -> float:
    """The inverse of `_whole`."""
    lower, upper = item.bounds
    if item.log:
        low, high = math.log(lower - 0.5), math.log(upper + 0.5)
        return (math.log(value) - low) / (high - low)
    return (value - lower + 0.5) / (upper - lower + 1)


def _weighted(weights: Any, unit: float) -> int:
    total = 0.0
    for index, weight in enumerate(weights):
        total += float(weight)
        if unit < total:
            return index
    return len(weights) - 1


def _build(hyperparameters: Mapping[str, Hyperparameter], conditions: Mapping[str, str]) -> cs.ConfigurationSpace:
    space = cs.ConfigurationSpace()
    for name, item in hyperparameters.items():
        if isinstance(item, Float):
            space.add(cs.Float(name, item.bounds, log=item.log))
        elif isinstance(item, Integer):
            space.add(cs.Integer(name, item.bounds, log=item.log))
        else:
            space.add(cs.Categorical(name, list(item.choices), ordered=item.ordered))
    for child, text in conditions.items():
        kind = f"the condition of {child!r}"
        condition = _parsed(kind, text, partial(_condition, space, space[child]))
        _parsed(kind, text, partial(_add, space, condition))
    return space


def _add(space: cs.ConfigurationSpace, condition: Any, _tree: ast.expr) -> None:
    space.add(condition)


def _parsed(kind: str, text: str, make: Callable[[ast.expr], Any]) -> Any:
    try:
        return make(parse(text))
    except UserError as error:
        raise UserError(f"{kind}, {text!r}: {error}") from None
    except Exception as error:  # ConfigSpace has a dozen types for what is wrong with a clause
        raise UserError(f"{kind}, {text!r}, is not possible: {error}") from None


def _condition(space: cs.ConfigurationSpace, child: Any, tree: ast.expr) -> Any:
    if isinstance(tree, ast.BoolOp):
        join = cs.AndConjunction if isinstance(tree.op, ast.And) else cs.OrConjunction
        return join(*(_condition(space, child, part) for part in tree.values))
    name, op, value = _comparison(tree)
    if type(op) not in _CONDITIONS or isinstance(value, ast.Name):
        raise UserError("a condition compares a hyperparameter with a value by ==, !=, <, > or in")
    return _CONDITIONS[type(op)](child, _named(space, name), ast.literal_eval(value))


def _clause(space: cs.ConfigurationSpace, tree: ast.expr) -> Any:
    if isinstance(tree, ast.BoolOp):
        join = cs.ForbiddenAndConjunction if isinstance(tree.op, ast.And) else cs.ForbiddenOrConjunction
        return join(*(_clause(space, part) for part in tree.values))
    name, op, value = _comparison(tree)
    if isinstance(value, ast.Name) and type(op) in _RELATIONS:
        return _RELATIONS[type(op)](_named(space, name), _named(space, value.id))
    if type(op) not in _FORBIDDEN:
        raise UserError("a forbidden clause compares by ==, <, <=, >, >= or in")
    return _FORBIDDEN[type(op)](_named(space, name), ast.literal_eval(value))


def _comparison(tree: ast.expr) -> tuple[str, ast.cmpop, ast.expr]:
    if not (isinstance(tree, ast.Compare) and len(tree.ops) == 1 and isinstance(tree.left, ast.Name)):
        raise UserError("it has to compare a hyperparameter (on the left) with a value, joined by and/or")
    return tree.left.id, tree.ops[0], tree.comparators[0]


def _named(space: cs.ConfigurationSpace, name: str) -> Any:
    if name not in space:
        raise UserError(f"there is no hyperparameter {name!r}; a fixed value cannot be compared.{meant(name, list(space))}")
    return space[name]


def hyperparameters_of(space: cs.ConfigurationSpace) -> tuple[dict[str, Hyperparameter], Config]:
    """The hyperparameters and the constants of a ConfigSpace space.

    Raises:
        UserError: It has a type that is not known here.
    """
    found: dict[str, Hyperparameter] = {}
    fixed: Config = {}
    for name, item in space.items():
        if isinstance(item, cs.Constant):
            fixed[name] = item.value
        elif isinstance(item, cs.UniformFloatHyperparameter):
            found[name] = Float((float(item.lower), float(item.upper)), item.log)
        elif isinstance(item, cs.UniformIntegerHyperparameter):
            found[name] = Integer((int(item.lower), int(item.upper)), item.log)
        elif isinstance(item, cs.CategoricalHyperparameter):
            found[name] = Categorical([_plain(choice) for choice in item.choices])
        elif isinstance(item, cs.OrdinalHyperparameter):
            found[name] = Categorical([_plain(choice) for choice in item.sequence], ordered=True)
        else:
            raise UserError(f"hyperparameter {name!r}: a {type(item).__name__} cannot be searched here; use a uniform one")
    return found, fixed


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
