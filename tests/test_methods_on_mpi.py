"""Every method on 1, 2 and 5 ranks of each MPI, against a study in one plain process."""

import sys

import numpy
import pytest

import openhpo as hpo
from openhpo.stages import AT_REST

from .conftest import ROOT, finished

SCRIPT = str(ROOT / "tests/methods_on_mpi.py")
PATHS = f"{ROOT}:{ROOT / 'apps'}"


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    done = finished([sys.executable, SCRIPT, str(folder)], environment={"PYTHONPATH": PATHS}, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


def fingerprints(folder, name):
    return hpo.load(folder / name).curves("fingerprint")


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_every_method_runs_and_trains_each_trial_as_if_it_were_alone(mpi, ranks, alone, tmp_path):
    done = mpi.run(ranks, SCRIPT, str(tmp_path), timeout=240, PYTHONPATH=PATHS)
    assert done.returncode == 0, done.stderr
    # with schedules on a grid: the same weights, bit for bit, merged and not, on any number of ranks
    reference = fingerprints(alone, "alone")
    assert reference.shape == (16, 8)
    for name in ("merged", "alone"):
        assert numpy.array_equal(fingerprints(tmp_path, name), reference)
    steps = {name: len(hpo.load(tmp_path / name).tables.reports) for name in ("merged", "alone")}
    assert steps["alone"] == 16 * 8
    assert steps["merged"] == len(hpo.load(alone / "merged").tables.reports) < steps["alone"]
    # which trials go how far may depend on who came first, but not what they are after so many steps
    first = hpo.load(alone / "halving")
    whole = {tuple(config.values()): curve for config, curve in zip(first.configs, fingerprints(alone, "halving"), strict=True)}
    for name in ("halving", "matching", "median", "spilled"):
        result = hpo.load(tmp_path / name)
        assert result.finished
        assert set(result.states) <= AT_REST
        for config, curve in zip(result.configs, result.curves("fingerprint"), strict=True):
            other = whole[tuple(config.values())]
            both = ~numpy.isnan(curve[: len(other)]) & ~numpy.isnan(other[: len(curve)])
            assert both[0]
            assert numpy.array_equal(curve[: len(other)][both], other[: len(curve)][both])
    for name in ("asha", "hyperband", "bohb", "pbt"):
        result = hpo.load(tmp_path / name)
        assert result.finished
        assert result.best.value > 0.8
    replicates = hpo.load(tmp_path / "replicates")
    assert numpy.array_equal(fingerprints(tmp_path, "replicates"), fingerprints(alone, "replicates"), equal_nan=True)
    assert len(set(replicates.tables.trials["seed"].tolist())) == 2
    assert replicates.best.error >= 0
    refined = hpo.load(tmp_path / "refine")
    assert refined.finished
    assert len(refined.tables.trials) == 8
    assert [remark["round"] for remark in refined.remarks if "boundaries" in remark] == [0, 1]
    assert not (tmp_path / "spilled" / "checkpoints").exists()
    assert numpy.array_equal(fingerprints(tmp_path, "halving"), fingerprints(alone, "halving"), equal_nan=True)
