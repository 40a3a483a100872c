"""Successive halving replayed on TaskSet's recorded curves, against the mean of a reference run of 500 repeats.

    python benchmarks/halving.py FOLDER [--repeats 500]

FOLDER holds TaskSet's "adam8p_wide_grid_1k" tasks (gzipped JSON lists of 1000 records with valid/loss after every 200 steps;
Metz et al. 2020, Apache-2.0) and reference_dev.json with the mean result of 81@1 27@3 9@9 3@27 1@50 for each.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from pathlib import Path

import numpy
from numpy.typing import NDArray

import openhpo as hpo
from openhpo.hyperparameters import Config
from openhpo.samplers import Suggest


class Rows:
    """A sampler that draws rows of a table without repeating one."""

    def __init__(self, count: int) -> None:
        self._count = count

    def bind(self, space: hpo.Space, seed: int) -> Suggest:
        return Drawn(numpy.random.default_rng(seed).permutation(self._count).tolist())

    def definition(self) -> dict[str, int]:
        return {"rows": self._count}


class Drawn(hpo.Suggest):
    learns = False
    size = None

    def __init__(self, rows: list[int]) -> None:
        self._rows = rows

    def __call__(self, number: int, history: object, rng: object) -> Config:
        return {"row": self._rows[number]}


def halve(curves: NDArray[numpy.float64], seed: int) -> tuple[float, int]:
    """The last loss of the configuration that successive halving chooses, and the curve points it has asked for."""
    space = hpo.Space({"row": hpo.Integer((0, len(curves) - 1))})
    engine = hpo.SuccessiveHalving(50, 1, 3)
    study = hpo.Study(space, hpo.Minimize("loss"), engine=engine, sampler=Rows(len(curves)), trials=81, seed=seed)
    points = 0
    while (stage := study.ask()) is not None:
        row = stage.config["row"]
        for step in range(stage.start + 1, stage.stop + 1):
            study.tell(stage, step, {"loss": float(curves[row, step])})
            points += 1
        study.end(stage)
    (winner,) = [trial for trial in study.trials if trial.step == 50]
    return float(curves[winner.config["row"], 50]), points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=500)
    options = parser.parse_args()
    reference = json.loads((options.folder / "reference_dev.json").read_text())
    print(f"{'task':<34} {'reference':>10} {'ours':>10} {'error':>9} {'off by':>8}")
    within = 0
    for name, expected in reference.items():
        (path,) = options.folder.glob(f"*{name}.json.gz")
        with gzip.open(path, "rt") as file:
            curves = numpy.array([record["valid"]["loss"] for record in json.load(file)], float)
        ends, points = zip(*(halve(curves, seed) for seed in range(options.repeats)), strict=True)
        assert set(points) == {266}, "with continuation 266 curve points are needed"
        error = float(numpy.std(ends)) * math.sqrt(2 / options.repeats)  # of the difference of two means of so many repeats
        off = abs(float(numpy.mean(ends)) - expected["sh81_eta3_last"]) / error
        within += off <= 2
        print(f"{name:<34} {expected['sh81_eta3_last']:>10.5f} {numpy.mean(ends):>10.5f} {error:>9.5f} {off:>6.1f} se")
    print(f"{within} of {len(reference)} tasks within two standard errors")


if __name__ == "__main__":
    main()
