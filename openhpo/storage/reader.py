"""Reads a study file: after the run, during it, and after a kill; refuses what is damaged or somebody else's.

Metadata of HDF5 carry checksums, rows do not. So whatever in rows refers to something else, or tells how much there is, is
checked here once, and who works with the tables need not expect the impossible.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy
from h5py import h5f, h5p
from numpy.typing import NDArray

from openhpo.errors import UserError
from openhpo.objective import Objective
from openhpo.stages import AT_REST
from openhpo.storage import schema

ATTEMPTS = 26  # to read metadata that is being written; HDF5 pauses for 1 ns after the first, then for twice as long each time
PIECE = 1 << 15  # rows looked at together, few enough for a processor's cache
SUPERBLOCK = struct.Struct("<8s B B B B Q Q Q Q L")  # the first bytes of a file, as HDF5's file format has them
SIGNATURE, LATEST, NOWHERE = b"\x89HDF\r\n\x1a\n", 3, (1 << 64) - 1
LINK_INFO, LINK_NAMES = 2, 5  # the kind of message that names a group's index, and the kind of that index


@dataclass(frozen=True)
class Tables:
    """All of a study file, as it was at one moment. What refers to something refers to something that is there.

    Attributes:
        path: The file.
        began: When the study was started, in seconds since 1970.
        definition: What identifies the study.
        environment: What it ran on.
        trials, stages, reports, events: Record arrays, see docs/study-file.md. After a kill there may be trials, stages and
            reports that no event accounts for.
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
        """Text that a row points to.

        Raises:
            UserError: It is damaged.
        """
        try:
            return self.log[at : at + size].decode()
        except UnicodeDecodeError as error:
            raise _damaged(self.path, f"a text is no UTF-8: {error}") from None

    def config(self, row: Any) -> dict[str, Any]:
        """The configuration of a row of `trials`, or of one of `stages` that has its own.

        Raises:
            UserError: It is damaged.
        """
        text = self.text(int(row["config_at"]), int(row["config_size"]))
        try:
            config = json.loads(text)
        except (ValueError, RecursionError):
            config = None
        if not isinstance(config, dict) or not all(isinstance(value, bool | int | float | str) for value in config.values()):
            raise _damaged(self.path, f"the configuration of trial {row['trial']} is none")
        return config


class Damage(Exception):
    """What is wrong with a file."""


def _damaged(file: Path, what: object) -> UserError:
    """The refusal of a damaged file, which tells where it is cut short and else what is wrong."""
    with contextlib.suppress(OSError, ValueError, Damage, UserError):
        end, size = _superblock(file).end, os.stat(file).st_size
        if end > size:
            what = f"it has {size:,} bytes of {end:,}"
    return UserError(
        f"{file} cannot be read as a study: it is damaged ({what}). It is left as it is; restore it from a copy, or choose "
        "another --study."
    )


def study_file(path: Path) -> Path:
    """The study file of a study's folder, or the file itself."""
    return path / schema.FILE if os.path.isdir(path) or path.suffix != ".h5" else path


def read(path: str | Path) -> Tables:
    """Read a study.

    Args:
        path: The study's folder, or its study.h5.

    Raises:
        UserError: There is none, or it is damaged, or no study file of this version.
    """
    file = study_file(Path(path))
    try:
        _check_names(file, _superblock(file).root)
        with _opened(file) as h5:
            tables = _tables(file, h5)
        _check(tables)
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no study at {path}: {file} does not exist. Give the folder named by --study.") from None
    except Exception as error:  # h5py has one of many kinds for what it does not like
        if isinstance(error, MemoryError) or getattr(error, "strerror", None):
            reason = "there is not enough memory" if isinstance(error, MemoryError) else error.strerror  # type: ignore[attr-defined]
            raise UserError(f"{file} cannot be read as a study: {reason}") from None
        raise _damaged(file, error) from None
    return tables


# ---- opening


class Superblock(NamedTuple):
    """What the first bytes of an HDF5 file say.

    Attributes:
        end: The size that the file should have; 0 while it is written, or where a kill has left it.
        root: Where its first group lies.
    """

    end: int
    root: int


