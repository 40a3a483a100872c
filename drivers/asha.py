"""Asynchronous successive halving against the sequential one: arithmetic, simulated strong scaling, and real training.

The system of "Parallelizing Hyperparameter Tuning in Artificial Neural Networks" (Han, Jiang): n models train for one epoch,
the better half of each rung goes on to twice as many, up to n epochs; an idle OpenMP thread takes the highest promotion there
is, else a new model, and every promotion trains from scratch. Here promotions go on from where a model paused, on any number
of MPI ranks. ASHA itself is Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020).

With --ranks N what is really trained is trained on one rank first, and then on N. For example:

    python drivers/asha.py --ranks 2
    python drivers/asha.py --models 1024 --most-trainers 4096 --spread 4
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

import openhpo as hpo
from openhpo.actors import launched_rank, launched_size
from openhpo.cli.console import console
from openhpo.cli.main import run_command
from openhpo.cli.plots import pyplot, save
from openhpo.errors import UserError
from openhpo.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from openhpo.replaying import simulate

if TYPE_CHECKING:
    from openhpo.hyperparameters import Config
    from openhpo.result import Result

ETA = 2
DIGITS = Path(__file__).parent.parent / "apps" / "digits_mlp.py"
ENGINES: dict[str, type[hpo.SuccessiveHalving | hpo.ASHA]] = {"SH": hpo.SuccessiveHalving, "ASHA": hpo.ASHA}
EPOCH = 0.01  # seconds of virtual time that the fastest model's epoch takes, about what one of apps/digits_mlp.py does
SHOWN = 32  # trainers in the figure of rung populations, the most threads that were published

# Published (Han, Jiang): seconds of sequential halving by models, and the speed-up over that by threads
PUBLISHED_SECONDS = {128: 4 * 60 + 25.73, 256: 9 * 60 + 30.85}
PUBLISHED_SPEED_UPS = {
    128: {4: 1.21, 8: 1.60, 16: 2.74, 32: 3.02},
    256: {4: 1.27, 8: 1.84, 16: 3.19, 32: 3.57},
}
# Published for 512 models without a sequential time: seconds by threads
PUBLISHED_512 = {4: 16 * 60 + 42, 8: 11 * 60 + 16, 16: 8 * 60 + 7, 32: 5 * 60 + 46}
# What they cite of another implementation: over 1,000 models, 25 workers
CITED_MODELS, CITED_WORKERS, CITED_SPEED_UP = 1024, 25, 10.0

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)

# A made-up learning curve that falls from floor + scale towards floor, and how slow an epoch is, from 0 to 1
SPACE = hpo.Space(
    {
        "floor": hpo.Float((0.0, 1.0)),
        "scale": hpo.Float((0.1, 1.0)),
        "rate": hpo.Float((0.3, 1.0)),
        "slowness": hpo.Float((0.0, 1.0)),
    }
)


def curve(config: Config, step: int) -> Mapping[str, float]:
    """The made-up loss after so many epochs."""
    return {"loss": config["floor"] + config["scale"] / step ** config["rate"]}


def main(
    models: Annotated[
        list[int] | None, typer.Option(help="Models in the first rung, a power of 2.", show_default="128, 256 and 512")
    ] = None,
    most_trainers: Annotated[int, typer.Option(help="Simulate 1, 2, 4, ... trainers up to this many.")] = 1024,
    spread: Annotated[
        float, typer.Option(help="How many times longer the slowest model's epoch takes than the fastest's.")
    ] = 1.0,
    app: Annotated[str, typer.Option(help="What is really trained.", show_default="apps/digits_mlp.py")] = str(DIGITS),
    train_models: Annotated[int, typer.Option(help="Models in the first rung of the real training.")] = 128,
    train_steps: Annotated[int, typer.Option(help="Steps of the last rung of the real training.")] = 128,
    repeats: Annotated[int, typer.Option(help="Seeds of the real training.")] = 3,
    study: Annotated[str, typer.Option(metavar="DIR", help="Where studies and figures go.")] = "runs/asha",
    seed: Annotated[int, typer.Option(help="Decides everything random.")] = 0,
    ranks: Annotated[int | None, typer.Option(help="Start under mpiexec with so many ranks.")] = None,
) -> None:
    """Compare asynchronous with sequential halving: counted, simulated up to 1,024 trainers, and trained on these ranks."""
    pyplot()  # so that what is missing is missed now, and not after the training
    sizes = models or [128, 256, 512]
    for size in sizes:
        if size < ETA or size & (size - 1):
            raise UserError(f"--models has to be a power of 2, as the epochs of a rung are twice those of the last, not {size}")
    if spread < 1:
        raise UserError(f"--spread says how many times longer, and has to be at least 1, not {spread}")
    folder = Path(study)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core a rank, however many ranks there are
    train(app, train_models, train_steps, repeats, seed, folder)
    from openhpo.launcher import relaunch

    relaunch(ranks)
    if launched_rank() != 0:
        return
    trainers = [1 << power for power in range(most_trainers.bit_length()) if 1 << power <= most_trainers]
    console().print(arithmetic(sizes))
    for size in sizes:
        console().print(scaling(size, trainers, spread, seed))
    console().print(measured(folder, train_models, train_steps))
    figures = [draw_speed_ups(sizes, trainers, spread, seed, folder), draw_ladder(max(sizes), trainers, spread, seed, folder)]
    console().print(comparison(sizes, spread, seed))
    for figure in figures:
        print(f"figure: {figure}")


# ---- counted


@dataclass(frozen=True)
class Ladder:
    """What sequential halving asks for, in epochs of one model.

    Attributes:
        rungs: How many models train up to so many epochs, by epochs.
        scratch: All epochs, where each promotion trains from scratch.
        continued: All epochs, where it goes on from where the model paused.
        scratch_path: The longest chain of epochs that wait for each other, from scratch: no number of trainers is faster.
        continued_path: The same where promotions go on.
    """

    rungs: dict[int, int]
    scratch: int
    continued: int
    scratch_path: int
    continued_path: int


@cache
def ladder(models: int) -> Ladder:
    """Drive a study by hand, and count what it asks for."""
    study = hpo.Study(SPACE, hpo.Minimize("loss"), engine=hpo.SuccessiveHalving(models, 1, ETA), trials=models)
    stages = []
    while (stage := study.ask()) is not None:
        for step in range(stage.start + 1, stage.stop + 1):
            study.tell(stage, step, curve(stage.config, step))
        study.end(stage)
        stages.append(stage)
    rungs = Counter(stage.stop for stage in stages)
    starts = {stage.stop: stage.start for stage in stages}
    return Ladder(
        rungs=dict(rungs),
        scratch=sum(stage.stop for stage in stages),
        continued=sum(stage.stop - stage.start for stage in stages),
        scratch_path=sum(rungs.keys()),  # a rung begins when the one before it is decided
        continued_path=sum(stop - start for stop, start in starts.items()),
    )


def arithmetic(sizes: Sequence[int]) -> Any:
    """The table of what there is to train."""
    table = grid_of(
        *("models", "epochs,\nscratch", "critical\npath", "most\nspeed-up"),
        *("epochs,\ncontinued", "critical\npath", "most\nspeed-up", "over\nscratch"),
        title="\nSequential halving, counted: n models in rungs of 1, 2, 4, ..., n epochs",
    )
    for size in sizes:
        found = ladder(size)
        table.add_row(
            *(str(size), f"{found.scratch:,}", f"{found.scratch_path:,}", times(found.scratch / found.scratch_path)),
            *(f"{found.continued:,}", f"{found.continued_path:,}", times(found.continued / found.continued_path)),
            times(found.scratch / found.continued_path),
        )
    return table


# ---- simulated


@dataclass(frozen=True)
class Run:
    """A simulated study; times are in epochs of the fastest model.

    Attributes:
        makespan: From its start to its end.
        work: Training, of all trainers together.
        longest: Training of the one model that took longest: no number of trainers is faster.
        trainers: How many there were.
        rungs: How many models reached so many epochs, by epochs.
    """

    makespan: float
    work: float
    longest: float
    trainers: int
    rungs: dict[int, int]

    @property
    def bound(self) -> float:
        """What no order of this work can beat."""
        return max(self.longest, self.work / self.trainers)

    @property
    def utilisation(self) -> float:
        """The part of the trainers' time that went into training."""
        return self.work / (self.makespan * self.trainers)


