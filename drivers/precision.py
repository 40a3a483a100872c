"""Search methods in full and in reduced precision: run time, test metric, and how much of the speed-up of one training is kept.

The experiment of "Accelerating Hyperparameter Optimization Algorithms with Mixed Precision" (Aach et al. 2023): random search,
ASHA, BOHB and population based training (PBT), each in several precisions and with several seeds. Trials are selected by the
validation metric of the app, on 20 % of its training data, and of the selected one the test metric is told. All methods have
the same number of trials, and a trial the same number of steps at most; PBT decides after every step, which is one epoch.

What each method's speed-up is compared with is that of a bare loop: the same training function, called by itself on the same
device, before each seed's studies, on the configurations that random search begins with. Set-up and the first step do not count
there. Every rank trains so at the same time, as ranks do in a study, and rank 0 takes the time. What is `kept` is a method's
speed-up divided by the bare loop's, at equal numbers of steps: how many steps ASHA, BOHB and PBT train depends, on several
ranks, on who came first, and differs from run to run.

What the trainers' time was spent on follows from the times in the study file, and from the seconds that each step took, which
are measured around the training function and reported as a metric; `openhpo.report.spent` says how. What exploits cost is
shown apart from other stages, which set up and load a model too where a rank trains several members in turns.

For example:

    python drivers/precision.py --ranks 2
    python drivers/precision.py --app apps/autoencoder_pde.py --precisions fp32,bf16 --seeds 5 --ranks 2
"""

from __future__ import annotations

import inspect
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from openhpo.actors import launched_rank, launched_size
from openhpo.cli.apps import App, load_app
from openhpo.cli.console import console
from openhpo.cli.main import run_command
from openhpo.cli.options import pairs, value_of
from openhpo.cli.plots import pyplot, save
from openhpo.engines import ASHA, Engine, Full, Hyperband, PopulationBased
from openhpo.errors import UserError, meant
from openhpo.launch import run
from openhpo.launcher import relaunch
from openhpo.objective import Objective
from openhpo.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from openhpo.place import find_place, gather_on_node, share_threads
from openhpo.report.spent import Spent, spent, trainers
from openhpo.samplers import TPE, Random, Sampler
from openhpo.space import Space
from openhpo.stages import Stage
from openhpo.storage import schema
from openhpo.study import Study
from openhpo.training import Trial
from openhpo.training.devices import Device, look, take
from openhpo.training.metrics import numbers
from openhpo.training.precision import PRECISIONS
from openhpo.training.runner import train_stage

if TYPE_CHECKING:
    from openhpo.result import Result

APP = Path(__file__).resolve().parents[1] / "apps" / "resnet20_cifar.py"
METHODS: Mapping[str, tuple[Callable[[int], Engine], Callable[[], Sampler]]] = {
    "random": (Full, Random),
    "asha": (lambda steps: ASHA(steps, 1, 3), Random),
    "bohb": (lambda steps: Hyperband(steps, 1, 3), lambda: TPE(random_fraction=1 / 3)),
    "pbt": (lambda steps: PopulationBased(steps, 1), Random),
}
FULL = "fp32"  # what speed-ups are relative to, where it is among the precisions
SECONDS = "step_seconds"  # the metric that is added to what the app reports
PARTS = {"training": BLUE, "exploits": VERMILION, "hand-overs": ORANGE, "idle": GREY}
COLOURS = (SKY, GREEN, PURPLE, ORANGE)  # of precisions
PUBLISHED = (  # with mixed precision on A100
    "1.45x, CFD autoencoder",
    "1.07x to 1.13x, CIFAR-10; 1.3x, CFD autoencoder, which keeps 0.90; up to 1.56x, ImageNet",
    "none, or slower; 1.2x with checkpoints every five epochs",
)

Train = Callable[[Trial], Iterator[dict[str, float]]]


class Account(NamedTuple):
    """What a study came to.

    Attributes:
        seconds: Its run time.
        steps: Steps trained, of all trials together.
        test: The test metric of the trial that was selected, at its best step.
        spent: What the trainers' time was spent on.
    """

    seed: int
    seconds: float
    steps: int
    test: float
    spent: Spent


