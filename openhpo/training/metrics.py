"""What training yields, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from openhpo.errors import UserError, clipped

LONGEST_NAME = 63  # bytes of a metric's name in the study file
QUOTED = 60  # characters of what was yielded in a message


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as floats: numbers, NumPy scalars and tensors of one element are taken.

    Raises:
        UserError: What was yielded is no dictionary, or one of its values is no number.
    """
    if type(metrics) is not dict and not isinstance(metrics, Mapping):  # the check for an abstract class is slow
        raise UserError(
            f"train yielded {clipped(repr(metrics), QUOTED)}, and it has to yield a dictionary such as {{'val_loss': 0.3}}"
        )
    found: dict[str, float] = {}
    for name, value in metrics.items():
        _check_name(name)
        found[name] = value if type(value) is float else _number(name, value)
    return found


@cache
def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not 0 < len(name.encode()) <= LONGEST_NAME:
        raise UserError(f"train yielded a metric named {name!r}, and a name has to be a text of 1 to {LONGEST_NAME} bytes")


def _number(name: str, value: Any) -> float:
    if not isinstance(value, str | bytes):
        try:
            return float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, RuntimeError):
            pass
    raise UserError(
        f"the metric {name!r} is no number: train yielded {clipped(repr(value), QUOTED)} ({type(value).__name__}). "
        "Yield a float, such as loss.item()."
    )
