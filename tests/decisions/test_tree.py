import itertools
from array import array

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import openhpo as hpo
from openhpo.stages import State
from openhpo.testing import Workers
from openhpo.tree import Tree, Work

TABLE_1A = hpo.Space(
    {
        "lr": hpo.Exponential(
            initial=hpo.Categorical([0.5, 0.2]), factor=hpo.Categorical([0.2, 0.1]), every=[hpo.Categorical([40, 60, 80])] * 3
        )
    }
)


def falling(stage, step, model):
    return {"loss": model + 1 / step}


def grid_study(space=TABLE_1A, steps=200, **more):
    return hpo.Study(space, hpo.Minimize("loss"), engine=hpo.Full(steps), sampler=hpo.Grid(), **more)


@pytest.mark.parametrize("workers", [1, 2, 5, 20])
def test_table_1a_asks_for_6240_epochs_merged_and_21600_trial_by_trial(workers):
    merged, alone = grid_study(), grid_study(merge=False)
    assert merged.total == 108
    assert Workers(merged, workers, falling).play().steps == 6240
    assert Workers(alone, workers, falling).play().steps == 21600
    assert [trial.losses for trial in merged.trials] == [trial.losses for trial in alone.trials]
    assert all(trial.state is State.DONE for trial in merged.trials)


def test_merging_goes_on_when_every_state_gets_lost_sooner_or_later():
    study, alone = grid_study(), grid_study(merge=False)
    played = Workers(study, 4, falling, losing=0.02).play()
    Workers(alone, 1, falling).play()
    assert played.given_back > 0
    assert played.steps > 6240
    assert [trial.losses for trial in study.trials] == [trial.losses for trial in alone.trials]


def some_schedule(numbers, lengths):
    choice, length = hpo.Categorical(numbers), hpo.Categorical(lengths)
    return st.sampled_from(
        [
            choice,
            hpo.Steps([choice, choice, choice], [length, length]),
            hpo.Exponential(choice, choice, length),
            hpo.Linear(choice, choice, length),
            hpo.Chain(hpo.Warmup(choice, length), hpo.Exponential(choice, choice, [length, length])),
            hpo.Cyclic(choice, choice, length),
        ]
    )


engines = st.sampled_from(
    [hpo.Full(9), hpo.SuccessiveHalving(9, 2, 2), hpo.ASHA(9, 1, 2), hpo.LearningCurveMatching(9, accumulation=3)]
)


@example(*[hpo.Categorical([0.5, 1.0])] * 2, hpo.LearningCurveMatching(9, accumulation=3), 1, 30, 0.0)
@settings(max_examples=80, deadline=None)
@given(
    some_schedule([0.5, 1.0], [1, 2, 5]),
    some_schedule([0.5, 1.0], [2, 3]),
    engines,
    st.integers(1, 6),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.0, 0.1]),
)
def test_whatever_is_merged_every_trial_is_trained_exactly_as_its_own_course_says(lr, decay, engine, workers, seed, losing):
    space = hpo.Space({"lr": lr, "decay": decay, "width": hpo.Categorical([1, 2])})
    study = hpo.Study(space, hpo.Minimize("loss"), engine=engine, trials=20, seed=seed)
    played = Workers(study, workers, falling, seed=seed, losing=losing).play()
    alone = hpo.Study(space, hpo.Minimize("loss"), engine=hpo.Full(9), trials=20, seed=seed, merge=False)
    Workers(alone, 1, falling).play()
    for trial in study.trials:
        assert trial.losses == alone.trials[trial.number].losses[: trial.step]
        assert trial.step > 0
    distinct = {tuple(trial.losses[:step]) for trial in study.trials for step in range(1, trial.step + 1)}
    if not losing and not study.space.schedules:
        # each step of each distinct training once; but for the state of a trial that was stopped, which is dropped then
        again = sum(stage.stop - stage.start for stage in played.stages if stage.again)
        assert played.steps - again == len(distinct)
        assert again == 0 or engine.checks(0, 9)
    if not losing:
        assert played.steps >= len(distinct)


def test_trials_that_are_the_same_train_once_and_both_have_the_curve():
    study = grid_study(hpo.Space({"a": hpo.Categorical([1, 2])}), steps=4)
    twice = hpo.Study(hpo.Space({"a": 1}), hpo.Minimize("loss"), engine=hpo.Full(4), trials=3)
    assert Workers(study, 2, falling).play().steps == 8
    assert Workers(twice, 2, falling).play().steps == 4
    assert len({tuple(trial.losses) for trial in twice.trials}) == 1
    assert twice.best.trial == 0


