"""What it costs to move a model from one trial to another: an exploit of population based training at an interval of one step.

Rank 0 coordinates, rank 1 is the donor and always the best, rank 2 the taker and always the worst: it takes the donor's model
after each of its steps, while the donor's thread trains a small network with torch. The transfer is timed in the real trainer,
from the request for the state to the handler that gets it. Right after each one, in the same state of both ranks, follow bare
requests with Send and Recv: into fresh memory, which a state needs that comes where none was, and into the same memory again.
In other rounds the same with an idle donor, and a checkpoint file, written as openhpo spills states, by a busy donor, and read
by the taker: from the page cache, and with the fsync that another machine may have to wait for.

Run with: python benchmarks/states.py [--megabytes 256] [--rounds 3]     (it starts its own MPI ranks)
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import torch
from mpi4py import MPI
from numpy.typing import NDArray

import openhpo as hpo
from openhpo.actors import Address, Message
from openhpo.actors.run import launched_rank, launched_size
from openhpo.actors.transport import Buffer
from openhpo.launcher import relaunch
from openhpo.protocol import TRAINER, Fetch, Given, Train
from openhpo.session import Lowered
from openhpo.storage import checkpoints
from openhpo.trainer import Trainer
from openhpo.training.states import Snapshot, lower, trackable

DONOR, TAKER = 1, 2  # ranks
RANKS = 3
REPEATS = 5  # of the bare transfers from an idle donor in each round
STEPS = 3  # of a model; the donor's second one lasts until there were enough exploits
EXPLOITS = 10  # in each round
STEP, LONGEST = 0.05, 40.0  # seconds
SPEED_AIM, FILE_AIM = 0.7, 10.0  # of the bare speed; times as fast as a file
ASK = b"!"
POLL = 1e-3  # seconds

Seconds = dict[str, list[float]]  # by what they were spent on
Marks = list[tuple[str, float]]  # what happened on a rank, and when: seconds of a clock that the ranks of a machine share
marks: Marks = []

IDLE_FRESH, IDLE_USED = "bare, donor idle, fresh memory", "bare, donor idle, used memory"
BUSY_FRESH, BUSY_USED = "bare, donor busy, fresh memory", "bare, donor busy, used memory"
FILE, DISK = "checkpoint file, write and read", "checkpoint file, write, fsync and read"
OURS = "openhpo, donor busy"
AIMS = {BUSY_FRESH: SPEED_AIM, BUSY_USED: SPEED_AIM, FILE: FILE_AIM, DISK: FILE_AIM}
SET_UP = "its own set-up"
SET_UP = "its own set-up"
PARTS = {  # of an exploit, in order: from one mark to another
    "the last report, its way, decision, answer": ("ended", "told"),
    "leaving the old model": ("leaving", "left"),
    "the request's way to the donor": ("asked", "donor was asked"),
    "until the donor sends (it may be copying)": ("donor was asked", "donor given"),
    "the bytes' way": ("donor given", "came"),
    "start of the training function": ("resumed", "entered"),
    SET_UP: ("entered", "set up"),
    "track: the state into the model": ("set up", "tracked"),
}
SPANS = {
    **PARTS,
    OURS: ("asked", "came"),
    BUSY_FRESH: ("comparing", "fresh came"),
    BUSY_USED: ("fresh came", "used came"),
}
PAIRED = {BUSY_FRESH, BUSY_USED}
NOT_BEYOND = (*list(PARTS)[2:5], SET_UP)  # the copy, and the training's own
BEYOND, COPIES = "an exploit beyond transfer and set-up", "copies of the old model made on leaving it"
NEXT = "the donor, from one step to its next"


def mark(what: str) -> None:
    marks.append((what, time.monotonic()))


def seconds_of(function: Callable[[], object]) -> float:
    began = time.monotonic()
    function()
    return time.monotonic() - began


# ---- the study


class Network:
    """Something to compute for a training thread: steps of a small network, each below a millisecond."""

    def __init__(self) -> None:
        self.model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.inputs, self.targets = torch.randn(256, 64), torch.randint(10, (256,))

    def train(self, over: Callable[[], bool]) -> None:
        while not over():
            self.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.model(self.inputs), self.targets).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


@functools.cache
def make_model() -> torch.Tensor:
    """One for all trials of this rank, as this is not about making models."""
    return torch.zeros(options.megabytes << 18)  # float32


def train(trial: hpo.Trial) -> Iterator[dict[str, float]]:
    """A model of so many megabytes, whose elements tell the step it has come to."""
    mark("entered")
    network, weights = Network(), make_model()
    mark("set up")
    trial.track(weights=weights)
    mark("tracked")
    if trial.step > 1:
        assert weights[0] == weights[-1] == trial.step - 1
    donor = launched_rank() == DONOR
    while True:
        mark("started")
        weights.fill_(trial.step)
        event = enough if donor and trial.step == 2 else begun if not donor and trial.step == 1 else None
        network.train(partial(over, time.monotonic(), event))
        mark("ended")
        yield {"loss": 0.0 if donor else 1.0}


def over(began: float, event: threading.Event | None) -> bool:
    """Whether a step has lasted long enough."""
    seconds = time.monotonic() - began
    return seconds > STEP if event is None else event.is_set() or seconds > LONGEST


begun = threading.Event()  # on the taker: the donor has a state to give
enough = threading.Event()  # on the donor: there were enough exploits


class Begin(Message):
    """Donor to taker: there is a state to take."""


class Compare(Message):
    """Taker to donor: now the same in bare MPI."""


class TimedTrainer(Trainer):
    """A trainer that notes when what happens to it happens, and repeats transfers in bare MPI.

    Args:
        pair: Donor and taker.
        arguments: The trainer's.
    """

    def __init__(self, pair: MPI.Intracomm, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pair = pair
        self._data: Buffer = b""
        self._given = 0

    def send(self, address: Address, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        if isinstance(message, Fetch):
            mark("left")
            back_memory()
            mark("asked")
        elif isinstance(message, Given):
            mark("given")
        if buffers:
            self._data = buffers[0]
        super().send(address, message, buffers)

    @hpo.handles(Train)
    def on_train(self, message: Train, sender: Address) -> None:
        mark("told")
        if self.rank == DONOR and message.stage.start == 1:
            self.send(Address(TAKER, TRAINER), Begin())
        elif self.rank == TAKER:
            back_memory()
        mark("leaving")
        super().on_train(message, sender)

    @hpo.handles(Begin)
    def on_begin(self, message: Begin, sender: Address) -> None:
        begun.set()

    @hpo.handles(Fetch)
    def on_fetch(self, message: Fetch, sender: Address) -> None:
        mark("was asked")
        super().on_fetch(message, sender)

    @hpo.handles(Lowered)
    def on_lowered(self, message: Lowered, sender: Address) -> None:
        mark("copied")
        super().on_lowered(message, sender)

    @hpo.handles(Given)
    def on_given(self, message: Given, sender: Address, buffers: list[NDArray[numpy.uint8]]) -> None:
        mark("came")
        if self.rank == TAKER:
            self.send(sender, Compare())
            self.flush()
            compare(self._pair, buffers[0])
        mark("resumed")
        super().on_given(message, sender, buffers)

    @hpo.handles(Compare)
    def on_compare(self, message: Compare, sender: Address) -> None:
        compare(self._pair, self._data)
        self._given += 1
        if self._given == EXPLOITS:
            enough.set()


def back_memory() -> None:
    """Make sure that there is free memory which is really there: a virtual machine's host takes back what is free for a while,
    and giving it again costs up to a hundred times what a transfer costs. Between two steps, so that it delays nothing timed.
    """
    numpy.ones(options.megabytes << 20, numpy.uint8)


def compare(pair: MPI.Intracomm, data: Buffer) -> None:
    """The transfer again, in bare MPI."""
    back_memory()
    room = numpy.empty_like(data)
    pair.Barrier()
    mark("comparing")
    exchange(pair, data, room)
    mark("fresh came")
    exchange(pair, data, room)
    mark("used came")


def run_study(folder: Path, pair: MPI.Intracomm) -> None:
    """On all ranks."""
    marks.clear()
    begun.clear()
    enough.clear()
    with mock.patch("openhpo.launch.Trainer", partial(TimedTrainer, pair)):
        hpo.run(
            train,
            hpo.Space({"x": hpo.Float((0.0, 1.0))}),
            hpo.Minimize("loss"),
            # x is always drawn anew, so that no two exploits are the same computation, which would be trained once
            engine=hpo.PopulationBased(STEPS, interval=1, quantile=0.5, resample=1.0),
            trials=2,
            study=folder,
            device="cpu",
            state_memory=8 * options.megabytes << 20,
            dedicated_coordinator=True,
            progress=False,
        )


def exploits(taker: Marks, donor: Marks) -> Iterator[dict[str, float]]:
    """When what happened, for each exploit that found the donor busy."""
    theirs = [(f"donor {what}", at) for what, at in donor]
    last: dict[str, float] = {}
    for what, at in sorted(taker + theirs, key=lambda entry: entry[1]):
        last[what] = at
        if what == "tracked" and "came" in last and last["came"] > last["ended"]:
            if last["donor busy"]:
                yield last
            last = {name: when for name, when in last.items() if name.startswith("donor")}
        elif what in {"donor started", "donor ended"}:
            last["donor busy"] = float(what == "donor started")


def study_seconds(taker: Marks, donor: Marks) -> Seconds:
    """Take apart what the two ranks noted, one entry an exploit."""
    found: Seconds = {name: [] for name in (*SPANS, BEYOND, COPIES)}
    for last in exploits(taker, donor):
        for name, (begin, end) in SPANS.items():
            found[name].append(last[end] - last[begin])
        found[BEYOND].append(sum(found[name][-1] for name in PARTS if name not in NOT_BEYOND))
        found[COPIES].append(float("copied" in last))
    turns = itertools.pairwise((what, at) for what, at in donor if what in {"started", "ended"})
    found[NEXT] = [at - before for (was, before), (_, at) in turns if was == "ended"]
    return found


# ---- bare transfers and files


def wait_for(comm: MPI.Intracomm) -> None:
    """A barrier that leaves the cores to others."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(POLL)


