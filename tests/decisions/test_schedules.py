import itertools
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import openhpo as hpo
from openhpo.course import Course


def course(schedule):
    return Course({}, {}, {"lr": schedule})


def values(schedule, steps):
    """What is in force at steps 1 to `steps`."""
    return [course(schedule).value("lr", step) for step in range(steps)]


def test_a_constant_keeps_its_value_and_its_type():
    assert values(hpo.Constant(64), 3) == [64, 64, 64]
    assert type(values(hpo.Constant(64), 1)[0]) is int


def test_steps_hold_each_value_for_its_length():
    assert values(hpo.Steps([32, 64, 128], [2, 1]), 5) == [32, 32, 64, 128, 128]


def test_a_line_goes_from_its_start_to_its_end_and_stays_there():
    assert values(hpo.Linear(1.0, 0.0, 4), 6) == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_a_polynomial_falls_with_a_power_of_what_is_left_and_ends_exactly():
    assert values(hpo.Polynomial(1.0, 0.0, 4), 6) == [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    assert values(hpo.Polynomial(0.0, 0.8, 2, power=3), 4) == [0.0, 0.7, 0.8, 0.8]  # rising; in decimal numbers exact
    assert values(hpo.Polynomial(1.0, 0.5, 4, power=1), 5) == values(hpo.Linear(1.0, 0.5, 4), 5)
    roots = values(hpo.Polynomial(0.3, 0.1, 4, power=0.5), 6)
    assert roots == pytest.approx([0.3] + [0.1 + 0.2 * math.sqrt(left / 4) for left in (3, 2, 1)] + [0.1, 0.1])
    assert (roots[0], roots[4]) == (0.3, 0.1)


def test_a_polynomial_begins_where_the_warm_up_before_it_ends():
    chain = hpo.Chain(hpo.Warmup(8.0, 2), hpo.Polynomial(8.0, 0.0, 4))
    assert values(chain, 8) == [4.0, 8.0, 8.0, 4.5, 2.0, 0.5, 0.0, 0.0]


def test_the_last_step_of_a_warm_up_has_the_value_it_leads_to():
    assert values(hpo.Warmup(0.5, 5), 7) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5])
    assert values(hpo.Warmup(0.4, 4, start=0.0), 5) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert values(hpo.Warmup(0.4, 1), 2) == [0.4, 0.4]


def test_exponential_decay_multiplies_after_every_period():
    assert values(hpo.Exponential(1.0, 0.5, 2), 6) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert values(hpo.Exponential(1.0, 0.1, [1, 3]), 6) == [1.0, 0.1, 0.1, 0.1, 0.01, 0.01]
    assert values(hpo.Exponential(1.0, 0.5, 1, steps=2), 5) == [1.0, 0.5, 0.5, 0.5, 0.5]


def test_whole_numbers_that_are_multiplied_by_whole_numbers_stay_whole():
    assert [(value, type(value)) for value in values(hpo.Exponential(32, 2, 1), 3)] == [(32, int), (64, int), (128, int)]


def test_a_cosine_falls_slowly_then_fast_then_slowly():
    found = values(hpo.Cosine(1.0, 0.0, 4), 6)
    assert found == pytest.approx([1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0, 0.0])


def test_cycles_rise_and_fall_and_may_shrink():
    assert values(hpo.Cyclic(0.0, 1.0, 4), 9) == [0.0, 0.5, 1.0, 0.5, 0.0, 0.5, 1.0, 0.5, 0.0]
    assert values(hpo.Cyclic(0.0, 1.0, 2, decay=0.5), 6) == [0.0, 1.0, 0.0, 0.5, 0.0, 0.25]
    assert values(hpo.Cyclic(0.0, 1.0, 4, steps=2), 5) == [0.0, 0.5, 0.0, 0.0, 0.0]


