"""What a study asks of its engine (elsewhere called a trial scheduler)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openhpo.errors import UserError, whole
from openhpo.hyperparameters import Config
from openhpo.space import Space
from openhpo.stages import TrialRecord, Verdict


@dataclass(frozen=True, slots=True)
class Request:
    """Train a trial up to a step.

    Attributes:
        stop: The step.
        trial: Its number; None for a new one.
        priority: Trainers take larger ones first.
        donor: The trial whose model it goes on with, from where that one last rested; None for its own.
        config: Its hyperparameters from here on; None where they stay.
    """

    stop: int
    trial: int | None = None
    priority: int = 0
    donor: int | None = None
    config: Config | None = None


class Engine(ABC):
    """Decides who trains how long, and from whose state.

    Pure: no clock, no files, no global random state, and no knowledge of ranks; the same calls give the same answers. What it
    remembers it learns from the calls below, all of which have to be cheap: `judge` is called for every report.

    Attributes:
        max_steps: The step at which a trial is done.
        size: The number of trials, where the method fixes it.
        forks: Whether it asks for `donor`s, so that the last state of every trial has to be kept, and a model whose objective
            is not finite is replaced instead of failing its trial.
        promotes: Whether of the trials that have come to rest only the best go on, and most are left where they are; what
            shows a study while it runs then counts one at rest as settled.
        extendable: Whether its decisions do not depend on how many trials there will be, so that more may follow later.
        widens: Whether trials that it lets go on are trained on more ranks (`widening`).
    """

    max_steps: int
    size: int | None = None
    forks: bool = False
    promotes: bool = False
    extendable: bool = False
    widens: bool = False

    def start(self, space: Space, total: int, seed: int) -> None:  # noqa: B027 - most engines have nothing to prepare
        """A study begins: forget what was.

        Args:
            space: What may be tried.
            total: How many trials there will be at most.
            seed: The study's seed; whatever random is keyed by it.

        Raises:
            UserError: The method cannot work with these.
        """

    @abstractmethod
    def request(self, trials: Sequence[TrialRecord], more: bool, waiting: int) -> Request | None:
        """What to train next.

        Args:
            trials: All trials so far, by number.
            more: Whether a new trial may be asked for; only then is one wanted.
            waiting: How many requests wait for a trainer already.

        Returns:
            None when there is nothing to ask for now. What was asked for once is run, and is not asked for again.
        """

    def judge(self, trial: TrialRecord, step: int) -> Verdict:
        """Whether a trial goes on after a report."""
        return Verdict.CONTINUE

    def checks(self, start: int, stop: int) -> tuple[int, ...]:
        """The steps s with start < s < stop after which `judge` may say stop, so that training has to wait for it."""
        return ()

    def rest(self, trial: TrialRecord) -> Sequence[int]:
        """A trial has come to the step asked for (PAUSED or DONE), or ended before it (DONE, STOPPED or FAILED).

        Returns:
            The numbers of trials at rest that will, as this shows, never be asked for again; their states are let go. Those
            at a `final` step need not be named.
        """
        return ()

    def final(self, step: int) -> bool:
        """Whether no state after so many steps is ever asked for again."""
        return step >= self.max_steps

    def widening(self, step: int) -> int:
        """How many times as many ranks train what goes on after so many steps; asked where it `widens`."""
        return 1

    def expected_steps(self, total: int) -> float:
        """About how many steps a study of `total` trials takes, for the estimate of the time that is left."""
        return float(total * self.max_steps)

    @abstractmethod
    def definition(self) -> dict[str, Any]:
        """What identifies the engine, in plain JSON; `forks` and `promotes` are added where they are true."""


def rungs_between(min_steps: int, max_steps: int, reduction_factor: int) -> list[int]:
    """The steps min, min eta, min eta^2, ... below max, and max.

    Raises:
        UserError: The numbers make no sense.
    """
    whole(max_steps, "the number of steps of a trial")
    whole(min_steps, "min_steps")
    whole(reduction_factor, "reduction_factor", 2)
    if min_steps > max_steps:
        raise UserError(f"min_steps is {min_steps}, and has to be at most max_steps, {max_steps}")
    rungs, step = [], min_steps
    while step < max_steps:
        rungs.append(step)
        step *= reduction_factor
    return [*rungs, max_steps]
