import itertools

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openhpo as hpo


def suggestions(sampler, space, count, seed=0):
    suggest = sampler.bind(space, seed)
    return [suggest(k, [], numpy.random.default_rng([seed, k])) for k in range(count)]


PLAIN = hpo.Space({"a": hpo.Integer((0, 2)), "b": hpo.Categorical(["x", "y"]), "c": hpo.Float((0.0, 1.0))})
CONDITIONAL = hpo.Space(
    {"momentum": hpo.Float((0.0, 0.9)), "optimizer": hpo.Categorical(["sgd", "adam"]), "lr": hpo.Float((0.001, 0.1), log=True)},
    conditions={"momentum": "optimizer == 'sgd'"},
)


def test_a_grid_is_the_cartesian_product_with_the_last_axis_fastest():
    grid = hpo.Grid(c=[0.25, 0.75]).bind(PLAIN, 0)
    points = [grid(k, [], None) for k in range(grid.size)]
    expected = [dict(zip("abc", point, strict=True)) for point in itertools.product([0, 1, 2], "xy", [0.25, 0.75])]
    assert points == expected


def test_a_count_spreads_values_over_the_range_ends_included():
    grid = hpo.Grid(momentum=[0.9], optimizer=["adam"], lr=3).bind(CONDITIONAL, 0)
    assert [grid(k, [], None)["lr"] for k in range(grid.size)] == pytest.approx([0.001, 0.01, 0.1])


def test_a_count_above_the_number_of_integers_takes_each_once():
    grid = hpo.Grid(a=10, c=1).bind(PLAIN, 0)
    assert grid.size == 3 * 2


def test_inactive_axes_are_not_multiplied_out():
    grid = hpo.Grid(momentum=[0.0, 0.5, 0.9], lr=[0.01, 0.1]).bind(CONDITIONAL, 0)
    points = [grid(k, [], None) for k in range(grid.size)]
    assert len(points) == 3 * 2 + 2
    assert len({tuple(sorted(point.items())) for point in points}) == len(points)


def test_forbidden_points_are_left_out():
    space = hpo.Space({"a": hpo.Integer((0, 2)), "b": hpo.Integer((0, 2))}, forbidden=["a > b"])
    grid = hpo.Grid().bind(space, 0)
    assert [tuple(grid(k, [], None).values()) for k in range(grid.size)] == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]


def test_fixed_hyperparameters_are_no_axes():
    grid = hpo.Grid(c=[0.5]).bind(PLAIN.fix({"a": 1}), 0)
    assert grid.size == 2
    with pytest.raises(hpo.UserError, match="'a', but this hyperparameter is fixed"):
        hpo.Grid(a=[1], c=[0.5]).bind(PLAIN.fix({"a": 1}), 0)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_grid_without_conditions_has_as_many_points_as_the_product_of_its_axes(counts):
    space = hpo.Space({f"x{k}": hpo.Float((0.0, 1.0)) for k in range(len(counts))})
    assert hpo.Grid({f"x{k}": count for k, count in enumerate(counts)}).bind(space, 0).size == numpy.prod(counts)


@pytest.mark.parametrize("sampler", [hpo.Random(), hpo.Sobol()])
def test_a_suggestion_depends_on_the_seed_and_the_number_alone(sampler):
    forward = suggestions(sampler, CONDITIONAL, 40)
    suggest = sampler.bind(CONDITIONAL, 0)
    backward = [suggest(k, [], numpy.random.default_rng([0, k])) for k in reversed(range(40))]
    assert forward == backward[::-1]
    assert forward != suggestions(sampler, CONDITIONAL, 40, seed=1)


def test_sobol_points_are_spread_more_evenly_than_random_ones():
    space = hpo.Space({"x": hpo.Float((0.0, 1.0)), "y": hpo.Float((0.0, 1.0))})

    def boxes_hit(sampler):
        points = suggestions(sampler, space, 64)
        return len({(int(p["x"] * 8), int(p["y"] * 8)) for p in points})

    assert boxes_hit(hpo.Sobol()) == 64  # one in each box: the property of the sequence
    assert boxes_hit(hpo.Random()) < 56


def test_sobol_moves_up_past_forbidden_points():
    space = hpo.Space({"x": hpo.Float((0.0, 1.0))}, forbidden=["x > 0.5"])
    points = [point["x"] for point in suggestions(hpo.Sobol(), space, 100)]
    assert max(points) <= 0.5
    assert len(set(points)) == 100


def test_sobol_with_nothing_to_search_repeats_the_one_configuration():
    assert suggestions(hpo.Sobol(), hpo.Space({"a": 1}), 3) == [{"a": 1}] * 3
