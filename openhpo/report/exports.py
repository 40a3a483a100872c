"""A study in the formats of other tools."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from openhpo.errors import UserError
from openhpo.objective import NO_SCORE
from openhpo.report.numbers import Numbers
from openhpo.result import Result
from openhpo.stages import State


def _need(module: str, what: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(f"to export to {what} needs {module}: pip install {extra}")


def _new(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


# ---- tables


def trial_rows(numbers: Numbers) -> list[dict[str, Any]]:
    """A row a trial, or of replicates a configuration: how it stands, metrics at its best step, hyperparameters."""
    found = []
    for one in numbers.candidates:
        row: dict[str, Any] = {
            **one.standing,
            "value": _number(one.value),
            "began": one.began,
            "ended": one.ended,
        }
        row |= {f"metric_{name}": _number(column[one.number]) for name, column in numbers.metrics.items()}
        found.append(row | {f"param_{name}": value for name, value in one.config.items()})
    return found


def curve_rows(result: Result) -> Iterator[dict[str, Any]]:
    """A row a step of a trial: its metrics."""
    for trial in range(len(result.configs)):
        for step, metrics in result.reports(trial):
            yield {"trial": trial, "step": step, **{name: metrics.get(name) for name in result.metrics}}


def _moments(result: Result) -> dict[tuple[int, int], float]:
    """When each trial reported each step."""
    reports = result.tables.reports
    trials, steps, times = (reports[name].tolist() for name in ("trial", "step", "time"))
    return dict(zip(zip(trials, steps, strict=True), times, strict=True))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def to_csv(result: Result, path: Path) -> Iterator[Path]:
    """Two files: trials.csv and curves.csv."""
    folder = _new(path)
    for name, rows in (("trials", trial_rows(Numbers(result))), ("curves", list(curve_rows(result)))):
        names = list(dict.fromkeys(column for row in rows for column in row))
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(rows)
        yield folder / f"{name}.csv"


def to_parquet(result: Result, path: Path) -> Iterator[Path]:
    """Two files: trials.parquet and curves.parquet."""
    for module in ("pandas", "pyarrow"):
        _need(module, "Parquet", "pandas pyarrow")
    import pandas

    folder = _new(path)
    for name, rows in (("trials", trial_rows(Numbers(result))), ("curves", list(curve_rows(result)))):
        pandas.DataFrame(rows).to_parquet(folder / f"{name}.parquet")
        yield folder / f"{name}.parquet"


def to_json(result: Result, path: Path) -> Iterator[Path]:
    """One file: definition, environment, trials with their curves."""
    numbers = Numbers(result)
    file = path if path.suffix == ".json" else _new(path) / "study.json"
    curves: dict[int, list[dict[str, Any]]] = {}
    for row in curve_rows(result):
        told = {name: _number(row[name]) for name in result.metrics if row[name] is not None}
        curves.setdefault(row["trial"], []).append({"step": row["step"], **told})
    trials = [
        {
            "trial": one.number,
            "state": one.state.value,
            "config": one.config,
            "value": _number(one.value),
            "step": one.step,
            "steps": one.steps,
            "met": one.met,
            "curves": [
                curves.get(trial, []) for trial in range(one.number * result.replicates, (one.number + 1) * result.replicates)
            ],
        }
        for one in numbers.candidates
    ]
    content = {
        "phase": result.phase,
        "definition": result.definition,
        "environment": result.environment,
        "best": None if numbers.best is None else numbers.best.number,
        "trials": trials,
    }
    file.write_text(json.dumps(content, indent=1))
    yield file


# ---- Optuna


def to_optuna(result: Result, path: Path) -> Iterator[Path]:
    """An SQLite storage with one study; what Optuna calls intermediate values are the objective after each step."""
    _need("optuna", "Optuna", "'openhpo[optuna]'")
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the names of metrics
    numbers = Numbers(result)
    file = path if path.suffix in (".db", ".sqlite3") else _new(path) / "optuna.db"
    file.unlink(missing_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{file}",
        study_name=result.path.name or "study",
        direction="maximize" if numbers.objective.sign < 0 else "minimize",
    )
    study.set_metric_names([str(numbers.objective.metric)])
    states = {State.DONE: TrialState.COMPLETE, State.STOPPED: TrialState.PRUNED, State.PAUSED: TrialState.PRUNED}
    distributions = {name: _distribution(numbers, name) for name in _searched(numbers)}
    curves = result.curves() if len(result.tables.reports) else None
    began = result.tables.began
    trials = []
    for one in numbers.candidates:
        state = states.get(one.state, TrialState.FAIL if one.state is State.FAILED else TrialState.RUNNING)
        if one.score == NO_SCORE or not math.isfinite(one.value):
            state = TrialState.FAIL if state is TrialState.COMPLETE else state
        told = [] if curves is None else curves[one.number * result.replicates].tolist()
        trial = create_trial(
            state=state if state.is_finished() else TrialState.FAIL,
            value=one.value if state is TrialState.COMPLETE else None,
            params={name: value for name, value in one.config.items() if name in distributions},
            distributions={name: each for name, each in distributions.items() if name in one.config},
            intermediate_values={step: value for step, value in enumerate(told, 1) if not math.isnan(value)},
            user_attrs={
                "openhpo:trial": one.number,
                "openhpo:state": one.state.value,
                **{name: _number(column[one.number]) for name, column in numbers.metrics.items()},
            },
            system_attrs={"constraints": list(one.score.margins)} if one.score.margins else {},
        )
        trial.datetime_start = datetime.fromtimestamp(began + one.began)
        trial.datetime_complete = datetime.fromtimestamp(began + one.ended) if trial.state.is_finished() else None
        trials.append(trial)
    study.add_trials(trials)
    yield file


def _searched(numbers: Numbers) -> list[str]:
    space = numbers.result.definition.get("space", {}).get("hyperparameters", {})
    return [name for name in space if any(name in one.config for one in numbers.candidates)]


def _distribution(numbers: Numbers, name: str) -> Any:
    """Where a hyperparameter was searched, made so wide that it holds all that was tried: a refinement moves boundaries."""
    from optuna import distributions

    values = [value for value in numbers.column(name) if value is not None]
    if not numbers.is_number(name):
        return distributions.CategoricalDistribution(list(dict.fromkeys(values)))
    described = numbers.result.definition["space"]["hyperparameters"][name]
    low, high = described.get("bounds", (min(values), max(values)))
    low, high = min(low, *values), max(high, *values)
    log = bool(described.get("log")) and low > 0
    if all(isinstance(value, int) for value in values) and described.get("type") == "Integer":
        return distributions.IntDistribution(int(low), int(high), log)
    return distributions.FloatDistribution(float(low), float(high), log)


# ---- TensorBoard


def to_tensorboard(result: Result, path: Path) -> Iterator[Path]:
    """A run a trial: its metrics as scalars, and hyperparameters for the HPARAMS tab."""
    _need("tensorboardX", "TensorBoard", "tensorboardX tensorboard")
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    numbers, folder = Numbers(result), _new(path)
    first, seconds = result.tables.began, _moments(result)
    for one in numbers.candidates:
        for trial in range(one.number * result.replicates, (one.number + 1) * result.replicates):
            for old in (folder / f"trial-{trial:05d}").glob("events.out.tfevents.*"):
                old.unlink()
            with SummaryWriter(str(folder / f"trial-{trial:05d}")) as writer:
                for step, metrics in result.reports(trial):
                    for name, value in metrics.items():
                        writer.add_scalar(name, value, step, walltime=first + seconds.get((trial, step), 0.0))
                best = numbers.result.metrics_where(one.number, one.step) if one.score != NO_SCORE else {}
                for summary in hparams(dict(one.config), {f"best/{name}": value for name, value in best.items()}):
                    writer.file_writer.add_summary(summary)
                for name, value in best.items():
                    writer.add_scalar(f"best/{name}", value, one.step)
    yield folder


# ---- MLflow


def to_mlflow(result: Result, path: Path) -> Iterator[Path]:
    """An SQLite tracking store: an experiment with a run a trial, its metrics by step, and hyperparameters as parameters."""
    from openhpo.mlflow import Runs

    file = path if path.suffix in (".db", ".sqlite3") else _new(path) / "mlflow.db"
    file.unlink(missing_ok=True)
    runs = Runs(f"sqlite:///{file}", result.path.name or "study")
    numbers, tables = Numbers(result), result.tables
    seconds = _moments(result)
    for one in numbers.candidates:
        for trial in range(one.number * result.replicates, (one.number + 1) * result.replicates):
            runs.begin(trial, one.config, tables.began + one.began)
            for step, metrics in result.reports(trial):
                runs.log(trial, step, metrics, tables.began + seconds.get((trial, step), one.ended))
            runs.end(trial, result.states[trial], tables.began + one.ended)
    yield file


EXPORTS: dict[str, Callable[[Result, Path], Iterator[Path]]] = {
    "csv": to_csv,
    "parquet": to_parquet,
    "json": to_json,
    "optuna": to_optuna,
    "tensorboard": to_tensorboard,
    "mlflow": to_mlflow,
}
