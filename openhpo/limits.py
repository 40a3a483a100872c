"""How long a run may take, and what it does about what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass

from openhpo.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Part of a run, not of what identifies a study: they may differ when it is continued.

    Attributes:
        time_limit: Seconds after which the run stops in order, to be continued; None for no limit.
        retries: How often a trial is tried again that raised, ran out of memory or took too long, from its last state.
        step_timeout: Seconds that a step may take, the set-up before the first one included; None for no limit.
        checkpoint_every: Seconds of training after which a state is written to a checkpoint, so that a kill costs a trial at
            most about so much.
        lease: Seconds after which a rank that is not heard of counts as lost.
        deaths: How often the rank of a trial may be lost before the trial counts as the reason.
    """

    time_limit: float | None = None
    retries: int = 0
    step_timeout: float | None = None
    checkpoint_every: float = 600.0
    lease: float = 60.0
    deaths: int = 3

    def __post_init__(self) -> None:
        for name in ("time_limit", "step_timeout", "checkpoint_every", "lease"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} has to be a number of seconds above 0, and it is {value!r}")
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise UserError(f"retries has to be a whole number from 0 on, and it is {self.retries!r}")
