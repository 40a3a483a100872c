"""Refinement of boundaries against a grid, on large-batch training with LARS: training steps spent, best converged epoch.

"Habana Gaudi and SigOpt: HPO of MLPerf ResNet-50" (Intel, 2022) reports 21,333 device-hours against 85,413 of a grid, and 6 %
fewer epochs than the best of the grid. Here the same loop on an app with the same five hyperparameters. Every configuration is
trained with three seeds. The converged epoch CE is the first step at which the app's target is met. Of each search the three
best configurations are trained again with ten new seeds, and the best mean of these counts; a training that never gets there
counts as one step more than the longest. For example:

    python drivers/refine.py apps/digits_lars.py --ranks 2
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openhpo.actors import launched_rank
from openhpo.cli.apps import load_app
from openhpo.cli.inspect import show_rounds
from openhpo.cli.main import run_command
from openhpo.cli.options import Options, with_options
from openhpo.cli.plots import pyplot, save
from openhpo.cli.run import axes_of, sampler_of, search
from openhpo.samplers import Grid, Refinement
from openhpo.validation import Validated, validate

if TYPE_CHECKING:
    from openhpo.result import Result

FEWER_STEPS, LOWER = 4.0, 0.06  # published: the grid costs so many times as much, and CE is lower by that part
COLOURS = {"failed": "0.75", "met": "tab:blue", "best": "tab:orange"}


@with_options
def main(
    options: Options,
    axis: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUES", help="Of the grid: values, or how many.", show_default="3 of each hyperparameter"),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="Within boundaries.", show_default="gp where BoTorch is installed, else tpe")
    ] = None,
    round_trials: Annotated[int, typer.Option(help="Configurations of a round.")] = 20,
    rounds: Annotated[int, typer.Option(help="At most so many.")] = 3,
    cluster_size: Annotated[int, typer.Option(help="The fewest trials of a cluster.")] = 5,
    top: Annotated[int, typer.Option(help="So many configurations of each search are trained again.")] = 3,
    seeds: Annotated[int, typer.Option(help="New seeds that these are trained with.")] = 10,
) -> None:
    """Search with a grid and with moving boundaries, each configuration with three seeds unless --replicates says otherwise;
    compare what they cost and what they found.
    """
    pyplot()
    folder = Path(options.study or "runs/refine")
    app = load_app(options.app)
    options = replace(options, replicates=options.replicates if options.replicates > 1 else 3)
    axes = axes_of(axis or [f"{name}=3" for name in app.space.free])
    grid = search("grid", replace(options, study=str(folder / "grid")), Grid(axes))
    refinement = Refinement(
        None if sampler is None else sampler_of(sampler), round_trials, rounds, cluster_size=cluster_size, patience=rounds
    )
    moved = replace(options, study=str(folder / "refinement"), trials=round_trials * rounds)
    refined = search("refine", moved, refinement)
    winners = {
        name: best_of(
            validate(app.train, result.path, top=top, replicates=seeds, app=app.name, progress=options.progress), result
        )
        for name, result in (("grid", grid), ("refinement", refined))
    }
    if launched_rank() != 0:
        return
    show_rounds(refined)
    show(grid, refined, winners)
    for name, result in (("grid", grid), ("refinement", refined)):
        print(f"parallel coordinates: {parallel(result, folder / f'parallel-{name}.png')}")
        print(f"correlation: {correlation(result, folder / f'correlation-{name}.png')}")


def steps_of(result: Result) -> int:
    """Training steps that a study has spent."""
    return len(result.tables.reports)


def best_of(validated: list[Validated], result: Result) -> Validated:
    """The one with the smallest mean converged epoch."""
    return min(validated, key=lambda one: statistics.fmean(converged(one, result)))


def converged(winner: Validated, result: Result) -> list[float]:
    """The converged epochs of a winner's new trainings; one more than the longest where the target was not met."""
    longest = int(result.definition["max_steps"]) + 1
    return [value if math.isfinite(value) else longest for value in winner.values] + [longest] * winner.failed