def exchange(pair: MPI.Intracomm, data: Buffer, room: Buffer) -> None:
    """A request of the taker and the donor's answer."""
    if pair.rank == 0:
        pair.Recv([bytearray(ASK), MPI.BYTE], 1)
        pair.Send([data, MPI.BYTE], 1)
    else:
        pair.Send([ASK, MPI.BYTE], 0)
        pair.Recv([room, MPI.BYTE], 0)


def idle_seconds(pair: MPI.Intracomm, data: Buffer) -> Seconds:
    found: Seconds = {IDLE_FRESH: [], IDLE_USED: []}
    for _ in range(REPEATS):
        back_memory()
        room = numpy.empty_like(data)
        for seconds in found.values():
            wait_for(pair)
            seconds.append(seconds_of(partial(exchange, pair, data, room)))
    return found


def file_seconds(pair: MPI.Intracomm, path: Path, snapshot: Snapshot) -> Seconds:
    """Through a checkpoint, written while the donor's training thread is busy."""
    over = threading.Event()
    if pair.rank == 0:
        thread = threading.Thread(target=Network().train, args=(over.is_set,))
        thread.start()
        mine = [seconds_of(partial(write, path, snapshot)), seconds_of(partial(to_disk, path))]
        wait_for(pair)
    else:
        wait_for(pair)
        mine = [seconds_of(partial(checkpoints.read, path)), 0.0]
        path.unlink()
    wait_for(pair)
    over.set()
    write_or_read, kept = numpy.add(mine, pair.sendrecv(mine, 1 - pair.rank)).tolist()
    return {FILE: [write_or_read], DISK: [write_or_read + kept]}


