"""Charts of the objective over two hyperparameters; the page draws those of any two in the same way (contours.js)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy
from plotly import graph_objects as go

from openhpo.palette import ORANGE
from openhpo.report.charts.drawing import Chart, figure_of, metric_of, noun
from openhpo.report.numbers import Numbers
from openhpo.report.pairs import CELL, Axis, Cells, Indices, Pairs, pairs_of

MOST_FIGURED = 4  # hyperparameters of which each pair becomes a file
MOST_DOTS = 500
MOST_TICKS = 30
FEW_DECADES = 2.5  # on which each 1, 2 and 5 is labelled
STANDOFF = 8  # pixels between what is written at an axis and its name
LEVELS = 20  # of filled contours at most
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 spread dots evenly
ASIDE = 0.2  # so that the first dot, the best, does not cover what is written in the middle
SPREAD = 0.7  # of a cell's width


def contours(numbers: Numbers) -> Chart | None:
    """The two that matter most, with what the page needs to draw any other two."""
    pairs = pairs_of(numbers)
    if pairs is None:
        return None
    drawing = {
        "looks": looks(numbers, pairs),
        "who": noun(numbers),
        "dots": MOST_DOTS,
        "ticks": MOST_TICKS,
        "spread": SPREAD,
        "aside": ASIDE,
        "standoff": STANDOFF,
        "decades": FEW_DECADES,
    }
    return Chart(
        "contours", "Contours", _says(numbers, pairs), pair_figure(numbers, pairs, 0, 1), {**pairs.described(), **drawing}
    )


def important_contours(numbers: Numbers) -> list[Chart]:
    """A chart for each pair of those that matter most."""
    pairs = pairs_of(numbers)
    if pairs is None:
        return []
    chosen = itertools.combinations(range(min(len(pairs.axes), MOST_FIGURED)), 2)
    return [
        Chart(f"contours-{place}", "Contours", _says(numbers, pairs), pair_figure(numbers, pairs, one, other))
        for place, (one, other) in enumerate(chosen, 1)
        if len(pairs.rows(one, other))
    ]


def _says(numbers: Numbers, pairs: Pairs) -> str:
    who = noun(numbers)
    says = (
        f"{metric_of(numbers)} over two hyperparameters; brighter is better, the star is the best. Between two numbers it is "
        f"the mean of the {who}s near each point, with a choice the median of each cell; where there are too few, {who}s are "
        "dots alone."
    )
    if len(pairs.values) < pairs.total:
        says += f" From {len(pairs.values):,} of {pairs.total:,} {who}s, evenly by rank."
    return says


def looks(numbers: Numbers, pairs: Pairs) -> dict[str, dict[str, Any]]:
    """How surfaces, cells, dots and the best are drawn, without what they show."""
    low, high = pairs.limits
    scale = {"colorscale": "Viridis", "reversescale": pairs.sign > 0}
    bar = {"title": {"text": metric_of(numbers), "side": "right"}, "thickness": 10, "xpad": 6, "outlinewidth": 0}
    told = f"{noun(numbers)} %{{customdata[0]}}: %{{customdata[1]:.5g}}<extra></extra>"
    return {
        "surface": {
            "type": "contour",
            **scale,
            "zmin": low,
            "zmax": high,
            "autocontour": False,
            "contours": {**_levels(low, high), "coloring": "fill"},
            "line": {"width": 0.5, "color": "rgba(255,255,255,0.4)"},
            "colorbar": bar,
            "hovertemplate": "%{x:.4g}, %{y:.4g}: %{z:.4g}<extra></extra>",
        },
        "cells": {
            "type": "heatmap",
            **scale,
            "zmin": low,
            "zmax": high,
            "xgap": 1,
            "ygap": 1,
            "colorbar": bar,
            "hoverinfo": "text",
        },
        "dots": {
            "type": "scatter",
            "mode": "markers",
            "marker": {
                **scale,
                "cmin": low,
                "cmax": high,
                "colorbar": bar,
                "showscale": True,
                "size": 6,
                "line": {"color": "rgba(255,255,255,0.8)", "width": 0.8},
            },
            "hovertemplate": told,
        },
        "star": {
            "type": "scatter",
            "mode": "markers",
            "marker": {"color": ORANGE, "size": 15, "symbol": "star", "line": {"color": "rgba(0,0,0,0.7)", "width": 1}},
            "hovertemplate": f"the best, {told}",
        },
    }


def _levels(low: float, high: float) -> dict[str, float]:
    """Round numbers."""
    least = (high - low) / LEVELS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
    return {"start": math.ceil(low / step) * step, "end": math.floor(high / step) * step, "size": step}


def pair_figure(numbers: Numbers, pairs: Pairs, one: int, other: int) -> go.Figure:
    """Any two hyperparameters."""
    x, y = pairs.axes[one], pairs.axes[other]
    figure = figure_of(showlegend=False)
    figure.update_layout(xaxis=_scale(x), yaxis=_scale(y), margin={"t": 16})
    style = looks(numbers, pairs)
    rows = dots = pairs.rows(one, other)
    if not x.texts and not y.texts:
        surface = pairs.surface(one, other)
        if surface is not None:
            figure.add_trace({**style["surface"], "x": surface.x, "y": surface.y, "z": surface.z})
    elif len(rows):
        cells = pairs.cells(one, other)
        trace = {**style["cells"], "x": cells.x, "y": cells.y, "z": cells.median, "hovertext": _told(cells, noun(numbers))}
        if x.texts and y.texts:
            trace |= {"text": cells.counts, "texttemplate": "%{text}"}
            dots = rows[cells.counts[y.values[rows], x.values[rows]] < CELL]  # the others are counted
        figure.add_trace(trace)
    dots = dots[:: math.ceil(len(dots) / MOST_DOTS) or 1]
    alone = not figure.data  # one scale of colours is enough
    figure.add_trace(_dots(style["dots"], pairs, x, y, dots[::-1], color=pairs.values[dots[::-1]], showscale=alone))
    figure.add_trace(_dots(style["star"], pairs, x, y, rows[rows == 0]))
    return figure


def _scale(axis: Axis) -> dict[str, Any]:
    title = {"text": axis.name, "standoff": STANDOFF}
    if not axis.texts:
        found = {"type": axis.kind, "title": title}
        return found | ({"dtick": "D2"} if axis.kind == "log" and axis.decades < FEW_DECADES else {})
    shown = range(0, len(axis.texts), math.ceil(len(axis.texts) / MOST_TICKS))
    texts = [axis.texts[place] for place in shown]
    return {
        "title": title,
        "tickvals": list(shown),
        "ticktext": texts,
        "range": [-0.5, len(axis.texts) - 0.5],
        "showgrid": False,
    }


def _told(cells: Cells, who: str) -> list[list[str]]:
    """What each cell holds, in words."""
    lines, columns = cells.counts.shape
    texts = [_cell(who, *each) for each in zip(*(part.ravel().tolist() for part in cells[2:]), strict=True)]
    return [texts[line : line + columns] for line in range(0, lines * columns, columns)]


def _cell(who: str, count: int, median: float, best: float) -> str:
    if not count:
        return f"no {who}"
    middle = f", median {median:.4g}" if count >= CELL else ""
    return f"{count} {who}{'s' * (count != 1)}{middle}, best {best:.4g}"


def _dots(style: dict[str, Any], pairs: Pairs, x: Axis, y: Axis, rows: Indices, **marker: Any) -> dict[str, Any]:
    """Candidates; those of the same choice beside each other."""
    places = {
        name: axis.values[rows] + (SPREAD * (((rows + 1) * step + ASIDE) % 1 - 0.5) if axis.texts else 0.0)
        for name, axis, step in (("x", x, GOLDEN), ("y", y, GOLDEN**2))
    }
    told = numpy.stack([pairs.numbers[rows], pairs.values[rows]], axis=1)
    return {**style, **places, "customdata": told, "marker": {**style["marker"], **marker}}
