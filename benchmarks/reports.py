"""Reports a second from trials that do nothing, through one coordinator, into the study file.

Beside it, what one process writes to the same tables without any actors, and what Optuna takes in with its storages. Optuna
gets trials of 100 steps and one value a report, which suits it: its cost of a report grows with the steps before.

Run with: python benchmarks/reports.py [--profile]     (it starts its own MPI ranks)
"""

import argparse
import cProfile
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy

import openhpo as hpo
from openhpo.actors.run import launched_rank, launched_size
from openhpo.storage import StudyWriter
from openhpo.storage.reader import read

TRIALS, STEPS, REPEATS = 40, 10_000, 3
AIM = 100_000  # reports a second
BATCH, FLUSH_ROWS = 1000, 65_536
OPTUNA_STEPS, OPTUNA_SECONDS = 100, 2.0


def train(trial: hpo.Trial) -> Iterator[dict[str, float]]:
    while True:
        yield {"loss": 0.5, "accuracy": 0.5}


def run_study(folder: Path, ranks: int) -> None:
    """In a process of its own, which starts itself again under MPI where there are several ranks."""
    hpo.run(
        train,
        hpo.Space({"lr": hpo.Float((0.0, 1.0))}),
        hpo.Minimize("loss"),
        engine=hpo.Full(max_steps=STEPS),
        trials=TRIALS,
        study=folder,
        ranks=ranks,
        device="cpu",
        dedicated_coordinator=True,
        progress=False,
    )


def run_profiled(folder: Path, ranks: int) -> None:
    if launched_size() == 1 or launched_rank() != 0:
        run_study(folder, ranks)
        return
    profile = cProfile.Profile()
    profile.runcall(run_study, folder, ranks)
    pstats.Stats(profile).sort_stats("tottime").print_stats(12)


def study_rate(ranks: int, profile: bool = False) -> float:
    """Reports a second from the first stage's start to the end of the study, all of them in the file."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        command = [sys.executable, __file__, "--study", str(study), "--ranks", str(ranks)]
        subprocess.run([*command, "--profile"] if profile else command, check=True, timeout=120)
        tables = read(study)
    assert len(tables.reports) == TRIALS * STEPS
    return float(len(tables.reports) / (tables.events["time"][-1] - tables.stages["time"][0]))


def writer_rate() -> float:
    """The same rows by a loop that does nothing but write them."""
    values = numpy.full((BATCH, 2), 0.5)
    with tempfile.TemporaryDirectory() as folder:
        writer = StudyWriter(Path(folder), {}, {})
        began = time.perf_counter()
        for trial in range(TRIALS):
            for first in range(1, STEPS, BATCH):
                writer.reports(trial, trial, first, ("loss", "accuracy"), values, time.perf_counter() - began)
                if writer.waiting >= FLUSH_ROWS:
                    writer.flush()
        writer.close()
        return TRIALS * STEPS / (time.perf_counter() - began)


def optuna_rates() -> dict[str, float]:
    import optuna
    from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        storages: dict[str, Callable[[], optuna.storages.BaseStorage]] = {
            "Optuna, in memory": InMemoryStorage,
            "Optuna, journal file": lambda: JournalStorage(JournalFileBackend(f"{folder}/journal")),
            "Optuna, SQLite": lambda: RDBStorage(f"sqlite:///{folder}/optuna.db"),
        }
        return {name: optuna_rate(optuna.create_study(storage=make())) for name, make in storages.items()}


def optuna_rate(study: "optuna.Study") -> float:  # type: ignore[name-defined]  # noqa: F821
    reports, began = 0, time.perf_counter()
    while time.perf_counter() - began < OPTUNA_SECONDS:
        trial = study.ask()
        trial.suggest_float("lr", 0.0, 1.0)
        for step in range(OPTUNA_STEPS):
            trial.report(0.5, step)
        study.tell(trial, 0.5)
        reports += OPTUNA_STEPS
    return reports / (time.perf_counter() - began)


def main() -> None:
    """Run each several times in turn; print medians, and ratios of the last of ours to each."""
    kinds = {1: "openhpo, 1 rank that does both", 2: "openhpo, 1 trainer", 3: "openhpo, 2 trainers"}
    runs = [(writer_rate(), {ranks: study_rate(ranks) for ranks in kinds}) for _ in range(REPEATS)]
    ours = {kinds[ranks]: statistics.median(rates[ranks] for _, rates in runs) for ranks in kinds}
    others = {"bare loop into the tables": statistics.median(bare for bare, _ in runs), **optuna_rates()}
    best = max(ours.values())
    print(f"{TRIALS} trials of {STEPS:,} steps that do nothing, medians of {REPEATS} runs; Optuna: {OPTUNA_SECONDS} s each")
    print(f"{'':34}{'reports/s':>12}{'best of ours / this':>22}{'aim':>14}")
    for name, rate in ours.items():
        print(f"{name:34}{rate:12,.0f}{best / rate:22.2f}{f'>= {AIM:,}':>14}")
    for name, rate in others.items():
        print(f"{name:34}{rate:12,.0f}{best / rate:22.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="profile a coordinator with one trainer")
    parser.add_argument("--study", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ranks", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.study:
        (run_profiled if options.profile else run_study)(options.study, options.ranks)
    elif options.profile:
        print(f"{study_rate(2, profile=True):,.0f} reports/s under the profiler")
    else:
        main()
