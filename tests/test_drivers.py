"""The drivers, small: they run as README says, and print and draw what they promise."""

import importlib.util
import json
import re
import sys

import numpy
import pytest

import openhpo as hpo

from .conftest import ROOT, finished

PNG = b"\x89PNG"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")


def driver(folder, name, *options):
    """Run a driver in this Python; return all that it printed."""
    command = [sys.executable, str(ROOT / "drivers" / f"{name}.py"), *options, "--study", str(folder)]
    done = finished(command, environment={"COLUMNS": "160"}, cwd=folder.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in folder.glob("*.png"):
        assert path.read_bytes()[:4] == PNG
        assert path.stat().st_size > 10_000
    return done.stdout


def drawn(folder):
    return {path.stem for path in folder.glob("*.png")}


def test_stages_trains_the_tree_both_ways_to_the_same_bits(tmp_path):
    said = driver(tmp_path / "s", "stages", "--unit", "1", "--growth", "1", "--images", "32", "--no-progress", "--ranks", "2")
    assert "21,600" in said
    assert "6,240" in said
    assert "NOT EQUAL" not in said
    assert said.count("equal, bit for bit") == 2
    assert "1,080" in said  # a twentieth of both, trained
    assert " 312 " in said
    assert drawn(tmp_path / "s") == {"cost", "tree"}


def test_together_trains_exactly_the_union_of_the_trees(tmp_path):
    options = ["--unit", "1", "--images", "32", "--trials", "12", "--no-progress", "--ranks", "2"]
    said = driver(tmp_path / "s", "together", *options)
    assert "has 468 epochs: exactly what was trained" in said  # 312 of one grid, and the half of the other one
    assert "the same bits all three ways" in said


def test_stages_trains_growing_batches_on_growing_groups_of_ranks(tmp_path):
    ranks = 3  # with few images only trials whose batch stays small would go on
    said = driver(tmp_path / "s", "stages", "--batches", "--growth", "1", "--no-progress", "--ranks", str(ranks))
    assert "6.60x" in said
    assert "4.13x" in said
    trials, stages = (hpo.load(tmp_path / "s" / f"batches-{way}-{ranks}") for way in ("trials", "stages"))
    for result in (trials, stages):
        assert result.finished
        assert not result.failures
        assert len(result.configs) == 64
    assert {len(members) for members in trials.groups.values()} == {ranks}
    sizes = {len(stages.groups.get(stage, (0,))) for stage in stages.tables.stages["stage"].tolist()}
    assert 1 in sizes
    assert max(sizes) <= ranks
    batches, used = stages.curves("batch"), stages.curves("ranks")
    trained = numpy.isfinite(batches)
    assert ((used == 1) == (batches <= 64))[trained].all()
    seconds = re.search(r"rank-seconds +│ +([\d.,]+) +│ +([\d.,]+) +│ +([\d.]+)x", said)
    assert seconds is not None, said
    one, other, ratio = (float(number.replace(",", "")) for number in seconds.groups())
    assert ratio == pytest.approx(one / other, rel=0.05)
    assert ratio > 1


def test_asha_counts_simulates_and_measures(tmp_path):
    options = ["--models", "256", "--most-trainers", "32", "--train-models", "8", "--train-steps", "8", "--repeats", "1"]
    said = driver(tmp_path / "s", "asha", *options)
    assert "1,280" in said
    assert "2,304" in said
    assert "3.57" in said  # as published, beside ours
    assert drawn(tmp_path / "s") == {"rungs", "speed-up"}


def test_lcm_compares_at_equal_steps_with_any_sampler(tmp_path):
    options = ["--seeds", "2", "--trials", "12", "--steps", "6", "--accumulation", "4", "--sampler", "sobol"]
    said = driver(tmp_path / "s", "lcm", *options)
    assert "sobol search" in said
    assert re.search(r"\d+ ?%", said)  # of the steps, saved
    assert drawn(tmp_path / "s") == {"curves", "final"}


def test_dynamic_lr_draws_its_three_plots(tmp_path):
    driver(tmp_path / "s", "dynamic_lr", "--seeds", "1", "--steps", "3", "--initial", "0.01")
    assert drawn(tmp_path / "s") == {"accuracy", "final", "rates"}


def test_pbt_passes_on_the_toy_in_every_seed_and_replays_its_best_schedule(tmp_path):
    said = driver(tmp_path / "s", "pbt", "--members", "4", "--steps", "6", "--seeds", "2")
    found = re.search(r"in (\d+) of 20 seeds; ends at ([\d.]+),", " ".join(said.split()))
    assert found is not None, said
    assert found[1] == "20"
    assert float(found[2]) > 1.1
    member, fresh = re.findall(r": (\d\.\d+)$", said, re.MULTILINE)
    assert member == fresh
    assert drawn(tmp_path / "s") == {"best", "schedules", "toy"}
    assert (tmp_path / "s" / "schedule.json").exists()


@pytest.mark.parametrize("name", ["asha", "dynamic_lr", "grid", "lcm", "pbt", "precision", "stages", "together"])
def test_a_mistyped_option_of_a_driver_is_said_in_a_line(name, tmp_path):
    done = finished([sys.executable, str(ROOT / "drivers" / f"{name}.py"), "--rank", "2"], cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "--rank" in done.stderr


TARGET = """
import math
import openhpo as hpo

free = {"base_lr": hpo.Float((1.0, 40.0)), "decay": hpo.Float((1e-5, 1e-2), log=True)}
space = hpo.Space({**free, "epochs": hpo.Integer((10, 25))})
objective = hpo.Minimize(hpo.first_step("val_accuracy >= 0.9"))
max_steps = 25

def train(trial):
    pace = math.exp(-((trial["base_lr"] - 12) / 20) ** 2 - (math.log10(trial["decay"]) + 3) ** 2 / 9)
    for epoch in range(1, trial["epochs"] + 1):
        yield {"val_accuracy": 1 - math.exp(-epoch * pace / 4) + 0.01 * trial.rng.standard_normal()}
"""


def test_refine_compares_a_grid_with_moving_boundaries(tmp_path):
    (tmp_path / "target.py").write_text(TARGET)
    axes = [word for axis in ("epochs=20,", "base_lr=15.0,25.0", "decay=2") for word in ("--axis", axis)]
    small = "--round-trials 3 --rounds 2 --cluster-size 2 --seeds 2 --top 1 --replicates 2"
    options = [*small.split(), "--sampler", "tpe"]
    said = driver(tmp_path / "s", "refine", str(tmp_path / "target.py"), *axes, *options, "--no-progress")
    assert "the grid takes" in said
    assert "85,413 / 21,333 device-hours = 4.0" in said
    assert "than the best of the grid (published: 6% lower)" in said
    assert drawn(tmp_path / "s") == {"parallel-grid", "parallel-refinement", "correlation-grid", "correlation-refinement"}


def test_methods_compares_at_equal_steps(tmp_path):
    options = ["--seeds", "2", "--budget", "2", "--steps", "3", "--no-progress"]
    said = driver(tmp_path / "s", "methods", str(ROOT / "apps/digits_mlp.py"), *options)
    for name in ("random", "asha", "bohb", "pbt"):
        assert re.search(rf"{name} .*±", said)
    assert drawn(tmp_path / "s") == {"methods"}


@pytest.mark.parametrize(("ranks", "methods", "seeds"), [(1, ["random"], 2), (2, ["random", "asha", "bohb", "pbt"], 1)])
def test_precision_compares_methods_with_a_bare_loop_and_divides_their_time(ranks, methods, seeds, tmp_path):
    small = ["--trials", "4", "--steps", "2", "--set", "batches=1", "--set", "measured=50", "--bare-steps", "1"]
    chosen = [word for method in methods for word in ("--method", method)]
    said = driver(tmp_path / "s", "precision", *small, *chosen, "--seeds", str(seeds), "--ranks", str(ranks))
    assert "Measured on a CPU" in said
    assert drawn(tmp_path / "s") == {"precision"}
    found = json.loads((tmp_path / "s" / "precision.json").read_text())
    assert [found["device"], found["trainers"], found["relative_to"]] == ["cpu", ranks, "fp32"]
    assert found["test_metric"] == "test_accuracy"
    kinds = [(row["method"], row["precision"]) for row in found["methods"]]
    assert kinds == [(method, kind) for method in methods for kind in ("fp32", "bf16")]
    bare = found["bare"]["bf16"]["speedups"]
    for row in found["methods"]:
        assert [run["seed"] for run in row["runs"]] == list(range(seeds))
        for run in row["runs"]:
            *parts, exploits, others = run["spent"].values()
            assert sum(parts) == pytest.approx(ranks * run["seconds"])
            assert run["spent"]["training"] > 0.2 * run["seconds"]
            assert min(parts) >= 0
            assert (exploits > 0) <= (row["method"] == "pbt")
            assert others >= 4
            assert 4 <= run["steps"] <= 4 * 2
        if row["precision"] == "bf16":
            assert [kept * alone for kept, alone in zip(row["kept"], bare, strict=True)] == pytest.approx(
                row["speedups_of_a_step"]
            )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precisions", "fp32"], "two at least"),
        (["--precisions", "fp32,fp31"], "there is no precision 'fp31'"),
        (["--method", "pbtt"], "there is no method 'pbtt'.*'pbt'"),
        (["--test-metric", "val_accurac", "--set", "batches=1"], "reports no 'val_accurac', but .*val_accuracy"),
    ],
)
def test_precision_says_what_is_wrong_with_its_options(options, said, tmp_path):
    command = [sys.executable, str(ROOT / "drivers/precision.py"), *options, "--study", str(tmp_path / "s")]
    done = finished(command, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(said, done.stderr, re.DOTALL), done.stderr
