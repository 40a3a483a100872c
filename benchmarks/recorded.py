"""Searches on recorded learning curves: who has found the better configuration after so many epochs.

A trial trains the recorded configuration that is nearest to the suggested one, by place in their ranges, and that the search
has not trained yet; that is what the searching method is told of. What is counted is epochs (of TaskSet: points of a
curve) that somebody trained; a continued trial costs only its new ones. 1 on the scale of budgets is one training to the end.
The incumbent is the smallest validation loss that a study has seen. "ASHA from 2" begins with two epochs, as Hyperband does: a
27th of a curve. Methods are ranked for each task and seed (1 is the best, ties share), and ranks are averaged over the tasks;
the standard error is over seeds.

FOLDER holds taskset/*.json.gz (TaskSet, adam8p_wide_grid_1k) and lcbench_surrogate/*.npz (a surrogate of LCBench).

Run with: OMP_NUM_THREADS=1 python benchmarks/recorded.py FOLDER [--seeds 10] [--workers 1|8] [--method NAME] [--tasks TEXT]
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

import openhpo as hpo
from openhpo.hyperparameters import Config
from openhpo.samplers.base import Suggest
from openhpo.stages import TrialRecord

BUDGETS = (4, 8, 20, 81)
PLENTY = 100_000  # trials
TASKSET: dict[
    str, tuple[hpo.Float, Callable[[dict[str, float]], float]]
] = {  # of the recorded hyperparameters, what is searched, and how the records say it
    "learning_rate": (hpo.Float((1e-8, 9.8), log=True), lambda hp: hp["learning_rate"]),
    "one_minus_beta1": (hpo.Float((1e-4, 1.0), log=True), lambda hp: 1 - hp["beta1"]),
    "one_minus_beta2": (hpo.Float((1e-6, 1.0), log=True), lambda hp: 1 - hp["beta2"]),
    "epsilon": (hpo.Float((1e-10, 1e3), log=True), lambda hp: hp["epsilon"]),
    "l1": (hpo.Float((1e-8, 10.0), log=True), lambda hp: hp["l1"]),
    "l2": (hpo.Float((1e-8, 10.0), log=True), lambda hp: hp["l2"]),
    "linear_decay": (hpo.Float((1e-7, 1e-4), log=True), lambda hp: hp["linear_decay"]),
    "exponential_decay": (hpo.Float((1e-6, 1e-3), log=True), lambda hp: hp["exponential_decay"]),
}


@dataclass
class Task:
    """A table of curves.

    Attributes:
        name: What it is called.
        space: What may be tried.
        configs: What was tried, a configuration for each record.
        losses: [record, epoch].
    """

    name: str
    space: hpo.Space
    configs: list[dict[str, float]]
    losses: NDArray[numpy.float64]

    def place(self, config: Mapping[str, Any]) -> list[float]:
        """In the unit cube."""
        return [self.space.rules.unit(name, config[name]) for name in self.space.free]

    @cached_property
    def tree(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree([self.place(config) for config in self.configs])

    @cached_property
    def rows(self) -> dict[tuple[float, ...], int]:
        return {tuple(config[name] for name in self.space.free): row for row, config in enumerate(self.configs)}

    def row(self, config: Mapping[str, Any]) -> int:
        """Of a recorded configuration."""
        return self.rows[tuple(config[name] for name in self.space.free)]

    def nearest(self, config: Mapping[str, Any], tried: set[int]) -> dict[str, float]:
        """The nearest recorded configuration that was not tried; it counts as tried from then on."""
        wanted = 1
        while True:
            _, rows = self.tree.query(self.place(config), k=min(wanted, len(self.configs)))
            row = next((int(row) for row in numpy.atleast_1d(rows) if int(row) not in tried), None)
            if row is None and wanted < len(self.configs):
                wanted *= 4
                continue
            if row is None:  # all of them were
                tried.clear()
                continue
            tried.add(row)
            return self.configs[row]

    @property
    def epochs(self) -> int:
        return len(self.losses[0])


def tasks(folder: Path) -> Iterator[Task]:
    space = hpo.Space({name: item for name, (item, _) in TASKSET.items()})
    for path in sorted((folder / "taskset").glob("*.json.gz")):
        with gzip.open(path, "rt") as file:
            records = json.load(file)
        low_high = [(item.bounds, value) for item, value in TASKSET.values()]
        values = [[min(max(value(r["hp"]), low), high) for (low, high), value in low_high] for r in records]
        configs = [dict(zip(TASKSET, row, strict=True)) for row in values]
        losses = numpy.array([record["valid"]["loss"] for record in records], float)[:, 1:]
        losses[~numpy.isfinite(losses)] = 1e9
        yield Task(path.name.removeprefix("FixedTextRNNClassification_imdb_").split(".")[0], space, configs, losses)
    for path in sorted((folder / "lcbench_surrogate").glob("*.npz")):
        table = numpy.load(path)
        names, metrics = table["config_columns"].tolist(), table["metric_columns"].tolist()
        items: dict[str, Any] = {}
        for column, name in enumerate(names):
            low, high = float(table["configs"][:, column].min()), float(table["configs"][:, column].max())
            items[str(name)] = hpo.Float((low, high), log=low > 0 and high / low > 100)
        space = hpo.Space(items)
        configs = [dict(zip(items, map(float, row), strict=True)) for row in table["configs"]]
        metric = next(place for place, name in enumerate(metrics) if "cross_entropy" in str(name) and "val" in str(name))
        for key in table.files:
            if key.startswith("task_"):
                yield Task(f"lcbench {key[5:]}", space, configs, table[key][:, :, metric].astype(float))


class OfRecorded:
    """A sampler whose suggestions are moved to recorded configurations."""

    def __init__(self, sampler: Any, task: Task) -> None:
        self.sampler, self.task = sampler, task

    def bind(self, space: hpo.Space, seed: int) -> Suggest:
        return Moved(self.sampler.bind(space, seed), self.task)

    def definition(self) -> dict[str, Any]:
        return {"recorded": self.sampler.definition()}


class Moved(Suggest):
    def __init__(self, suggest: Suggest, task: Task) -> None:
        self.suggest, self.task, self.tried = suggest, task, set[int]()

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config | None:
        config = self.suggest(number, history, rng)
        return config and self.task.nearest(config, self.tried)

    def ready(self, number: int, history: Sequence[TrialRecord]) -> bool:
        return self.suggest.ready(number, history)


# ---- searches: each yields the loss of every epoch that is trained


def ours(engine: Callable[[int], Any], sampler: Callable[[], Any], task: Task, seed: int, workers: int) -> Iterator[float]:
    """A study with trainers that take turns, an epoch each."""
    made = engine(task.epochs)
    study = hpo.Study(
        task.space,
        hpo.Minimize("loss"),
        engine=made,
        sampler=OfRecorded(sampler(), task),
        trials=PLENTY,
        seed=seed,
        merge=False,  # once all configurations were trained, what is trained again costs what it costs the others
    )
    order, busy = count(), list[tuple[int, int, int, Any, int]]()
    idle, now = list(range(workers)), 0
    while True:
        while idle and (stage := study.ask(idle[0])) is not None:
            heapq.heappush(busy, (now + 1, next(order), idle.pop(0), stage, task.row(stage.config)))
        now, _, worker, stage, row = heapq.heappop(busy)
        step = study.reported(stage) + 1
        loss = float(task.losses[row, step - 1])
        yield loss
        if study.tell(stage, step, {"loss": loss}) is hpo.Verdict.STOP or step == stage.stop:
            study.end(stage)
            idle.append(worker)
        else:
            heapq.heappush(busy, (now + 1, next(order), worker, stage, row))


def moved(inner: Any, task: Task, distributions: dict[str, Any]) -> Any:
    """A sampler of Optuna's whose suggestions are moved to recorded configurations."""
    import optuna

    tried = set[int]()

    class Moved(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            self.relative = inner.infer_relative_search_space(study, trial)
            return distributions

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            given = inner.sample_relative(study, trial, self.relative)
            for name, distribution in distributions.items():  # in their order, or else a seed draws other points each time
                if name not in given:
                    given[name] = inner.sample_independent(study, trial, name, distribution)
            return dict(task.nearest(given, tried))

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            raise AssertionError("all of them are sampled together")

        def before_trial(self, study: Any, trial: Any) -> None:
            inner.before_trial(study, trial)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            inner.after_trial(study, trial, state, values)

    return Moved()


def optunas(pruner: str, sampler: str, task: Task, seed: int, workers: int) -> Iterator[float]:
    """A study of Optuna, which trains a trial until it prunes it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    epochs = task.epochs
    pruners = {
        "": optuna.pruners.NopPruner(),
        "hyperband": optuna.pruners.HyperbandPruner(1, epochs, 3),
        "halving": optuna.pruners.SuccessiveHalvingPruner(1, 3),
    }
    more: dict[str, Any] = {"multivariate": True, "constant_liar": workers > 1} if sampler == "TPESampler" else {}
    floats = ((name, item) for name, item in task.space.hyperparameters.items() if isinstance(item, hpo.Float))
    distributions: dict[str, Any] = {
        name: optuna.distributions.FloatDistribution(item.bounds[0], item.bounds[1], item.log) for name, item in floats
    }
    made = moved(getattr(optuna.samplers, sampler)(seed=seed, **more), task, distributions)
    study = optuna.create_study(sampler=made, pruner=pruners[pruner], study_name=str(seed))  # decides on brackets
    order, busy = count(), list[tuple[int, int, Any, int, int]]()
    for _ in range(workers):
        trial = study.ask(distributions)
        heapq.heappush(busy, (1, next(order), trial, task.row(trial.params), 1))
    while True:
        now, _, trial, row, step = heapq.heappop(busy)
        loss = float(task.losses[row, step - 1])
        yield loss
        trial.report(loss, step)
        if step == epochs:
            study.tell(trial, min(task.losses[row]))
        elif trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            heapq.heappush(busy, (now + 1, next(order), trial, row, step + 1))
            continue
        trial = study.ask(distributions)
        heapq.heappush(busy, (now + 1, next(order), trial, task.row(trial.params), 1))


hyperband = partial(hpo.Hyperband, min_steps=1, reduction_factor=3)
Search = Callable[[Task, int, int], Iterator[float]]
METHODS: dict[str, tuple[Search, int]] = {  # and the largest budget that its cost allows
    "random": (partial(ours, hpo.Full, hpo.Random), 81),
    "ASHA": (partial(ours, lambda steps: hpo.ASHA(steps, 1, 3), hpo.Random), 81),
    "Hyperband": (partial(ours, hyperband, hpo.Random), 81),
    "BOHB": (partial(ours, partial(hyperband, select_brackets=True), partial(hpo.TPE, random_fraction=1 / 3)), 81),
    "BOHB, sweeping": (partial(ours, hyperband, partial(hpo.TPE, random_fraction=1 / 3)), 81),
    "ASHA, TPE": (partial(ours, lambda steps: hpo.ASHA(steps, 1, 3), hpo.TPE), 81),
    "ASHA from 2": (partial(ours, lambda steps: hpo.ASHA(steps, 2, 3), hpo.Random), 81),
    "ASHA from 2, GP": (partial(ours, lambda steps: hpo.ASHA(steps, 2, 3), hpo.GaussianProcess), 20),
    "Optuna TPE, Hyperband": (partial(optunas, "hyperband", "TPESampler"), 81),
    "Optuna TPE, halving": (partial(optunas, "halving", "TPESampler"), 81),
    "Optuna GP": (partial(optunas, "", "GPSampler"), 81),
}


def incumbents(name: str, task: Task, workers: int, most: int, seed: int) -> list[float]:
    """The incumbent at each budget; NaN beyond what the method goes to."""
    search, limit = METHODS[name]
    budgets = [budget * task.epochs for budget in BUDGETS if budget <= min(most, limit)]
    found, best = [], math.inf
    for epoch, loss in enumerate(search(task, seed, workers), 1):
        best = min(best, loss)
        if epoch in budgets:
            found.append(best)
        if epoch == budgets[-1]:
            break
    return found + [math.nan] * (len(BUDGETS) - len(found))


def report(label: str, found: dict[str, NDArray[numpy.float64]], chosen: list[int]) -> None:
    """Print mean ranks over some of the tasks; `found` is [task, seed, budget] by method."""
    from scipy.stats import rankdata

    values = numpy.stack([found[name][chosen] for name in found])  # [method, task, seed, budget]
    print(f"\n{label}: mean rank (standard error over seeds) at budgets of so many full trainings")
    print(f"{'':<24}" + "".join(f"{budget:>16}" for budget in BUDGETS))
    ranks = numpy.full(values.shape, numpy.nan)
    for place in range(len(BUDGETS)):
        there = [method for method in range(len(values)) if numpy.isfinite(values[method, :, :, place]).all()]
        if there:
            ranks[there, :, :, place] = rankdata(values[there, :, :, place], axis=0)
    for method, name in enumerate(found):
        cells = []
        for place in range(len(BUDGETS)):
            of_seeds = ranks[method, :, :, place].mean(axis=0)
            error = of_seeds.std(ddof=1) / math.sqrt(len(of_seeds)) if len(of_seeds) > 1 else math.nan
            cells.append(f"{of_seeds.mean():>9.2f} ({error:.2f})" if numpy.isfinite(of_seeds).all() else f"{'-':>16}")
        print(f"{name:<24}" + "".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--most", type=int, default=BUDGETS[-1], help="the largest budget")
    parser.add_argument("--method", action="append", choices=list(METHODS), help="all by default")
    parser.add_argument("--tasks", default="", help="only tasks whose name has this in it")
    options = parser.parse_args()
    table = [task for task in tasks(options.folder) if options.tasks in task.name]
    found = {}
    with ProcessPoolExecutor() as pool:
        for name in options.method or METHODS:
            began = time.perf_counter()
            runs = [
                pool.submit(incumbents, name, task, options.workers, options.most, seed)
                for task in table
                for seed in range(options.seeds)
            ]
            values = numpy.array([run.result() for run in runs])
            found[name] = values.reshape(len(table), options.seeds, len(BUDGETS))
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    groups: dict[str, list[int]] = {"TaskSet": [], "LCBench": []}
    for place, task in enumerate(table):
        groups["LCBench" if task.name.startswith("lcbench") else "TaskSet"].append(place)
    for label, chosen in groups.items():
        if chosen:
            report(f"{label}, {len(chosen)} tasks, {options.workers} workers, {options.seeds} seeds", found, chosen)
    if all(groups.values()):
        report("all tasks", found, list(range(len(table))))


if __name__ == "__main__":
    main()
