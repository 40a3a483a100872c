"""What charts have in common: their layout, their colours, and how much of a study they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray
from plotly import graph_objects as go

from openhpo.objective import NO_SCORE
from openhpo.palette import BLUE, GREY, ORANGE
from openhpo.report.numbers import Candidate, Floats, Numbers

MOST_LINES = 1500  # of parallel coordinates, and of points that are drawn before anything else
MOST_PAIRED = 8  # metrics, of which each pair can be chosen
HEIGHT = 420


class Chart(NamedTuple):
    """A figure and what it shows.

    Attributes:
        name: For links and files.
        title: Its heading.
        says: What is to be seen.
        figure: By plotly; without colours of text and background, which the page decides.
        pairs: What the page draws from instead, where any two hyperparameters can be chosen; as JSON.
    """

    name: str
    title: str
    says: str
    figure: go.Figure
    pairs: dict[str, Any] | None = None


def figure_of(x: str = "", y: str = "", **layout: Any) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=HEIGHT,
        margin={"l": 64, "r": 16, "t": 32, "b": 56},
        hovermode="closest",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis={"title": {"text": x}, "automargin": True, "zeroline": False},
        yaxis={"title": {"text": y}, "automargin": True, "zeroline": False},
        **layout,
    )
    return figure


def choice(figure: go.Figure, buttons: list[dict[str, Any]]) -> None:
    """Something to choose from, where there is more than one."""
    if len(buttons) < 2:
        return
    figure.update_layout(
        updatemenus=[
            {
                "buttons": buttons,
                "direction": "down",
                "x": 1.0,
                "xanchor": "right",
                "y": 1.0,
                "yanchor": "bottom",
                "pad": {"b": 4},
                "showactive": True,
            }
        ]
    )


def scored(numbers: Numbers) -> list[Candidate]:
    return [one for one in numbers.candidates if one.score != NO_SCORE and math.isfinite(one.value)]


def metric_of(numbers: Numbers) -> str:
    return str(numbers.objective.metric)


def noun(numbers: Numbers) -> str:
    return "trial" if numbers.result.replicates == 1 else "configuration"


def sides(numbers: Numbers) -> list[tuple[str, str, list[Candidate]]]:
    """Candidates by how they stand: what they are called, their colour, and who they are."""
    best = numbers.best
    others = [one for one in scored(numbers) if best is None or one.number != best.number]
    failed, met = [one for one in others if not one.met], [one for one in others if one.met]
    label = "requirement met" if numbers.objective.require or numbers.objective.ends else f"{noun(numbers)}s"
    found = [("requirement not met", GREY, failed), (label, BLUE, met)]
    if best is not None and best.score != NO_SCORE and math.isfinite(best.value):
        found.append(("best", ORANGE, [best]))
    return [(name, colour, group) for name, colour, group in found if group]


def thinned(group: list[Candidate], most: int) -> list[Candidate]:
    """At most so many: half of them the best, and the others evenly, the best last, on top."""
    if len(group) <= most:
        return group
    order = sorted(group, key=lambda one: one.score)
    rest = order[most // 2 :]
    spread = [rest[place] for place in numpy.linspace(0, len(rest) - 1, most - most // 2).astype(int).tolist()]
    return spread[::-1] + order[: most // 2][::-1]


def cloud(numbers: Numbers, name: str, colour: str, group: Sequence[Candidate], x: Any, y: Any) -> dict[str, Any]:
    """Candidates as dots: the best large, many small and faint."""
    marker: dict[str, Any] = {"color": colour, "size": 6, "opacity": 0.8}
    if colour == ORANGE:
        marker = {"color": colour, "size": 12}
    elif len(group) > 500:
        marker = {"color": colour, "size": 4, "opacity": 0.5}
    return {
        "x": x,
        "y": y,
        "mode": "markers",
        "name": name,
        "marker": marker,
        "customdata": numbers_of(group),
        "hovertemplate": f"{noun(numbers)} %{{customdata}}: %{{y:.5g}} at %{{x}}<extra></extra>",
    }


def numbers_of(group: Sequence[Candidate]) -> NDArray[numpy.int32]:
    return numpy.array([one.number for one in group], numpy.int32)


def joined(table: Floats, told: NDArray[Any], trials: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Curves one after the other, with a gap between any two: steps, values, and whose they are."""
    xs, ys, whose = list[Any](), list[Any](), list[Any]()
    for trial in trials:
        there = numpy.flatnonzero(told[trial])
        xs += [there + 1.0, [math.nan]]
        ys += [table[trial, there], [math.nan]]
        whose.append(numpy.full(len(there) + 1, trial, numpy.int32))
    return small(numpy.concatenate(xs)), small(numpy.concatenate(ys)), numpy.concatenate(whose)


def small(values: Any) -> NDArray[Any]:
    """Numbers with seven digits, which take half the space, unless they are too large for that."""
    found = numpy.asarray(values, float)
    return found if (numpy.abs(found) > numpy.finfo(numpy.float32).max).any() else found.astype(numpy.float32)


def axis_type(numbers: Numbers, name: str) -> str:
    if not numbers.is_number(name):
        return "category"
    values = [value for value in numbers.column(name) if value is not None]
    return "log" if numbers.logarithmic(name) and min(values) > 0 else "linear"
