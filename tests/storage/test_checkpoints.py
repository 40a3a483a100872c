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
