"""What a study would take: the real coordinator and messages in virtual time, on trainers that replay a recording."""

from __future__ import annotations

from dataclasses import dataclass

from openhpo.engines import Engine
from openhpo.hyperparameters import Config
from openhpo.objective import Objective
from openhpo.recorded.candidates import AGAIN, Candidates, Recorded
from openhpo.replaying import Simulated, simulate
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
        candidates = self.candidates
        return simulate(
            self.study,
            candidates.curve,
            candidates.pace,
            ranks,
            fetch=self.fetch,
            seed=self.seed,
            setup=candidates.setup,
            warmup=candidates.recording.warmup,
        )

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
