"""Reads a study as a recording: curves as they were reported, and times as far as the file tells them.

What the file tells: when a stage was handed to its rank, and when each batch of its reports came. The first report of a stage
travels at once, later ones gather for a fifth of a second, and the last come with the stage's end. So the time between
two batches is shared out evenly among the steps of the later one, and what the first batch took longer than these steps do on
average is the set-up. All times of a stage add up to the time from its issue to its last report. Of the first stage that a rank
trains, what the set-up takes longer than is usual is the rank's warm-up: imports, first use of the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from openhpo.errors import UserError
from openhpo.hyperparameters import Config
from openhpo.recorded.recording import Recording
from openhpo.result import Result, load
from openhpo.space import Space
from openhpo.stages import State
from openhpo.storage import Tables, schema


class Timed(NamedTuple):
    """Times of all reports of a study.

    Attributes:
        rows: The rows of the reports, by stage and step.
        begin: Where each stage begins in `rows`.
        seconds: [row of the reports] What the step took; in the first batch of a stage together with its set-up.
        leads: [row of the reports] Whether it is of the first batch of its stage.
    """

    rows: NDArray[numpy.int64]
    begin: NDArray[numpy.int64]
    seconds: NDArray[numpy.float64]
    leads: NDArray[numpy.bool_]


class Trained(NamedTuple):
    """One trial's training.

    Attributes:
        rows: Its reports.
        seconds: What their steps took, and one more: in which it raised, or 0.
        setup: What came before the first one.
        first: The stage that it began with.
        crashed: Whether it raised.
    """

    rows: NDArray[numpy.int64]
    seconds: NDArray[numpy.float64]
    setup: float
    first: int
    crashed: bool


def read_study(path: str) -> Recording:
    """The recording that a study is, finished or not.

    Args:
        path: The study's folder, or its study.h5.

    Raises:
        UserError: There is none, it cannot be read, or nothing in it can be replayed.
    """
    result = load(path)
    tables = result.tables
    forked = _trials(tables, schema.TRIAL_FORKED)
    steps = numpy.asarray(result.table("trials")["steps"])
    timed, crashes = _timed(tables), _crashes(tables)
    usual = _mean(timed.seconds[~timed.leads])
    found: dict[str, tuple[Config, Trained]] = {}
    for trial, config in enumerate(result.configs):
        key, length = repr(config), int(steps[trial])
        if trial in forked or length == 0 or (key in found and len(found[key][1].rows) >= length):
            continue
        crash = crashes.get(trial) if result.states[trial] is State.FAILED else None
        found[key] = (config, _trained(result, timed, trial, length, usual, crash))
    if not found:
        raise UserError(f"{path} holds no learning curve that could be replayed: no trial has trained a step by itself")
    notes = [*_circumstances(result.environment)]
    if forked:
        notes.append(f"left out: {len(forked)} trials that took over another's model, as their curves are no configuration's")
    if result.used.earlier:
        notes.append(f"{result.used.earlier:,} steps were taken over from an earlier study: taken to be as long as the others")
    if silent := int((steps == 0).sum()):
        notes.append(f"left out: {silent} trials that reported nothing")
    return _recording(path, result, list(found.values()), _first_stages(tables), tuple(notes))


def _circumstances(environment: dict[str, Any]) -> Iterator[str]:
    """What the times hold for."""
    ranks, near, threads = (environment.get(name) for name in ("ranks", "ranks_on_node", "threads"))
    if ranks and near and threads:
        yield f"recorded on {ranks} ranks, {near} to a node, {threads} threads each: taken to be as fast here"


def _recording(
    source: str,
    result: Result,
    found: list[tuple[Config, Trained]],
    first_stages: set[int],
    notes: tuple[str, ...],
) -> Recording:
    tables, trained = result.tables, [one for _, one in found]
    lengths = numpy.array([len(one.rows) for one in trained])
    shape = (len(found), int(lengths.max()))
    values, reported = numpy.zeros((*shape, len(tables.metrics))), numpy.zeros((*shape, len(tables.metrics)), bool)
    seconds = numpy.zeros((shape[0], shape[1] + 1))
    for number, one in enumerate(trained):
        block = numpy.ascontiguousarray(tables.values[one.rows])
        values[number, : len(one.rows)] = block
        reported[number, : len(one.rows)] = block.view(numpy.uint64) != schema.ABSENT_BITS
        seconds[number, : len(one.seconds)] = one.seconds
    setup, warmup = _without_warmup(
        numpy.array([one.setup for one in trained]), numpy.array([one.first in first_stages for one in trained])
    )
    definition = result.definition
    return Recording(
        source=source,
        space=_space(source, definition),
        configs=[config for config, _ in found],
        lengths=lengths,
        metrics=tuple(tables.metrics),
        values=values,
        reported=reported,
        seconds=seconds,
        setup=setup,
        crashed=numpy.array([one.crashed for one in trained]),
        warmup=warmup,
        objective=result.objective,
        steps=definition.get("max_steps"),
        merge=bool(definition.get("merge", True)),
        notes=notes,
    )


# ---- times


def _timed(tables: Tables) -> Timed:
    reports = tables.reports
    rows = numpy.argsort(reports["stage"], kind="stable")
    stage, time = reports["stage"][rows], reports["time"][rows]
    opens = numpy.diff(stage, prepend=-1) != 0  # a stage
    cuts = numpy.flatnonzero(opens | (numpy.diff(time, prepend=-1.0) != 0))  # a batch
    sizes = numpy.diff(cuts, append=len(rows))
    since = numpy.where(opens[cuts], tables.stages["time"][stage[cuts]], time[cuts - 1])
    seconds, leads = numpy.empty(len(rows)), numpy.empty(len(rows), bool)
    seconds[rows] = numpy.repeat(numpy.maximum(time[cuts] - since, 0.0) / sizes, sizes)
    leads[rows] = numpy.repeat(opens[cuts], sizes)
    known = tables.stages["ranks"][reports["stage"]] == 0  # nobody trained them here, so they are as long as the others
    seconds[known], leads[known] = _mean(seconds[~known & ~leads]) or 0.0, False
    return Timed(rows, numpy.searchsorted(stage, numpy.arange(len(tables.stages) + 1)), seconds, leads)


def _trained(result: Result, timed: Timed, trial: int, length: int, usual: float | None, crash: float | None) -> Trained:
    spans = result.lineage(trial, length)
    parts = [timed.rows[timed.begin[span.stage] :][: span.stop - span.start] for span in spans]
    rows = numpy.concatenate(parts)
    seconds, leads = timed.seconds[rows], timed.leads[rows]
    pace = _mean(seconds[~leads])
    pace = usual if pace is None else pace
    setup = 0.0
    if pace is not None:
        steps = numpy.where(leads, numpy.minimum(seconds, pace), seconds)
        setup = float((seconds - steps)[: len(parts[0])].sum())
        seconds = steps
    last = 0.0 if crash is None else max(0.0, crash - float(result.tables.reports["time"][rows[-1]]))
    return Trained(rows, numpy.append(seconds, last), setup, spans[0].stage, crash is not None)


def _mean(seconds: NDArray[numpy.float64]) -> float | None:
    return float(seconds.mean()) if len(seconds) else None


def _without_warmup(setup: NDArray[numpy.float64], first: NDArray[numpy.bool_]) -> tuple[NDArray[numpy.float64], float]:
    """Divide the set-up of the first stages of ranks into what is usual, and the warm-up of a rank."""
    if first.all() or not first.any():
        return setup, 0.0
    usual = float(numpy.median(setup[~first]))
    warmup = float(numpy.median(numpy.maximum(setup[first] - usual, 0.0)))
    return numpy.where(first, numpy.minimum(setup, usual), setup), warmup


def _first_stages(tables: Tables) -> set[int]:
    """The first stage of each rank, in each run of the study."""
    stages, found = tables.stages, set()
    for event in tables.events[tables.events["kind"] == schema.READY.encode()]:
        of_rank = numpy.flatnonzero((stages["rank"] == event["rank"]) & (stages["time"] >= event["time"]))
        if len(of_rank):
            found.add(int(stages["stage"][of_rank[0]]))
    return found


def _trials(tables: Tables, kind: str) -> set[int]:
    return set(tables.events["trial"][tables.events["kind"] == kind.encode()].tolist())


def _crashes(tables: Tables) -> dict[int, float]:
    """When the training of a trial raised; what failed of itself is not among them."""
    found: dict[int, float] = {}
    raised: float | None = None
    for event in tables.events:
        kind = event["kind"].decode()
        if kind == schema.STAGE_FAILED:
            raised = float(event["time"])
        elif raised is not None and kind == f"{schema.TRIAL}{State.FAILED.value}":
            found[int(event["trial"])] = raised
        else:
            raised = None
    return found


# ---- the space


def _space(source: str, definition: dict[str, Any]) -> Space:
    try:
        return Space.from_definition(definition["space"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source} does not say what was searched ({type(error).__name__}: {error})") from None
