"""`openhpo doctor`: every rank looks at itself and tells rank 0, which prints what they found."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from openhpo.actors import Actor, Address, Message, handles, run_actors
from openhpo.actors.run import survives_deaths
from openhpo.cli.console import console
from openhpo.errors import UserError
from openhpo.launcher import find_launcher, relaunch
from openhpo.place import find_place, gather_on_node, share_threads
from openhpo.training.devices import Seen, look, take, warning

PATIENCE = 60.0  # seconds to hear from every rank


class Findings(Message):
    """What a rank says of itself."""

    host: str
    local_rank: int
    local_size: int
    device: str
    identity: str
    trouble: str  # why the device is not this rank's alone
    cores: int
    threads: int
    torch: str


class Reporter(Actor):
    """Examines its rank; the one on rank 0 collects."""

    def __init__(self, around: Sequence[Seen | None]) -> None:
        self.around = around
        self.findings: dict[int, Findings] = {}

    def on_start(self) -> None:
        place = find_place()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        where = (socket.gethostname(), place.local_rank, place.local_size)
        device = _device(self.around, place.local_rank)
        self.send(Address(0, "doctor"), Findings(*where, *device, cores, place.threads, _version("torch")))

    @handles(Findings)
    def on_findings(self, message: Findings, sender: Address) -> None:
        self.findings[sender.rank] = message
        if len(self.findings) == self.size:
            self.stop_all()


def examine(study: str, device: str, ranks: int) -> None:
    """Print what was found, on rank 0."""
    relaunch(ranks)
    place = find_place()
    share_threads(place.threads)
    reporter = Reporter(gather_on_node(look(device)))
    run_actors(lambda rank, size: {"doctor": reporter}, deadline=PATIENCE)
    if place.rank == 0:
        _show({**_software(), **_mpi(), **_file_system(Path(study))}, reporter.findings)


def _show(facts: Mapping[str, str], findings: Mapping[int, Findings]) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(f"[bold]{name}", escape(value))
    hosts = sorted({found.host for found in findings.values()})
    on_host = [sum(1 for found in findings.values() if found.host == host) for host in hosts]
    grid.add_row("[bold]ranks per node", ", ".join(f"{host}: {count}" for host, count in zip(hosts, on_host, strict=True)))
    out.print(grid)
    table = Table("rank", "node", "local rank", "device", "identity", "cores", "threads", "torch")
    for rank, found in sorted(findings.items()):
        table.add_row(
            str(rank),
            found.host,
            f"{found.local_rank} of {found.local_size}",
            found.device,
            found.identity,
            str(found.cores),
            str(found.threads),
            found.torch,
        )
    out.print(table)
    for text in warnings(findings):
        out.print(f"[yellow]warning:[/] {escape(text)}", highlight=False)


def warnings(findings: Mapping[int, Findings]) -> list[str]:
    """What is wrong with who has which device."""
    found = list(dict.fromkeys(found.trouble for found in findings.values() if found.trouble))
    crowded = {one.host for one in findings.values() if one.trouble}
    owners: dict[tuple[str, str], int] = {}
    for rank, one in sorted(findings.items()):
        if one.identity and one.host not in crowded:  # which has been told
            owner = owners.setdefault((one.host, one.identity), rank)
            if owner != rank:
                found.append(warning(one.host, one.identity, (owner, rank)))
    return found


def _device(around: Sequence[Seen | None], place: int) -> tuple[str, str, str]:
    """Name and identity of what a rank would take, and why it could not without --share-devices."""
    trouble = ""
    try:
        device = take(around, place)
    except UserError as error:
        seen = around[place]
        if seen is None or seen.error:
            return str(error), "", ""
        trouble = str(error)
        device = take(around, place, share=True)
    return device.name, device.identity, trouble


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _software() -> dict[str, str]:
    import h5py

    return {
        "openhpo": _version("openhpo"),
        "Python": f"{sys.version.split()[0]} ({sys.executable})",
        "torch": _version("torch"),
        "HDF5": f"{h5py.version.hdf5_version}, h5py {h5py.__version__}",
    }


def _mpi() -> dict[str, str]:
    facts = {"mpi4py": _version("mpi4py")}
    try:
        facts["launcher"] = " ".join(find_launcher())
    except UserError:
        facts["launcher"] = "none found: --ranks cannot work; mpirun of your cluster may"
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return {**facts, "MPI": f"no library was found ({error})"}
    levels = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
        MPI.THREAD_MULTIPLE: "multiple",
    }
    version = ".".join(str(part) for part in MPI.Get_version())
    library = MPI.Get_library_version().split("\n")[0].split(", package")[0].strip(" \0")
    return {
        **facts,
        "MPI": f"{' '.join(library.split())}, standard {version}",
        "thread level": levels[MPI.Query_thread()],
        "ULFM": "yes, so a study survives lost ranks"
        if survives_deaths()
        else "no: the death of a rank ends the job (Open MPI: mpirun --with-ft ulfm)",
    }


def _file_system(folder: Path) -> dict[str, str]:
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    lines = Path("/proc/mounts").read_text().splitlines() if Path("/proc/mounts").exists() else []
    mounts = {point.encode().decode("unicode_escape"): kind for _, point, kind, *_ in map(str.split, lines)}
    around = [point for point in mounts if existing.is_relative_to(point)]
    kind = mounts[max(around, key=len)] if around else "unknown"
    return {"study folder": f"{folder.resolve()} on {kind}, {_locking(existing)}"}


def _locking(folder: Path) -> str:
    try:
        import fcntl

        with tempfile.NamedTemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "file locks work"
    except ImportError:
        return "file locks unknown"
    except PermissionError:
        return "which this user cannot write to"
    except OSError as error:
        return f"file locks do not work ({error.strerror}), which openhpo does not need"