def _superblock(file: Path) -> Superblock:
    head = _bytes(file, 0, SUPERBLOCK.size)
    if not head.startswith(SIGNATURE):
        raise UserError(f"{file} cannot be read as a study: {'it is no HDF5 file' if head else 'it is empty'}")
    if head[8:11] != bytes([LATEST, 8, 8]):
        raise _foreign(file)
    if len(head) < SUPERBLOCK.size:
        raise Damage(f"it has {len(head)} bytes")
    *_, written, _base, _extension, end, root, _checksum = SUPERBLOCK.unpack(head)
    return Superblock(0 if written else end, root)


def _foreign(file: Path) -> UserError:
    return UserError(f"{file} cannot be read as a study: it is an HDF5 file, but no study of openhpo")


def _bytes(file: Path, at: int, size: int) -> bytes:
    if at >= 1 << 63:
        raise Damage("it points to nowhere")
    with file.open("rb", buffering=0) as raw:
        raw.seek(at)
        return raw.read(size)


def _check_names(file: Path, root: int) -> None:
    """Make sure that what should list the tables does.

    HDF5 would notice any other damage, as its metadata carry checksums. But it crashes where another index has come here,
    checksum and all.
    """
    header = _bytes(file, root, 1024)
    if header[:5] != b"OHDR\x02":
        raise Damage("its first group is none")
    flags = header[5]
    at = 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)  # after the times, and the limits of attributes
    width = 1 << (flags & 3)
    end = at + width + int.from_bytes(header[at : at + width], "little")
    at += width
    while at < min(end, len(header)) - 4:
        kind, size = header[at], int.from_bytes(header[at + 1 : at + 3], "little")
        at += 6 if flags & 4 else 4
        if kind == LINK_INFO:
            at += 10 if header[at + 1] & 1 else 2  # after the number of links
            index = int.from_bytes(header[at + 8 : at + 16], "little")
            if index != NOWHERE and _bytes(file, index, 6)[5:] != bytes([LINK_NAMES]):
                raise Damage("its list of tables is none")
            return
        at += size


