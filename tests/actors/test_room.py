"""Memory for what is received, which is used again."""

from openhpo.actors.mpi import LARGE, Room


def test_a_large_buffer_is_used_again_only_when_nobody_has_it():
    room = Room()
    first = room.take(LARGE)
    address = first.ctypes.data
    view = first[10:20]
    assert room.take(LARGE).ctypes.data != address
    room = Room()
    first = room.take(LARGE)
    address, view = first.ctypes.data, first[10:20]
    del first
    assert room.take(LARGE).ctypes.data != address  # a view is somebody too
    room = Room()
    first = room.take(LARGE)
    address = first.ctypes.data
    del first, view
    assert room.take(LARGE).ctypes.data == address
    assert room.take(LARGE + 1).size == LARGE + 1