@cache
def simulated(method: str, models: int, trainers: int, spread: float, seed: int, *, scratch: bool = False) -> Run:
    """Run the real coordinator in virtual time.

    Args:
        method: A key of ENGINES.
        models: In the first rung, and the epochs of the last.
        trainers: How many ranks train.
        spread: How much longer an epoch of the slowest model takes than one of the fastest.
        seed: The study's.
        scratch: Train every promotion from scratch.
    """

    def pace(config: Config, step: int) -> float:
        # from scratch, the s epochs from s to 2 s cost 2 s of them
        return EPOCH * float(spread ** config["slowness"]) * (2 if scratch and step > 1 else 1)

    def study() -> hpo.Study:
        return hpo.Study(SPACE, hpo.Minimize("loss"), engine=ENGINES[method](models, 1, ETA), trials=models, seed=seed)

    found = simulate(study, curve, pace, trainers)
    reached = [trial.step for trial in found.study.trials]
    longest = max(sum(pace(trial.config, step) for step in range(1, trial.step + 1)) for trial in found.study.trials)
    rungs = {step: sum(r >= step for r in reached) for step in ladder(models).rungs}
    return Run(found.makespan / EPOCH, found.busy / EPOCH, longest / EPOCH, trainers, rungs)


def baseline(models: int, spread: float, seed: int, *, scratch: bool) -> float:
    """Epochs that one trainer takes for sequential halving."""
    return simulated("SH", models, 1, spread, seed, scratch=scratch).makespan