def test_a_chain_begins_each_schedule_where_the_one_before_ends():
    chain = hpo.Chain(hpo.Warmup(1.0, 2), hpo.Constant(1.0, steps=2), hpo.Linear(1.0, 0.0, 2))
    assert values(chain, 8) == [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]


def test_a_schedule_has_values_within_a_step_too():
    stage = hpo.Stage(0, 0, None, 0, 3, {}, 0, (0,))
    trial = hpo.Trial(stage, None, None, course=course(hpo.Linear(0.0, 1.0, 2)))
    assert trial["lr"] == 0.0
    assert [trial.at(fraction)["lr"] for fraction in (0, 0.5, 1)] == [0.0, 0.25, 0.5]


# ---- how far two schedules are the same function

FOREVER = 1000


def parting(one, other):
    return course(one).parting(course(other), 0, FOREVER) if course(one).key(0) == course(other).key(0) else 0


@pytest.mark.parametrize(
    ("one", "other", "steps"),
    [
        (hpo.Constant(0.1), hpo.Steps([0.1, 0.01], [40]), 40),
        (hpo.Exponential(0.5, 0.1, 40), hpo.Exponential(0.5, 0.1, 60), 40),
        (hpo.Exponential(0.5, 0.2, [40, 60]), hpo.Exponential(0.5, 0.1, [40, 60]), 40),
        (hpo.Exponential(0.5, 0.2, 40), hpo.Steps([0.5, 0.1, 0.02], [40, 40]), 120),
        (hpo.Linear(0.0, 0.1, 10), hpo.Linear(0.0, 0.3, 30), 10),  # in decimal numbers the same slope
        (hpo.Linear(0.0, 1.0, 10), hpo.Cyclic(0.0, 1.0, 20), 10),
        (hpo.Warmup(0.1, 5, start=0.0), hpo.Linear(0.0, 0.1, 5), FOREVER),
        (hpo.Chain(hpo.Warmup(0.1, 5), hpo.Cosine(0.1, 0.0, 20)), hpo.Chain(hpo.Warmup(0.1, 5), hpo.Cosine(0.1, 0.0, 30)), 5),
        (hpo.Cosine(0.1, 0.0, 20), hpo.Cosine(0.1, 0.0, 20), FOREVER),
        (hpo.Polynomial(0.1, 0.0, 20), hpo.Polynomial(0.1, 0.0, 20, power=2.0), FOREVER),
        (hpo.Polynomial(0.1, 0.0, 20), hpo.Polynomial(0.1, 0.0, 20, power=3), 0),
        (hpo.Polynomial(0.1, 0.0, 20, power=1), hpo.Linear(0.1, 0.0, 20), FOREVER),
        (hpo.Polynomial(0.1, 0.1, 7), hpo.Constant(0.1), FOREVER),
        (hpo.Polynomial(0.1, 0.0, 20, power=0.5), hpo.Polynomial(0.1, 0.0, 20, power=0.5), FOREVER),
        (hpo.Polynomial(0.1, 0.0, 20, power=0.5), hpo.Polynomial(0.1, 0.0, 30, power=0.5), 0),
        (
            hpo.Chain(hpo.Warmup(0.1, 5), hpo.Polynomial(0.1, 0.0, 20)),
            hpo.Chain(hpo.Warmup(0.1, 5), hpo.Cosine(0.1, 0.0, 20)),
            5,
        ),
        (hpo.Steps([0.1, 0.1], [7]), hpo.Constant(0.1), FOREVER),
        (hpo.Linear(0.1, 0.1, 7), hpo.Constant(0.1), FOREVER),
        (hpo.Constant(1), hpo.Constant(1.0), 0),  # a whole number is another value to training code
        (hpo.Constant(True), hpo.Constant(1), 0),
        (hpo.Steps([0.1, 0.2], [2.5]), hpo.Constant(0.1), 2),  # they part in the middle of step 3
        (hpo.Exponential(0.1, 0.9, 1), hpo.Exponential(0.1, 0.9, 1), FOREVER),
    ],
)
def test_schedules_share_exactly_as_many_steps_as_they_are_the_same_function(one, other, steps):
    assert parting(one, other) == parting(other, one) == steps


