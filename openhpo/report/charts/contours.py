"""Charts of the objective over two hyperparameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from openhpo.report.charts.drawing import (
    MOST_PAIRED,
    Chart,
    axis_type,
    choice,
    figure_of,
    metric_of,
    noun,
    numbers_of,
    scored,
    small,
)
from openhpo.report.numbers import Candidate, Numbers

GRID = 24  # points of a contour in each direction


def contours(numbers: Numbers) -> Chart | None:
    """The objective over two hyperparameters."""
    names = numbers.rank([name for name in numbers.hyperparameters if numbers.is_number(name)], MOST_PAIRED)
    found = scored(numbers)
    pairs = list(itertools.combinations(names, 2))
    if not pairs or len(found) < 10:
        return None
    figure, buttons = figure_of(pairs[0][0], pairs[0][1]), []
    drawn = list[tuple[str, str]]()
    for one, other in pairs:
        grid = _surface(numbers, found, one, other)
        if grid is None:
            continue
        x, y, z, there = grid
        figure.add_contour(
            x=small(x),
            y=small(y),
            z=small(z),
            colorscale="Viridis",
            reversescale=numbers.objective.sign > 0,
            contours={"coloring": "heatmap", "showlines": False},
            colorbar={"title": {"text": metric_of(numbers)}, "thickness": 12},
            hovertemplate=f"{one} %{{x:.4g}}, {other} %{{y:.4g}}: %{{z:.4g}}<extra></extra>",
            visible=not drawn,
        )
        figure.add_scatter(
            x=small([each.config[one] for each in there]),
            y=small([each.config[other] for each in there]),
            mode="markers",
            marker={"color": "rgba(255,255,255,0.7)", "size": 4, "line": {"color": "rgba(0,0,0,0.6)", "width": 0.5}},
            customdata=numbers_of(there),
            hovertemplate=f"{noun(numbers)} %{{customdata}}<extra></extra>",
            showlegend=False,
            visible=not drawn,
        )
        drawn.append((one, other))
    for place, (one, other) in enumerate(drawn):
        layout = {
            "xaxis.title.text": one,
            "yaxis.title.text": other,
            "xaxis.type": axis_type(numbers, one),
            "yaxis.type": axis_type(numbers, other),
            "xaxis.autorange": True,
            "yaxis.autorange": True,
        }
        visible = [mine == place for mine in range(len(drawn)) for _ in range(2)]
        buttons.append({"label": f"{one} × {other}", "method": "update", "args": [{"visible": visible}, layout]})
    if not drawn:
        return None
    figure.update_layout(xaxis={"type": axis_type(numbers, drawn[0][0])}, yaxis={"type": axis_type(numbers, drawn[0][1])})
    choice(figure, buttons)
    says = f"{metric_of(numbers)} over two hyperparameters, between the {noun(numbers)}s (dots); what lies outside of them is "
    return Chart("contours", "Contours", says + "blank.", figure)


def _surface(
    numbers: Numbers, scored: Sequence[Candidate], one: str, other: str
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], list[Candidate]] | None:
    """Values between candidates, on a grid."""
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    there = [each for each in scored if one in each.config and other in each.config]
    if len(there) > 1000:
        there = sorted(there, key=lambda each: each.score)[:: math.ceil(len(there) / 1000)]
    axes = []
    for name in (one, other):
        values = numpy.array([each.config[name] for each in there], float)
        places = numpy.log(values) if axis_type(numbers, name) == "log" else values
        if not len(places) or numpy.ptp(places) == 0:
            return None
        axes.append((places, float(places.min()), float(places.max())))
    points = numpy.stack([(places - low) / (high - low) for places, low, high in axes], axis=1)
    unit = numpy.linspace(0.0, 1.0, GRID)
    sign = numbers.objective.sign
    values = sign * _clipped(sign * numpy.array([each.value for each in there]))
    try:
        z = griddata(points, values, tuple(numpy.meshgrid(unit, unit)), method="linear")
    except (QhullError, ValueError):  # all on one line
        return None
    ends = [low + unit * (high - low) for _, low, high in axes]
    x, y = (numpy.exp(end) if axis_type(numbers, name) == "log" else end for end, name in zip(ends, (one, other), strict=True))
    return x, y, z, there


def _clipped(values: NDArray[Any]) -> NDArray[Any]:
    """Losses without those of diverged trainings, which would take all of the scale."""
    low, high = numpy.quantile(values, (0.0, 0.9))
    return numpy.clip(values, low - 0.2 * (high - low), high + 0.2 * (high - low)) if high > low else values