def scaling(models: int, trainers: Sequence[int], spread: float, seed: int) -> Any:
    """The table of simulated strong scaling."""
    table = grid_of(
        "trainers",
        *(f"{method}\n{name}" for method in ENGINES for name in ("makespan/\nbound", "speed-up", "over\nscratch")),
        "ASHA\nepochs",
        title=f"\n{models} models simulated: makespan and bound in epochs",
        caption="The bound is the larger of the longest model and all epochs by trainers. ASHA trains more of them than "
        f"SH's {simulated('SH', models, 1, spread, seed).work:,.0f}, as it promotes a model before it knows of better ones.",
    )
    continued, scratch = (baseline(models, spread, seed, scratch=which) for which in (False, True))
    for count in trainers:
        cells = []
        for method in ENGINES:
            run = simulated(method, models, count, spread, seed)
            cells += [f"{run.makespan:.0f}/{run.bound:.0f}"]
            cells += [times(continued / run.makespan), times(scratch / run.makespan)]
        table.add_row(str(count), *cells, f"{simulated('ASHA', models, count, spread, seed).work:,.0f}")
    return table


# ---- trained


def train(path: str, models: int, steps: int, repeats: int, seed: int, folder: Path) -> None:
    """Train by both methods on the ranks of this job, after a study that takes the time of imports; all ranks call this."""
    from openhpo.place import find_place, share_threads

    share_threads(find_place().threads)  # before the app imports torch

    from openhpo.cli.apps import load_app

    app = load_app(path)
    if app.objective is None:
        raise UserError(f"{path} has no `objective` to compare by")
    ranks = launched_size()
    warm = folder / f"{ranks}-ranks" / f"warm-up-{models}-{steps}"
    hpo.run(app.train, app.space, app.objective, engine=hpo.Full(1), trials=2 * ranks, study=warm, progress=False, app=app.name)
    for number in range(seed, seed + repeats):
        for method, engine in ENGINES.items():
            hpo.run(
                app.train,
                app.space,
                app.objective,
                engine=engine(steps, 1, ETA),
                trials=models,
                study=place(folder, ranks, method, models, steps) / f"seed-{number}",
                seed=number,
                progress=False,
                app=app.name,
            )


