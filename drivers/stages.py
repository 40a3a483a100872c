"""Stage-based execution against trial-based: the same trials, with what they share trained once, or once a trial.

The experiments of "Stage-based Hyper-parameter Optimization for Deep Learning" (Shin, Shin, Cho, Kim, Jeong, Yu and Chun 2019):

1. Table 1(a), 108 learning-rate schedules over 200 epochs, counted at full size on simulated trainers.
2. The same tree of stages trained on handwritten digits, `--unit` epochs for every 20 of theirs: epochs, wall time, and the
   proof that both ways give the same weights after every epoch of every trial.
3. The same with successive halving, which cuts by three at epochs 16 and 64.
4. Table 1(b), 64 batch-size schedules under ASHA, counted; and simulated on `--cluster` ranks with the memory of a network
   that is larger than one of them holds at the larger batches: a stage gets the ranks that a regression on the memory of
   earlier stages gives it, against trials that each have as many as the largest batch of all needs, from their start.
5. The same trained: a small network on digits, `--growth` epochs for every 30 of theirs, on the ranks there are. A stage gets
   the ranks that have room for its batch, and what trials share is trained once; against trials that each have all ranks that
   the largest batch wants, from their start. `--batches` trains that alone.

For example:

    python drivers/stages.py --ranks 2
    python drivers/stages.py --ranks 4 --batches
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy
import typer
from numpy.typing import NDArray

from openhpo.actors import launched_rank, launched_size
from openhpo.cli.apps import load_app
from openhpo.cli.console import console
from openhpo.cli.main import run_command
from openhpo.cli.plots import pyplot, save
from openhpo.engines import ASHA, Engine, Full, SuccessiveHalving
from openhpo.errors import UserError
from openhpo.hyperparameters import Categorical, Config
from openhpo.launch import run
from openhpo.launcher import relaunch
from openhpo.objective import Minimize
from openhpo.palette import BLUE, ORANGE
from openhpo.report.numbers import Numbers
from openhpo.resources import Profile
from openhpo.samplers import Grid
from openhpo.schedules import Exponential
from openhpo.space import Space
from openhpo.stages import Stage
from openhpo.study import Study
from openhpo.tree import Node

if TYPE_CHECKING:
    from openhpo.result import Result

APP, GROWING = (Path(__file__).resolve().parents[1] / "apps" / f"digits_{name}.py" for name in ("resnet", "batches"))
UNIT = 20  # epochs: the periods of Table 1(a) and its 200 epochs are multiples of it
FULL, TRIALS = 200, 108  # epochs and trials of Table 1(a)
CUTS = (16, 64)  # the epochs at which the paper's successive halving cuts
ETA = 3
BATCH, LONGEST, FIRST_RUNG, GROWTH = 128, 216, 15, 30  # of Table 1(b): the batch at the start, R, r, and epochs till it grows
# Its rates are our choice: eight, by the eight choices of epochs, make the paper's 64 trials, and the batch stays whole.
RATES = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0)
# A made-up network on made-up ranks: 512 images and the weights fit into the memory of one.
IMAGES, IMAGE, WEIGHTS, MEMORY = 50_000, 30e6, 0.6e9, 16e9  # an epoch; bytes an image, of weights, of a rank
OVERHEAD = 64  # images whose time an iteration takes besides: starting it, and averaging gradients
FIRST = 10  # stages that the regression may learn from before it is judged
PUBLISHED = ("6.60x", "4.13x")  # of Table 1(b): how many times fewer GPU-hours, and less time
ALONE, MERGED = "trial by trial", "merged"
COLOURS = {ALONE: ORANGE, MERGED: BLUE}

Curve = Callable[[Config], Sequence[float]]
Link = tuple[tuple[float, float], tuple[float, float]]


class Count(NamedTuple):
    """What a study asks for.

    Attributes:
        epochs: Trained in total.
        time: Until the last trainer is done, in epochs, where nothing but training takes time.
    """

    epochs: int
    time: int


class Fitted(NamedTuple):
    """What a study takes where ranks have limited memory.

    Attributes:
        spent: Ranks times their time of training.
        time: Until the last stage is done.
        stages: Those after the first `FIRST`.
        right: How many of these got the smallest number of ranks on which they fit.
        exhausted: Stages that ran out of memory.
    """

    spent: float
    time: float
    stages: int
    right: int
    exhausted: int


class Pair(NamedTuple):
    """The same study both ways."""

    alone: Any
    merged: Any

    def ratio(self, measure: Callable[[Any], float]) -> str:
        """How many times less it is merged."""
        return f"{measure(self.alone) / measure(self.merged):.2f}x"


class Bar(NamedTuple):
    """A learning rate in force from one epoch to another, in a row of the plot."""

    row: float
    start: int
    stop: int
    rate: float


class Cuts(SuccessiveHalving):
    """Successive halving with rungs at given epochs, which need be no geometric series."""

    def __init__(self, rungs: Sequence[int], reduction_factor: int) -> None:
        super().__init__(rungs[-1], rungs[0], reduction_factor)
        self.rungs = list(rungs)

    def definition(self) -> dict[str, Any]:
        return {**super().definition(), "rungs": self.rungs}


def main(
    unit: Annotated[int, typer.Option(min=1, help="Epochs trained for every 20 of the paper's; 20 is full size.")] = 5,
    images: Annotated[int, typer.Option(min=2, max=1437, help="Images an epoch, and at most as many to validate on.")] = 384,
    trainers: Annotated[int, typer.Option(min=1, help="Simulated trainers, where epochs are only counted.")] = 20,
    cluster: Annotated[int, typer.Option(min=1, help="Simulated ranks, where stages get the ranks that they need.")] = 64,
    counted: Annotated[bool, typer.Option("--counted", help="Count and simulate, and train nothing.")] = False,
    growth: Annotated[int, typer.Option(min=1, help="Epochs trained for every 30 of Table 1(b); 30 is full size.")] = 2,
    batches: Annotated[bool, typer.Option("--batches", help="Train Table 1(b) alone.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything random.")] = 0,
    ranks: Annotated[int | None, typer.Option(help="Start under mpiexec with so many ranks.")] = None,
    study: Annotated[Path, typer.Option(metavar="DIR", help="The folder of studies and plots.")] = Path("runs/stages"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or hpu. Only the CPU promises equal bits.")] = "cpu",
    progress: Annotated[bool, typer.Option(help="Show how it is getting on.")] = True,
) -> None:
    """Train what 108 trials share once, and once a trial: epochs, wall time, and whether the weights are the same bits."""
    pyplot()  # a plot that cannot be drawn is better known before training than after
    relaunch(ranks)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # how a sum is split among threads decides its last bits
    check_divisible(images)
    app = load_app(str(APP))
    whole = app.space.fix({"images": images})

    def train(name: str, engine: Engine, *, merge: bool, unit: int = unit, **options: Any) -> Result:
        assert app.objective is not None
        options = {"progress": progress, "seed": seed, "device": device, "app": app.name, "merge": merge, **options}
        return run(app.train, scaled(whole, unit), app.objective, engine=engine, sampler=Grid(), study=study / name, **options)

    def train_batches() -> Pair:
        options = {"progress": progress, "seed": seed, "device": device}
        return trained_batches(growth, images, study, options)

    if counted:
        if launched_rank() == 0:
            show_counts(count_all(whole, trainers)[0], trainers)
            show_needs(fitted(False, cluster), fitted(True, cluster), cluster)
        return
    if batches:
        grown = train_batches()
        if launched_rank() == 0:
            show_batches(grown)
        return
    # so that neither way pays for imports, data and the libraries' first calls
    train(f"warm-up-{launched_size()}", Full(1), merge=False, trials=min(launched_size(), TRIALS), progress=False)
    if launched_rank() == 0:
        counts, tree = count_all(whole, trainers)
        show_counts(counts, trainers)
        show_needs(fitted(False, cluster), fitted(True, cluster), cluster)
    full, cuts = Full(FULL * unit // UNIT), Cuts(cuts_at(unit), ETA)
    grid = Pair(merged=train("grid-merged", full, merge=True), alone=train("grid-alone", full, merge=False))
    halving = Pair(merged=train("halving-merged", cuts, merge=True), alone=train("halving-alone", cuts, merge=False))
    at_full_size = train("halving-full", Cuts(cuts_at(UNIT), ETA), merge=True, unit=UNIT)
    grown = train_batches()
    if launched_rank() != 0:
        return
    pairs = {"grid": grid, "halving": halving}
    show_trained(pairs)
    agree = [show_proof(name, pair) for name, pair in pairs.items()]
    show_batches(grown)
    show_published(counts, pairs, at_full_size, grown, trainers)
    scale = f"{TRIALS} learning-rate schedules over {full.max_steps} epochs of {images} images"
    print(f"plots: {draw_bars(pairs, scale, study / 'cost.png')}, {draw_tree(tree, study / 'tree.png')}")
    if not all(agree):
        raise typer.Exit(1)


def check_divisible(images: int) -> None:
    """Refuse fewer images than there are ranks, which divide them in Table 1(b)."""
    if images < launched_size():
        raise UserError(f"--images {images} cannot be divided among {launched_size()} ranks: give at least as many")


# ---- counted, not trained


def count_all(space: Space, trainers: int) -> tuple[dict[str, Pair], Study]:
    """Count both tables, both ways; return also the study of Table 1(a), merged, for its tree."""
    batches = batch_space()
    asha, losses = ASHA(LONGEST, FIRST_RUNG, ETA, 0), batch_curve(batches)

    def study(space: Space, engine: Engine, merge: bool) -> Study:
        return Study(space, Minimize("loss"), engine=engine, sampler=Grid(), merge=merge)

    tree, alone = (study(space, Full(FULL), merge) for merge in (True, False))
    rows = {"Table 1(a)": Pair(*(count(each, lambda config: [0.0] * FULL, trainers) for each in (alone, tree)))}
    for number in sorted({trainers, 1}, reverse=True):
        rows[f"Table 1(b), {number}"] = Pair(*(count(study(batches, asha, merge), losses, number) for merge in (False, True)))
    return rows, tree


def count(study: Study, curve: Curve, trainers: int) -> Count:
    """Play a study with trainers that take one unit of time an epoch, and nothing for anything else."""
    idle, busy = deque(range(trainers)), list[tuple[int, int, Stage]]()
    epochs = now = 0
    while True:
        while idle and (stage := study.ask(idle[0])) is not None:
            idle.popleft()
            heapq.heappush(busy, (now + stage.stop - stage.start, stage.id, stage))
        if not busy:
            return Count(epochs, now)
        now, _, stage = heapq.heappop(busy)
        for step in range(stage.start + 1, stage.stop + 1):
            study.tell(stage, step, {"loss": curve(stage.config)[step - 1]})
        study.end(stage)
        epochs += stage.stop - stage.start
        idle.append(stage.ranks[0])


def batch_space() -> Space:
    """Table 1(b)'s batch, which grows three times."""
    return Space({"batch": Exponential(BATCH, Categorical(RATES), [Categorical([GROWTH, 2 * GROWTH])] * 3)})


