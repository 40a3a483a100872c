"""What a study found, read from its file."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from openhpo.errors import UserError, meant
from openhpo.lineage import NO_STAGE, Lineage, Span
from openhpo.objective import NO_SCORE, Objective, Score
from openhpo.replicates import Replicates
from openhpo.search import Best
from openhpo.stages import AT_REST, State, TrialRecord
from openhpo.storage import schema
from openhpo.storage.reader import located, read
from openhpo.storage.share import share
from openhpo.storage.tables import Tables

_STATES = {f"{schema.TRIAL}{state.value}": state for state in AT_REST} | {schema.TRIAL_FORKED: State.RUNNING}
_STAGE_ENDS = (schema.STAGE_ENDED, schema.STAGE_STOPPED, schema.STAGE_FAILED)


class Used(NamedTuple):
    """Where the steps of a study's trials come from; what they share is counted once.

    Attributes:
        steps: All of them.
        others: Those that were trained for other studies of the same job.
        earlier: Those that an earlier study has trained.
    """

    steps: int
    others: int
    earlier: int

    @property
    def reused(self) -> int:
        """Those that were not trained for this study."""
        return self.others + self.earlier

    @property
    def trained(self) -> int:
        """Those that were."""
        return self.steps - self.reused


class Result:
    """A study as its file holds it, finished or not. `openhpo.load` makes one.

    It reads the file once, at the first question, so a thousand ranks that ask nothing read nothing; `load` again to
    follow a running study.

    Args:
        path: The study's folder, or its study.h5.
    """

    def __init__(self, path: str | Path) -> None:
        self._file, self._name = located(Path(path))

    @cached_property
    def tables(self) -> Tables:
        """All that the file holds of this study."""
        return self.of_file(read(self._file))

    def of_file(self, tables: Tables) -> Tables:
        """What a file holds of this study.

        Raises:
            UserError: The file has several studies, and none of them is named.
        """
        names = tables.names
        if self._name is None and names != [""]:
            folders = ", ".join(str(self._file.parent / name) for name in names)
            raise UserError(f"{self._file.parent} holds {len(names)} studies; name one of them: {folders}")
        if self._name is not None and self._name not in names:
            raise UserError(
                f"{self._file.parent} holds no study {self._name!r}; it has {', '.join(names)}.{meant(self._name, names)}"
            )
        return share(tables, 0 if self._name is None else names.index(self._name))

    @property
    def path(self) -> Path:
        """The study's folder."""
        return self._file.parent if self._name is None else self._file.parent / self._name

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
    def phase(self) -> str:
        """How the last run ended: "finished", "suspended" (to be continued), or "running" where it goes on or was killed."""
        return phase_of(self.tables.events["kind"])

    @property
    def finished(self) -> bool:
        """Whether the study ran to its end."""
        return self.phase == "finished"

    @cached_property
    def used(self) -> Used:
        """Where the steps of its trials come from."""
        stages = self.tables.stages[self.tables.reports["stage"]]
        earlier = stages["ranks"] == 0
        others = (stages["study"] == schema.NONE) & ~earlier
        return Used(len(stages), int(others.sum()), int(earlier.sum()))

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
        """How far each trial is; one that was paused when the study ended counts as stopped, one that ran when it was suspended
        as suspended.
        """
        states = [State.RUNNING] * len(self.tables.trials)
        for event in self.tables.events:
            state = _STATES.get(event["kind"].decode())
            if state is not None:
                states[event["trial"]] = state
        if self.finished:
            return [State.STOPPED if state is State.PAUSED else state for state in states]
        if self.phase == "suspended":
            return [State.SUSPENDED if state is State.RUNNING else state for state in states]
        return states

    @cached_property
    def failures(self) -> list[dict[str, Any]]:
        """Trials that failed: their number, rank, step, and traceback, or what else was wrong with them."""
        failed, ended = f"{schema.TRIAL}{State.FAILED.value}".encode(), schema.STAGE_FAILED.encode()
        ranks = dict(zip(self.tables.stages["stage"].tolist(), self.tables.stages["rank"].tolist(), strict=True))
        found: dict[int, dict[str, Any]] = {}
        rank, traceback = NO_STAGE, ""
        for event in self.tables.events[numpy.isin(self.tables.events["kind"], [failed, ended])]:
            text = self.tables.text(int(event["text_at"]), int(event["text_size"]))
            if event["kind"] == ended:  # what it means for trials follows
                rank, traceback = int(event["rank"]), text
                continue
            raised = bool(traceback) and text in traceback
            found[int(event["trial"])] = {
                "trial": int(event["trial"]),
                "rank": rank if raised else ranks.get(int(event["stage"]), NO_STAGE),
                "step": int(event["step"]),
                "traceback": traceback if raised else text,
            }
        return list(found.values())

    @cached_property
    def groups(self) -> dict[int, tuple[int, ...]]:
        """The ranks of each stage that several trained, the leader first, by the stage's number."""
        events = self.tables.events
        return {
            int(event["stage"]): tuple(json.loads(self.tables.text(int(event["text_at"]), int(event["text_size"]))))
            for event in events[events["kind"] == schema.GROUP.encode()]
        }

    @cached_property
    def _lineage(self) -> Lineage:
        return Lineage(self.tables)

    def lineage(self, trial: int, step: int | None = None) -> list[Span]:
        """How the model came about with which a trial was best, from its first step: its own stages and those it took over.

        Args:
            trial: The trial.
            step: A step that it has reported; the best one where absent.

        Raises:
            UserError: There is no such trial or step.
        """
        if not 0 <= trial < len(self.configs):
            raise UserError(f"there is no trial {trial}; there are {len(self.configs)}, counted from 0")
        step = self.scores[trial][1] if step is None else step
        row = self._row_at(trial, step)
        if row is None:
            raise UserError(f"trial {trial} has no report of step {step}" if step else f"trial {trial} has no result")
        stage = int(self.tables.reports["stage"][row])
        return [
            Span(
                int(self.tables.stages["stage"][row]),
                int(self.tables.stages["trial"][row]),
                start,
                stop,
                self._config_of(row),
            )
            for row, start, stop in self._lineage.path(stage, step)
        ]

    def _row_at(self, trial: int, step: int) -> int | None:
        """Of a trial's reports of a step the best one, the last of equals; what it took over only where it has no own."""
        rows = self._lineage.rows[trial]
        rows = rows[self.tables.reports["step"][rows] == step]
        inherited = self._lineage.inherited.get(trial, frozenset())
        own = [row for row in rows.tolist() if row not in inherited]
        best: Score | None = None
        found = None
        for row in own or rows.tolist():
            score = self.scored[row]
            if best is None or (score is not None and score <= best):
                best, found = score or best, row
        return found

    def _config_of(self, row: int) -> dict[str, Any]:
        """The configuration of a row of the table of stages."""
        stage = self.tables.stages[row]
        if stage["config_size"]:
            return self.tables.config(stage)
        return self.configs[int(stage["trial"])]

    # ---- curves and scores

    def curves(self, metric: str | None = None) -> NDArray[numpy.float64]:
        """Learning curves: of each trial, the one of the model that it holds.

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
                [numpy.nan if score in (None, NO_SCORE) else self.objective.value(score) for score in self.scored]
            )
        else:
            there = ", ".join(self.metrics) or "none yet"
            raise UserError(f"no trial reported {metric!r}; reported: {there}.{meant(metric, self.metrics)}")
        reports = self.tables.reports
        steps = int(reports["step"].max()) if len(reports) else 0
        curves = numpy.full((len(self.tables.trials), steps), numpy.nan)
        alone = ~numpy.isin(reports["trial"], list(self._lineage.standings))
        curves[reports["trial"][alone], reports["step"][alone] - 1] = column[alone]
        for trial in self._lineage.standings:
            rows = self._lineage.path_rows(*self._lineage.standings[trial])
            curves[trial, reports["step"][rows] - 1] = column[rows]
        return curves

    @cached_property
    def scored(self) -> list[Score | None]:
        """The score of every report."""
        names, score = self.metrics, self.objective.score
        values = numpy.ascontiguousarray(self.tables.values)
        reported = (values.view(numpy.uint64) != schema.ABSENT_BITS).tolist()
        steps = self.tables.reports["step"].tolist()
        return [
            score(step, {name: value for name, value, there in zip(names, row, is_there, strict=True) if there})
            for step, row, is_there in zip(steps, values.tolist(), reported, strict=True)
        ]

    @cached_property
    def scores(self) -> list[tuple[Score, int]]:
        """The best score of each trial and the step it was reached at."""
        best = [(NO_SCORE, 0)] * len(self.tables.trials)
        steps = self.tables.reports["step"].tolist()
        for trial, rows in enumerate(self._lineage.rows):
            inherited = self._lineage.inherited.get(trial, frozenset())
            for row in rows.tolist():
                score = self.scored[row]
                if score is not None and score < best[trial][0] and row not in inherited:
                    best[trial] = (score, steps[row])
        return best

    @property
    def forks(self) -> bool:
        """Whether its engine has trials go on with each other's models, and change hyperparameters in training."""
        return bool(self.definition.get("forks", False))

    @property
    def promotes(self) -> bool:
        """Whether its engine has only the best of the trials that have come to rest go on."""
        return bool(self.definition.get("promotes", False))

    @property
    def replicates(self) -> int:
        """How often each configuration is trained, each time with another seed."""
        return int(self.definition.get("replicates", 1))

    @cached_property
    def candidates(self) -> list[TrialRecord]:
        """The configurations of a study with replicates: means over these, as its engine and sampler saw them.

        Configuration c has the trials c * replicates to (c + 1) * replicates - 1.
        """
        count, found = self.replicates, []
        for first in range(0, len(self.configs) - count + 1, count):
            numbers = range(first, first + count)
            trials = [TrialRecord(trial, self.configs[trial], self.states[trial], int(self.steps[trial])) for trial in numbers]
            group = Replicates(TrialRecord(first // count, self.configs[first]), trials)
            for trial in trials:
                for row in self._lineage.rows[trial.number].tolist():
                    if self.scored[row] is not NO_SCORE:
                        group.tell(trial, self.scored[row])
            for _ in group.known():
                pass
            group.stopped = any(trial.state is State.STOPPED for trial in trials)
            group.record.state = group.rests or State.RUNNING
            found.append(group.record)
        return found

    @cached_property
    def remarks(self) -> list[dict[str, Any]]:
        """What a slow sampler said of its suggestions, in order: a refinement tells of boundaries and clusters."""
        events = self.tables.events[self.tables.events["kind"] == schema.SUGGESTED.encode()]
        texts = (self.tables.text(int(event["text_at"]), int(event["text_size"])) for event in events)
        return [remark for text in texts for remark in json.loads(text)["remarks"]]

    def reports(self, trial: int) -> Iterator[tuple[int, dict[str, float]]]:
        """What a trial reported of the model that it holds: each step and its metrics."""
        for row in self._lineage.rows[trial].tolist():
            values = zip(self.metrics, self.tables.values[row].tolist(), strict=True)
            yield int(self.tables.reports["step"][row]), {name: value for name, value in values if not math.isnan(value)}

    @cached_property
    def best(self) -> Best | None:
        """The best trial, of replicates the best configuration; None while nothing has reported a finite objective."""
        top = self.top(1)
        return top[0] if top else None

    def top(self, count: int) -> list[Best]:
        """The best trials, the best first; of replicates, the best configurations."""
        if self.replicates > 1:
            ranked = sorted(self.candidates, key=lambda candidate: (candidate.score, candidate.number))
            return [self._mean_standing(candidate) for candidate in ranked[:count] if candidate.score != NO_SCORE]
        order = sorted(range(len(self.scores)), key=lambda trial: (self.scores[trial][0], trial))
        return [self._standing(trial) for trial in order[:count] if self.scores[trial][0] != NO_SCORE]

    def _standing(self, trial: int) -> Best:
        score, step = self.scores[trial]
        value, feasible = self.objective.value(score), score.violation == 0
        if trial not in self._lineage.forked:
            curve = self._objective_curves[trial][: self.steps[trial]].tolist()
            return Best(trial, self.configs[trial], value, step, feasible, curve)
        # the model that was best, which it may have given up since
        row = self._row_at(trial, step)
        assert row is not None
        found = (self.scored[each] for each in self._lineage.path_rows(int(self.tables.reports["stage"][row]), step))
        curve = [math.nan if each in (None, NO_SCORE) else self.objective.value(each) for each in found]
        return Best(trial, self.lineage(trial, step)[-1].config, value, step, feasible, curve)

    def _mean_standing(self, candidate: TrialRecord) -> Best:
        score, step = candidate.score, candidate.best_step
        curve = [self.objective.sign * loss for loss in candidate.losses]
        value, error = self.objective.value(score), candidate.errors[step - 1]
        return Best(candidate.number, candidate.config, value, step, score.violation == 0, curve, error)

    def metrics_of(self, found: Best) -> dict[str, float]:
        """All metrics at the best step of one of the best; of replicates their means."""
        return self.metrics_where(found.trial, found.step)

    def metrics_where(self, number: int, step: int) -> dict[str, float]:
        """All metrics of a trial at one step; with replicates, the means of a configuration."""
        if self.replicates == 1:
            return self.metrics_at(number, step)
        first = number * self.replicates
        rows = [
            self.metrics_at(trial, min(step, int(self.steps[trial])))
            for trial in range(first, first + self.replicates)
            if self.steps[trial] >= step or self.states[trial] is State.DONE  # others have failed before
        ]
        values = {name: [row[name] for row in rows if name in row] for name in self.metrics}
        return {name: sum(given) / len(given) for name, given in values.items() if given}

    @cached_property
    def best_configs(self) -> list[dict[str, Any]]:
        """The hyperparameters that were in force where each trial was best; other than `configs` where these were changed
        in training.
        """
        return [
            self.lineage(trial, step)[-1].config if trial in self._lineage.forked and step else config
            for trial, (config, (_, step)) in enumerate(zip(self.configs, self.scores, strict=True))
        ]

    @cached_property
    def _objective_curves(self) -> NDArray[numpy.float64]:
        return self.curves()

    def metrics_at(self, trial: int, step: int) -> dict[str, float]:
        """All metrics that a trial reported at one step; of several models that it had there, those of the best one."""
        row = self._row_at(trial, step)
        if row is None:
            return {}
        values = self.tables.values[row]
        return {name: float(v) for name, v in zip(self.metrics, values, strict=True) if not math.isnan(v)}

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
        return numpy.rec.fromarrays(list(columns.values()), dtype=[(name, column.dtype) for name, column in columns.items()])

    @property
    def trials(self) -> Any:
        """The table of trials: number, state, steps, value, best step, and the hyperparameters that were in force there."""
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
            "steps": self.steps,
            "value": numpy.array([numpy.nan if s == NO_SCORE else self.objective.value(s) for s, _ in self.scores], float),
            "best_step": numpy.array([step for _, step in self.scores], int),
            "seconds": self._seconds(),
        }
        names = dict.fromkeys(name for config in self.configs for name in config)
        return columns | {name: _column([config.get(name) for config in self.best_configs]) for name in names}

    @cached_property
    def steps(self) -> NDArray[numpy.int64]:
        """How many steps each trial has reported."""
        steps = numpy.zeros(len(self.tables.trials), int)
        numpy.maximum.at(steps, self.tables.reports["trial"], self.tables.reports["step"])
        for trial, (_, step) in self._lineage.standings.items():
            steps[trial] = step
        return steps

    def _seconds(self) -> NDArray[numpy.float64]:
        """How long each trial has trained."""
        seconds = numpy.zeros(len(self.configs))
        begun = dict(zip(self.tables.stages["stage"].tolist(), self.tables.stages["time"].tolist(), strict=True))
        for event in self.tables.events[numpy.isin(self.tables.events["kind"], [kind.encode() for kind in _STAGE_ENDS])]:
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


def phase_of(kinds: NDArray[numpy.bytes_]) -> str:
    """How the last run ended, by the kinds of all events: see `Result.phase`."""
    phases = {schema.FINISHED: "finished", schema.SUSPENDED: "suspended"}
    of_study = kinds[numpy.char.startswith(kinds, b"study_")]
    return phases.get(of_study[-1].decode(), "running") if len(of_study) else "running"


def load_together(path: str | Path) -> dict[str, Result]:
    """Read all studies of a job that share a tree, by name; a single one has the name of its folder.

    Args:
        path: The job's folder, or its study.h5; or the folder of one study.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    tables, name = load_file(path), located(Path(path))[1]
    folder = tables.path.parent
    if name is not None:
        return {name: load(path)}
    if tables.names == [""]:
        return {folder.name: Result(folder)}
    return {each: Result(folder / each) for each in tables.names}


def load_file(path: str | Path) -> Tables:
    """All that a study's file holds, other studies of the same job included.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    return read(located(Path(path))[0])


def _columns(table: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {name: table[name] for name in table.dtype.names or ()}


def _column(values: list[Any]) -> NDArray[Any]:
    """Values of one hyperparameter; None, where it is inactive, becomes NaN among numbers and "" among texts."""
    present = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in present):
        return numpy.array(["" if value is None else value for value in values], str)
    if any(isinstance(value, str | bool) or (isinstance(value, int) and abs(value) >= 1 << 63) for value in present):
        return numpy.array(values, object)
    if len(present) == len(values) and all(isinstance(value, int) for value in present):
        return numpy.array(values, int)
    return numpy.array([numpy.nan if value is None else value for value in values], float)
