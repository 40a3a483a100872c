"""What a study would take: the real coordinator and messages in virtual time, on trainers that replay a recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openhpo.actors import Actor
from openhpo.actors.simulated import Simulation
from openhpo.engines import Engine
from openhpo.hyperparameters import Config
from openhpo.objective import Objective
from openhpo.protocol import COORDINATOR, TRAINER
from openhpo.recorded.candidates import AGAIN, Candidates, Recorded
from openhpo.replaying import Planner, ReplayTrainer, Simulated
from openhpo.stages import Stage, StateName
from openhpo.study import Study

HOUR = 3600.0


@dataclass(frozen=True)
class Prediction:
    """A study on so many ranks.

    Attributes:
        ranks: How many train.
        makespan: Seconds from the study's start to its end.
        rank_hours: Hours of all ranks together.
        node_hours: Hours of all nodes together; None where it is not known how many there are.
        utilisation: The part of these hours in which ranks set up or train.
        utilisation_until_dry: The same until there was no more work for an idle rank.
        trials: How many began.
        failed: How many of them failed.
        steps: Steps trained.
        best: The best value; None where there is none.
        best_step: The step at which it was reached.
        config: The configuration that reached it.
    """

    ranks: int
    makespan: float
    rank_hours: float
    node_hours: float | None
    utilisation: float
    utilisation_until_dry: float
    trials: int
    failed: int
    steps: int
    best: float | None
    best_step: int | None
    config: Config | None


@dataclass(frozen=True)
class Plan:
    """A study that could be run.

    Attributes:
        candidates: The configurations that its trials may get.
        objective: What is optimised.
        engine: Who trains how long.
        trials: How many; None where the engine says, or `once`.
        once: Whether each candidate is a trial, as in a grid.
        seed: Decides everything random.
        fetch: Seconds it takes to get a state from another rank.
    """

    candidates: Candidates
    objective: Objective
    engine: Engine
    trials: int | None = None
    once: bool = False
    seed: int = 0
    fetch: float = 0.0

    def study(self) -> Study:
        """The study, at its beginning.

        Raises:
            UserError: The number of trials is missing, or what else makes no sense.
        """
        recording = self.candidates.recording
        return Study(
            recording.space,
            self.objective,
            engine=self.engine,
            sampler=Recorded(self.candidates, once=self.once),
            trials=self.trials,
            seed=self.seed,
            merge=recording.merge,
        )

    def simulate(self, ranks: int) -> Simulated:
        """Run it in virtual time.

        Args:
            ranks: How many train; the first of them coordinates too.
        """
        made: list[Study] = []
        trainers: list[ReplayTrainer] = []

        def make() -> Study:
            made.append(self.study())
            return made[0]

        planner = Planner(make, trainers)

        def cast(rank: int, size: int) -> Mapping[str, Actor]:
            trainers.append(SettingUp(self.candidates, self.fetch))
            trainer: dict[str, Actor] = {TRAINER: trainers[-1]}
            return {COORDINATOR.name: planner, **trainer} if rank == COORDINATOR.rank else trainer

        Simulation(cast, ranks, seed=self.seed).run()
        makespan, busy = trainers[0].ended, sum(trainer.busy for trainer in trainers)
        dry = makespan if planner.dry is None else planner.dry
        return Simulated(makespan, busy, ranks, dry, busy if planner.dry is None else planner.busy_until_dry, made[0])

    def predict(self, ranks: int, ranks_per_node: int | None = None) -> Prediction:
        """What it comes to on so many ranks."""
        played = self.candidates.played
        found = self.simulate(ranks)
        best, hours = found.study.best, found.makespan / HOUR
        return Prediction(
            ranks=ranks,
            makespan=found.makespan,
            rank_hours=ranks * hours,
            node_hours=None if ranks_per_node is None else -(-ranks // ranks_per_node) * hours,
            utilisation=found.utilisation if found.makespan else 0.0,
            utilisation_until_dry=found.utilisation_until_dry,
            trials=len(found.study.trials),
            failed=found.study.failed,
            steps=self.candidates.played - played,
            best=None if best is None else best.value,
            best_step=None if best is None else best.step,
            config=None if best is None else {name: value for name, value in best.config.items() if name != AGAIN},
        )


class SettingUp(ReplayTrainer):
    """Lets the time of a set-up go by, too, wherever a trainer would call the training function.

    That is at the start of every stage, but for one that goes on where this rank's last one has come to rest.
    """

    def __init__(self, candidates: Candidates, fetch: float) -> None:
        super().__init__(candidates.curve, candidates.pace, fetch)
        self._candidates = candidates
        self._warm = False
        self._alive: tuple[StateName, Config] | None = None  # what the training function was left with

    def _begin(self, model: bytes, delay: float = 0.0) -> None:
        stage = self._stage
        assert stage is not None
        setup = 0.0 if self._alive == (stage.before, stage.config) else self._candidates.setup(stage.config)
        if not self._warm:
            setup += self._candidates.recording.warmup
        self._warm, self._alive = True, None
        super()._begin(model, delay + setup)
        self.busy += setup

    def _end(self, stage: Stage, *, kept: bool) -> None:
        self._alive = (stage.after, stage.config) if kept else None
        super()._end(stage, kept=kept)
