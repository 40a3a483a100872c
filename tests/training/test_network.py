import os
import socket
import sys
import threading

import pytest

from openhpo.errors import UserError
from openhpo.training import network
from openhpo.training.group import Group

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="interfaces are found on Linux alone")


class Store(dict):
    """As torch's: `get` waits for what others set."""

    def __init__(self):
        super().__init__()
        self._there = threading.Condition()

    def set(self, key, value):
        with self._there:
            self[key] = value.encode()
            self._there.notify_all()

    def get(self, key):
        with self._there:
            assert self._there.wait_for(lambda: key in self, 10)
            return self[key]


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv(network.CHOSEN, raising=False)
    monkeypatch.setattr(network, "_set_here", None)


def test_the_interface_is_that_of_the_way_to_a_host():
    assert network.address_towards("127.0.0.1") == "127.0.0.1"
    assert network.interface_of("127.0.0.1") == "lo"
    assert network.address_towards("no-such-host.invalid") == ""
    assert network.interface_of("") == ""


def two_hosts(monkeypatch):
    """What members on a near and a far host do, whose way to each other is the loopback interface."""
    store, names = Store(), ("near", "near", "far")
    for member in (2, 0, 1):  # the far one first, as the others wait for its address
        for other, name in enumerate(names):
            store.set(f"host {other}", name)
        monkeypatch.setattr(socket, "gethostname", lambda member=member: names[member])
        network.face_others(store, member, 3, "127.0.0.1")


def test_members_on_several_hosts_take_the_interface_between_them(monkeypatch):
    two_hosts(monkeypatch)
    assert os.environ[network.CHOSEN] == "lo"


def test_what_the_user_has_chosen_stays(monkeypatch):
    monkeypatch.setenv(network.CHOSEN, "ib0")
    two_hosts(monkeypatch)
    assert os.environ[network.CHOSEN] == "ib0"


def test_members_on_one_host_leave_the_choice_to_gloo():
    store = Store()
    store.set("host 1", socket.gethostname())
    network.face_others(store, 0, 2, socket.gethostname())
    assert network.CHOSEN not in os.environ


def test_a_leader_whose_host_nobody_knows_is_named_with_the_remedy():
    dist = pytest.importorskip("torch.distributed")
    group = Group(1, (4, 5), 1, lambda text: "no-such-host.invalid:1234")
    with pytest.raises(UserError, match=r"cannot find 'no-such-host.invalid', where rank 4 leads.*OPENHPO_ADDRESS"):
        group._store(dist)
