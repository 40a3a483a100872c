"""Brings a study to where its file ends, by telling it all that it was told before; sees to it that it is the same study."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from openhpo.errors import UserError, clipped
from openhpo.news import Change
from openhpo.resources import Profile
from openhpo.result import load_file, phase_of
from openhpo.scheduler import Scheduler
from openhpo.stages import Stage, State, StateName
from openhpo.storage import Tables, schema
from openhpo.storage.checkpoints import name_of
from openhpo.storage.reader import located
from openhpo.suggestions import Suggestion

QUOTED = 200  # characters of a definition in a message


class Kept(NamedTuple):
    """What of a study file the events in it account for. A kill may leave more rows, which nobody was told of.

    Attributes:
        trials, stages, reports: Rows of these tables.
        seconds: Until the last of them, over all runs.
        untold: What trials came to by the last reports, which the run that took these did not live to write.
    """

    trials: int
    stages: int
    reports: int
    seconds: float
    untold: list[Change]


class There(NamedTuple):
    """A study file that is gone on with.

    Attributes:
        tables: All of it.
        finished: Whether its last run came to the end.
        totals: How many trials each of its studies was to have.
    """

    tables: Tables
    finished: bool
    totals: list[int]


def check_same(folder: Path, definition: Mapping[str, Any]) -> There:
    """Make sure that a folder holds this very study, or these, but for the number of trials; return it.

    Raises:
        UserError: It holds another one.
    """
    tables = load_file(folder)
    if ("studies" in definition) != ("studies" in tables.definition):
        one, several = "one study by itself", "several studies that share a tree"
        holds, here = (one, several) if "studies" in definition else (several, one)
        raise UserError(f"{folder} holds {holds}, and here there are {here}: choose another --study, or remove that folder.")
    wanted, there = (_without_totals(json.loads(json.dumps(each))) for each in (definition, tables.definition))
    differing = [key for key in {**wanted, **there} if wanted.get(key) != there.get(key)]
    if differing:
        where, *both = _difference(differing[0], there.get(differing[0]), wanted.get(differing[0]))
        its, here = (clipped(json.dumps(each), QUOTED) for each in both)
        raise UserError(
            f"{folder} holds another study: its {where} is {its}, and here it is {here}. "
            "Choose another --study, or remove that folder."
        )
    totals = [study["trials"] for study in tables.studies]
    for name, then, now in zip(tables.names, totals, totals_of(definition), strict=True):
        if now < then:
            which = f"{folder}/{name}" if name else f"{folder}"
            raise UserError(
                f"{which} holds this study with {then} trials, and here it has {now}. A study may be given more trials, not "
                "fewer: --trials is the total. Choose another --study, or remove that folder."
            )
    return There(tables, phase_of(tables.events["kind"]) == "finished", totals)


def check_alone(folder: Path) -> None:
    """Make sure that a folder in which a study is to begin is not that of a study which shares its file with others.

    Raises:
        UserError: It is.
    """
    file, name = located(folder)
    if name is not None and name in load_file(file).names:
        raise UserError(
            f"{folder} is one of the studies of {file.parent}, which run together: give that job's command again "
            f"(openhpo resume {file.parent}), or choose another --study"
        )


def make_folders(folder: Path, names: Sequence[str]) -> None:
    """Make a folder for each of several studies that share a file.

    Raises:
        UserError: Something else is there.
    """
    for name in names:
        if (folder / name / schema.FILE).exists():
            raise UserError(f"{folder / name} holds a study of its own: choose another --study, or another --name")
    for name in names:
        try:
            (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder {folder / name} cannot be made: {error.strerror}. Choose another --study.") from None


def totals_of(definition: Mapping[str, Any]) -> list[int]:
    """How many trials each study of a definition is to have."""
    return [study["trials"] for study in definition.get("studies", {"": definition}).values()]


def _without_totals(definition: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {name: _without_totals(study) for name, study in value.items()} if key == "studies" else value
        for key, value in definition.items()
        if key != "trials"
    }


def _difference(where: str, one: Any, other: Any) -> tuple[str, Any, Any]:
    """The innermost place where two values differ, and what is there."""
    if isinstance(one, dict) and isinstance(other, dict):
        key = next(key for key in {**other, **one} if one.get(key) != other.get(key))
        return _difference(f"{where}: {key}", one.get(key), other.get(key))
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        place = next(place for place, (mine, theirs) in enumerate(zip(one, other, strict=True)) if mine != theirs)
        return _difference(f"{where}, number {place + 1}", one[place], other[place])
    return where, one, other


def replay(tables: Tables, scheduler: Scheduler) -> Kept:
    """Tell a scheduler all that a study file holds, in the order in which it happened.

    Args:
        tables: The file.
        scheduler: Of new studies with the same definition, and as many trials as they began with.

    Raises:
        UserError: The file contradicts itself, or this version of openhpo would have decided otherwise.
    """
    try:
        configs: list[list[dict[str, Any]]] = [[] for _ in scheduler.study.searches]
        for row in tables.trials:
            configs[int(row["study"])].append(tables.config(row))
        scheduler.study.recall(configs)
        reports = _replay(tables, scheduler)
        scheduler.study.recall([() for _ in configs])
    except (ValueError, KeyError, IndexError, AssertionError, OverflowError, TypeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{tables.path} cannot be continued, as it contradicts itself ({type(error).__name__}: {error}). "
            "It is left as it is; choose another --study to start anew."
        ) from None
    study = scheduler.study
    told = int(numpy.char.startswith(tables.events["kind"], schema.TRIAL.encode()).sum())
    untold = [change for change in study.changes() if change.state is not State.RUNNING or change.forked or change.joined][
        told:
    ]
    study.releases()
    times = [table["time"][-1] for table in (tables.events, tables.reports[:reports]) if len(table)]
    return Kept(
        sum(len(search.trials) for search in study.searches), study.issued, reports, float(max(times, default=0.0)), untold
    )


def _replay(tables: Tables, scheduler: Scheduler) -> int:
    after = tables.reports["event"]
    if len(after) and (numpy.diff(after) < 0).any():
        raise ValueError("its reports are not in order")
    at = 0
    for number, event in enumerate(tables.events):
        until = int(numpy.searchsorted(after, number, side="right"))
        _replay_reports(tables, scheduler, at, until)
        at = until
        _replay_event(tables, scheduler, event)
    until = int(numpy.searchsorted(after, len(tables.events), side="right"))
    _replay_reports(tables, scheduler, at, until)
    return until


def _replay_reports(tables: Tables, scheduler: Scheduler, at: int, until: int) -> None:
    """The reports of some rows, consecutive ones of the same stage together."""
    if at == until:
        return
    rows = tables.reports[at:until]
    cuts = numpy.flatnonzero((numpy.diff(rows["stage"]) != 0) | (numpy.diff(rows["step"]) != 1)) + 1
    for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True):
        stage = scheduler.stages[int(rows["stage"][first])]
        metrics = _metrics(tables, at + first, at + last)
        if scheduler.reports(stage, int(rows["step"][first]), metrics) != last - first:
            raise UserError(_diverged(tables, f"stage {stage.id} would have been stopped earlier"))


def _metrics(tables: Tables, at: int, until: int) -> Iterator[dict[str, float]]:
    values = numpy.ascontiguousarray(tables.values[at:until])
    there = values.view(numpy.uint64) != schema.ABSENT_BITS
    for row, present in zip(values.tolist(), there.tolist(), strict=True):
        yield {name: value for name, value, is_there in zip(tables.metrics, row, present, strict=True) if is_there}


def _replay_event(tables: Tables, scheduler: Scheduler, event: numpy.void) -> None:
    kind, rank = event["kind"].decode(), int(event["rank"])
    if kind in (schema.STARTED, schema.RESUMED):
        if kind == schema.RESUMED:
            scheduler.resume(begun_with(tables, event))
        scheduler.expect(rank)
    elif kind == schema.SUSPENDED:
        scheduler.suspend()
    elif kind == schema.READY:
        scheduler.join(rank, str(_told(tables, event).get("host", "")))
        _replay_assignments(tables, scheduler)
    elif kind == schema.LEFT:
        # its stages end by the events that follow, and only then is there anything to hand out
        if not scheduler.leave(rank):
            _replay_assignments(tables, scheduler)
    elif kind == schema.SUGGESTED:
        suggestion = _told(tables, event)
        scheduler.suggested(Suggestion(suggestion["config"], suggestion["remarks"]), max(0, int(event["study"])))
        _replay_assignments(tables, scheduler)
    elif kind in schema.STAGE_ENDS:
        _replay_end(tables, scheduler, event, kind)
        _replay_assignments(tables, scheduler)
    elif kind in (schema.STATE_SAVED, schema.STATE_MOVED, schema.STATE_LOST):
        _replay_state(scheduler, kind, StateName(int(event["stage"]), int(event["step"])), rank)


def _replay_state(scheduler: Scheduler, kind: str, state: StateName, rank: int) -> None:
    if kind == schema.STATE_LOST:
        scheduler.lost(state, None if rank == schema.NONE else rank)
    else:
        _catch_up(scheduler, state.stage, state.step)
        scheduler.saved(state, rank, name_of(state), moved=kind == schema.STATE_MOVED)


def _replay_end(tables: Tables, scheduler: Scheduler, event: numpy.void, kind: str) -> None:
    stage = scheduler.stages[int(event["stage"])]
    text = tables.text(int(event["text_at"]), int(event["text_size"]))
    _catch_up(scheduler, stage.id, int(event["step"]))
    if kind == schema.STAGE_FAILED:
        scheduler.failed(stage, text.rstrip().splitlines()[-1] if text.strip() else "")
    elif kind == schema.STAGE_RETURNED:
        scheduler.returned(stage)
    elif kind == schema.STAGE_EXHAUSTED:
        scheduler.exhausted(stage)
    else:
        told = _told(tables, event)
        scheduler.ended(stage, kept=told.pop("kept", False), profile=Profile(**told))


def begun_with(tables: Tables, event: numpy.void) -> list[int]:
    """How many trials each study was to have when a run began."""
    told = _told(tables, event).get("trials")
    return told if isinstance(told, list) else [int(event["step"])]


def _told(tables: Tables, event: numpy.void) -> dict[str, Any]:
    """The text of an event whose text is JSON."""
    found = json.loads(tables.text(int(event["text_at"]), int(event["text_size"])) or "{}")
    if not isinstance(found, dict):
        raise ValueError("the text of an event is damaged")
    return found


def _catch_up(scheduler: Scheduler, number: int, step: int) -> None:
    """Let a stage that only brings back a state go on: its steps are not in the file a second time."""
    stage = scheduler.stages.get(number)
    if stage is not None and stage.again:
        reached = scheduler.study.reported(stage)
        scheduler.reports(stage, reached + 1, [{}] * (step - reached))


def _replay_assignments(tables: Tables, scheduler: Scheduler) -> None:
    for stage in scheduler.assign():
        _check(tables, stage)


def _check(tables: Tables, stage: Stage) -> None:
    """Make sure that a stage is the one that the file has."""
    row = tables.stages[stage.id] if stage.id < len(tables.stages) else None
    parent = schema.NONE if stage.parent is None else stage.parent
    leader = stage.ranks[0] if stage.ranks else schema.NONE
    here = (stage.id, stage.study, stage.trial, parent, stage.start, stage.stop, leader, len(stage.ranks), int(stage.again))
    names = ("stage", "study", "trial", "parent", "start", "stop", "rank", "ranks", "again")
    there = None if row is None else tuple(int(row[name]) for name in names)
    if here != there:
        raise UserError(_diverged(tables, f"it would have trained {here} where the file has {there}"))


def _diverged(tables: Tables, what: str) -> str:
    return (
        f"{tables.path} cannot be continued: going through it again, this openhpo decides otherwise from the same results "
        f"({what}). Continue it with the version that wrote it (openhpo {tables.environment.get('openhpo', 'unknown')})."
    )