def fitted(just_fit: bool, cluster: int) -> Fitted:
    """Table 1(b) on simulated ranks of limited memory: stages with what they need, merged; or trials with what the largest
    batch needs, each by itself.
    """
    space = batch_space()
    most = needed(max(RATES) ** 3 * BATCH)
    study = Study(
        space,
        Minimize("loss"),
        engine=ASHA(LONGEST, FIRST_RUNG, ETA, 0),
        sampler=Grid(),
        merge=just_fit,
        ranks_per_trial="auto" if just_fit else min(most, cluster),
    )
    curve, idle, busy = batch_curve(space), deque(range(cluster)), list[tuple[float, int, Stage]]()
    study.allocation.expect(cluster)
    found = Fitted(0.0, 0.0, 0, 0, 0)
    now = 0.0
    while True:
        while idle and (stage := study.ask(*idle)) is not None:
            for rank in stage.ranks:
                idle.remove(rank)
            batch = space.course(stage.config).value("batch", stage.start)
            size = len(stage.ranks)
            fits = taken(batch, size) <= MEMORY
            right = size == min(needed(batch), cluster)
            judged = stage.id >= FIRST
            found = found._replace(stages=found.stages + judged, right=found.right + (judged and right))
            time = seconds(batch, size) * (stage.stop - stage.start) if fits else 0.0
            found = found._replace(spent=found.spent + size * time, exhausted=found.exhausted + (not fits))
            heapq.heappush(busy, (now + time, stage.id, stage))
        if not busy:
            return found._replace(time=now)
        now, _, stage = heapq.heappop(busy)
        end_fitted(study, stage, curve)
        idle.extend(stage.ranks)