class Row(NamedTuple):
    """A method in one precision, seed by seed; speed-ups are relative to the same seed's in the first precision."""

    method: str
    precision: str
    accounts: Sequence[Account]
    speedups: Sequence[float]
    speedups_of_a_step: Sequence[float]
    kept: Sequence[float]

    @property
    def spent(self) -> Spent:
        """Of all seeds together."""
        return Spent(*map(sum, zip(*(each.spent for each in self.accounts), strict=True)))

    @property
    def shares(self) -> list[float]:
        """What parts of the trainers' time went into training, exploits, other hand-overs and nothing."""
        parts = self.spent[: len(PARTS)]
        return [part / sum(parts) for part in parts]


class Bare:
    """What stands in for a trainer where there is none, and takes the time."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def put(self, step: int, metrics: dict[str, float]) -> bool:
        self._seconds.append(metrics[SECONDS])
        return True

    def between(self, trial: Trial) -> bool:
        return True

    def rest(self, trial: Trial) -> None:
        return None

    @property
    def seconds(self) -> float:
        """Of a step: the mean of all but the first, which warms up, where there are others."""
        return statistics.fmean(self._seconds[1:] or self._seconds)


def main(
    app: Annotated[
        Path, typer.Option(metavar="APP", help="The training code.", show_default="apps/resnet20_cifar.py, on digits")
    ] = APP,
    method: Annotated[list[str] | None, typer.Option(help="One of the methods.", show_default="all")] = None,
    precisions: Annotated[str, typer.Option(help="Which ones, with commas between them.")] = "fp32,bf16",
    trials: Annotated[int, typer.Option(min=4, help="Trials of a study, or members of a population.")] = 12,
    steps: Annotated[int, typer.Option(min=1, help="Steps that a trial trains for at most.")] = 9,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 3,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Fix a hyperparameter of APP, such as batches=2.")
    ] = None,
    test_metric: Annotated[
        str | None, typer.Option(metavar="METRIC", help="What is told of the selected trial.", show_default="test_ for val_")
    ] = None,
    bare_steps: Annotated[int, typer.Option(min=1, help="Steps of each configuration in the bare loop.")] = 3,
    ranks: Annotated[int | None, typer.Option(help="Start under mpiexec with so many ranks.")] = None,
    study: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the studies.")] = Path("runs/precision"),
    device: Annotated[str, typer.Option(help="The kind of device to train on: auto, cpu, cuda or hpu.")] = "auto",
) -> None:
    """Compare methods in several precisions: run time, test metric, and what is kept of the speed-up of a bare loop."""
    pyplot()  # a plot that cannot be drawn is better known before training than after
    chosen, kinds = methods_of(method), precisions_of(precisions)
    relaunch(ranks)
    share_threads(find_place().threads)  # before the app imports torch
    code, objective = code_of(app)
    metric = test_metric or str(objective.metric).replace("val_", "test_", 1)
    space = code.space.fix({name: value_of(text) for name, text in pairs(set_, "--set").items()})
    train = timed(code.train)

    def search(name: str, engine: Engine, sampler: Sampler, precision: str, seed: int = 0, trials: int = trials) -> Result:
        result = run(
            train, space, objective, engine=engine, sampler=sampler, trials=trials, seed=seed, precision=precision,
            study=study / name, device=device, progress=False, app=code.name,
        )  # fmt: skip
        if not result.finished:
            raise UserError(
                f"{result.path} was stopped before its end, so its times say nothing: remove it, and run this again"
            )
        return result

    # so that no study pays for imports, data and the libraries' first calls
    size = launched_size()
    for kind in kinds:
        warm = search(f"warm-up-{kind}-{size}", Full(1), Random(), kind, trials=size)
    if metric not in warm.metrics:
        raise UserError(f"{app} reports no {metric!r}, but {', '.join(warm.metrics)}: say which one with --test-metric")
    place = take(gather_on_node(look(device)), find_place().local_rank)
    alone: list[dict[str, float]] = []
    results: dict[tuple[str, str], list[Result]] = {(name, kind): [] for name in chosen for kind in kinds}
    for seed in range(seeds):
        order = kinds[:: -1 if seed % 2 else 1]  # what comes first may be slower or faster
        stages = first_stages(space, objective, trials, min(bare_steps, steps), seed)
        alone.append(bare_of(study / f"bare-{seed}.json", kinds, partial(bare_seconds, train, space, stages, order, place)))
        for name in chosen:
            engine, sampler = METHODS[name]
            for kind in order:
                results[name, kind].append(search(f"{name}-{kind}-{seed}", engine(steps), sampler(), kind, seed))
        if launched_rank() == 0:
            print(f"seed {seed}: done", file=sys.stderr, flush=True)
    if launched_rank() == 0:
        tell(results, {kind: [each[kind] for each in alone] for kind in kinds}, metric, code.name, study)


def code_of(app: Path) -> tuple[App, Objective]:
    """The training code, and what it optimises.

    Raises:
        UserError: It lacks something that the driver needs.
    """
    code = load_app(str(app))
    if code.objective is None or not inspect.isgeneratorfunction(code.train):
        raise UserError(f"{app} has to define `objective`, and a `train` that yields: the driver takes the time of its steps")
    return code, code.objective


def methods_of(names: Sequence[str] | None) -> list[str]:
    """The methods that are named; all where none is.

    Raises:
        UserError: One of them does not exist.
    """
    for name in names or ():
        if name not in METHODS:
            raise UserError(f"there is no method {name!r} here; there are {', '.join(METHODS)}.{meant(name, METHODS)}")
    return list(dict.fromkeys(names or METHODS))


def precisions_of(text: str) -> list[str]:
    """The precisions that are named, full precision first.

    Raises:
        UserError: One of them does not exist, or there are fewer than two.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in PRECISIONS:
            raise UserError(f"there is no precision {name!r}; there are {', '.join(PRECISIONS)}.{meant(name, PRECISIONS)}")
    if len(names) < 2:
        raise UserError("--precisions takes two at least, such as fp32,bf16")
    return sorted(names, key=lambda name: name != FULL)


