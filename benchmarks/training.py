"""Steps a second of apps/digits_mlp.py on one rank, against the same training in a plain loop.

The same configurations in the same process with one torch thread, in turn. Timed from the start of the first trial to the end
of the last, so that the time between trials counts; loading the data does not.

Run with: python benchmarks/training.py
"""

import contextlib
import functools
import importlib.util
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import torch

import openhpo as hpo

APP = Path(__file__).parents[1] / "apps" / "digits_mlp.py"
TRIALS, STEPS, PAIRS = 3, 20, 7
AIM = 0.98


class PlainTrial:
    """The least that the training function needs."""

    device = torch.device("cpu")
    autocast = contextlib.nullcontext

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.rng = numpy.random.default_rng(0)

    def __getitem__(self, name: str) -> Any:
        return self.config[name]

    def track(self, **objects: Any) -> None:
        pass

    def backward(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def load_app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_mlp", APP)
    assert spec is not None
    assert spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    app.__dict__["load"] = functools.cache(app.load)
    return app


app = load_app()
times: list[float] = []  # of every trial's start and end
configs: list[Mapping[str, Any]] = []


def train(trial: hpo.Trial) -> Iterator[dict[str, Any]]:
    configs.append(trial.config)
    times.append(time.perf_counter())
    try:
        yield from app.train(trial)
    finally:
        times.append(time.perf_counter())


def framework_seconds(seed: int) -> float:
    times.clear()
    configs.clear()
    with tempfile.TemporaryDirectory() as folder:
        hpo.run(
            train,
            app.space,
            app.objective,
            engine=hpo.Full(max_steps=STEPS),
            trials=TRIALS,
            seed=seed,
            study=Path(folder) / "study",
            device="cpu",
            progress=False,
        )
    assert len(times) == 2 * TRIALS
    return times[-1] - times[0]


def bare_seconds() -> float:
    """The configurations of the last run again, their metrics kept in lists."""
    began = time.perf_counter()
    for config in configs:
        steps = itertools.islice(app.train(PlainTrial(config)), STEPS)
        curves = [{name: value.item() for name, value in metrics.items()} for metrics in steps]
        assert len(curves) == STEPS
    return time.perf_counter() - began


def main() -> None:
    """Run both in turn, the other way round every second time; print medians and the ratio of the pairs."""
    torch.set_num_threads(1)
    framework_seconds(0)  # warm up, and have configurations for the first bare loop
    pairs: list[tuple[float, float]] = []
    for number in range(PAIRS):
        if number % 2:
            bare, ours = bare_seconds(), framework_seconds(0)
        else:
            ours, bare = framework_seconds(0), bare_seconds()
        pairs.append((ours, bare))
    ours, bare = (statistics.median(TRIALS * STEPS / pair[side] for pair in pairs) for side in (0, 1))
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    print(f"{APP.name}, {TRIALS} trials of {STEPS} steps, {torch.get_num_threads()} torch thread, {PAIRS} pairs")
    print(f"{'':34}{'bare loop':>12}{'openhpo':>12}{'ratio':>8}{'aim':>10}")
    print(f"{'steps a second':34}{bare:12.1f}{ours:12.1f}{ratio:8.3f}{f'>= {AIM}':>10}")


main()
