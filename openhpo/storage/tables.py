"""What a study file holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from openhpo.storage import schema
from openhpo.storage.opening import damaged


@dataclass(frozen=True)
class Tables:
    """All of a study file, as it was at one moment. What refers to something refers to something that is there.

    Attributes:
        path: The file.
        began: When the study was started, in seconds since 1970.
        definition: What identifies the study.
        environment: What it ran on.
        trials, stages, reports, events: Record arrays, see docs/study-file.md. After a kill there may be trials, stages and
            reports that no event accounts for.
        metrics: Names of the columns of `values`.
        values: Shape [reports, metrics], NaN where a metric was not reported.
    """

    path: Path
    began: float
    definition: dict[str, Any]
    environment: dict[str, Any]
    trials: NDArray[Any]
    stages: NDArray[Any]
    reports: NDArray[Any]
    events: NDArray[Any]
    metrics: list[str]
    values: NDArray[numpy.float64]
    log: bytes

    @property
    def studies(self) -> list[dict[str, Any]]:
        """The definition of each study that the file holds: one, or those of a job that share a tree."""
        return list(self.definition.get("studies", {"": self.definition}).values())

    @property
    def names(self) -> list[str]:
        """What these are called; a single one has no name."""
        return list(self.definition.get("studies", {"": None}))

    def text(self, at: int, size: int) -> str:
        """Text that a row points to.

        Raises:
            UserError: It is damaged.
        """
        try:
            return self.log[at : at + size].decode()
        except UnicodeDecodeError as error:
            raise damaged(self.path, f"a text is no UTF-8: {error}") from None

    def reported(self, row: int) -> dict[str, float]:
        """What a row of `reports` told, by metric."""
        values = numpy.ascontiguousarray(self.values[row])
        there = (values.view(numpy.uint64) != schema.ABSENT_BITS).tolist()
        return {name: value for name, value, is_there in zip(self.metrics, values.tolist(), there, strict=True) if is_there}

    def config(self, row: Any) -> dict[str, Any]:
        """The configuration of a row of `trials`, or of one of `stages` that has its own.

        Raises:
            UserError: It is damaged.
        """
        text = self.text(int(row["config_at"]), int(row["config_size"]))
        try:
            config = json.loads(text)
        except (ValueError, RecursionError):
            config = None
        if not isinstance(config, dict) or not all(isinstance(value, bool | int | float | str) for value in config.values()):
            raise damaged(self.path, f"the configuration of trial {row['trial']} is none")
        return config
