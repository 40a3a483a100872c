"""On one GPU: what it costs to bring a state to host memory and to another rank, to run out of memory, and what 16 bits save.

A state of 1 GB is lowered and lifted, and fetched by a second rank that uses the same GPU, each beside bare copies of the same
bytes. Then a study in which one trial asks for more memory than there is. Then a training loop in each precision.

Run with: make bench-gpu, or: python benchmarks/gpu.py          (--device cpu --megabytes 16 tries the script without a GPU)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

import openhpo as hpo
from openhpo.launcher import relaunch
from openhpo.training.devices import TorchDevice, look, take
from openhpo.training.precision import PRECISIONS, Arithmetic
from openhpo.training.states import Snapshot, lifts, lower

TENSORS = 16  # of a state
REPEATS, WARM = 7, 2
LAYERS, BATCH, UPDATES = 4, 512, 40  # of the training loop
WIDTHS = {"cpu": 256, "cuda": 4096}
TOO_MUCH = 1 << 50  # bytes, of the trial that runs out of memory
WITHOUT_GPU = (
    "this benchmark needs a GPU, and torch sees none here: a CUDA or ROCm build of torch, and a device that is visible to this "
    "process (openhpo doctor shows what is)"
)


def device() -> TorchDevice:
    seen = look(options.device)
    if seen.error or not seen.identities:
        raise SystemExit(WITHOUT_GPU)
    return take([seen], 0, share=True)


class State:
    """Tensors of so many megabytes in all."""

    def __init__(self, name: str) -> None:
        elements = (options.megabytes << 18) // TENSORS
        self.tensors = [torch.full((elements,), float(place), device=name) for place in range(TENSORS)]

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": self.tensors}

    @property
    def size(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


def wait_for_device() -> None:
    if options.device != "cpu":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object]) -> float:
    """The median, with nothing under way before or after."""
    found = []
    for _ in range(WARM + REPEATS):
        wait_for_device()
        began = time.perf_counter()
        work()
        wait_for_device()
        found.append(time.perf_counter() - began)
    return statistics.median(found[WARM:])


def line(name: str, size: int, seconds: float, bare: float) -> None:
    print(f"{name:58}{1e3 * seconds:9.1f}{size / 1e9 / seconds:9.2f}{bare / seconds:9.2f}", flush=True)


def header(title: str) -> None:
    print(f"\n{title}\n{'':58}{'ms':>9}{'GB/s':>9}{'of bare':>9}")


def bare_copies(state: State) -> tuple[float, float]:
    """Seconds of plain copies of a state from the device to pinned and to ordinary memory."""
    found = []
    for pinned in (options.device != "cpu", False):
        places = [torch.empty(tensor.shape, pin_memory=pinned) for tensor in state.tensors]

        def copy(places: list[torch.Tensor] = places, pinned: bool = pinned) -> None:
            for place, tensor in zip(places, state.tensors, strict=True):
                place.copy_(tensor, non_blocking=pinned)

        found.append(seconds_of(copy))
    return found[0], found[1]


def measure_copies() -> None:
    """One rank: down, up, and how long the training thread is kept."""
    here = device()
    state, spare = State(here.name), numpy.empty(0, numpy.uint8)
    held: list[float] = []

    def down() -> Snapshot:
        nonlocal spare
        began = time.perf_counter()
        old, spare = spare, numpy.empty(0, numpy.uint8)
        snapshot = lower({"state": state}, lambda size: old if old.size == size else None, copier=here.copier, wait=False)
        held.append(time.perf_counter() - began)
        if snapshot.arriving is not None:
            snapshot.arriving.wait()
        spare = snapshot.data
        return snapshot

    pinned, pageable = bare_copies(state)
    header(f"a state of {options.megabytes} MiB on {here.name} {here.identity}")
    line("bare copy to pinned memory", state.size, pinned, pinned)
    line("bare copy to ordinary memory", state.size, pageable, pinned)
    line("openhpo, until all bytes are in the snapshot", state.size, seconds_of(down), pinned)
    line("openhpo, until the training thread goes on", state.size, statistics.median(held[WARM:]), pinned)
    snapshot = down()

    def up() -> None:
        for make in lifts(snapshot, owned=True, copier=here.copier).values():
            make()

    line("openhpo, back to the device", state.size, seconds_of(up), pinned)


# ---- two ranks on the GPU


class Ask(hpo.Message):
    """Taker to donor: your state."""


class Have(hpo.Message):
    """Donor to taker: here it is."""

    header: bytes


class Donor(hpo.Actor):
    """Has a state on the device, and gives it away."""

    def on_start(self) -> None:
        self.device = device()
        self.state = State(self.device.name)
        self.spare: NDArray[numpy.uint8] | None = None

    @hpo.handles(Ask)
    def on_ask(self, message: Ask, sender: hpo.Address) -> None:
        spare, self.spare = self.spare, None
        snapshot = lower({"state": self.state}, lambda size: spare, copier=self.device.copier)
        self.spare = snapshot.data  # the taker asks again only when it has come
        self.send(sender, Have(snapshot.header), [snapshot.data])


class Taker(hpo.Actor):
    """Fetches the state to its own device, again and again."""

    def on_start(self) -> None:
        self.device = device()
        self.seconds: list[float] = []
        self._ask()

    def _ask(self) -> None:
        self.began = time.perf_counter()
        self.send(hpo.Address(0, "donor"), Ask())

    @hpo.handles(Have)
    def on_have(self, message: Have, sender: hpo.Address, buffers: list[NDArray[numpy.uint8]]) -> None:
        for make in lifts(Snapshot(message.header, buffers[0]), owned=True, copier=self.device.copier).values():
            make()
        wait_for_device()
        self.seconds.append(time.perf_counter() - self.began)
        if len(self.seconds) < WARM + REPEATS:
            self._ask()
        else:
            self.stop_all()


def measure_fetch() -> None:
    """On two ranks."""
    relaunch(2)
    actors = hpo.run_actors(lambda rank, size: {"taker": Taker()} if rank else {"donor": Donor()})
    for actor in actors.values():
        if isinstance(actor, Taker):
            state = State(actor.device.name)
            bare, _ = bare_copies(state)
            header("the same from one rank to another, from device to device")
            line("bare copy to pinned memory", state.size, bare, bare)
            line("openhpo: snapshot, transfer, back to the device", state.size, statistics.median(actor.seconds[WARM:]), bare)


# ---- out of memory


def hungry(trial: hpo.Trial) -> Iterator[dict[str, float]]:
    """Two thirds of the trials fill a part of the memory; the others ask for more than there is."""
    kept = State(trial.device.type)
    if trial["appetite"] == "too much":
        kept.tensors.append(torch.empty(TOO_MUCH, dtype=torch.uint8, device=trial.device))
    yield {"loss": kept.tensors[0].sum().item()}


def measure_recovery() -> None:
    space = hpo.Space({"appetite": hpo.Categorical(["much", "too much", "some"]), "x": hpo.Categorical([1, 2, 3])})
    errors = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(errors):
        began = time.perf_counter()
        found = hpo.run(
            hungry,
            space,
            hpo.Minimize("loss"),
            engine=hpo.Full(1),
            sampler=hpo.Grid(),
            study=Path(folder) / "study",
            device=options.device,
            progress=False,
        )
        seconds = time.perf_counter() - began
        states, failures = found.states, found.failures
    told = [text for text in errors.getvalue().splitlines() if "out of" in text]
    done = sum(state is hpo.State.DONE for state in states)
    print(f"\nout of memory: {len(failures)} of {len(states)} trials ran out of it, {done} were trained, in {seconds:.1f} s")
    print(told[0] if told else "nobody said so")
    if done + len(failures) != len(states) or len(failures) != len(told):
        raise SystemExit("trials that should have been trained were not")


# ---- precision


def measure_precision() -> None:
    here = device()
    arithmetic, width = Arithmetic(here), WIDTHS.get(here.kind, WIDTHS["cuda"])
    layers = [part for _ in range(LAYERS) for part in (torch.nn.Linear(width, width), torch.nn.ReLU())]
    model = torch.nn.Sequential(*layers).to(here.name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rows = torch.randn(BATCH, width, device=here.name)

    def updates() -> None:
        for _ in range(UPDATES):
            with arithmetic.autocast():
                loss = (model(rows) ** 2).mean()
            arithmetic.backward(loss.float(), optimizer)

    print(f"\na training loop: {LAYERS} layers of {width}, batches of {BATCH}, AdamW")
    print(f"{'':10}{'updates a second':>18}{'of fp32':>9}")
    seconds = {}
    for name in PRECISIONS:
        arithmetic.use(name)
        with arithmetic:
            seconds[name] = seconds_of(updates)
        print(f"{name:10}{UPDATES / seconds[name]:18.1f}{seconds['fp32'] / seconds[name]:9.2f}", flush=True)


def main() -> None:
    device()
    measure_copies()
    command = [sys.executable, __file__, "--fetch", "--device", options.device, "--megabytes", str(options.megabytes)]
    subprocess.run(command, check=True, timeout=600)
    measure_recovery()
    measure_precision()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--megabytes", type=int, default=1024, help="size of a state, in MiB")
    parser.add_argument("--fetch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    measure_fetch() if options.fetch else main()
