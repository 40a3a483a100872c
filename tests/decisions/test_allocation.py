"""Which ranks a stage gets, and how many."""

import math
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openhpo as hpo
from openhpo.allocation import Allocation
from openhpo.course import Course
from openhpo.errors import UserError
from openhpo.resources import Needs, Profile
from openhpo.testing.workers import Workers

GB = 1 << 30


def course(**values):
    return Course(values, values, {})


def there(wanted, *hosts):
    """An allocation of ranks on these hosts."""
    allocation = Allocation(wanted)
    allocation.expect(len(hosts))
    for rank, host in enumerate(hosts):
        allocation.join(rank, host)
    return allocation


def test_ranks_of_one_node_are_taken_where_there_are_enough():
    allocation = there(2, "a", "b", "b", "a")
    assert allocation.choose(2, (0, 1, 2), ()) == (1, 2)
    assert allocation.choose(2, (0, 1, 3), ()) == (0, 3)
    assert set(allocation.choose(2, (0, 1), ())) == {0, 1}
    assert allocation.choose(2, (0,), ()) is None


def test_who_holds_the_state_leads_and_takes_the_group_it_led_before():
    allocation = there(2, "a", "a", "a", "a")
    assert allocation.choose(2, (0, 1, 2, 3), (2,)) == (2, 0)
    assert allocation.choose(2, (1, 3, 0, 2), (2,)) == (2, 0)
    assert allocation.choose(2, (1, 3, 2), (2,)) == (2, 1)


def test_nobody_gets_more_ranks_than_there_are_left():
    allocation = there(4, "a", "a", "a", "a")
    assert allocation.size(course(), 0) == 4
    allocation.leave(3)
    assert allocation.size(course(), 0) == 3
    allocation.leave(3)
    assert allocation.size(course(), 0) == 3
    allocation.join(3, "a")
    assert allocation.size(course(), 0) == 4


def test_ranks_that_are_still_to_join_are_waited_for():
    allocation = Allocation(4)
    allocation.expect(4)
    allocation.join(0, "a")
    assert allocation.size(course(), 0) == 4


@pytest.mark.parametrize("wanted", [0, -1, True, 1.5, "many"])
def test_numbers_of_ranks_that_make_no_sense_are_refused(wanted):
    with pytest.raises(UserError, match="ranks_per_trial"):
        Allocation(wanted)


@pytest.mark.parametrize("found", [0, 2.0, None, True])
def test_a_function_has_to_give_a_number_of_ranks(found):
    with pytest.raises(UserError, match="whole number of ranks"):
        there(lambda values: found, "a", "a").size(course(lr=0.1), 0)


@settings(deadline=None)
@given(
    weights=st.floats(0.01, 0.5),
    each=st.floats(0.001, 0.5),
    batches=st.lists(st.sampled_from([8, 16, 32, 64, 128, 256]), min_size=12, max_size=40),
)
def test_memory_that_is_a_sum_of_weights_and_of_a_part_of_the_batch_is_learnt(weights, each, batches):
    memory = 16 * GB
    most = 64

    def peak(batch, ranks):
        return weights * GB + each * GB * batch / ranks

    needs, wrong = Needs(), 0
    for number, batch in enumerate(batches):
        values = {"batch": batch, "lr": 0.1 / (1 + number)}
        ranks = needs.ranks(values, most)
        tries = 0
        while peak(batch, ranks) > memory and ranks < most:
            needs.exhausted(values, ranks)
            ranks = needs.ranks(values, most)
            tries += 1
            assert tries <= math.log2(most)  # each size is tried once
        if peak(batch, ranks) <= memory:
            needs.learn(values, ranks, Profile(int(peak(batch, ranks)), memory))
        smallest = next((size for size in (1, 2, 4, 8, 16, 32, 64) if peak(batch, size) <= memory * 0.9), most)
        learnt = number >= 10 and len({batch for batch in batches[:number] if peak(batch, 1) <= memory}) >= 2
        wrong += learnt and ranks > smallest
    assert not wrong


def test_what_ran_out_of_memory_gets_more_ranks_although_nothing_tells_how_much_there_is():
    needs = Needs()
    assert needs.ranks({"width": 64}, 8) == 1
    needs.exhausted({"width": 64}, 1)
    assert needs.ranks({"width": 64}, 8) == 2
    needs.exhausted({"width": 64}, 2)
    assert needs.ranks({"width": 64}, 8) == 4
    assert needs.ranks({"width": 64}, 3) == 3


def test_a_stage_ends_where_another_number_of_ranks_is_wanted():
    space = hpo.Space({"batch": hpo.Steps([8, 16, 32], [2, 2])})
    study = hpo.Study(
        space, hpo.Minimize("loss"), engine=hpo.Full(6), trials=1, ranks_per_trial=lambda values: values["batch"] // 8
    )
    played = Workers(study, 4, lambda stage, step, number: {"loss": number}).play()
    assert [(stage.start, stage.stop, len(stage.ranks)) for stage in played.stages] == [(0, 2, 1), (2, 4, 2), (4, 6, 4)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_promotions_double_the_ranks_as_far_as_there_are_any(ranks):
    space = hpo.Space({"lr": hpo.Float((0.0, 1.0))})
    engine = hpo.ASHA(8, 1, 2, double_ranks=True)
    study = hpo.Study(space, hpo.Minimize("loss"), engine=engine, trials=30, seed=1)
    played = Workers(study, ranks, lambda stage, step, number: {"loss": number}, seed=1).play()
    assert {stage.start: len(stage.ranks) for stage in played.stages} == {
        start: min(size, ranks) for start, size in ((0, 1), (1, 2), (2, 4), (4, 8))
    }


def test_double_ranks_needs_trials_that_pause():
    with pytest.raises(UserError, match="pause at rungs"):
        hpo.ASHA(8, 1, 2, stopping=True, double_ranks=True)


@pytest.mark.parametrize("engine", [hpo.ASHA(9), hpo.SuccessiveHalving(9), hpo.Hyperband(9), hpo.PopulationBased(6, 2)])
@pytest.mark.parametrize("wanted", [2, lambda values: 1 + (values["lr"] > 0.5) * 2])
def test_every_engine_finishes_on_groups_while_states_get_lost(engine, wanted):
    space = hpo.Space({"lr": hpo.Float((0.0, 1.0))})
    total = None if isinstance(engine, hpo.Hyperband) else 12
    study = hpo.Study(space, hpo.Minimize("loss"), engine=engine, trials=total, seed=2, ranks_per_trial=wanted)
    study.allocation.expect(5)
    played = Workers(study, 5, lambda stage, step, number: {"loss": number}, seed=3, failing=0.02, losing=0.05).play()
    assert max(len(stage.ranks) for stage in played.stages) >= 2


def test_what_needs_more_ranks_than_are_idle_is_not_passed_over():
    space = hpo.Space({"wide": hpo.Categorical([True, False])})
    study = hpo.Study(
        space,
        hpo.Minimize("loss"),
        engine=hpo.Full(1),
        sampler=hpo.Grid(),
        ranks_per_trial=lambda values: 2 if values["wide"] else 1,
    )
    study.allocation.expect(2)
    idle = deque([1])
    wide = study.ask(*idle)
    assert wide is None
    assert study.ask(*idle) is None
    stage = study.ask(0, 1)
    assert stage is not None
    assert set(stage.ranks) == {0, 1}
