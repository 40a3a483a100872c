"""Reads tables of learning curves: CSV, JSON and NPZ. docs/simulate.md says how each is laid out."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from openhpo.errors import UserError, meant
from openhpo.hyperparameters import Categorical, Config, Float, Hyperparameter, Integer, Value
from openhpo.recorded.recording import Recording
from openhpo.space import Space

SUFFIXES = (".csv", ".json", ".jsonl", ".npz")
CONFIGS, CONFIG_NAMES, METRIC_NAMES = "configs", "config_columns", "metric_columns"  # arrays of an NPZ
LOG_RANGE = 100.0  # a number above 0 whose largest value is that many times its smallest is taken to be searched in log space


@dataclass(frozen=True)
class Layout:
    """What a table does not say of itself.

    Attributes:
        step: The column of a CSV that counts steps.
        hyperparameters: The columns of a CSV that make a configuration; None for those that stay the same in every curve.
        curves: The array of an NPZ with the curves; None for all that have their shape.
        first_step: The step of a curve's first value, where no column says so; 0 for a value before training.
        pace: What holds the seconds of each step; None where nothing does.
        elapsed: What holds the seconds since training began, after each step; None where nothing does.
    """

    step: str = "step"
    hyperparameters: Sequence[str] | None = None
    curves: str | None = None
    first_step: int = 1
    pace: str | None = None
    elapsed: str | None = None


class Column(NamedTuple):
    """One metric: values of shape [config, step], and whether there is such a value."""

    values: NDArray[numpy.float64]
    reported: NDArray[numpy.bool_]


class Parsed(NamedTuple):
    """A table: its configurations and their curves, from the first value on."""

    configs: list[Config]
    columns: dict[str, Column]


def read_table(path: str, layout: Layout | None = None) -> Recording:
    """The recording that a table is.

    Args:
        path: A .csv, .json, .jsonl (each perhaps with .gz) or .npz file.
        layout: What it does not say of itself.

    Raises:
        UserError: There is no such file, or it cannot be understood.
    """
    layout, file = layout or Layout(), Path(path)
    if not file.is_file():
        raise UserError(f"there is no table {path}: the file does not exist")
    kind = Path(path.removesuffix(".gz")).suffix
    try:
        parsed = {".csv": _csv, ".json": _json, ".jsonl": _json, ".npz": _npz}[kind](file, layout)
    except KeyError:
        raise UserError(f"{path} is no table: its name ends in none of {', '.join(SUFFIXES)}") from None
    except (OSError, EOFError, ValueError, csv.Error, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from None
    return _recording(path, parsed, layout, skip=1 - layout.first_step if kind != ".csv" else 0)


def _recording(path: str, parsed: Parsed, layout: Layout, skip: int) -> Recording:
    if layout.first_step not in (0, 1):
        raise UserError(f"the first step is 1, or 0 for a value before training, not {layout.first_step}")
    seconds = _seconds(path, parsed, layout)
    columns = {_plain_name(n): column for n, column in parsed.columns.items() if n not in (layout.pace, layout.elapsed)}
    if not columns or not parsed.configs:
        raise UserError(f"{path} holds no learning curves")
    values = numpy.stack([column.values for column in columns.values()], axis=2)[:, skip:]
    reported = numpy.stack([column.reported for column in columns.values()], axis=2)[:, skip:]
    there: NDArray[numpy.bool_] = numpy.any(reported, axis=2)
    lengths = numpy.where(there.any(axis=1), there.shape[1] - there[:, ::-1].argmax(axis=1), 0)
    count, steps = there.shape
    return Recording(
        source=path,
        space=space_of(parsed.configs),
        configs=parsed.configs,
        lengths=lengths,
        metrics=tuple(columns),
        values=values,
        reported=reported,
        seconds=numpy.hstack([numpy.zeros((count, steps)) if seconds is None else seconds[:, skip:], numpy.zeros((count, 1))]),
        setup=numpy.zeros(count),
        crashed=numpy.zeros(count, bool),
    )


def _plain_name(name: str) -> str:
    """A metric's name as an objective can have it, which takes valid/loss for a division."""
    return re.sub(r"\W", "_", name)


def _seconds(path: str, parsed: Parsed, layout: Layout) -> NDArray[numpy.float64] | None:
    """Seconds of each step, shape [config, step]; None where the table is not asked for them."""
    name = layout.pace or layout.elapsed
    if name is None:
        return None
    column = parsed.columns.get(name)
    shape = next(iter(parsed.columns.values())).values.shape
    if column is not None:
        seconds, there = column
        if layout.elapsed:  # measured times are not always in order
            seconds = numpy.diff(numpy.maximum.accumulate(numpy.where(there, seconds, 0.0), axis=1), axis=1, prepend=0.0)
        seconds = numpy.where(there, seconds, 0.0)
    elif layout.pace and all(isinstance(config.get(name), int | float) for config in parsed.configs):
        seconds = numpy.repeat(numpy.array([float(config.pop(name)) for config in parsed.configs])[:, None], shape[1], axis=1)
    else:
        names = [*parsed.columns, *parsed.configs[0]]
        raise UserError(f"{path} has no column {name!r} of seconds; it has {', '.join(names)}.{meant(name, names)}")
    if not (numpy.isfinite(seconds) & (seconds >= 0)).all():
        raise UserError(f"{path}: {name!r} holds values that are no seconds: negative ones, or none at all")
    return seconds