def write(path: Path, snapshot: Snapshot) -> None:
    """As a trainer spills a state."""
    tensors = [(leaf.path, leaf.dtype, leaf.shape, leaf.at, leaf.size) for leaf in snapshot.leaves()]
    checkpoints.write(path, snapshot.header, snapshot.data, tensors)


def to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)


# ---- rounds


def measure_round(world: MPI.Intracomm, pair: MPI.Intracomm, folder: Path) -> Seconds:
    """One round on every rank; what it found, on donor and taker."""
    found: Seconds = {}
    if world.rank:
        snapshot = lower({"weights": trackable(torch.ones(options.megabytes << 18))})
        found |= idle_seconds(pair, snapshot.data)
        found |= file_seconds(pair, folder / checkpoints.name_of((0, 1)), snapshot)
    wait_for(world)
    run_study(folder / "study", pair)
    if world.rank:
        theirs = pair.sendrecv(marks, 1 - pair.rank)
        found |= study_seconds(marks, theirs) if world.rank == TAKER else {}
    return found


def measure() -> None:
    """On three ranks."""
    if launched_size() == 1:
        relaunch(RANKS)
    torch.set_num_threads(1)
    world = MPI.COMM_WORLD
    pair = MPI.Intracomm(world.Split(int(world.rank > 0), world.rank))  # rank 0 is alone in its own
    all_found: Seconds = {}
    for _ in range(options.rounds):
        folder = world.bcast(tempfile.mkdtemp(dir=options.folder) if world.rank == 0 else None)
        try:
            found = measure_round(world, pair, Path(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for name, seconds in found.items():
            all_found.setdefault(name, []).extend(seconds)
        wait_for(world)
    if world.rank == TAKER:
        report(all_found)


def ratio(found: Seconds, name: str, of: Callable[[list[float]], float]) -> float:
    """How often openhpo's time goes into another one: of the pairs where each transfer has its own, else of both lists."""
    if name in PAIRED and of is statistics.median:
        return of([theirs / ours for theirs, ours in zip(found[name], found[OURS], strict=True)])
    return of(found[name]) / of(found[OURS])


def report(found: Seconds) -> None:
    if not found[OURS]:
        raise SystemExit(
            f"there was no exploit of a busy donor within {LONGEST:g} s: the machine is too busy, or has no memory left"
        )
    middle, library = statistics.median, " ".join(MPI.Get_library_version().split(",")[0].splitlines()[0].split())
    print(f"{library}, {os.cpu_count()} cores, {options.megabytes} MiB, {len(found[OURS])} exploits of a busy donor")
    print(f"{'':42}{'least':>9}{'median':>9}{'median':>9}{'openhpo is so many times as fast':>36}")
    print(f"{'':42}{'ms':>9}{'ms':>9}{'GB/s':>9}{'by the least':>16}{'by the medians':>20}{'aim':>9}")
    for name in (IDLE_FRESH, IDLE_USED, BUSY_FRESH, BUSY_USED, OURS, FILE, DISK):
        seconds = middle(found[name])
        line = f"{name:42}{1e3 * min(found[name]):9.1f}{1e3 * seconds:9.1f}{(options.megabytes << 20) / 1e9 / seconds:9.2f}"
        line += "" if name == OURS else f"{ratio(found, name, min):16.2f}{ratio(found, name, middle):20.2f}"
        print(line + (f"{f'>= {AIMS[name]:g}':>9}" if name in AIMS else ""))
    print(f"\n{'an exploit, from the last step to the next':51}{'ms':>9}")
    for name in (*PARTS, BEYOND, NEXT):
        print(f"{name:42}{1e3 * min(found[name]):9.1f}{1e3 * middle(found[name]):9.1f}")
    print(f"{COPIES:51}{statistics.mean(found[COPIES]):9.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256, help="size of a model, in MiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for checkpoints and study files, on the disk to measure")
    options = parser.parse_args()
    measure()
