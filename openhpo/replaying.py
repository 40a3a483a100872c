"""Whole studies in virtual time: the real coordinator and messages, and trainers that replay curves instead of training."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from openhpo.actors import Actor, Address, Notice, handles
from openhpo.actors.simulated import Simulation
from openhpo.coordinator import Coordinator
from openhpo.hyperparameters import Config
from openhpo.progress import Silent
from openhpo.protocol import COORDINATOR, TRAINER, Accepted, Drop, Ended, Ready, Reports, Train, Welcome
from openhpo.stages import Stage
from openhpo.study import Study

Curve = Callable[[Config, int], Mapping[str, float]]  # the metrics of a configuration at a step
Pace = Callable[[Config, int], float]  # seconds that a step takes


class Trained(Notice, frozen=True):
    """So much of the stage is trained."""

    step: int


class ReplayTrainer(Actor):
    """Takes stages as a trainer does, and lets the time go by that their steps would take.

    Args:
        curve: What is reported.
        pace: How long a step takes.
        fetch: Seconds it takes to get a state from another rank.
    """

    def __init__(self, curve: Curve, pace: Pace, fetch: float = 0.0) -> None:
        self._curve = curve
        self._pace = pace
        self._fetch = fetch
        self._stage: Stage | None = None
        self._done = 0
        self.busy = 0.0  # seconds of training
        self.ended = 0.0  # when the study ended

    def on_start(self) -> None:
        self.send(COORDINATOR, Ready("simulated", "none"))

    def on_stop(self) -> None:
        self.ended = self.now()

    @handles(Welcome)
    def on_welcome(self, message: Welcome, sender: Address) -> None:
        pass

    @handles(Drop)
    def on_drop(self, message: Drop, sender: Address) -> None:
        pass

    @handles(Train)
    def on_train(self, message: Train, sender: Address) -> None:
        stage = self._stage = message.stage
        self._done = stage.start
        self._train_on(stage, 0.0 if stage.source in (None, self.rank) else self._fetch)

    def _train_on(self, stage: Stage, delay: float) -> None:
        """Train up to the next check, or to the end."""
        stop = next((check for check in stage.checks if check > self._done), stage.stop)
        seconds = sum(self._pace(stage.config, step) for step in range(self._done + 1, stop + 1))
        self.busy += seconds
        self.after(delay + seconds, Trained(stop))

    @handles(Trained)
    def on_trained(self, message: Trained, sender: Address) -> None:
        stage = self._stage
        assert stage is not None
        rows = [dict(self._curve(stage.config, step)) for step in range(self._done + 1, message.step + 1)]
        names = tuple(rows[0])
        values = array("d", [value for row in rows for value in row.values()])
        self.send(COORDINATOR, Reports(stage.id, self._done + 1, len(rows), names, values.tobytes()))
        self._done = message.step
        if self._done == stage.stop:
            self._end(stage, kept=stage.park)

    @handles(Accepted)
    def on_accepted(self, message: Accepted, sender: Address) -> None:
        stage = self._stage
        if stage is None or stage.id != message.stage:
            return
        if message.stop:
            self._end(stage, kept=False)
        else:
            self._train_on(stage, 0.0)

    def _end(self, stage: Stage, *, kept: bool) -> None:
        self._stage = None
        self.send(COORDINATOR, Ended(stage.id, kept))


@dataclass(frozen=True)
class Simulated:
    """What a study came to in virtual time.

    Attributes:
        makespan: Seconds from its start to its end.
        busy: Seconds of training, of all ranks together.
        ranks: How many there were.
        study: The study itself.
    """

    makespan: float
    busy: float
    ranks: int
    study: Study

    @property
    def utilisation(self) -> float:
        """The part of the ranks' time that went into training."""
        return self.busy / (self.makespan * self.ranks)


def simulate(
    study: Callable[[], Study], curve: Curve, pace: Pace, ranks: int, *, fetch: float = 0.0, seed: int = 0
) -> Simulated:
    """Run a study in virtual time.

    Args:
        study: Makes it.
        curve: What trials report.
        pace: Seconds that a step takes.
        ranks: How many train; the first of them coordinates too.
        fetch: Seconds it takes to get a state from another rank.
        seed: Decides the order of what happens at the same time.
    """
    made: list[Study] = []

    def make() -> Study:
        made.append(study())
        return made[0]

    with tempfile.TemporaryDirectory() as folder:

        def cast(rank: int, size: int) -> Mapping[str, Actor]:
            actors: dict[str, Actor] = {}
            if rank == COORDINATOR.rank:
                actors[COORDINATOR.name] = Coordinator(make, Path(folder), {}, {}, Silent())
            actors[TRAINER] = ReplayTrainer(curve, pace, fetch)
            return actors

        simulation = Simulation(cast, ranks, seed=seed)
        actors = simulation.run()
    trainers = [actor for actor in actors.values() if isinstance(actor, ReplayTrainer)]
    return Simulated(trainers[0].ended, sum(trainer.busy for trainer in trainers), ranks, made[0])
