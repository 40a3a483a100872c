"""What the time of a study's trainers was spent on."""

from __future__ import annotations

from typing import NamedTuple

import numpy

from openhpo.errors import UserError
from openhpo.result import Result
from openhpo.storage import schema

_ENDS = (schema.STAGE_ENDED, schema.STAGE_STOPPED, schema.STAGE_FAILED, schema.STAGE_RETURNED)


class Spent(NamedTuple):
    """Seconds of all trainers together: the number of ranks that train times the study's run time, in four parts.

    Attributes:
        training: In the steps themselves.
        exploits: The rest of the stages that began with another trial's model, from when the coordinator handed them out to
            when it heard of their end: fetching that model, setting up, loading it, and the messages.
        handovers: The rest of all other stages; donors copy their models there.
        idle: Where no stage was handed out.
        exploit_count, handover_count: How many stages of either kind there were.
    """

    training: float
    exploits: float
    handovers: float
    idle: float
    exploit_count: int
    handover_count: int


def spent(result: Result, metric: str) -> Spent:
    """Divide the trainers' time by the times in the study file.

    Args:
        result: The study.
        metric: The metric in which training reports how many seconds each step took.

    Raises:
        UserError: The study was interrupted, and the file does not tell for how long, or nothing reported the metric.
    """
    tables, training = result.tables, seconds_of_stages(result, metric)
    if (tables.events["kind"] == schema.RESUMED.encode()).any():
        raise UserError(f"{result.path} was interrupted and continued, so its times say nothing: remove it, and run this again")
    ends = tables.events[numpy.isin(tables.events["kind"], [kind.encode() for kind in _ENDS])]
    ended = dict(zip(ends["stage"].tolist(), ends["time"].tolist(), strict=True))
    seconds, counts = [0.0, 0.0], [0, 0]  # of hand-overs, of exploits
    exploits = _exploits(result)
    for stage, began in zip(tables.stages["stage"].tolist(), tables.stages["time"].tolist(), strict=True):
        if stage in ended:
            seconds[stage in exploits] += ended[stage] - began - training.get(stage, 0.0)
            counts[stage in exploits] += 1
    steps = sum(training.values())
    idle = trainers(result) * float(tables.events["time"][-1]) - steps - sum(seconds)
    return Spent(steps, seconds[1], seconds[0], idle, counts[1], counts[0])


def seconds_of_stages(result: Result, metric: str) -> dict[int, float]:
    """Seconds that the steps of each stage took.

    Raises:
        UserError: Nothing reported the metric.
    """
    if metric not in result.metrics:
        raise UserError(f"no trial of {result.path} reported {metric!r}; reported: {', '.join(result.metrics) or 'nothing'}")
    found: dict[int, float] = {}
    values = result.tables.values[:, result.metrics.index(metric)].tolist()
    for stage, value in zip(result.tables.reports["stage"].tolist(), values, strict=True):
        found[stage] = found.get(stage, 0.0) + value
    return found


def trainers(result: Result) -> int:
    """How many ranks trained."""
    events = result.tables.events
    return len(set(events["rank"][events["kind"] == schema.READY.encode()].tolist()))


def _exploits(result: Result) -> set[int]:
    """The stages that began with another trial's model, which the trial took over."""
    stages, events = result.tables.stages, result.tables.events
    forked = set(events["trial"][events["kind"] == schema.TRIAL_FORKED.encode()].tolist())
    owner = dict(zip(stages["stage"].tolist(), stages["trial"].tolist(), strict=True))
    rows = zip(*(stages[name].tolist() for name in ("stage", "trial", "parent")), strict=True)
    return {stage for stage, trial, parent in rows if trial in forked and parent in owner and owner[parent] != trial}
