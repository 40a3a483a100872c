"""Who was trained when: trials may share stages, and go on from each other's."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from openhpo.storage import schema
from openhpo.storage.tables import Tables

NO_STAGE = -1


class Span(NamedTuple):
    """A part of a model's training.

    Attributes:
        stage: The stage.
        trial: Whom it was trained for.
        start, stop: Steps trained before it, and at its end.
        config: What was in force, parameters of schedules included.
    """

    stage: int
    trial: int
    start: int
    stop: int
    config: dict[str, Any]


class Lineage:
    """How the models of a study's trials came about.

    Args:
        tables: The study.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    @cached_property
    def row_of(self) -> dict[int, int]:
        """The row of each stage in the table of stages."""
        return {stage: row for row, stage in enumerate(self._tables.stages["stage"].tolist())}

    @cached_property
    def by_stage(self) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
        """Rows of the reports in the order of stages, and where each stage begins; within a stage steps follow each other."""
        stages = self._tables.reports["stage"]
        order = numpy.argsort(stages, kind="stable")
        return order, numpy.searchsorted(stages[order], numpy.arange(len(self._tables.stages) + 1))

    def path(self, stage: int, step: int) -> list[tuple[int, int, int]]:
        """The stages that lead to a step of a stage, from the first: (row in the table, steps before, last step)."""
        stages, path = self._tables.stages, []
        while stage in self.row_of:
            row = self.row_of[stage]
            start = int(stages["start"][row])
            if start < step:
                path.append((row, start, step))
            step, stage = min(step, start), int(stages["parent"][row])
        return path[::-1]

    @cached_property
    def standings(self) -> dict[int, tuple[int, int]]:
        """Of the trials whose reports are not just those of their own stages: the stage they have come to, and the step."""
        stages = self._trained
        columns = (stages[name].tolist() for name in ("stage", "trial", "parent", "start", "event", "study"))
        owner = dict(zip(stages["stage"].tolist(), stages["trial"].tolist(), strict=True))
        last: dict[int, tuple[int, int, int]] = {}  # of each trial: how many events were before, a stage, a step of it
        own: dict[int, int] = {}
        special = set(self.forked)
        for stage, trial, parent, start, event, study in zip(*columns, strict=True):
            if parent >= 0 and (owner[parent] != trial or self._reached(parent) != start):
                special.add(trial)
            if study >= 0:  # not one of another study's
                last[trial], own[trial] = (event, stage, self._reached(stage)), stage
        events = self._tables.events
        told = numpy.flatnonzero(numpy.char.startswith(events["kind"], schema.TRIAL.encode()) & (events["stage"] >= 0))
        columns = (events[name][told].tolist() for name in ("trial", "stage", "step"))
        for number, trial, stage, step in zip(told.tolist(), *columns, strict=True):
            if last.get(trial, (0,))[0] <= number:
                last[trial] = (number, stage, min(step, self._reached(stage)))
                if owner[stage] != trial or stage != own.get(trial, stage):
                    special.add(trial)
        found = {trial: last.get(trial, (0, NO_STAGE, 0))[1:] for trial in special}
        reports = numpy.bincount(self._tables.reports["trial"], minlength=len(self._tables.trials)).tolist()
        for trial, (_, stage, step) in last.items():
            if step != reports[trial]:  # it was stopped there, and others went on
                found[trial] = (stage, step)
        return found

    def _reached(self, stage: int) -> int:
        """The last step that a stage has reported."""
        return self._last[stage]

    @cached_property
    def _last(self) -> list[int]:
        _, begin = self.by_stage
        last: list[int] = (self._tables.stages["start"] + numpy.diff(begin)).tolist()
        return last

    @cached_property
    def _trained(self) -> NDArray[Any]:
        """The stages that reported; not those that only brought back a state."""
        trained: NDArray[Any] = self._tables.stages[self._tables.stages["again"] == 0]
        return trained

    @cached_property
    def rows(self) -> list[NDArray[numpy.int64]]:
        """The rows of the reports that count for each trial, in the order of steps of the model that it holds.

        Steps that a trial shares with others are in; those of a model that it has given up for another one's come first.
        """
        trials = self._tables.reports["trial"]
        order = numpy.argsort(trials, kind="stable")
        begin = numpy.searchsorted(trials[order], numpy.arange(len(self._tables.trials) + 1))
        rows = [order[begin[trial] : begin[trial + 1]] for trial in range(len(self._tables.trials))]
        for trial in self.standings:
            path = self.path_rows(*self.standings[trial])
            rows[trial] = path
        for trial, (*before, _) in self._lives.items():  # what it had before counts, too
            parts = [self._rows_between(*life) for life in before]
            given_up = numpy.concatenate([numpy.empty(0, numpy.int64), *parts])
            path = rows[trial]
            rows[trial] = numpy.concatenate([given_up[~numpy.isin(given_up, path)], path])
        return rows

    @cached_property
    def _lives(self) -> dict[int, list[tuple[int, int, int]]]:
        """Of trials that took over models, what they trained of each: the stage that they had come to, after which step it
        began, and the last one.
        """
        lives: dict[int, list[tuple[int, int, int]]] = {trial: [(NO_STAGE, 0, 0)] for trial in self.forked}
        for event in self._tables.events[numpy.isin(self._tables.events["trial"], list(self.forked))]:
            trial, stage, step = int(event["trial"]), int(event["stage"]), int(event["step"])
            if event["kind"] == schema.TRIAL_FORKED.encode():
                lives[trial].append((stage, step, step))
            elif event["kind"].startswith(schema.TRIAL.encode()) and stage >= 0:
                lives[trial][-1] = (stage, lives[trial][-1][1], min(step, self._reached(stage)))
        for trial, own in lives.items():
            stage, step = self.standings[trial]
            own[-1] = (stage, own[-1][1], step)
        return lives

    def _rows_between(self, stage: int, first: int, last: int) -> NDArray[numpy.int64]:
        """The rows of the reports of a model after a step, up to another one."""
        rows = self.path_rows(stage, last)
        return rows[self._tables.reports["step"][rows] > first]

    def path_rows(self, stage: int, step: int) -> NDArray[numpy.int64]:
        """The rows of the reports of the model that a stage had at a step, from its first step on."""
        order, begin = self.by_stage
        parts = [
            order[begin[number] : begin[number + 1]][: stop - start]
            for row, start, stop in self.path(stage, step)
            for number in [int(self._tables.stages["stage"][row])]
        ]
        return numpy.concatenate(parts) if parts else numpy.empty(0, numpy.int64)

    @cached_property
    def inherited(self) -> dict[int, frozenset[int]]:
        """Of trials that took over a model, the rows of its reports before that: they are no merit of theirs."""
        found = {}
        for trial, own in self._lives.items():
            stage, first, _ = own[-1]
            merits = [self._rows_between(*life) for life in own]
            found[trial] = frozenset(self.path_rows(stage, first).tolist()).difference(*(each.tolist() for each in merits))
        return found

    @cached_property
    def forked(self) -> set[int]:
        """The trials that have taken over a model."""
        events = self._tables.events
        return set(events["trial"][events["kind"] == schema.TRIAL_FORKED.encode()].tolist())
