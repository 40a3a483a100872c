"""Charts of a study, by plotly. Each says in a sentence what it shows."""

from __future__ import annotations

from collections.abc import Callable

from openhpo.report.charts.contours import contours, important_contours
from openhpo.report.charts.drawing import Chart
from openhpo.report.charts.hyperparameters import contributions, parallel, slices
from openhpo.report.charts.method import lineage, rungs, schedules, timeline, tree
from openhpo.report.charts.results import against, curves, history
from openhpo.report.charts.studies import compared
from openhpo.report.numbers import Numbers

__all__ = ["Chart", "charts", "compared", "figures"]


MAKERS: tuple[Callable[[Numbers], Chart | None], ...] = (
    history,
    curves,
    parallel,
    contributions,
    slices,
    contours,
    against,
    rungs,
    lineage,
    schedules,
    tree,
    timeline,
)


def charts(numbers: Numbers) -> list[Chart]:
    """All that there is something to see in."""
    return [chart for maker in MAKERS if (chart := maker(numbers)) is not None]


def figures(numbers: Numbers) -> list[Chart]:
    """The same as files, where nothing can be chosen."""
    found = list[Chart]()
    for maker in MAKERS:
        if maker is contours:
            found += important_contours(numbers)
        elif (chart := maker(numbers)) is not None:
            found.append(chart)
    return found
