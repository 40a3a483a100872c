"""What a study found, read from its file."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from openhpo.errors import UserError, meant
from openhpo.objective import NO_SCORE, Objective, Score
from openhpo.stages import State
from openhpo.storage import schema
from openhpo.storage.reader import Tables, read, study_file
from openhpo.study import Best

_STATES = {
    schema.STAGE_ENDED: State.DONE,
    schema.STAGE_STOPPED: State.STOPPED,
    schema.STAGE_FAILED: State.FAILED,
}


class Result:
    """A study as its file holds it, finished or not. `openhpo.load` makes one.

    It reads the file once, at the first question, so a thousand ranks that ask nothing read nothing; `load` again to
    follow a running study.

    Args:
        path: The study's folder, or its study.h5.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = study_file(Path(path))

    @cached_property
    def tables(self) -> Tables:
        """All that the file holds."""
        return read(self._file)

    @property
    def path(self) -> Path:
        """The study's folder."""
        return self._file.parent

    @property
    def definition(self) -> dict[str, Any]:
        """Space, objective, engine, sampler, trials and seed."""
        return self.tables.definition

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, hosts and the command of the run."""
        return self.tables.environment

    @cached_property
    def objective(self) -> Objective:
        """What the study optimises."""
        return Objective.from_definition(self.definition["objective"])

    @property
    def finished(self) -> bool:
        """Whether the study ran to its end."""
        return bool(len(self.tables.events)) and self.tables.events["kind"][-1].decode() == schema.FINISHED

    @property
    def metrics(self) -> list[str]:
        """The metrics that were reported."""
        return self.tables.metrics

    @cached_property
    def configs(self) -> list[dict[str, Any]]:
        """The configuration of each trial."""
        return [self.tables.config(row) for row in self.tables.trials]

    @cached_property
    def states(self) -> list[State]:
        """How far each trial is."""
        states = [State.RUNNING] * len(self.tables.trials)
        for event in self.tables.events:
            state = _STATES.get(event["kind"].decode())
            if state is not None:
                states[event["trial"]] = state
        return states

    @cached_property
    def failures(self) -> list[dict[str, Any]]:
        """Trials that failed: their number, rank, step, and traceback."""
        events = self.tables.events
        return [
            {
                "trial": int(event["trial"]),
                "rank": int(event["rank"]),
                "step": int(event["step"]),
                "traceback": self.tables.text(int(event["text_at"]), int(event["text_size"])),
            }
            for event in events[events["kind"] == schema.STAGE_FAILED.encode()]
        ]

    def curves(self, metric: str | None = None) -> NDArray[numpy.float64]:
        """Learning curves.

        Args:
            metric: Which metric; the objective's by default.

        Returns:
            Shape [trial, step], where column k is step k + 1; NaN where nothing was reported.

        Raises:
            UserError: The metric was never reported.
        """
        metric = str(self.objective.metric) if metric is None else metric
        if metric in self.metrics:
            column = self.tables.values[:, self.metrics.index(metric)]
        elif metric == str(self.objective.metric):  # derived: an expression, or a first step
            column = numpy.array(
                [numpy.nan if score is None else self.objective.value(score) for _, _, score in self._scored()]
            )
        else:
            there = ", ".join(self.metrics) or "none yet"
            raise UserError(f"no trial reported {metric!r}; reported: {there}.{meant(metric, self.metrics)}")
        reports = self.tables.reports
        steps = int(reports["step"].max()) if len(reports) else 0
        curves = numpy.full((len(self.tables.trials), steps), numpy.nan)
        curves[reports["trial"], reports["step"] - 1] = column
        return curves

    def _scored(self) -> Iterator[tuple[int, int, Score | None]]:
        """The trial, step and score of every report."""
        reports, names = self.tables.reports, self.metrics
        for trial, step, row in zip(
            reports["trial"].tolist(), reports["step"].tolist(), self.tables.values.tolist(), strict=True
        ):
            metrics = {name: value for name, value in zip(names, row, strict=True) if not math.isnan(value)}
            yield trial, step, self.objective.score(step, metrics)

    @cached_property
    def scores(self) -> list[tuple[Score, int]]:
        """The best score of each trial and the step it was reached at."""
        best = [(NO_SCORE, 0)] * len(self.tables.trials)
        for trial, step, score in self._scored():
            if score is not None and score < best[trial][0]:
                best[trial] = (score, step)
        return best

    @cached_property
    def best(self) -> Best | None:
        """The best trial; None while no trial has reported a finite objective."""
        top = self.top(1)
        return top[0] if top else None

    def top(self, count: int) -> list[Best]:
        """The best trials, the best first."""
        order = sorted(range(len(self.scores)), key=lambda trial: (self.scores[trial][0], trial))
        return [self._standing(trial) for trial in order[:count] if self.scores[trial][0] != NO_SCORE]

    def _standing(self, trial: int) -> Best:
        score, step = self.scores[trial]
        curve = self._objective_curves[trial]
        return Best(
            trial,
            self.configs[trial],
            self.objective.value(score),
            step,
            score.violation == 0,
            curve[: self._steps[trial]].tolist(),
        )

    @cached_property
    def _objective_curves(self) -> NDArray[numpy.float64]:
        return self.curves()

    def metrics_at(self, trial: int, step: int) -> dict[str, float]:
        """All metrics that a trial reported at one step."""
        rows = (self.tables.reports["trial"] == trial) & (self.tables.reports["step"] == step)
        values = self.tables.values[rows]
        return (
            {name: float(v) for name, v in zip(self.metrics, values[-1], strict=True) if not math.isnan(v)}
            if len(values)
            else {}
        )

    # ---- tables

    def table(self, name: str = "trials") -> Any:
        """One of the tables "trials", "stages", "reports" or "events".

        Returns:
            A pandas data frame where pandas is installed, else a NumPy record array. Trials have a column a
            hyperparameter, reports one a metric.

        Raises:
            UserError: There is no such table.
        """
        tables = {"trials": self._trials, "stages": self._stages, "reports": self._reports, "events": self._events}
        if name not in tables:
            raise UserError(f"there is no table {name!r}; there are {', '.join(tables)}")
        columns = tables[name]()
        if importlib.util.find_spec("pandas") is not None:
            import pandas

            return pandas.DataFrame(columns)
        return numpy.rec.fromarrays(list(columns.values()), names=list(columns))  # type: ignore[call-overload]

    @property
    def trials(self) -> Any:
        """The table of trials: number, state, steps, value, best step and hyperparameters."""
        return self.table("trials")

    def to_dataframe(self, name: str = "trials") -> Any:
        """A table as a pandas data frame.

        Raises:
            UserError: pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:
            raise UserError("to_dataframe() needs pandas: pip install pandas. Without it, table() gives NumPy record arrays.")
        return self.table(name)

    def _trials(self) -> dict[str, NDArray[Any]]:
        columns: dict[str, NDArray[Any]] = {
            "trial": self.tables.trials["trial"],
            "state": numpy.array([state.value for state in self.states], "U8"),
            "steps": self._steps,
            "value": numpy.array([numpy.nan if s == NO_SCORE else self.objective.value(s) for s, _ in self.scores], float),
            "best_step": numpy.array([step for _, step in self.scores], int),
            "seconds": self._seconds(),
        }
        names = dict.fromkeys(name for config in self.configs for name in config)
        return columns | {name: _column([config.get(name) for config in self.configs]) for name in names}

    @cached_property
    def _steps(self) -> NDArray[numpy.int64]:
        """How many steps each trial has reported."""
        steps = numpy.zeros(len(self.tables.trials), int)
        numpy.maximum.at(steps, self.tables.reports["trial"], self.tables.reports["step"])
        return steps

    def _seconds(self) -> NDArray[numpy.float64]:
        """How long each trial has trained."""
        seconds = numpy.zeros(len(self.configs))
        begun = dict(zip(self.tables.stages["stage"].tolist(), self.tables.stages["time"].tolist(), strict=True))
        for event in self.tables.events:
            if int(event["stage"]) in begun:
                seconds[event["trial"]] += event["time"] - begun[int(event["stage"])]
        return seconds

    def _stages(self) -> dict[str, NDArray[Any]]:
        return _columns(self.tables.stages)

    def _reports(self) -> dict[str, NDArray[Any]]:
        return _columns(self.tables.reports) | dict(zip(self.metrics, self.tables.values.T, strict=True))

    def _events(self) -> dict[str, NDArray[Any]]:
        events = self.tables.events
        texts = [self.tables.text(int(event["text_at"]), int(event["text_size"])) for event in events]
        columns = _columns(events) | {"kind": events["kind"].astype("U16"), "text": numpy.array(texts, object)}
        return {name: column for name, column in columns.items() if name not in ("text_at", "text_size")}


def load(path: str | Path) -> Result:
    """Read a study, also one that is running or was killed.

    Args:
        path: The study's folder, or its study.h5.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    result = Result(path)
    _ = result.tables  # now, so that a wrong path is noticed here
    return result


def _columns(table: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {name: table[name] for name in table.dtype.names or ()}


def _column(values: list[Any]) -> NDArray[Any]:
    """Values of one hyperparameter; None, where it is inactive, becomes NaN among numbers and "" among texts."""
    present = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in present):
        return numpy.array(["" if value is None else value for value in values], str)
    if any(isinstance(value, str | bool) for value in present):
        return numpy.array(values, object)
    if len(present) == len(values) and all(isinstance(value, int) for value in present):
        return numpy.array(values, int)
    return numpy.array([numpy.nan if value is None else value for value in values], float)
