"""Validation: the best configurations of a search, trained again with seeds that it has not seen."""

import json
import math
import statistics
import sys

import pytest

import openhpo as hpo
from openhpo.validation import Validated, space_of

from .conftest import ROOT, finished

SPACE = hpo.Space({"x": hpo.Float((0.0, 1.0))})


def train(trial):
    """The seed decides a third of the loss."""
    for step in range(1, 4):
        yield {"loss": trial["x"] + trial.rng.random() / 2 + 1 / step}


def tracked(trial):
    trial.track()
    yield from train(trial)


def search(folder, how=train, space=SPACE, **more):
    options = {"engine": hpo.Full(3), "trials": 12, "study": folder, "progress": False, "app": "test", **more}
    return hpo.run(how, space, hpo.Minimize("loss"), **options)


def test_the_winners_are_trained_again_with_other_seeds_at_the_step_that_was_best(tmp_path):
    result = search(tmp_path / "study")
    found = hpo.validate(train, tmp_path / "study", top=3, replicates=5, progress=False, app="test")
    assert {one.found.trial for one in found} == {best.trial for best in result.top(3)}
    assert [one.mean for one in found] == sorted(one.mean for one in found)
    again = hpo.load(tmp_path / "study" / "validation-top-3-replicates-5")
    assert set(again.tables.trials["seed"].tolist()).isdisjoint(result.tables.trials["seed"].tolist())
    assert len(set(again.tables.trials["seed"].tolist())) == 5
    for one in found:
        assert len(one.values) == 5
        assert one.failed == 0
        assert one.found.value not in one.values
        place = [best.trial for best in result.top(3)].index(one.found.trial)
        curves = again.curves("loss")[5 * place : 5 * place + 5]
        assert one.values == curves[:, one.found.step - 1].tolist()


def test_what_was_trained_again_once_is_not_trained_a_second_time(tmp_path):
    search(tmp_path / "study")
    first = hpo.validate(train, tmp_path / "study", top=2, replicates=2, progress=False, app="test")

    def never(trial):
        raise AssertionError("trained again")

    second = hpo.validate(never, tmp_path / "study", top=2, replicates=2, progress=False, app="test")
    assert [one.values for one in first] == [one.values for one in second]


def test_mean_spread_and_interval_are_those_of_the_textbook():
    best = hpo.Best(0, {}, 1.0, 1, True, [1.0])
    one = Validated(best, [1.0, 2.0, 3.0, 4.0], 0)
    assert one.mean == 2.5
    assert one.spread == pytest.approx(statistics.stdev([1, 2, 3, 4]))
    half = 3.18245 * one.spread / 2  # of Student's t with 3 degrees of freedom
    assert one.interval == pytest.approx((2.5 - half, 2.5 + half), rel=1e-5)
    assert math.isnan(Validated(best, [1.0], 0).interval[0])
    assert math.isnan(Validated(best, [], 3).mean)


def test_failed_trainings_are_counted(tmp_path):
    search(tmp_path / "study")

    def failing(trial):
        if trial.rng.random() < 0.5:
            raise RuntimeError("out of luck")
        yield from train(trial)

    found = hpo.validate(failing, tmp_path / "study", top=1, replicates=12, progress=False, app="test")
    assert found[0].failed > 0
    assert found[0].failed + len(found[0].values) == 12


def test_a_first_step_is_validated_as_such(tmp_path):
    hpo.run(
        train,
        SPACE,
        hpo.Minimize(hpo.first_step("loss <= 1.5")),
        engine=hpo.Full(3),
        trials=8,
        study=tmp_path / "study",
        progress=False,
        app="test",
    )
    found = hpo.validate(train, tmp_path / "study", top=2, replicates=3, progress=False, app="test")
    assert [len(one.values) + one.failed for one in found] == [3, 3]
    assert {value for one in found for value in one.values} <= {1.0, 2.0, 3.0}
    assert any(one.values for one in found)


def test_a_validation_that_was_stopped_says_so_and_goes_on(tmp_path):
    search(tmp_path / "study")

    options = {"top": 2, "replicates": 5, "progress": False, "app": "test"}
    with pytest.raises(hpo.UserError, match="of its 10 trainings, and not all are at their end: call it again"):
        hpo.validate(train, tmp_path / "study", time_limit=1e-6, **options)
    found = hpo.validate(train, tmp_path / "study", **options)
    assert [len(one.values) for one in found] == [5, 5]


def test_what_cannot_be_validated_is_refused(tmp_path):
    search(tmp_path / "pbt", how=tracked, engine=hpo.PopulationBased(3), trials=4)
    with pytest.raises(hpo.UserError, match="`openhpo replay` repeats one"):
        hpo.validate(train, tmp_path / "pbt")
    with pytest.raises(hpo.UserError, match="top"):
        hpo.validate(train, tmp_path / "pbt", top=0)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_command_prints_a_table_or_json(ranks, tmp_path):
    app = tmp_path / "app.py"
    app.write_text(
        "import openhpo as hpo\n\nspace = hpo.Space({'x': hpo.Float((0.0, 1.0))})\n"
        "objective = hpo.Minimize('loss')\nmax_steps = 3\n"
        "def train(trial):\n    for step in range(3):\n        yield {'loss': trial['x'] + trial.rng.random() / 2}\n"
    )
    openhpo = [sys.executable, "-m", "openhpo"]
    study = ["--study", str(tmp_path / "study")]
    ran = finished([*openhpo, "run", "random", str(app), "--trials", "6", "--replicates", "2", *study], cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert "best of 6 configurations, each trained 2 times" in ran.stdout
    options = ["--top", "2", "--replicates", "3", "--ranks", str(ranks), "--no-progress"]
    table = finished([*openhpo, "validate", str(tmp_path / "study"), *options], cwd=ROOT)
    assert table.returncode == 0, table.stderr
    assert "mean of 3" in table.stdout
    plain = finished([*openhpo, "validate", str(tmp_path / "study"), *options, "--json"], cwd=ROOT)
    found = json.loads(plain.stdout)
    assert len(found) == 2
    assert found[0]["mean"] <= found[1]["mean"]
    assert len(found[0]["values"]) == 3


@pytest.mark.parametrize(
    "beyond",
    [{"lr": 0.6891284067194942, "k": 10}, {"lr": 0.00014785009657844995, "k": 0}, {"lr": 36.186609160480785, "k": 3}],
)
def test_what_a_refinement_found_beyond_the_first_boundaries_is_validated(beyond, tmp_path):
    space = hpo.Space({"lr": hpo.Float((1e-3, 0.5), log=True), "k": hpo.Integer((1, 8))})
    result = search(tmp_path / "study", how=lambda trial: iter([{"loss": 1.0}]), space=space, trials=1, engine=hpo.Full(1))
    wide = space_of(result, [hpo.Best(0, beyond, 1.0, 1, True, [1.0])])
    assert wide.holds(beyond)
    assert wide.holds({"lr": 0.1, "k": 5})
