"""Charts of a study, by plotly. Each says in a sentence what it shows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray
from plotly import graph_objects as go

from openhpo.objective import NO_SCORE
from openhpo.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from openhpo.report.comparison import Group, points_of
from openhpo.report.numbers import Candidate, Floats, Numbers
from openhpo.stages import State

MOST_POINTS = 150_000  # of learning curves
MOST_AXES = 10  # of parallel coordinates
MOST_LINES = 1500  # and of points that are drawn before anything else
MOST_PAIRED = 8  # hyperparameters, or metrics, of which each pair can be chosen
MOST_SPANS = 40_000  # stages in the timeline
MOST_NODES = 1500  # of the stage tree
POINTS = 60  # of a comparison
GRID = 24  # points of a contour in each direction
HEIGHT = 420


class Chart(NamedTuple):
    """A figure and what it shows.

    Attributes:
        name: For links and files.
        title: Its heading.
        says: What is to be seen.
        figure: By plotly; without colours of text and background, which the page decides.
    """

    name: str
    title: str
    says: str
    figure: go.Figure


def charts(numbers: Numbers) -> list[Chart]:
    """All that there is something to see in."""
    makers: Iterable[Callable[[Numbers], Chart | None]] = (
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
    return [chart for maker in makers if (chart := maker(numbers)) is not None]


def _figure(x: str = "", y: str = "", **layout: Any) -> go.Figure:
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


def _scored(numbers: Numbers) -> list[Candidate]:
    return [one for one in numbers.candidates if one.score != NO_SCORE and math.isfinite(one.value)]


def _what(numbers: Numbers) -> str:
    return str(numbers.objective.metric)


def _whose(numbers: Numbers) -> str:
    return "trial" if numbers.result.replicates == 1 else "configuration"


def _sides(numbers: Numbers) -> list[tuple[str, str, list[Candidate]]]:
    """Candidates by how they stand: what they are called, their colour, and who they are."""
    best = numbers.best
    scored = [one for one in _scored(numbers) if best is None or one.number != best.number]
    failed, met = [one for one in scored if not one.met], [one for one in scored if one.met]
    label = "requirement met" if numbers.objective.require or numbers.objective.ends else f"{_whose(numbers)}s"
    found = [("requirement not met", GREY, failed), (label, BLUE, met)]
    if best is not None and best.score != NO_SCORE and math.isfinite(best.value):
        found.append(("best", ORANGE, [best]))
    return [(name, colour, group) for name, colour, group in found if group]


# ---- how it went


def history(numbers: Numbers) -> Chart | None:
    """The best so far by trials, by steps and by time."""
    better = [each for each in numbers.improvements if math.isfinite(each.value)]
    if not better:
        return None
    figure = _figure(f"{_whose(numbers)}s begun", _what(numbers))
    for name, colour, everyone in _sides(numbers):
        group = _thinned(everyone, math.ceil(MOST_LINES * len(everyone) / len(numbers.candidates)))
        x = numpy.array([one.number + 1 for one in group], numpy.int32)
        figure.add_scatter(**_cloud(numbers, name, colour, group, x, _small([one.value for one in group])))
    ends = {
        "trials": float(len(numbers.candidates)),
        "steps": float(numbers.costs.trained),
        "seconds": numbers.elapsed,
    }
    labels = {"trials": f"{_whose(numbers)}s begun", "steps": "steps trained", "seconds": "seconds"}
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
    _choice(figure, buttons)
    return Chart("history", "History", f"The best {_what(numbers)} so far, by trials, by trained steps and by time.", figure)


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
    figure = _figure("step", _what(numbers))
    left_out = 0
    for name, trials in groups.items():
        chosen = [trial for trial in trials if told[trial].any()]
        if name != "best" and total > MOST_POINTS and len(chosen) > 50:
            stride = math.ceil(total / MOST_POINTS)
            left_out += len(chosen) - len(chosen[::stride])
            chosen = chosen[::stride]
        if not chosen:
            continue
        x, y, whose = _joined(table, told, chosen)
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
    says = f"{_what(numbers)} after each step; trials that were stopped are faded."
    if left_out:
        says += f" {left_out:,} of them are left out, evenly, for the sake of your browser."
    return Chart("curves", "Learning curves", says, figure)


def _joined(table: Floats, told: NDArray[Any], trials: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Curves one after the other, with a gap between any two: steps, values, and whose they are."""
    xs, ys, whose = list[Any](), list[Any](), list[Any]()
    for trial in trials:
        there = numpy.flatnonzero(told[trial])
        xs += [there + 1.0, [math.nan]]
        ys += [table[trial, there], [math.nan]]
        whose.append(numpy.full(len(there) + 1, trial, numpy.int32))
    return _small(numpy.concatenate(xs)), _small(numpy.concatenate(ys)), numpy.concatenate(whose)


