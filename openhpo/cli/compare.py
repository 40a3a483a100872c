"""The command that compares studies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openhpo.cli.console import console
from openhpo.cli.inspect import JsonOption
from openhpo.errors import UserError

if TYPE_CHECKING:
    from openhpo.report.comparison import Group

COLUMNS = 4  # points of the table


def compare(
    studies: Annotated[
        list[str], typer.Argument(metavar="STUDY...", help="Folders of studies; those that differ by seed alone are one.")
    ],
    by: Annotated[str, typer.Option(help="Against what: steps, seconds or trials.")] = "steps",
    to: Annotated[str | None, typer.Option(metavar="FILE", help="Write a page with the curves.")] = None,
    json_: JsonOption = False,
) -> None:
    """Compare the best so far of several studies, at equal steps or time; mean and spread over seeds."""
    from openhpo.report.comparison import WAYS, grouped

    if by not in WAYS:
        raise UserError(f"--by is one of {', '.join(WAYS)}, not {by!r}")
    groups = grouped(studies)
    if to is not None:
        from openhpo.report.page import write_comparison

        print(f"comparison: {write_comparison(groups, Path(to))}")
    table = _table(groups, by)
    if json_:
        print(json.dumps(table, indent=2))
    else:
        _show(groups, table, by)


def _table(groups: Sequence[Group], by: str) -> list[dict[str, Any]]:
    """For each group the mean and the standard deviation of the best so far at some points, and at the end."""
    from openhpo.report.comparison import points_of

    points = points_of(groups, by, COLUMNS)
    found = []
    for group in groups:
        mean, spread = group.at(by, points)
        found.append(
            {
                "name": group.name,
                "studies": [str(numbers.result.path) for numbers in group.members],
                "best": None if group.ends[0] is None else _plain(group.ends[0]),
                "spread": None if group.ends[1] is None else _plain(group.ends[1]),
                "at": [
                    {by: point, "mean": _plain(one), "spread": _plain(other)}
                    for point, one, other in zip(points.tolist(), mean.tolist(), spread.tolist(), strict=True)
                ],
            }
        )
    return found


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _show(groups: Sequence[Group], table: Sequence[Mapping[str, Any]], by: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    metric = groups[0].members[0].objective.metric
    points = [f"{row[by]:,.4g}" if by == "seconds" else f"{row[by]:,.0f}" for row in table[0]["at"]]
    shown = Table(title=f"best {escape(str(metric))} after so many {by}", box=None, padding=(0, 2, 0, 0))
    for heading in ("study", "seeds", *points):
        shown.add_column(heading, no_wrap=True)
    for group, row in zip(groups, table, strict=True):
        cells = []
        for at in row["at"]:
            spread = f" ± {at['spread']:.1g}" if at["spread"] is not None and len(group.members) > 1 else ""
            cells.append("–" if at["mean"] is None else f"{at['mean']:.4g}{spread}")
        shown.add_row(escape(group.name), str(len(group.members)), *cells)
    out.print(shown)
    if any(len(group.members) > 1 for group in groups):
        out.print("mean ± standard deviation over seeds", style="dim")
