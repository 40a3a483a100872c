"""Stages, the unit of work of every method, and what is known of each trial."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from openhpo.hyperparameters import Config
from openhpo.objective import NO_SCORE, Score


class Verdict(Enum):
    """What a trial hears after a report."""

    CONTINUE = "continue"
    STOP = "stop"


class State(Enum):
    """How far a trial is."""

    RUNNING = "running"  # training, or waiting for a trainer or for a stage that it shares
    PAUSED = "paused"  # where its engine had it go, and perhaps to be continued
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"
    SUSPENDED = "suspended"  # only in results: its run was stopped before it ended, and it goes on with the next one


AT_REST = frozenset({State.PAUSED, State.DONE, State.STOPPED, State.FAILED})


class StateName(NamedTuple):
    """What a state is called: the one that training of that stage had after that step."""

    stage: int
    step: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A span of steps to train.

    Attributes:
        id: Its number in the study, in the order of issue, from 0.
        trial: The number of the trial it is trained for; others may share it.
        parent: The stage that reported the step before its first one; None where it starts from nothing.
        start: Steps trained before it.
        stop: The step to reach.
        config: The configuration, parameters of schedules included.
        seed: What the training's random numbers are keyed by.
        ranks: Who trains it; the first one leads. None where its reports are known from an earlier study.
        checks: Steps after which training waits for the verdict.
        origin: The stage in whose training the state after `start` steps was made; most often the parent.
        source: A rank that holds that state; None where none does.
        file: The checkpoint with that state, relative to the study's folder; empty where there is none.
        keep: Whether that state is still needed by others.
        park: Whether the state at the end may be needed.
        again: Whether it only brings back a state that was lost: its steps are reported already.
        study: The place of the trial's study among those of the job.
        space: The place of the study whose space the configuration is of.
    """

    id: int
    trial: int
    parent: int | None
    start: int
    stop: int
    config: Config
    seed: int
    ranks: tuple[int, ...]
    checks: tuple[int, ...] = ()
    origin: int | None = None
    source: int | None = None
    file: str = ""
    keep: bool = False
    park: bool = False
    again: bool = False
    study: int = 0
    space: int = 0

    @property
    def before(self) -> StateName | None:
        """The state that it goes on from; None where it starts from nothing."""
        return None if self.origin is None else StateName(self.origin, self.start)

    @property
    def after(self) -> StateName:
        """The state at its end."""
        return StateName(self.id, self.stop)


@dataclass(slots=True)
class TrialRecord:
    """What the study knows of one trial.

    Attributes:
        number: From 0, in the order in which trials were asked for.
        config: Its hyperparameters, as they are now.
        state: How far it is.
        step: Steps trained of the model it holds.
        last: The score of the last report that told one; NO_SCORE where that was not finite.
        score: The best score of all its steps.
        best_step: The step of that score.
        losses: The objective after each step of the model it holds, negated where it is maximised; NaN where it was not
            reported.
        errors: The standard error of each of these, where they are means over replicates; empty otherwise.
        stage: The stage that brought it to `step`.
        error: The last line of what it failed with.
    """

    number: int
    config: Config
    state: State = State.RUNNING
    step: int = 0
    last: Score = NO_SCORE
    score: Score = NO_SCORE
    best_step: int = 0
    losses: array[float] = field(default_factory=lambda: array("d"))
    errors: array[float] = field(default_factory=lambda: array("d"))
    stage: int | None = None
    error: str = ""
