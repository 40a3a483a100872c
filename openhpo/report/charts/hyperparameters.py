"""Charts of what hyperparameters have to do with results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
from plotly import graph_objects as go

from openhpo.palette import BLUE, GREY, ORANGE
from openhpo.report.charts.drawing import (
    HEIGHT,
    MOST_LINES,
    MOST_PAIRED,
    Chart,
    axis_type,
    choice,
    cloud,
    figure_of,
    metric_of,
    noun,
    scored,
    sides,
    small,
    thinned,
)
from openhpo.report.numbers import Candidate, Numbers

MOST_AXES = 10  # of parallel coordinates
MOST_SLICED = 40_000  # points of all slices


def parallel(numbers: Numbers) -> Chart | None:
    """Parallel coordinates."""
    there = {name for one in scored(numbers) for name in one.config}
    names = numbers.rank([name for name in numbers.hyperparameters if name in there], MOST_AXES)
    groups = sides(numbers)
    if not names or not groups:
        return None
    total = sum(len(group) for _, _, group in groups)
    groups = [(name, colour, thinned(group, math.ceil(MOST_LINES * len(group) / total))) for name, colour, group in groups]
    everyone = [one for _, _, group in groups for one in group]
    kinds = numpy.array([place for place, (_, _, group) in enumerate(groups) for _ in group], float)
    dimensions = [_axis(numbers, name, [one.config.get(name) for one in everyone]) for name in names]
    dimensions.append({"label": metric_of(numbers), "values": small([one.value for one in everyone])})
    count = len(groups)
    scale = [[(place + side) / count, colour] for place, (_, colour, _) in enumerate(groups) for side in (0, 1)]
    figure = go.Figure(
        go.Parcoords(
            line={"color": kinds, "colorscale": scale, "cmin": -0.5, "cmax": count - 0.5},
            dimensions=dimensions,
            unselected={"line": {"opacity": 0.03}},
        )
    )
    figure.update_layout(template="none", height=HEIGHT + 40, margin={"l": 64, "r": 48, "t": 64, "b": 32})
    words = {
        GREY: "grey: requirement not met",
        BLUE: f"blue: {groups[0][0] if len(groups) == 1 else 'others'}",
        ORANGE: "orange: best",
    }
    if any(colour == BLUE and name == "requirement met" for name, colour, _ in groups):
        words[BLUE] = "blue: requirement met"
    said = ", ".join(words[colour] for _, colour, _ in groups)
    says = f"A line a {noun(numbers)}; {said}. Drag along an axis to pick lines, and a name to move its axis."
    if len(names) < len(numbers.hyperparameters):
        says += f" The {len(names)} hyperparameters of {len(numbers.hyperparameters)} that matter most."
    if len(everyone) < total:
        says += f" {len(everyone):,} of {total:,}: the better half of these, and others evenly."
    return Chart("parallel", "Parallel coordinates", says, figure)


def _axis(numbers: Numbers, name: str, values: list[Any]) -> dict[str, Any]:
    if numbers.is_number(name):
        there = [value for value in values if value is not None]
        if not there:  # inactive in all that are drawn
            return {"label": name, "values": small([0.0] * len(values)), "tickvals": [0], "ticktext": ["(inactive)"]}
        log = numbers.logarithmic(name) and min(there) > 0
        places = [math.nan if value is None else math.log10(value) if log else float(value) for value in values]
        column = numpy.array(places)
        low = float(numpy.nanmin(column))
        ticks: dict[str, Any] = {}
        if log:
            marks = numpy.linspace(low, float(numpy.nanmax(column)), 5)
            ticks = {"tickvals": marks, "ticktext": [f"{10**mark:.3g}" for mark in marks]}
        return {"label": name, "values": small(numpy.where(numpy.isnan(column), low, column)), **ticks}
    texts = [text for text in ["(inactive)", *numbers.choices(name)] if text in {_text(value) for value in values}]
    column = numpy.array([texts.index(_text(value)) for value in values], float)
    return {"label": name, "values": small(column), "tickvals": list(range(len(texts))), "ticktext": texts}


def contributions(numbers: Numbers) -> Chart | None:
    """What each hyperparameter contributes to each metric."""
    if len(numbers.hyperparameters) < 2:
        return None
    found = [each for each in numbers.contributions if each.shares][:MOST_PAIRED]
    if not found:
        return None
    names = numbers.rank(numbers.hyperparameters, 30)[::-1]
    figure = figure_of("contribution, %", "")
    figure.update_layout(height=max(HEIGHT - 60, 120 + 26 * len(names)), yaxis={"type": "category"})
    buttons = list[dict[str, Any]]()
    for place, each in enumerate(found):
        colour = BLUE if each.reliable else GREY
        shares = numpy.array([100 * each.shares[name] for name in names])
        figure.add_bar(
            x=shares,
            y=names,
            orientation="h",
            marker={"color": colour},
            name=each.metric,
            visible=place == 0,
            text=[f"{share:.1f} %" for share in shares],
            textposition="auto",
            hoverinfo="y+text",
            showlegend=False,
        )
        sure = f"predicts {max(0.0, each.explained):.0%} of the ranking of {each.candidates:,} in cross-validation"
        title = sure if each.reliable else f"{sure}: too little to rely on"
        buttons.append(
            {
                "label": each.metric,
                "method": "update",
                "args": [{"visible": [other == place for other in range(len(found))]}, {"title.text": title}],
            }
        )
    figure.update_layout(title={"text": buttons[0]["args"][1]["title.text"], "font": {"size": 13}, "x": 0.5, "y": 0.99})
    figure.update_layout(margin={"t": 64})
    choice(figure, buttons)
    says = (
        "How much of a metric's ranking a decision tree attributes to each hyperparameter; the bars of a metric sum to 100 %. "
        "Grey where the tree predicts too little to mean anything."
    )
    return Chart("contributions", "Contribution of each hyperparameter", says, figure)


def slices(numbers: Numbers) -> Chart | None:
    """The objective over one hyperparameter."""
    names = numbers.rank(numbers.hyperparameters, 30)
    groups = sides(numbers)
    if not names or not groups:
        return None
    total = sum(len(group) for _, _, group in groups)
    most = MOST_SLICED // len(names) / total  # of each group
    groups = [(kind, colour, thinned(group, math.ceil(most * len(group)))) for kind, colour, group in groups]
    shown = sum(len(group) for _, _, group in groups)
    figure, buttons = figure_of(names[0], metric_of(numbers)), []
    for place, name in enumerate(names):
        for kind, colour, group in groups:
            there = [one for one in group if one.config.get(name) is not None]
            x, y = _plotted(numbers, name, there), small([one.value for one in there])
            figure.add_scattergl(**cloud(numbers, kind, colour, there, x, y), visible=place == 0)
        visible = [other == place for other in range(len(names)) for _ in groups]
        layout = {"xaxis.title.text": name, **_scale(numbers, name)}
        buttons.append({"label": name, "method": "update", "args": [{"visible": visible}, layout]})
    figure.update_layout({key.replace(".", "_"): value for key, value in _scale(numbers, names[0]).items()})
    choice(figure, buttons)
    says = f"{metric_of(numbers)} over one hyperparameter at a time, the one that matters most first."
    if shown < total:
        says += f" {shown:,} of {total:,} {noun(numbers)}s: the better half of these, and others evenly."
    return Chart("slices", "Slices", says, figure)


def _text(value: Any) -> str:
    return "(inactive)" if value is None else str(value)


def _scale(numbers: Numbers, name: str) -> dict[str, Any]:
    """How a hyperparameter is laid out along x."""
    order = {} if numbers.is_number(name) else {"xaxis.categoryorder": "array", "xaxis.categoryarray": numbers.choices(name)}
    return {"xaxis.type": axis_type(numbers, name), "xaxis.autorange": True, **order}


def _plotted(numbers: Numbers, name: str, group: Sequence[Candidate]) -> Any:
    values = [one.config.get(name) for one in group]
    return small(values) if numbers.is_number(name) else [str(value) for value in values]