# ---- CSV


def _csv(path: Path, layout: Layout) -> Parsed:
    with _open(path) as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if layout.step not in header:
        raise UserError(f"{path} has no column {layout.step!r} that counts steps (--step-column): it has {', '.join(header)}")
    for number, cells_of in enumerate(rows):
        if len(cells_of) != len(header):
            raise UserError(f"row {number + 1} of {path} has {len(cells_of)} values, and there are {len(header)} columns")
    cells = {name: [cells_of[place].strip() for cells_of in rows] for place, name in enumerate(header)}
    steps = _whole(path, layout.step, cells.pop(layout.step))
    names = _constant(cells, steps) if layout.hyperparameters is None else list(layout.hyperparameters)
    for name in names:
        if name not in cells:
            raise UserError(f"{path} has no column {name!r}; it has {', '.join(header)}.{meant(name, header)}")
    curves: dict[tuple[str, ...], dict[int, int]] = {}  # the row of each step, by configuration
    for row, key in enumerate(zip(*(cells[name] for name in names), strict=True) if names else [()] * len(rows)):
        if curves.setdefault(key, {}).setdefault(steps[row], row) != row:
            shown = ", ".join(f"{name}={value}" for name, value in zip(names, key, strict=True))
            raise UserError(f"{path} has step {steps[row]} of {shown or 'its one configuration'} twice: which is it?")
    orders = [_in_order(path, rows_of) for rows_of in curves.values()]
    numbers = {name: _numbers(texts) for name, texts in cells.items() if name not in names}
    width = max(map(len, orders), default=0)
    columns = {
        name: _padded([[values[row] for row in order] for order in orders], width)
        for name, values in numbers.items()
        if values is not None
    }
    configs = [{name: _value(text) for name, text in zip(names, key, strict=True) if text} for key in curves]
    return Parsed(configs, columns)


def _whole(path: Path, name: str, texts: Sequence[str]) -> list[int]:
    try:
        return [int(float(text)) for text in texts]
    except (ValueError, OverflowError):
        raise UserError(f"{path}: the column {name!r} is to count steps, and holds what is no number") from None


def _constant(cells: dict[str, list[str]], steps: Sequence[int]) -> list[str]:
    """The columns that never change within a curve; a new one begins where steps do not rise."""
    same = [row for row in range(1, len(steps)) if steps[row] > steps[row - 1]]
    return [name for name, texts in cells.items() if all(texts[row] == texts[row - 1] for row in same)]


def _in_order(path: Path, rows: dict[int, int]) -> list[int]:
    """The rows of a curve from step 1 on; steps may be counted in any unit."""
    steps = sorted(step for step in rows if step > 0)
    if not steps or steps != [steps[0] * (place + 1) for place in range(len(steps))]:
        raise UserError(
            f"{path}: steps have to follow each other from the first, as 1, 2, 3 or 100, 200, 300 do, but there is a curve "
            f"with {', '.join(map(str, steps[:4])) or 'none'}"
        )
    return [rows[step] for step in steps]


def _numbers(texts: Sequence[str]) -> list[float | None] | None:
    """The values of a column, None where a cell is empty; None where it holds other texts."""
    try:
        return [float(text) if text else None for text in texts]
    except ValueError:
        return None


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# ---- JSON


def _json(path: Path, layout: Layout) -> Parsed:
    with _open(path) as file:
        text = file.read()
    try:
        records = json.loads(text)
    except ValueError:
        records = [json.loads(line) for line in text.splitlines() if line.strip()]
    records = [records] if isinstance(records, dict) else records
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path} has to hold a list of objects, or one on each line: one a configuration, see docs/simulate.md")
    parts = [_parts(record) for record in records]
    names = list(dict.fromkeys(name for _, curves in parts for name in curves))
    width = max((len(curve) for _, curves in parts for curve in curves.values()), default=0)
    columns = {name: _padded([curves.get(name, []) for _, curves in parts], width) for name in names}
    return Parsed([config for config, _ in parts], columns)


def _parts(record: dict[str, Any]) -> tuple[Config, dict[str, list[float | None]]]:
    """A record's configuration, all single values in it, and its curves, all lists of numbers; objects are looked into."""
    leaves = list(_leaves(record, ()))
    singles = [(path, value) for path, value in leaves if isinstance(value, bool | int | float | str)]
    short = [path[-1] for path, _ in singles]
    config = {path[-1] if short.count(path[-1]) == 1 else "/".join(path): value for path, value in singles}
    return config, {"/".join(path): value for path, value in leaves if isinstance(value, list) and _is_curve(value)}


