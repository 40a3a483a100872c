"""Every trial trains to the end: grid, random and quasi-random search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openhpo.engines.base import Engine, Request
from openhpo.errors import whole
from openhpo.stages import TrialRecord


class Full(Engine):
    """Train every trial for `max_steps` steps.

    Raises:
        UserError: `max_steps` is no whole number above 0.
    """

    extendable = True

    def __init__(self, max_steps: int) -> None:
        self.max_steps = whole(max_steps, "the number of steps of a trial")

    def request(self, trials: Sequence[TrialRecord], more: bool, waiting: int) -> Request | None:
        return Request(self.max_steps) if more else None

    def definition(self) -> dict[str, Any]:
        return {"engine": "Full", "max_steps": self.max_steps}
