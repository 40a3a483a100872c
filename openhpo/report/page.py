"""A report as one HTML file that needs no network."""

from __future__ import annotations

import html
import importlib.util
import json
import math
import os
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openhpo.errors import UserError
from openhpo.hyperparameters import readable
from openhpo.report.numbers import Numbers
from openhpo.result import Result, load
from openhpo.stages import State

if TYPE_CHECKING:
    from openhpo.report.charts import Chart
    from openhpo.report.comparison import Group

FAILURES = 50  # that are shown with their tracebacks
REFRESH = 10.0  # seconds
LISTS = """<p class="choice">
<label>across <select id="{place}-x"></select></label>
<label>up <select id="{place}-y"></select></label>
<span class="faint" id="{place}-said" aria-live="polite"></span>
</p>
"""
escape = html.escape


def write_report(study: str | Path, to: str | Path | None = None) -> Path:
    """Write what a study found, finished or not, as one page. Needs `pip install openhpo[report]`.

    Args:
        study: The study's folder.
        to: The page; report.html in that folder by default.

    Returns:
        Where it is.

    Raises:
        UserError: There is no such study, or an extra is missing.
    """
    need()
    result = load(study)
    path = Path(to) if to is not None else result.path / "report.html"
    _replace(path, page(result))
    return path


def write_comparison(groups: Sequence[Group], path: Path) -> Path:
    """Write studies beside each other as one page.

    Raises:
        UserError: An extra is missing, or the page cannot be written.
    """
    need()
    from openhpo.report.charts import compared

    metric = groups[0].members[0].objective.metric
    count = sum(len(group.members) for group in groups)
    body = f"<h1>{escape(str(metric))} of {count} studies</h1>" + "".join(_section(chart) for chart in compared(groups))
    _replace(path, _document(f"{metric} of {count} studies", body))
    return path


def _replace(path: Path, text: str) -> None:
    """Write a file so that nobody opens half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, "utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"the page cannot be written to {path}: {error.strerror}") from None


def need() -> None:
    """See to it that what a report needs is installed.

    Raises:
        UserError: It is not.
    """
    missing = [
        name for name, module in (("plotly", "plotly"), ("scikit-learn", "sklearn")) if not importlib.util.find_spec(module)
    ]
    if missing:
        raise UserError(f"a report needs {' and '.join(missing)}: pip install 'openhpo[report]'")


def page(result: Result) -> str:
    """The page."""
    from openhpo.report.charts import charts

    numbers = Numbers(result)
    drawn = charts(numbers)
    name = result.path.name or "study"
    links = [(chart.name, chart.title) for chart in drawn]
    links += [("failures", "Failures")] if result.failures else []
    links.append(("definition", "Definition"))
    nav = " ".join(f'<a href="#{link}">{escape(heading)}</a>' for link, heading in links)
    body = f"""<h1>{escape(name)}</h1>
<p class="faint">{escape(str(result.objective))}</p>
{_summary(numbers)}
<nav>{nav}</nav>
{"".join(_section(chart) for chart in drawn)}
{_failures(result)}
{_definition(result)}"""
    return _document(f"{name}: {result.objective}", body, reload=result.phase == "running")


def _document(title: str, body: str, *, reload: bool = False) -> str:
    """A page with its style and scripts in it."""
    from plotly.offline import get_plotlyjs

    files = resources.files("openhpo.report")
    refresh = f'<meta http-equiv="refresh" content="{REFRESH:g}">' if reload else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
{refresh}
<title>{escape(title)}</title>
<style>{(files / "page.css").read_text()}</style>
</head>
<body>
<main>
{body}
<p class="faint">Written on {time.strftime("%Y-%m-%d %H:%M")}.</p>
</main>
<script>{get_plotlyjs()}</script>
<script>{(files / "contours.js").read_text()}</script>
<script>{(files / "page.js").read_text()}</script>
</body>
</html>
"""


def _section(chart: Chart) -> str:
    place, figure = f"chart-{chart.name}", chart.figure
    lists = data = ""
    if chart.pairs is not None:  # its traces are made in the browser, for the two that are chosen there
        figure = type(figure)(layout=figure.layout)
        lists = LISTS.format(place=place)
        data = f'<script type="application/json" id="{place}-pairs">{_inside(json.dumps(chart.pairs))}</script>'
    return f"""<section>
<h2 id="{chart.name}">{escape(chart.title)}</h2>
<p>{escape(chart.says)}</p>
{lists}<div class="scroll"><div class="chart" id="{place}" style="height:{chart.figure.layout.height}px"></div></div>
<script type="application/json" id="{place}-data">{embedded(figure)}</script>
{data}
</section>
"""


def embedded(figure: Any) -> str:
    """A figure as JSON that may stand inside of a page."""
    return _inside(figure.to_json(validate=False))


def _inside(text: str) -> str:
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


# ---- in words


