"""Learning curves that were recorded, and how long their steps took."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy
from numpy.typing import NDArray

from openhpo.hyperparameters import Config
from openhpo.objective import Objective
from openhpo.space import Space


@dataclass(frozen=True)
class Recording:
    """What is known of some configurations. Steps count from 1, so the column k of an array is step k + 1.

    Attributes:
        source: Where it comes from.
        space: What was searched.
        configs: The configurations, each once.
        lengths: Shape [config]: steps recorded.
        metrics: Their names.
        values: Shape [config, step, metric].
        reported: The same shape: whether there is such a value.
        seconds: Shape [config, step]: what each step took, one step more than `values` has: that in which training raised.
        setup: Shape [config]: seconds from a call of the training function to the start of its first step.
        crashed: Shape [config]: whether training raised in the step after the last one recorded.
        warmup: Seconds that the first stage of a rank takes longer than others.
        objective: What was optimised; None where that is not known.
        steps: How far trials were to go; None where that is not known.
        merge: Whether what trials have in common was trained once.
        notes: What has to be known of it: how it was recorded, and why some trials are not here.
    """

    source: str
    space: Space
    configs: list[Config]
    lengths: NDArray[numpy.int64]
    metrics: tuple[str, ...]
    values: NDArray[numpy.float64]
    reported: NDArray[numpy.bool_]
    seconds: NDArray[numpy.float64]
    setup: NDArray[numpy.float64]
    crashed: NDArray[numpy.bool_]
    warmup: float = 0.0
    objective: Objective | None = None
    steps: int | None = None
    merge: bool = True
    notes: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """The most steps recorded of any configuration."""
        return int(self.lengths.max(initial=0))

    def timed(self, pace: float | None, setup: float | None) -> Recording:
        """The same with other times.

        Args:
            pace: Seconds of every step; None for those recorded.
            setup: Seconds before the first step; None for those recorded.
        """
        found = self
        if pace is not None:
            found = replace(found, seconds=numpy.full_like(found.seconds, pace))
        if setup is not None:
            found = replace(found, setup=numpy.full_like(found.setup, setup), warmup=0.0)
        return found
