"""Predicting studies: what a large prediction costs, and how near a prediction comes to the run itself.

    python benchmarks/simulate.py [--only cost|digits_mlp|waiting] [--rounds 3]

The first part simulates ASHA with 100,000 trials on 1,024 ranks from a table of curves. The others record a random search on 4
ranks, predict another random search and an ASHA from it, and run these. Each run lies between two recordings and is compared
with the mean of what they predict, as a shared machine is not equally fast all the time; still, leave it alone. "waiting" is a
training that sleeps, so that what else the machine does counts for less.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy

import openhpo as hpo
from openhpo.recorded import Candidates, Layout, Plan, read_study, read_table

DIGITS = Path(__file__).parent.parent / "apps" / "digits_mlp.py"
WAITING = """
import time
import openhpo as hpo

space = hpo.Space({"x": hpo.Float((0.0, 1.0)), "pace": hpo.Float((0.01, 0.05))})
objective = hpo.Minimize("loss")

def train(trial):
    trial.track()
    while True:
        time.sleep(trial["pace"])
        yield {"loss": trial["x"] + 1 / trial.step}
"""
CONFIGS, STEPS = 10_000, 81  # of the table
TRIALS, RANKS = 100_000, 1024  # of the large prediction
SECONDS_AIM, USED_AIM = 120.0, 0.95
REAL_RANKS = 4
RECORDED_TRIALS = 100
REAL_STEPS = 20
RUNS = {"random": (hpo.Full(REAL_STEPS), 150, 2), "asha": (hpo.ASHA(REAL_STEPS), 500, 3)}  # the engine, trials and seed
TRUTH_AIM = 0.2  # how far a prediction may be off


def table(path: Path) -> None:
    """Write power laws with noise, of trainings of which the slowest takes three times as long as the fastest."""
    rng = numpy.random.default_rng(0)
    steps = numpy.arange(1, STEPS + 1)
    floor, rate, pace = (rng.uniform(low, high, (CONFIGS, 1)) for low, high in ((0.1, 1.0), (0.2, 1.5), (0.5, 1.5)))
    loss = floor + steps**-rate + rng.normal(0, 0.01, (CONFIGS, STEPS))
    seconds = pace * rng.uniform(0.9, 1.1, (CONFIGS, STEPS))
    numpy.savez(path, loss=loss, seconds=seconds, floor=floor[:, 0], rate=rate[:, 0])


def report_cost() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.npz"
        table(path)
        began = time.process_time()
        recording = read_table(str(path), Layout(pace="seconds"))
        objective = hpo.Minimize("loss")
        candidates = Candidates(recording, objective, STEPS)
        read = time.process_time() - began
    plan = Plan(candidates, objective, hpo.ASHA(STEPS, 1, 3), trials=TRIALS)
    began = time.process_time()
    found = plan.simulate(RANKS)
    seconds = time.process_time() - began
    print(f"ASHA, {TRIALS:,} trials of {CONFIGS:,} recorded configurations on {RANKS:,} ranks")
    print(f"{'reading and sorting out the table':44}{read:9.1f} s")
    print(f"{'simulating, one core':44}{seconds:9.1f} s{'':6}aim: at most {SECONDS_AIM:g} s")
    print(f"{'steps simulated a second':44}{candidates.played / seconds:9,.0f}")
    used = found.utilisation_until_dry
    print(f"{'utilisation until the queue runs dry':44}{used:9.4f}{'':8}aim: above {USED_AIM:g}")
    print(f"{'utilisation to the end':44}{found.utilisation:9.4f}")
    print(f"{'predicted makespan':44}{found.makespan:9,.0f} s", flush=True)


def real(app: Path, method: str, trials: int, seed: int, study: Path) -> tuple[float, float]:
    """Run a study; return its own seconds, and those of the whole command with the launcher and imports."""
    options = {"--trials": trials, "--seed": seed, "--steps": REAL_STEPS, "--study": study, "--ranks": REAL_RANKS}
    words = [str(word) for option in options.items() for word in option]
    began = time.monotonic()
    command = [sys.executable, "-m", "openhpo", "run", method, str(app), *words, "--no-progress"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return seconds_of(study), time.monotonic() - began


def seconds_of(study: Path) -> float:
    return float(hpo.load(study).tables.events["time"][-1])


def record(app: Path, study: Path) -> Path:
    real(app, "random", RECORDED_TRIALS, 1, study)
    return study


def predicted(study: Path, engine: hpo.Engine, trials: int, seed: int) -> float:
    recording = read_study(str(study))
    assert recording.objective is not None
    candidates = Candidates(recording, recording.objective, REAL_STEPS)
    return Plan(candidates, recording.objective, engine, trials, seed=seed).predict(REAL_RANKS).makespan


def report_truth(app: Path, rounds: int, folder: Path) -> None:
    print(
        f"\n{app.stem} on {REAL_RANKS} ranks, predicted from random searches of {RECORDED_TRIALS} trials before and after it;"
    )
    print("seconds of the study, and of the whole command with its launcher and imports")
    print(f"{'':10}{'recorded':>10}{'predicted':>11}{'measured':>10}{'ratio':>8}{'command':>10}", flush=True)
    ratios: dict[str, list[float]] = {method: [] for method in RUNS}
    before = record(app, folder / f"{app.stem}-pilot")
    for number, (method, (engine, trials, seed)) in enumerate(list(RUNS.items()) * rounds):
        measured, command = real(app, method, trials, seed, folder / f"{app.stem}-run-{number}")
        after = record(app, folder / f"{app.stem}-pilot-{number}")
        recorded = statistics.mean(seconds_of(pilot) for pilot in (before, after))
        expected = statistics.mean(predicted(pilot, engine, trials, seed) for pilot in (before, after))
        ratios[method].append(expected / measured)
        figures = f"{recorded:10.1f}{expected:11.1f}{measured:10.1f}{ratios[method][-1]:8.2f}{command:10.1f}"
        print(f"{method:10}{figures}", flush=True)
        before = after
    for method, found in ratios.items():
        median = statistics.median(found)
        print(f"{method + ': predicted / measured, median':44}{median:9.2f}{'':8}aim: within {100 * TRUTH_AIM:g} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("cost", "digits_mlp", "waiting"), help="one of the parts")
    parser.add_argument("--rounds", type=int, default=3, help="how often each real run is recorded, predicted and made")
    options = parser.parse_args()
    if options.only in (None, "cost"):
        report_cost()
    with tempfile.TemporaryDirectory() as name:
        waiting = Path(name) / "waiting.py"
        waiting.write_text(WAITING)
        for app in (DIGITS, waiting):
            if options.only in (None, app.stem):
                report_truth(app, options.rounds, Path(name))


if __name__ == "__main__":
    main()
