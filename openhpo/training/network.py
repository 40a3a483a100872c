"""The network on which the members of a group reach each other, where they live on several hosts.

Gloo takes the address that a host has for its own name. On many hosts that is a loopback one, which no other host can reach,
and where there are several networks it may be one that others are not on. What is right is the one by which another member is
reached, and the kernel knows that.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Any

CHOSEN = "GLOO_SOCKET_IFNAME"  # names the interface for Gloo, which reads it for each process group
PORT = 9  # nothing is sent there
ASK_ADDRESS = 0x8915  # SIOCGIFADDR of Linux

_set_here: str | None = None  # what this process has put into CHOSEN; what the user has put there stays


def face_others(store: Any, member: int, size: int, leader: str) -> None:
    """Have Gloo use the interface that leads to the members on other hosts; every member calls it before a process group.

    Args:
        store: Where they meet.
        member: The place of this one.
        size: How many there are.
        leader: The name of the first one's host.
    """
    store.set(f"host {member}", socket.gethostname())
    hosts = [store.get(f"host {other}") for other in range(size)]
    if len(set(hosts)) == 1:
        return
    away = next(other for other in range(size) if hosts[other] != hosts[0])
    if hosts[member] == hosts[0]:
        mine = address_towards(store.get(f"address {away}").decode())
    else:
        mine = address_towards(leader)
        store.set(f"address {member}", mine)
    _choose(interface_of(mine))


def address_towards(host: str) -> str:
    """This host's own address as that one sees it; empty where there is no way there."""
    with contextlib.suppress(OSError):
        for family, kind, _, _, address in socket.getaddrinfo(host, PORT, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as asking:
                asking.connect(address)  # which asks for the route, as UDP has no connections
                return str(asking.getsockname()[0])
    return ""


def interface_of(address: str) -> str:
    """The name of the interface that has that address; empty where none is found, as for IPv6, and where this is no Linux."""
    with contextlib.suppress(OSError, ImportError):
        import fcntl

        for _, name in socket.if_nameindex():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, contextlib.suppress(OSError):
                asked = struct.pack("256s", name.encode()[:15])
                if socket.inet_ntoa(fcntl.ioctl(asking.fileno(), ASK_ADDRESS, asked)[20:24]) == address:
                    return name
    return ""


def _choose(interface: str) -> None:
    global _set_here  # noqa: PLW0603 (the environment is the process's, too)
    if interface and os.environ.get(CHOSEN) in (None, _set_here):
        os.environ[CHOSEN] = _set_here = interface
