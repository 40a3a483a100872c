"""Code that is told what happens in a study while it runs: `hpo.run(..., callbacks=[...])`.

Callbacks live on rank 0, in a thread of their own, so that a slow one, or a server that does not answer, holds up nothing. What
they raise is shown once and ends that callback, not the study.
"""

from __future__ import annotations

import importlib.util
import queue
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openhpo.errors import UserError
from openhpo.stages import State

PATIENCE = 60.0  # seconds that the end of a study waits for callbacks that are behind


class Callback:
    """Override what is of interest."""

    def on_start(self, folder: Path, definition: Mapping[str, Any]) -> None:
        """A run begins, or continues a study."""

    def on_trial(self, trial: int, config: Mapping[str, Any]) -> None:
        """A trial begins."""

    def on_report(self, trial: int, step: int, metrics: Mapping[str, float]) -> None:
        """A step has come to count for a trial.

        It is told for each of the trials that share a step; for one that comes to share it later, then. A run tells what comes
        to count in it, each step of a trial once; what earlier runs trained it tells to trials that only now come to share it.
        A trial that takes over the model of another one (population based training) is not told of the donor's steps: its own
        go on from there, so that some may be left out, and some may come again, of another model.

        Args:
            trial: The trial's number.
            step: Counts from 1 over the whole training of the model.
            metrics: What training yielded.
        """

    def on_rest(self, trial: int, state: State) -> None:
        """A trial has come to rest: paused, done, stopped or failed."""

    def on_end(self, phase: str) -> None:
        """The run ends: "finished", "suspended", or "failed"."""


class Callbacks:
    """Tells callbacks in another thread, in order.

    Args:
        callbacks: Whom to tell.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = list(callbacks)
        self._queue: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._trouble: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def tell(self, what: str, *details: Any) -> None:
        """Have a method of all called, soon."""
        if not self._callbacks:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="callbacks", daemon=True)
            self._thread.start()
        self._queue.put((what, details))

    def _work(self) -> None:
        while (told := self._queue.get()) is not None:
            what, details = told
            for callback in tuple(self._callbacks):
                try:
                    getattr(callback, what)(*details)
                except Exception:
                    self._callbacks.remove(callback)
                    name = type(callback).__name__
                    self._trouble.append(
                        f"the callback {name} raised in {what}, and is told nothing more:\n{traceback.format_exc()}"
                    )

    def troubles(self) -> list[str]:
        """What callbacks have raised since the last call."""
        found, self._trouble = self._trouble, []
        return found

    def close(self) -> None:
        """Wait until all is told, at most a minute."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._trouble.append(f"callbacks were {self._queue.qsize():,} events behind at the end, which they were not told")
        self._thread = None


class TensorBoard(Callback):
    """Write scalars for TensorBoard, a run a trial. Needs `pip install openhpo[export]`.

    Args:
        folder: Where to; `tensorboard` in the study's folder by default.
        every: Seconds between two flushes.
    """

    def __init__(self, folder: str | Path | None = None, every: float = 5.0) -> None:
        try:
            import tensorboardX  # noqa: F401
        except ImportError:
            raise UserError("TensorBoard(...) needs tensorboardX: pip install 'openhpo[export]'") from None
        self._folder = None if folder is None else Path(folder)
        self._every = every
        self._flushed = 0.0
        self._writers: dict[int, Any] = {}
        self._configs: dict[int, Mapping[str, Any]] = {}

    def on_start(self, folder: Path, definition: Mapping[str, Any]) -> None:
        self._folder = folder / "tensorboard" if self._folder is None else self._folder

    def on_trial(self, trial: int, config: Mapping[str, Any]) -> None:
        self._configs[trial] = config

    def on_report(self, trial: int, step: int, metrics: Mapping[str, float]) -> None:
        writer = self._writer(trial)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        if time.monotonic() - self._flushed > self._every:
            self._flushed = time.monotonic()
            for each in self._writers.values():
                each.flush()

    def on_rest(self, trial: int, state: State) -> None:
        writer = self._writers.pop(trial, None)  # a file less that is open; a trial that goes on opens another one
        if writer is not None:
            writer.close()

    def on_end(self, phase: str) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, trial: int) -> Any:
        if trial not in self._writers:
            from tensorboardX import SummaryWriter
            from tensorboardX.summary import hparams

            assert self._folder is not None
            writer = SummaryWriter(str(self._folder / f"trial-{trial:05d}"))
            if (config := self._configs.pop(trial, None)) is not None:
                for summary in hparams(dict(config), {}):
                    writer.file_writer.add_summary(summary)
            self._writers[trial] = writer
        return self._writers[trial]


class MLflow(Callback):
    """Log to an MLflow server or store, a run a trial. Needs `pip install openhpo[mlflow]`.

    Args:
        uri: Of the tracking server or store; by default mlflow.db in the study's folder.
        experiment: Its name; the study's folder's by default.
        every: Seconds that metrics of a trial that trains may wait.
    """

    def __init__(self, uri: str | None = None, experiment: str | None = None, every: float = 10.0) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise UserError("MLflow(...) needs MLflow: pip install 'openhpo[mlflow]'")
        self._uri = uri
        self._experiment = experiment
        self._every = every
        self._runs: Any = None
        self._sent: dict[int, float] = {}

    def on_start(self, folder: Path, definition: Mapping[str, Any]) -> None:
        from openhpo.mlflow import Runs

        self._runs = Runs(self._uri or f"sqlite:///{folder / 'mlflow.db'}", self._experiment or folder.name or "study")

    def on_trial(self, trial: int, config: Mapping[str, Any]) -> None:
        self._runs.begin(trial, config)

    def on_report(self, trial: int, step: int, metrics: Mapping[str, float]) -> None:
        self._runs.log(trial, step, metrics)
        if time.monotonic() - self._sent.setdefault(trial, time.monotonic()) > self._every:
            self._sent[trial] = time.monotonic()
            self._runs.send(trial)

    def on_rest(self, trial: int, state: State) -> None:
        self._runs.end(trial, state)

    def on_end(self, phase: str) -> None:
        if self._runs is not None:
            self._runs.close()
