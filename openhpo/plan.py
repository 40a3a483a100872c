"""What a study is to be, before it is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openhpo.engines import Engine
from openhpo.objective import Objective
from openhpo.samplers import Sampler
from openhpo.space import Space
from openhpo.suggestions import Known


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One of several studies of a job, for `hpo.run_together`.

    Attributes:
        space: What may be tried.
        objective: `Minimize(...)` or `Maximize(...)`.
        engine: Who trains how long.
        sampler: What to try next; random search by default.
        trials: How many in total; a grid's size, or the number that the engine fixes, when absent.
        replicates: How often to train each configuration, each time with another seed. Trial t is replicate t % replicates of
            configuration t // replicates, and `trials` counts configurations.
        prior: A configuration to try first, or several; what one leaves open is drawn.
        warm_start: The folder of an earlier study that the sampler learns from.
        callbacks: Whom to tell on rank 0 what happens while it runs.
        known: What that one has found (`warmstart.known_from`); filled in when the study begins.
    """

    space: Space
    objective: Objective
    engine: Engine
    sampler: Sampler | None = None
    trials: int | None = None
    replicates: int = 1
    prior: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    warm_start: str | Path | None = None
    callbacks: Sequence[Any] = ()
    known: Known | None = None

    def of(self, trials: int | None) -> Plan:
        """The same with another number of trials, where one is given."""
        return self if trials is None else replace(self, trials=trials)
