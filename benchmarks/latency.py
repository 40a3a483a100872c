"""Time from a stage's end to the next stage's start, on another rank than the coordinator's.

From the end of the last step's work to the first line of the training function of the next trial, in one process: the last
report, its way to the coordinator, the decision, the way back, and the start. While the coordinator has gone to sleep between
stages; while it is kept busy by messages of an actor beside it; and while another trainer streams reports as fast as it can,
which needs a core for each of the three ranks to mean anything.

Run with: python benchmarks/latency.py     (it starts its own MPI ranks)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy
from mpi4py import MPI

import openhpo as hpo
from openhpo.actors.run import launched_rank, launched_size
from openhpo.launcher import relaunch
from openhpo.protocol import Train


@dataclass(frozen=True)
class Case:
    """What the coordinator does between the stages that are measured.

    Attributes:
        name: How the table calls it.
        ranks: 2 for a coordinator and the measured trainer, 3 with one that keeps the coordinator from sleeping.
        stages: How many the measured trainer runs, at most.
        work: Seconds each takes.
        aim: Milliseconds; none where the machine may have too few cores.
    """

    name: str
    ranks: int
    stages: int
    work: float
    aim: float | None


CASES = {
    "asleep": Case("coordinator asleep", 2, 200, 0.02, 0.7),
    "busy": Case("coordinator busy with messages", 2, 1000, 0.002, 0.1),
    "stream": Case("another trainer streams (needs 3 cores)", 3, 1000, 0.002, None),
}
MEASURED = 1  # the rank that takes the time
LONG = 100_000  # steps of a trial that keeps the coordinator from sleeping
ROUND_TRIPS, WARM = 2000, 20

ended: list[float] = []
started: list[float] = []
case: Case


class Again(hpo.Message):
    """Keeps its actor busy."""


class Restless(hpo.Actor):
    """Sends itself a message whenever it has got one."""

    def on_start(self) -> None:
        self.send(self.address, Again())

    @hpo.handles(Again)
    def on_again(self, message: Again, sender: hpo.Address) -> None:
        self.send(self.address, message)


def company(rank: int, size: int) -> dict[str, hpo.Actor]:
    return {"restless": Restless()} if case.aim == CASES["busy"].aim and rank == 0 else {}


def train(trial: hpo.Trial) -> Iterator[dict[str, float]]:
    if launched_rank() == MEASURED:
        started.append(time.perf_counter())
        time.sleep(case.work)
        ended.append(time.perf_counter())
        yield {"loss": 0.5}
        return
    while True:
        yield {"loss": 0.5}


def round_trips() -> list[float]:
    """Milliseconds of a blocking, spinning exchange of the same size between ranks 0 and 1."""
    comm = MPI.COMM_WORLD
    stage = hpo.Stage(1, 1, None, 0, 1, {"lr": 0.5}, 0, (1,))
    codec, room = msgspec.msgpack, bytearray(1 << 12)
    data, seconds = codec.encode(Train(stage)), []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        if comm.rank == 1:
            comm.Send([data, MPI.BYTE], 0)
        status = MPI.Status()
        comm.Recv([room, MPI.BYTE], 1 - comm.rank, 0, status)
        codec.decode(memoryview(room)[: status.Get_count(MPI.BYTE)], type=Train)
        if comm.rank == 0:
            comm.Send([data, MPI.BYTE], 1)
        seconds.append(time.perf_counter() - began)
    return [1e3 * second for second in seconds[WARM:]]


def run_study(folder: Path) -> None:
    """In a process of its own, which starts itself again under MPI."""
    if launched_size() == 1:
        relaunch(case.ranks)
    bare = round_trips() if case.ranks == 2 else []
    hpo.run(
        train,
        hpo.Space({"lr": hpo.Float((0.0, 1.0))}),
        hpo.Minimize("loss"),
        engine=hpo.Full(max_steps=1 if case.ranks == 2 else LONG),
        trials=case.stages,
        study=folder,
        device="cpu",
        dedicated_coordinator=True,
        progress=False,
        actors=company,
    )
    if launched_rank() == MEASURED:
        gaps = [1e3 * (start - end) for end, start in zip(ended, started[1:], strict=False)]
        (folder / "latency.json").write_text(json.dumps({"gaps": gaps[WARM:], "bare": bare}))


def measure(name: str) -> dict[str, list[float]]:
    """Milliseconds between stages, and of bare round trips."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        subprocess.run([sys.executable, __file__, "--study", str(study), "--case", name], check=True, timeout=60)
        found: dict[str, list[float]] = json.loads((study / "latency.json").read_text())
    return found


def main() -> None:
    found = {name: measure(name) for name in CASES}
    bare = found["asleep"]["bare"]
    library = MPI.Get_library_version().split(",")[0].splitlines()[0].strip()
    print(f"{library}, {os.cpu_count()} cores, milliseconds")
    print(f"{'':48}{'least':>8}{'median':>8}{'95 %':>8}{'median / bare':>15}{'aim':>8}")
    samples = [("bare round trip, blocking", bare, "")]
    samples += [(CASES[name].name, found[name]["gaps"], f"< {CASES[name].aim}" if CASES[name].aim else "") for name in CASES]
    for title, sample, aim in samples:
        least, median, most = numpy.percentile(sample, (0, 50, 95))
        print(f"{title:48}{least:8.3f}{median:8.3f}{most:8.3f}{median / numpy.median(bare):15.1f}{aim:>8}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=CASES, default="asleep", help=argparse.SUPPRESS)
    options = parser.parse_args()
    case = CASES[options.case]
    if options.study:
        run_study(options.study)
    else:
        main()
