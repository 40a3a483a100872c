"""Checkpoint files: one state each, in HDF5, a dataset a tensor. Written under another name and renamed, so never half
there; and with a checksum in front, so that no training goes on with wrong weights.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy
from numpy.typing import NDArray

VERSION = 2
FOLDER = "checkpoints"
PIECE = 16 << 20  # bytes written at once: HDF5 has one lock for all threads, and the study file must not wait long for it
SUMMED = 1 << 20  # bytes summed up at once, few enough for a processor's cache

FRONT = 512  # bytes that HDF5 leaves to us at the beginning of a file, its smallest "user block"
SEAL = struct.Struct("<16sIIQ")  # what is there: our name, the version, and the checksum and size of all that follows the front
MAGIC = b"openhpo state\r\n\x1a"


class Unreadable(Exception):
    """A checkpoint is not there, or damaged."""


Tensor = tuple[str, str, tuple[int, ...], int, int]  # path, element type, shape, place in the buffer, bytes


def name_of(state: tuple[int, int]) -> str:
    """The file of a state, relative to the study's folder.

    Args:
        state: The stage in whose training it was made, and the step.
    """
    return f"{FOLDER}/stage-{state[0]}-step-{state[1]}.h5"


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
        with h5py.File(unfinished, "w", libver="latest", userblock_size=FRONT, locking=False) as file:
            file.attrs["openhpo_checkpoint"] = VERSION
            file.attrs["bytes"] = data.size
            file["header"] = numpy.frombuffer(header, numpy.uint8)
            group = file.create_group("tensors")
            for number, (name, dtype, shape, at, size) in enumerate(tensors):
                _write_tensor(group, name, number, dtype, shape, data[at : at + size], at)
        with unfinished.open("r+b", buffering=0) as raw:
            checksum, size = _sum(raw)
            raw.seek(0)
            raw.write(SEAL.pack(MAGIC, VERSION, checksum, size))
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _sum(raw: BinaryIO) -> tuple[int, int]:
    """The checksum of all that follows the front, and how many bytes that are."""
    checksum = size = 0
    piece = memoryview(bytearray(SUMMED))
    raw.seek(FRONT)
    while count := raw.readinto(piece):  # type: ignore[attr-defined]
        checksum = zlib.crc32(piece[:count], checksum)
        size += count
    return checksum, size


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
        Unreadable: It is not there, or damaged, or of another version.
    """
    try:
        with path.open("rb", buffering=0) as raw:
            size = _check(path, raw)
        with h5py.File(path, "r", locking=False) as file:
            return _content(path, file, size)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise Unreadable(f"{path} cannot be read: {error}") from None


def _check(path: Path, raw: BinaryIO) -> int:
    """Make sure that a file is as it was written, before HDF5 looks at it; return its size without the front."""
    front = raw.read(SEAL.size)
    magic, version, checksum, size = SEAL.unpack(front.ljust(SEAL.size, b"\0"))
    if magic != MAGIC:
        raise Unreadable(f"{path} is no checkpoint of this openhpo")
    if version != VERSION:
        raise Unreadable(f"{path} is a checkpoint of version {version}, and this openhpo reads {VERSION}")
    there = os.fstat(raw.fileno()).st_size - FRONT
    if there != size:
        raise Unreadable(f"{path} is damaged: it has {max(0, there):,} bytes of {size:,}")
    if _sum(raw) != (checksum, size):
        raise Unreadable(f"{path} is damaged: its content does not fit its checksum")
    return int(size)


def _content(path: Path, file: h5py.File, limit: int) -> tuple[bytes, NDArray[numpy.uint8]]:
    size = int(file.attrs["bytes"])
    if not 0 <= size <= limit:
        raise Unreadable(f"{path} is damaged: it cannot hold {size:,} bytes")
    data = numpy.empty(size, numpy.uint8)
    for dataset in _datasets(file["tensors"]):
        if dataset.size:
            at, length = int(dataset.attrs["at"]), dataset.nbytes
            part = data[at : at + length]
            if at < 0 or part.size != length:
                raise Unreadable(f"{path} is damaged: {dataset.name} does not fit into it")
            dataset.read_direct(part.view(dataset.dtype).reshape(dataset.shape))
    return file["header"][()].tobytes(), data


def _datasets(group: h5py.Group) -> Iterator[h5py.Dataset]:
    for name in group:
        yield group[name]
