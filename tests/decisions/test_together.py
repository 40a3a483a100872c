"""Several studies over one tree."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openhpo as hpo
from openhpo.stages import State
from openhpo.testing import Workers
from openhpo.workload import Workload

PERIODS = hpo.Categorical([40, 60, 80])


def table(initial, periods=3):
    """Schedules as in Table 1(a) of the stage tree's paper, with some of its initial learning rates."""
    lr = hpo.Exponential(initial=hpo.Categorical(initial), factor=hpo.Categorical([0.2, 0.1]), every=[PERIODS] * periods)
    return hpo.Space({"lr": lr})


def falling(stage, step, model):
    return {"loss": model + 1 / step, "gain": -model}


def plan(space, engine=None, sampler=None, **more):
    more.setdefault("objective", hpo.Minimize("loss"))
    return hpo.Plan(space=space, engine=engine or hpo.Full(200), sampler=sampler or hpo.Grid(), **more)


def alone(given, seed=0):
    study = hpo.Study(given.space, given.objective, engine=given.engine, sampler=given.sampler, trials=given.trials, seed=seed)
    Workers(study, 1, falling).play()
    return study


def distinct_steps(*searches):
    """The steps of all trials, computed from the learning rates alone: those with the same ones until then are counted once."""
    numbers = {}
    for search in searches:
        for trial in search.trials:
            course, before = search.space.course(trial.config), -1
            for step in range(trial.step):
                before = numbers.setdefault((before, course.value("lr", step)), len(numbers))
    return len(numbers)


@pytest.mark.parametrize("workers", [1, 2, 5, 20])
def test_studies_over_overlapping_grids_train_exactly_the_union_of_their_trees(workers):
    plans = {"one": plan(table([0.5, 0.2])), "two": plan(table([0.2, 0.1])), "three": plan(table([0.5], periods=2))}
    together = Workload(plans)
    played = Workers(together, workers, falling).play()
    apart = [alone(each) for each in plans.values()]
    assert played.steps == distinct_steps(*apart) == distinct_steps(*together.searches)
    assert played.steps < sum(distinct_steps(study) for study in apart)
    for search, study in zip(together.searches, apart, strict=True):
        assert [trial.losses for trial in search.trials] == [trial.losses for trial in study.trials]
        assert search.best == study.best


def test_two_halves_of_table_1a_and_the_whole_of_it_train_6240_epochs():
    together = Workload({"a": plan(table([0.5])), "b": plan(table([0.2])), "all": plan(table([0.5, 0.2]))})
    assert Workers(together, 5, falling).play().steps == 6240


SMALL = {
    "x": hpo.Categorical([0.1, 0.2, 0.3]),
    "lr": hpo.Exponential(hpo.Categorical([0.5, 0.2]), 0.5, [hpo.Categorical([1, 2, 4])] * 2),
}
ENGINES = [
    lambda: hpo.Full(9),
    lambda: hpo.Full(4),
    lambda: hpo.SuccessiveHalving(9, 1, 3),
    lambda: hpo.Hyperband(9, 1, 3),
]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(ENGINES), st.booleans(), st.booleans()), min_size=2, max_size=3),
    st.integers(1, 5),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.1]),
)
def test_each_study_comes_to_what_it_would_have_come_to_by_itself(chosen, workers, seed, losing):
    plans = {}
    for place, (engine, fixed, gain) in enumerate(chosen):
        space = hpo.Space({**SMALL, "x": 0.2} if fixed else SMALL)
        objective = hpo.Maximize("gain") if gain else hpo.Minimize("loss")
        plans[f"s{place}"] = plan(space, engine(), hpo.Random(), trials=12, objective=objective)
    together = Workload(plans, seed=seed)
    Workers(together, workers, falling, seed=seed, losing=losing).play()
    for search, given_plan in zip(together.searches, plans.values(), strict=True):
        study = alone(given_plan, seed)
        for mine, its in zip(search.trials, study.trials, strict=True):
            assert (mine.config, mine.state, mine.losses) == (its.config, its.state, its.losses)
        assert search.best == study.best


@pytest.mark.parametrize("seed", range(3))
def test_studies_of_every_kind_go_on_side_by_side(seed):
    space = hpo.Space({"x": hpo.Float((0.0, 1.0)), "lr": 0.1})
    plans = {
        "pbt": plan(space, hpo.PopulationBased(20, 2), hpo.Random(), trials=6),
        "asha": plan(space, hpo.ASHA(27, 1, 3), hpo.TPE(startup=4), trials=30),
        "replicates": plan(space, hpo.Full(5), hpo.Random(), trials=4, replicates=3),
        "target": plan(space, hpo.Full(30), hpo.Sobol(), trials=4, objective=hpo.Minimize(hpo.first_step("loss <= 0.6"))),
    }
    together = Workload(plans, seed=seed)
    workers = Workers(together, 4, falling, seed=seed, losing=0.02)
    workers.play()
    assert all(trial.state is not State.RUNNING for search in together.searches for trial in search.trials)
    assert together.settled + sum(t.state is State.PAUSED for t in together.searches[1].candidates) == together.total
    # none of them waits for another one: among the first stages there are some of each
    assert {stage.study for stage in workers.played.stages[:12]} == {0, 1, 2, 3}


def test_no_study_keeps_others_waiting():
    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    plans = {
        "long": plan(space, hpo.Full(50), hpo.Random(), trials=50),
        "short": plan(space, hpo.Full(5), hpo.Random(), trials=50),
    }
    together = Workload(plans)
    handed = {0: 0, 1: 0}
    for worker in range(50):
        stage = together.ask(worker)
        handed[stage.study] += stage.stop - stage.start
        assert abs(handed[0] - handed[1]) <= 50


def test_a_metric_that_one_study_needs_and_nobody_yields_is_named():
    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    plans = {"a": plan(space, hpo.Full(1), hpo.Random(), trials=1)}
    plans["b"] = plan(space, hpo.Full(1), hpo.Random(), trials=2, objective=hpo.Minimize("speed"))
    with pytest.raises(hpo.UserError, match="'speed' was never yielded"):
        Workers(Workload(plans), 1, falling).play()


def test_slow_samplers_are_asked_each_for_its_own_study():
    class Slow(hpo.TPE):
        def bind(self, space, seed):
            suggest = super().bind(space, seed)
            suggest.slow = True
            return suggest

    spaces = {name: hpo.Space({name: hpo.Float((0.0, 1.0))}) for name in ("a", "b")}
    together = Workload({name: plan(space, hpo.Full(1), Slow(startup=2), trials=3) for name, space in spaces.items()})
    together.defer()
    assert together.ask(0) is None
    calls = together.draws()
    assert [place for place, _ in calls] == [0, 1]
    assert together.draws() == []
    for place, call in reversed(calls):
        together.suggested(call(), place)
    assert {together.ask(0).study, together.ask(1).study} == {0, 1}