def place(folder: Path, ranks: int | str, method: str, models: int, steps: int) -> Path:
    """Where the studies of one method and number of ranks lie."""
    return folder / f"{ranks}-ranks" / f"{method.lower()}-{models}-models-{steps}-steps"


def measured(folder: Path, models: int, steps: int) -> Any:
    """The table of real training, for every number of ranks that this folder has seen."""
    table = grid_of(
        *("ranks", "method", "runs", "steps\ntrained", "seconds", "speed-up", "steps a\nsecond", "first trained\nto the end"),
        "best\nvalue",
        title=f"\n{models} models trained here for up to {steps} steps: means",
        caption="The speed-up is over the same method on one rank.",
    )
    folders = folder.glob(place(Path(), "*", "*", models, steps).as_posix())
    one: dict[str, float] = {}
    for ranks in sorted({int(found.parent.name.split("-")[0]) for found in folders}):
        for method in ENGINES:
            paths = sorted(place(folder, ranks, method, models, steps).glob("seed-*"))
            runs = [result for result in map(hpo.load, paths) if result.finished and result.best is not None]
            if not runs:
                continue
            work = mean(len(run.tables.reports) for run in runs)
            seconds = mean(float(run.tables.events["time"][-1]) for run in runs)
            if ranks == 1:
                one[method] = seconds
            table.add_row(
                *(str(ranks), method, str(len(runs)), f"{work:,.0f}", f"{seconds:.2f}"),
                *(times(one[method] / seconds) if method in one else "-", f"{work / seconds:.0f}"),
                f"{mean(first_end(run, steps) for run in runs):.2f}",
                f"{mean(run.best.value for run in runs if run.best is not None):.4f}",
            )
    return table


def first_end(result: Result, steps: int) -> float:
    """Seconds until the first model had trained to the last rung."""
    reports = result.tables.reports
    return float(reports["time"][reports["step"] == steps].min())


# ---- published


def comparison(sizes: Sequence[int], spread: float, seed: int) -> Any:
    """The published table beside what is simulated here."""
    table = grid_of(
        *("models", "threads\nor\ntrainers", "published\nwall time", "published\nspeed-up"),
        *("simulated\nASHA from\nscratch", "simulated\nASHA,\ncontinued", "simulated\nSH,\ncontinued"),
        title="\nSpeed-up over one trainer's halving from scratch: published, and simulated here",
    )
    for models, threads, seconds, speed_up in published():
        if models not in sizes and models != CITED_MODELS:
            continue
        scratch = baseline(models, spread, seed, scratch=True)
        theirs = simulated("ASHA", models, threads, spread, seed, scratch=True)
        ours = [simulated(method, models, threads, spread, seed) for method in ("ASHA", "SH")]
        table.add_row(
            *(str(models), str(threads), seconds, speed_up),
            *(times(scratch / run.makespan) for run in (theirs, *ours)),
        )
    table.caption = (
        "~: no sequential time was published for 512 models; taken here is what their epochs took with 128 and 256. "
        f"The row of {CITED_MODELS} models is of another implementation that they cite, with over 1,000 models."
    )
    return table


def published() -> Iterator[tuple[int, int, str, str]]:
    """Published rows: models, threads, wall time and speed-up."""
    for models, speed_ups in PUBLISHED_SPEED_UPS.items():
        for threads, speed_up in speed_ups.items():
            yield models, threads, clock(PUBLISHED_SECONDS[models] / speed_up), times(speed_up)
    an_epoch = mean(seconds / ladder(models).scratch for models, seconds in PUBLISHED_SECONDS.items())
    for threads, seconds in PUBLISHED_512.items():
        yield 512, threads, clock(seconds), f"~{times(ladder(512).scratch * an_epoch / seconds)}"
    yield CITED_MODELS, CITED_WORKERS, "-", times(CITED_SPEED_UP)