def test_pieces_of_one_parabola_are_the_same_function():
    whole, tail = hpo.Polynomial(0.4, 0.0, 20), hpo.Chain(hpo.Constant(0.3, steps=10), hpo.Polynomial(0.1, 0.0, 10))
    assert course(whole).key(0) != course(tail).key(0)
    assert course(whole).key(10) == course(tail).key(10)
    assert course(whole).parting(course(tail), 10, FOREVER) == FOREVER
    assert [course(whole).value("lr", t) for t in range(10, 21)] == [course(tail).value("lr", t) for t in range(10, 21)]


numbers = st.integers(0, 4).map(lambda k: k / 4)
lengths = st.integers(1, 4)
schedules = st.one_of(
    st.builds(hpo.Constant, numbers),
    st.builds(
        lambda values, lengths: hpo.Steps(values[: len(lengths) + 1], lengths),
        st.lists(numbers, min_size=4, max_size=4),
        st.lists(lengths, min_size=1, max_size=3),
    ),
    st.builds(hpo.Linear, numbers, numbers, lengths),
    st.builds(hpo.Polynomial, numbers, numbers, lengths, st.sampled_from([0.5, 1, 2, 2.0, 3])),
    st.builds(hpo.Warmup, numbers, lengths),
    st.builds(hpo.Exponential, numbers, numbers, st.one_of(lengths, st.lists(lengths, min_size=1, max_size=3))),
    st.builds(hpo.Cosine, numbers, numbers, lengths),
    st.builds(lambda low, high, period: hpo.Cyclic(low, high, period), numbers, numbers, lengths),
)


@settings(max_examples=300)
@given(schedules, schedules)
def test_what_is_shared_has_the_same_bits_and_what_follows_differs(one, other):
    steps, limit = parting(one, other), 24
    fine = [k / 4 for k in range(min(steps, limit) * 4)]
    assert [course(one).value("lr", t) for t in fine] == [course(other).value("lr", t) for t in fine]
    assume(steps < limit)
    ahead = [k / 8 for k in range(steps * 8, (steps + 24) * 8)]
    assert any(repr(course(one).value("lr", t)) != repr(course(other).value("lr", t)) for t in ahead)


# ---- in a space


def test_parameters_of_a_schedule_are_searched_under_dotted_names_and_hidden_from_training():
    space = hpo.Space({"lr": hpo.Exponential(hpo.Float((0.1, 1.0)), 0.5, hpo.Integer((1, 5))), "width": hpo.Integer((4, 8))})
    assert set(space.free) == {"lr.initial", "lr.every", "width"}
    found = space.course({"lr.initial": 0.8, "lr.every": 2, "width": 4})
    stage = hpo.Stage(0, 0, None, 2, 9, {}, 0, (0,))
    trial = hpo.Trial(stage, None, None, course=found)
    assert dict(trial.config) == {"width": 4, "lr": 0.4}
    with pytest.raises(KeyError, match="only says how a schedule goes"):
        trial["lr.every"]
    assert trial.get("lr.every") is None


def test_a_parameter_may_refer_to_another_hyperparameter_or_compute_from_it():
    peak = hpo.Float((0.1, 1.0))
    space = hpo.Space({"peak": peak, "lr": hpo.Chain(hpo.Warmup("peak", 4), hpo.Cosine("peak", "peak / 10", 8))})
    found = space.course({"peak": 0.4})
    assert [found.value("lr", t) for t in (0, 3, 4, 12)] == pytest.approx([0.1, 0.4, 0.4, 0.04])
    assert not found.constants


