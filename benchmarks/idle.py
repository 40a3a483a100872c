"""What waiting costs: the CPU share of a rank whose actor waits, and the time of `openhpo --help`.

Beside them, a rank that waits in a blocking MPI receive, and an interpreter that does nothing.

Run with: python benchmarks/idle.py     (it starts its own MPI ranks)
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from mpi4py import MPI

import openhpo.actors as hpo
from openhpo.actors.run import launched_size
from openhpo.launcher import relaunch

WAIT, BARE_WAIT, REPEATS = 5.0, 2.0, 11
CPU_AIM, HELP_AIM = 2.0, 0.3  # per cent of a core, seconds


class Over(hpo.Message):
    pass


class Waiter(hpo.Actor):
    """Waits; the one on rank 0 ends the run."""

    def on_start(self) -> None:
        if self.address.rank == 0:
            self.after(WAIT, Over())

    @hpo.handles(Over)
    def on_over(self, message: Over, sender: hpo.Address) -> None:
        self.stop_all()


def cpu_percent(wait: Callable[[], object]) -> float:
    """Per cent of a core that this process uses meanwhile, in all its threads."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    wait()
    after, elapsed = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - began
    return 100 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / elapsed


def wait_in_receive() -> None:
    comm = MPI.COMM_WORLD
    if comm.rank == 0:
        time.sleep(BARE_WAIT)
        comm.Send([b"over", MPI.BYTE], 1)
    else:
        comm.Recv([bytearray(4), MPI.BYTE], 0)


def measure_ranks() -> None:
    """On two ranks."""
    if launched_size() == 1:
        relaunch(2)
    bare = cpu_percent(wait_in_receive)
    actors = cpu_percent(lambda: hpo.run_actors(lambda rank, size: {"waiter": Waiter()}, deadline=60))
    found = MPI.COMM_WORLD.gather((bare, actors))
    if found is None:
        return
    print(MPI.Get_library_version().split(",")[0].splitlines()[0].strip())
    print(f"{'CPU of an idle rank, % of a core':34}{'bare MPI':>12}{'openhpo':>12}{'ratio':>8}{'aim':>10}")
    bare = found[1][0]  # rank 0 slept
    for rank, (_, ours) in enumerate(found):
        print(f"{f'rank {rank}':34}{bare:12.2f}{ours:12.2f}{ours / bare:8.3f}{f'< {CPU_AIM:g}':>10}")


def seconds_of(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=30)
    return time.perf_counter() - began


def measure_help() -> None:
    pairs = [(seconds_of(["-c", "pass"]), seconds_of(["-m", "openhpo", "--help"])) for _ in range(REPEATS)]
    bare, ours = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    print(f"{f'wall time, medians of {REPEATS}':34}{'python':>12}{'openhpo':>12}{'ratio':>8}{'aim':>10}")
    print(f"{'-c pass, --help; seconds':34}{bare:12.3f}{ours:12.3f}{ratio:8.2f}{f'< {HELP_AIM:g}':>10}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().ranks:
        measure_ranks()
    else:
        subprocess.run([sys.executable, __file__, "--ranks"], check=True, timeout=60)
        measure_help()
