"""Checkpoint files: one state each, in HDF5, a dataset a tensor. Written under another name and renamed, so never half
there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy
from numpy.typing import NDArray

VERSION = 1
FOLDER = "checkpoints"
PIECE = 16 << 20  # bytes written at once: HDF5 has one lock for all threads, and the study file must not wait long for it


class Unreadable(Exception):
    """A checkpoint is not there, or damaged."""


Tensor = tuple[str, str, tuple[int, ...], int, int]  # path, element type, shape, place in the buffer, bytes


def name_of(state: int) -> str:
    """The file of a state, relative to the study's folder."""
    return f"{FOLDER}/stage-{state}.h5"


def write(path: Path, header: bytes, data: NDArray[numpy.uint8], tensors: Iterable[Tensor]) -> None:
    """Write a checkpoint.

    Args:
        path: Its file.
        header: The state's JSON header.
        data: All bytes of its tensors, uint8.
        tensors: What lies in it.

    Raises:
        OSError: The disk is full, or the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    try:
        with h5py.File(unfinished, "w", libver="latest", locking=False) as file:
            file.attrs["openhpo_checkpoint"] = VERSION
            file.attrs["bytes"] = data.size
            file["header"] = numpy.frombuffer(header, numpy.uint8)
            group = file.create_group("tensors")
            for number, (name, dtype, shape, at, size) in enumerate(tensors):
                _write_tensor(group, name, number, dtype, shape, data[at : at + size], at)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _write_tensor(
    group: h5py.Group, name: str, number: int, dtype: str, shape: tuple[int, ...], part: NDArray[numpy.uint8], at: int
) -> None:
    name = name.replace("/", "|").strip(".") or "value"
    stored = _stored(dtype)
    if stored is None or part.size == 0 or stored.itemsize * int(numpy.prod(shape)) != part.size:
        stored, shape = numpy.dtype(numpy.uint8), (part.size,)
    dataset = group.create_dataset(name if name not in group else f"{name} ({number})", shape, stored)
    dataset.attrs["dtype"], dataset.attrs["at"] = dtype, at
    values = part.view(stored).reshape(shape)
    if values.ndim == 0 or part.size <= PIECE:
        dataset[...] = values
        return
    rows = max(1, PIECE // (part.size // len(values)))
    for row in range(0, len(values), rows):
        dataset[row : row + rows] = values[row : row + rows]


def _stored(dtype: str) -> numpy.dtype[numpy.generic] | None:
    """The type a tensor's elements have in the file; None where NumPy has none of that width."""
    if dtype in {"bfloat16", "bytes"}:
        return numpy.dtype(numpy.uint16 if dtype == "bfloat16" else numpy.uint8)
    try:
        found = numpy.dtype(dtype)
    except TypeError:
        return None
    return None if found.kind in "OVSUmM" else found


def read(path: Path) -> tuple[bytes, NDArray[numpy.uint8]]:
    """Read a checkpoint.

    Returns:
        The state's header, and all bytes of its tensors.

    Raises:
        Unreadable: It is not there, or damaged.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs.get("openhpo_checkpoint") != VERSION:
                raise Unreadable(f"{path} is no checkpoint of version {VERSION}")
            data = numpy.empty(int(file.attrs["bytes"]), numpy.uint8)
            for dataset in _datasets(file["tensors"]):
                if dataset.size:
                    raw = numpy.ascontiguousarray(dataset[()]).reshape(-1).view(numpy.uint8)
                    at = int(dataset.attrs["at"])
                    data[at : at + raw.size] = raw
            return file["header"][()].tobytes(), data
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise Unreadable(f"{path} cannot be read: {error}") from None


def _datasets(group: h5py.Group) -> Iterator[h5py.Dataset]:
    for name in group:
        yield group[name]