# ---- taking the time


def timed(train: Callable[[Trial], Any]) -> Train:
    """The same training, which reports the seconds of each step too: without the set-up, and with all that the device does."""

    def steps(trial: Trial) -> Iterator[dict[str, float]]:
        track, began = trial.track, perf_counter()

        def tracked(**objects: Any) -> None:
            nonlocal began
            track(**objects)
            began = perf_counter()

        trial.track = tracked  # type: ignore[method-assign]
        with closing(train(trial)) as metrics:
            for reported in metrics:
                found = numbers(reported)  # waits for the device
                yield {**found, SECONDS: perf_counter() - began}
                began = perf_counter()

    return steps


def first_stages(space: Space, objective: Objective, trials: int, steps: int, seed: int) -> list[Stage]:
    """So many steps of each of the trials that random search with a seed begins with."""
    study = Study(space, objective, engine=Full(steps), sampler=Random(), trials=trials, seed=seed, merge=False)
    return [stage for number in range(trials) if (stage := study.ask(number)) is not None]


def bare_seconds(train: Train, space: Space, stages: Sequence[Stage], kinds: Sequence[str], device: Device) -> dict[str, float]:
    """Seconds of a step in each precision, without a study: the mean over stages, each trained in all precisions in turn."""

    def once(stage: Stage, kind: str) -> float:
        port = Bare()
        train_stage(train, Trial(stage, device, port, kind, course=space.course(stage.config)))
        return port.seconds

    found = [{kind: once(stage, kind) for kind in kinds} for stage in stages]
    return {kind: statistics.fmean(each[kind] for each in found) for kind in kinds}


