"""What a study asks of its engine (elsewhere called a trial scheduler)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openhpo.stages import TrialRecord, Verdict


@dataclass(frozen=True, slots=True)
class Request:
    """Train a trial up to a step; `trial=None` asks for a new one."""

    stop: int
    trial: int | None = None


class Engine(ABC):
    """Decides who trains how long. Pure: no clock, no files, no random state of its own, and no knowledge of ranks."""

    max_steps: int

    @abstractmethod
    def request(self, trials: Sequence[TrialRecord], more: bool) -> Request | None:
        """What an idle trainer should run.

        Args:
            trials: All trials so far.
            more: Whether the study may still start new ones.

        Returns:
            None when there is nothing to run now.
        """

    def judge(self, trial: TrialRecord, step: int) -> Verdict:
        """Whether a trial goes on after a report."""
        return Verdict.CONTINUE

    @abstractmethod
    def definition(self) -> dict[str, Any]:
        """What identifies the engine, in plain JSON."""
