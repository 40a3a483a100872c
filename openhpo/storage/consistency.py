"""Sees to it that a study file does not contradict itself.

Metadata of HDF5 carry checksums, rows do not. So whatever in rows refers to something else, or tells how much there is, is
checked here once, and who works with the tables need not expect the impossible.
"""

from __future__ import annotations

import math
from typing import Any

import numpy
from numpy.typing import NDArray

from openhpo.objective import Objective
from openhpo.stages import AT_REST
from openhpo.storage import schema
from openhpo.storage.opening import Damage, must
from openhpo.storage.tables import Tables

PIECE = 1 << 15  # rows looked at together, few enough for a processor's cache


def check(tables: Tables) -> None:
    """Make sure that all references lead to something.

    Tables are written one after the other and read in the reverse order, so one that is written earlier may have more rows
    than the others account for, but not fewer.
    """
    must(math.isfinite(tables.began), "nobody knows when it began")
    _check_definition(tables.definition)
    must(isinstance(tables.environment.get("code", ""), str), "its environment is damaged")
    trials, stages, limit = tables.trials, tables.stages, sum(study["trials"] for study in tables.studies)
    counts = _check_trials(trials, tables.studies)
    must(numpy.isfinite(trials["time"]), "the time of a trial is damaged")
    _check_texts(trials["config_at"], trials["config_size"], len(tables.log))
    _check_stages(stages, counts)
    own = stages[stages["config_size"] != 0]
    _check_texts(own["config_at"], own["config_size"], len(tables.log))
    _check_events(tables.events, stages, counts, limit)
    _check_texts(tables.events["text_at"], tables.events["text_size"], len(tables.log))
    _check_reports(tables.reports, stages)


def _check_definition(definition: dict[str, Any]) -> None:
    must(type(definition.get("seed")) is int, "its definition is damaged")
    texts = ("app", "data", "precision", "state_dtype")
    must(all(isinstance(definition.get(name, ""), str) for name in texts), "its definition is damaged")
    studies = definition.get("studies", {"": definition})
    must(isinstance(studies, dict) and len(studies) > 0, "its definition is damaged")
    for study in studies.values():
        must(isinstance(study, dict), "its definition is damaged")
        _check_study(study)


def _check_study(definition: dict[str, Any]) -> None:
    must(all(isinstance(definition.get(name), str) for name in ("engine", "sampler")), "its definition is damaged")
    must(type(definition.get("trials")) is int, "its definition is damaged")
    replicates = definition.get("replicates", 1)
    must(type(replicates) is int and replicates > 0, "its definition is damaged")
    try:
        Objective.from_definition(definition["objective"])
    except Exception as error:  # whatever can be wrong with an expression
        raise Damage(f"its objective is damaged ({type(error).__name__}: {error})") from None


def _check_texts(at: NDArray[Any], size: NDArray[Any], end: int) -> None:
    """The texts of a table follow each other in the log."""
    ends = at + size
    must((at >= 0) & (at <= end) & (size >= 0) & (ends <= end), "a text lies outside of its log")
    must(at[1:] >= ends[:-1], "a text lies in the midst of another one")


def _check_trials(trials: NDArray[Any], studies: list[dict[str, Any]]) -> NDArray[numpy.int64]:
    """Of each study how many trials there are; they are counted from 0."""
    must((trials["study"] >= 0) & (trials["study"] < len(studies)), "a trial is of no study")
    counts = numpy.bincount(trials["study"], minlength=len(studies))
    for place, study in enumerate(studies):
        most, count = study["trials"] * study.get("replicates", 1), int(counts[place])
        must(count <= most, f"it has {count} trials, and was to have {most}")
        must(trials["trial"][trials["study"] == place] == numpy.arange(count), "its trials are not in order")
    return counts


def _check_stages(stages: NDArray[Any], counts: NDArray[numpy.int64]) -> None:
    parent, start, again = stages["parent"], stages["start"], stages["again"]
    numbers = numpy.arange(len(stages))
    must(stages["stage"] == numbers, "its stages are not in order")
    must((stages["study"] >= 0) & (stages["study"] < len(counts)), "a stage is of no study")
    must((stages["trial"] >= 0) & (stages["trial"] < counts[stages["study"]]), "a stage is of no trial")
    known = (stages["rank"] == schema.NONE) & (stages["ranks"] == 0) & (again == 0)  # from an earlier study
    trained = (stages["rank"] >= 0) & (stages["ranks"] >= 1) & (again >= 0) & (again <= 1)
    must(known | trained, "a stage is damaged")
    must(numpy.isfinite(stages["time"]) & (stages["event"] >= 0), "the time of a stage is damaged")
    must(numpy.diff(stages["event"]) >= 0, "its stages are not in order")
    must((start >= 0) & (start < stages["stop"]), "the steps of a stage are damaged")
    must((parent < numbers) & numpy.where(start == 0, parent == schema.NONE, parent >= 0), "a stage goes on from none")
    later = parent >= 0
    before = stages[parent[later]]
    must(
        (before["again"] == 0) & (before["start"] < start[later]) & (start[later] <= before["stop"]),
        "a stage goes on from none",
    )


