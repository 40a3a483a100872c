"""Stages, the unit of work of every method, and what is known of each trial.

A stage is a span of steps of one trial. Today each trial is one stage from its first step to its last; the tree that
lets trials share stages builds on these types.
"""

from __future__ import annotations

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

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Stage:
    """A span of steps to train.

    Attributes:
        id: Its number in the study, in the order of issue, from 0.
        trial: The number of the trial it belongs to.
        parent: The stage whose end state it continues; None where it starts from nothing.
        start: Steps trained before it.
        stop: The step to reach.
        config: The values in force.
        seed: What the training's random numbers are keyed by.
        ranks: Who trains it; the first one leads.
    """

    id: int
    trial: int
    parent: int | None
    start: int
    stop: int
    config: Config
    seed: int
    ranks: tuple[int, ...]


@dataclass(slots=True)
class TrialRecord:
    """What the study knows of one trial.

    Attributes:
        number: From 0, in the order in which trials were asked for.
        config: Its hyperparameters.
        state: How far it is.
        step: The last step reported.
        score: The best score of all its steps.
        best_step: The step of that score.
        values: The objective after each step, NaN where it was not reported.
        error: The last line of what it failed with.
    """

    number: int
    config: Config
    state: State = State.RUNNING
    step: int = 0
    score: Score = NO_SCORE
    best_step: int = 0
    values: list[float] = field(default_factory=list)
    error: str = ""
