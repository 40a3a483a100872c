"""Decaying against static learning rates.

The experiment of "Neural Network Hyperparameter Optimization with MagmaDNN and OpenDIEL" (Ouyang, McBride, Febbo, Wong, Tomov,
Yin): three fully connected layers, SGD, batches of 32; a static learning rate of 0.0016 against a decay of 5 % every 100
iterations from several initial values. Their findings: dynamic trials reach a higher accuracy sooner; the best initial value is
near 0.01; above it, accuracy is irregular.

Here every initial value is trained both ways, decaying and static, so that it shows what the decay does and what the larger
rate does. Both ways are one grid over the two parameters of a schedule, and the first 100 iterations, in which they are the
same, are trained once. Seeds change the first weights and the order of the images. For example:

    python drivers/dynamic_lr.py --ranks 2
    python drivers/dynamic_lr.py --data fashion --steps 30 --seeds 2 --ranks 2

How large a learning rate is depends on whether the loss is summed over the batch, as MagmaDNN documents its own, or averaged:
`--reduction mean`, where a rate of 0.05 is what 0.0016 is to the sum.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy
import typer
from numpy.typing import NDArray

from openhpo.actors import launched_rank
from openhpo.cli.apps import load_app
from openhpo.cli.console import console
from openhpo.cli.main import run_command
from openhpo.cli.plots import pyplot, save
from openhpo.engines import Full
from openhpo.errors import UserError
from openhpo.hyperparameters import Categorical
from openhpo.launch import run
from openhpo.launcher import relaunch
from openhpo.objective import Maximize
from openhpo.palette import BLACK, BLUE, ORANGE
from openhpo.place import find_place, share_threads
from openhpo.samplers import Grid
from openhpo.schedules import Exponential
from openhpo.space import Space

APP = Path(__file__).resolve().parents[1] / "apps" / "digits_sgd.py"
ITERATIONS = 100  # of a step of that app: the period of the decay
BATCH = 32
STATIC = 0.0016  # the published static learning rate
INITIAL = (0.0016, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03)
NEAR = 0.95  # of the best final accuracy: what the plots enlarge


class Data(StrEnum):
    """What to train on."""

    digits = "digits"
    fashion = "fashion"


class Reduction(StrEnum):
    """How the losses of a batch become one."""

    sum = "sum"
    mean = "mean"


@dataclass(frozen=True)
class Accuracies:
    """The validation accuracy after every step.

    Attributes:
        initial: The initial learning rates, ascending; the published static one is among them.
        factor: What the learning rate is multiplied by every step, in the decaying trials.
        decaying: Accuracy, of shape [seed, initial, step], as part of 1.
        static: The same without decay.
    """

    initial: tuple[float, ...]
    factor: float
    decaying: NDArray[numpy.float64]
    static: NDArray[numpy.float64]

    @property
    def iterations(self) -> NDArray[numpy.int64]:
        """The iterations behind every step."""
        return ITERATIONS * numpy.arange(1, self.static.shape[2] + 1)

    @property
    def baseline(self) -> NDArray[numpy.float64]:
        """The accuracy at the published static learning rate after every step, mean over seeds."""
        mean: NDArray[numpy.float64] = self.static[:, self.initial.index(STATIC)].mean(axis=0)
        return mean

    @property
    def ends(self) -> NDArray[numpy.float64]:
        """The final accuracy of the decaying trials by initial value, mean over seeds."""
        mean: NDArray[numpy.float64] = self.decaying[:, :, -1].mean(axis=0)
        return mean

    @property
    def best(self) -> int:
        """The place of the best initial value."""
        return int(self.ends.argmax())

    def reached(self, curve: NDArray[numpy.float64], accuracy: float) -> int | None:
        """The iterations after which a curve first has an accuracy; None where it never has."""
        there = numpy.flatnonzero(curve >= accuracy)
        return int(self.iterations[there[0]]) if len(there) else None


def main(
    initial: Annotated[
        list[float] | None, typer.Option(help="An initial learning rate.", show_default=", ".join(map(str, INITIAL)))
    ] = None,
    factor: Annotated[float, typer.Option(help="What the learning rate is multiplied by every 100 iterations.")] = 0.95,
    steps: Annotated[int, typer.Option(min=2, help="Steps of a trial, 100 iterations each.")] = 60,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 5,
    data: Annotated[Data, typer.Option(help="What to train on.")] = Data.digits,
    reduction: Annotated[Reduction, typer.Option(help="How the losses of a batch become one.")] = Reduction.sum,
    ranks: Annotated[int | None, typer.Option(help="Start under mpiexec with so many ranks.")] = None,
    study: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the studies and plots.")] = Path("runs/dynamic_lr"),
    device: Annotated[str, typer.Option(help="The kind of device to train on: auto, cpu, cuda or hpu.")] = "auto",
) -> None:
    """Learning rates that decay every 100 iterations against static ones, from several initial values."""
    pyplot()  # a plot that cannot be drawn is better known before training than after
    if not 0 < factor < 1:
        raise UserError(f"--factor has to lie between 0 and 1, not {factor}")
    values = tuple(sorted({STATIC, *(initial or INITIAL)}))
    if values[0] <= 0 or len(values) < 2:
        raise UserError("--initial takes learning rates above 0, and at least one other than 0.0016")
    relaunch(ranks)
    share_threads(find_place().threads)  # before the app imports torch
    app = load_app(str(APP))
    rate = Exponential(Categorical(values, ordered=True), Categorical([1.0, factor]), every=1)
    space = Space({"lr": rate, "batch": BATCH, "data": data.value, "reduction": reduction.value})
    decaying, static = [], []
    for seed in range(seeds):
        result = run(
            app.train, space, Maximize("val_accuracy"), engine=Full(steps), sampler=Grid(), seed=seed,
            study=study / f"seed-{seed}", device=device, progress=False, app=app.name,
        )  # fmt: skip
        if launched_rank() == 0:
            print(f"seed {seed}: done", file=sys.stderr, flush=True)
            curves, places = result.curves(), {(c["lr.initial"], c["lr.factor"]): n for n, c in enumerate(result.configs)}
            decaying.append(curves[[places[value, factor] for value in values]])
            static.append(curves[[places[value, 1.0] for value in values]])
    if launched_rank() == 0:
        found = Accuracies(values, factor, numpy.array(decaying), numpy.array(static))
        show_values(found)
        show_published(found)
        plots = (
            draw_rates(found, study / "rates.png"),
            draw_curves(found, study / "accuracy.png"),
            draw_finals(found, study / "final.png"),
        )
        print(f"plots: {', '.join(map(str, plots))}")


# ---- tables


def show_values(found: Accuracies) -> None:
    """Print what each initial value came to, decaying and static."""
    from rich.table import Table

    seeds, _, steps = found.static.shape
    table = Table(
        "initial",
        title_justify="left",
        title=f"validation accuracy after {ITERATIONS * steps} iterations, {seeds} seed{'s' if seeds > 1 else ''}",
    )
    for title in ("decaying", "lowest seed", f"static {STATIC}'s\nreached after", "static", "lowest seed"):
        table.add_column(title, justify="right")
    for place, value in enumerate(found.initial):
        decaying, static = found.decaying[:, place], found.static[:, place]
        table.add_row(
            f"{value:g}",
            spread(decaying[:, -1]),
            f"{decaying[:, -1].min():.1%}",
            said(found.reached(decaying.mean(axis=0), found.baseline[-1])),
            spread(static[:, -1]),
            f"{static[:, -1].min():.1%}",
        )
    console().print(table)


def show_published(found: Accuracies) -> None:
    """Print the published findings beside these."""
    from rich.table import Table

    table = Table("finding", "published (MNIST)", "here", show_lines=True)
    table.add_row("dynamic trials reach a higher accuracy", f"yes, than static {STATIC}", higher(found))
    table.add_row("and sooner", "yes", sooner(found))
    table.add_row("best initial value", "near 0.01", best_value(found))
    table.add_row("above it", "irregular", irregularity(found))
    table.add_row("what the decay itself does", "-", effect_of_decay(found))
    console().print(table)


def higher(found: Accuracies) -> str:
    """How many decaying trials end above the static one."""
    ends = {value: end for value, end in zip(found.initial, found.ends, strict=True) if value != STATIC}
    above = sum(end > found.baseline[-1] for end in ends.values())
    return (
        f"from {above} of {len(ends)} initial values: {found.ends[found.best]:.1%} from {found.initial[found.best]:g}, "
        f"{found.baseline[-1]:.1%} static {STATIC}"
    )


def sooner(found: Accuracies) -> str:
    """How many decaying trials have the accuracy that the static one ends with before that one first has it."""
    goal = found.baseline[-1]
    times = [found.reached(curve, goal) for curve in found.decaying.mean(axis=0)]
    own = found.reached(found.baseline, goal)
    earlier = [time is not None and own is not None and time < own for time in times]
    count = sum(early for early, value in zip(earlier, found.initial, strict=True) if value != STATIC)
    return (
        f"from {count} of {len(times) - 1} initial values: {goal:.1%} first after {said(times[found.best])} iterations from "
        f"{found.initial[found.best]:g}, after {said(own)} static {STATIC}"
    )


def best_value(found: Accuracies) -> str:
    """The best initial value, and those that end within the spread of its seeds."""
    finals = found.decaying[:, :, -1]
    if len(finals) < 2:
        return f"{found.initial[found.best]:g}"
    least = found.ends[found.best] - finals[:, found.best].std(ddof=1)
    near = [f"{value:g}" for value, end in zip(found.initial, found.ends, strict=True) if least <= end < found.ends[found.best]]
    return f"{found.initial[found.best]:g}: {spread(finals[:, found.best])}; within that spread: {', '.join(near) or 'none'}"


def irregularity(found: Accuracies) -> str:
    """How far the final accuracies of seeds lie apart, at most up to the best initial value, and above it one by one."""
    if len(found.decaying) < 2 or found.best == len(found.initial) - 1:
        return "unknown: it takes --seeds 2 or more, and initial values above the best one"
    gaps = [f"{gap:.1f}" for gap in 100 * numpy.ptp(found.decaying[:, :, -1], axis=0)]
    above = zip(found.initial[found.best + 1 :], gaps[found.best + 1 :], strict=True)
    most = max(gaps[: found.best + 1], key=float)
    return (
        f"from the best seed to the worst at the end: {', '.join(f'{value:g}: {gap}' for value, gap in above)} points; "
        f"{found.initial[found.best]:g} and below: at most {most}"
    )


def effect_of_decay(found: Accuracies) -> str:
    """The final accuracy of decaying trials less that of static ones of the same initial value."""
    gains = 100 * (found.decaying[:, :, -1] - found.static[:, :, -1]).mean(axis=0)
    return (
        ", ".join(f"{value:g}: {gain:+.1f}" for value, gain in zip(found.initial, gains, strict=True))
        + " points at the end (decaying less static)"
    )


def spread(finals: NDArray[numpy.float64]) -> str:
    """Mean and, of several seeds, standard deviation, in percent."""
    deviation = f" ± {100 * finals.std(ddof=1):.1f}" if len(finals) > 1 else ""
    return f"{100 * finals.mean():.1f}{deviation} %"


def said(iterations: int | None) -> str:
    return "never" if iterations is None else str(iterations)


# ---- plots


def shades(count: int) -> Any:
    """Colours from dark to light, the order of which shows without their hue too."""
    return pyplot().get_cmap("viridis")(numpy.linspace(0, 0.92, count))


def draw_rates(found: Accuracies, path: Path) -> Path:
    """Draw the learning rate by iteration."""
    figure, axes = pyplot().subplots(figsize=(7.5, 4.5), layout="constrained")
    edges = numpy.concatenate([[0], found.iterations])
    for value, colour in zip(found.initial, shades(len(found.initial)), strict=True):
        rate = Exponential(value, found.factor, every=1)
        axes.stairs(
            [rate.at(step) for step in range(len(found.iterations))], edges, baseline=None, color=colour, label=f"{value:g}"
        )
    axes.hlines(STATIC, 0, edges[-1], color=BLACK, linestyle="--", label=f"static {STATIC}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("learning rate")
    axes.set_title(f"the learning rate times {found.factor:g} every {ITERATIONS} iterations", fontsize="medium")
    return finish(figure, axes, found, path)


def draw_curves(found: Accuracies, path: Path) -> Path:
    """Draw the accuracy by iteration, mean over seeds: above near the best, below all."""
    figure, panels = two_panels(found, below=1.0)
    for axes in panels:
        for place, colour in enumerate(shades(len(found.initial))):
            axes.plot(found.iterations, found.decaying[:, place].mean(axis=0), color=colour, label=f"{found.initial[place]:g}")
        axes.plot(found.iterations, found.baseline, color=BLACK, linestyle="--", label=f"static {STATIC}")
    panels[0].set_title(f"learning rates that decay, and a static one; mean of {len(found.static)} seeds", fontsize="medium")
    return finish(figure, panels[1], found, path)


def finish(figure: Any, axes: Any, found: Accuracies, path: Path) -> Path:
    """Name what a chart by iteration shows, and save it."""
    axes.set_xlabel("iteration")
    axes.set_xlim(0, found.iterations[-1])
    lines, labels = axes.get_legend_handles_labels()
    # the largest initial value first, as the learning rates lie, and the static one last
    figure.legend(
        lines[-2::-1] + lines[-1:],
        labels[-2::-1] + labels[-1:],
        title="initial value",
        loc="outside right center",
        frameon=False,
    )
    return save(figure, path)


def draw_finals(found: Accuracies, path: Path) -> Path:
    """Draw the final accuracy by initial value, of each seed and in the mean: above near the best, below all."""
    figure, panels = two_panels(found, below=0.1)
    for axes in panels:
        for kind, values, colour, marker, shift in (
            ("decaying, mean", found.decaying, BLUE, "o", 0.985),
            ("static, mean", found.static, ORANGE, "s", 1.015),
        ):
            places, finals = numpy.array(found.initial) * shift, values[:, :, -1]
            axes.plot(places, finals.mean(axis=0), color=colour, marker=marker, label=kind)
            axes.plot(numpy.tile(places, len(finals)), finals.ravel(), marker, color=colour, markersize=4, alpha=0.35)
        axes.axhline(found.baseline[-1], color=BLACK, linestyle="--", linewidth=1, label=f"static {STATIC}", zorder=0)
    axes.set_xscale("log")
    axes.set_xticks(found.initial, [f"{value:g}" for value in found.initial])
    axes.minorticks_off()
    axes.set_xlabel("initial learning rate")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    panels[0].set_title(
        f"after {found.iterations[-1]} iterations; small marks: each of {len(found.static)} seeds", fontsize="medium"
    )
    return save(figure, path)


def two_panels(found: Accuracies, below: float) -> tuple[Any, Any]:
    """Two panels of one horizontal axis: the upper one shows the accuracies near the best, the lower one all.

    Args:
        found: What will be drawn.
        below: How far the upper panel goes on below the final accuracies near the best, as part of their range.
    """
    figure, panels = pyplot().subplots(2, 1, figsize=(7.5, 5.5), sharex=True, height_ratios=(3, 1), layout="constrained")
    finals = numpy.concatenate([found.decaying[:, :, -1], found.static[:, :, -1]])
    near = finals[finals > NEAR * finals.max()]
    extent = max(float(numpy.ptp(near)), 0.01)
    for axes, low, high in zip(panels, (near.min() - below * extent, 0), (near.max() + 0.1 * extent, 1.04), strict=True):
        axes.set_ylim(low, high)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    figure.supylabel("validation accuracy", fontsize="medium")
    return figure, panels


if __name__ == "__main__":
    run_command(main)
