"""Population based training: the toy of its paper, and schedules of learning rates against random search.

The method and the toy are those of "Population Based Training of Neural Networks" (Jaderberg et al. 2017). Learning rates that
evolve in an MPI job, where the least fit quarter becomes changed copies of the most fit one, are of "Neural Network
Hyperparameter Optimization with MagmaDNN and OpenDIEL" (Ouyang, McBride, Febbo, Wong, Tomov, Yin). In four parts:

1. The toy, seed by seed, beside grid search. Its steps take no time, so that its two members would not overlap on two ranks as
   real trainings do: rank 0 plays it alone, in turns, with the engine and the states of any study.
2. Population based training (PBT) against random search. With the same seed both begin with the same configurations; random
   search gets as many trials as PBT's steps pay for, rounded up. Both select and score on the same validation set.
3. What each seed's winners were trained with, PBT's schedule and random search's constants, on fresh models of another seed.
4. The schedule of the best seed, written to a file, and trained with once more, which gives the member's value again.

For example:

    python drivers/pbt.py --ranks 2

On several ranks members overlap, and how they do decides whom a member is compared with: results vary a little from run to run
there, and not at all on one rank.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy
import typer
from numpy.typing import NDArray

from openhpo.actors import launched_rank
from openhpo.cli.apps import App, load_app
from openhpo.cli.console import console
from openhpo.cli.main import run_command
from openhpo.cli.options import pairs, value_of
from openhpo.cli.plots import pyplot, save
from openhpo.engines import Engine, Full, PopulationBased
from openhpo.errors import UserError
from openhpo.launch import run
from openhpo.launcher import relaunch
from openhpo.objective import Maximize, Minimize, Objective
from openhpo.palette import BLACK, BLUE, GREEN, GREY, VERMILION
from openhpo.place import find_place, share_threads
from openhpo.replay import space_of
from openhpo.samplers import Listed
from openhpo.schedules import Steps
from openhpo.space import Space
from openhpo.stages import Stage
from openhpo.study import Study
from openhpo.training import Trial
from openhpo.training.devices import TorchDevice
from openhpo.training.runner import train_stage
from openhpo.training.states import Snapshot

if TYPE_CHECKING:
    from openhpo.result import Result

APPS = Path(__file__).resolve().parents[1] / "apps"
DIGITS = APPS / "digits_mlp.py"
FIXED = {"width": 64, "batch": 64, "activation": "relu"}  # of digits_mlp.py: what remains are learning rate and momentum
PARTS = 5  # of a training, between which PBT decides
FRESH = 1_000_000  # from here on seeds that no search has used
WAYS = ("PBT", "random search")
BEGIN = 10  # the step from which the best so far is drawn: before it, the first trial learns its first things

HANDS = ({"h0": 1.0, "h1": 0.0}, {"h0": 0.0, "h1": 1.0})  # the toy's two members (Jaderberg et al., figure 2)
TOY_INTERVAL = 5  # steps between two decisions there; of 200, our choice
START = (0.9, 0.9, 1.2 - 2 * 0.81)  # its thetas and Q before the first step
BARRIER, OPTIMUM = 0.39, 1.2  # published of the toy: what grid search cannot pass, and the largest Q


class Pair(NamedTuple):
    """A seed's search by population based training, and by another method."""

    seed: int
    evolved: Result
    other: Result

    def finals(self) -> tuple[float, float]:
        """The best objective of each."""
        return best_of(self.evolved), best_of(self.other)


class Walk(NamedTuple):
    """What a member of the toy trains from one decision to the next.

    Attributes:
        member: Its number.
        points: Both thetas and Q, where it begins and after each step: shape [1 + steps, 3].
    """

    member: int
    points: NDArray[numpy.float64]