def test_other_seeds_and_other_structures_are_never_merged():
    tree, courses = Tree(), []
    for seed, width in itertools.product((0, 1), (8, 16)):
        courses.append(hpo.Space({"width": width, "lr": hpo.Constant(0.1)}).course({"width": width}, seed))
    ends = [tree.descend(tree.root, course, 10)[0] for course in courses]
    assert len(set(ends)) == 4
    assert tree.descend(tree.root, courses[0], 10)[0] is ends[0]


def test_a_node_is_split_where_two_courses_part_and_the_lower_part_stays_the_same_node():
    tree = Tree()
    space = hpo.Space({"lr": hpo.Steps([0.1, 0.01], [hpo.Integer((1, 99))])})
    first, second = (space.course({"lr.lengths.0": length}) for length in (40, 60))
    node, _ = tree.descend(tree.root, first, 100)
    upper, lower = tree.descend(tree.root, second, 100)
    assert lower is node
    assert (upper.start, upper.stop, node.start, node.stop) == (0, 40, 40, 100)
    other, _ = tree.descend(upper, second, 100)
    assert (other.start, other.stop, other.work) == (40, 100, Work.WAITING)
    assert set(upper.children.values()) == {node, other}


def test_a_trial_that_comes_while_another_trains_shares_what_is_left_and_hears_what_was():
    space = hpo.Space({"lr": hpo.Steps([0.1, hpo.Categorical([0.2, 0.3])], [4])})
    study = grid_study(space, steps=8)
    stage = study.ask(0)
    assert (stage.start, stage.stop) == (0, 4)  # the branch is known before it is trained
    study.tell(stage, 1, {"loss": 1.0})
    assert study.ask(1) is None
    assert study.trials[1].losses == array("d", [1.0])
    for step in (2, 3, 4):
        study.tell(stage, step, {"loss": 1.0 / step})
    study.end(stage)
    assert study.trials[0].losses == study.trials[1].losses
    branches = [study.ask(0), study.ask(1)]
    assert [branch.parent for branch in branches] == [stage.id, stage.id]
    assert [branch.source for branch in branches] == [0, 0]
    assert branches[0].keep  # the other trainer still has to fetch it


def test_the_idle_trainer_goes_on_with_the_state_that_it_holds():
    study = hpo.Study(
        hpo.Space({"x": hpo.Float((0.0, 1.0))}), hpo.Minimize("loss"), engine=hpo.SuccessiveHalving(4, 1, 2), trials=8
    )
    stages = {worker: study.ask(worker) for worker in range(8)}
    for worker, stage in stages.items():
        study.tell(stage, 1, {"loss": float(worker % 2)})
        study.end(stage)
    for worker in (6, 2, 4, 0):  # the four that are promoted, asked for in another order
        again = study.ask(worker)
        assert (again.parent, again.source, again.keep) == (stages[worker].id, worker, False)


def test_of_stages_of_one_priority_the_one_with_the_longest_way_to_go_comes_first():
    space = hpo.Space({"lr": hpo.Exponential(1.0, 0.5, [hpo.Categorical([2, 6]), hpo.Categorical([1, 2])])})
    study = grid_study(space, steps=8)
    first = study.ask(0)
    for step in (1, 2):
        study.tell(first, step, {"loss": 1.0})
    study.end(first, kept=False)
    # (2, 1), (2, 2) go on at step 2, (6, .) too; all have six steps to go, and nobody holds the state: it is trained again
    again = study.ask(1)
    assert (again.start, again.stop, again.parent) == (0, 2, None)


def test_one_hundred_thousand_trials_are_inserted_and_asked_for_in_reasonable_time():
    # a promise about growth, not about seconds: the work per trial is counted, not timed
    space = hpo.Space({"lr": hpo.Exponential(hpo.Categorical([k / 100 for k in range(1, 101)]), 0.5, [hpo.Integer((1, 9))])})
    tree, calls = Tree(), 0
    original = Tree.descend

    def counted(self, *arguments):
        nonlocal calls
        calls += 1
        return original(self, *arguments)

    Tree.descend = counted
    try:
        for _, initial, every in itertools.product(range(10), range(1, 101), range(1, 10)):
            tree.plan(space.course({"lr.initial": initial / 100, "lr.every.0": every}), 10)
    finally:
        Tree.descend = original
    assert calls <= 10 * 900 * 10
    assert sum(1 for _ in tree.nodes()) <= 100 * 18
