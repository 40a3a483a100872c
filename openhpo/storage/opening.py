"""Opens study files as HDF5 alone would not: without hanging or crashing on what is damaged or somebody else's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy
from h5py import h5f, h5p

from openhpo.errors import UserError

ATTEMPTS = 26  # to read metadata that is being written; HDF5 pauses for 1 ns after the first, then for twice as long each time
SUPERBLOCK = struct.Struct("<8s B B B B Q Q Q Q L")  # the first bytes of a file, as HDF5's file format has them
SIGNATURE, LATEST, NOWHERE = b"\x89HDF\r\n\x1a\n", 3, (1 << 64) - 1
LINK_INFO, LINK_NAMES = 2, 5  # the kind of message that names a group's index, and the kind of that index


class Damage(Exception):
    """What is wrong with a file."""


def must(holds: Any, what: str) -> None:
    """Raise Damage where that does not hold, everywhere."""
    if not (holds.all() if isinstance(holds, numpy.ndarray) else holds):
        raise Damage(what)


def damaged(file: Path, what: object) -> UserError:
    """The refusal of a damaged file, which tells where it is cut short and else what is wrong."""
    with contextlib.suppress(OSError, ValueError, Damage, UserError):
        end, size = superblock(file).end, os.stat(file).st_size
        if end > size:
            what = f"it has {size:,} bytes of {end:,}"
    return UserError(
        f"{file} cannot be read as a study: it is damaged ({what}). It is left as it is; restore it from a copy, or choose "
        "another --study."
    )


class Superblock(NamedTuple):
    """What the first bytes of an HDF5 file say.

    Attributes:
        end: The size that the file should have; 0 while it is written, or where a kill has left it.
        root: Where its first group lies.
    """

    end: int
    root: int


def superblock(file: Path) -> Superblock:
    head = _bytes(file, 0, SUPERBLOCK.size)
    if not head.startswith(SIGNATURE):
        raise UserError(f"{file} cannot be read as a study: {'it is no HDF5 file' if head else 'it is empty'}")
    if head[8:11] != bytes([LATEST, 8, 8]):
        raise foreign(file)
    if len(head) < SUPERBLOCK.size:
        raise Damage(f"it has {len(head)} bytes")
    *_, written, _base, _extension, end, root, _checksum = SUPERBLOCK.unpack(head)
    return Superblock(0 if written else end, root)


def foreign(file: Path) -> UserError:
    return UserError(f"{file} cannot be read as a study: it is an HDF5 file, but no study of openhpo")


def _bytes(file: Path, at: int, size: int) -> bytes:
    if at >= 1 << 63:
        raise Damage("it points to nowhere")
    with file.open("rb", buffering=0) as raw:
        raw.seek(at)
        return raw.read(size)


def check_names(file: Path, root: int) -> None:
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


def opened(file: Path) -> h5py.File:
    """Open as a reader beside a writer, which also opens what is being written or was left by a kill."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_LATEST, h5f.LIBVER_LATEST)
    access.set_file_locking(False, False)
    # h5py does not have this call; it is found in the library that h5py has loaded. Without it HDF5 would try metadata with a
    # wrong checksum a hundred times, with pauses that add up to longer than the world is old.
    with contextlib.suppress(OSError, AttributeError), h5py._objects.phil:
        ctypes.PyDLL(h5p.__file__).H5Pset_metadata_read_attempts(ctypes.c_int64(access.id), ctypes.c_uint(ATTEMPTS))
    return h5py.File(h5f.open(os.fsencode(file), h5f.ACC_RDONLY | h5f.ACC_SWMR_READ, access))
