import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openhpo as hpo
from openhpo.stages import State


def make(trials=6, steps=3, **more):
    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    return hpo.Study(space, hpo.Minimize("loss"), engine=hpo.Full(steps), trials=trials, **more)


def train(study, stage, loss=None):
    for step in range(stage.start + 1, stage.stop + 1):
        study.tell(stage, step, {"loss": stage.config["x"] / step if loss is None else loss})
    study.end(stage)


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_the_order_in_which_workers_report_changes_nothing(order, workers):
    reference = make()
    while (stage := reference.ask()) is not None:
        train(reference, stage)
    study, shuffle = make(), random.Random(order)
    running = {}
    while not study.finished:
        for worker in range(workers):
            if worker not in running and (stage := study.ask(worker)) is not None:
                running[worker] = [stage, stage.start]
        worker = shuffle.choice(list(running))
        stage, step = running[worker]
        running[worker][1] = step + 1
        study.tell(stage, step + 1, {"loss": stage.config["x"] / (step + 1)})
        if step + 1 == stage.stop:
            study.end(stage)
            del running[worker]
    assert [trial.config for trial in study.trials] == [trial.config for trial in reference.trials]
    assert [trial.losses for trial in study.trials] == [trial.losses for trial in reference.trials]
    assert study.best == reference.best


def test_every_trial_trains_from_its_first_step_to_its_last_once():
    study = make()
    stages = []
    while (stage := study.ask(7)) is not None:
        stages.append(stage)
        train(study, stage)
    assert [(stage.id, stage.trial, stage.parent, stage.start, stage.stop, stage.ranks) for stage in stages] == [
        (k, k, None, 0, 3, (7,)) for k in range(6)
    ]
    assert study.finished


def test_a_study_waits_for_what_runs():
    study = make(trials=1)
    stage = study.ask()
    assert study.ask() is None
    assert not study.finished
    study.fail(stage, "out of luck")
    assert study.finished
    assert study.trials[0].state is State.FAILED
    assert study.best is None


def test_the_best_is_the_best_step_of_the_best_trial_and_ties_go_to_the_first():
    study = make(trials=3, steps=2)
    stages = [study.ask() for _ in range(3)]
    for stage, losses in [(stages[2], [0.5, 0.2]), (stages[1], [0.2, 0.3]), (stages[0], [0.9, float("nan")])]:
        for step, loss in enumerate(losses, 1):
            study.tell(stage, step, {"loss": loss})
    assert (study.best.trial, study.best.step, study.best.value) == (1, 1, 0.2)
    assert study.best.curve == [0.2, 0.3]


def test_steps_have_to_be_told_in_order_and_of_running_stages_only():
    study = make()
    stage = study.ask()
    with pytest.raises(ValueError, match="reported step 2 after step 0"):
        study.tell(stage, 2, {"loss": 1.0})
    train(study, stage)
    with pytest.raises(ValueError, match="stage 0 is not running"):
        study.tell(stage, 4, {"loss": 1.0})
    with pytest.raises(ValueError, match="stage 0 is not running"):
        study.end(stage)


def test_a_metric_that_is_never_yielded_is_a_users_mistake():
    study = make()
    stage = study.ask()
    study.tell(stage, 1, {"los": 1.0})
    with pytest.raises(hpo.UserError, match="'loss' was never yielded: train yields los.*Did you mean 'los'"):
        study.end(stage)


def test_drawing_ahead_changes_no_answer():
    plain, ahead = make(), make()
    for _ in range(6):
        ahead.prepare()
        ahead.prepare()
        assert ahead.ask() == plain.ask()
    ahead.prepare()
    assert ahead.ask() is None


def test_what_learns_is_not_asked_ahead():
    asked = []

    class Learning(hpo.Suggest):
        def bind(self, space, seed):
            return self

        def __call__(self, number, history, rng):
            asked.append(number)
            return {"x": 0.5}

    study = make(sampler=Learning())
    study.prepare()
    assert not asked
    study.ask()
    assert asked == [0]


def test_a_verdict_of_the_engine_stops_a_trial():
    class Impatient(hpo.Full):
        def judge(self, trial, step):
            return hpo.Verdict.STOP if trial.losses[-1] > 0.5 else hpo.Verdict.CONTINUE

    study = hpo.Study(hpo.Space({"x": 1.0}), hpo.Minimize("loss"), engine=Impatient(9), trials=1)
    stage = study.ask()
    assert study.tell(stage, 1, {"loss": 0.4}) is hpo.Verdict.CONTINUE
    assert study.tell(stage, 2, {"loss": 0.6}) is hpo.Verdict.STOP
    study.end(stage)
    assert study.trials[0].state is State.STOPPED


def test_a_grid_ends_with_its_last_point_and_needs_no_number_of_trials():
    space = hpo.Space({"a": hpo.Integer((0, 3))})
    study = hpo.Study(space, hpo.Minimize("loss"), engine=hpo.Full(1), sampler=hpo.Grid())
    assert study.total == 4
    assert hpo.Study(space, hpo.Minimize("loss"), engine=hpo.Full(1), sampler=hpo.Grid(), trials=2).total == 2
    with pytest.raises(hpo.UserError, match="how many trials"):
        hpo.Study(space, hpo.Minimize("loss"), engine=hpo.Full(1))


def test_the_objective_has_to_be_one():
    with pytest.raises(hpo.UserError, match="has to be hpo.Minimize"):
        hpo.Study(hpo.Space({"a": 1}), "loss", engine=hpo.Full(1), trials=1)
