"""Runs all benchmarks, those of messages under both MPIs, each against a bare baseline measured in the same run.

Run with: make bench, or: python benchmarks/all.py
"""

import os
import subprocess
import sys
from pathlib import Path

from openhpo.launcher import find_launcher

HERE = Path(__file__).parent
MPICH = HERE.parent / ".venv-mpich" / "bin"
TIMEOUT = 1200  # seconds a benchmark
WHAT = {
    "decisions": "cost of ask and tell at 100,000 trials; aims: at most 1.5 times that at 1,000, for ASHA below 20 µs a report",
    "messages": "actor messages against bare mpi4py; aims: 0.6 of its rate, 3 times its round trip",
    "idle": "what waiting costs; aims: below 2 % of a core, `openhpo --help` below 0.3 s",
    "latency": "from a stage's end to the next one's start; aims: below 0.7 ms, with a busy coordinator below 0.1 ms",
    "looking": "what reports and watching cost; aims: 15 s, 10 MB and 3 s to the first chart for 10,000 trials",
    "noisy": "searches whose results are noisy; aims: BOHB before Hyperband on counting ones, a better choice by replicates",
    "reports": "reports a second through one coordinator into the study file; aim: 100,000",
    "search": "how good suggestions are, and what they cost; aims: no worse than Optuna's, TPE below 1 ms at 1,000 trials",
    "simulate": "predictions of studies; aims: 100,000 trials on 1,024 ranks within 2 min, within 20 % of the run itself",
    "states": "a model of 256 MiB moved between trials; aims: 0.7 of bare MPI's speed, 10 times a checkpoint file's",
    "training": "steps a second against a bare training loop; aim: 98 %",
}
UNDER_BOTH = ("messages", "idle", "latency", "states")


def environment() -> dict[str, str]:
    """For the benchmarks and the ranks they start: one thread each, and more ranks than cores where need be."""
    settings = {"OMP_NUM_THREADS": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        settings |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, **settings}


def command(name: str, python: str, launcher: list[str]) -> list[str]:
    script = [python, str(HERE / f"{name}.py")]
    return [*launcher, "-n", "2", *script] if name == "messages" else script  # the others start their own ranks


def passes(title: str, arguments: list[str]) -> bool:
    print(f"\n== {title}", flush=True)
    try:
        status = subprocess.run(arguments, env=environment(), timeout=TIMEOUT, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"not done after {TIMEOUT} s", flush=True)
        return False
    if status:
        print(f"failed with status {status}", flush=True)
    return status == 0


def main() -> int:
    mpis = [("", sys.executable, find_launcher())]
    if (MPICH / "mpiexec").exists():
        mpis.append((", MPICH", str(MPICH / "python"), [str(MPICH / "mpiexec")]))
    passed = [
        passes(f"{name}{suffix}: {what}", command(name, python, launcher))
        for name, what in WHAT.items()
        for suffix, python, launcher in mpis
        if not suffix or name in UNDER_BOTH
    ]
    return 0 if all(passed) else 1


sys.exit(main())
