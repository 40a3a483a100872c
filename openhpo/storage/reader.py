"""Reads a study file: after the run, during it, and after a kill."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy
from numpy.typing import NDArray

from openhpo.errors import UserError
from openhpo.storage import schema


@dataclass(frozen=True)
class Tables:
    """All of a study file, as it was at one moment.

    Attributes:
        path: The file.
        began: When the study was started, in seconds since 1970.
        definition: What identifies the study.
        environment: What it ran on.
        trials, stages, reports, events: Record arrays, see docs/study-file.md.
        metrics: Names of the columns of `values`.
        values: Shape [reports, metrics], NaN where a metric was not reported.
    """

    path: Path
    began: float
    definition: dict[str, Any]
    environment: dict[str, Any]
    trials: NDArray[Any]
    stages: NDArray[Any]
    reports: NDArray[Any]
    events: NDArray[Any]
    metrics: list[str]
    values: NDArray[numpy.float64]
    log: bytes

    def text(self, at: int, size: int) -> str:
        """Text that a row points to."""
        return self.log[at : at + size].decode()

    def config(self, row: Any) -> dict[str, Any]:
        """The configuration of a row of `trials`."""
        config: dict[str, Any] = json.loads(self.text(int(row["config_at"]), int(row["config_size"])))
        return config


def study_file(path: Path) -> Path:
    """The study file of a study's folder, or the file itself."""
    return path / schema.FILE if path.is_dir() or path.suffix != ".h5" else path


def read(path: str | Path) -> Tables:
    """Read a study.

    Args:
        path: The study's folder, or its study.h5.

    Raises:
        UserError: There is none, or it is no study file of this version.
    """
    file = study_file(Path(path))
    if not file.exists():
        raise UserError(f"there is no study at {path}: {file} does not exist. Give the folder named by --study.")
    try:
        # swmr also opens a file that is being written, or whose writer was killed
        with h5py.File(file, "r", libver="latest", swmr=True, locking=False) as h5:
            return _tables(file, h5)
    except UserError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{file} cannot be read as a study: {error}") from None


def _tables(file: Path, h5: h5py.File) -> Tables:
    version = h5.attrs.get("openhpo")
    if version is None:
        raise UserError(f"{file} is an HDF5 file, but no study of openhpo")
    if version != schema.VERSION:
        raise UserError(
            f"{file} has version {version} of the layout, and this openhpo reads {schema.VERSION}; use the one that wrote it"
        )
    # in the reverse order of writing, so that whatever a row points to is there
    events, reports = h5["events"][()], h5["reports"][()]
    values = h5["values"][: len(reports)]
    stages, trials, metrics, log = h5["stages"][()], h5["trials"][()], h5["metrics"][()], h5["log"][()]
    return Tables(
        path=file,
        began=float(h5.attrs["began"]),
        definition=json.loads(h5["definition"][()].tobytes()),
        environment=json.loads(h5["environment"][()].tobytes()),
        trials=trials,
        stages=stages,
        reports=reports,
        events=events,
        metrics=[name.decode() for name in metrics[: values.shape[1]]],
        values=values,
        log=log.tobytes(),
    )
