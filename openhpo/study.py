"""The decisions of a study: what to run next, what a report means, which trial is best.

Rules:
- Pure: no MPI, clock, file, thread or global random state. The same calls give the same answers.
- `ask` hands out a stage, or None when nothing can run now; each stage ends by exactly one `end` or `fail`.
- `tell` reports the steps of a stage in order, each once.
- Trial k's configuration depends on the study's definition and, for samplers that learn, on the trials told so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from openhpo.engines import Engine
from openhpo.errors import UserError
from openhpo.hyperparameters import Config
from openhpo.objective import NO_SCORE, Objective, objective_of
from openhpo.samplers import Random, Sampler
from openhpo.space import Space
from openhpo.stages import Stage, State, TrialRecord, Verdict


@dataclass(frozen=True)
class Best:
    """The best trial so far.

    Attributes:
        trial: Its number.
        config: Its hyperparameters.
        value: The objective at its best step.
        step: That step.
        feasible: Whether it meets the requirements.
        curve: The objective after each of its steps.
    """

    trial: int
    config: Config
    value: float
    step: int
    feasible: bool
    curve: list[float]


class Study:
    """A search, as calls in and values out.

    Args:
        space: What may be tried.
        objective: `Minimize(...)` or `Maximize(...)`.
        engine: Who trains how long.
        sampler: What to try next.
        trials: How many trials in total; a grid's size when absent.
        seed: Decides everything random: suggestions, and the training of every trial.

    Raises:
        UserError: The definition makes no sense.
    """

    def __init__(
        self,
        space: Space,
        objective: Objective,
        *,
        engine: Engine,
        sampler: Sampler | None = None,
        trials: int | None = None,
        seed: int = 0,
    ) -> None:
        self.space = space if isinstance(space, Space) else Space(space)
        self.objective = objective_of(objective)
        self.engine = engine
        self.sampler = Random() if sampler is None else sampler
        self.seed = seed
        self.trials: list[TrialRecord] = []
        self._suggest = self.sampler.bind(self.space, seed)
        self.total = _total(trials, self._suggest.size)
        self._next: Config | None = None
        self._running: dict[int, Stage] = {}
        self._stages = 0
        self._best: TrialRecord | None = None
        self._seen: set[str] = set()
        self._settled = 0

    def ask(self, worker: int = 0) -> Stage | None:
        """The next stage for an idle trainer.

        Args:
            worker: The trainer's rank.

        Returns:
            None when nothing can run now; `finished` says whether anything will come.
        """
        request = self.engine.request(self.trials, len(self.trials) < self.total)
        if request is None:
            return None
        trial = self._new_trial() if request.trial is None else self.trials[request.trial]
        stage = Stage(self._stages, trial.number, None, trial.step, request.stop, trial.config, self.seed, (worker,))
        self._stages += 1
        self._running[stage.id] = stage
        trial.state = State.RUNNING
        return stage

    def prepare(self) -> None:
        """Draw the next trial's configuration ahead, where it does not depend on what is told until then.

        Changes no answer of this object, only when the time for one is spent.
        """
        if self._next is None and not self._suggest.learns and len(self.trials) < self.total:
            self._next = self._suggestion()

    def _new_trial(self) -> TrialRecord:
        config = self._suggestion() if self._next is None else self._next
        self._next = None
        trial = TrialRecord(len(self.trials), config)
        self.trials.append(trial)
        return trial

    def _suggestion(self) -> Config:
        number = len(self.trials)
        rng = numpy.random.Generator(numpy.random.Philox(numpy.random.SeedSequence((self.seed, number))))
        return self._suggest(number, self.trials, rng)

    def tell(self, stage: Stage, step: int, metrics: Mapping[str, float]) -> Verdict:
        """Report one step of a stage.

        Args:
            stage: As `ask` gave it.
            step: Counts from 1 over the whole trial.
            metrics: What training yielded.
        """
        trial = self._trial_of(stage)
        if step != trial.step + 1:
            raise ValueError(f"trial {trial.number} reported step {step} after step {trial.step}")
        trial.step = step
        if len(self._seen) < len(metrics) or not self._seen.issuperset(metrics):
            self._seen.update(metrics)
        score = self.objective.score(step, metrics)
        if score is None:
            trial.values.append(float("nan"))
        else:
            trial.values.append(self.objective.sign * score.loss)
            if score < trial.score:
                trial.score, trial.best_step = score, step
                best = self._best
                # a tie goes to the smaller number, whichever was reported first
                if best is None or (score, trial.number) < (best.score, best.number):
                    self._best = trial
        verdict = self.engine.judge(trial, step)
        if verdict is Verdict.STOP:
            trial.state = State.STOPPED
        return verdict

    def end(self, stage: Stage) -> None:
        """The stage reached its last step, obeyed STOP, or its training returned by itself.

        Raises:
            UserError: No trial has ever yielded a metric that the objective needs.
        """
        if not self._seen.issuperset(self.objective.needs):
            raise UserError(self.objective.missing(self._seen))
        trial = self._settle(stage)
        if trial.state is State.RUNNING:
            trial.state = State.DONE

    def fail(self, stage: Stage, error: str) -> None:
        """The stage's training raised; `error` is what a list of failures should say of it."""
        trial = self._settle(stage)
        trial.state = State.FAILED
        trial.error = error

    def _settle(self, stage: Stage) -> TrialRecord:
        trial = self._trial_of(stage)
        del self._running[stage.id]
        self._settled += 1
        return trial

    def _trial_of(self, stage: Stage) -> TrialRecord:
        if stage.id not in self._running:
            raise ValueError(f"stage {stage.id} is not running")
        return self.trials[stage.trial]

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing more will be asked for."""
        return not self._running and self.engine.request(self.trials, len(self.trials) < self.total) is None

    @property
    def settled(self) -> int:
        """How many trials have ended, well or not."""
        return self._settled

    @property
    def best(self) -> Best | None:
        """The best trial so far; None until one has reported a finite objective."""
        trial = self._best
        if trial is None or trial.score == NO_SCORE:
            return None
        value = self.objective.value(trial.score)
        return Best(trial.number, trial.config, value, trial.best_step, trial.score.violation == 0, list(trial.values))

    def definition(self) -> dict[str, Any]:
        """What identifies this study, in plain JSON: two runs with the same definition are runs of one study."""
        return {
            "space": self.space.definition(),
            "objective": self.objective.definition(),
            **self.engine.definition(),
            **self.sampler.definition(),
            "trials": self.total,
            "seed": self.seed,
        }


def _total(trials: int | None, size: int | None) -> int:
    if trials is None:
        if size is None:
            raise UserError("say how many trials to run: trials=32, or --trials 32 on the command line")
        return size
    if not isinstance(trials, int) or trials < 1:
        raise UserError(f"the number of trials has to be a whole number above 0, not {trials!r}")
    return trials if size is None else min(trials, size)


__all__ = ["Best", "Stage", "State", "Study", "TrialRecord", "Verdict"]
