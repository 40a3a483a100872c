"""Runs in an MLflow tracking store, one a trial."""

from __future__ import annotations

import importlib.util
import logging
import math
import re
import time
import warnings
from collections.abc import Mapping
from typing import Any

from openhpo.errors import UserError
from openhpo.stages import State

BATCH, PARAMS = 1000, 100  # metrics and parameters that MLflow takes at once
_ENDS = {State.DONE: "FINISHED", State.STOPPED: "KILLED", State.PAUSED: "KILLED", State.FAILED: "FAILED"}


class Runs:
    """An experiment.

    Args:
        uri: Of the tracking store or server, such as sqlite:///mlflow.db or http://host:5000.
        name: Of the experiment; one that is there is gone on with.

    Raises:
        UserError: MLflow is not installed.
    """

    def __init__(self, uri: str, name: str) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise UserError("MLflow is not installed: pip install 'openhpo[mlflow]'")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what MLflow itself uses
            from mlflow import MlflowClient

            self._client = MlflowClient(uri)
            there = self._client.get_experiment_by_name(name)
        self._experiment = self._client.create_experiment(name) if there is None else there.experiment_id
        self._runs: dict[int, str] = {}
        self._waiting: dict[int, list[Any]] = {}
        self._ended: set[int] = set()

    def begin(self, trial: int, config: Mapping[str, Any], at: float | None = None) -> None:
        """A trial begins, `at` so many seconds since 1970."""
        from mlflow.entities import Param

        tags = {"mlflow.runName": f"trial {trial}", "openhpo.trial": str(trial)}
        run = self._client.create_run(self._experiment, start_time=_milliseconds(at), tags=tags).info.run_id
        params = [Param(_name(name), str(value)) for name, value in config.items()]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(run, params=params[start : start + PARAMS])
        self._runs[trial], self._waiting[trial] = run, []

    def log(self, trial: int, step: int, metrics: Mapping[str, float], at: float | None = None) -> None:
        """A step was trained; it is sent with others, or with the end."""
        from mlflow.entities import Metric

        if trial not in self._runs:  # begun by a run before this one
            self.begin(trial, {})
        time = _milliseconds(at)
        self._ended.discard(trial)
        waiting = self._waiting[trial]
        waiting += [Metric(_name(name), value, time, step) for name, value in metrics.items() if not math.isnan(value)]
        if len(waiting) > BATCH // 2:
            self.send(trial)

    def send(self, trial: int) -> None:
        """Send what waits."""
        waiting, self._waiting[trial] = self._waiting[trial], []
        for start in range(0, len(waiting), BATCH):
            self._client.log_batch(self._runs[trial], metrics=waiting[start : start + BATCH])

    def end(self, trial: int, state: State, at: float | None = None) -> None:
        """A trial has come to rest."""
        if trial in self._runs:
            self.send(trial)
            self._client.set_tag(self._runs[trial], "openhpo.state", state.value)
            self._client.set_terminated(self._runs[trial], _ENDS.get(state, "RUNNING"), _milliseconds(at))
            self._ended.add(trial)

    def close(self) -> None:
        """The run ends, and with it what is still in training."""
        for trial in self._runs.keys() - self._ended:
            self.end(trial, State.PAUSED)


def _name(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w\-. /]", "_", name)


def _milliseconds(at: float | None) -> int:
    return int(1000 * (time.time() if at is None else at))
