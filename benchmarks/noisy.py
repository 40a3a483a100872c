"""Searches whose results are noisy: BOHB on counting ones, and what replicates are worth.

Counting ones (Falkner, Klein and Hutter, ICML 2018, section 5.1): 4 categorical and 4 continuous hyperparameters; the loss of a
configuration is -(the sum of the former + the means of b Bernoulli draws with the latter as probabilities), b from 9 to 729.
Printed is the regret of the incumbent, the one with the best loss at the largest budget seen, after so many full budgets.

Replicates: a search of 30 configurations, of which each is trained once, or with three seeds; against it, one of 90 that are
trained once each. The chosen configuration is trained again with 200 new seeds.

Run with: OMP_NUM_THREADS=1 python benchmarks/noisy.py [--seeds 20] [--only ones|replicates]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy

import openhpo as hpo
from openhpo.hyperparameters import Config

LEAST, MOST = 9, 729  # draws of a step, and of all steps of a trial
STEPS = MOST // LEAST
BUDGETS = (5, 10, 20, 50, 100)
HALF = 4  # hyperparameters of each kind
NOISE = 0.2


def ones_space() -> hpo.Space:
    categorical = {f"c{place}": hpo.Categorical([0, 1]) for place in range(HALF)}
    return hpo.Space({**categorical, **{f"x{place}": hpo.Float((0.0, 1.0)) for place in range(HALF)}})


def regret_of(config: Config) -> float:
    return 2 * HALF - sum(float(value) for value in config.values())


def ones(sampler: Callable[[], Any], selects: bool, seed: int) -> list[float]:
    """The incumbent's regret after each budget, of Hyperband with a sampler."""
    engine = hpo.Hyperband(STEPS, 1, 3, select_brackets=selects)
    study = hpo.Study(ones_space(), hpo.Minimize("loss"), engine=engine, sampler=sampler(), trials=20_000, seed=seed)
    rng = numpy.random.default_rng((seed, 1))
    drawn: dict[int, numpy.ndarray[Any, Any]] = {}
    spent, found, best = 0, list[float](), (0, 0.0, 2.0 * HALF)  # steps, loss, regret of the incumbent
    while len(found) < len(BUDGETS):
        stage = study.ask()
        assert stage is not None
        for step in range(stage.start + 1, stage.stop + 1):
            sums = drawn.setdefault(stage.trial, numpy.zeros(HALF))
            sums += rng.binomial(LEAST, [stage.config[f"x{place}"] for place in range(HALF)])
            categories = sum(stage.config[f"c{place}"] for place in range(HALF))
            loss = -float(categories + (sums / (LEAST * step)).sum())
            study.tell(stage, step, {"loss": loss})
            spent += 1
            if (-step, loss) < (-best[0], best[1]):
                best = (step, loss, regret_of(stage.config))
            if len(found) < len(BUDGETS) and spent >= BUDGETS[len(found)] * STEPS:
                found.append(best[2])
        study.end(stage)
    return found


def report_ones(seeds: int) -> None:
    print(f"counting ones, {HALF} + {HALF}, budgets {LEAST} to {MOST}: mean regret over {seeds} seeds (standard error)")
    print(f"{'full budgets':<16}" + "".join(f"{budget:>16}" for budget in BUDGETS))
    with ProcessPoolExecutor() as pool:
        tpe: Callable[[], Any] = partial(hpo.TPE, random_fraction=1 / 3)
        methods = {"Hyperband": (hpo.Random, False), "BOHB": (tpe, True), "BOHB, sweeping": (tpe, False)}
        for name, (sampler, selects) in methods.items():
            values = numpy.array(list(pool.map(partial(ones, sampler, selects), range(seeds))))
            errors = values.std(axis=0, ddof=1) / seeds**0.5
            print(f"{name:<16}" + "".join(f"{m:>9.3f} ({e:.3f})" for m, e in zip(values.mean(axis=0), errors, strict=True)))


def chosen(trials: int, replicates: int, study_seed: int) -> float:
    """What the choice of a search comes to with new seeds; its loss has a standard deviation of `NOISE` from seed to seed."""
    space = hpo.Space({f"x{place}": hpo.Float((0.0, 1.0)) for place in range(3)})

    def loss(config: Config, seed: int) -> float:
        rng = numpy.random.default_rng((seed, *(int(value * 2**40) for value in config.values())))
        distance = sum((float(value) - 0.4) ** 2 for value in config.values())
        return distance + NOISE * float(rng.standard_normal())

    study = hpo.Study(space, hpo.Minimize("loss"), engine=hpo.Full(1), trials=trials, replicates=replicates, seed=study_seed)
    while (stage := study.ask()) is not None:
        study.tell(stage, 1, {"loss": loss(stage.config, stage.seed)})
        study.end(stage)
    assert study.best is not None
    return statistics.fmean(loss(study.best.config, seed) for seed in range(10**6, 10**6 + 200))


def report_replicates(seeds: int) -> None:
    print(f"\nreplicates: mean over {seeds} studies of what the chosen configuration comes to with 200 new seeds")
    once = [chosen(30, 1, seed) for seed in range(seeds)]
    thrice = [chosen(30, 3, seed) for seed in range(seeds)]
    many = [chosen(90, 1, seed) for seed in range(seeds)]
    for label, values in (
        ("30 configurations, once each", once),
        ("30 configurations, 3 seeds each", thrice),
        ("90 configurations, once each", many),
    ):
        better = sum(mine < other for mine, other in zip(thrice, values, strict=True))
        against = "" if values is thrice else f"   3 seeds are better in {better} of {seeds} studies"
        error = statistics.stdev(values) / len(values) ** 0.5
        print(f"{label:<34}{statistics.fmean(values):>8.4f} ({error:.4f}){against}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", choices=["ones", "replicates"])
    options = parser.parse_args()
    if options.only in (None, "ones"):
        report_ones(options.seeds)
    if options.only in (None, "replicates"):
        report_replicates(options.seeds)


if __name__ == "__main__":
    main()