_ANY, _OF_TRIAL, _OF_STAGE, _OF_STATE = (-1, -1, -1, -1), (0, -1, -1, 0), (0, 0, -1, 0), (-1, 0, -1, 0)
_OF_RANK, _OF_STUDY = (-1, -1, 0, -1), (-1, -1, -1, 1)
_LEAST = {  # of each kind of event the least that trial, stage, rank and step may be
    **dict.fromkeys((schema.STARTED, schema.RESUMED), _OF_STUDY),
    **dict.fromkeys((schema.READY, schema.LEFT), _OF_RANK),
    **dict.fromkeys((*schema.STAGE_ENDS, schema.GROUP), _OF_STAGE),
    **dict.fromkeys((schema.STATE_SAVED, schema.STATE_MOVED, schema.STATE_LOST), _OF_STATE),
    **dict.fromkeys((f"{schema.TRIAL}{state.value}" for state in AT_REST), _OF_TRIAL),
    **dict.fromkeys((schema.TRIAL_FORKED, schema.TRIAL_JOINED), _OF_STAGE[:2] + _OF_TRIAL[2:]),
    **dict.fromkeys((schema.SUGGESTED, schema.TROUBLE, schema.SUSPENDED, schema.FINISHED), _ANY),
}


def _keys(kinds: NDArray[Any]) -> NDArray[numpy.uint64]:
    """A number for each kind of event, as texts are compared slowly."""
    words = numpy.ascontiguousarray(kinds).view("u8").reshape(-1, 2)
    keys: NDArray[numpy.uint64] = words[:, 0] * numpy.uint64(0x9E37_79B9_7F4A_7C15) ^ words[:, 1]
    return keys


_KINDS = sorted(_LEAST, key=lambda kind: int(_keys(numpy.array([kind], "S16"))[0]))
_KEYS = _keys(numpy.array(_KINDS, "S16"))
_BOUNDS = numpy.array([_LEAST[kind] for kind in _KINDS], "i4")
_OF_TRIALS = numpy.array([kind.startswith(schema.TRIAL) for kind in _KINDS])


def _check_events(events: NDArray[Any], stages: NDArray[Any], counts: NDArray[numpy.int64], limit: int) -> None:
    keys = _keys(events["kind"])
    kinds = numpy.minimum(numpy.searchsorted(_KEYS, keys), len(_KEYS) - 1)
    must(_KEYS[kinds] == keys, "the kind of an event is damaged")
    must(not len(events) or events["kind"][0].decode() == schema.STARTED, "its first event is damaged")
    least = _BOUNDS[kinds]
    for column, name in enumerate(("trial", "stage", "rank", "step")):
        must(events[name] >= least[:, column], f"the {name} of an event is damaged")
    must((events["study"] >= schema.NONE) & (events["study"] < len(counts)), "an event is of no study")
    most = numpy.append(counts, 0)[events["study"]]  # the last one where it is of none
    must((events["trial"] < most) & (events["stage"] < len(stages)), "an event is of no trial or stage")
    must(events["step"][least[:, 3] == 1] <= limit, "it began with more trials than it has")
    must(numpy.isfinite(events["time"]), "the time of an event is damaged")
    placed = events["stage"] >= 0
    stage, step = events["stage"][placed], events["step"][placed]
    must((stages["start"][stage] <= step) & (step <= stages["stop"][stage]), "the step of an event is damaged")
    must((stages["again"][stage] == 0) | ~_OF_TRIALS[kinds[placed]], "an event is of no stage that reported")


def _check_reports(reports: NDArray[Any], stages: NDArray[Any]) -> None:
    owner = numpy.where(stages["again"] == 0, stages["trial"], schema.NONE)  # those that bring back a state report nothing
    start = numpy.ascontiguousarray(stages["start"])
    last = numpy.minimum(stages["stop"], len(reports))  # as each step before it was reported, too
    for at in range(0, len(reports), PIECE):
        rows = reports[at : at + PIECE]
        stage, step = rows["stage"].astype(numpy.intp), rows["step"]
        must(stage.min() >= 0 and stage.max() < len(stages), "a report is of no stage")
        must(rows["trial"] == owner[stage], "a report is of another trial's stage")
        must((step > start[stage]) & (step <= last[stage]), "the step of a report is damaged")
        must(rows["event"].min() >= 0 and numpy.isfinite(rows["time"]).all(), "a report is damaged")
