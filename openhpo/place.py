"""Where this process is: its rank on its node, and its share of the node's cores.

Imports nothing heavy: the number of threads has to be set before NumPy and torch start theirs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from openhpo.actors.run import launched_size, mpi_world
from openhpo.libraries import loaded

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
OURS = "OPENHPO_THREADS"  # set beside them, to tell our choice from the user's

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """This process among those of its job.

    Attributes:
        rank, size: In the whole job.
        local_rank, local_size: On its node.
        threads: Its share of the cores it may use.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    threads: int


@cache
def find_place() -> Place:
    """Ask the other ranks of this node; every rank of a job has to call this."""
    mine = _cores()
    if launched_size() == 1:
        return Place(0, 1, 0, 1, len(mine))
    world = mpi_world()
    from mpi4py import MPI

    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    # a launcher that binds ranks to cores has divided them already; those that overlap share
    sharing = sum(1 for other in node.allgather(mine) if not mine.isdisjoint(other))
    place = Place(world.rank, world.size, node.rank, node.size, max(1, len(mine) // sharing))
    node.Free()
    return place


def gather_on_node(item: T) -> list[T]:
    """What each rank of this node has to say, by its place there; every rank of a job has to call this."""
    if launched_size() == 1:
        return [item]
    world = mpi_world()
    from mpi4py import MPI

    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    found = node.allgather(item)
    node.Free()
    return found


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def share_threads(threads: int) -> None:
    """Give this process so many threads for arithmetic, unless the user has chosen a number.

    Sets the variables for libraries that are loaded later, and torch where it is loaded already.
    """
    if OURS not in os.environ and THREAD_VARIABLES[0] in os.environ:
        return
    for name in (*THREAD_VARIABLES, OURS):
        os.environ[name] = str(threads)
    torch = loaded("torch")
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
