"""What training yields, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openhpo.errors import UserError

LONGEST_NAME = 63  # bytes of a metric's name in the study file


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as floats: numbers, NumPy scalars and tensors of one element are taken.

    Raises:
        UserError: What was yielded is no dictionary, or one of its values is no number.
    """
    if not isinstance(metrics, Mapping):
        raise UserError(f"train yielded {metrics!r}, and it has to yield a dictionary such as {{'val_loss': 0.3}}")
    found: dict[str, float] = {}
    for name, value in metrics.items():
        kind = type(value)
        if kind is float:
            found[name] = value
        else:
            found[name] = _number(name, value)
        if len(name) > LONGEST_NAME:
            raise UserError(f"the metric's name {name!r} is longer than {LONGEST_NAME} characters")
    return found


def _number(name: Any, value: Any) -> float:
    if not isinstance(name, str) or not name.isascii() or not name:
        raise UserError(f"train yielded a metric named {name!r}, and a name has to be an ASCII text")
    if not isinstance(value, str | bytes):
        try:
            return float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, RuntimeError):
            pass
    shown = repr(value)
    raise UserError(
        f"the metric {name!r} is no number: train yielded {shown[:60]}{'…' if len(shown) > 60 else ''} "
        f"({type(value).__name__}). Yield a float, such as loss.item()."
    )