def _summary(numbers: Numbers) -> str:
    tiles = [(value, label) for label, value in facts(numbers)]
    cards = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span class="faint">{escape(label)}</span></div>' for value, label in tiles
    )
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in summary(numbers))
    best = numbers.best
    table = ""
    if best is not None:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(readable(value))}</td></tr>" for name, value in best.config.items()
        )
        metrics = numbers.result.metrics_where(best.number, best.step)
        rows += "".join(f"<tr><th>{escape(name)}</th><td>{value:.6g}</td></tr>" for name, value in metrics.items())
        table = f'<h2 id="best">The best</h2><div class="scroll"><table>{rows}</table></div>'
    return f'<div class="tiles">{cards}</div>{sentences}{table}'


def facts(numbers: Numbers) -> list[tuple[str, str]]:
    """Labels and values of what matters most."""
    result, best, costs = numbers.result, numbers.best, numbers.costs
    whose = "trials" if result.replicates == 1 else f"configurations, {result.replicates} seeds each"
    found = [("state", result.phase)]
    if best is not None:
        found.append((f"best {result.objective.metric}", f"{best.value:.5g}"))
    found.append((whose, f"{len(numbers.candidates):,}"))
    failed = sum(one.state is State.FAILED for one in numbers.candidates)
    if failed:
        found.append(("failed", f"{failed:,}"))
    found.append(("steps trained", f"{costs.trained:,}"))
    found.append(("elapsed", duration(costs.elapsed)))
    found.append(("rank-hours trained", f"{costs.busy / 3600:.3g}"))
    if math.isfinite(costs.utilisation):
        found.append((f"of the time of {costs.ranks} rank{'s' * (costs.ranks != 1)}", f"{costs.utilisation:.0%}"))
    return found


def summary(numbers: Numbers) -> list[str]:
    """The study in a few sentences."""
    result, best, costs = numbers.result, numbers.best, numbers.costs
    whose = "trial" if result.replicates == 1 else "configuration"
    definition = result.definition
    sentences = [f"{definition.get('sampler')} with {definition.get('engine')} on {definition.get('app', 'code of its own')}."]
    if best is None:
        sentences.append(f"No {whose} has a result yet." if not result.finished else f"No {whose} has a result.")
    else:
        met = "" if best.met else f" No {whose} meets the requirements; this one comes closest."
        sentences.append(
            f"The best {result.objective.metric} is {best.value:.6g}, of {whose} {best.number} at step {best.step}.{met}"
        )
    if costs.alone > costs.trained:
        saved = costs.alone - costs.trained
        sentences.append(
            f"Training what trials share once saved {saved:,} of {costs.alone:,} steps ({saved / costs.alone:.0%})."
        )
    if costs.full > costs.alone and costs.alone:
        saved = costs.full - costs.alone
        hours = costs.busy / 3600 * saved / costs.trained
        sentences.append(
            f"Training every trial to its last step would have taken {saved:,} more ({saved / costs.full:.0%}), "
            f"some {hours:.3g} rank-hours."
        )
    if numbers.contributions and numbers.contributions[0].reliable:
        shares = numbers.contributions[0].shares
        name = max(shares, key=lambda each: shares[each])
        sentences.append(f"{name} matters most: {shares[name]:.0%} of what a decision tree sees in the hyperparameters.")
    return sentences


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 172_800 else f"{seconds / 86_400:.3g} d"


def _failures(result: Result) -> str:
    if not result.failures:
        return ""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for failure in result.failures:
        kinds.setdefault(failure["traceback"].strip().rpartition("\n")[2], []).append(failure)
    shown = []
    for last, failures in sorted(kinds.items(), key=lambda item: -len(item[1]))[:FAILURES]:
        numbers = ", ".join(str(failure["trial"]) for failure in failures[:20]) + (", …" if len(failures) > 20 else "")
        first = failures[0]
        where = f"trial {first['trial']} on rank {first['rank']}, after step {first['step']}"
        shown.append(
            f"<details><summary>{len(failures)} × {escape(last)}</summary>"
            f"<p class='faint'>trials {numbers}; the first, {where}:</p>"
            f"<pre>{escape(first['traceback'].strip())}</pre></details>"
        )
    return (
        f'<section><h2 id="failures">Failures</h2><p>{len(result.failures):,} trainings failed.</p>{"".join(shown)}</section>'
    )


def _definition(result: Result) -> str:
    definition = {name: value for name, value in result.definition.items() if name != "warm_start"}
    rows = "".join(
        f'<tr><th>{escape(name)}</th><td class="wide">{escape(readable(value))}</td></tr>'
        for name, value in result.environment.items()
    )
    command = str(result.environment.get("command", ""))
    return f"""<section>
<h2 id="definition">Definition</h2>
<p>The same command on the same code repeats the study, or continues it.</p>
<pre>{escape(command)}</pre>
<details><summary>definition</summary><pre>{escape(json.dumps(definition, indent=2))}</pre></details>
<details><summary>versions and machine</summary><div class="scroll"><table>{rows}</table></div></details>
</section>
"""