def end_fitted(study: Study, stage: Stage, curve: Curve) -> None:
    """A stage has come to its end, or has run out of memory at its start."""
    batch = study.space.course(stage.config).value("batch", stage.start)
    peak = taken(batch, len(stage.ranks))
    if peak > MEMORY:
        study.exhausted(stage)
        study.give_back(stage)
        return
    for step in range(stage.start + 1, stage.stop + 1):
        study.tell(stage, step, {"loss": curve(stage.config)[step - 1]})
    study.profiled(stage, Profile(int(peak), int(MEMORY)))
    study.end(stage)


def taken(batch: float, ranks: int) -> float:
    """Bytes on each of so many ranks that divide a batch."""
    return WEIGHTS + IMAGE * math.ceil(batch / ranks)


def needed(batch: float) -> int:
    """The smallest power of two of ranks that hold a batch."""
    ranks = 1
    while taken(batch, ranks) > MEMORY:
        ranks *= 2
    return ranks


def seconds(batch: float, ranks: int) -> float:
    """An epoch, in units of what one image takes: each iteration costs, besides its images, what OVERHEAD images do."""
    return IMAGES / batch * (OVERHEAD + math.ceil(batch / ranks))


def batch_curve(space: Space) -> Curve:
    """A made-up loss: each epoch takes it towards a floor, the faster the more updates there are; both go with 1 / batch.

    So a batch that grows does what a learning rate that decays does (Smith et al., ICLR 2018).
    """

    @functools.cache
    def losses(config: tuple[tuple[str, Any], ...]) -> list[float]:
        course, loss, found = space.course(dict(config)), 1.0, []
        for epoch in range(LONGEST):
            noise = BATCH / course.value("batch", epoch)
            loss = noise / 4 + (loss - noise / 4) * math.exp(-noise / 10)
            found.append(loss)
        return found

    return lambda config: losses(tuple(config.items()))


