"""What every engine promises to a study.

Subclass `EngineContract` in a test file and give pytest a fixture `engine` that makes the engine; override `trials` where it
needs another number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import pytest

from openhpo.engines import Engine
from openhpo.hyperparameters import Categorical, Float, Integer
from openhpo.objective import Maximize, Minimize
from openhpo.samplers import Grid, Random, Sampler, Sobol
from openhpo.schedules import Exponential
from openhpo.space import Space
from openhpo.stages import AT_REST, Stage, State
from openhpo.study import Study
from openhpo.testing.workers import Played, Workers

SPACE = Space(
    {
        "x": Float((0.0, 1.0)),
        "lr": Exponential(Categorical([0.5, 0.2]), Categorical([0.5, 0.1]), [Integer((1, 4)), Integer((1, 4))]),
    }
)


def plain(stage: Stage, step: int, model: float) -> Mapping[str, float]:
    """A loss that falls, by how good the configuration and by what the model is."""
    return {"loss": float(stage.config["x"]) + 1 / step + 0.01 * model}


class EngineContract:
    """The promises, as tests."""

    @pytest.fixture
    def trials(self) -> int:
        """How many trials the studies of these tests have."""
        return 24

    def study(self, engine: Engine, trials: int, sampler: Sampler | None = None, seed: int = 0, *, merge: bool = True) -> Study:
        return Study(SPACE, Minimize("loss"), engine=engine, sampler=sampler, trials=trials, seed=seed, merge=merge)

    def play(self, study: Study, workers: int = 3, seed: int = 0, **more: float) -> Played:
        return Workers(study, workers, plain, seed=seed, **more).play()

    @pytest.mark.parametrize("workers", [1, 2, 5, 40])
    @pytest.mark.parametrize("seed", range(4))
    def test_a_study_comes_to_its_end_whoever_reports_when(self, engine: Engine, trials: int, workers: int, seed: int) -> None:
        study = self.study(engine, trials, seed=seed)
        self.play(study, workers, seed)
        assert len(study.trials) == study.total
        assert {trial.state for trial in study.trials} <= AT_REST
        assert any(trial.step == engine.max_steps for trial in study.trials)
        assert study.best is not None

    def test_no_trial_trains_beyond_the_last_step_and_none_trains_a_step_twice(self, engine: Engine, trials: int) -> None:
        study = self.study(engine, trials, merge=False)
        played = self.play(study)
        assert all(trial.step <= engine.max_steps for trial in study.trials)
        if not engine.forks:  # which may throw a trial back
            assert played.steps == sum(trial.step for trial in study.trials)

    def test_merging_changes_no_trial_where_the_order_of_reports_does_not_matter(self, engine: Engine, trials: int) -> None:
        merged, alone = self.study(engine, trials), self.study(engine, trials, merge=False)
        for study in (merged, alone):
            self.play(study, workers=1)
        for trial in merged.trials:
            shared = min(trial.step, alone.trials[trial.number].step)
            assert shared > 0
            if not engine.forks:
                assert trial.losses[:shared] == alone.trials[trial.number].losses[:shared]

    def test_the_same_calls_get_the_same_answers(self, engine: Engine, trials: int) -> None:
        one, other = self.study(engine, trials), None
        first = self.play(one, seed=3)
        other = self.study(engine, trials)  # the same engine, which forgets what was
        second = self.play(other, seed=3)
        assert first == second
        assert [trial.losses for trial in one.trials] == [trial.losses for trial in other.trials]

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_objectives_that_are_not_finite_neither_win_nor_break_anything(
        self, engine: Engine, trials: int, value: float
    ) -> None:
        def metrics(stage: Stage, step: int, model: float) -> Mapping[str, float]:
            return {"loss": value} if model < 0.3 else plain(stage, step, model)

        for objective in (Minimize("loss"), Maximize("loss")):
            study = Study(SPACE, objective, engine=engine, trials=trials)
            Workers(study, 3, metrics).play()
            assert study.best is not None
            assert math.isfinite(study.best.value)

    def test_a_study_in_which_nothing_is_finite_ends_too(self, engine: Engine, trials: int) -> None:
        study = self.study(engine, trials)
        Workers(study, 3, lambda stage, step, model: {"loss": math.nan}).play()
        assert study.best is None

    def test_an_objective_that_is_reported_now_and_then_is_enough(self, engine: Engine, trials: int) -> None:
        study = self.study(engine, trials)
        Workers(study, 3, lambda s, step, m: plain(s, step, m) if step % 2 else {"other": 1.0}).play()
        assert study.best is not None

    @pytest.mark.parametrize("seed", range(4))
    def test_trials_that_fail_hold_nobody_up(self, engine: Engine, trials: int, seed: int) -> None:
        study = self.study(engine, trials, seed=seed)
        self.play(study, seed=seed, failing=0.05)
        assert {trial.state for trial in study.trials} <= AT_REST
        assert all(trial.error == "out of luck" for trial in study.trials if trial.state is State.FAILED)

    def test_a_study_in_which_every_trial_fails_ends_too(self, engine: Engine, trials: int) -> None:
        study = self.study(engine, trials)
        self.play(study, failing=1.0)
        assert {trial.state for trial in study.trials} == {State.FAILED}

    @pytest.mark.parametrize("seed", range(4))
    def test_states_that_get_lost_are_trained_again(self, engine: Engine, trials: int, seed: int) -> None:
        study = self.study(engine, trials, seed=seed)
        self.play(study, seed=seed, losing=0.1)
        assert {trial.state for trial in study.trials} <= AT_REST - {State.FAILED}

    def test_only_states_that_may_be_needed_are_kept(self, engine: Engine, trials: int) -> None:
        study = self.study(engine, trials)
        workers = Workers(study, 3, plain)
        workers.play()
        paused = sum(trial.state is State.PAUSED for trial in study.trials)
        assert sum(len(held) for held in workers.held) <= paused

    @pytest.mark.parametrize("sampler", [Random(), Sobol(), Grid(x=3)], ids=lambda sampler: type(sampler).__name__)
    def test_it_goes_with_any_sampler(self, engine: Engine, trials: int, sampler: Sampler) -> None:
        study = self.study(engine, trials, sampler)
        self.play(study)
        assert len(study.trials) == trials

    def test_its_definition_is_plain_json(self, engine: Engine, trials: int) -> None:
        definition = self.study(engine, trials).definition()
        assert json.loads(json.dumps(definition)) == definition
        assert definition["engine"] == type(engine).__name__

    def test_it_tells_about_how_long_a_study_will_be(self, engine: Engine, trials: int) -> None:
        study = self.study(engine, trials, merge=False)
        steps = self.play(study).steps
        assert steps / 4 <= engine.expected_steps(study.total) <= steps * 10
