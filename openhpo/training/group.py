"""The ranks that train a trial together, as a training function uses them: collective operations among them alone.

A group is formed by its members and nobody else: where torch is used, they meet at a store that the leader opens, and build a
process group over NCCL, HCCL or Gloo; where MPI is asked for, by `MPI_Comm_create_group` (communicator.py). Both happen at
first use, in the training threads, and last as long as the group stays the same.

A member that leaves in the midst of something closes its connections, so that the others' operations raise instead of waiting.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from openhpo.errors import UserError
from openhpo.libraries import loaded
from openhpo.training.network import face_others

if TYPE_CHECKING:
    from openhpo.training.devices import Device

BACKENDS = {"cuda": "nccl", "hpu": "hccl", "xpu": "xccl"}  # by kind of device; Gloo for all others
NO_COMM = (
    "a rank of this job has died, and since then MPI makes no new communicator for trial.comm; the same command continues the "
    "study (trial.parallel and trial.average do without one)"
)
PATIENCE = 1800.0  # seconds that a member waits for another one in an operation
SIGNS = ("gloo", "nccl", "hccl", "connection closed by peer", "connection reset by peer", "process group", "store")

Shared = TypeVar("Shared")


class Group:
    """The members of a group.

    Attributes:
        number: By which the leader knows it.
        ranks: The members' ranks in the job; the first one leads.
        member: The place of this rank among them.
        broken: Whether it cannot be used any more.
        deaths: Of this class: whether MPI has told this process that a rank of the job has died.

    Args:
        number, ranks, member: As above.
        exchange: Hands the leader's text to all members: called with it on the leader, and with None on the others, whom it
            gives it once it is there.
    """

    deaths = False

    def __init__(self, number: int, ranks: Sequence[int], member: int, exchange: Callable[[str | None], str]) -> None:
        self.number = number
        self.ranks = tuple(ranks)
        self.member = member
        self.broken = False
        self.exchange = exchange
        self._formed = False
        self._comm: Any = None

    def __len__(self) -> int:
        return len(self.ranks)

    # ---- torch

    def form(self, device: Device) -> None:
        """Make torch's default process group the one of these ranks; at once where it is that already.

        Raises:
            UserError: torch is not installed.
        """
        if self._formed:
            return
        try:
            import torch.distributed as dist
        except ImportError:
            raise UserError("trial.parallel and trial.average need torch: pip install 'openhpo[apps]', or torch") from None
        importlib.import_module("torch.distributed.nn")  # now, as its functions keep the group there is as their default
        if dist.is_initialized():  # of an earlier group
            dist.destroy_process_group()
        store = self._store(dist)
        dist.init_process_group(
            self._backend(store, device),
            store=store,
            rank=self.member,
            world_size=len(self),
            timeout=timedelta(seconds=PATIENCE),
        )
        self._formed = True

    def _store(self, dist: Any) -> Any:
        """Where the members meet, on the leader; it lasts as long as the leader holds it."""
        limit = timedelta(seconds=PATIENCE)
        if self.member == 0:
            host = _own_address()
            store = dist.TCPStore("0.0.0.0", 0, None, True, limit, wait_for_workers=False)
            self.exchange(f"{host}:{store.port}")
        else:
            host, _, port = self.exchange(None).rpartition(":")
            _check_known(host, self.ranks[0])
            store = dist.TCPStore(host, int(port), None, False, limit, wait_for_workers=False)
        face_others(store, self.member, len(self), host)
        return store

    def _backend(self, store: Any, device: Device) -> str:
        """What moves the data: the accelerators' own library where each member has one to itself."""
        kind = device.name.partition(":")[0]
        store.set(f"device {self.member}", f"{socket.gethostname()} {device.identity or device.name}")
        devices = [store.get(f"device {member}") for member in range(len(self))]
        if kind not in BACKENDS or len(set(devices)) < len(self):
            return "gloo"
        if kind == "hpu":
            importlib.import_module("habana_frameworks.torch.distributed.hccl")
        return f"cpu:gloo,{kind}:{BACKENDS[kind]}"

    def close(self) -> None:
        """Leave for good: what others do with this group from now on raises there.

        Called from the training thread, when nothing holds on to a model that was made with it: its connections last as long.
        """
        self.broken = True
        dist = loaded("torch.distributed") if self._formed else None
        self._formed = False
        if dist is not None and dist.is_initialized():
            gc.collect()  # a wrapped model refers to itself
            dist.destroy_process_group()

    # ---- MPI

    @property
    def comm(self) -> Any:
        """An MPI communicator of these ranks, the leader's rank 0; every member has to ask for it.

        Raises:
            LeftAlone: Another member fails meanwhile.
            UserError: A rank of the job has died, and there is none yet.
        """
        if self._comm is None:
            if Group.deaths:  # MPI would refuse, or hang
                raise UserError(NO_COMM)
            from openhpo.training.communicator import connect

            comm = connect(self.ranks, self.member, self.number, lambda: self.broken)
            if comm is None:
                raise UserError(NO_COMM)
            self._comm = comm
        return self._comm

    def free_comm(self) -> None:
        """No training will use it any more. MPI has room for a few thousand; one with unfinished operations has to stay."""
        comm, self._comm = self._comm, None
        if comm is None or self.broken:
            return
        from mpi4py import MPI

        with contextlib.suppress(MPI.Exception):  # of a member that died while nothing was trained
            comm.Free()


def _own_address() -> str:
    """The name under which the other members reach this host; OPENHPO_ADDRESS where that is another one than its own."""
    return os.environ.get("OPENHPO_ADDRESS") or socket.gethostname()


def _check_known(host: str, leader: int) -> None:
    """Raise UserError where a host has no such name for another one; torch would look for it for half an hour."""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise UserError(
            f"{socket.gethostname()} cannot find {host!r}, where rank {leader} leads a trial on several ranks ({error}): set "
            "OPENHPO_ADDRESS on that host to a name or an address by which the others reach it"
        ) from None


def is_of_group(error: BaseException) -> bool:
    """Whether an exception may come from another member's leaving: then that one's reason is the better one."""
    if type(error).__module__.startswith("mpi4py") or type(error).__name__ == "LeftAlone":
        return True
    name, text = type(error).__name__, str(error).lower()
    return name.startswith("Dist") or (isinstance(error, RuntimeError) and any(sign in text for sign in SIGNS))


def part_of(items: Any, member: int, size: int) -> Any:
    """Every size-th of some items, from the member's on: as many for each member, so up to size - 1 are left out."""
    if size == 1:
        return items
    each = len(items) // size
    if each == 0:
        raise UserError(f"trial.shard: {len(items)} items cannot be divided among {size} ranks; give it at least one for each")
    return items[member : each * size : size]


def average_of(values: Any, size: int, device: Any) -> Any:
    """The mean over the members of a number, or of each number of a mapping."""
    import torch
    import torch.distributed as dist

    table = values if isinstance(values, Mapping) else {"": values}
    numbers = torch.tensor([float(value) for value in table.values()], dtype=torch.float64)
    if dist.get_backend() not in ("gloo", "cpu:gloo") and "gloo" not in str(dist.get_backend_config()):
        numbers = numbers.to(device)
    dist.all_reduce(numbers)
    found = dict(zip(table, (numbers / size).tolist(), strict=True))
    return found if isinstance(values, Mapping) else found[""]