def _small(values: Any) -> NDArray[Any]:
    """Numbers with seven digits, which take half the space, unless they are too large for that."""
    found = numpy.asarray(values, float)
    return found if (numpy.abs(found) > numpy.finfo(numpy.float32).max).any() else found.astype(numpy.float32)


def _cloud(numbers: Numbers, name: str, colour: str, group: Sequence[Candidate], x: Any, y: Any) -> dict[str, Any]:
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
        "customdata": _numbers(group),
        "hovertemplate": f"{_whose(numbers)} %{{customdata}}: %{{y:.5g}} at %{{x}}<extra></extra>",
    }


def _numbers(group: Sequence[Candidate]) -> NDArray[numpy.int32]:
    return numpy.array([one.number for one in group], numpy.int32)


# ---- what hyperparameters have to do with it


def parallel(numbers: Numbers) -> Chart | None:
    """Parallel coordinates."""
    there = {name for one in _scored(numbers) for name in one.config}
    names = numbers.rank([name for name in numbers.hyperparameters if name in there], MOST_AXES)
    groups = _sides(numbers)
    if not names or not groups:
        return None
    total = sum(len(group) for _, _, group in groups)
    groups = [(name, colour, _thinned(group, math.ceil(MOST_LINES * len(group) / total))) for name, colour, group in groups]
    everyone = [one for _, _, group in groups for one in group]
    kinds = numpy.array([place for place, (_, _, group) in enumerate(groups) for _ in group], float)
    dimensions = [_axis(numbers, name, [one.config.get(name) for one in everyone]) for name in names]
    dimensions.append({"label": _what(numbers), "values": _small([one.value for one in everyone])})
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
    says = f"A line a {_whose(numbers)}; {said}. Drag along an axis to pick lines, and a name to move its axis."
    if len(names) < len(numbers.hyperparameters):
        says += f" The {len(names)} hyperparameters of {len(numbers.hyperparameters)} that matter most."
    if len(everyone) < total:
        says += f" {len(everyone):,} of {total:,}: the better half of these, and others evenly."
    return Chart("parallel", "Parallel coordinates", says, figure)


