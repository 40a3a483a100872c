"""Who gets which stage, partial progress, checkpoints, and the same again from a record of calls."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openhpo as hpo
from openhpo.scheduler import Scheduler
from openhpo.stages import AT_REST, State, StateName


def study(engine=None, trials=3, **more):
    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    return hpo.Study(space, hpo.Minimize("loss"), engine=engine or hpo.Full(6), trials=trials, **more)


def scheduled(*ranks, **more):
    scheduler = Scheduler(study(**more))
    stages = []
    for rank in ranks:
        scheduler.join(rank)
        stages += scheduler.assign()
    return scheduler, stages


def report(scheduler, stage, first, last):
    return scheduler.reports(stage, first, [{"loss": stage.config["x"] / step} for step in range(first, last + 1)])


def test_what_was_reported_of_a_stage_that_comes_back_is_not_trained_for_itself_again():
    scheduler, [stage] = scheduled(1)
    report(scheduler, stage, 1, 4)
    scheduler.returned(stage)
    [again] = scheduler.assign()
    assert (again.start, again.stop, again.again, again.parent) == (0, 4, True, None)  # for the state after step 4
    report(scheduler, again, 1, 4)
    scheduler.ended(again, kept=True)
    [rest] = scheduler.assign()
    assert (rest.start, rest.stop, rest.again, rest.parent, rest.before) == (4, 6, False, stage.id, StateName(again.id, 4))


def test_a_checkpoint_in_the_middle_of_a_stage_is_where_it_goes_on_when_its_rank_is_lost():
    scheduler, [stage] = scheduled(1)
    report(scheduler, stage, 1, 5)
    assert scheduler.saved(StateName(stage.id, 3), 1, "file", moved=False)
    assert scheduler.leave(1) == [stage]
    scheduler.returned(stage)
    scheduler.join(2)
    [again] = scheduler.assign()
    assert (again.start, again.stop, again.again, again.file, again.ranks) == (3, 5, True, "file", (2,))


def test_a_checkpoint_is_kept_until_a_newer_one_is_there():
    scheduler, [stage] = scheduled(1, trials=1, engine=hpo.SuccessiveHalving(8, 1, 2))
    for last in (1, 2, 4):  # three rungs, one after another on the same rank
        report(scheduler, stage, stage.start + 1, last)
        if last == 1:
            assert scheduler.saved(StateName(stage.id, 1), 1, "first", moved=False) is False  # it has not ended yet
        scheduler.ended(stage, kept=True)
        if last == 1:
            assert scheduler.saved(StateName(stage.id, 1), 1, "first", moved=False)
        [stage] = scheduler.assign()
        assert list(scheduler.study.checkpoints.values()) == ["first"]  # what is newer lies in memory alone
    assert [release for release in scheduler.study.releases() if release.file] == []
    report(scheduler, stage, 5, 6)
    assert scheduler.saved(StateName(stage.id, 6), 1, "second", moved=False)
    assert [release.file for release in scheduler.study.releases() if release.file] == ["first"]
    assert list(scheduler.study.checkpoints.values()) == ["second"]


def test_nothing_is_handed_out_while_the_study_is_suspended_and_everything_after():
    scheduler, [stage] = scheduled(1)
    scheduler.suspend()
    scheduler.join(2)
    assert list(scheduler.assign()) == []
    report(scheduler, stage, 1, 6)
    scheduler.ended(stage, kept=False)
    assert list(scheduler.assign()) == []
    assert not scheduler.finished
    scheduler.resume([3])
    scheduler.join(5)
    [following] = scheduler.assign()
    assert (following.trial, following.ranks) == (1, (5,))


def test_more_trials_may_follow_where_the_method_does_not_count_them():
    scheduler, [stage] = scheduled(1, trials=1)
    report(scheduler, stage, 1, 6)
    scheduler.ended(stage, kept=False)
    assert list(scheduler.assign()) == []
    assert scheduler.finished
    scheduler.resume([2])
    scheduler.join(1)
    assert [stage.trial for stage in scheduler.assign()] == [1]
    with pytest.raises(hpo.UserError, match="decides by the number of trials"):
        study(hpo.Hyperband(9), trials=10).extend(20)


def test_an_objective_that_is_not_finite_fails_the_trials_of_a_stage_unless_models_are_replaced():
    scheduler, [stage] = scheduled(1)
    assert scheduler.reports(stage, 1, [{"loss": 1.0}, {"loss": float("nan")}, {"loss": 1.0}]) == 2
    assert scheduler.stopped == {stage.id}
    assert scheduler.study.trials[0].state is State.FAILED
    scheduler, stages = scheduled(1, 2, engine=hpo.PopulationBased(6, 3))
    assert scheduler.reports(stages[0], 1, [{"loss": float("nan")}] * 3) == 3
    assert scheduler.study.trials[0].state is State.RUNNING


ENGINES = [
    hpo.Full(6),
    hpo.SuccessiveHalving(9, 1, 3),
    hpo.Hyperband(9, 1, 3),
    hpo.ASHA(9, 1, 3),
    hpo.ASHA(9, 1, 3, stopping=True),
    hpo.PopulationBased(6, 2),
]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(ENGINES))
def test_the_same_calls_hand_out_the_same_stages_whatever_happens(seed, engine):
    """A record of calls is all that continuing a study needs."""
    chance = random.Random(seed)
    one, other = (Scheduler(study(engine, trials=9)) for _ in range(2))
    calls = []

    def both(call):
        calls.append(call)
        first = [call(scheduler) for scheduler in (one, other)]
        assert first[0] == first[1]
        assert list(one.assign()) == list(other.assign())
        return first[0]

    for rank in range(3):
        both(lambda scheduler, rank=rank: scheduler.join(rank))
    reached = {}
    for _ in range(3000):
        if one.finished:
            break
        if not one.stages:
            break
        stage = chance.choice(sorted(one.stages.values(), key=lambda stage: stage.id))
        at = reached.get(stage.id, stage.start)
        what = chance.random()
        if what < 0.04:
            both(lambda scheduler, stage=stage: scheduler.returned(stage))
        elif what < 0.06:
            both(lambda scheduler, stage=stage: scheduler.failed(stage, "no luck"))
        elif what < 0.1 and at > stage.start:
            name = StateName(stage.id, at)
            both(lambda scheduler, name=name, stage=stage: scheduler.saved(name, stage.ranks[0], f"file {name}", moved=False))
        elif stage.id in one.stopped or at == stage.stop:
            kept = at == stage.stop and stage.park
            both(lambda scheduler, stage=stage, kept=kept: scheduler.ended(stage, kept=kept))
        else:
            both(lambda scheduler, stage=stage, at=at: report(scheduler, stage, at + 1, at + 1))
            reached[stage.id] = at + 1
    assert one.finished
    assert other.finished
    assert {trial.state for trial in one.study.trials} <= AT_REST
