"""Two hosts on one machine, made of network namespaces: what MPI, a cut wire and a dead host do between them is real."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openhpo as hpo
from openhpo.storage import schema

from . import kills

LINK = "veth0"
FOLDER = Path("/etc/netns")  # where `ip netns exec` finds what replaces /etc/hosts
NEAR, FAR = "10.77.0.1", "10.77.0.2"
# Stands for ssh: [options] HOST COMMAND. Like ssh it passes no environment on, but for a folder that is removed.
AGENT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
exec env -i PATH="$PATH" HOME="$HOME" TMPDIR="${TMPDIR:-/tmp}" \\
    PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 \\
    ip netns exec "$host" unshare -u sh -c "hostname $host; $*"
"""
ON_HOST = 'hostname "$0"; exec "$@"'
MAPPING = "PRTE_MCA_rmaps_default_mapping_policy"  # of other tests: it would put all ranks on one host


def why_not() -> str:
    """Why there can be no hosts here; empty where there can."""
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "hosts need the commands ip (iproute2) and unshare"
    name = f"oh{os.getpid()}"
    try:
        ip("netns", "add", name)
        try:
            ip("netns", "exec", name, "unshare", "-u", "hostname", name)
            ip("-n", name, "link", "add", LINK, "type", "veth", "peer", "name", "veth1")
        finally:
            ip("netns", "del", name)
        FOLDER.mkdir(exist_ok=True)
    except (subprocess.CalledProcessError, OSError) as error:
        return f"hosts of network namespaces cannot be made here: {getattr(error, 'stderr', None) or error}".strip()
    return ""


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def until(happens: Callable[[], object], seconds: float, what: str, told: Callable[[], object] = str) -> float:
    """Wait for something; return how long that took."""
    begin = time.monotonic()
    while not happens():
        assert time.monotonic() - begin < seconds, f"not within {seconds:g} s: {what} {told()}"
        time.sleep(0.05)
    return time.monotonic() - begin