def test_warm_up_and_polynomial_decay_take_hyperparameters():
    decay = hpo.Polynomial("peak", 0.0, hpo.Integer((4, 8)), hpo.Float((0.5, 3.0)))
    space = hpo.Space({"peak": hpo.Float((0.1, 10.0)), "lr": hpo.Chain(hpo.Warmup("peak", hpo.Integer((1, 4))), decay)})
    assert set(space.free) == {"peak", "lr.0.steps", "lr.1.steps", "lr.1.power"}
    found = space.course({"peak": 8.0, "lr.0.steps": 2, "lr.1.steps": 4, "lr.1.power": 2.0})
    assert [found.value("lr", t) for t in range(7)] == [4.0, 8.0, 8.0, 4.5, 2.0, 0.5, 0.0]
    found = space.course({"peak": 8.0, "lr.0.steps": 2, "lr.1.steps": 4, "lr.1.power": 1.2345678901234567})
    assert found.value("lr", 3) == pytest.approx(8 * 0.75**1.2345678901234567)


def test_a_schedule_whose_parameters_are_inactive_is_inactive():
    space = hpo.Space(
        {"kind": hpo.Categorical(["fixed", "decay"]), "lr": hpo.Exponential(0.1, hpo.Float((0.1, 0.9)), 5)},
        conditions={"lr.factor": "kind == 'decay'"},
    )
    assert not space.course({"kind": "fixed"}).schedules
    assert list(space.course({"kind": "decay", "lr.factor": 0.5}).schedules) == ["lr"]


def test_fixing_a_scheduled_hyperparameter_puts_a_value_in_its_place():
    space = hpo.Space({"lr": hpo.Exponential(hpo.Float((0.1, 1.0)), 0.5, 2), "x": hpo.Float((0.0, 1.0))}).fix({"lr": 0.3})
    assert space.free == ("x",)
    assert space.course({"x": 0.0, "lr": 0.3}).constants == {"x": 0.0, "lr": 0.3}


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: {"lr": hpo.Linear(1.0, 0.0, 0)}, "'lr'.*steps has to be above 0, and it is 0"),
        (lambda: {"lr": hpo.Polynomial(1.0, 0.0, 0)}, "'lr'.*steps has to be above 0, and it is 0"),
        (lambda: {"lr": hpo.Polynomial(1.0, 0.0, 5, power=0)}, "'lr'.*power has to be above 0, and it is 0"),
        (lambda: {"lr": hpo.Exponential(1.0, 0.5, hpo.Integer((0, 5)))}, "'lr'.*every has to be above 0"),
        (lambda: {"lr": hpo.Exponential(1.0, 0.5, [2, -1])}, "every has to be above 0, and it is -1"),
        (lambda: {"lr": hpo.Steps([1.0, 0.1], [1, 2])}, "a length for each value but the last"),
        (lambda: {"lr": hpo.Chain(hpo.Constant(0.1), hpo.Linear(0.1, 0.0, 5))}, "needs an end: give Constant its steps"),
        (lambda: {"lr": hpo.Chain()}, "a Chain takes schedules"),
        (lambda: {"lr": hpo.Warmup("peek", 4), "peak": 0.1}, "refers to 'peek'.*Did you mean 'peak'"),
        (lambda: {"lr": hpo.Cyclic(0.0, 1.0, 4, decay=2.0)}, "decay has to lie between 0 and 1"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_by_name(make, complaint):
    with pytest.raises(hpo.UserError, match=complaint):
        hpo.Space(make())


def test_definitions_of_spaces_tell_schedules_apart():
    made = [
        {"lr": hpo.Constant(0.1)},
        {"lr": hpo.Constant(0.2)},
        {"lr": hpo.Linear(0.1, 0.2, 3)},
        {"lr": hpo.Linear(0.1, 0.2, 4)},
    ]
    assert all(hpo.Space(a).definition() != hpo.Space(b).definition() for a, b in itertools.combinations(made, 2))
