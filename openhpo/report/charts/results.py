"""Charts of what trials came to."""

from __future__ import annotations

import itertools
import math

import numpy

from openhpo.palette import BLUE, GREY, ORANGE, VERMILION
from openhpo.report.charts.drawing import (
    MOST_LINES,
    MOST_PAIRED,
    Chart,
    choice,
    cloud,
    figure_of,
    joined,
    metric_of,
    noun,
    sides,
    small,
    thinned,
)
from openhpo.report.numbers import Numbers
from openhpo.stages import State

MOST_POINTS = 150_000  # of learning curves


def history(numbers: Numbers) -> Chart | None:
    """The best so far by trials, by steps and by time."""
    better = [each for each in numbers.improvements if math.isfinite(each.value)]
    if not better:
        return None
    figure = figure_of(f"{noun(numbers)}s begun", metric_of(numbers))
    for name, colour, everyone in sides(numbers):
        group = thinned(everyone, math.ceil(MOST_LINES * len(everyone) / len(numbers.candidates)))
        x = numpy.array([one.number + 1 for one in group], numpy.int32)
        figure.add_scatter(**cloud(numbers, name, colour, group, x, small([one.value for one in group])))
    ends = {
        "trials": float(len(numbers.candidates)),
        "steps": float(numbers.costs.trained),
        "seconds": numbers.elapsed,
    }
    labels = {"trials": f"{noun(numbers)}s begun", "steps": "steps trained", "seconds": "seconds"}
    points = len(figure.data)
    for way, end in ends.items():
        xs = [float(getattr(each, way)) for each in better] + [end]
        ys = [each.value for each in better] + [better[-1].value]
        figure.add_scatter(
            x=numpy.array(xs),
            y=numpy.array(ys),
            mode="lines",
            name="best so far",
            line={"shape": "hv", "color": ORANGE, "width": 2},
            visible=way == "trials",
        )
    buttons = [
        {
            "label": f"by {way}",
            "method": "update",
            "args": [
                {"visible": [way == "trials"] * points + [each == way for each in ends]},
                {"xaxis.title.text": labels[way]},
            ],
        }
        for way in ends
    ]
    choice(figure, buttons)
    return Chart(
        "history", "History", f"The best {metric_of(numbers)} so far, by trials, by trained steps and by time.", figure
    )


def curves(numbers: Numbers) -> Chart | None:
    """Learning curves."""
    result = numbers.result
    if not len(result.tables.reports):
        return None
    table = result.curves()
    told = ~numpy.isnan(table)
    states = result.states
    best = -1
    if numbers.best is not None:
        best = numbers.best.number * result.replicates
    groups = {
        "stopped": [trial for trial, state in enumerate(states) if state not in (State.DONE, State.FAILED) and trial != best],
        "failed": [trial for trial, state in enumerate(states) if state is State.FAILED and trial != best],
        "done": [trial for trial, state in enumerate(states) if state is State.DONE and trial != best],
        "best": [best] if best >= 0 else [],
    }
    looks = {"stopped": (GREY, 1, 0.35), "failed": (VERMILION, 1, 0.5), "done": (BLUE, 1, 0.6), "best": (ORANGE, 3, 1.0)}
    total = int(told.sum())
    figure = figure_of("step", metric_of(numbers))
    left_out = 0
    for name, trials in groups.items():
        chosen = [trial for trial in trials if told[trial].any()]
        if name != "best" and total > MOST_POINTS and len(chosen) > 50:
            stride = math.ceil(total / MOST_POINTS)
            left_out += len(chosen) - len(chosen[::stride])
            chosen = chosen[::stride]
        if not chosen:
            continue
        x, y, whose = joined(table, told, chosen)
        colour, width, opacity = looks[name]
        figure.add_scattergl(
            x=x,
            y=y,
            mode="lines+markers" if x.size <= 3 * len(chosen) else "lines",
            name="stopped, or to go on" if name == "stopped" and not result.finished else name,
            line={"color": colour, "width": width},
            marker={"size": 3},
            opacity=opacity,
            customdata=whose,
            hovertemplate="trial %{customdata}: %{y:.5g} at step %{x}<extra></extra>",
            connectgaps=False,
        )
    if not figure.data:
        return None
    says = f"{metric_of(numbers)} after each step; trials that were stopped are faded."
    if left_out:
        says += f" {left_out:,} of them are left out, evenly, for the sake of your browser."
    return Chart("curves", "Learning curves", says, figure)


def against(numbers: Numbers) -> Chart | None:
    """A metric against another."""
    names = list(numbers.metrics)[:MOST_PAIRED]
    pairs = list(itertools.combinations(names, 2))
    groups = sides(numbers)
    if not pairs or not groups:
        return None
    figure, buttons = figure_of(pairs[0][0], pairs[0][1]), []
    for place, (one, other) in enumerate(pairs):
        for kind, colour, group in groups:
            mine = [each.number for each in group]
            x, y = small(numbers.metrics[one][mine]), small(numbers.metrics[other][mine])
            figure.add_scattergl(**cloud(numbers, kind, colour, group, x, y), visible=place == 0)
        layout = {"xaxis.title.text": one, "yaxis.title.text": other, "xaxis.autorange": True, "yaxis.autorange": True}
        visible = [mine == place for mine in range(len(pairs)) for _ in groups]
        buttons.append({"label": f"{one} × {other}", "method": "update", "args": [{"visible": visible}, layout]})
    choice(figure, buttons)
    return Chart("metrics", "Metric against metric", f"Each {noun(numbers)} at its best step.", figure)