def bare_of(path: Path, kinds: Sequence[str], measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a bare loop takes, or took when the studies that lie beside the file were made."""
    found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    if not found.keys() >= set(kinds):
        found = measure()
        if launched_rank() == 0:
            path.with_suffix(".part").write_text(json.dumps(found))
            path.with_suffix(".part").replace(path)  # complete, as another rank may look for it
    return found


# ---- what studies came to


def account(result: Result, seed: int, metric: str) -> Account:
    """What a study came to, from its file.

    Raises:
        UserError: It was interrupted, or no trial has a result.
    """
    best = result.best
    if best is None:
        raise UserError(f"no trial of {result.path} has a finite {result.objective.metric}")
    seconds, steps = float(result.tables.events["time"][-1]), len(result.tables.reports)
    return Account(seed, seconds, steps, result.metrics_of(best).get(metric, math.nan), spent(result, SECONDS))


def place_of(results: Sequence[Result], folder: Path) -> tuple[int, str]:
    """On how many ranks, and on which kind of device, the studies were trained.

    Raises:
        UserError: Not all on the same.
    """
    places = set()
    for result in results:
        events = result.tables.events[result.tables.events["kind"] == schema.READY.encode()]
        texts = [result.tables.text(int(event["text_at"]), int(event["text_size"])) for event in events]
        kinds = {str(json.loads(text)["device"]).partition(":")[0] for text in texts}
        places.add((trainers(result), " and ".join(sorted(kinds))))
    if len(places) > 1:
        ran = ", ".join(f"{size} x {kind}" for size, kind in sorted(places))
        raise UserError(f"the studies in {folder} were trained on {ran}, and cannot be compared: take another --study")
    return places.pop()


def compared(accounts: Mapping[tuple[str, str], Sequence[Account]], alone: Mapping[str, Sequence[float]]) -> list[Row]:
    """Speed-ups of each method and precision, relative to the first precision."""
    first, rows = next(iter(alone)), []
    for (method, kind), mine in accounts.items():
        before = accounts[method, first]
        speedups = [a.seconds / b.seconds for a, b in zip(before, mine, strict=True)]
        steps = [speedup * b.steps / a.steps for speedup, a, b in zip(speedups, before, mine, strict=True)]
        kept = [step / bare for step, bare in zip(steps, faster(alone, kind), strict=True)]
        rows.append(Row(method, kind, mine, speedups, steps, kept))
    return rows


def faster(alone: Mapping[str, Sequence[float]], kind: str) -> list[float]:
    """Speed-ups of the bare loop, seed by seed."""
    return [a / b for a, b in zip(next(iter(alone.values())), alone[kind], strict=True)]


def spread(values: Sequence[float], digits: str = ".3g", of_error: str = ".2g") -> str:
    """Mean, and standard deviation where there are several."""
    error = f" ± {statistics.stdev(values):{of_error}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{digits}}{error}"


# ---- what comes out


def tell(
    results: Mapping[tuple[str, str], Sequence[Result]],
    alone: Mapping[str, Sequence[float]],
    metric: str,
    app: str,
    folder: Path,
) -> None:
    """Print, write and draw what all studies came to."""
    size, place = place_of([each for several in results.values() for each in several], folder)
    accounts = {pair: [account(each, seed, metric) for seed, each in enumerate(several)] for pair, several in results.items()}
    rows, seeds = compared(accounts, alone), len(next(iter(accounts.values())))
    what = f"{app} on {size} trainer{'s' * (size > 1)}, {place}, {seeds} seed{'s' * (seeds > 1)}: mean ± standard deviation"
    show_times(rows, alone, metric, what)
    show_parts(rows)
    show_published(rows, alone)
    if place == "cpu":
        print(
            "\nMeasured on a CPU, where arithmetic in bf16 may be slower than in fp32: these speed-ups tell nothing of an\n"
            "accelerator. What is kept tells what the methods cost beside training."
        )
    written = write(rows, alone, metric, {"app": app, "device": place, "trainers": size}, folder / "precision.json")
    print(f"figures: {written}; plot: {draw(rows, alone, place, folder / 'precision.png')}")


def show(title: str, caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, wide: bool = True) -> None:
    """Print a table, texts in the first two columns and numbers in the others; a line between methods."""
    from rich.table import Table

    table = Table(title=f"\n{title}", caption=caption, title_justify="left", caption_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place > 1 else "left", no_wrap=wide)
    for method, several in itertools.groupby(rows, key=lambda row: row[0]):
        table.add_section()
        for place, (_, *cells) in enumerate(several):
            table.add_row("" if place else method, *cells)
    console().print(table)


def show_times(rows: Sequence[Row], alone: Mapping[str, Sequence[float]], metric: str, title: str) -> None:
    """Print run times, speed-ups and test metrics."""
    first = next(iter(alone))

    def ratios(values: Sequence[float], kind: str) -> str:
        return "1" if kind == first else spread(values, ".2f", ".2f")

    bare = [
        ("bare loop", kind, f"a step: {statistics.fmean(seconds):.3g}", "", "", ratios(faster(alone, kind), kind), "", "")
        for kind, seconds in alone.items()
    ]
    studies = [
        (
            *(row.method, row.precision, spread([each.seconds for each in row.accounts])),
            f"{statistics.fmean(each.steps for each in row.accounts):.0f}",
            f"{statistics.fmean(row.speedups):.2f}",
            *(ratios(values, row.precision) for values in (row.speedups_of_a_step, row.kept)),
            spread([each.test for each in row.accounts]),
        )
        for row in rows
    ]
    show(
        title,
        f"Speed-ups are relative to the same seed in {first}: of the run time, and of it divided by the steps, which differ "
        "where what is trained next depends on who came first. Kept: the speed-up a step divided by the bare loop's.",
        ["method", "in", "run time, s", "steps", "speed-up", "a step", "kept", metric],
        [*bare, *studies],
    )


def show_parts(rows: Sequence[Row]) -> None:
    """Print what the trainers' time was spent on."""

    def cell(share: float, seconds: float, many: int) -> str:
        return f"{share:.1%}: {many} x {1000 * seconds / many:.1f} ms" if many else "-"

    show(
        "What the trainers' time was spent on",
        "Exploits: stages that began with another trial's model, without their steps; hand-overs: other stages, likewise.",
        ["method", "precision", *PARTS],
        (
            (
                *(row.method, row.precision, f"{row.shares[0]:.1%}"),
                cell(row.shares[1], row.spent.exploits, row.spent.exploit_count),
                cell(row.shares[2], row.spent.handovers, row.spent.handover_count),
                f"{row.shares[3]:.1%}",
            )
            for row in rows
        ),
    )


def show_published(rows: Sequence[Row], alone: Mapping[str, Sequence[float]]) -> None:
    """Print the published speed-ups beside these."""
    found: list[Sequence[str]] = []
    for kind in list(alone)[1:]:
        found.append(("a training by itself", PUBLISHED[0], kind, f"{statistics.fmean(faster(alone, kind)):.2f}", ""))
        for name, published in zip(("random, asha, bohb", "pbt"), PUBLISHED[1:], strict=True):
            mine = [row for row in rows if row.precision == kind and row.method in name]
            speedups, kept = ([row.speedups_of_a_step for row in mine], [row.kept for row in mine])
            cells = (", ".join(f"{statistics.fmean(each):.2f}" for each in several) for several in (speedups, kept))
            if mine:
                found.append((name, published, kind, *cells))
    show(
        "Speed-ups, published (run time) and here (a step)", "", ["", "Aach et al. 2023", "here", "", "kept"], found, wide=False
    )


def write(rows: Sequence[Row], alone: Mapping[str, Sequence[float]], metric: str, what: Mapping[str, Any], path: Path) -> Path:
    """Write all figures, seed by seed; return where they are."""
    first = next(iter(alone))
    bare = {kind: {"seconds_of_a_step": each, "speedups": faster(alone, kind)} for kind, each in alone.items()}
    found = [
        {
            "method": row.method,
            "precision": row.precision,
            "speedups": row.speedups,
            "speedups_of_a_step": row.speedups_of_a_step,
            "kept": row.kept,
            "runs": [{**each._asdict(), "spent": each.spent._asdict()} for each in row.accounts],
        }
        for row in rows
    ]
    path.write_text(json.dumps({**what, "relative_to": first, "test_metric": metric, "bare": bare, "methods": found}, indent=2))
    return path


def draw(rows: Sequence[Row], alone: Mapping[str, Sequence[float]], place: str, path: Path) -> Path:
    """Draw the speed-ups beside those of the bare loop, and what the trainers' time was spent on."""
    plots = pyplot()
    first, *others = alone
    methods = list(dict.fromkeys(row.method for row in rows))
    figure, (left, right) = plots.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    width = 0.8 / len(others)
    for number, kind in enumerate(others):
        places = [spot + (number - (len(others) - 1) / 2) * width for spot in range(len(methods))]
        found = [row.speedups_of_a_step for row in rows if row.precision == kind]
        errors = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in found]
        colour = COLOURS[number % len(COLOURS)]
        left.bar(places, list(map(statistics.fmean, found)), 0.9 * width, yerr=errors, capsize=3, color=colour, label=kind)
        ends = [[spot + side * width / 2 for spot in places] for side in (-1, 1)]
        label = "" if number else "bare loop"
        left.hlines(
            [statistics.fmean(faster(alone, kind))] * len(places),
            *ends,
            colors=BLACK,
            linestyles="--",
            linewidth=1.5,
            label=label,
        )
    left.axhline(1, color=GREY, linewidth=0.8)
    left.set_xticks(range(len(methods)), methods)
    left.set(ylabel=f"speed-up of a step over {first}", xlabel=f"on {place}")
    left.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(alone))
    labels = [f"{row.method}, {row.precision}" for row in rows]
    begin = [0.0] * len(rows)
    for number, (part, colour) in enumerate(PARTS.items()):
        shares = [row.shares[number] for row in rows]
        right.barh(labels, shares, left=begin, color=colour, label=part)
        begin = [sum(pair) for pair in zip(begin, shares, strict=True)]
    right.invert_yaxis()
    right.set(xlabel="share of the trainers' time", xlim=(0, 1))
    right.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(PARTS))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


if __name__ == "__main__":
    run_command(main)
