"""What earlier studies have trained, as one tree, so that nobody trains it again.

A study that uses another one's results copies its file into its own folder, once: it goes on from there although the other one
may have grown since, or be gone, and comes to the same decisions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from openhpo.course import Course
from openhpo.errors import UserError, clipped
from openhpo.lineage import Lineage
from openhpo.objective import Objective
from openhpo.result import load_file
from openhpo.space import Space
from openhpo.storage import StudyWriter, Tables, schema
from openhpo.tree import Node, Tree

FOLDER = "earlier"
SAME = ("app", "data", "seed", "precision", "state_dtype")  # what has to be the same for steps to be the same
MISSING = {"precision": "fp32"}
QUOTED = 100  # characters of what differs
PLACE = 40  # bits for the row of a report; those above are for its source
ROW = (1 << PLACE) - 1


class Source(NamedTuple):
    """An earlier study.

    Attributes:
        name: What the user calls it: its folder.
        tables: All that it holds, also where it is several studies of one job.
    """

    name: str
    tables: Tables


class Trained:
    """The steps that earlier studies have reported.

    Args:
        sources: The studies. Where several have the same step, the first one's counts.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._tree = Tree()
        for place, source in enumerate(sources):
            self._take_in(place, source.tables)

    def definition(self) -> list[str]:
        """What the sources are called."""
        return [source.name for source in self._sources]

    def keep(self, study: Path) -> None:
        """Copy the sources into a study's folder, before it begins."""
        for place, source in enumerate(self._sources):
            StudyWriter.copy(source.tables, study / FOLDER / str(place))

    def _take_in(self, place: int, tables: Tables) -> None:
        lineage, course_of = Lineage(tables), _courses(tables)
        order, begin = lineage.by_stage
        for row in numpy.flatnonzero(tables.stages["again"] == 0).tolist():
            stage = int(tables.stages["stage"][row])
            rows = order[begin[stage] : begin[stage + 1]] + (place << PLACE)  # 8 bytes a step
            if not len(rows):
                continue
            start = int(tables.stages["start"][row])
            node = self._tree.root
            for part, _, stop in lineage.path(stage, start + len(rows)):
                course = course_of(part)
                while node.stop < stop:
                    node, _ = self._tree.descend(node, course, stop)
                    if not len(node.scores):
                        node.scores = rows[node.start - start : node.stop - start]

    def reach(self, path: Iterator[tuple[Course, int]]) -> int:
        """How far the steps of a computation are known.

        Args:
            path: What is in force, each part with the step that it ends at, from step 0 on.
        """
        return max((end for end, _ in self._walk(path)), default=0)

    def reports(self, path: Iterator[tuple[Course, int]], start: int) -> list[dict[str, float]]:
        """What the steps after `start` have reported, each by metric.

        Args:
            path: As in `reach`.
            start: As above.
        """
        found = numpy.concatenate([pieces for _, pieces in self._walk(path)])[start:].tolist()
        return [self._sources[where >> PLACE].tables.reported(where & ROW) for where in found]

    def _walk(self, path: Iterator[tuple[Course, int]]) -> Iterator[tuple[int, NDArray[numpy.int64]]]:
        """How far it goes, piece by piece: the last step, and where the steps of the piece are reported."""
        node, step = self._tree.root, 0
        for course, stop in path:
            while step < stop:
                if step == node.stop:
                    child: Node | None = node.children.get(course.key(step))
                    if child is None:
                        return
                    node = child
                end = node.course.parting(course, step, min(node.stop, stop))
                yield end, node.scores[step - node.start : end - node.start]
                if end < min(node.stop, stop):
                    return
                step = end


def forget(study: Path) -> None:
    """Remove what was copied into a study's folder."""
    shutil.rmtree(study / FOLDER, ignore_errors=True)


def _courses(tables: Tables) -> Callable[[int], Course]:
    """What was in force in each stage, by its row."""
    spaces = [Space.from_definition(definition["space"]) for definition in tables.studies]
    trials = {(int(row["study"]), int(row["trial"])): row for row in tables.trials}
    made: dict[Any, Course] = {}

    def course_of(row: int) -> Course:
        stage = tables.stages[row]
        trial = trials[int(stage["study"]), int(stage["trial"])]
        owner = stage if stage["config_size"] else trial
        key = (int(stage["study"]), int(owner["config_at"]), int(trial["seed"]))
        if key not in made:
            made[key] = spaces[key[0]].course(tables.config(owner), key[2])
        return made[key]

    return course_of


def trained_for(
    study: Path, sources: Sequence[str | Path], wanted: Mapping[str, Any], objectives: Sequence[Objective]
) -> Trained | None:
    """What a study may take over from earlier ones: what it took when it began, where it has begun.

    Args:
        study: The study's folder; what is taken is copied into it.
        sources: The earlier studies' folders.
        wanted: What the study's steps depend on besides its configurations: of `SAME` what there is.
        objectives: What counts now.

    Returns:
        None where there are no sources.

    Raises:
        UserError: One of them cannot be read, or its steps would not be the same.
    """
    if not sources:
        return None
    begun = (study / schema.FILE).exists()
    found = []
    for place, source in enumerate(sources):
        copy = study / FOLDER / str(place)
        if begun and (copy / schema.FILE).exists():
            found.append(Source(str(source), load_file(copy)))
            continue
        tables = load_file(source)
        check_usable(str(source), tables, wanted)
        for objective in objectives:
            if len(tables.reports) and not objective.needs <= set(tables.metrics):
                raise UserError(f"{source} cannot be taken over: in it {objective.missing(set(tables.metrics))}")
        found.append(Source(str(source), tables))
    return Trained(found)


def check_usable(name: str, tables: Tables, wanted: Mapping[str, Any]) -> None:
    """Make sure that steps of an earlier study are the ones that this study would train.

    Raises:
        UserError: They are not.
    """
    said = {**tables.definition, "data": data_of(tables.definition.get("data"), tables.studies)}
    for key in SAME:
        there = said.get(key, MISSING.get(key))
        here = json.loads(json.dumps(wanted.get(key, MISSING.get(key))))
        if there != here:
            its, ours = (clipped(json.dumps(each), QUOTED) for each in (there, here))
            raise UserError(
                f"{name} cannot be taken over: its {key} is {its}, and here it is {ours}, so the same configuration would not "
                "train the same steps. Give the same, or leave out --warm-tree; --warm-start has the sampler learn from it."
            )
    if not tables.definition.get("merge", True):
        raise UserError(f"{name} cannot be taken over: it was run with --no-merge, so each of its trials is one of a kind")


def data_of(named: str | None, studies: Sequence[Mapping[str, Any]]) -> Any:
    """What studies train on: as the app names it, or as a fixed hyperparameter of that name does; None where nobody says.

    Args:
        named: What the app says.
        studies: Their definitions.
    """
    if named is not None:
        return named
    fixed = [study["space"]["fixed"].get("data") for study in studies]
    return fixed[0] if all(each == fixed[0] for each in fixed) else None