class Turn:
    """What stands in for a trainer while one stage of the toy is trained."""

    def __init__(self, study: Study, stage: Stage) -> None:
        self._study = study
        self._stage = stage
        self.points: list[tuple[float, ...]] = []
        self.state: Snapshot | None = None

    def put(self, step: int, metrics: dict[str, float]) -> bool:
        self._study.tell(self._stage, step, metrics)
        self.points.append((metrics["theta0"], metrics["theta1"], metrics["q"]))
        return True

    def between(self, trial: Trial) -> bool:
        return True

    def rest(self, trial: Trial) -> None:
        self.state = trial.lower()


def main(
    app: Annotated[Path, typer.Argument(metavar="APP", help="The training code.", show_default="apps/digits_mlp.py")] = DIGITS,
    members: Annotated[int, typer.Option(min=4, help="Members of a population.")] = 16,
    steps: Annotated[int, typer.Option(min=2, help="Steps that a model is trained for.")] = 30,
    interval: Annotated[
        int | None, typer.Option(min=1, help="Steps between decisions.", show_default="a fifth of them")
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="How many seeds, from 0.")] = 10,
    toys: Annotated[int, typer.Option(min=1, help="How many seeds of the toy, from 0.")] = 20,
    minimize: Annotated[str, typer.Option(metavar="METRIC", help="The metric that both minimise.")] = "val_loss",
    maximize: Annotated[str | None, typer.Option(metavar="METRIC", help="A metric to maximise instead.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Fix a hyperparameter of APP.",
            show_default="width=64, batch=64, activation=relu",
        ),
    ] = None,
    ranks: Annotated[int | None, typer.Option(help="Start under mpiexec with so many ranks.")] = None,
    study: Annotated[Path, typer.Option(metavar="DIR", help="The folder of studies and plots.")] = Path("runs/pbt"),
    device: Annotated[str, typer.Option(help="The kind of device to train on: auto, cpu, cuda or hpu.")] = "auto",
) -> None:
    """Population based training: its toy, learning-rate schedules against random search, and the winner's once more."""
    if not (maximize or minimize).isidentifier():
        raise UserError(f"what is optimised has to be a metric that APP yields, not {maximize or minimize!r}")
    pyplot()  # so that what is missing is missed now, and not after the training
    relaunch(ranks)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # more cost more than they save on models this small, and are other bits
    share_threads(find_place().threads)  # before the app imports torch
    told = launched_rank() == 0
    code = load_app(str(app))
    space = fixed(code.space, set_)
    objective = Maximize(maximize) if maximize else Minimize(minimize)
    engine = PopulationBased(steps, interval or max(1, steps // PARTS))
    if told:
        played, grid = play_all(load_app(str(APPS / "pbt_toy.py")), toys)
        show_toy(played, grid)

    def search(name: str, seed: int, space: Space, engine: Engine, trials: int) -> Result:
        return run(
            code.train, space, objective, engine=engine, trials=trials, seed=seed,
            study=study / name, device=device, progress=False, app=code.name,
        )  # fmt: skip

    found = []
    for seed in range(seeds):
        evolved = search(f"pbt-{seed}", seed, space, engine, members)
        trials = -(-trained(evolved) // steps)
        found.append(Pair(seed, evolved, search(f"random-{seed}", seed, space, Full(steps), trials)))
        if told:
            print(f"seed {seed}: done", file=sys.stderr, flush=True)
    texts = [[exported(space, seed, result) for result in results] for seed, *results in found]
    tries = []
    for seed, (evolving, constant) in enumerate(texts, FRESH):
        again = search(f"fresh-schedule-{seed}", seed, read(evolving), Full(steps), 1)
        tries.append(Pair(seed, again, search(f"fresh-constants-{seed}", seed, read(constant), Full(steps), 1)))
    # the best schedule that is one: a model may also win with what it began with
    pair = min(found, key=lambda pair: (not schedules_in(texts[pair.seed][0]), objective.sign * pair.finals()[0]))
    text = texts[pair.seed][0]
    if told:
        (study / "schedule.json").write_text(text)
    again = search(f"replay-{pair.seed}", pair.seed, read(text), Full(json.loads(text)["step"]), 1)
    if told:
        show_seeds(found, tries, objective)
        show_schedule(text, pair, again)
        show_published(played, grid, found, tries, objective)
        plots = (
            draw_toy(played, grid, study / "toy.png"),
            draw_progress(found, objective, study / "best.png"),
            draw_schedules(pair, space, study / "schedules.png"),
        )
        print(f"schedule: {study / 'schedule.json'}; plots: {', '.join(map(str, plots))}")


def play_all(toy: App, toys: int) -> tuple[list[list[Walk]], list[Walk]]:
    """Population based training of the toy, seed by seed, and grid search, in which nothing is random."""
    assert toy.max_steps is not None
    # of two members the worse one copies the better one
    engine = PopulationBased(toy.max_steps, TOY_INTERVAL, quantile=0.5)
    return [play(toy, engine, seed) for seed in range(toys)], play(toy, Full(toy.max_steps), 0)


def play(toy: App, engine: Engine, seed: int) -> list[Walk]:
    """Train the toy's two members in turns, in this process, and return what was trained, in its order."""
    assert toy.objective is not None
    study = Study(toy.space, toy.objective, engine=engine, sampler=Listed(HANDS), seed=seed)
    device = TorchDevice("cpu")
    states: dict[int | None, Snapshot | None] = {}
    ends: dict[int | None, tuple[float, ...]] = {}
    walks = []
    while (stage := study.ask()) is not None:
        turn = Turn(study, stage)
        train_stage(toy.train, Trial(stage, device, turn, state=states.get(stage.parent)))
        study.end(stage)
        walks.append(Walk(stage.trial, numpy.array([ends.get(stage.parent, START), *turn.points])))
        states[stage.id], ends[stage.id] = turn.state, turn.points[-1]
    return walks


def fixed(space: Space, texts: list[str] | None) -> Space:
    """The app's space with some hyperparameters fixed."""
    if texts is None:
        return space.fix({name: value for name, value in FIXED.items() if name in space.free})
    return space.fix({name: value_of(text) for name, text in pairs(texts, "--set").items()})


# ---- what studies came to


def best_of(result: Result) -> float:
    """The best objective of all trials; infinitely bad where no trial reported a finite one."""
    return result.objective.value(min(result.scores)[0])


def trained(result: Result) -> int:
    """Steps trained, of all trials together."""
    return len(result.tables.reports)


def progress(result: Result) -> NDArray[numpy.float64]:
    """The best objective so far, after each step of any trial, in the order in which they were reported."""
    column = result.tables.values[:, result.metrics.index(str(result.objective.metric))]
    sign = result.objective.sign
    best: NDArray[numpy.float64] = sign * numpy.fmin.accumulate(sign * column)
    return best


def best_q(walks: Sequence[Walk]) -> NDArray[numpy.float64]:
    """The toy's best Q so far, after each step of any member."""
    best: NDArray[numpy.float64] = numpy.maximum.accumulate(numpy.concatenate([walk.points[1:, 2] for walk in walks]))
    return best


def passed(walks: Sequence[Walk]) -> int | None:
    """Steps, of both members together, until the toy's best Q was above the barrier; None where it never was."""
    above = numpy.flatnonzero(best_q(walks) > BARRIER)
    return int(above[0]) + 1 if len(above) else None


def end_of(walks: Sequence[Walk]) -> float:
    """The larger Q of what the toy's two members end with."""
    return float(max({walk.member: walk.points[-1, 2] for walk in walks}.values()))


# ---- the schedule that won


def exported(space: Space, seed: int, result: Result) -> str:
    """The winner's hyperparameters as JSON: a value, or for what changed a list of [from this step on, value].

    Raises:
        UserError: No trial has a result.
    """
    best = result.best
    if best is None:
        raise UserError(f"no trial of {result.path} has a finite {result.objective.metric}")
    lineage = result.lineage(best.trial)
    found = space_of(space, lineage)
    changing = {name: changes([schedule.at(t) for t in range(best.step)]) for name, schedule in found.schedules.items()}
    origin = {"objective": str(result.objective), "value": best.value, "step": best.step, "seed": seed}
    return json.dumps({**origin, "hyperparameters": {**found.fixed, **changing}}, indent=2)


def changes(values: Sequence[Any]) -> list[list[Any]]:
    """Values step by step as a list of [from this step on, value]; steps count from 1."""
    return [
        [step, value] for step, (before, value) in enumerate(zip([None, *values], values, strict=False), 1) if value != before
    ]


def schedules_in(text: str) -> dict[str, list[list[Any]]]:
    """What changes in what `exported` gave."""
    return {name: value for name, value in json.loads(text)["hyperparameters"].items() if isinstance(value, list)}


def read(text: str) -> Space:
    """A space of one point from what `exported` gave."""

    def item(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        starts, values = zip(*value, strict=True)
        return Steps(values, [after - before for before, after in itertools.pairwise(starts)])

    return Space({name: item(value) for name, value in json.loads(text)["hyperparameters"].items()})


# ---- tables


def show_toy(played: Sequence[Sequence[Walk]], grid: Sequence[Walk]) -> None:
    """Print what each seed of the toy came to."""
    from rich.table import Table

    table = Table(title=f"the toy, each seed: Q, at most {OPTIMUM}", title_justify="left")
    for title in ("seed", f"PBT passes {BARRIER} after", "PBT's best ends at", "grid search's best ends at"):
        table.add_column(title, justify="right")
    for seed, walks in enumerate(played):
        steps = passed(walks)
        cells = ("never" if steps is None else f"{steps} steps", f"{end_of(walks):.4f}", f"{end_of(grid):.4f}")
        table.add_row(str(seed), *cells)
    console().print(table)


def show_seeds(found: Sequence[Pair], tries: Sequence[Pair], objective: Objective) -> None:
    """Print what each seed came to, in the search and on fresh models, and the means."""
    from rich.table import Table

    table = Table(title=f"each seed: {objective}", title_justify="left")
    titles = (*WAYS, *(f"{way}'s\nsteps" for way in WAYS), "PBT's schedule,\nfresh model", "best constants,\nfresh model")
    for title in ("seed", *titles):
        table.add_column(title, justify="right")
    columns = [*zip(*(pair.finals() for pair in found), strict=True), *zip(*(pair.finals() for pair in tries), strict=True)]
    for pair, *values in zip(found, *columns, strict=True):
        cells = [f"{value:.4f}" for value in values]
        table.add_row(str(pair.seed), *cells[:2], *(str(trained(each)) for each in (pair.evolved, pair.other)), *cells[2:])
    table.add_section()
    for name, of in (("mean", statistics.mean), ("std. dev.", statistics.stdev)):
        cells = [f"{of(values):.4f}" for values in columns]
        table.add_row(name, *cells[:2], "", "", *cells[2:])
    console().print(table)


def show_schedule(text: str, pair: Pair, again: Result) -> None:
    """Print the schedule that won, and the value that a fresh model comes to with it."""
    from rich.table import Table

    told, lists = json.loads(text), schedules_in(text)
    table = Table("from step", title=f"the best schedule, of seed {pair.seed}", title_justify="left")
    for name in lists:
        table.add_column(name, justify="right")
    for step in sorted({step for value in lists.values() for step, _ in value}):
        table.add_row(str(step), *(next((f"{v:.4g}" for at, v in value if at == step), "") for value in lists.values()))
    console().print(table)
    metric, last = pair.evolved.objective.metric, again.curves()[0, -1]
    print(f"{metric} of the member at step {told['step']}: {told['value']!r}")
    print(f"{metric} of a fresh model trained with the exported schedule, same seed: {float(last)!r}")


def show_published(
    played: Sequence[Sequence[Walk]],
    grid: Sequence[Walk],
    found: Sequence[Pair],
    tries: Sequence[Pair],
    objective: Objective,
) -> None:
    """Print the published findings beside these."""
    from rich.table import Table

    ends = [end_of(walks) for walks in played]
    above = sum(passed(walks) is not None for walks in played)
    table = Table("", "published", "here", show_lines=True)
    table.add_row("toy, grid search: best Q", f"can never pass {BARRIER}", f"{end_of(grid):.4f}")
    table.add_row(
        "toy, PBT: best Q",
        f"goes towards {OPTIMUM}",
        f"passes {BARRIER} in {above} of {len(played)} seeds; ends at {statistics.mean(ends):.4f}, at worst {min(ends):.4f}",
    )
    table.add_row("PBT against random search", "better (deep RL, translation, GANs)", compare(found, objective))
    table.add_row("its schedules against the best constants, on fresh models", "-", compare(tries, objective))
    console().print(table)


def compare(found: Sequence[Pair], objective: Objective) -> str:
    """How the first of each pair did beside the second: means, the gain with its standard error, and in how many pairs."""
    mine, theirs = ([values[place] for values in (pair.finals() for pair in found)] for place in (0, 1))
    gains = [objective.sign * (b - a) for a, b in zip(mine, theirs, strict=True)]
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    gain, error = statistics.mean(gains), statistics.stdev(gains) / len(gains) ** 0.5
    word = "better" if gain > 0 else "worse" if gain < 0 else "the same"
    return (
        f"{word}: {statistics.mean(mine):.4f} against {statistics.mean(theirs):.4f}, by {abs(gain):.4f} ± {error:.4f}; "
        f"better {better}, same {len(gains) - better - worse}, worse {worse}"
    )


# ---- plots


def draw_toy(played: Sequence[Sequence[Walk]], grid: Sequence[Walk], path: Path) -> Path:
    """Draw the toy's models in the plane of theta, and the best Q of every seed."""
    figure, (plane, best) = pyplot().subplots(1, 2, figsize=(11, 5.2), layout="constrained")
    line = numpy.linspace(0, 1, 101)
    q = OPTIMUM - line[:, None] ** 2 - line[None, :] ** 2
    contours = plane.contour(line, line, q, levels=[0, BARRIER, 0.8, 1.1], colors=GREY, linewidths=0.8)
    plane.clabel(contours, fmt="Q = %g", fontsize=8)
    lines = {}
    for walk in grid:
        (lines["grid search"],) = plane.plot(*walk.points[:, :2].T, color=BLACK, linewidth=6, alpha=0.3, clip_on=False)
    for walk in sorted(played[0], key=lambda walk: walk.member):
        style = {"color": (BLUE, VERMILION)[walk.member], "linewidth": 1.6, "zorder": 3}
        (lines[f"PBT, member {walk.member}"],) = plane.plot(*walk.points[:, :2].T, **style)
    (start,) = plane.plot(*START[:2], "o", color=BLACK, markersize=6, zorder=4)
    (goal,) = plane.plot(0, 0, "*", color=GREEN, markersize=14, clip_on=False, zorder=4)
    plane.set(xlabel=r"$\theta_0$", ylabel=r"$\theta_1$", xlim=(0, 1), ylim=(0, 1), aspect=1)
    plane.set_title("all that was trained, seed 0", fontsize="medium")
    handles = {"start": start, "optimum": goal, **lines}
    for walks in played:
        best.plot(best_q(walks), color=BLUE, linewidth=0.9, alpha=0.6)
    best.plot(best_q(grid), color=BLACK, linewidth=5, alpha=0.4)
    best.axhline(BARRIER, color=BLACK, linestyle="--", linewidth=1)
    best.axhline(OPTIMUM, color=GREEN, linestyle=":", linewidth=1.4)
    best.text(400, BARRIER - 0.02, f"grid search: never above {BARRIER}", ha="right", va="top")
    best.text(5, OPTIMUM - 0.02, f"the largest Q: {OPTIMUM}", va="top")
    best.set(xlabel="steps of both members together", ylabel="best Q so far")
    best.set_title(f"PBT, {len(played)} seeds (blue), and grid search", fontsize="medium")
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=5, frameon=False)
    return save(figure, path)


def draw_progress(found: Sequence[Pair], objective: Objective, path: Path) -> Path:
    """Draw the best so far against steps trained: median and quartiles of all seeds."""
    figure, axes = pyplot().subplots(figsize=(7.5, 4.5), layout="constrained")
    from matplotlib.ticker import LogLocator

    ways = ([progress(pair.other) for pair in found], [progress(pair.evolved) for pair in found])
    steps = min(len(curve) for curves in ways for curve in curves)
    shown = slice(min(BEGIN, steps) - 1, steps)
    across = numpy.arange(1, steps + 1)[shown]
    for way, colour, curves in zip(reversed(WAYS), (VERMILION, BLUE), ways, strict=True):
        low, median, high = numpy.quantile([curve[shown] for curve in curves], (0.25, 0.5, 0.75), axis=0)
        axes.plot(across, median, color=colour, linewidth=2, label=way)
        axes.fill_between(across, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    if objective.sign > 0 and min(curve[-1] for curves in ways for curve in curves) > 0:
        axes.set_yscale("log")
    for axis, scale in ((axes.xaxis, "log"), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_formatter("")
        axis.set_major_formatter("{x:g}")
    axes.set_xlim(across[0], steps)
    axes.set_xlabel("steps trained, of all trials together")
    axes.set_ylabel(f"best {objective.metric} so far, {'lower' if objective.sign > 0 else 'higher'} is better")
    axes.set_title(f"{len(found)} seeds: median and quartiles", fontsize="medium")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return save(figure, path)


def draw_schedules(pair: Pair, space: Space, path: Path) -> Path:
    """Draw how hyperparameters evolved: all that was trained, what led to members' best models, and what led to the winner."""
    plots = pyplot()
    from matplotlib.collections import LineCollection

    result = pair.evolved
    assert result.best is not None
    stages = {int(row["stage"]): row for row in result.tables.stages}
    configs = {
        stage: result.tables.config(row) if row["config_size"] else result.configs[row["trial"]]
        for stage, row in stages.items()
    }
    winner = {span.stage for span in result.lineage(result.best.trial)}
    survivors = {span.stage for trial, (_, step) in enumerate(result.scores) if step for span in result.lineage(trial)} - winner
    kinds: tuple[tuple[str, set[int], dict[str, Any]], ...] = (
        ("given up", stages.keys() - survivors - winner, {"color": GREY, "linewidth": 0.9}),
        ("led to a member's best model", survivors, {"color": BLUE, "linewidth": 1.4}),
        ("led to the winner", winner, {"color": VERMILION, "linewidth": 3}),
    )

    def shape(stage: int, name: str) -> list[tuple[int, float]]:
        """Level over its steps, and at their beginning upright from the value before."""
        row, value = stages[stage], configs[stage][name]
        before = configs.get(int(row["parent"]), configs[stage])[name]
        return [(row["start"], before), (row["start"], value), (row["stop"], value)]

    best = result.best
    names = [name for name in space.free if len({config.get(name) for config in configs.values()}) > 1]
    figure, panels = plots.subplots(
        len(names), 1, figsize=(8, 1 + 3 * len(names)), sharex=True, squeeze=False, layout="constrained"
    )
    for axes, name in zip(panels[:, 0], names, strict=True):
        for label, wanted, style in kinds:
            axes.add_collection(LineCollection([shape(stage, name) for stage in sorted(wanted)], label=label, **style))
        axes.plot(best.step, best.config[name], "o", color=VERMILION, markersize=9, zorder=3, label="its best step")
        if getattr(space.hyperparameters[name], "log", False):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        axes.autoscale_view()
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
    panels[-1, 0].set_xlabel("steps trained")
    panels[-1, 0].xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    metric = f"{result.objective.metric} {best.value:.4f}"
    figure.suptitle(f"schedules of {len(result.configs)} members, seed {pair.seed}; the winner's {metric}", fontsize="medium")
    return save(figure, path)


if __name__ == "__main__":
    run_command(main)
