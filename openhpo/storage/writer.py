"""Appends to the study file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy
from numpy.typing import NDArray

from openhpo.errors import UserError
from openhpo.storage import schema


class StudyWriter:
    """Writes one study file from its creation to its end.

    Rows gather in memory until `flush`; what was flushed survives a kill.

    Args:
        folder: The study's folder; made where it is missing.
        definition: What identifies the study, in plain JSON.
        environment: What it ran on, in plain JSON.

    Raises:
        UserError: The folder cannot be written.
    """

    def __init__(self, folder: Path, definition: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        self.path = folder / schema.FILE
        self.began = time.time()
        self._made_folder = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # no locks: parallel file systems often have none, and rank 0 is the only writer
            self._file = h5py.File(self.path, "x", libver="latest", locking=False)
        except OSError as error:
            raise UserError(
                f"the study cannot be written to {folder}: {error.strerror or error}. Choose another --study."
            ) from None
        self._file.attrs["openhpo"] = schema.VERSION
        self._file.attrs["began"] = self.began
        for name, content in (("definition", definition), ("environment", environment)):
            self._file[name] = numpy.frombuffer(json.dumps(content).encode(), numpy.uint8)
        for name, dtype in schema.TABLES.items():
            self._file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(schema.CHUNK,))
        self._file.create_dataset("log", (0,), "u1", maxshape=(None,), chunks=(schema.LOG_CHUNK,))
        self._file.create_dataset("values", (0, 0), "f8", maxshape=(None, None), chunks=(schema.CHUNK, 1), fillvalue=numpy.nan)
        self._file.swmr_mode = True
        self._rows: dict[str, list[Any]] = {name: [] for name in schema.TABLES}
        self._log = bytearray()
        self._log_size = 0
        self._metrics: dict[str, int] = {}
        self._blocks: list[tuple[NDArray[Any], Sequence[str], NDArray[numpy.float64]]] = []
        self.waiting = 0  # rows since the last flush

    # ---- appending

    def trial(self, trial: int, seed: int, config: Mapping[str, Any], time: float) -> None:
        self._add("trials", (trial, seed, time, *self._text(json.dumps(config))))

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
    ) -> None:
        """Append a stage; `config` where it is not its trial's."""
        text = (schema.NONE, 0) if config is None else self._text(json.dumps(config))
        self._add("stages", (stage, trial, schema.NONE if parent is None else parent, start, stop, rank, time, *text))

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
        rows["trial"], rows["stage"], rows["time"] = trial, stage, time
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
        text: str = "",
    ) -> None:
        self._add("events", (time, kind.encode(), trial, stage, rank, step, *self._text(text)))

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
        """
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
        table = self._file["values"]
        before = table.shape[0]
        table.resize((before + count, len(self._metrics)))
        for column in range(len(self._metrics)):
            table[before:, column] = values[:, column]
        table.flush()
        self._append("reports", numpy.concatenate([rows for rows, _, _ in self._blocks]))
        self._blocks.clear()

    def _append(self, table: str, rows: NDArray[Any]) -> None:
        dataset = self._file[table]
        before = len(dataset)
        dataset.resize((before + len(rows),))
        dataset[before:] = rows
        dataset.flush()

    def close(self) -> None:
        """Write what is left, and end the file so that any HDF5 program opens it."""
        self.flush()
        self._file.close()

    def discard(self) -> None:
        """Remove the file again, and the folder where this made it and nothing else is in it."""
        self._file.close()
        self.path.unlink(missing_ok=True)
        if self._made_folder and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()
