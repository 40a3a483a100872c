"""Charts of what a method did: whom it let go on, whose model went to whom, and which rank trained when."""

from __future__ import annotations

import math

import numpy
from plotly import graph_objects as go

from openhpo.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from openhpo.report.charts.drawing import (
    HEIGHT,
    Chart,
    axis_type,
    choice,
    figure_of,
    joined,
    metric_of,
    noun,
    small,
)
from openhpo.report.numbers import Numbers

MOST_SPANS = 40_000  # stages in the timeline
MOST_NODES = 1500  # of the stage tree


def rungs(numbers: Numbers) -> Chart | None:
    """How many came how far."""
    found = numbers.rungs
    if len(found) < 2:
        return None
    steps = [str(step) for step, _, _ in found]
    figure = figure_of("step", f"{noun(numbers)}s", barmode="stack")
    on = numpy.array([went_on for _, _, went_on in found], float)
    came = numpy.array([came for _, came, _ in found], float)
    figure.add_bar(x=steps, y=on, name="went on", marker={"color": BLUE})
    figure.add_bar(x=steps, y=came - on, name="ended there", marker={"color": SKY})
    texts = [f"{each:,.0f}" for each in came]
    figure.add_scatter(x=steps, y=came, mode="text", text=texts, textposition="top center", showlegend=False, hoverinfo="skip")
    figure.update_layout(xaxis={"type": "category"})
    return Chart("rungs", "Rungs", f"How many {noun(numbers)}s came to each step, and how many of them went on.", figure)


def lineage(numbers: Numbers) -> Chart | None:
    """Who took over whose model, in population based training."""
    result, forks = numbers.result, numbers.forks
    if not len(forks):
        return None
    owner = dict(zip(result.tables.stages["stage"].tolist(), result.tables.stages["trial"].tolist(), strict=True))
    curves = result.curves()
    figure = figure_of("step", metric_of(numbers))
    told = ~numpy.isnan(curves)
    x, y, whose = joined(curves, told, [trial for trial in range(len(curves)) if told[trial].any()])
    figure.add_scattergl(
        x=x,
        y=y,
        mode="lines",
        line={"color": GREY, "width": 1},
        opacity=0.4,
        name="members",
        customdata=whose,
        hovertemplate="trial %{customdata}: %{y:.5g} at step %{x}<extra></extra>",
    )
    steps = numpy.array([event["step"] for event in forks], float)
    places, labels = [], []
    for event in forks:
        trial, donor, step = int(event["trial"]), owner.get(int(event["stage"]), -1), int(event["step"])
        places.append(curves[trial, step - 1] if 0 < step <= curves.shape[1] else math.nan)
        labels.append(f"trial {trial} goes on with the model of trial {donor} from step {step}")
    figure.add_scattergl(
        x=steps,
        y=numpy.array(places),
        mode="markers",
        name="exploits",
        text=labels,
        hoverinfo="text",
        marker={"color": PURPLE, "size": 6, "symbol": "diamond"},
    )
    best = numbers.best
    if best is not None and best.step:
        spans = result.lineage(best.number, best.step)
        assert result.best is not None
        rows = small(result.best.curve[: best.step])  # of the model that was best, which it may have given up since
        figure.add_scatter(
            x=numpy.arange(1.0, best.step + 1),
            y=rows,
            mode="lines",
            name="the model of the best",
            line={"color": ORANGE, "width": 3},
            text=[f"trained as trial {span.trial}" for span in spans for _ in range(span.start, span.stop)],
            hoverinfo="text+y",
        )
    says = f"{len(forks)} times a member went on with another one's model. Orange: how the best model came about."
    return Chart("lineage", "Lineage of the population", says, figure)


def schedules(numbers: Numbers) -> Chart | None:
    """The hyperparameters in force while the best model of a population was trained."""
    best = numbers.best
    if best is None or not best.step or not len(numbers.forks):
        return None
    spans = numbers.result.lineage(best.number, best.step)
    names = [
        name for name in spans[-1].config if numbers.is_number(name) and len({span.config.get(name) for span in spans}) > 1
    ]
    if len(spans) < 2 or not names:
        return None
    figure, buttons = figure_of("step", names[0]), []
    for place, name in enumerate(names):
        xs = [float(edge) for span in spans for edge in (span.start, span.stop)]
        ys = [float(span.config.get(name, math.nan)) for span in spans for _ in range(2)]
        figure.add_scatter(
            x=numpy.array(xs),
            y=numpy.array(ys),
            mode="lines",
            line={"color": ORANGE, "width": 2},
            name=name,
            visible=place == 0,
            showlegend=False,
        )
        layout = {"yaxis.title.text": name, "yaxis.type": axis_type(numbers, name), "yaxis.autorange": True}
        buttons.append(
            {"label": name, "method": "update", "args": [{"visible": [each == place for each in range(len(names))]}, layout]}
        )
    figure.update_layout(yaxis={"type": axis_type(numbers, names[0])})
    choice(figure, buttons)
    says = "What was in force while the best model was trained; `openhpo replay` trains a fresh one so."
    return Chart("schedules", "Schedules of the best", says, figure)


