"""One of several studies of a job, as if it had a file of its own.

Stages that were trained for trials of other studies are in it as far as its own trials have come through them; each counts
among the stages of the trial that has come furthest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy
from numpy.typing import NDArray

from openhpo.storage import schema
from openhpo.storage.tables import Tables


def share(tables: Tables, place: int) -> Tables:
    """The rows of one study.

    Args:
        tables: All that the file holds.
        place: The study's place.
    """
    if "studies" not in tables.definition:
        return tables
    through, owner = _through(tables, place)
    stages = tables.stages[numpy.array(sorted(through), int)]
    number = {int(stage): new for new, stage in enumerate(stages["stage"])}
    reports, rows = _reports(tables, through, owner, number)
    stages = stages.copy()
    foreign = stages["study"] != place
    stages["trial"][foreign] = [owner[stage] for stage in stages["stage"][foreign].tolist()]
    stages["stop"] = [through[stage] for stage in stages["stage"].tolist()]
    stages["parent"] = [number.get(parent, schema.NONE) for parent in stages["parent"].tolist()]
    stages["stage"], stages["study"] = numpy.arange(len(stages)), numpy.where(foreign, schema.NONE, 0)
    mine = numpy.isin(tables.events["study"], (place, schema.NONE)) | (tables.events["kind"] == schema.STAGE_FAILED.encode())
    events = _events(tables, place, mine, number)
    # how many events were before a report or a stage, of those that are left
    kept = numpy.append(0, numpy.cumsum(mine))
    for rows_of in (reports, stages):
        rows_of["event"] = kept[numpy.minimum(rows_of["event"], len(kept) - 1)]
    trials = tables.trials[tables.trials["study"] == place].copy()
    trials["study"] = 0
    definition = {name: value for name, value in tables.definition.items() if name != "studies"} | tables.studies[place]
    return replace(
        tables,
        definition=definition,
        trials=trials,
        stages=stages,
        reports=reports,
        events=events,
        values=tables.values[rows],
    )


def _through(tables: Tables, place: int) -> tuple[dict[int, int], dict[int, int]]:
    """The stages that a study's trials have come through, with the last step that counts; whose each of them is."""
    stages = tables.stages
    parent, start, stop, trial, study = (stages[name].tolist() for name in ("parent", "start", "stop", "trial", "study"))
    through: dict[int, int] = {}
    owner: dict[int, int] = {}

    def pass_through(stage: int, step: int, of: int) -> None:
        while stage >= 0 and step > through.get(stage, 0):
            if study[stage] != place:
                through[stage], owner[stage] = step, of
            else:
                through[stage] = stop[stage]
            step, stage = min(step, start[stage]), parent[stage]

    for stage in numpy.flatnonzero(stages["study"] == place).tolist():
        pass_through(stage, stop[stage], trial[stage])
    reached = tables.stages["start"] + numpy.bincount(tables.reports["stage"], minlength=len(stages))
    of_trials = numpy.char.startswith(tables.events["kind"], schema.TRIAL.encode())
    mine = tables.events[of_trials & (tables.events["study"] == place) & (tables.events["stage"] >= 0)]
    for each, stage, step in zip(mine["trial"].tolist(), mine["stage"].tolist(), mine["step"].tolist(), strict=True):
        pass_through(stage, min(step, int(reached[stage])), each)
    return through, owner


def _reports(
    tables: Tables, through: dict[int, int], owner: dict[int, int], number: dict[int, int]
) -> tuple[NDArray[numpy.void], NDArray[numpy.int64]]:
    """The reports of these stages up to these steps, and which rows they are."""
    last = numpy.zeros(len(tables.stages), "i4")
    of = numpy.full(len(tables.stages), schema.NONE, "i4")
    new = numpy.full(len(tables.stages), schema.NONE, "i4")
    for table, values in ((last, through), (of, owner), (new, number)):
        table[list(values)] = list(values.values())
    stage = tables.reports["stage"]
    rows = numpy.flatnonzero(tables.reports["step"] <= last[stage])
    reports = tables.reports[rows]
    foreign = of[reports["stage"]] >= 0
    reports["trial"][foreign] = of[reports["stage"]][foreign]
    reports["stage"] = new[reports["stage"]]
    return reports, rows


def _events(tables: Tables, place: int, mine: NDArray[numpy.bool_], number: dict[int, int]) -> NDArray[numpy.void]:
    """What happened to a study's trials, and to all; also why stages failed that were trained for others and perhaps for it."""
    events = tables.events[mine].copy()
    foreign = ~numpy.isin(events["study"], (place, schema.NONE))
    events["trial"][foreign] = schema.NONE
    events["stage"] = [number.get(stage, schema.NONE) for stage in events["stage"].tolist()]
    begun = numpy.isin(events["kind"], (schema.STARTED.encode(), schema.RESUMED.encode()))
    events["step"][begun] = tables.studies[place]["trials"]
    events["study"] = numpy.where(events["study"] == place, 0, schema.NONE)
    return events
