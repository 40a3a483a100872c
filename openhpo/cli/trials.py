"""The command that lists trials."""

from __future__ import annotations

import json
import math
import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openhpo.cli.console import console
from openhpo.cli.inspect import JsonOption, StudyArgument
from openhpo.errors import UserError, meant

if TYPE_CHECKING:
    from openhpo.report.numbers import Numbers

ABSENT = 2  # the place of what has no value
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}


def trials(
    study: StudyArgument,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COMPARISON", help="Only those with: 'lr < 0.1', 'optimizer == sgd', 'state == failed'."),
    ] = None,
    sort: Annotated[str, typer.Option(metavar="NAME", help="By what; 'best' is best first.")] = "trial",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    top: Annotated[int | None, typer.Option(min=1, help="So many at most.")] = None,
    json_: JsonOption = False,
    csv_: Annotated[bool, typer.Option("--csv", help="Print CSV, for programs.")] = False,
) -> None:
    """List a study's trials; of replicates, the configurations."""
    from openhpo.report.numbers import Numbers
    from openhpo.result import load

    numbers = Numbers(load(study))
    rows = rows_of(numbers)
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["trial"]
    for text in where or []:
        rows = [row for row in rows if _holds(text, row, names)]
    if sort == "best":
        rows.sort(key=lambda row: numbers.candidates[row["trial"]].score, reverse=reverse)
    else:
        _known(sort, names)
        rows.sort(key=lambda row: _order(row.get(sort)), reverse=reverse)
        rows.sort(key=lambda row: _order(row.get(sort))[0] == ABSENT)
    rows = rows[:top]
    if json_:
        print(json.dumps([{name: _plain(value) for name, value in row.items()} for row in rows], indent=2))
    elif csv_:
        import csv

        writer = csv.DictWriter(sys.stdout, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        metric = str(numbers.objective.metric)
        asked = [sort, *(_parts(text, names)[0] for text in where or [])]  # what somebody asks for matters to them
        first = [name for name in ("trial", "state", "steps", metric, *asked, *numbers.hyperparameters) if name in names]
        _show(rows, list(dict.fromkeys([*first, *names])), len(numbers.candidates))


def rows_of(numbers: Numbers) -> list[dict[str, Any]]:
    """A row each: how it stands, its metrics at the best step, and its hyperparameters."""
    found = []
    for one in numbers.candidates:
        metrics = {name: float(column[one.number]) for name, column in numbers.metrics.items()}
        row = one.standing
        own = set(row)
        others = {str(numbers.objective.metric): one.value} | metrics | {"wall_seconds": one.ended - one.began} | one.config
        for name, value in others.items():  # one that is called as something else here gets a name of its own
            row[f"{name} (own)" if name in own else name] = value
        found.append(row)
    return found


def _known(name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UserError(f"trials have no {name!r}: there are {', '.join(names)}.{meant(name, names)}")


def _holds(text: str, row: Mapping[str, Any], names: Sequence[str]) -> bool:
    name, sign, wanted = _parts(text, names)
    _known(name, names)
    value = row.get(name)
    if value is None:
        return False
    if isinstance(value, bool | str):
        return COMPARISONS[sign](str(value).lower(), wanted.strip("'\"").lower())
    try:
        return COMPARISONS[sign](float(value), float(wanted))
    except ValueError:
        raise UserError(f"--where {text!r}: {name} is a number, and {wanted!r} is none") from None


def _parts(text: str, names: Sequence[str]) -> tuple[str, str, str]:
    """Name, sign and value of a comparison; a name may itself have a sign in it, as that of a first step has."""
    known = [name for name in names if re.match(rf"\s*{re.escape(name)}\s*[<>=!]", text)]
    name = re.escape(max(known, key=len)) if known else ".+?"
    found = re.fullmatch(rf"\s*({name})\s*(<=|>=|==|!=|<|>|=)\s*(.+?)\s*", text)
    if found is None:
        raise UserError(f"--where takes a comparison such as 'lr < 0.1' or 'state == failed', not {text!r}")
    return found[1], found[2], found[3]


def _order(value: Any) -> tuple[int, float, str]:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return (ABSENT, 0.0, "")
    return (1, 0.0, value) if isinstance(value, str) else (0, float(value), "")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(rows: Sequence[Mapping[str, Any]], names: Sequence[str], total: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    shown = [name for name in names if any(row.get(name) not in (None, "") for row in rows)]
    cells = {name: [_cell(row.get(name)) for row in rows] for name in shown}
    room, fitting = out.width, list[str]()
    for name in shown:  # what does not fit is named, rather than all squeezed
        room -= max(map(len, [name, *cells[name]])) + 2
        if room < -2:
            break
        fitting.append(name)
    table = Table(*(escape(name) for name in fitting), box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place in range(len(rows)):
        table.add_row(*(escape(cells[name][place]) for name in fitting))
    out.print(table)
    notes = [f"{len(rows)} of {total}"] if len(rows) < total else []
    if len(fitting) < len(shown):
        notes.append(f"not shown, for want of room: {', '.join(shown[len(fitting) :])} (--csv has all)")
    if notes:
        out.print("; ".join(notes), style="dim", markup=False)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)