def _thinned(group: list[Candidate], most: int) -> list[Candidate]:
    """At most so many: half of them the best, and the others evenly, the best last, on top."""
    if len(group) <= most:
        return group
    order = sorted(group, key=lambda one: one.score)
    rest = order[most // 2 :]
    spread = [rest[place] for place in numpy.linspace(0, len(rest) - 1, most - most // 2).astype(int).tolist()]
    return spread[::-1] + order[: most // 2][::-1]


def _axis(numbers: Numbers, name: str, values: list[Any]) -> dict[str, Any]:
    if numbers.is_number(name):
        there = [value for value in values if value is not None]
        if not there:  # inactive in all that are drawn
            return {"label": name, "values": _small([0.0] * len(values)), "tickvals": [0], "ticktext": ["(inactive)"]}
        log = numbers.logarithmic(name) and min(there) > 0
        places = [math.nan if value is None else math.log10(value) if log else float(value) for value in values]
        column = numpy.array(places)
        low = float(numpy.nanmin(column))
        ticks: dict[str, Any] = {}
        if log:
            marks = numpy.linspace(low, float(numpy.nanmax(column)), 5)
            ticks = {"tickvals": marks, "ticktext": [f"{10**mark:.3g}" for mark in marks]}
        return {"label": name, "values": _small(numpy.where(numpy.isnan(column), low, column)), **ticks}
    texts = [text for text in ["(inactive)", *numbers.choices(name)] if text in {_text(value) for value in values}]
    column = numpy.array([texts.index(_text(value)) for value in values], float)
    return {"label": name, "values": _small(column), "tickvals": list(range(len(texts))), "ticktext": texts}


def contributions(numbers: Numbers) -> Chart | None:
    """What each hyperparameter contributes to each metric."""
    if len(numbers.hyperparameters) < 2:
        return None
    found = [each for each in numbers.contributions if each.shares][:MOST_PAIRED]
    if not found:
        return None
    names = numbers.rank(numbers.hyperparameters, 30)[::-1]
    figure = _figure("contribution, %", "")
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
    _choice(figure, buttons)
    says = (
        "How much of a metric's ranking a decision tree attributes to each hyperparameter; the bars of a metric sum to 100 %. "
        "Grey where the tree predicts too little to mean anything."
    )
    return Chart("contributions", "Contribution of each hyperparameter", says, figure)


def slices(numbers: Numbers) -> Chart | None:
    """The objective over one hyperparameter."""
    names = numbers.rank(numbers.hyperparameters, 30)
    groups = _sides(numbers)
    if not names or not groups:
        return None
    figure, buttons = _figure(names[0], _what(numbers)), []
    for place, name in enumerate(names):
        for kind, colour, group in groups:
            there = [one for one in group if one.config.get(name) is not None]
            x, y = _plotted(numbers, name, there), _small([one.value for one in there])
            figure.add_scattergl(**_cloud(numbers, kind, colour, there, x, y), visible=place == 0)
        visible = [other == place for other in range(len(names)) for _ in groups]
        layout = {"xaxis.title.text": name, **_scale(numbers, name)}
        buttons.append({"label": name, "method": "update", "args": [{"visible": visible}, layout]})
    figure.update_layout({key.replace(".", "_"): value for key, value in _scale(numbers, names[0]).items()})
    _choice(figure, buttons)
    return Chart(
        "slices", "Slices", f"{_what(numbers)} over one hyperparameter at a time, the one that matters most first.", figure
    )


def _text(value: Any) -> str:
    return "(inactive)" if value is None else str(value)


def _type(numbers: Numbers, name: str) -> str:
    if not numbers.is_number(name):
        return "category"
    values = [value for value in numbers.column(name) if value is not None]
    return "log" if numbers.logarithmic(name) and min(values) > 0 else "linear"


def _scale(numbers: Numbers, name: str) -> dict[str, Any]:
    """How a hyperparameter is laid out along x."""
    order = {} if numbers.is_number(name) else {"xaxis.categoryorder": "array", "xaxis.categoryarray": numbers.choices(name)}
    return {"xaxis.type": _type(numbers, name), "xaxis.autorange": True, **order}


def _plotted(numbers: Numbers, name: str, group: Sequence[Candidate]) -> Any:
    values = [one.config.get(name) for one in group]
    return _small(values) if numbers.is_number(name) else [str(value) for value in values]


def contours(numbers: Numbers) -> Chart | None:
    """The objective over two hyperparameters."""
    names = numbers.rank([name for name in numbers.hyperparameters if numbers.is_number(name)], MOST_PAIRED)
    scored = _scored(numbers)
    pairs = list(itertools.combinations(names, 2))
    if not pairs or len(scored) < 10:
        return None
    figure, buttons = _figure(pairs[0][0], pairs[0][1]), []
    drawn = list[tuple[str, str]]()
    for one, other in pairs:
        grid = _surface(numbers, scored, one, other)
        if grid is None:
            continue
        x, y, z, there = grid
        figure.add_contour(
            x=_small(x),
            y=_small(y),
            z=_small(z),
            colorscale="Viridis",
            reversescale=numbers.objective.sign > 0,
            contours={"coloring": "heatmap", "showlines": False},
            colorbar={"title": {"text": _what(numbers)}, "thickness": 12},
            hovertemplate=f"{one} %{{x:.4g}}, {other} %{{y:.4g}}: %{{z:.4g}}<extra></extra>",
            visible=not drawn,
        )
        figure.add_scatter(
            x=_small([each.config[one] for each in there]),
            y=_small([each.config[other] for each in there]),
            mode="markers",
            marker={"color": "rgba(255,255,255,0.7)", "size": 4, "line": {"color": "rgba(0,0,0,0.6)", "width": 0.5}},
            customdata=_numbers(there),
            hovertemplate=f"{_whose(numbers)} %{{customdata}}<extra></extra>",
            showlegend=False,
            visible=not drawn,
        )
        drawn.append((one, other))
    for place, (one, other) in enumerate(drawn):
        layout = {
            "xaxis.title.text": one,
            "yaxis.title.text": other,
            "xaxis.type": _type(numbers, one),
            "yaxis.type": _type(numbers, other),
            "xaxis.autorange": True,
            "yaxis.autorange": True,
        }
        visible = [mine == place for mine in range(len(drawn)) for _ in range(2)]
        buttons.append({"label": f"{one} × {other}", "method": "update", "args": [{"visible": visible}, layout]})
    if not drawn:
        return None
    figure.update_layout(xaxis={"type": _type(numbers, drawn[0][0])}, yaxis={"type": _type(numbers, drawn[0][1])})
    _choice(figure, buttons)
    says = (
        f"{_what(numbers)} over two hyperparameters, between the {_whose(numbers)}s (dots); what lies outside of them is blank."
    )
    return Chart("contours", "Contours", says, figure)


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
        places = numpy.log(values) if _type(numbers, name) == "log" else values
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
    x, y = (numpy.exp(end) if _type(numbers, name) == "log" else end for end, name in zip(ends, (one, other), strict=True))
    return x, y, z, there


def _clipped(values: NDArray[Any]) -> NDArray[Any]:
    """Losses without those of diverged trainings, which would take all of the scale."""
    low, high = numpy.quantile(values, (0.0, 0.9))
    return numpy.clip(values, low - 0.2 * (high - low), high + 0.2 * (high - low)) if high > low else values


def against(numbers: Numbers) -> Chart | None:
    """A metric against another."""
    names = list(numbers.metrics)[:MOST_PAIRED]
    pairs = list(itertools.combinations(names, 2))
    groups = _sides(numbers)
    if not pairs or not groups:
        return None
    figure, buttons = _figure(pairs[0][0], pairs[0][1]), []
    for place, (one, other) in enumerate(pairs):
        for kind, colour, group in groups:
            mine = [each.number for each in group]
            x, y = _small(numbers.metrics[one][mine]), _small(numbers.metrics[other][mine])
            figure.add_scattergl(**_cloud(numbers, kind, colour, group, x, y), visible=place == 0)
        layout = {"xaxis.title.text": one, "yaxis.title.text": other, "xaxis.autorange": True, "yaxis.autorange": True}
        visible = [mine == place for mine in range(len(pairs)) for _ in groups]
        buttons.append({"label": f"{one} × {other}", "method": "update", "args": [{"visible": visible}, layout]})
    _choice(figure, buttons)
    return Chart("metrics", "Metric against metric", f"Each {_whose(numbers)} at its best step.", figure)


# ---- how the method went about it


def rungs(numbers: Numbers) -> Chart | None:
    """How many came how far."""
    found = numbers.rungs
    if len(found) < 2:
        return None
    steps = [str(step) for step, _, _ in found]
    figure = _figure("step", f"{_whose(numbers)}s", barmode="stack")
    on = numpy.array([went_on for _, _, went_on in found], float)
    came = numpy.array([came for _, came, _ in found], float)
    figure.add_bar(x=steps, y=on, name="went on", marker={"color": BLUE})
    figure.add_bar(x=steps, y=came - on, name="ended there", marker={"color": SKY})
    texts = [f"{each:,.0f}" for each in came]
    figure.add_scatter(x=steps, y=came, mode="text", text=texts, textposition="top center", showlegend=False, hoverinfo="skip")
    figure.update_layout(xaxis={"type": "category"})
    return Chart("rungs", "Rungs", f"How many {_whose(numbers)}s came to each step, and how many of them went on.", figure)


def lineage(numbers: Numbers) -> Chart | None:
    """Who took over whose model, in population based training."""
    result, forks = numbers.result, numbers.forks
    if not len(forks):
        return None
    owner = dict(zip(result.tables.stages["stage"].tolist(), result.tables.stages["trial"].tolist(), strict=True))
    curves = result.curves()
    figure = _figure("step", _what(numbers))
    told = ~numpy.isnan(curves)
    x, y, whose = _joined(curves, told, [trial for trial in range(len(curves)) if told[trial].any()])
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
        rows = _small(result.best.curve[: best.step])  # of the model that was best, which it may have given up since
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
    figure, buttons = _figure("step", names[0]), []
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
        layout = {"yaxis.title.text": name, "yaxis.type": _type(numbers, name), "yaxis.autorange": True}
        buttons.append(
            {"label": name, "method": "update", "args": [{"visible": [each == place for each in range(len(names))]}, layout]}
        )
    figure.update_layout(yaxis={"type": _type(numbers, names[0])})
    _choice(figure, buttons)
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
    figure = _figure("seconds", "rank")
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


def compared(groups: Sequence[Group]) -> list[Chart]:
    """The best so far of studies beside each other, against steps, time and trials."""
    found = []
    for way, label in (("steps", "steps trained"), ("seconds", "seconds"), ("trials", "trials begun")):
        points = points_of(groups, way, POINTS)
        figure = _figure(label, f"best {groups[0].members[0].objective.metric} so far")
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


def _choice(figure: go.Figure, buttons: list[dict[str, Any]]) -> None:
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