def grid_of(*columns: str, title: str, caption: str = "") -> Any:
    """A table of numbers that is narrow enough for a log."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, title=title, caption=caption, caption_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def times(factor: float) -> str:
    return f"{factor:.2f}x"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


# ---- figures


def draw_speed_ups(sizes: Sequence[int], trainers: Sequence[int], spread: float, seed: int, folder: Path) -> Path:
    """Speed-up against trainers: over sequential halving, and over that from scratch with the published points."""
    figure, panels = pyplot().subplots(1, 2, figsize=(11.5, 5.2), layout="constrained", sharex=True, sharey=True)
    for axes, scratch in zip(panels, (False, True), strict=True):
        for size, colour in zip(sizes, COLOURS, strict=False):
            one = baseline(size, spread, seed, scratch=scratch)
            for method, line in (("ASHA", "-"), ("SH", "--")):
                speed_ups = [one / simulated(method, size, count, spread, seed).makespan for count in trainers]
                axes.plot(
                    trainers,
                    speed_ups,
                    line,
                    color=colour,
                    marker="." if method == "ASHA" else "",
                    label=f"{method}, {size} models",
                )
            longest = simulated("SH", size, 1, spread, seed).longest
            axes.axhline(one / longest, color=colour, linestyle=":", linewidth=1)
            if scratch and size in PUBLISHED_SPEED_UPS:
                points = PUBLISHED_SPEED_UPS[size]
                axes.plot(
                    *(points.keys(), points.values(), "D"),
                    color=colour,
                    markeredgecolor="black",
                    label=f"published, {size} models",
                )
        axes.plot(trainers, trainers, color=GREY, linewidth=1, label="as many as trainers")
        axes.plot([], [], ":", color=GREY, linewidth=1, label="bound: the longest model")
        decorate(axes, trainers)
        axes.set_title(
            f"over one trainer that {'trains every promotion from scratch' if scratch else 'continues models'}",
            fontsize="medium",
        )
    panels[0].set_yscale("log", base=2)
    panels[0].set_ylim(0.4, 14)
    panels[0].set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    panels[0].set_ylabel("speed-up over sequential halving")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return save(figure, folder / "speed-up.png")


def draw_ladder(models: int, trainers: Sequence[int], spread: float, seed: int, folder: Path) -> Path:
    """How many models reach each rung, and how busy trainers are."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(11.5, 4.2), width_ratios=(3, 2), layout="constrained")
    steps = list(ladder(models).rungs)
    for place_of, (method, colour) in enumerate(zip(ENGINES, COLOURS, strict=False)):
        rungs = simulated(method, models, SHOWN, spread, seed).rungs
        bars = left.bar(
            [at + 0.4 * place_of - 0.2 for at in range(len(steps))], list(rungs.values()), 0.38, color=colour, label=method
        )
        left.bar_label(bars, fontsize=7, color=colour)
        used = [100 * simulated(method, models, count, spread, seed).utilisation for count in trainers]
        right.plot(trainers, used, "-" if method == "ASHA" else "--", color=colour, marker=".", label=method)
    left.set_yscale("log", base=2)
    left.set_yticks([1 << power for power in range(0, models.bit_length(), 2)])
    left.yaxis.set_major_formatter("{x:.0f}")
    left.set_xticks(range(len(steps)), [str(step) for step in steps])
    left.set_xlabel("rung: epochs trained")
    left.set_ylabel("models that reach it")
    left.set_title(f"{models} models on {SHOWN} trainers", fontsize="medium")
    decorate(right, trainers)
    right.set_ylim(0, 105)
    right.set_ylabel("trainers' time spent in training (%)")
    right.set_title(f"{models} models", fontsize="medium")
    for axes in (left, right):
        axes.legend(frameon=False)
    return save(figure, folder / "rungs.png")


def decorate(axes: Any, trainers: Sequence[int]) -> None:
    """A horizontal axis of trainers."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(trainers, [str(count) for count in trainers], fontsize="small")
    axes.minorticks_off()
    axes.set_xlabel("trainers (simulated)")
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    run_command(main)
