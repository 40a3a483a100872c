"""Studies beside each other."""

import json
import subprocess
import sys

import numpy
import pytest

import openhpo as hpo
from openhpo.report.comparison import best_at, grouped, points_of
from openhpo.report.numbers import Numbers

from .conftest import run

OPENHPO = [sys.executable, "-m", "openhpo"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("compared")
    for seed in (0, 1):
        run(top / f"asha-{seed}", trials=30, seed=seed)
        run(top / f"full-{seed}", engine=hpo.Full(9), trials=10, seed=seed)
    return [top / f"{name}-{seed}" for name in ("asha", "full") for seed in (0, 1)]


def test_studies_that_differ_by_their_seed_alone_are_one(folders):
    groups = grouped(folders)
    assert [(group.name, len(group.members)) for group in groups] == [("Random, ASHA", 2), ("Random, Full", 2)]


def test_the_best_so_far_at_a_step_is_the_best_of_the_reports_until_then(folders):
    result = hpo.load(folders[0])
    numbers = Numbers(result)
    for steps in (1, 7, len(result.tables.reports)):
        told = [score for score in result.scored[:steps] if score is not None]
        assert best_at(numbers, "steps", numpy.array([float(steps)]))[0] == min(told).loss
    assert numpy.isnan(best_at(numbers, "steps", numpy.array([1e9])))[0]


def test_mean_and_spread_are_those_of_the_members(folders):
    (asha, _) = grouped(folders)
    points = points_of([asha], "steps", 4)
    mean, spread = asha.at("steps", points)
    each = numpy.stack([best_at(member, "steps", points) for member in asha.members])
    assert mean.tolist() == pytest.approx(each.mean(axis=0).tolist())
    assert spread.tolist() == pytest.approx(each.std(axis=0, ddof=1).tolist())


@pytest.mark.parametrize("by", ["steps", "seconds", "trials"])
def test_the_command_prints_a_table_and_writes_a_page(by, folders, tmp_path):
    page = tmp_path / "c.html"
    command = [*OPENHPO, "compare", *map(str, folders), "--by", by, "--to", str(page)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Random, ASHA" in done.stdout
    assert page.read_text().count('class="chart"') == 3
    done = subprocess.run([*command[:-2], "--json"], check=True, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    best = [hpo.load(folder).best.value for folder in folders[:2]]
    assert found[0]["best"] == pytest.approx(sum(best) / 2)


def test_studies_of_different_objectives_are_refused(folders, tmp_path):
    run(tmp_path / "other", objective=hpo.Maximize("val_accuracy"), trials=3)
    with pytest.raises(hpo.UserError, match="studies of different objectives cannot be compared"):
        grouped([folders[0], tmp_path / "other"])
