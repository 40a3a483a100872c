"""`openhpo simulate SOURCE METHOD`: what a study would take on so many ranks, from curves that were recorded."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openhpo.cli.console import console
from openhpo.cli.inspect import JsonOption
from openhpo.cli.options import (
    DeriveOption,
    MaximizeOption,
    MinimizeOption,
    RequireOption,
    SeedOption,
    TrialsOption,
    joined,
    value_of,
)
from openhpo.cli.run import METHODS, Method, objective_of
from openhpo.errors import UserError

if TYPE_CHECKING:
    from openhpo.recorded import Plan, Prediction, Recording

simulate_app = typer.Typer(
    help="Predict how long a study takes, and what it costs, on numbers of ranks: openhpo simulate SOURCE METHOD.",
    no_args_is_help=True,
    subcommand_metavar="METHOD ...",
)


@simulate_app.callback()
def from_source(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="What was recorded: a study's folder, or a table (.csv, .json, .jsonl or .npz) of curves."
        ),
    ],
) -> None:
    """Predict how long a study takes, and what it costs, on numbers of ranks: openhpo simulate SOURCE METHOD.

    The real coordinator, method and messages run in virtual time, and trainers let the time pass that recorded trainings took
    and report what these reported. Nothing is trained. docs/simulate.md says what that assumes.
    """
    context.obj = source


@dataclass(frozen=True)
class Wanted:
    """What is to be predicted, and what the source does not say."""

    context: typer.Context  # holds the source
    ranks: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of ranks, such as 16,64,256.")]
    trials: TrialsOption = None
    steps: Annotated[
        int | None, typer.Option(help="Steps a trial trains for.", show_default="as in the study, or all that are recorded")
    ] = None
    maximize: MaximizeOption = None
    minimize: MinimizeOption = None
    require: RequireOption = None
    derive: DeriveOption = None
    seed: SeedOption = 0
    ranks_per_node: Annotated[int | None, typer.Option(min=1, help="Count nodes, too, with so many ranks each.")] = None
    pace: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS|NAME",
            help="How long a step takes, or the column of a table that says so.",
            show_default="as measured in a study",
        ),
    ] = None
    elapsed: Annotated[
        str | None, typer.Option(metavar="NAME", help="Instead: the column that counts seconds since training began.")
    ] = None
    setup: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="What comes before a trial's first step.", show_default="as measured; 0 for a table"
        ),
    ] = None
    fetch: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long it takes to get a paused trial's state from another rank.")
    ] = 0.0
    step_column: Annotated[str, typer.Option(metavar="NAME", help="The column of a CSV that counts steps.")] = "step"
    hyperparameter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A column of a CSV that is part of the configuration.",
            show_default="all that stay the same in every curve",
        ),
    ] = None
    curves: Annotated[
        str | None, typer.Option(metavar="NAME", help="The array of an NPZ with the curves, where it holds several.")
    ] = None
    first_step: Annotated[
        int, typer.Option(help="The step of a curve's first value in JSON and NPZ; 0 for a value before training.")
    ] = 1
    plot: Annotated[str | None, typer.Option(metavar="FILE", help="Draw the prediction, as .png or .pdf.")] = None
    json: JsonOption = False


def _offer(name: str, make: Callable[..., Method]) -> None:
    """Offer a method of `openhpo run` here, with its own options and those of a prediction."""
    simulate_app.command(name)(joined(Wanted, make, lambda asked, own: simulate(name, make(**own), asked)))


for _name, _make in METHODS.items():
    _offer(_name, _make)


def simulate(name: str, method: Method, asked: Wanted) -> None:
    """Predict, and print what was predicted."""
    from openhpo.cli.plots import pyplot

    ranks = numbers_of(asked.ranks)
    if asked.plot is not None:
        pyplot()  # what is missing is missed now
    recording = recording_of(asked.context.obj, asked)
    plan, notes = plan_of(recording, method, asked)
    plan.study()  # the same of the rest
    if asked.json:
        predictions = [plan.predict(count, asked.ranks_per_node) for count in ranks]
        print(json.dumps(as_dict(plan, name, predictions, notes), indent=2))
    else:
        predictions = show(plan, name, ranks, asked.ranks_per_node, notes)
    if asked.plot is not None:
        print(f"figure: {draw(predictions, f'{name} on {recording.source}', Path(asked.plot))}", file=sys.stderr)


def numbers_of(text: str) -> list[int]:
    """Numbers of ranks from 16,64,256.

    Raises:
        UserError: They are no such numbers.
    """
    found = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in found):
        raise UserError(f"--ranks {text!r}: write whole numbers above 0, with commas between them, such as 16,64,256")
    return list(dict.fromkeys(map(int, found)))


def recording_of(source: str, asked: Wanted) -> Recording:
    """Read what was recorded.

    Raises:
        UserError: It cannot be read, or its times are not known.
    """
    from openhpo.recorded import SUFFIXES, Layout, read_study, read_table

    pace = None if asked.pace is None else value_of(asked.pace)
    if pace is not None and not isinstance(pace, str) and not (0 <= pace < math.inf):
        raise UserError(f"--pace {asked.pace}: the seconds of a step cannot be that")
    seconds, name = (None, pace) if isinstance(pace, str) else (pace, None)
    if asked.pace is not None and asked.elapsed is not None:
        raise UserError("give --pace or --elapsed, not both")
    if not source.removesuffix(".gz").endswith(SUFFIXES):
        if name is not None or asked.elapsed is not None:
            raise UserError(
                f"{source} is a study, so --pace has to be a number of seconds, and the default is what was measured"
            )
        return read_study(source).timed(seconds, asked.setup)
    if asked.pace is None and asked.elapsed is None:
        raise UserError(f"say how long a step takes: --pace SECONDS, or --pace or --elapsed with a column of {source}")
    layout = Layout(asked.step_column, asked.hyperparameter, asked.curves, asked.first_step, name, asked.elapsed)
    return read_table(source, layout).timed(seconds, asked.setup)


def plan_of(recording: Recording, method: Method, asked: Wanted) -> tuple[Plan, list[str]]:
    """The study to predict, and what has to be said of it."""
    from openhpo.engines import Full
    from openhpo.recorded import Candidates, Plan
    from openhpo.samplers import Grid

    there = f"; {recording.source} has {', '.join(recording.metrics)}"
    objective = objective_of(recording.objective, there, asked.maximize, asked.minimize, asked.require, asked.derive)
    steps = asked.steps
    if steps is None:
        steps = recording.longest if recording.steps is None else min(recording.steps, recording.longest)
    engine, grid = (method.engine or Full)(steps), method.sampler if isinstance(method.sampler, Grid) else None
    candidates = Candidates(recording, objective, steps, forks=engine.forks, axes=grid.axes if grid else None)
    plan = Plan(candidates, objective, engine, asked.trials, grid is not None, asked.seed, asked.fetch)
    return plan, notes_of(plan, steps)


def notes_of(plan: Plan, steps: int) -> list[str]:
    """What a reader of the prediction has to know of what it is made from."""
    candidates, recording = plan.candidates, plan.candidates.recording
    there, usable = len(recording.configs), len(candidates.rows)
    found = [
        f"{usable} of {there} recorded configurations have {steps} steps or failed before, and stand for all"
        if usable < there
        else f"{there} configurations are recorded"
    ]
    found += [times_of(plan), *recording.notes]
    trials = plan.study().total
    if trials > usable:
        found.append(f"{trials} trials draw each of them more than once, so that the best is that of {usable} configurations")
    if plan.engine.forks:
        found.append("hyperparameters that change in training are replaced by the nearest recorded ones: an approximation")
    return found


def times_of(plan: Plan) -> str:
    """What steps and set-ups take."""
    import numpy

    recording, rows = plan.candidates.recording, plan.candidates.rows
    there = numpy.arange(recording.seconds.shape[1]) < recording.lengths[rows, None]
    low, middle, high = numpy.percentile(recording.seconds[rows][there], [10, 50, 90])
    setup = float(numpy.median(recording.setup[rows]))
    warmup = f", and {recording.warmup:.3g} s more on a rank's first trial" if recording.warmup else ""
    return f"a step takes {middle:.3g} s (most {low:.3g} to {high:.3g}), what comes before the first one {setup:.3g} s{warmup}"


# ---- what is shown


def as_dict(plan: Plan, name: str, predictions: Sequence[Prediction], notes: Sequence[str]) -> dict[str, Any]:
    """A prediction in plain JSON."""
    recording = plan.candidates.recording
    return {
        "source": recording.source,
        "method": name,
        "objective": str(plan.objective),
        "max_steps": plan.engine.max_steps,
        "recorded": len(recording.configs),
        "candidates": len(plan.candidates.rows),
        "notes": list(notes),
        "predictions": [asdict(prediction) for prediction in predictions],
    }


def show(plan: Plan, name: str, ranks: Sequence[int], ranks_per_node: int | None, notes: Sequence[str]) -> list[Prediction]:
    """Print a row for each number of ranks as soon as it is known."""
    from rich import box
    from rich.live import Live
    from rich.markup import escape
    from rich.table import Table

    nodes = ["node-\nhours"] if ranks_per_node else []
    title = f"{name} on {plan.candidates.recording.source}, {plan.objective}"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    for head in ("ranks", "makespan", "rank-\nhours", *nodes, "utilised", "trials", "steps", "best"):
        table.add_column(head, justify="right", no_wrap=True)
    out, found = console(), []
    with Live(table, console=out, auto_refresh=False) as live:
        for count in ranks:
            found.append(plan.predict(count, ranks_per_node))
            table.add_row(*_row(found[-1]))
            live.refresh()
    if not out.is_terminal:
        out.print()
    failed = [f"{one.failed:,} on {one.ranks:,}" for one in found if one.failed]
    for note in [*notes, *([f"trials that fail, as they did then: {', '.join(failed)} ranks"] if failed else [])]:
        out.print(note, markup=False, soft_wrap=True)
    return found


def _row(found: Prediction) -> list[str]:
    return [
        f"{found.ranks:,}",
        duration(found.makespan),
        hours(found.rank_hours),
        *([] if found.node_hours is None else [hours(found.node_hours)]),
        f"{100 * found.utilisation:.1f} %",
        f"{found.trials:,}",
        f"{found.steps:,}",
        "-" if found.best is None else f"{found.best:.6g}",
    ]


def duration(seconds: float) -> str:
    """Seconds as 7.32 s, or 2:03:04, or 1d 02:03:04."""
    from openhpo.progress import clock

    return f"{seconds:.3g} s" if seconds < 100 else clock(seconds)


def hours(count: float) -> str:
    return f"{count:,.{3 if count < 1 else 2 if count < 100 else 0}f}"


def draw(found: Sequence[Prediction], title: str, path: Path) -> Path:
    """A figure of what the numbers of ranks come to: how long, and at what cost."""
    from openhpo.cli.plots import pyplot, save
    from openhpo.palette import BLUE, GREY, ORANGE, VERMILION

    runs = sorted(found, key=lambda one: one.ranks)
    ranks, makespans = [one.ranks for one in runs], [one.makespan for one in runs]
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    figure.suptitle(title)
    left.loglog(ranks, makespans, "o-", color=BLUE, label="predicted")
    ideal = [makespans[0] * ranks[0] / count for count in ranks]
    left.loglog(ranks, ideal, "--", color=GREY, label="perfect scaling")
    left.set_ylabel("seconds from start to end")
    nodes = runs[0].node_hours is not None
    cost = "node-hours" if nodes else "rank-hours"
    right.semilogx(ranks, [one.node_hours if nodes else one.rank_hours for one in runs], "s-", color=ORANGE)
    right.set_ylim(bottom=0)
    right.set_ylabel(cost, color=ORANGE)
    used = right.twinx()
    used.semilogx(ranks, [100 * one.utilisation for one in runs], "o-", color=VERMILION)
    used.set_ylim(0, 105)
    used.set_ylabel("utilisation in %", color=VERMILION)
    left.legend(frameon=False)
    for axes in (left, right):
        axes.set_xlabel("ranks")
        axes.set_xticks(ranks, [str(count) for count in ranks])
        axes.xaxis.minorticks_off()
    return save(figure, path)
