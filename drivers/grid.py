"""Grid search with a table of all points and a heat map of two axes.

The grid engine of "Neural Network Hyperparameter Optimization with MagmaDNN and OpenDIEL" (Ouyang, McBride, Febbo, Wong,
Tomov, Yin): one process hands hyperparameters to the others, which train and send their metrics back. Here over any number
of axes. For example:

    python drivers/grid.py apps/digits_mlp.py --axis lr=5 --axis width=16,32,64,128 --set momentum=0.9 \
        --set batch=64 --set activation=relu --steps 10 --ranks 4
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy
import typer

from openhpo.actors import launched_rank
from openhpo.cli.main import run_command
from openhpo.cli.options import Options, with_options
from openhpo.cli.plots import pyplot, save
from openhpo.cli.run import axes_of, search
from openhpo.errors import UserError
from openhpo.samplers import Grid

if TYPE_CHECKING:
    from openhpo.result import Result


@with_options
def main(
    options: Options,
    axis: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUES", help="Values (lr=0.1,0.01), or how many (lr=5).")
    ] = None,
    x: Annotated[str | None, typer.Option(help="The heat map's horizontal axis.", show_default="the first axis")] = None,
    y: Annotated[str | None, typer.Option(help="The heat map's vertical axis.", show_default="the second axis")] = None,
    plot: Annotated[str | None, typer.Option(metavar="PNG", help="The heat map.", show_default="in the study's folder")] = None,
) -> None:
    """Try every combination; print a table of all points and draw two axes as a heat map."""
    pyplot()  # a plot that cannot be drawn is better known before training than after
    result = search("grid", options, Grid(axes_of(axis)))
    if launched_rank() != 0:
        return
    table(result)
    varied = [name for name in names(result) if len({config.get(name) for config in result.configs}) > 1]
    for name in (x, y):
        if name is not None and name not in varied:
            raise UserError(f"the heat map cannot show {name!r}: the grid varies {', '.join(varied) or 'nothing'}")
    across = x or next((name for name in varied if name != y), None)
    down = y or next((name for name in varied if name != across), None)
    if across is None or down is None:
        print("a heat map needs two axes that vary; this grid has fewer")
        return
    print(f"heat map: {heat_map(result, across, down, Path(plot) if plot else result.path / 'grid.png')}")


def names(result: Result) -> list[str]:
    """All hyperparameters, in the order of the space."""
    return list(dict.fromkeys(name for config in result.configs for name in config))


def table(result: Result) -> None:
    """Print every point with its best value, in the order of the grid."""
    from rich.table import Table

    from openhpo.cli.console import console

    columns = names(result)
    grid = Table("trial", *columns, str(result.objective.metric), "at step", "state")
    for row in result.tables.trials:
        trial = int(row["trial"])
        score, step = result.scores[trial]
        config = result.configs[trial]
        value = f"{result.objective.value(score):.6g}" if step else "-"
        grid.add_row(
            str(trial), *(label(config.get(name, "-")) for name in columns), value, str(step), result.states[trial].value
        )
    console().print(grid)


def heat_map(result: Result, x: str, y: str, path: Path) -> Path:
    """Draw the objective over two axes; where other axes vary too, a cell shows the best of them.

    Raises:
        UserError: matplotlib is not installed.
    """
    plots = pyplot()
    columns, rows = (ordered({config[name] for config in result.configs if name in config}) for name in (x, y))
    cells = numpy.full((len(rows), len(columns)), numpy.nan)
    for config, (score, step) in zip(result.configs, result.scores, strict=True):
        if step and score.violation == 0 and x in config and y in config:
            at = rows.index(config[y]), columns.index(config[x])
            value = result.objective.value(score)
            better = numpy.isnan(cells[at]) or result.objective.sign * value < result.objective.sign * cells[at]
            cells[at] = value if better else cells[at]
    figure, axes = plots.subplots(figsize=(1.6 + 0.9 * len(columns), 1.4 + 0.6 * len(rows)), layout="constrained")
    image = axes.imshow(cells, origin="lower", aspect="auto", cmap="viridis" if result.objective.sign < 0 else "viridis_r")
    axes.set_xticks(range(len(columns)), [label(value) for value in columns])
    axes.set_yticks(range(len(rows)), [label(value) for value in rows])
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    middle = (numpy.nanmin(cells) + numpy.nanmax(cells)) / 2 if not numpy.isnan(cells).all() else 0.0
    for (row, column), value in numpy.ndenumerate(cells):
        bright = (value > middle) == (result.objective.sign < 0)
        text = "-" if numpy.isnan(value) else f"{value:.4g}"
        axes.text(column, row, text, ha="center", va="center", color="black" if bright else "white")
    others = [name for name in names(result) if name not in (x, y) and len({c.get(name) for c in result.configs}) > 1]
    axes.set_title(f"best over {', '.join(others)}" if others else f"{result.definition['app']}", fontsize="medium")
    figure.colorbar(image, label=str(result.objective.metric))
    return save(figure, path)


def ordered(values: set[Any]) -> list[Any]:
    """Numbers by size, texts by the alphabet."""
    return sorted(values, key=lambda value: (isinstance(value, str), value))


def label(value: Any) -> str:
    """A hyperparameter's value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_command(main)
