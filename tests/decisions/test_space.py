import ConfigSpace as cs
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import openhpo as hpo


def space():
    return hpo.Space(
        {
            "lr": hpo.Float((1e-4, 1e-1), log=True),
            "width": hpo.Integer((16, 256), log=True),
            "optimizer": hpo.Categorical(["sgd", "adam"]),
            "momentum": hpo.Float((0.0, 0.99)),
            "nesterov": hpo.Categorical([True, False]),
            "batch": hpo.Categorical([32, 64, 128], ordered=True),
            "layers": 3,
        },
        conditions={"momentum": "optimizer == 'sgd'", "nesterov": "momentum > 0.5"},
        forbidden=["optimizer == 'adam' and width > 128", "batch in (32, 64) and width >= 200"],
    )


SPACE = space()


@given(st.integers(0, 2**32))
def test_every_sample_is_legal_complete_and_made_of_plain_values(seed):
    config = SPACE.sample(numpy.random.default_rng(seed))
    assert {type(value) for value in config.values()} <= {bool, int, float, str}
    assert 1e-4 <= config["lr"] <= 1e-1
    assert 16 <= config["width"] <= 256
    assert config["layers"] == 3
    assert ("momentum" in config) == (config["optimizer"] == "sgd")
    assert ("nesterov" in config) == (config.get("momentum", 0) > 0.5)
    assert not (config["optimizer"] == "adam" and config["width"] > 128)
    assert not (config["batch"] in (32, 64) and config["width"] >= 200)


@given(st.floats(0, 1, exclude_max=True))
def test_a_log_scale_is_uniform_in_the_logarithm(unit):
    value = hpo.Space({"lr": hpo.Float((1e-4, 1.0), log=True)}).from_unit([unit])["lr"]
    assert numpy.log10(value) == pytest.approx(-4 + 4 * unit, abs=1e-6)


def test_integers_take_every_value_about_equally_often():
    narrow = hpo.Space({"n": hpo.Integer((1, 4))})
    values = [narrow.from_unit([(k + 0.5) / 1000])["n"] for k in range(1000)]
    assert [values.count(n) for n in (1, 2, 3, 4)] == [250] * 4


def test_fixed_hyperparameters_are_not_searched_and_decide_conditions():
    fixed = SPACE.fix({"optimizer": "adam", "width": 100})
    assert "optimizer" not in fixed.free
    for seed in range(20):
        config = fixed.sample(numpy.random.default_rng(seed))
        assert config["optimizer"] == "adam"
        assert config["width"] == 100
        assert "momentum" not in config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": "rmsprop"}, "optimizer cannot be 'rmsprop'"),
        ({"width": 1000}, "width cannot be 1000"),
        ({"with": 3}, "Did you mean 'width'"),
    ],
)
def test_a_value_that_cannot_be_is_refused(change, said):
    with pytest.raises(hpo.UserError, match=said):
        SPACE.fix(change)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"hyperparameters": {}}, "empty"),
        ({"hyperparameters": {"a": hpo.Float((1, 1))}}, "'a'.*not below"),
        ({"hyperparameters": {"a": hpo.Float((0.0, float("inf")))}}, "'a'.*finite"),
        ({"hyperparameters": {"a": hpo.Integer((0, 5), log=True)}}, "'a'.*above 0"),
        ({"hyperparameters": {"a": hpo.Integer((0, 5.5))}}, "'a'.*whole numbers"),
        ({"hyperparameters": {"a": hpo.Categorical([])}}, "'a'.*at least one choice"),
        ({"hyperparameters": {"a": hpo.Categorical([1, 1])}}, "'a'.*repeat"),
        ({"hyperparameters": {"a": [1, 2]}}, "'a'.*plain value"),
        ({"hyperparameters": {"a": hpo.Float((0, 1))}, "conditions": {"b": "a > 0.5"}}, "condition for 'b'"),
    ],
)
def test_an_impossible_space_is_refused_where_it_is_made(arguments, said):
    with pytest.raises(hpo.UserError, match=said):
        hpo.Space(**arguments)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"conditions": {"a": "c == 1"}}, "no hyperparameter 'c'"),
        ({"conditions": {"a": "b >= 1"}}, "==, !=, <, > or in"),
        ({"conditions": {"a": "import os"}}, "no expression"),
        ({"forbidden": ["b == 7"]}, "'b == 7', is not possible"),
        ({"forbidden": ["__import__('os')"]}, "compare a hyperparameter"),
    ],
)
def test_a_rule_that_makes_no_sense_is_named(rules, said):
    made = hpo.Space({"a": hpo.Float((0, 1)), "b": hpo.Integer((0, 3))}, **rules)
    with pytest.raises(hpo.UserError, match=said):
        made.sample(numpy.random.default_rng(0))


def test_a_space_with_everything_forbidden_says_so():
    nothing = hpo.Space({"a": hpo.Integer((0, 3))}, forbidden=["a >= 0"])
    with pytest.raises(hpo.UserError, match="every one was forbidden"):
        nothing.sample(numpy.random.default_rng(0))


def test_a_relation_between_two_hyperparameters_can_be_forbidden():
    ordered = hpo.Space({"low": hpo.Float((0, 1)), "high": hpo.Float((0, 1))}, forbidden=["low > high"])
    for seed in range(50):
        config = ordered.sample(numpy.random.default_rng(seed))
        assert config["low"] <= config["high"]


def test_a_configspace_is_taken_as_it_is():
    given_space = cs.ConfigurationSpace({"x": (0.0, 1.0), "kind": ["a", "b"], "k": 4, "n": (1, 5)})
    given_space.add(cs.EqualsCondition(given_space["x"], given_space["kind"], "a"))
    given_space.add(cs.ForbiddenEqualsClause(given_space["n"], 2))
    taken = hpo.Space(given_space)
    for seed in range(50):
        config = taken.sample(numpy.random.default_rng(seed))
        assert ("x" in config) == (config["kind"] == "a")
        assert config["n"] != 2
        assert config["k"] == 4


def test_definitions_tell_spaces_apart():
    assert space().definition() == space().definition()
    assert space().definition() != space().fix({"width": 64}).definition()
