"""Studies whose processes are killed at random moments: `python -m tests.kills` does what the tests do a few times.

Every kill is real: SIGKILL to ranks of an MPI job. What each trainer was told is safe it notes in a file of its own, which is
compared with the study file afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy

import openhpo as hpo
from openhpo.cli.apps import load_app
from openhpo.resume import replay
from openhpo.scheduler import Scheduler
from openhpo.storage import schema

from . import steps
from .environment import INHERITED, MPI_ENVIRONMENT

ROOT = Path(__file__).parent.parent
APPS = ROOT / "apps"
APP = """
import json, os
from pathlib import Path
TRAINING
from openhpo.actors.actor import Handler
from openhpo.protocol import Accepted
from openhpo.trainer import Trainer

before = Trainer.handlers[Accepted].function
notes = open(Path(os.environ["NOTES"]) / f"{os.getpid()}.jsonl", "a", buffering=1)

def noted(self, message, sender):
    if not message.stop:
        notes.write(json.dumps([message.stage, message.step]) + "\\n")
    before(self, message, sender)

Trainer.handlers[Accepted] = Handler(noted, False)
"""
NETWORKS = "from digits_mlp import max_steps, objective, space, train"
TOGETHER = "from tests.steps import max_steps, objective, space, together; train = together({seconds:g})"
STEPS = "from tests.steps import lasting, max_steps, objective, space; train = lasting({seconds:g})"
METHODS = {  # options, and what makes the same study
    "grid": (["--axis", "lr=3", "--axis", "momentum=2", "--set", "width=64", "--set", "batch=128", "--steps", "3"], None),
    "random": (["--trials", "10", "--steps", "3"], lambda: (hpo.Full(3), hpo.Random(), 10)),
    "sobol": (["--trials", "8", "--steps", "3"], lambda: (hpo.Full(3), hpo.Sobol(), 8)),
    "halving": (["--trials", "18", "--steps", "9"], lambda: (hpo.SuccessiveHalving(9, 1, 3), hpo.Random(), 18)),
    "hyperband": (["--trials", "22", "--steps", "9"], lambda: (hpo.Hyperband(9, 1, 3), hpo.Random(), 22)),
    "asha": (["--trials", "24", "--steps", "9"], lambda: (hpo.ASHA(9, 1, 3), hpo.Random(), 24)),
    "pbt": (["--trials", "6", "--steps", "6"], lambda: (hpo.PopulationBased(6), hpo.Random(), 6)),
}
PATIENCE = 240  # seconds for one run


class Runs:
    """One study, in a folder, run again and again.

    Args:
        folder: An empty one.
        python: The Python to run it with.
        method: A key of METHODS.
        launcher: Options of mpiexec.
        environment: Of all runs.
    """

    def __init__(self, folder: Path, python: Path, method: str, launcher: list[str], environment: dict[str, str]) -> None:
        self.study = folder / "study"
        self.notes = folder / "notes"
        self.notes.mkdir(parents=True)
        self._app = folder / "noting.py"
        self.train()
        self._command = ["-m", "openhpo", "run", method, str(self._app), *METHODS[method][0], "--study", str(self.study)]
        self._start = [str(python.parent / "mpiexec"), *launcher]
        self._python = str(python)
        self._environment = {**INHERITED, **environment, "NOTES": str(self.notes), "PYTHONPATH": f"{ROOT}:{APPS}"}
        self.errors = folder / "errors.txt"
        self._supervised = False

    def train(self, seconds: float | None = None) -> None:
        """Train small networks on digits; with a number of seconds, have each step take so long and nothing else."""
        self._app.write_text(APP.replace("TRAINING", NETWORKS if seconds is None else STEPS.format(seconds=seconds)))
        self.searched: Any = load_app(str(APPS / "digits_mlp.py")) if seconds is None else steps

    def train_together(self, seconds: float, ranks: int) -> None:
        """Train each trial on so many ranks, or on all where there are fewer, with steps that take so long."""
        wanted = f"\ndef ranks_per_trial(values): return {ranks}"
        self._app.write_text(APP.replace("TRAINING", TOGETHER.format(seconds=seconds) + wanted))
        self.searched = steps

    def supervised(self) -> None:
        """From now on, start by `openhpo run --ranks` instead of the launcher."""
        self._supervised = True

    def start(self, ranks: int, *options: str) -> subprocess.Popen:
        with self.errors.open("a") as errors:
            start = [] if self._supervised else [*self._start, "-n", str(ranks)]
            return subprocess.Popen(
                [*start, self._python, *self._command, *options],
                env=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    def finish(self, ranks: int, *options: str) -> None:
        """Run it to its end."""
        with self.start(ranks, *options) as process:
            status = waited(process, self.errors)
        assert status == 0, f"status {status}: {self.errors.read_text()[-3000:]}"
        assert hpo.load(self.study).finished

    def reports(self) -> int:
        """How many are in the file now; 0 before there is one."""
        try:
            return len(hpo.load(self.study).tables.reports)
        except hpo.UserError as error:
            if "does not exist" in str(error):
                return 0
            raise AssertionError("a study file has to open at any moment") from error

    def check(self) -> None:
        """What was acknowledged is there, once."""
        tables = hpo.load(self.study).tables
        found = list(zip(tables.reports["stage"].tolist(), tables.reports["step"].tolist(), strict=True))
        assert len(found) == len(set(found)), "a report is there twice"
        there, again = set(found), set(tables.stages["stage"][tables.stages["again"] == 1].tolist())
        starts = dict(zip(tables.stages["stage"].tolist(), tables.stages["start"].tolist(), strict=True))
        for path in self.notes.iterdir():
            for line in path.read_text().splitlines():
                stage, last = json.loads(line)
                missing = [step for step in range(starts[stage] + 1, last + 1) if (stage, step) not in there]
                assert stage in again or not missing, f"steps {missing} of stage {stage} were acknowledged, and are not there"


def waited(process: subprocess.Popen, errors: Path) -> int:
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        kill(processes_of(process.pid))
        raise AssertionError(f"the run hangs: {errors.read_text()[-3000:]}") from None


def processes_of(process: int) -> dict[int, int]:
    """A process and all that descend from it, each with its rank; -1 for what is no rank."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, left = {}, [process]
    while left:
        this = left.pop()
        found[this] = rank_of(this)
        left += children.get(this, [])
    return found


