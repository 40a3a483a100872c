"""What trials come to, as a study tells it."""

from __future__ import annotations

from typing import NamedTuple

from openhpo.hyperparameters import Config
from openhpo.stages import State


class Change(NamedTuple):
    """Something that a trial came to.

    Attributes:
        study: The place of its study among those of the job.
        trial: Its number.
        seed: What its training's random numbers are keyed by.
        state: What it is now: begun (RUNNING), or at rest.
        stage: The stage that brought it to `step`; for a fork, the one whose end state it goes on with.
        step: Steps trained of the model it holds.
        forked: Whether it has taken another trial's model.
        joined: Whether the steps of `stage`, which is trained for another trial, count for it up to `step`, those that are
            still to come included.
        config: Its hyperparameters.
        error: What it failed with.
    """

    study: int
    trial: int
    seed: int
    state: State
    stage: int | None
    step: int
    forked: bool
    config: Config
    error: str
    joined: bool = False


class Counted(NamedTuple):
    """A step that has come to count for a trial: trained for it, or before for others that it shares it with.

    Attributes:
        study: The place of the trial's study among those of the job.
        trial: The trial's number.
        step: The step.
        stage: The stage that reported it.
    """

    study: int
    trial: int
    step: int
    stage: int
