"""Surfaces and cells of two hyperparameters are what the trials say, and blank where these say too little."""

import math

import numpy
import pytest

import openhpo as hpo
from openhpo.report.numbers import Numbers
from openhpo.report.pairs import BINS, CELL, GRID, INACTIVE, MOST_VALUES, Axis, Pairs, pairs_of

from .conftest import run


@pytest.fixture(scope="module")
def drawn():
    """Two hundred points of a function of two numbers, one of them in logarithms, and two choices."""
    rng = numpy.random.default_rng(3)
    x, y, kind = rng.random(200), 10 ** rng.uniform(-3, 0, 200), rng.integers(0, 2, 200)
    values = (x - 0.3) ** 2 + numpy.log10(y) ** 2 / 9 + kind
    order = numpy.argsort(values)
    axes = [
        Axis("x", "linear", False, [], x[order]),
        Axis("y", "log", False, [], y[order]),
        Axis("kind", "choices", False, ["a", "b"], kind[order]),
        Axis("other", "choices", False, [INACTIVE, "u"], (x[order] > 0.99).astype(int)),
    ]
    return Pairs(axes, values[order], order.astype(numpy.int32), 1.0, (float(values.min()), float(values.max())), 200)


def test_a_surface_is_the_mean_of_the_trials_near_weighted_by_how_near_they_are(drawn):
    surface = drawn.surface(0, 1)
    assert surface.z.shape == (GRID, GRID)
    places = [drawn.axes[0].values, numpy.log10(drawn.axes[1].values)]
    unit = [(each - each.min()) / (each.max() - each.min()) for each in places]
    for line, column in [(0, 0), (20, 10), (39, 39), (7, 33)]:
        at = [
            (surface.x[column] - places[0].min()) / numpy.ptp(places[0]),
            (numpy.log10(surface.y[line]) - places[1].min()) / numpy.ptp(places[1]),
        ]
        squares = [((mine - there) / (mine.std() * 200 ** (-1 / 6))) ** 2 for mine, there in zip(unit, at, strict=True)]
        weights = numpy.exp(-sum(squares) / 2)
        assert surface.z[line, column] == pytest.approx((weights * drawn.values).sum() / weights.sum())


def test_a_surface_has_holes_where_nobody_was(drawn):
    away = (drawn.axes[0].values < 0.5) | (drawn.axes[1].values < 0.03)
    axes = [axis._replace(values=axis.values[away]) for axis in drawn.axes]
    surface = drawn._replace(axes=axes, values=drawn.values[away]).surface(0, 1)
    assert numpy.isnan(surface.z[-3, -3])
    assert numpy.isfinite(surface.z[3, 3])
    there = surface.z[numpy.isfinite(surface.z)]
    assert drawn.values.min() <= there.min() <= there.max() <= drawn.values.max()


def test_few_trials_and_trials_that_do_not_differ_make_no_surface(drawn):
    few = drawn._replace(axes=[axis._replace(values=axis.values[:9]) for axis in drawn.axes], values=drawn.values[:9])
    assert few.surface(0, 1) is None
    same = drawn._replace(axes=[drawn.axes[0], drawn.axes[1]._replace(values=numpy.ones(200))])
    assert same.surface(0, 1) is None


def test_cells_are_medians_and_those_of_too_few_are_blank(drawn):
    cells = drawn.cells(3, 2)
    assert cells.counts.sum() == 200
    for kind in range(2):
        for other in range(2):
            mine = drawn.values[(drawn.axes[2].values == kind) & (drawn.axes[3].values == other)]
            assert cells.counts[kind, other] == len(mine)
            expected = numpy.median(mine) if len(mine) >= CELL else math.nan
            assert cells.median[kind, other] == pytest.approx(expected, nan_ok=True)
            assert cells.best[kind, other] == pytest.approx(mine.min() if len(mine) else math.nan, nan_ok=True)
    assert (cells.counts[:, 1] < CELL).any()


def test_cells_along_a_number_are_between_their_borders(drawn):
    cells = drawn.cells(2, 1)
    assert 2 <= len(cells.y) - 1 <= BINS
    assert (cells.y[0], cells.y[-1]) == pytest.approx((drawn.axes[1].values.min(), drawn.axes[1].values.max()))
    for line, (low, high) in enumerate(zip(cells.y[:-1], cells.y[1:], strict=True)):
        inside = (drawn.axes[1].values >= low * (1 - 1e-9)) & (drawn.axes[1].values < high * (1 - 1e-9))
        inside |= (line == len(cells.y) - 2) & (drawn.axes[1].values == drawn.axes[1].values.max())
        assert cells.counts[line].sum() == inside.sum()


def test_whole_numbers_are_not_cut_in_two():
    layers = numpy.repeat(numpy.arange(1.0, 6.0), 8)
    pairs = Pairs(
        [Axis("layers", "linear", True, [], layers), Axis("kind", "choices", False, ["a", "b"], numpy.arange(40) % 2)],
        *(layers, numpy.arange(40, dtype=numpy.int32), 1.0, (1.0, 5.0), 40),
    )
    borders = pairs.cells(0, 1).x
    assert (borders % 1 == 0.5).all()
    assert borders[0] == 0.5
    assert borders[-1] >= 5.5


def test_what_is_inactive_is_a_choice_of_its_own_among_choices_and_left_out_among_numbers(tmp_path):
    space = hpo.Space(
        {
            "kind": hpo.Categorical(["a", "b"]),
            "norm": hpo.Categorical(["batch", "layer"]),
            "decay": hpo.Float((1e-5, 1.0), log=True),
            "alone": hpo.Float((0.0, 1.0)),
        },
        conditions={"decay": "kind == 'b'", "norm": "kind == 'b'", "alone": "kind == 'a'"},
    )

    def train(trial):
        yield {"val_loss": trial.get("decay", 0.5)}

    result = run(tmp_path / "s", train, space, hpo.Minimize("val_loss"), engine=hpo.Full(1), trials=40)
    pairs = pairs_of(Numbers(result))
    names = [axis.name for axis in pairs.axes]
    decay, norm, alone = (names.index(name) for name in ("decay", "norm", "alone"))
    kinds = [config["kind"] for config in result.configs]
    assert pairs.axes[norm].texts == [INACTIVE, "batch", "layer"]
    assert pairs.cells(norm, names.index("kind")).counts.sum() == 40
    assert len(pairs.rows(decay, norm)) == kinds.count("b")
    assert len(pairs.rows(decay, alone)) == 0
    assert pairs.surface(decay, alone) is None
    assert pairs.cells(alone, norm).counts.sum() == kinds.count("a")


def test_of_too_many_trials_an_even_part_by_rank_is_taken_with_the_best(monkeypatch, asha):
    whole = pairs_of(Numbers(asha))
    monkeypatch.setattr("openhpo.report.pairs.MOST_VALUES", 5 * len(whole.values) // 3)
    part = pairs_of(Numbers(asha))
    assert part.numbers.tolist() == whole.numbers.tolist()[::3]
    assert part.total == len(whole.values)
    assert len(part.values) * len(part.axes) <= MOST_VALUES