def rank_of(process: int) -> int:
    try:
        environment = (Path("/proc") / str(process) / "environ").read_bytes().split(b"\0")
    except OSError:
        return -1
    named = dict(entry.partition(b"=")[::2] for entry in environment)
    return int(named.get(b"OMPI_COMM_WORLD_RANK", named.get(b"PMI_RANK", b"-1")))


def kill(processes: dict[int, int]) -> None:
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_for_reports(runs: Runs, process: subprocess.Popen, more: int) -> None:
    """Until the file has so many reports more than now, or the run is over."""
    there, end = runs.reports(), time.monotonic() + PATIENCE
    while process.poll() is None and runs.reports() < there + more:
        assert time.monotonic() < end, "no report comes"
        time.sleep(0.005)


def kill_everything(runs: Runs, rng: random.Random, times: int) -> int:
    """Kill all ranks at random moments, as often if the study lasts; return how often that hit a run which was not over."""
    hits = 0
    for _ in range(times):
        if runs.reports() and hpo.load(runs.study).finished:
            break
        with runs.start(rng.choice([1, 2, 3])) as process:
            wait_for_reports(runs, process, rng.choice([0, 1, 2, 5]))
            time.sleep(rng.random() * 0.3)
            hits += process.poll() is None
            kill(processes_of(process.pid))
            process.wait(PATIENCE)
        if runs.reports():
            runs.check()
    return hits


def kill_trainers(runs: Runs, rng: random.Random) -> int:
    """On 5 ranks that survive deaths, kill one to three of those that only train; return how many died."""
    died = 0
    with runs.start(5) as process:
        for _ in range(rng.choice([1, 2, 3])):
            wait_for_reports(runs, process, rng.choice([1, 3, 8]))
            time.sleep(rng.random() * 0.2)
            victims = [this for this, rank in processes_of(process.pid).items() if rank > 0]
            if victims and process.poll() is None:
                kill({rng.choice(victims): 0})
                died += 1
        status = waited(process, runs.errors)
    assert status == 0, f"status {status}: {runs.errors.read_text()[-3000:]}"
    result = hpo.load(runs.study)
    assert result.finished
    runs.check()
    return died


def check_legal(runs: Runs, method: str) -> None:
    """The decisions in the file are those that the method takes from its reports."""
    engine, sampler, trials = METHODS[method][1]()
    study = hpo.Study(runs.searched.space, runs.searched.objective, engine=engine, sampler=sampler, trials=trials)
    replay(hpo.load(runs.study).tables, Scheduler(study))


def check_equal(one: Path, other: Path) -> None:
    """Two studies came to the same, bit for bit."""
    a, b = hpo.load(one), hpo.load(other)
    assert a.configs == b.configs
    assert a.states == b.states
    for metric in a.metrics:
        assert numpy.array_equal(a.curves(metric), b.curves(metric), equal_nan=True), metric


def losses(runs: Runs) -> int:
    """How many ranks the study file says were lost."""
    return int((hpo.load(runs.study).tables.events["kind"] == schema.LEFT.encode()).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="in which trainers die")
    parser.add_argument("--kills", type=int, default=30, help="of all ranks, for each method")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    python = Path(sys.executable)
    for number in range(options.runs):
        rng = random.Random(options.seed * 1000 + number)
        method = rng.choice(["random", "asha", "halving", "pbt"])
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(Path(folder), python, method, ["--with-ft", "ulfm"], MPI_ENVIRONMENT)
            died = kill_trainers(runs, rng)
            check_legal(runs, method)
            print(
                f"{method}: {died} of 5 ranks killed, {losses(runs)} noticed; finished, nothing lost, all decisions legal",
                flush=True,
            )
    for method in ("grid", "random", "sobol", "halving", "hyperband"):
        rng = random.Random(f"{options.seed} {method}")
        with tempfile.TemporaryDirectory() as folder:
            calm = Runs(Path(folder) / "calm", python, method, [], MPI_ENVIRONMENT)
            calm.finish(2)
            hits = studies = 0
            while hits < options.kills:
                runs = Runs(Path(folder) / f"killed {studies}", python, method, [], MPI_ENVIRONMENT)
                hits += kill_everything(runs, rng, min(5, options.kills - hits))
                studies += 1
                runs.finish(3)
                check_equal(calm.study, runs.study)
            print(
                f"{method}: all ranks killed {hits} times in {studies} studies; nothing lost, each equal bit for bit",
                flush=True,
            )


if __name__ == "__main__":
    main()
