import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import openhpo as hpo
from openhpo.expressions import Expression, Requirement
from openhpo.objective import NO_SCORE, Objective, Score

finite = st.floats(-1e6, 1e6)


@given(finite, finite)
def test_smaller_is_better_when_minimising_and_larger_when_maximising(a, b):
    low, high = hpo.Minimize("m"), hpo.Maximize("m")
    assert (low.score(1, {"m": a}) < low.score(1, {"m": b})) == (a < b)
    assert (high.score(1, {"m": a}) < high.score(1, {"m": b})) == (a > b)
    assert high.value(high.score(1, {"m": a})) == a


@given(finite, finite, finite)
def test_a_feasible_trial_beats_every_infeasible_one(good, bad, accuracy):
    objective = hpo.Minimize("loss", require="accuracy >= 0")
    feasible = objective.score(1, {"loss": good, "accuracy": abs(accuracy)})
    infeasible = objective.score(1, {"loss": bad, "accuracy": -abs(accuracy) - 1})
    assert feasible < infeasible


def test_among_infeasible_trials_the_closest_is_best():
    objective = hpo.Minimize("loss", require=["accuracy >= 0.9", "size <= 100"])
    near = objective.score(1, {"loss": 5.0, "accuracy": 0.85, "size": 100})
    far = objective.score(1, {"loss": 1.0, "accuracy": 0.5, "size": 100})
    assert near < far


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [hpo.Minimize, hpo.Maximize])
def test_a_value_that_is_not_finite_has_no_score(kind, value):
    assert kind("m").score(1, {"m": value}) == NO_SCORE


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [hpo.Minimize, hpo.Maximize])
def test_a_value_that_is_not_finite_never_beats_one_that_is_whatever_the_requirements(kind, value):
    objective = kind("m", require="a >= 1")
    worst = objective.score(1, {"m": 0.0, "a": -1e300})
    score = objective.score(1, {"m": value, "a": 2.0})
    assert score is None or worst < score


def test_metrics_that_are_absent_in_a_step_give_no_score():
    assert hpo.Minimize("m").score(1, {"other": 1.0}) is None
    assert hpo.Minimize("m", require="a > 0").score(1, {"m": 1.0}) is None


def test_derived_metrics_serve_as_objective_and_in_requirements():
    objective = hpo.Minimize("gap", require="gap >= 0", derived={"gap": "val - train"})
    assert objective.needs == {"val", "train"}
    assert objective.score(1, {"val": 3.0, "train": 1.0}) == Score(0.0, 2.0, (-2.0,))
    assert objective.score(1, {"val": 1.0, "train": 3.0}).violation == 2.0
    assert hpo.Maximize("2 * a - abs(b)").score(1, {"a": 1.0, "b": -1.0}).loss == -1.0


def test_the_first_step_that_meets_a_requirement_is_a_metric():
    objective = hpo.Minimize(hpo.first_step("accuracy >= 0.9"))
    scores = [objective.score(step, {"accuracy": accuracy}) for step, accuracy in enumerate([0.5, 0.8, 0.95, 0.97], 1)]
    assert min(scores) == scores[2]
    assert (scores[2].violation, scores[2].loss) == (0.0, 3.0)
    assert scores[1] < scores[0]  # closer to it


@pytest.mark.parametrize(
    "objective",
    [
        hpo.Minimize("a"),
        hpo.Maximize("val/accuracy", require=["a > 1", "0 <= b <= 1"]),
        hpo.Minimize(hpo.first_step("a >= 1")),
        hpo.Minimize("gap", derived={"gap": "a - b"}),
    ],
)
def test_an_objective_survives_its_definition(objective):
    again = Objective.from_definition(objective.definition())
    assert again.definition() == objective.definition()
    metrics = {"a": 2.0, "b": 0.5, "val/accuracy": 0.7}
    assert again.score(4, metrics) == objective.score(4, metrics)


@pytest.mark.parametrize("text", ["a", "a == 1", "a >= 1 and b >= 1", "1 < 2", "a >=", "a in [1]", "f(a) > 1"])
def test_what_is_no_requirement_is_refused(text):
    with pytest.raises(hpo.UserError):
        Requirement(text)


@pytest.mark.parametrize(
    "text", ["__import__('os')", "a.b", "[a]", "lambda: 1", "'text'", "a if b else c", "True", "exp(a, x=1)"]
)
def test_an_expression_runs_no_code(text):
    with pytest.raises(hpo.UserError):
        Expression(text)


def test_an_expression_that_is_not_defined_is_not_a_number():
    assert math.isnan(Expression("a / b")({"a": 1.0, "b": 0.0}))
    assert math.isnan(Expression("log(a)")({"a": -1.0}))


@pytest.mark.parametrize("text", ["loss ** 0.5", "log(loss)", "1 / (loss + 1)", "min(loss)"])
def test_what_has_no_value_is_not_a_number_and_no_error(text):
    assert math.isnan(Expression(text)({"loss": -1.0}))