def tree(numbers: Numbers) -> Chart | None:
    """The stages, where trials share some."""
    stages = numbers.result.tables.stages
    stages = stages[stages["again"] == 0]
    owner = dict(zip(stages["stage"].tolist(), stages["trial"].tolist(), strict=True))
    parents, children = stages["parent"].tolist(), dict[int, int]()
    for parent in parents:
        children[parent] = children.get(parent, 0) + 1
    shared = any(count > 1 for parent, count in children.items() if parent >= 0)
    if not shared or len(numbers.forks):
        return None
    ids, labels, above, values, hover = ["root"], ["start"], [""], [0.0], ["nothing trained"]
    kept = {-1}
    for row in stages[:MOST_NODES]:
        stage, parent = int(row["stage"]), int(row["parent"])
        if parent not in kept:
            continue
        kept.add(stage)
        ids.append(f"s{stage}")
        above.append("root" if parent < 0 else f"s{parent}")
        labels.append(f"to {int(row['stop'])}")
        values.append(float(row["stop"] - row["start"]))
        hover.append(f"stage {stage}: steps {int(row['start']) + 1} to {int(row['stop'])}, for trial {owner[stage]}")
    figure = go.Figure(
        go.Icicle(
            ids=ids,
            labels=labels,
            parents=above,
            values=numpy.array(values),
            hovertext=hover,
            hoverinfo="text",
            branchvalues="remainder",
            marker={"colorscale": "Viridis"},
            tiling={"orientation": "h"},
        )
    )
    figure.update_layout(template="none", height=HEIGHT + 120, margin={"l": 8, "r": 8, "t": 16, "b": 8})
    cost = numbers.costs
    says = (
        f"What trials have in common is trained once: {cost.trained:,} steps instead of {cost.alone:,}. Click to look closer."
    )
    if len(stages) > MOST_NODES:
        says += f" The first {MOST_NODES:,} of {len(stages):,} stages."
    return Chart("tree", "Tree of stages", says, figure)


def timeline(numbers: Numbers) -> Chart | None:
    """Which rank trained what when."""
    spans = numbers.spans[:MOST_SPANS]
    if not spans:
        return None
    ranks = sorted({span.rank for span in spans})
    figure = figure_of("seconds", "rank")
    thick = max(2, min(14, 260 // len(ranks)))
    groups = [
        ("training", BLUE, [span for span in spans if span.how == "trained" and span.stage % 2 == 0]),
        ("training", SKY, [span for span in spans if span.how == "trained" and span.stage % 2]),  # neighbours in two shades
        ("bringing back a state", PURPLE, [span for span in spans if span.how == "again"]),
        ("failed", VERMILION, [span for span in spans if span.how == "failed"]),
    ]
    for name, colour, mine in groups:
        if not mine:
            continue
        figure.add_scattergl(
            x=numpy.array([edge for span in mine for edge in (span.start, span.stop, math.nan)]),
            y=numpy.array([span.rank for span in mine for _ in range(3)], numpy.int32),
            mode="lines",
            line={"color": colour, "width": thick},
            name=name,
            legendgroup=name,
            showlegend=colour != SKY,
            customdata=numpy.array([span.trial for span in mine for _ in range(3)], numpy.int32),
            hovertemplate="rank %{y}, trial %{customdata}<extra></extra>",
        )
    moved = numbers.transfers[:MOST_SPANS]
    if moved:
        xs = numpy.array([each for time, _, _ in moved for each in (time, time, math.nan)])
        ys = numpy.array([each for _, source, target in moved for each in (float(source), float(target), math.nan)])
        figure.add_scattergl(
            x=xs, y=ys, mode="lines", line={"color": GREEN, "width": 1}, opacity=0.6, name="state moved", hoverinfo="skip"
        )
    figure.update_layout(
        height=max(220, min(900, 140 + 22 * len(ranks))), yaxis={"tickformat": "d", "range": [ranks[0] - 0.7, ranks[-1] + 0.7]}
    )
    if len(ranks) <= 24:
        figure.update_layout(yaxis={"tickvals": ranks})
    says = f"Who trained when; gaps are idle. The ranks trained {numbers.costs.utilisation:.0%} of the time."
    if len(numbers.spans) > MOST_SPANS:
        says += f" The first {MOST_SPANS:,} of {len(numbers.spans):,} stages."
    return Chart("timeline", "Ranks over time", says, figure)
