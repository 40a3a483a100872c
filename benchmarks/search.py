"""How good suggestions are, and what one costs: TPE and the Gaussian process against Optuna's.

Regret is the best value found less the optimum, of Branin (2 dimensions, optimum 0.397887) and Hartmann-6 (-3.322368), as in
the collection of Surjanovic and Bingham, "Virtual Library of Simulation Experiments"; the settings of `hpo.TPE` were found on
other functions. "16 ranks" is a study on as many simulated ranks with trials that take from 0.5 to 1.5 s, so that each
suggestion is made while 15 trials run; "to its own" compares it with the sequential search of as many trials, and "to what it
could know" with that of 15 trials fewer: whoever suggests the last one has seen no more results. "sooner" is how many times
longer the sequential search takes until it has what 16 ranks have when all these trials ended. Optuna's is asked and told by
as many workers in the same way; its TPE counts what runs as bad (`constant_liar`, its default since 5.0). All searches see
the same seeds. The times are CPU times of this thread, for a suggestion after so many trials in 8 dimensions. Latency is the
time from the end of a trial to the beginning of the next one on a rank that does not wait for the model, while that is fitted
to 500 trials in the thread beside it, against a random search.

Run with: OMP_NUM_THREADS=1 python benchmarks/search.py [--seeds 20] [--only tpe|gp|cost|latency]
"""

from __future__ import annotations

import argparse
import heapq
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

import openhpo as hpo
from openhpo.hyperparameters import Config
from openhpo.keyed import key
from openhpo.objective import Score
from openhpo.replaying import simulate
from openhpo.stages import TrialRecord

Floats = NDArray[numpy.float64]

TRIALS = (50, 100)
RANKS = 16
PARALLEL_AIM = 2.0  # times the sequential regret
OBSERVED = {1_000: 1.0, 10_000: 10.0}  # trials: ms that a suggestion of TPE may take after them
FITTED = {100: 3000.0, 500: 3000.0}  # the same of the Gaussian process
DIMENSIONS = 8
REPEATS = 30


def branin(x: Sequence[float]) -> float:
    a, b = 15 * x[0] - 5, 15 * x[1]
    valley = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10 - 0.397887


WEIGHTS = numpy.array([1.0, 1.2, 3.0, 3.2])
SHARPNESS = numpy.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
PEAKS = numpy.array(
    [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ]
)


def hartmann(x: Sequence[float]) -> float:
    return 3.322368 - float(WEIGHTS @ numpy.exp(-(SHARPNESS * (numpy.asarray(x) - PEAKS) ** 2).sum(axis=1)))


FUNCTIONS: dict[str, tuple[Callable[[Sequence[float]], float], int]] = {"Branin": (branin, 2), "Hartmann-6": (hartmann, 6)}


def space_of(dimensions: int) -> hpo.Space:
    return hpo.Space({f"x{place}": hpo.Float((0.0, 1.0)) for place in range(dimensions)})


def pace_of(seed: int, values: Sequence[float]) -> float:
    """Seconds that a trial takes."""
    return 0.5 + key(seed, hash(tuple(values))) / 2**64


def course(losses: Sequence[float], paces: Sequence[float], ranks: int) -> Floats:
    """The least loss of so many trials, and when they have all ended; each begins on the rank that is free first.

    Returns:
        Shape [2, trials].
    """
    free, ends = [0.0] * ranks, []
    for pace in paces:
        ends.append(heapq.heappop(free) + pace)
        heapq.heappush(free, ends[-1])
    return numpy.array([numpy.minimum.accumulate(losses), numpy.maximum.accumulate(ends)])


def ours(name: str, sampler: Callable[[], Any], ranks: int, seed: int) -> Floats:
    """The course of a study on so many simulated ranks."""
    function, dimensions = FUNCTIONS[name]

    def curve(config: Config, step: int) -> dict[str, float]:
        return {"loss": function(list(config.values()))}

    def pace(config: Config, step: int) -> float:
        return pace_of(seed, list(config.values()))

    def study() -> hpo.Study:
        return hpo.Study(
            space_of(dimensions), hpo.Minimize("loss"), engine=hpo.Full(1), sampler=sampler(), trials=TRIALS[-1], seed=seed
        )

    trials = simulate(study, curve, pace, ranks).study.trials
    return course([trial.score.loss for trial in trials], [pace(trial.config, 1) for trial in trials], ranks)


