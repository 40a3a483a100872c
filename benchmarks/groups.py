"""What it costs to form a group of ranks for a trial, and what it costs when the next stage has the same group.

Three ranks train trials of two and of three ranks by turns, and then of three alone. In each, training averages one number over
its group at the start of its first step, which forms the group where it is new, and again right after, which is what the
average itself takes. The difference is the group. The first group of a process also imports what torch needs for it.

Run with: python benchmarks/groups.py [--trials 24]     (it starts its own MPI ranks)
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openhpo as hpo
from openhpo.actors.run import launched_rank
from openhpo.launcher import relaunch

RANKS = 3
AIM = 50.0  # milliseconds
FIRST = 3  # trials in which processes form their first groups


def train(trial: hpo.Trial) -> Iterator[dict[str, float]]:
    import torch

    torch.zeros(1)
    while True:
        taken = []
        for _ in range(2):
            began = time.perf_counter()
            trial.average(1.0)
            taken.append(1e3 * (time.perf_counter() - began))
        yield {"first": taken[0], "second": taken[1], "loss": 0.0}


def wanted(values: Any) -> int:
    return int(values["size"])


def forming(sizes: list[int], folder: Path) -> list[float]:
    """Milliseconds that the group took at the start of each trial, trials in the order given; on rank 0 alone."""
    space = hpo.Space({"size": hpo.Categorical([2, 3]), "number": hpo.Integer((0, len(sizes)))})
    listed = [{"size": size, "number": number} for number, size in enumerate(sizes)]
    result = hpo.run(
        train,
        space,
        hpo.Minimize("loss"),
        engine=hpo.Full(1),
        prior=listed,
        trials=len(listed),
        study=folder,
        device="cpu",
        ranks_per_trial=wanted,
        progress=False,
    )
    if launched_rank() != 0:
        return []  # rank 0 removes the study when it has read it
    took = result.curves("first")[:, 0] - result.curves("second")[:, 0]
    return [float(each) for each in took]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    options = parser.parse_args()
    relaunch(RANKS)
    folder = Path(tempfile.gettempdir()) / "openhpo-groups"
    if launched_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
    by_turns = forming([2, 3] * (options.trials // 2), folder / "new")
    alone = forming([3] * options.trials, folder / "same")
    if launched_rank() != 0:
        return
    new, same = statistics.median(by_turns[FIRST:]), statistics.median(alone[1:])
    print(f"first group of a process, with imports:  {by_turns[0]:8.1f} ms")
    print(f"another group than before, median:       {new:8.1f} ms   (aim {AIM:g})")
    print(f"the same group as before, median:        {same:8.2f} ms")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