class TwoHosts:
    """A near and a far host with a wire between them.

    Args:
        folder: For the agent that stands for ssh; without spaces in its path.
    """

    def __init__(self, folder: Path) -> None:
        self.near, self.far = (f"oh{os.getpid()}{side}" for side in "ab")
        self.agent = folder / "agent"
        self.agent.write_text(AGENT)
        self.agent.chmod(0o755)

    def up(self) -> None:
        for name in (self.near, self.far):
            ip("netns", "add", name)
            (FOLDER / name).mkdir(parents=True)
            (FOLDER / name / "hosts").write_text(f"127.0.0.1 localhost\n{NEAR} {self.near}\n{FAR} {self.far}\n")
        ip("link", "add", LINK, "netns", self.near, "type", "veth", "peer", "name", LINK, "netns", self.far)
        for name, address in ((self.near, NEAR), (self.far, FAR)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", LINK)
            ip("-n", name, "link", "set", "lo", "up")
        self.join()

    @contextlib.contextmanager
    def looping(self) -> Iterator[None]:
        """Each host takes its own name for 127.0.1.1, as Debian writes it."""
        files = {name: FOLDER / name / "hosts" for name in (self.near, self.far)}
        before = {name: file.read_text() for name, file in files.items()}
        try:
            for name, file in files.items():
                file.write_text("".join(f"{line}\n" for line in before[name].splitlines() if not line.endswith(f" {name}")))
                file.write_text(f"127.0.1.1 {name}\n{file.read_text()}")
            yield
        finally:
            for name, file in files.items():
                file.write_text(before[name])

    def down(self) -> None:
        for name in (self.near, self.far):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.end(name)
                ip("netns", "del", name)
            shutil.rmtree(FOLDER / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            FOLDER.rmdir()  # where nobody else has one

    def join(self) -> None:
        """Lay the wire, or mend it."""
        for name in (self.near, self.far):
            ip("-n", name, "link", "set", LINK, "up")
        until(self._joined, 10, "the wire carries")

    def _joined(self) -> bool:
        # UCX, which MPICH uses, takes no device before the kernel calls it operational, up to a second after it is up
        links = [json.loads(ip("-n", name, "-j", "link", "show", LINK))[0] for name in (self.near, self.far)]
        return all(link["operstate"] == "UP" for link in links)

    def cut(self) -> None:
        ip("-n", self.far, "link", "set", LINK, "down")

    def processes(self, name: str) -> list[int]:
        """What runs on a host, without what is dead and not yet taken note of."""
        return [int(this) for this in ip("netns", "pids", name).split() if state_of(int(this)) not in "ZX"]

    def programs(self, name: str) -> list[int]:
        """What runs on a host but shells: rank 0 leaves one, which ends what hangs a few seconds later, and then itself."""
        shells = ("sh", "dash", "bash", "sleep")
        return [this for this in self.processes(name) if named(this) not in shells]

    def state(self, name: str) -> str:
        """What runs on a host, as text: each process with its rank, its state, where in the kernel it is and its command."""
        found = [
            f"{this}, rank {kills.rank_of(this)}, {state_of(this)}, {wchan(this)}: {named(this)}"
            for this in self.programs(name)
        ]
        return "\n".join(["", *found])

    def ranks(self, name: str) -> dict[int, int]:
        """The ranks that run on a host, each with its process."""
        found = {kills.rank_of(this): this for this in self.processes(name)}
        return {rank: this for rank, this in found.items() if rank >= 0}

    def end(self, name: str) -> None:
        """Kill everything on a host."""

        def kill() -> bool:
            there = self.processes(name)
            for this in there:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(this, signal.SIGKILL)
            return not there

        until(kill, 10, f"everything on {name} dies")

    def mend(self) -> None:
        """Make both hosts as new."""
        for name in (self.near, self.far):
            self.end(name)
        self.join()

    def on_near(self) -> list[str]:
        """How a command is run on the near host; it becomes the very process that is started."""
        return ["ip", "netns", "exec", self.near, "unshare", "-u", "sh", "-c", ON_HOST, self.near]

    def launcher(self, mpi: str, mpiexec: Path, *options: str, slots: str) -> list[str]:
        """The command that starts ranks on these hosts, run on the near one."""
        if mpi == "mpich":
            return [str(mpiexec), "-launcher", "ssh", "-launcher-exec", str(self.agent), "-hosts", slots, *options]
        passed = [part for name in ("NOTES", "PYTHONPATH", "OMP_NUM_THREADS") for part in ("-x", name)]
        return [str(mpiexec), "--prtemca", "plm_ssh_agent", str(self.agent), "--host", slots, *passed, *options]


def state_of(process: int) -> str:
    """A letter as ps shows it; X for one that is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def wchan(process: int) -> str:
    """What it waits for in the kernel."""
    try:
        return Path(f"/proc/{process}/wchan").read_text()
    except OSError:
        return "gone"


def named(process: int) -> str:
    """The name of its program; that of a shell for one that is gone."""
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return "sh"


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """Two hosts, and nothing left of them afterwards."""
    hosts = TwoHosts(folder)
    try:
        hosts.up()
        yield hosts
    finally:
        hosts.down()


class Study(kills.Runs):
    """A study on two hosts, with two ranks on each.

    Args:
        hosts: Where it runs.
        folder: An empty one, which both hosts see.
        mpi: The name of the MPI.
        python: One that has it.
        options: Of mpiexec.
        environment: Of all runs.
        method: A key of `kills.METHODS`.
    """

    def __init__(
        self,
        hosts: TwoHosts,
        folder: Path,
        mpi: str,
        python: Path,
        options: tuple[str, ...],
        environment: dict[str, str],
        method: str = "random",
    ) -> None:
        # UCX, which MPICH uses, would go around the wire, through the memory that these hosts share
        through_the_wire = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": LINK}
        super().__init__(folder, python, method, [], {**environment, **through_the_wire})
        self._hosts, self._mpi, self._mpiexec, self._options = hosts, mpi, python.parent / "mpiexec", options

    def start(self, ranks: int, *options: str) -> subprocess.Popen:
        """Start it on so many ranks: up to 2 are on the near host, 4 on both."""
        hosts = self._hosts
        slots = ",".join(f"{name}:2" for name in (hosts.near, hosts.far)[: (ranks + 1) // 2])
        launcher = hosts.launcher(self._mpi, self._mpiexec, *self._options, slots=slots)
        environment = {name: value for name, value in self._environment.items() if name != MAPPING}
        if self._supervised:
            environment["OPENHPO_LAUNCHER"] = shlex.join(launcher)
            environment[MAPPING] = "slot"
            launcher, options = [], ("--ranks", str(ranks), *options)
        else:
            launcher += ["-n", str(ranks)]
        with self.errors.open("a") as errors:
            return subprocess.Popen(
                [*hosts.on_near(), *launcher, self._python, *self._command, *options],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    def events(self, kind: str) -> dict[int, dict]:
        """What the study file has of a kind: by rank, the time and the text of the last."""
        if not (self.study / schema.FILE).exists():
            return {}
        tables = hpo.load(self.study).tables
        return {
            int(row["rank"]): {"time": float(row["time"]), "text": tables.text(int(row["text_at"]), int(row["text_size"]))}
            for row in tables.events
            if row["kind"] == kind.encode()
        }

    def trained(self, since: float = 0.0) -> set[int]:
        """The ranks that have reported after a time, in seconds of the study."""
        if not (self.study / schema.FILE).exists():
            return set()
        tables = hpo.load(self.study).tables
        ranks = dict(zip(tables.stages["stage"].tolist(), tables.stages["rank"].tolist(), strict=True))
        return {ranks[stage] for stage in tables.reports["stage"][tables.reports["time"] > since].tolist()}