def _leaves(item: Any, path: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], Any]]:
    if isinstance(item, dict):
        for name, inner in item.items():
            yield from _leaves(inner, (*path, name))
    else:
        yield path, item


def _is_curve(values: list[Any]) -> bool:
    return bool(values) and all(value is None or isinstance(value, int | float) for value in values)


# ---- NPZ


def _npz(path: Path, layout: Layout) -> Parsed:
    with numpy.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    curves = {name: array for name, array in arrays.items() if array.ndim in (2, 3) and name != CONFIGS}
    if layout.curves is not None:
        if layout.curves not in curves:
            raise UserError(
                f"{path} has no curves {layout.curves!r}; it has {', '.join(curves)}.{meant(layout.curves, curves)}"
            )
        curves = {layout.curves: curves[layout.curves]}
    if not curves:
        raise UserError(f"{path} holds no array of shape [config, step] or [config, step, metric]")
    if sum(array.ndim == 3 for array in curves.values()) > 1:
        raise UserError(f"{path} holds several sets of curves, so say which: --curves {' or --curves '.join(curves)}")
    shapes = {array.shape[:2] for array in curves.values()}
    if len(shapes) > 1:
        raise UserError(f"{path} holds curves of different shapes, {', '.join(map(str, sorted(shapes)))}: choose by --curves")
    columns: dict[str, Column] = {}
    for name, array in curves.items():
        for label, part in _layers(path, name, array, arrays.get(METRIC_NAMES)):
            columns[label] = Column(part.astype(float), numpy.ones(part.shape, bool))
    return Parsed(_configs(path, arrays, shapes.pop()[0]), columns)


def _layers(path: Path, name: str, array: NDArray[Any], names: Any) -> list[tuple[str, NDArray[Any]]]:
    if array.ndim == 2:
        return [(name, array)]
    if names is None or len(names) != array.shape[2]:
        raise UserError(f"{path}: {name!r} holds {array.shape[2]} metrics, whose names {METRIC_NAMES!r} has to hold")
    return [(str(label), array[:, :, place]) for place, label in enumerate(names)]


def _configs(path: Path, arrays: dict[str, NDArray[Any]], count: int) -> list[Config]:
    others = (CONFIG_NAMES, METRIC_NAMES)
    single = {name: array.tolist() for name, array in arrays.items() if array.shape == (count,) and name not in others}
    if CONFIGS in arrays:
        table, names = arrays[CONFIGS], arrays.get(CONFIG_NAMES)
        if names is None or table.shape != (count, len(names)):
            raise UserError(
                f"{path}: {CONFIGS!r} has to be of shape [config, hyperparameter], and {CONFIG_NAMES!r} to name them"
            )
        single |= {str(name): _plain(table[:, place]) for place, name in enumerate(names)}
    if not single:
        single = {"row": list(range(count))}
    return [dict(zip(single, values, strict=True)) for values in zip(*single.values(), strict=True)]


def _plain(column: NDArray[Any]) -> list[Value]:
    """A column's values, as whole numbers where all are."""
    whole = column.dtype.kind == "f" and bool(numpy.isfinite(column).all()) and bool((column == numpy.rint(column)).all())
    values: list[Value] = (column.astype(int) if whole else column).tolist()
    return values


# ---- common


def _open(path: Path) -> Any:
    return (
        gzip.open(path, "rt", encoding="utf-8", newline="") if path.suffix == ".gz" else path.open(encoding="utf-8", newline="")
    )


def _padded(curves: Sequence[Sequence[float | None]], width: int) -> Column:
    """Curves of several lengths as one array; None is a value that is not there."""
    values, reported = numpy.zeros((len(curves), width)), numpy.zeros((len(curves), width), bool)
    for place, curve in enumerate(curves):
        reported[place, : len(curve)] = [value is not None for value in curve]
        values[place, : len(curve)] = [0.0 if value is None else value for value in curve]
    return Column(values, reported)


def space_of(configs: Sequence[Config]) -> Space:
    """A space that holds some configurations: their values, and for numbers all between the smallest and the largest."""
    names = dict.fromkeys(name for config in configs for name in config)
    if not names:
        return Space({"table": "the one configuration"})
    return Space({name: _range([config[name] for config in configs if name in config]) for name in names})


def _range(values: Sequence[Value]) -> Hyperparameter | Value:
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        return distinct[0]
    numbers = [value for value in distinct if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(distinct):
        return Categorical(distinct)
    lower, upper = min(numbers), max(numbers)
    log = lower > 0 and upper / lower >= LOG_RANGE
    if all(isinstance(value, int) for value in numbers):
        return Integer((int(lower), int(upper)), log)
    return Float((float(lower), float(upper)), log)
