"""What has to hold of a study file after every run of its study, whatever went wrong in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from openhpo.result import Result
from openhpo.resume import begun_with, replay
from openhpo.scheduler import Scheduler
from openhpo.search import Search
from openhpo.stages import TrialRecord
from openhpo.storage import Tables, read, schema
from openhpo.workload import Workload


@dataclass
class Seen:
    """What came out of a seed, over all its runs.

    Attributes:
        acknowledged: The last step of each stage that a trainer was told is safe.
        values: What each stage has ever reported for a step.
        lives: Runs.
        log: What went wrong, in words.
    """

    acknowledged: dict[int, int] = field(default_factory=dict)
    values: dict[tuple[int, int], float] = field(default_factory=dict)
    lives: int = 0
    log: list[str] = field(default_factory=list)

    def forget(self, path: Path) -> None:
        """A killed run may have had stages that never came to the file; the next one gives their numbers to others."""
        there = set(read(path).stages["stage"].tolist())
        self.values = {key: value for key, value in self.values.items() if key[0] in there}


class Make(Protocol):
    """Makes the studies, with as many trials as is said."""

    def __call__(self, totals: Sequence[int] | None = None, /) -> Workload: ...


def check_file(make: Make, seen: Seen, path: Path, study: Workload | None) -> Workload:
    """What has to hold of a study file after every run; return the study as it is in there.

    Raises:
        AssertionError: It does not.
    """
    tables = read(path)
    found = make(begun_with(tables, tables.events[0]))
    kept = replay(tables, Scheduler(found))  # its decisions are those that follow from its reports
    rows = tables.reports[: kept.reports]
    stored = {}
    for row, value in zip(rows, tables.values[: kept.reports, :1].ravel().tolist(), strict=True):
        key = (int(row["stage"]), int(row["step"]))
        assert key not in stored, f"{key} is there twice"
        stored[key] = value
        told = seen.values.get(key, math.inf)
        assert tables.stages["ranks"][key[0]] == 0 or same(value, told), f"{key} is {value}, and was reported as {told}"
    again = {int(row["stage"]) for row in tables.stages if row["again"]}
    starts = {int(row["stage"]): int(row["start"]) for row in tables.stages}
    for stage, last in seen.acknowledged.items():
        assert stage in starts, f"stage {stage} was acknowledged, and is not there"
        for step in range(starts[stage] + 1, last + 1):
            stopped = (stage, step) not in seen.values
            assert stage in again or stopped or (stage, step) in stored or _was_stopped(tables, stage, step), (
                f"step {step} of stage {stage} was acknowledged, and is not there"
            )
    # a step that was reported is not trained a second time for its own sake
    owners = [(int(tables.stages["study"][row["stage"]]), int(row["trial"]), int(row["step"])) for row in rows]
    if not found.forks:
        assert len(owners) == len(set(owners)), "a step was reported twice for a trial"
    for search in found.searches:
        assert all(trial.step <= search.engine.max_steps for trial in search.trials)
        assert len(search.candidates) <= search.total
    if study is not None:
        for name, mine, its in zip(found.names, found.searches, study.searches, strict=True):
            _check_search(mine, its, path / name)
    return found


def _check_search(replayed: Search, lived: Search, path: Path) -> None:
    """A method is the same in the file, in memory, and to the reader."""
    for here, there in ((replayed.trials, lived.trials), (replayed.candidates, lived.candidates)):
        assert [facts(trial) for trial in here] == [facts(trial) for trial in there], "file and memory differ"
    result = Result(path)
    for trial in lived.trials:
        step, (score, at) = int(result.steps[trial.number]), result.scores[trial.number]
        assert step == trial.step, f"the reader finds {step} steps of trial {trial.number}, which has {trial.step}"
        assert (score, at) == (trial.score, trial.best_step), f"the reader finds another score of trial {trial.number}"
    best, read_back = lived.best, result.best
    assert repr(best) == repr(replayed.best)
    if lived.engine.forks and best is not None and read_back is not None:  # what became of the model may be told or not
        best, read_back = (replace(each, curve=each.curve[: each.step]) for each in (best, read_back))
    assert best == read_back or repr(best) == repr(read_back), "the reader finds another best trial"


def _was_stopped(tables: Tables, stage: int, step: int) -> bool:
    """Whether a step comes after the one at which nobody wanted its stage any more."""
    events = tables.events
    mine = events[(events["stage"] == stage) & (events["kind"] == schema.STAGE_STOPPED.encode())]
    if len(mine):
        return step > int(mine["step"][-1])
    steps = tables.reports["step"][tables.reports["stage"] == stage]
    return len(steps) > 0 and step > int(steps.max())


def facts(trial: TrialRecord) -> tuple[Any, ...]:
    """What is known of a trial, to compare."""
    values = ["nan" if math.isnan(value) else value for value in trial.losses]
    return trial.number, tuple(trial.config.items()), trial.state, trial.step, trial.score, trial.best_step, values, trial.stage


def same(one: float, other: float) -> bool:
    """Whether two numbers are the same, not a number included."""
    return one == other or (math.isnan(one) and math.isnan(other))
