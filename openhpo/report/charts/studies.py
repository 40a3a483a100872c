"""Charts of studies beside each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy

from openhpo.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from openhpo.report.charts.drawing import (
    Chart,
    figure_of,
)
from openhpo.report.comparison import Group, points_of

POINTS = 60  # of a line


def compared(groups: Sequence[Group]) -> list[Chart]:
    """The best so far of studies beside each other, against steps, time and trials."""
    found = []
    for way, label in (("steps", "steps trained"), ("seconds", "seconds"), ("trials", "trials begun")):
        points = points_of(groups, way, POINTS)
        figure = figure_of(label, f"best {groups[0].members[0].objective.metric} so far")
        for group, colour in zip(groups, itertools.cycle([BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, GREY])):
            mean, spread = group.at(way, points)
            seeds = f" ({len(group.members)} seeds)" if len(group.members) > 1 else ""
            figure.add_scatter(
                x=points,
                y=mean,
                mode="lines",
                name=f"{group.name}{seeds}",
                line={"color": colour, "width": 2},
                error_y={
                    "type": "data",
                    "array": numpy.nan_to_num(spread),
                    "visible": len(group.members) > 1,
                    "thickness": 0.7,
                },
            )
        figure.update_layout(xaxis={"type": "log"})
        says = f"The mean of the best so far after so many {way}, up to where the shortest study ends."
        if any(len(group.members) > 1 for group in groups):
            says += " Bars: the standard deviation over seeds."
        found.append(Chart(f"by-{way}", f"By {way}", says, figure))
    return found
