"""A study in a terminal: what `openhpo watch` shows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy

from openhpo.hyperparameters import readable
from openhpo.objective import NO_SCORE
from openhpo.progress import clock
from openhpo.report.numbers import Candidate, Floats, Numbers
from openhpo.stages import State

if TYPE_CHECKING:
    from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
NARROWEST = 40
DIGITS = 3  # of hyperparameters


def sparkline(values: Sequence[float], width: int, low: float | None = None, high: float | None = None) -> str:
    """Values as so many blocks at most; blank where there is none, and outliers at the edge.

    Args:
        values: Evenly spaced.
        width: Characters.
        low: What the lowest block stands for; the least of the values by default.
        high: What the highest one stands for; the greatest.
    """
    numbers = numpy.asarray(values, float)
    if len(numbers) > width:
        edges = numpy.linspace(0, len(numbers), width + 1).astype(int)
        numbers = numpy.array([numbers[max(start, stop - 1)] for start, stop in itertools.pairwise(edges.tolist())])
    finite = numbers[numpy.isfinite(numbers)]
    if not len(finite):
        return " " * len(numbers)
    low = float(finite.min()) if low is None else low
    high = float(finite.max()) if high is None else high
    span = (high - low) or 1.0
    places = numpy.clip((numbers - low) / span * (len(BLOCKS) - 1) + 0.5, 0, len(BLOCKS) - 1)
    return "".join(BLOCKS[int(place)] if math.isfinite(place) else " " for place in places.tolist())


def best_so_far(numbers: Numbers, points: int) -> Floats:
    """The best so far at evenly spaced numbers of steps; NaN before there was one."""
    found = numpy.full(points, math.nan)
    total = max(1, numbers.costs.trained)
    for each in numbers.improvements:
        if math.isfinite(each.value):
            found[min(points - 1, (each.steps - 1) * points // total) :] = each.value
    return found


def screen(numbers: Numbers, width: int, height: int) -> list[Text]:
    """So many lines at most, none wider than that."""
    from rich.text import Text

    result, costs = numbers.result, numbers.costs
    width = max(width, NARROWEST)
    definition = result.definition
    lines = [Text(f"{result.path.name}  {result.phase}", style="bold")]
    lines.append(Text(f"{definition.get('sampler')} with {definition.get('engine')}, {result.objective}", style="dim"))
    total = int(definition["trials"])
    failed = sum(one.state is State.FAILED for one in numbers.candidates)
    bar = _bar(numbers.settled / total if total else 1.0, 20)
    left = f", {clock(numbers.left)} left" if math.isfinite(numbers.left) else ""
    rate = costs.trained / costs.elapsed if costs.elapsed else 0.0
    facts = f" {numbers.settled}/{total}{f', {failed} failed' if failed else ''}, {costs.trained:,} steps, {rate:,.0f}/s"
    lines.append(Text(f"{bar}{facts}, {clock(costs.elapsed)}{left}"))
    lines += _best_lines(numbers, width)
    lines += _rank_lines(numbers, width)
    view = _population(numbers, width) if result.forks else _rung_lines(numbers, width)
    trains = _running_lines(numbers, width, max(3, height - len(lines) - len(view) - 3))
    rest = height - len(lines) - len(trains) - 1
    lines += [Text(), *view[: max(0, rest - 1)]] if view and rest > 2 else []
    lines += trains
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def _bar(part: float, width: int) -> str:
    full = round(max(0.0, min(1.0, part)) * width)
    return "█" * full + "░" * (width - full)


def _best_lines(numbers: Numbers, width: int) -> list[Text]:
    from rich.text import Text

    best = numbers.best
    if best is None:
        return [Text("no result yet" if not numbers.result.finished else "no result", style="yellow")]
    met = "" if best.met else ", requirements not met"
    line = f"best {best.value:.6g} (trial {best.number}, step {best.step}{met})  "
    history = best_so_far(numbers, 200)
    # diverged beginnings would flatten the rest
    finite = history[numpy.isfinite(history)]
    high, low = (float(numpy.quantile(finite, 0.98)), float(finite.min())) if len(finite) else (1.0, 0.0)
    if numbers.objective.sign < 0:
        low, high = float(numpy.quantile(finite, 0.02)), float(finite.max())
    text = Text(line, style="bold")
    text.append(sparkline(history.tolist(), max(8, width - len(line)), low, high), style="green")
    config = _shortened(best)
    return [text, Text(config, style="cyan")]


def _rank_lines(numbers: Numbers, width: int) -> list[Text]:
    from rich.text import Text

    trainers = sorted(numbers.trainers)
    if not trainers:
        used = numbers.costs.utilisation
        return [Text(f"{numbers.costs.ranks} ranks trained {used:.0%} of the time")] if math.isfinite(used) else []
    busy = numbers.running
    text = Text(f"ranks {len(busy)}/{len(trainers)} busy  ")
    room = max(8, width - len(text.plain) - 24)
    for rank in trainers[:room]:
        text.append("■" if rank in busy else "□", style="green" if rank in busy else "red")
    if len(trainers) > room:
        text.append(" …")
    if math.isfinite(numbers.costs.utilisation):
        text.append(f"  {numbers.costs.utilisation:.0%} since the start", style="dim")
    return [text]


def _rung_lines(numbers: Numbers, width: int) -> list[Text]:
    from rich.text import Text

    rungs = numbers.rungs
    if len(rungs) < 2:
        return []
    most = max(came for _, came, _ in rungs)
    label = max(len(f"{came:,}") for _, came, _ in rungs)
    length = max(8, min(40, width - label - 40))
    found = []
    for step, came, went_on in rungs[:12]:
        full, on = round(came / most * length), round(went_on / most * length)
        text = Text(f"step {step:>6} {came:>{label},} ")
        text.append("█" * on, style="blue")
        text.append("▒" * max(0, max(full, 1) - on), style="blue")
        text.append(f" {went_on:,} went on", style="dim")
        found.append(text)
    return found


def _population(numbers: Numbers, width: int) -> list[Text]:
    from rich.text import Text

    members = sorted(numbers.candidates, key=lambda one: one.score)
    found = [Text(f"{len(numbers.forks)} exploits; members, the best first:", style="dim")]
    for one in members[:8]:
        config = _shortened(one)
        value = "–" if one.score == NO_SCORE else f"{one.value:.5g}"
        found.append(Text(f"{one.number:>5}  step {one.steps:>5}  {value:>10}  {config}"))
    return found


def _running_lines(numbers: Numbers, width: int, most: int) -> list[Text]:
    from rich.text import Text

    result = numbers.result
    if not numbers.running:
        return []
    trial_of = dict(zip(result.tables.stages["stage"].tolist(), result.tables.stages["trial"].tolist(), strict=True))
    mine = sorted((trial_of[stage], rank) for rank, stage in numbers.running.items())
    curves = result.curves()
    finite = curves[numpy.isfinite(curves)]
    ends = (0.01, 0.9) if numbers.objective.sign > 0 else (0.1, 0.99)  # the worst are not looked at closely
    low, high = numpy.quantile(finite, ends).tolist() if len(finite) else (0.0, 1.0)
    found = [Text(), Text(f"training now ({len(mine)}):", style="dim")]
    for trial, rank in mine[: max(1, most - 2)]:
        told = curves[trial][numpy.isfinite(curves[trial])] if len(curves) > trial else numpy.empty(0)
        last = f"{told[-1]:.5g}" if len(told) else "–"
        head = f"{trial:>6}  rank {rank:<4} step {int(result.steps[trial]):>5}  {last:>10}  "
        text = Text(head)
        text.append(sparkline(told.tolist(), max(8, min(30, width - len(head) - 1)), low, high), style="blue")
        config = _shortened(numbers.candidates[trial // result.replicates])
        text.append(f"  {config}", style="dim")
        found.append(text)
    if len(mine) > max(1, most - 2):
        found[1].append(f" the first {max(1, most - 2)}")
    return found


def _shortened(one: Candidate) -> str:
    return "  ".join(f"{name} {readable(value, DIGITS)}" for name, value in one.config.items())
