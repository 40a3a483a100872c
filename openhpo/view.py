"""What whoever started a study is shown of it while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from openhpo.search import Best


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        trials: In total.
        settled: That have ended, well or not, or come as far as their method had them go.
        running: That train now.
        failed: That raised.
        steps: Reported so far.
        rate: Steps a second, lately.
        elapsed: Seconds since the start.
        left: Estimated seconds to the end; None before anything is known.
        trainers: Ranks that train.
        best: The best trial so far; None where there are several studies.
        studies: The best trial of each of these, by name.
    """

    trials: int
    settled: int
    running: int
    failed: int
    steps: int
    rate: float
    elapsed: float
    left: float | None
    trainers: int
    best: Best | None
    studies: Mapping[str, Best | None] = field(default_factory=dict)


class View(Protocol):
    """Shows progress to whoever started the study."""

    period: float  # seconds between updates

    def show(self, progress: Progress) -> None:
        """Called once a period, and when the study ends."""

    def note(self, text: str) -> None:
        """Say something that is not progress."""

    def close(self) -> None:
        """The study has ended, well or not."""