def _opened(file: Path) -> h5py.File:
    """Open as a reader beside a writer, which also opens what is being written or was left by a kill."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_LATEST, h5f.LIBVER_LATEST)
    access.set_file_locking(False, False)
    # h5py does not have this call; it is found in the library that h5py has loaded. Without it HDF5 would try metadata with a
    # wrong checksum a hundred times, with pauses that add up to longer than the world is old.
    with contextlib.suppress(OSError, AttributeError), h5py._objects.phil:
        ctypes.PyDLL(h5p.__file__).H5Pset_metadata_read_attempts(ctypes.c_int64(access.id), ctypes.c_uint(ATTEMPTS))
    return h5py.File(h5f.open(os.fsencode(file), h5f.ACC_RDONLY | h5f.ACC_SWMR_READ, access))


# ---- reading


def _tables(file: Path, h5: h5py.File) -> Tables:
    _check_version(file, h5.attrs.get("openhpo"))
    # in the reverse order of writing, so that whatever a row points to is there
    events, reports = _rows(h5, "events"), _rows(h5, "reports")
    values = _dataset(h5, "values", numpy.dtype("f8"), 2)
    stages, trials = _rows(h5, "stages"), _rows(h5, "trials")
    names = [name.decode() for name in _rows(h5, "metrics")[: values.shape[1]].tolist()]
    _must(len(values) >= len(reports) and len(names) == values.shape[1] == len({*names} - {""}), "its metrics are damaged")
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
        values=values[: len(reports)],
        log=_dataset(h5, "log", numpy.dtype("u1"))[()].tobytes(),
    )
    # past the end of a file that was cut short HDF5 reads zeros
    for column in numpy.flatnonzero(tables.values[-1:].view("u8") == 0).tolist():
        chunk = values.id.get_chunk_info_by_coord((len(reports) - 1, column))
        _must(chunk.byte_offset is None or chunk.byte_offset + chunk.size <= os.stat(file).st_size, "it was cut short")
    return tables


def _check_version(file: Path, version: Any) -> None:
    if not isinstance(version, int | numpy.integer):
        raise _foreign(file)
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
    _must(
        isinstance(found, h5py.Dataset) and found.dtype == dtype and found.ndim == dimensions, f"its {name} are of another type"
    )
    # metrics that were not reported take no space
    _must(dimensions > 1 or found.nbytes <= os.stat(h5.filename).st_size, f"its {name} would not fit into it")
    return found


def _json(h5: h5py.File, name: str) -> dict[str, Any]:
    try:
        found = json.loads(_dataset(h5, name, numpy.dtype("u1"))[()].tobytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Damage(f"its {name} is damaged")
    return found


# ---- checking


def _must(holds: Any, what: str) -> None:
    """Raise Damage where that does not hold, everywhere."""
    if not (holds.all() if isinstance(holds, numpy.ndarray) else holds):
        raise Damage(what)


def _check(tables: Tables) -> None:
    """Make sure that all references lead to something.

    Tables are written one after the other and read in the reverse order, so one that is written earlier may have more rows
    than the others account for, but not fewer.
    """
    _must(math.isfinite(tables.began), "nobody knows when it began")
    _check_definition(tables.definition)
    _must(isinstance(tables.environment.get("code", ""), str), "its environment is damaged")
    trials, stages, limit = tables.trials, tables.stages, tables.definition["trials"]
    _must(len(trials) <= limit, f"it has {len(trials)} trials, and was to have {limit}")
    _must(trials["trial"] == numpy.arange(len(trials)), "its trials are not in order")
    _must(numpy.isfinite(trials["time"]), "the time of a trial is damaged")
    _check_texts(trials["config_at"], trials["config_size"], len(tables.log))
    _check_stages(stages, len(trials))
    own = stages[stages["config_size"] != 0]
    _check_texts(own["config_at"], own["config_size"], len(tables.log))
    _check_events(tables.events, stages, len(trials), limit)
    _check_texts(tables.events["text_at"], tables.events["text_size"], len(tables.log))
    _check_reports(tables.reports, stages)


def _check_definition(definition: dict[str, Any]) -> None:
    texts, numbers = ("app", "engine", "sampler", "precision"), ("trials", "seed")
    _must(all(isinstance(definition.get(name, ""), str) for name in texts), "its definition is damaged")
    _must(all(type(definition.get(name, 0)) is int for name in numbers) and "trials" in definition, "its definition is damaged")
    try:
        Objective.from_definition(definition["objective"])
    except Exception as error:  # whatever can be wrong with an expression
        raise Damage(f"its objective is damaged ({type(error).__name__}: {error})") from None


def _check_texts(at: NDArray[Any], size: NDArray[Any], end: int) -> None:
    """The texts of a table follow each other in the log."""
    ends = at + size
    _must((at >= 0) & (at <= end) & (size >= 0) & (ends <= end), "a text lies outside of its log")
    _must(at[1:] >= ends[:-1], "a text lies in the midst of another one")


def _check_stages(stages: NDArray[Any], trials: int) -> None:
    parent, start, again = stages["parent"], stages["start"], stages["again"]
    numbers = numpy.arange(len(stages))
    _must(stages["stage"] == numbers, "its stages are not in order")
    _must((stages["trial"] >= 0) & (stages["trial"] < trials), "a stage is of no trial")
    _must((stages["rank"] >= 0) & (again >= 0) & (again <= 1), "a stage is damaged")
    _must(numpy.isfinite(stages["time"]), "the time of a stage is damaged")
    _must((start >= 0) & (start < stages["stop"]), "the steps of a stage are damaged")
    _must((parent < numbers) & numpy.where(start == 0, parent == schema.NONE, parent >= 0), "a stage goes on from none")
    later = parent >= 0
    before = stages[parent[later]]
    _must(
        (before["again"] == 0) & (before["start"] < start[later]) & (start[later] <= before["stop"]),
        "a stage goes on from none",
    )


_ANY, _OF_TRIAL, _OF_STAGE, _OF_STATE = (-1, -1, -1, -1), (0, -1, -1, 0), (0, 0, 0, 0), (-1, 0, -1, 0)
_OF_RANK, _OF_STUDY = (-1, -1, 0, -1), (-1, -1, -1, 1)
_LEAST = {  # of each kind of event the least that trial, stage, rank and step may be
    **dict.fromkeys((schema.STARTED, schema.RESUMED), _OF_STUDY),
    **dict.fromkeys((schema.READY, schema.LEFT), _OF_RANK),
    **dict.fromkeys((schema.STAGE_ENDED, schema.STAGE_STOPPED, schema.STAGE_FAILED, schema.STAGE_RETURNED), _OF_STAGE),
    **dict.fromkeys((schema.STATE_SAVED, schema.STATE_MOVED, schema.STATE_LOST), _OF_STATE),
    **dict.fromkeys((f"{schema.TRIAL}{state.value}" for state in AT_REST), _OF_TRIAL),
    schema.TRIAL_FORKED: _OF_STAGE[:2] + _OF_TRIAL[2:],
    **dict.fromkeys((schema.TROUBLE, schema.SUSPENDED, schema.FINISHED), _ANY),
}


def _keys(kinds: NDArray[Any]) -> NDArray[numpy.uint64]:
    """A number for each kind of event, as texts are compared slowly."""
    words = numpy.ascontiguousarray(kinds).view("u8").reshape(-1, 2)
    keys: NDArray[numpy.uint64] = words[:, 0] * numpy.uint64(0x9E37_79B9_7F4A_7C15) ^ words[:, 1]
    return keys


_KINDS = sorted(_LEAST, key=lambda kind: int(_keys(numpy.array([kind], "S16"))[0]))
_KEYS = _keys(numpy.array(_KINDS, "S16"))
_BOUNDS = numpy.array([_LEAST[kind] for kind in _KINDS], "i4")
_OF_TRIALS = numpy.array([kind.startswith(schema.TRIAL) for kind in _KINDS])


def _check_events(events: NDArray[Any], stages: NDArray[Any], trials: int, limit: int) -> None:
    keys = _keys(events["kind"])
    kinds = numpy.minimum(numpy.searchsorted(_KEYS, keys), len(_KEYS) - 1)
    _must(_KEYS[kinds] == keys, "the kind of an event is damaged")
    _must(not len(events) or events["kind"][0].decode() == schema.STARTED, "its first event is damaged")
    least = _BOUNDS[kinds]
    for column, name in enumerate(("trial", "stage", "rank", "step")):
        _must(events[name] >= least[:, column], f"the {name} of an event is damaged")
    _must((events["trial"] < trials) & (events["stage"] < len(stages)), "an event is of no trial or stage")
    _must(events["step"][least[:, 3] == 1] <= limit, "it began with more trials than it has")
    _must(numpy.isfinite(events["time"]), "the time of an event is damaged")
    placed = events["stage"] >= 0
    stage, step = events["stage"][placed], events["step"][placed]
    _must((stages["start"][stage] <= step) & (step <= stages["stop"][stage]), "the step of an event is damaged")
    _must((stages["again"][stage] == 0) | ~_OF_TRIALS[kinds[placed]], "an event is of no stage that reported")


def _check_reports(reports: NDArray[Any], stages: NDArray[Any]) -> None:
    owner = numpy.where(stages["again"] == 0, stages["trial"], schema.NONE)  # those that bring back a state report nothing
    start = numpy.ascontiguousarray(stages["start"])
    last = numpy.minimum(stages["stop"], len(reports))  # as each step before it was reported, too
    for at in range(0, len(reports), PIECE):
        rows = reports[at : at + PIECE]
        stage, step = rows["stage"].astype(numpy.intp), rows["step"]
        _must(stage.min() >= 0 and stage.max() < len(stages), "a report is of no stage")
        _must(rows["trial"] == owner[stage], "a report is of another trial's stage")
        _must((step > start[stage]) & (step <= last[stage]), "the step of a report is damaged")
        _must(rows["event"].min() >= 0 and numpy.isfinite(rows["time"]).all(), "a report is damaged")
