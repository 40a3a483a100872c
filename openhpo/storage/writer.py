"""Appends to the study file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy
from numpy.typing import NDArray

from openhpo.errors import UserError
from openhpo.storage import schema
from openhpo.storage.tables import Tables

UNFINISHED = ".unfinished"  # the ending of a file that is being made


class StudyWriter:
    """Writes one study file, from its creation or from where an earlier run left it, to the end of this run.

    Rows gather in memory until `flush`; what was flushed survives a kill. A file takes its place when it is complete, so there
    is no moment at which a kill could leave one that cannot be read.

    Args:
        folder: The study's folder; made where it is missing.
        definition: What identifies the study, in plain JSON.
        environment: What it ran on, in plain JSON.

    Raises:
        UserError: The folder cannot be written.
    """

    def __init__(self, folder: Path, definition: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        if (folder / schema.FILE).exists():
            raise UserError(f"the study cannot be written to {folder}: there is one already. Choose another --study.")
        self._made_folder = not folder.exists()
        nothing = {name: numpy.empty(0, dtype) for name, dtype in schema.TABLES.items()}
        log, values = numpy.empty(0, numpy.uint8), numpy.empty((0, 0))
        self._make(folder, time.time(), definition, environment, {**nothing, "log": log, "values": values})
        self._log_size = 0
        self._events = 0
        self._metrics: dict[str, int] = {}

    @classmethod
    def resume(
        cls,
        tables: Tables,
        definition: Mapping[str, Any],
        environment: Mapping[str, Any],
        *,
        trials: int,
        stages: int,
        reports: int,
    ) -> StudyWriter:
        """Go on with a study that was read before.

        What is there is copied to a new file, which then takes the place of the old one: a writer that was killed leaves the
        old one so that it cannot be opened for writing, and with rows perhaps that no event confirms.

        Args:
            tables: All of the study.
            definition: As it is now, with more trials perhaps.
            environment: What this run runs on.
            trials: How many rows of that table to keep.
            stages: The same.
            reports: The same.

        Raises:
            UserError: The folder cannot be written, or its disk is full; the old file is left as it was.
        """
        writer = cls.__new__(cls)
        writer._made_folder = False
        kept = _content(tables, trials, stages, reports)
        writer._make(tables.path.parent, tables.began, definition, environment, kept)
        writer._log_size, writer._events = len(tables.log), len(tables.events)
        writer._metrics = {name: column for column, name in enumerate(tables.metrics)}
        return writer

    @classmethod
    def copy(cls, tables: Tables, folder: Path) -> None:
        """Write a study that was read to another folder.

        Raises:
            UserError: The folder cannot be written, or its disk is full.
        """
        writer = cls.__new__(cls)
        writer._made_folder = not folder.exists()
        content = _content(tables, len(tables.trials), len(tables.stages), len(tables.reports))
        writer._make(folder, tables.began, tables.definition, tables.environment, content)
        writer.close()

    def _make(
        self,
        folder: Path,
        began: float,
        definition: Mapping[str, Any],
        environment: Mapping[str, Any],
        content: Mapping[str, NDArray[Any]],
    ) -> None:
        self.path = folder / schema.FILE
        unfinished = folder / f"{schema.FILE}{UNFINISHED}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # no locks: parallel file systems often have none, and rank 0 is the only writer
            self._file = h5py.File(unfinished, "w", libver="latest", locking=False)
            _lay_out(self._file, began, definition, environment)
            for name, rows in content.items():
                self._file[name].resize(rows.shape)
                if rows.size:
                    self._file[name][...] = rows
            self._file.swmr_mode = True  # before it takes its place: one opened for writing otherwise could not be read
            _sync(unfinished)
            os.replace(unfinished, self.path)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
                if self._made_folder:
                    folder.rmdir()
            raise UserError(f"the study cannot be written to {folder}: {reason(error)}. Choose another --study.") from None
        # looked up once, as h5py takes longer for that than for writing a row
        self._tables = {name: self._file[name] for name in content}
        self._sizes = {name: len(rows) for name, rows in content.items()}
        self._rows: dict[str, list[Any]] = {name: [] for name in schema.TABLES}
        self._log = bytearray()
        self._blocks: list[tuple[NDArray[Any], Sequence[str], NDArray[numpy.float64]]] = []
        self.waiting = 0  # rows since the last flush
        self._broken = False  # the disk has refused something

    # ---- appending

    def trial(self, trial: int, seed: int, config: Mapping[str, Any], time: float, study: int = 0) -> None:
        self._add("trials", (trial, study, seed, time, *self._text(json.dumps(config))))

    def stage(
        self,
        stage: int,
        trial: int,
        parent: int | None,
        start: int,
        stop: int,
        rank: int,
        time: float,
        config: Mapping[str, Any] | None = None,
        *,
        ranks: int = 1,
        again: bool = False,
        study: int = 0,
    ) -> None:
        """Append a stage that `ranks` ranks train; `config` where it is not its trial's. Of what an earlier study has trained,
        `rank` is -1 and `ranks` 0.
        """
        text = (schema.NONE, 0) if config is None else self._text(json.dumps(config))
        self._add(
            "stages",
            (
                stage,
                trial,
                study,
                schema.NONE if parent is None else parent,
                start,
                stop,
                rank,
                ranks,
                again,
                self._events,
                time,
                *text,
            ),
        )

    def reports(
        self, trial: int, stage: int, first: int, names: Sequence[str], values: NDArray[numpy.float64], time: float
    ) -> None:
        """Append consecutive steps of one stage.

        Args:
            trial: The trial's number.
            stage: The stage's.
            first: The first step of these.
            names: The metrics, one a column.
            values: Shape [steps, metrics].
            time: Seconds since the study began.
        """
        rows = numpy.empty(len(values), schema.REPORTS)
        rows["trial"], rows["stage"], rows["event"], rows["time"] = trial, stage, self._events, time
        absent = numpy.isnan(values)
        if absent.any():  # not the same as what was not reported
            values = numpy.where(absent, schema.REPORTED_NAN, values)
        rows["step"] = numpy.arange(first, first + len(values))
        for name in names:
            if name not in self._metrics:
                self._metrics[name] = len(self._metrics)
                self._add("metrics", name.encode())
        self._blocks.append((rows, names, values))
        self.waiting += len(values)

    def event(
        self,
        kind: str,
        time: float,
        *,
        trial: int = schema.NONE,
        stage: int = schema.NONE,
        rank: int = schema.NONE,
        step: int = schema.NONE,
        study: int = schema.NONE,
        text: str = "",
    ) -> None:
        study = 0 if study == schema.NONE and trial != schema.NONE else study
        self._add("events", (time, kind.encode(), trial, study, stage, rank, step, *self._text(text)))
        self._events += 1

    def _add(self, table: str, row: Any) -> None:
        self._rows[table].append(row)
        self.waiting += 1

    def _text(self, text: str) -> tuple[int, int]:
        at, data = self._log_size + len(self._log), text.encode()
        self._log += data
        return at, len(data)

    # ---- to the disk

    def flush(self) -> None:
        """Write all rows, and hand them to the operating system.

        In an order that lets a reader find everything a row points to.

        Raises:
            UserError: The disk is full, or refuses for another reason. What was flushed before stays as it is.
        """
        with self._writing():
            if self._log:
                self._append("log", numpy.frombuffer(bytes(self._log), numpy.uint8))
                self._log_size += len(self._log)
                self._log.clear()
            for table in ("metrics", "trials", "stages"):
                self._flush_rows(table)
            if self._blocks:
                self._flush_reports()
            self._flush_rows("events")
            self.waiting = 0

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._broken = True
            _cut_off(self._file)
            raise UserError(
                f"the study cannot be written any more: {reason(error)} ({self.path}). What it acknowledged is safe; make "
                "room, and the same command continues it."
            ) from None

    def _flush_rows(self, table: str) -> None:
        rows = self._rows[table]
        if rows:
            self._append(table, numpy.array(rows, schema.TABLES[table]))
            rows.clear()

    def _flush_reports(self) -> None:
        count = sum(len(rows) for rows, _, _ in self._blocks)
        values = numpy.full((count, len(self._metrics)), numpy.nan)
        at = 0
        for _, names, block in self._blocks:
            values[at : at + len(block), [self._metrics[name] for name in names]] = block
            at += len(block)
        table = self._tables["values"]
        before = self._sizes["values"]
        self._sizes["values"] = before + count
        _grow(table, (before + count, len(self._metrics)), values, before)
        self._append("reports", numpy.concatenate([rows for rows, _, _ in self._blocks]))
        self._blocks.clear()

    def _append(self, table: str, rows: NDArray[Any]) -> None:
        dataset, before = self._tables[table], self._sizes[table]
        self._sizes[table] = after = before + len(rows)
        _grow(dataset, (after,), rows, before)

    def close(self) -> None:
        """Write what is left, and end the file so that any HDF5 program opens it."""
        if self._broken:
            self.abandon()
            return
        self.flush()
        with self._writing():
            self._file.close()

    def abandon(self) -> None:
        """Leave the file as it was flushed last."""
        self._broken = True
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self._file.close()

    def sync(self) -> None:
        """Have the disk keep what was flushed, so that it survives the loss of the machine too. For a worker thread."""
        with contextlib.suppress(OSError):  # a file system that cannot does what it can
            _sync(self.path)

    def discard(self) -> None:
        """Remove the file again, and the folder where this made it and nothing else is in it."""
        self.abandon()
        self.path.unlink(missing_ok=True)
        if self._made_folder and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()


def _grow(dataset: h5py.Dataset, shape: tuple[int, ...], rows: NDArray[Any], at: int) -> None:
    """Give a dataset that shape and these rows, and hand them to the operating system.

    In one piece for all threads of this process, which HDF5 shows the new shape at once, before the rows are there.
    """
    with h5py._objects.phil:
        dataset.resize(shape)
        dataset.write_direct(rows, None, numpy.s_[at : at + len(rows)])
        dataset.flush()


def _content(tables: Tables, trials: int, stages: int, reports: int) -> dict[str, NDArray[Any]]:
    """The datasets of a study that was read, so many rows of each."""
    return {
        "trials": tables.trials[:trials],
        "stages": tables.stages[:stages],
        "reports": tables.reports[:reports],
        "events": tables.events,
        "metrics": numpy.array([name.encode() for name in tables.metrics], schema.METRICS),
        "log": numpy.frombuffer(tables.log, numpy.uint8),
        "values": tables.values[:reports],
    }


def _lay_out(file: h5py.File, began: float, definition: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Make the datasets of a study file, empty."""
    file.attrs["openhpo"] = schema.VERSION
    file.attrs["began"] = began
    for name, content in (("definition", definition), ("environment", environment)):
        file[name] = numpy.frombuffer(json.dumps(content).encode(), numpy.uint8)
    for name, dtype in schema.TABLES.items():
        file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(schema.CHUNK,))
    file.create_dataset("log", (0,), "u1", maxshape=(None,), chunks=(schema.LOG_CHUNK,))
    file.create_dataset("values", (0, 0), "f8", maxshape=(None, None), chunks=(schema.CHUNK, 1), fillvalue=numpy.nan)


def reason(error: Exception) -> str:
    """What a file system said, from what HDF5 makes of it."""
    number = getattr(error, "errno", None)
    found = re.search(r"errno = (\d+)", str(error))
    if number is None and found is not None:
        number = int(found.group(1))
    return os.strerror(number) if number else str(error)


def _cut_off(file: h5py.File) -> None:
    """Let what HDF5 still holds go nowhere: after a failed write it would try again at the end of the process, and crash."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, file.id.get_vfd_handle())
        os.close(nowhere)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