# ---- trained


def scaled(space: Space, unit: int) -> Space:
    """Table 1(a)'s space with periods of so many epochs for every 20 of its own."""
    schedule = space.schedules["lr"]
    assert isinstance(schedule, Exponential)
    periods = [Categorical([epochs * unit // UNIT for epochs in period.choices]) for period in schedule.every]
    return Space({**space.fixed, "lr": replace(schedule, every=periods)})


def cuts_at(unit: int) -> list[int]:
    """The rungs of the paper's successive halving, the end included; exact where `unit` is a multiple of 5."""
    return [*(max(1, round(cut * unit / UNIT)) for cut in CUTS), FULL * unit // UNIT]


def trained_batches(growth: int, images: int, folder: Path, options: dict[str, Any]) -> Pair:
    """Train Table 1(b): stages with the ranks that have room for their batch, merged; and trials with all that any wants."""
    app = load_app(str(GROWING))
    objective = app.objective
    assert objective is not None
    schedule = app.space.schedules["batch"]
    assert isinstance(schedule, Exponential)
    space = Space(
        {**app.space.fixed, "images": images, "batch": replace(schedule, every=[Categorical([growth, 2 * growth])] * 3)}
    )
    options = {"sampler": Grid(), "app": app.name, **options}
    there = launched_size()
    # so that neither way pays for imports and the first group of a process
    warm = {**options, "merge": False, "ranks_per_trial": there, "trials": 1, "progress": False}
    run(app.train, space, objective, engine=Full(1), study=folder / f"warm-up-batches-{there}", **warm)

    def train(name: str, **more: Any) -> Result:
        engine = ASHA(round(LONGEST * growth / GROWTH), max(1, round(FIRST_RUNG * growth / GROWTH)), ETA, 0)
        return run(app.train, space, objective, engine=engine, study=folder / f"batches-{name}-{there}", **options, **more)

    return Pair(
        merged=train("stages", merge=True, ranks_per_trial=app.ranks_per_trial),
        alone=train("trials", merge=False, ranks_per_trial=there),
    )


def epochs_of(result: Result) -> int:
    """Epochs trained, whether for one trial or many."""
    return len(result.tables.reports)


def wall_time(result: Result) -> float:
    """Seconds from the start of a study to its end."""
    return float(result.tables.events["time"][-1])


def trainer_time(result: Result) -> float:
    """Seconds that trainers were at work, all together: what GPU-hours are."""
    return float(result.table("trials")["seconds"].sum())


def rank_time(result: Result) -> float:
    """Seconds of stages times their ranks, all together: what GPU-hours are where trials have several."""
    return sum(span.stop - span.start for span in Numbers(result).spans)


def ranks_of(pair: Pair) -> str:
    """On how many ranks a study was trained, perhaps by an earlier run of this."""
    ranks = pair.merged.environment["ranks"]
    return f"{ranks} rank{'s' * (ranks > 1)}"


def fingerprints(result: Result) -> NDArray[numpy.float64]:
    """Of the weights after each epoch of each trial, one after the other; shape [epochs that trial by trial are trained]."""
    prints = result.curves("fingerprint")
    return prints[numpy.isfinite(prints)]


def same(pair: Pair) -> bool:
    """Whether both ways gave every trial the same learning curves, bit for bit, in every metric."""
    merged, alone = pair.merged, pair.alone
    curves = ((result.curves(metric).tobytes() for result in (alone, merged)) for metric in alone.metrics)
    return bool(merged.configs == alone.configs) and all(first == second for first, second in curves)


# ---- what comes out


def show(title: str, caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, texts in the first column and numbers in the others; an empty row is a line."""
    from rich.table import Table

    table = Table(title=f"\n{title}", caption=caption, title_justify="left", caption_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=not place)
    for row in rows:
        if row:
            table.add_row(*row)
        else:
            table.add_section()
    console().print(table)


def show_counts(counts: dict[str, Pair], trainers: int) -> None:
    """Print what the tables of the paper ask for."""

    def row(name: str, pair: Pair) -> list[str]:
        what, _, number = name.partition(", ")
        figures = zip(pair.alone, pair.merged, strict=True)
        cells = ((f"{alone:,}", f"{merged:,}", f"{alone / merged:.2f}x") for alone, merged in figures)
        return [what, number or str(trainers), *itertools.chain(*cells)]

    show(
        "Counted at full size, nothing trained; time in epochs",
        f"Table 1(b): a batch of {BATCH} grows three times, 30 or 60 epochs apart, by one of {len(RATES)} rates of our choice. "
        "The losses that ASHA compares are made up; merged, it promotes other trials than trial by trial.",
        ["", "trainers", "epochs", "merged", "", "time", "merged", ""],
        (row(*item) for item in counts.items()),
    )


def show_needs(trials: Fitted, stages: Fitted, cluster: int) -> None:
    """Print what resources per stage save."""
    largest, right = BATCH * max(RATES) ** 3, f"{stages.right} of {stages.stages} ({stages.right / stages.stages:.0%})"
    compared = (("rank-time, relative", trials.spent, stages.spent), ("time, relative", trials.time, stages.time))
    show(
        f"Table 1(b) on {cluster} simulated ranks of limited memory",
        f"One rank holds {int((MEMORY - WEIGHTS) / IMAGE)} images; a batch grows from {BATCH} to {largest:,.0f}, and "
        f"an iteration costs what {OVERHEAD} images do besides: numbers of our choice. Of stages after the first {FIRST}, "
        f"{right} got the smallest number of ranks that holds them; {stages.exhausted} ran out of memory and were trained on "
        f"more. In the paper: {PUBLISHED[0]} fewer GPU-hours, {PUBLISHED[1]} less time.",
        ["", "trials, each on the most", "stages, on what they need", ""],
        [(name, f"{one:.3g}", f"{other:.3g}", f"{one / other:.2f}x") for name, one, other in compared],
    )


def show_trained(pairs: dict[str, Pair]) -> None:
    """Print what training took."""
    rows = list[Sequence[str]]()
    for name, pair in pairs.items():
        for way, result in ((ALONE, pair.alone), (MERGED, pair.merged)):
            epochs, seconds = epochs_of(result), trainer_time(result)
            times = (f"{wall_time(result):.1f}", f"{seconds:.1f}", f"{1000 * seconds / epochs:.1f}")
            rows.append((f"{name}, {way}", f"{epochs:,}", f"{len(result.tables.stages):,}", *times))
        rows += [("  times less", pair.ratio(epochs_of), "", pair.ratio(wall_time), pair.ratio(trainer_time), ""), ()]
    show(
        f"Trained on {ranks_of(pairs['grid'])}",
        "Trainers' time is how long they were at work, all together.",
        ["", "epochs", "stages", "wall\ntime, s", "trainers'\ntime, s", "ms an\nepoch"],
        rows,
    )


def show_proof(name: str, pair: Pair) -> bool:
    """Print whether both ways agree; return that."""
    agree, prints = same(pair), fingerprints(pair.alone)
    verdict = "equal, bit for bit" if agree else "NOT EQUAL (only the CPU promises it)"
    print(f"\n{name}: curves of all metrics, and the weights after every epoch, are {verdict}:")
    print(f"    {len(prints):,} epochs trial by trial come to {len(numpy.unique(prints)):,} different states of the weights")
    return agree


def show_batches(grown: Pair) -> None:
    """Print what training took where stages get the ranks that have room for their batch."""
    space = load_app(str(GROWING)).space
    courses = [space.course(config) for config in grown.merged.configs]
    first, largest = courses[0].value("batch", 0), max(course.value("batch", LONGEST) for course in courses)

    def sizes(result: Result) -> str:
        """Stages by their number of ranks."""
        found = Counter(len(result.groups.get(stage, (0,))) for stage in result.tables.stages["stage"].tolist())
        return ", ".join(f"{count} on {size}" for size, count in sorted(found.items()))

    ranks, cores = grown.merged.environment["ranks"], os.cpu_count() or 1
    crowded = " Ranks that share a core wait for one another, which makes more of them look worse." if ranks > cores else ""

    def row(name: str, measure: Callable[[Result], float], places: int, published: str) -> list[str]:
        return [name, *(f"{measure(each):,.{places}f}" for each in grown), grown.ratio(measure), published]

    show(
        f"Table 1(b), trained on {ranks_of(grown)}",
        f"A batch of {first:g} grows to up to {largest:,.0f}; a rank has room for {space.fixed['hold']}. "
        f"ASHA decides by who came first, so the two ways train other numbers of epochs. Here are {cores} cores.{crowded}",
        ["", "trials, each on all", "stages, on what they need", "times less", "published"],
        [
            row("rank-seconds", rank_time, 1, PUBLISHED[0]),
            row("time, s", wall_time, 1, PUBLISHED[1]),
            row("epochs", epochs_of, 0, ""),
            ["rank-seconds an epoch", *(f"{rank_time(each) / epochs_of(each):.2f}" for each in grown), "", ""],
            ["stages on so many ranks", *map(sizes, grown), "", ""],
            ["best validation loss", *(f"{each.best.value:.4f}" for each in grown), "", ""],
        ],
    )


def show_published(counts: dict[str, Pair], pairs: dict[str, Pair], full: Result, grown: Pair, trainers: int) -> None:
    """Print the paper's figures beside ours."""
    a, b = (counts[name] for name in ("Table 1(a)", f"Table 1(b), {trainers}"))
    grid, halving = pairs.values()
    epochs, times = ([pair.ratio(what) for pair in (a, b)] for what in (lambda c: c.epochs, lambda c: c.time))
    # trial by trial it makes the same decisions, so there is nothing to train for its count
    survivors = f"{len(fingerprints(full)) / epochs_of(full):.2f}x"
    show(
        "How many times less it is merged: Shin et al. 2019, and here",
        "Resources: GPU-hours in the paper, trainers' time where trained here, epochs at full size. "
        f"Time: with 20 GPUs in the paper, {ranks_of(grid)} where trained here, {trainers} simulated trainer(s) at full size. "
        "What halving saves depends on which trials survive: try other --seed. "
        "For Table 1(b) the paper also gives each stage as many GPUs as it needs, as is done where trained here; at full size "
        "a stage has one trainer (see above).",
        ["", "published", "trained here", "at full size"],
        [
            ("Table 1(a), grid: resources", "3.49x", grid.ratio(trainer_time), epochs[0]),
            ("  time", "2.94x", grid.ratio(wall_time), times[0]),
            ("Table 1(a), halving: resources", "5.73x", halving.ratio(trainer_time), survivors),
            ("Table 1(b), ASHA: resources", PUBLISHED[0], grown.ratio(rank_time), epochs[1]),
            ("  time", PUBLISHED[1], grown.ratio(wall_time), times[1]),
        ],
    )


# ---- plots


def draw_bars(pairs: dict[str, Pair], title: str, path: Path) -> Path:
    """Draw epochs and wall time of both ways side by side."""
    figure, panels = pyplot().subplots(1, 2, figsize=(8, 3.8), layout="constrained", gridspec_kw={"wspace": 0.1})
    whats = ("epochs trained", f"wall time on {ranks_of(pairs['grid'])}, seconds")
    for axes, measure, what in zip(panels, (epochs_of, wall_time), whats, strict=True):
        for place, way in enumerate(COLOURS):
            at = [group + 0.4 * place - 0.2 for group in range(len(pairs))]
            heights = [measure(pair[place]) for pair in pairs.values()]
            bars = axes.bar(at, heights, width=0.38, color=COLOURS[way], label=way)
            axes.bar_label(
                bars, [f"{height:,}" if isinstance(height, int) else f"{height:,.1f}" for height in heights], padding=2
            )
        axes.set_title(what, loc="left", fontsize="medium")
        axes.set_xticks(range(len(pairs)), [f"{name}: {pair.ratio(measure)} less" for name, pair in pairs.items()])
        axes.tick_params(bottom=False)
        axes.set_yticks([])  # the bars are labelled
        axes.margins(y=0.12)
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize="large")
    return save(figure, path)


def draw_tree(study: Study, path: Path) -> Path:
    """Draw all trials beside the tree of their stages, coloured by learning rate; a row is a trial in both."""
    plots = pyplot()
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LogNorm

    rates = rates_of(study)
    alone = [Bar(row, *span) for row, values in enumerate(rates) for span in spans_of(values, 0)]
    merged, links = stages_of(study, rates)
    figure, panels = plots.subplots(1, 2, figsize=(11, 7), sharex=True, sharey=True, layout="constrained")
    panels[1].add_collection(LineCollection(links, colors="0.6", linewidths=0.7))
    for axes, bars, way in zip(panels, (alone, merged), (ALONE, MERGED), strict=True):
        lines = [((bar.start, bar.row), (bar.stop, bar.row)) for bar in bars]
        norm = LogNorm(rates.min(), rates.max())
        colours = LineCollection(lines, array=[bar.rate for bar in bars], norm=norm, cmap="viridis_r", linewidths=3)
        axes.add_collection(colours)
        axes.set_title(f"{way}: {sum(bar.stop - bar.start for bar in bars):,} epochs", loc="left", fontsize="medium")
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(xlim=(-2, FULL), ylim=(len(rates), -1), yticks=[], ylabel=f"{len(rates)} trials of Table 1(a), a row each")
    panels[0].set_xticks(range(0, FULL + 1, 2 * UNIT))
    ticks = {rates.min(), *(10.0**power for power in range(-3, 0)), rates.max()}
    bar = figure.colorbar(colours, ax=panels, label="learning rate", ticks=sorted(ticks), format="{x:g}", shrink=0.6, pad=0.02)
    bar.minorticks_off()
    return save(figure, path)


def rates_of(study: Study) -> NDArray[numpy.float64]:
    """The learning rate of each trial in each epoch, sorted so that trials that share a beginning are neighbours."""
    courses = [study.space.course(trial.config) for trial in study.trials]
    rates = numpy.array([[course.value("lr", epoch) for epoch in range(FULL)] for course in courses])
    return rates[numpy.lexsort(-rates.T[::-1])]


def spans_of(values: NDArray[numpy.float64], start: int) -> Iterator[tuple[int, int, float]]:
    """Where values from epoch `start` on stay the same: the first epoch, the one after the last, the value."""
    ends = [*(numpy.flatnonzero(numpy.diff(values[start:])) + start + 1).tolist(), len(values)]
    for begin, end in zip([start, *ends], ends, strict=False):
        yield begin, end, float(values[begin])


def stages_of(study: Study, rates: NDArray[numpy.float64]) -> tuple[list[Bar], list[Link]]:
    """The stages of a study, each in the middle of the rows of its trials, and lines to each from the one before."""
    bars, links, middle = list[Bar](), list[Link](), dict[Node | None, float]()
    for node in study.tree.nodes():
        values = numpy.array([node.course.value("lr", epoch) for epoch in range(node.stop)])
        row = middle[node] = float(numpy.flatnonzero((rates[:, : node.stop] == values).all(axis=1)).mean())
        bars += [Bar(row, *span) for span in spans_of(values, node.start)]
        if node.start:
            links.append(((node.start, middle[node.parent]), (node.start, row)))
    return bars, links


if __name__ == "__main__":
    run_command(main)
