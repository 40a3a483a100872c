"""Reads a study file: after the run, during it, and after a kill; refuses what is damaged or somebody else's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy
from numpy.typing import NDArray

from openhpo.errors import UserError
from openhpo.storage import schema
from openhpo.storage.consistency import check
from openhpo.storage.opening import Damage, check_names, damaged, foreign, must, opened, superblock
from openhpo.storage.tables import Tables


def study_file(path: Path) -> Path:
    """The study file of a study's folder, or the file itself."""
    return path / schema.FILE if os.path.isdir(path) or path.suffix != ".h5" else path


def located(path: Path) -> tuple[Path, str | None]:
    """The file that holds a study, and the study's name in it; None where the file is its own.

    The studies of a job share the file in the job's folder, and have a folder below it each.
    """
    file, above = study_file(path), path.parent / schema.FILE
    if path.name and path.suffix != ".h5" and not os.path.exists(file) and os.path.exists(above):
        return above, path.name
    return file, None


def read(path: str | Path) -> Tables:
    """Read a study.

    Args:
        path: The study's folder, or its study.h5.

    Raises:
        UserError: There is none, or it is damaged, or no study file of this version.
    """
    file = study_file(Path(path))
    try:
        check_names(file, superblock(file).root)
        with opened(file) as h5:
            tables = _tables(file, h5)
        check(tables)
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no study at {path}: {file} does not exist. Give the folder named by --study.") from None
    except Exception as error:  # h5py has one of many kinds for what it does not like
        if isinstance(error, MemoryError) or getattr(error, "strerror", None):
            reason = "there is not enough memory" if isinstance(error, MemoryError) else error.strerror  # type: ignore[attr-defined]
            raise UserError(f"{file} cannot be read as a study: {reason}") from None
        raise damaged(file, error) from None
    return tables


def _tables(file: Path, h5: h5py.File) -> Tables:
    _check_version(file, h5.attrs.get("openhpo"))
    # in the reverse order of writing, so that whatever a row points to is there
    events, reports = _rows(h5, "events"), _rows(h5, "reports")
    values = _dataset(h5, "values", numpy.dtype("f8"), 2)
    stages, trials = _rows(h5, "stages"), _rows(h5, "trials")
    rows, columns = values.shape  # once: where this process writes the study, it may grow between two looks
    names = [name.decode() for name in _rows(h5, "metrics")[:columns].tolist()]
    must(rows >= len(reports) and len(names) == columns == len({*names} - {""}), "its metrics are damaged")
    tables = Tables(
        path=file,
        began=float(h5.attrs["began"]),
        definition=_json(h5, "definition"),
        environment=_json(h5, "environment"),
        trials=trials,
        stages=stages,
        reports=reports,
        events=events,
        metrics=names,
        values=values[: len(reports), :columns],
        log=_dataset(h5, "log", numpy.dtype("u1"))[()].tobytes(),
    )
    # past the end of a file that was cut short HDF5 reads zeros
    for column in numpy.flatnonzero(tables.values[-1:].view("u8") == 0).tolist():
        chunk = values.id.get_chunk_info_by_coord((len(reports) - 1, column))
        must(chunk.byte_offset is None or chunk.byte_offset + chunk.size <= os.stat(file).st_size, "it was cut short")
    return tables


def _check_version(file: Path, version: Any) -> None:
    if not isinstance(version, int | numpy.integer):
        raise foreign(file)
    if version != schema.VERSION:
        age = "a newer" if version > schema.VERSION else "an older"
        raise UserError(
            f"{file} was written by {age} openhpo: it has version {version} of the layout, and this one reads "
            f"{schema.VERSION}. Use the openhpo that wrote it."
        )


def _rows(h5: h5py.File, name: str) -> NDArray[Any]:
    rows: NDArray[Any] = _dataset(h5, name, schema.TABLES[name])[()]
    return rows


def _dataset(h5: h5py.File, name: str, dtype: numpy.dtype[Any], dimensions: int = 1) -> Any:
    """A dataset, where it is of that type and not larger than the file."""
    try:
        found = h5[name]
    except KeyError:
        raise Damage(f"its {name} cannot be found") from None
    must(
        isinstance(found, h5py.Dataset) and found.dtype == dtype and found.ndim == dimensions, f"its {name} are of another type"
    )
    # metrics that were not reported take no space
    must(dimensions > 1 or found.nbytes <= os.stat(h5.filename).st_size, f"its {name} would not fit into it")
    return found


def _json(h5: h5py.File, name: str) -> dict[str, Any]:
    try:
        found = json.loads(_dataset(h5, name, numpy.dtype("u1"))[()].tobytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Damage(f"its {name} is damaged")
    return found
