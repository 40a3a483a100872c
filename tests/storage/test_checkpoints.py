import errno
import os

import h5py
import numpy
import pytest

from openhpo.storage import checkpoints
from openhpo.store import StateStore
from openhpo.training.states import Snapshot


def write(path, size=100_000):
    data = numpy.arange(size, dtype=numpy.float32).view(numpy.uint8)
    checkpoints.write(path, b'{"w": null}', data, [("w", "float32", (size,), 0, data.size)])
    return data


def test_a_checkpoint_opens_in_plain_h5py_a_dataset_a_tensor(tmp_path):
    data = write(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert numpy.array_equal(file["tensors/w"][()], data.view(numpy.float32))
        assert file["header"][()].tobytes() == b'{"w": null}'


def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    write(tmp_path / "x.h5")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write_tensor", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "y.h5")
    assert os.listdir(tmp_path) == ["x.h5"]


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "empty"])
def test_a_checkpoint_that_cannot_be_read_is_said_so(damage, tmp_path):
    path = tmp_path / "x.h5"
    write(path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "other":
        path.write_text("no HDF5 at all")
    else:
        path.write_bytes(b"")
    with pytest.raises(checkpoints.Unreadable, match=r"x\.h5"):
        checkpoints.read(path)


def seal(path):
    """Have the checksum fit again, as it does by chance once in four thousand million times."""
    with path.open("r+b", buffering=0) as raw:
        checksum, size = checkpoints._sum(raw)
        raw.seek(0)
        raw.write(checkpoints.SEAL.pack(checkpoints.MAGIC, checkpoints.VERSION, checksum, size))


def refused(path, match):
    before = path.read_bytes()
    with pytest.raises(checkpoints.Unreadable, match=match) as caught:
        checkpoints.read(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_checkpoint_with_one_wrong_bit_in_a_tensor_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    write(path)
    with h5py.File(path) as file:
        at = file["tensors/w"].id.get_offset() + 77_777
    data = bytearray(path.read_bytes())
    assert data[at : at + 3] == numpy.arange(100_000, dtype=numpy.float32).tobytes()[77_777:77_780]
    data[at] ^= 16
    path.write_bytes(data)
    refused(path, "damaged: its content does not fit its checksum")


def test_a_checkpoint_that_is_cut_short_or_has_more_at_its_end_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    write(path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:100], whole[:20], whole + b"\0"):
        path.write_bytes(damaged)
        refused(path, "bytes of|no checkpoint")


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["weights"] = numpy.ones(1000)
    refused(path, "is no checkpoint of this openhpo")
    path.write_bytes(b"PK\x03\x04" + bytes(1000))  # as torch.save writes them
    refused(path, "is no checkpoint of this openhpo")


def test_a_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    monkeypatch.setattr(checkpoints, "VERSION", checkpoints.VERSION + 1)
    write(path)
    monkeypatch.undo()
    refused(path, f"of version {checkpoints.VERSION + 1}, and this openhpo reads {checkpoints.VERSION}")


def test_a_checkpoint_takes_its_place_only_with_its_checksum(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_sum", lambda raw: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "x.h5")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [-1, 1 << 60])
def test_no_memory_is_taken_for_more_than_a_checkpoint_can_hold(size, tmp_path):
    path = tmp_path / "x.h5"
    write(path)
    with h5py.File(path, "r+") as file:
        file.attrs["bytes"] = size
    refused(path, "bytes of|checksum")
    seal(path)
    refused(path, "it cannot hold")


@pytest.mark.parametrize("at", [-64, 64, 1 << 60])
def test_a_tensor_that_lies_outside_of_its_checkpoint_is_refused(at, tmp_path):
    path = tmp_path / "x.h5"
    write(path)
    with h5py.File(path, "r+") as file:
        file["tensors/w"].attrs["at"] = at
    seal(path)
    refused(path, "does not fit into it")


def test_what_is_written_of_all_kinds_of_elements_is_read_back(tmp_path):
    parts, at = [], 0
    kinds = ["float32", "float16", "bfloat16", "bool", "complex64", "int8", "uint64", "bytes", "<U3", "float8_e4m3fn"]
    for number, kind in enumerate(kinds):
        stored = checkpoints._stored(kind) or numpy.dtype("u1")
        for shape in [(3, 5), (4,), (), (0, 2)]:
            size = stored.itemsize * int(numpy.prod(shape))
            parts.append((f"{number}/{len(shape)}", kind, shape, at, size))
            at += -(-size // 64) * 64
    data = numpy.random.default_rng(0).integers(0, 2, at, numpy.uint8)
    checkpoints.write(tmp_path / "x.h5", b"{}", data, parts)
    header, found = checkpoints.read(tmp_path / "x.h5")
    assert header == b"{}"
    assert found.size == data.size
    for _, kind, _, at, size in parts:
        assert numpy.array_equal(found[at : at + size], data[at : at + size]), kind


def snapshot(size):
    return Snapshot(b"", numpy.zeros(size, numpy.uint8))


def test_what_is_over_the_budget_is_spilled_the_least_recently_used_first():
    store = StateStore(250)
    for state in range(4):
        store.add(state, snapshot(100))
    store.use(0)
    assert [state for state, _ in store.to_spill()] == [1, 2]
    assert store.to_spill() == []  # each is named once
    assert 1 in store  # until it is written
    store.take(1)
    assert store.size == 300


def test_what_cannot_be_written_stays():
    store = StateStore(0)
    store.add(1, snapshot(10))
    assert len(store.to_spill()) == 1
    store.keep(1)
    assert store.to_spill() == []
    assert store.use(1) is not None


def test_the_memory_of_a_state_that_is_dropped_is_used_again_unless_it_was_given_away():
    store = StateStore(1000)
    store.add(1, snapshot(100))
    data = store.use(1).data
    store.drop(1)
    assert store.spare(100) is data
    assert store.spare(100) is None
    store.add(2, snapshot(100))
    store.use(2, lend=True)  # another rank may still be receiving it
    store.drop(2)
    assert store.spare(100) is None