def optunas(name: str, sampler: str, ranks: int, seed: int) -> Floats:
    """The same of a sampler of Optuna."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")  # multivariate is experimental
    function, dimensions = FUNCTIONS[name]
    more = {"multivariate": True} if sampler == "TPESampler" else {}
    study = optuna.create_study(sampler=getattr(optuna.samplers, sampler)(seed=seed, **more))
    running: list[tuple[float, int, Any, float]] = []
    now = 0.0
    for _ in range(TRIALS[-1]):
        if len(running) == ranks:
            now, _, ended, loss = heapq.heappop(running)
            study.tell(ended, loss)
        trial = study.ask()
        point = [trial.suggest_float(f"x{place}", 0.0, 1.0) for place in range(dimensions)]
        heapq.heappush(running, (now + pace_of(seed, point), trial.number, trial, function(point)))
    for _, _, ended, loss in running:
        study.tell(ended, loss)
    trials = study.trials
    losses = [trial.value for trial in trials if trial.value is not None]
    return course(losses, [pace_of(seed, list(trial.params.values())) for trial in trials], ranks)


MODELS: dict[str, tuple[str, Callable[[], Any], str]] = {
    "tpe": ("TPE", hpo.TPE, "TPESampler"),
    "gp": ("GP", hpo.GaussianProcess, "GPSampler"),
}


def report_regret(model: str, seeds: int) -> None:
    label_of, sampler, peer = MODELS[model]
    print(
        f"\n{label_of}: median regret over {seeds} seeds (quartiles) after {' and '.join(map(str, TRIALS))} trials", flush=True
    )
    at, fewer = numpy.array(TRIALS) - 1, numpy.array(TRIALS) - RANKS  # places in a curve
    with ProcessPoolExecutor() as pool:
        for name in FUNCTIONS:
            runs: dict[str, Callable[[int], Floats]] = {
                "Optuna, sequential": partial(optunas, name, peer, 1),
                f"Optuna, {RANKS} ranks": partial(optunas, name, peer, RANKS),
                f"{label_of}, sequential": partial(ours, name, sampler, 1),
                f"{label_of}, {RANKS} ranks": partial(ours, name, sampler, RANKS),
            }
            medians, times = {}, {}
            for label, run in runs.items():
                courses = numpy.array(list(pool.map(run, range(seeds))))
                medians[label], times[label] = numpy.median(courses, axis=0)
                low, high = numpy.quantile(courses[:, 0, at], (0.25, 0.75), axis=0)
                cells = [f"{m:8.2g} ({a:.2g} to {b:.2g})" for m, a, b in zip(medians[label][at], low, high, strict=True)]
                print(f"  {name:11s} {label:22s} {'   '.join(cells)}", flush=True)
            theirs, theirs_together, alone, together = medians.values()
            compare(name, "to Optuna's", alone[at], theirs[at], 1.0)
            compare(name, f"{RANKS} ranks to Optuna's {RANKS}", together[at], theirs_together[at], 1.0)
            compare(name, f"{RANKS} ranks to its own", together[at], alone[at], PARALLEL_AIM)
            compare(name, f"{RANKS} ranks to what it could know", together[at], alone[fewer], PARALLEL_AIM)
            *_, one, many = times.values()
            as_good = numpy.searchsorted(-alone, -together[at]).tolist()  # the places; one too far where it never is that good
            sooner = one[numpy.minimum(as_good, len(one) - 1)] / many[at]
            than = ["more than " * (place == len(one)) for place in as_good]
            cells = [f"{more}{ratio:.1f}" for more, ratio in zip(than, sooner, strict=True)]
            print(f"  {name:11s} {RANKS} ranks come there {' and '.join(cells)} times sooner")


def compare(name: str, what: str, found: Floats, bound: Floats, aim: float) -> None:
    verdict = "met" if (found <= aim * bound).all() else "NOT met"
    times = " and ".join(f"{ratio:.2f}" for ratio in found / bound)
    print(f"  {name:11s} {what}: {times} times; aim: at most {aim:g}, {verdict}", flush=True)


def observed(rng: numpy.random.Generator, number: int) -> TrialRecord:
    config = {f"x{place}": float(value) for place, value in enumerate(rng.random(DIMENSIONS))}
    score = Score(0.0, sum((value - 0.3) ** 2 for value in config.values()) + 0.05 * float(rng.standard_normal()))
    record = TrialRecord(number, config, hpo.State.DONE, 1, score, score, 1)
    record.losses.append(score.loss)
    return record


def cost(sampler: Any, count: int, repeats: int) -> tuple[float, float]:
    """CPU seconds of the first suggestion after so many trials; the median of those that follow, each with one trial more."""
    rng = numpy.random.default_rng(0)
    suggest, history, times = sampler.bind(space_of(DIMENSIONS), 0), [observed(rng, number) for number in range(count)], []
    for _ in range(repeats):
        history.append(observed(rng, len(history)))
        begin = time.thread_time()
        suggest(len(history), history, rng)
        times.append(time.thread_time() - begin)
    return times[0], statistics.median(times[1:])


def report_cost() -> None:
    for label, sampler, counts in (("TPE", hpo.TPE(), OBSERVED), ("GP", hpo.GaussianProcess(), FITTED)):
        for count, aim in counts.items():
            first, taken = (1e3 * seconds for seconds in cost(sampler, count, REPEATS if label == "TPE" else 4))
            verdict = "met" if taken < aim else "NOT met"
            print(
                f"{label}: a suggestion after {count:,} trials: {taken:.2f} ms (first {first:.0f}), aim {aim:g}: {verdict}",
                flush=True,
            )


class Crowded(hpo.GaussianProcess):
    """A Gaussian process that has seen 500 trials before the first one."""

    def bind(self, space: hpo.Space, seed: int) -> Any:
        rng = numpy.random.default_rng(0)
        known = [observed(rng, number) for number in range(500)]
        suggest = super().bind(space, seed)
        inner = suggest.__class__.__call__

        class Told(suggest.__class__):  # type: ignore[name-defined, misc]
            def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Any:
                return inner(self, number, [*known, *history], rng)

        suggest.__class__ = Told
        return suggest


def gaps(sampler: Any) -> list[float]:
    """Seconds between trials on this process's only rank, which trains, coordinates and suggests."""
    ends: list[float] = []
    found: list[float] = []

    def train(trial: hpo.Trial) -> Any:
        if ends:
            found.append(time.perf_counter() - ends[-1])
        begin = time.perf_counter()
        while time.perf_counter() < begin + 0.01:
            pass
        ends.append(time.perf_counter())
        yield {"loss": trial["x0"]}

    with tempfile.TemporaryDirectory() as folder:
        hpo.run(
            train,
            space_of(DIMENSIONS),
            hpo.Minimize("loss"),
            engine=hpo.Full(1),
            sampler=sampler,
            trials=400,
            study=Path(folder) / "study",
            progress=False,
        )
    return sorted(found[20:])


def report_latency() -> None:
    print("\nms from the end of a trial to the next one's begin, on one rank: median, 99 %, most")
    for label, sampler in (("random", hpo.Random()), ("GP, not waited for", Crowded(wait=False))):
        found = gaps(sampler)
        cells = (found[len(found) // 2], found[int(0.99 * len(found))], found[-1])
        print(f"  {label:20s}" + "".join(f"{1e3 * cell:9.2f}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", choices=["tpe", "gp", "cost", "latency"])
    options = parser.parse_args()
    if options.only in (None, "cost"):
        report_cost()
    if options.only in (None, "latency"):
        report_latency()
    for model in MODELS:
        if options.only in (None, model):
            report_regret(model, options.seeds)


if __name__ == "__main__":
    main()
