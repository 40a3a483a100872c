"""Starts actors: on every rank of an MPI job, or all in this process."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from openhpo.actors.actor import Actor
from openhpo.actors.drive import Mailbox, WorkerThreads, drive
from openhpo.actors.errors import DESERTED, Deserted
from openhpo.actors.local import local_transports
from openhpo.actors.loop import EventLoop
from openhpo.actors.messages import Address, Interrupted
from openhpo.actors.transport import Transport
from openhpo.errors import UserError
from openhpo.telling import flush, say, say_traceback

if TYPE_CHECKING:
    from mpi4py import MPI

    from openhpo.actors.mpi import MpiTransport

FLUSH = 2.0  # seconds a leaving rank waits for its last messages to leave
SETTLE = 1.0  # seconds it waits for its threads, which end at their next report
FORCE = 5.0  # seconds a rank waits for MPI to end a job in which others do not answer
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # what batch systems and people ask a process to end with
LAUNCHERS = {"mpiexec", "mpirun", "prterun", "prted", "mpiexec.hydra", "hydra_pmi_proxy", "srun"}
OUTCOME = "OPENHPO_OUTCOME"  # a file in which rank 0 tells whoever supervises the launcher how it ended, as launchers do not
BEGAN, ENDED = "began", "ended"  # what it says there; a number is the status to end with, whatever the launcher says
ASKED = "asked"  # what follows there where rank 0 was sent SIGTERM
MEET = 3.0  # seconds ranks wait for each other after a failure, before the job is ended by force


def launched_size() -> int:
    """How many ranks this process's launcher started; 1 without a launcher.

    Read from the environment, because initialising MPI outside a job is slow on some machines and fatal on others.
    """
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_NRANKS", "PALS_SIZE", "JSM_NAMESPACE_SIZE", "FLUX_JOB_SIZE"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    if "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_STEP_NUM_TASKS", "").isdigit():
        return int(os.environ["SLURM_STEP_NUM_TASKS"])
    return 1


def launched_rank() -> int:
    """This process's rank as its launcher numbers it; 0 without a launcher."""
    if launched_size() > 1:
        for name in (
            "OMPI_COMM_WORLD_RANK",
            "PMI_RANK",
            "PMIX_RANK",
            "PALS_RANKID",
            "JSM_NAMESPACE_RANK",
            "FLUX_TASK_RANK",
            "SLURM_PROCID",
        ):
            if os.environ.get(name, "").isdigit():
                return int(os.environ[name])
    return 0


def tell_supervisor(text: str) -> None:
    """Have rank 0 tell whoever supervises the launcher how far it is, where that is on the same host."""
    if os.environ.get(OUTCOME) and launched_rank() == 0:
        with contextlib.suppress(OSError):
            path = Path(os.environ[OUTCOME])
            new = path.with_suffix(".new")
            new.write_text("\n".join([text, *([ASKED] if signal.SIGTERM in _signals_taken else [])]))
            new.replace(path)  # whole, whenever this process is killed


def mpi_world() -> MPI.Intracomm:
    """All ranks of the job that this process belongs to; initialises MPI.

    Raises:
        UserError: mpi4py is missing, or uses another MPI library than the launcher, so that each process is alone.
    """
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise UserError(f"mpi4py is installed, but finds no MPI library ({error}). Install one, or load its module.") from None
    if launched_size() != MPI.COMM_WORLD.size:
        raise UserError(
            f"the launcher started {launched_size()} ranks, but MPI sees {MPI.COMM_WORLD.size}: mpi4py uses "
            f"{MPI.Get_library_version().split(',')[0].strip()}, and the launcher belongs to another MPI. "
            "Start with the mpiexec of that library, or install mpi4py for the launcher's."
        )
    return MPI.COMM_WORLD


def mpi_transport() -> MpiTransport:
    """The transport of the job that this process belongs to."""
    world = mpi_world()
    from openhpo.actors.mpi import MpiTransport

    return MpiTransport(world)


def run_actors(
    actors: Callable[[int, int], Mapping[str, Actor]],
    *,
    ranks: int = 1,
    deadline: float | None = None,
    transport: Transport | None = None,
) -> dict[Address, Actor]:
    """Start actors and return when all of them have ended.

    Under `mpirun` every rank calls this, and each runs its own actors. In a plain process all ranks live in this one.

    Args:
        actors: Gives the actors of a rank: `actors(rank, size) -> {name: actor}`. A rank may have none.
        ranks: How many ranks to play in a plain process; under MPI the launcher decides.
        deadline: Seconds after which the run is given up.
        transport: What to run over instead, as this rank's end of it.

    Returns:
        The actors that ran in this process.

    Raises:
        ActorFailed: An actor raised, here or on another rank.
        UserError: An actor, here or on another rank, found a mistake of the user's.
        Stuck: The deadline passed.
    """
    if transport is not None:
        ends: list[Transport] = [transport]
    elif launched_size() > 1:
        ends = [mpi_transport()]
    else:
        ends = list(local_transports(ranks))
    mailbox, threads = Mailbox(), WorkerThreads()
    loops = [EventLoop(end, mailbox, threads) for end in ends]
    casts = [dict(actors(end.rank, end.size)) for end in ends]
    try:
        wanted = any(Interrupted in actor.handlers for cast in casts for actor in cast.values())
        with _signals(loops, mailbox, wanted):
            for loop, cast in zip(loops, casts, strict=True):
                loop.start(cast)
            drive(loops, mailbox, deadline)
    except Deserted as error:
        say(f"rank {ends[0].rank} leaves: {error}")
        flush()
        os._exit(DESERTED)
    except BaseException as error:
        _leave_failed(loops, threads, error)
        raise
    threads.settle(SETTLE)
    tell_supervisor(ENDED)
    for end in ends:
        end.close(FLUSH)
    if any(loop.absent for loop in loops):
        atexit.register(_leave_without, ends[0].rank)
    if threads.busy:
        atexit.register(_leave_threads, threads, 0)
    return {Address(end.rank, name): actor for end, cast in zip(ends, casts, strict=True) for name, actor in cast.items()}