def show(grid: Result, refined: Result, winners: dict[str, Validated]) -> None:
    """Print the comparison, beside what is published."""
    from rich.table import Table

    from openhpo.cli.console import console

    table = Table(
        "", "configurations", "trainings", "steps", "CE in the search", "CE with new seeds", "spread", "never got there"
    )
    means = {}
    for name, result in (("grid", grid), ("refinement", refined)):
        winner = winners[name]
        epochs = converged(winner, result)
        means[name] = statistics.fmean(epochs)
        never = sum(not math.isfinite(value) for value in winner.values) + winner.failed
        spread = statistics.stdev(epochs) if len(epochs) > 1 else math.nan
        table.add_row(
            name,
            str(len(result.configs) // result.replicates),
            str(len(result.configs)),
            f"{steps_of(result):,}",
            f"{winner.found.value:.4g}",
            f"{means[name]:.4g}",
            f"{spread:.2g}",
            f"{never} of {len(epochs)}",
        )
    out = console()
    out.print(table)
    times, lower = steps_of(grid) / max(steps_of(refined), 1), 1 - means["refinement"] / means["grid"]
    out.print(f"steps: the grid takes {times:.2f} times as many (published: 85,413 / 21,333 device-hours = {FEWER_STEPS:.1f})")
    than = f"{abs(lower):.1%} {'lower' if lower >= 0 else 'higher'} than the best of the grid"
    out.print(f"converged epoch with new seeds: {than} (published: {LOWER:.0%} lower)")
    for name, winner in winners.items():
        values = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in winner.found.config.items()
        )
        out.print(f"best of the {name}: {values}", highlight=False)


def kinds(result: Result) -> list[str]:
    """Of each configuration, whether it is the best, or has met the target with every seed, or not."""
    best = result.best.trial if result.best is not None and result.best.feasible else None
    return ["best" if one.number == best else "met" if one.score.violation == 0 else "failed" for one in result.candidates]


def parallel(result: Result, path: Path) -> Path:
    """Draw configurations in parallel coordinates: grey where a seed missed the target, blue where none did, orange best."""
    plots = pyplot()
    names = list(dict.fromkeys(name for one in result.candidates for name in one.config))
    space = result.definition["space"]["hyperparameters"]
    names = [name for name in names if name in space]
    figure, axes = plots.subplots(figsize=(1.7 * len(names) + 1, 4), layout="constrained")
    columns = []
    for place, name in enumerate(names):
        values = [one.config.get(name) for one in result.candidates]
        numbers, low, high = _scaled(values, bool(space[name].get("log")))
        columns.append(numbers)
        axes.text(place, -0.04, low, ha="center", va="top", fontsize="small")
        axes.text(place, 1.02, high, ha="center", va="bottom", fontsize="small")
        axes.axvline(place, color="0.3", linewidth=0.8)
    found = kinds(result)
    for kind, colour in COLOURS.items():
        for number in (place for place, each in enumerate(found) if each == kind):
            width = 2.5 if kind == "best" else 0.8
            axes.plot(range(len(names)), [column[number] for column in columns], color=colour, linewidth=width, alpha=0.9)
        axes.plot([], [], color=colour, label={"failed": "a seed missed the target", "met": "target met", "best": "best"}[kind])
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", pad=16, length=0)
    axes.set_yticks([])
    axes.set_ylim(-0.02, 1.02)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return save(figure, path)


def _scaled(values: list[object], log: bool) -> tuple[list[float], str, str]:
    """Values from 0 to 1, and what the ends are called."""
    if not all(isinstance(value, int | float) for value in values):
        texts = sorted({str(value) for value in values})
        return [texts.index(str(value)) / max(1, len(texts) - 1) for value in values], texts[0], texts[-1]
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    places = [math.log(value) for value in numbers] if log else numbers
    low, high = min(places), max(places)
    return [(at - low) / ((high - low) or 1.0) for at in places], f"{min(numbers):.4g}", f"{max(numbers):.4g}"


def correlation(result: Result, path: Path) -> Path:
    """Draw the mean best accuracy of each configuration against its mean converged epoch."""
    plots = pyplot()
    metric = next((name for name in sorted(result.objective.needs) if name in result.metrics), result.metrics[0])
    curves = result.curves(metric)
    figure, axes = plots.subplots(figsize=(5.5, 4), layout="constrained")
    found = kinds(result)
    longest = int(result.definition["max_steps"]) + 1
    for kind, colour in COLOURS.items():
        xs, ys = [], []
        for one in result.candidates:
            if found[one.number] != kind:
                continue
            mine = range(one.number * result.replicates, (one.number + 1) * result.replicates)
            tops = [float(curves[trial][~(curves[trial] != curves[trial])].max(initial=0.0)) for trial in mine]
            steps = [result.objective.value(result.scores[trial][0]) for trial in mine]
            xs.append(statistics.fmean(step if math.isfinite(step) else longest for step in steps))
            ys.append(statistics.fmean(tops))
        size = 60 if kind == "best" else 16
        axes.scatter(xs, ys, s=size, color=colour, label={"failed": "a seed missed", "met": "target met", "best": "best"}[kind])
    axes.set_xlabel(f"converged epoch ({longest} where it never got there), mean over seeds")
    axes.set_ylabel(f"best {metric}, mean over seeds")
    axes.legend(fontsize="small")
    return save(figure, path)


if __name__ == "__main__":
    run_command(main)
