"""Stages, the unit of work of every method, and what is known of each trial."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum

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


AT_REST = frozenset({State.PAUSED, State.DONE, State.STOPPED, State.FAILED})


@dataclass(frozen=True, slots=True)
class Stage:
    """A span of steps to train.

    Attributes:
        id: Its number in the study, in the order of issue, from 0. Also names the state at its end.
        trial: The number of the trial it is trained for; others may share it.
        parent: The stage whose end state it continues; None where it starts from nothing.
        start: Steps trained before it.
        stop: The step to reach.
        config: The configuration, parameters of schedules included.
        seed: What the training's random numbers are keyed by.
        ranks: Who trains it; the first one leads.
        checks: Steps after which training waits for the verdict.
        source: A rank that holds the parent's state; None where none does.
        file: The checkpoint with the parent's state, relative to the study's folder; empty where there is none.
        keep: Whether the parent's state is still needed by others.
        park: Whether the state at the end may be needed.
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
    source: int | None = None
    file: str = ""
    keep: bool = False
    park: bool = False


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
        values: The objective after each step of the model it holds, NaN where it was not reported.
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
    values: array[float] = field(default_factory=lambda: array("d"))
    stage: int | None = None
    error: str = ""
