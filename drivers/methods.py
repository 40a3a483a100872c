"""Random search, ASHA, BOHB and population based training side by side on one app, at equal numbers of training steps.

Every method may train `--budget` times the steps of a full training; what it has found by then is the best objective that any
of its trials has reported. Each seed decides both the search and the trainings. For example:

    python drivers/methods.py apps/digits_mlp.py --seeds 5 --ranks 2
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy
import typer
from numpy.typing import NDArray

from openhpo.actors import launched_rank
from openhpo.cli.apps import load_app
from openhpo.cli.main import run_command
from openhpo.cli.options import Options, with_options
from openhpo.cli.plots import pyplot, save
from openhpo.cli.run import search
from openhpo.engines import ASHA, Engine, Full, Hyperband, PopulationBased
from openhpo.errors import UserError
from openhpo.samplers import TPE, Random, Sampler

if TYPE_CHECKING:
    from openhpo.result import Result

METHODS: Mapping[str, tuple[Callable[[int], Engine], Callable[[], Sampler]]] = {
    "random": (Full, Random),
    "asha": (lambda steps: ASHA(steps, 1, 3), Random),
    "bohb": (lambda steps: Hyperband(steps, 1, 3, select_brackets=True), lambda: TPE(random_fraction=1 / 3)),
    "pbt": (lambda steps: PopulationBased(steps, max(1, steps // 10)), Random),
}
POINTS = (0.25, 0.5, 1.0)  # of the budget, where the table looks


@with_options
def main(
    options: Options,
    budget: Annotated[int, typer.Option(help="Steps of a method, in full trainings.")] = 12,
    seeds: Annotated[int, typer.Option(help="Repetitions with other seeds.")] = 5,
    method: Annotated[list[str] | None, typer.Option(help="One of them.", show_default="all")] = None,
) -> None:
    """Compare methods at equal training steps, over several seeds."""
    pyplot()
    names = method or list(METHODS)
    for name in names:
        if name not in METHODS:
            raise UserError(f"there is no method {name!r} here; there are {', '.join(METHODS)}")
    folder = Path(options.study or "runs/methods")
    steps = options.steps or load_app(options.app).max_steps
    if steps is None:
        raise UserError(f"say how many steps a trial trains for: --steps 20, or max_steps = 20 in {options.app}")
    found: dict[str, list[NDArray[numpy.float64]]] = {name: [] for name in names}
    result: Result | None = None
    for seed in range(options.seed, options.seed + seeds):
        for name in names:
            engine, sampler = METHODS[name]
            trials = trials_of(name, engine(steps), budget)
            mine = replace(options, study=str(folder / f"{name}-{seed}"), seed=seed, trials=trials)
            result = search(name, mine, sampler(), engine)
            if launched_rank() == 0:
                found[name].append(best_so_far(result, budget * steps))
    if launched_rank() == 0 and result is not None:
        show(result, found)
        print(f"best so far: {draw(result, found, steps, folder / 'methods.png')}")


def trials_of(name: str, engine: Engine, budget: int) -> int:
    """How many trials a method needs to spend the budget."""
    if name in ("random", "pbt"):
        return budget
    one = engine.expected_steps(1000) / 1000
    return max(2, math.ceil(1.1 * budget * engine.max_steps / one))


def best_so_far(result: Result, steps: int) -> NDArray[numpy.float64]:
    """The best loss after each of the first steps, in the order of reports; infinite before the first one that is feasible."""
    losses = numpy.full(steps, math.inf)
    names = result.metrics
    rows = zip(result.tables.reports["step"].tolist()[:steps], result.tables.values.tolist()[:steps], strict=True)
    for place, (step, row) in enumerate(rows):
        metrics = {name: value for name, value in zip(names, row, strict=True) if not math.isnan(value)}
        score = result.objective.score(step, metrics)
        if score is not None and score.violation == 0:
            losses[place] = score.loss
    found: NDArray[numpy.float64] = numpy.minimum.accumulate(losses)
    return found


def show(result: Result, found: Mapping[str, list[NDArray[numpy.float64]]]) -> None:
    """Print means and standard errors at some points of the budget, and who has won how often."""
    from rich.table import Table

    from openhpo.cli.console import console

    sign = result.objective.sign
    seeds = len(next(iter(found.values())))
    table = Table("method", *(f"at {point:.0%} of the steps" for point in POINTS), f"best of all, of {seeds} seeds")
    ends = {name: [float(curve[-1]) for curve in curves] for name, curves in found.items()}
    for name, curves in found.items():
        cells = []
        for point in POINTS:
            values = [sign * float(curve[max(0, int(point * len(curve)) - 1)]) for curve in curves]
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            cells.append(f"{statistics.fmean(values):.5g} ± {error:.2g}")
        won = sum(ends[name][seed] == min(other[seed] for other in ends.values()) for seed in range(seeds))
        table.add_row(name, *cells, str(won))
    out = console()
    out.print(
        f"\n{result.objective.metric}: mean over {seeds} seeds ± standard error, at equal training steps", highlight=False
    )
    out.print(table)


def draw(result: Result, found: Mapping[str, list[NDArray[numpy.float64]]], steps: int, path: Path) -> Path:
    """Draw the mean of the best so far, with its standard error, over training steps."""
    plots = pyplot()
    figure, axes = plots.subplots(figsize=(6.5, 4), layout="constrained")
    shown = []
    for name, curves in found.items():
        values = result.objective.sign * numpy.array(curves)
        values[~numpy.isfinite(values)] = numpy.nan
        mean = values.mean(axis=0)
        error = values.std(axis=0, ddof=1) / math.sqrt(len(curves)) if len(curves) > 1 else numpy.zeros_like(mean)
        places = numpy.arange(1, len(mean) + 1) / steps
        (line,) = axes.plot(places, mean, label=name)
        axes.fill_between(places, mean - error, mean + error, color=line.get_color(), alpha=0.2, linewidth=0)
        shown.append(mean[len(mean) // 10 :])
    low, high = numpy.nanmin(numpy.concatenate(shown)), numpy.nanmax(numpy.concatenate(shown))
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set_xlabel(f"training steps, in full trainings of {steps}")
    axes.set_ylabel(f"best {result.objective.metric} so far")
    axes.legend()
    return save(figure, path)


if __name__ == "__main__":
    run_command(main)