_early: list[int] = []  # signals that came before anybody could heed them
_signals_taken: set[int] = set()  # those that actors were told of


def heed_signals() -> None:
    """From now on, remember requests to end this process for the actors that are to come, instead of dying of them."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: _early.append(number))


@contextlib.contextmanager
def _signals(loops: list[EventLoop], mailbox: Mailbox, wanted: bool) -> Iterator[None]:
    """Turn requests to end this process into `Interrupted` for the actors that handle it; a second SIGINT interrupts."""
    interrupts = itertools.count()

    def take(number: int, frame: object) -> None:
        _signals_taken.add(number)
        if number == signal.SIGINT and next(interrupts):
            raise KeyboardInterrupt
        for loop in loops:
            for name, actor in list(loop.actors.items()):
                if Interrupted in actor.handlers:
                    mailbox.put((loop, name, Interrupted(number)))

    before = {}
    try:
        if wanted and threading.current_thread() is threading.main_thread():
            for number in ASKING:
                before[number] = signal.signal(number, take)
            while _early:
                take(_early.pop(), None)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_failed(loops: list[EventLoop], threads: WorkerThreads, error: BaseException) -> None:
    """Let the actors of this process put things away, and make sure that the job ends although a rank may hang."""
    tell_supervisor(ENDED)
    for loop in loops:
        loop.failure = error
        try:
            loop.stop_here()
        except Exception:
            say("while stopping after that failure:")
            say_traceback()
        loop.transport.close(FLUSH)
    threads.settle(SETTLE)
    if isinstance(error, KeyboardInterrupt):
        atexit.register(_leave_threads, threads, 130)
    else:
        # at exit, so that the traceback is printed before the job may be ended by force
        status = 2 if isinstance(error, UserError) else 1
        atexit.register(_leave_threads, threads, status)
        atexit.register(leave_job, status)


def survives_deaths() -> bool:
    """Whether this job survives a rank's death. Open MPI offers the calls always, and means them only when asked to."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable", "").lower() in ("1", "true", "yes")  # noqa: SIM112 -- its real name


def _leave_without(rank: int) -> None:
    """Leave although some ranks are gone or do not answer, so that MPI_Finalize would wait for ever.

    Where MPI survives deaths, those that do not answer have been killed by now as far as anybody could, and its launcher takes
    a process that just ends for one that ended well; its own way out hangs once in some twenty times. Else the whole job is
    ended by rank 0, with status 0, once the others have put their things away.
    """
    world = _initialised_world()
    if world is None:
        return
    flush()
    if rank == 0:
        tell_supervisor("0")
        _end_by_force_later()
    time.sleep(SETTLE / 2)
    if survives_deaths():
        os._exit(0)
    if rank == 0:
        world.Abort(0)
    time.sleep(2 * FORCE)
    os._exit(0)


def _end_by_force_later() -> None:
    """Have this process and its launcher killed in a while, as both wait for ever where a host is cut off."""
    launcher = os.getppid()
    try:
        named = Path(f"/proc/{launcher}/comm").read_text().strip()
    except OSError:
        named = ""
    targets = [str(os.getpid()), *([str(launcher)] if named in LAUNCHERS else [])]
    command = f"sleep {FORCE:g}; kill -9 {' '.join(targets)} 2>/dev/null"
    subprocess.Popen(["sh", "-c", command], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def all_leaving(patience: float = MEET) -> bool:
    """Wait until every rank of the job has called this; False where one has not within `patience` seconds.

    A process that exits while another still works would hang in MPI_Finalize, so the ranks of a failed job meet first.
    """
    world = _initialised_world()
    if world is None:
        return True
    end = time.monotonic() + patience
    try:
        request = world.Ibarrier()
        while not request.Test():
            if time.monotonic() > end:
                return False
            time.sleep(1e-3)
    except Exception:  # one of them is gone
        return False
    return True


def leave_job(status: int) -> None:
    """Leave together with all other ranks, or end the job by force where one of them does not come."""
    world = _initialised_world()
    if world is not None and not all_leaving():
        world.Abort(status)


def _leave_threads(threads: WorkerThreads, status: int) -> None:
    """End this process at once where a thread is still at work: inside torch, it would crash Python's own way out."""
    if threads.busy:
        world = _initialised_world()
        flush()
        if world is not None and status != 130:  # after an interrupt the others may not be leaving
            sys.modules["mpi4py.MPI"].Finalize()
            # libc's exit, not os._exit: MPICH says goodbye to its launcher there
            ctypes.CDLL(None).exit(status)
        os._exit(status)


def _initialised_world() -> MPI.Intracomm | None:
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None or launched_size() == 1 or mpi.Is_finalized():
        return None
    world: MPI.Intracomm = mpi.COMM_WORLD
    return world
