"""Arithmetic and comparisons that users write as text, such as "val_accuracy >= 0.759".

Only numbers, names, + - * / **, comparisons and a few functions are understood, so a study's definition never runs code.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping

from openhpo.errors import UserError

FUNCTIONS: dict[str, Callable[..., float]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
}
_ALLOWED = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Name, ast.Load, ast.Constant, ast.Call)


def parse(text: str) -> ast.expr:
    """The syntax tree of an expression.

    Raises:
        UserError: It is no expression.
    """
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise UserError(f"{text!r} is no expression such as 'val_accuracy >= 0.9'") from None


class Expression:
    """A number computed from named numbers, such as "val_loss - train_loss"."""

    def __init__(self, text: str, tree: ast.expr | None = None) -> None:
        self.text = text
        tree = parse(text) if tree is None else tree
        names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                if not (isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords):
                    raise UserError(f"in {text!r}: only {', '.join(FUNCTIONS)} can be called")
            elif isinstance(node, ast.Name):
                names.add(node.id)
            elif not isinstance(node, _ALLOWED) or (isinstance(node, ast.Constant) and not _is_number(node.value)):
                raise UserError(f"in {text!r}: {ast.unparse(node)!r} is not arithmetic on names and numbers")
        self.names = frozenset(names - set(FUNCTIONS))
        self._code = compile(ast.Expression(tree), text, "eval")

    def __call__(self, values: Mapping[str, float]) -> float:
        """The number; NaN where it is not defined (a division by zero, the logarithm or root of a negative number).

        Raises:
            KeyError: A name has no value.
        """
        for name in self.names:
            values[name]
        try:
            return float(eval(self._code, {"__builtins__": {}, **FUNCTIONS}, dict(values)))
        except (ArithmeticError, ValueError, TypeError):  # the last one of what has become complex
            return math.nan


class Requirement:
    """A comparison, such as "0.5 < val_accuracy" or "0 <= gap <= 0.1", and by how much it fails."""

    def __init__(self, text: str) -> None:
        self.text = text
        tree = parse(text)
        if not isinstance(tree, ast.Compare) or not all(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in tree.ops):
            raise UserError(f"{text!r} is no requirement such as 'val_accuracy >= 0.9' (with <, <=, > or >=)")
        sides = [Expression(text, side) for side in (tree.left, *tree.comparators)]
        self.names = frozenset().union(*(side.names for side in sides))
        if not self.names:
            raise UserError(f"{text!r} names no metric")
        self._pairs = [
            (lower, upper, isinstance(op, ast.Lt | ast.Gt))
            for op, left, right in zip(tree.ops, sides, sides[1:], strict=False)
            for lower, upper in [(left, right) if isinstance(op, ast.Lt | ast.LtE) else (right, left)]
        ]

    def margin(self, values: Mapping[str, float]) -> float:
        """The largest of the differences that have to be below 0; infinite where a side is not a number."""
        differences = [lower(values) - upper(values) for lower, upper, _ in self._pairs]
        return math.inf if any(math.isnan(difference) for difference in differences) else max(differences)

    def violation(self, values: Mapping[str, float]) -> float:
        """0 where it holds, else the distance to where it would; infinite where a side is not a number."""
        total = 0.0
        for lower, upper, strict in self._pairs:
            low, high = lower(values), upper(values)
            if math.isnan(low) or math.isnan(high):
                return math.inf
            if low > high:
                total += low - high
            elif strict and low == high:
                total += 5e-324  # fails, by as little as can be
        return total


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
