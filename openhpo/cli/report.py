"""The command that writes a study as a page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openhpo.cli.inspect import StudyArgument
from openhpo.errors import UserError

if TYPE_CHECKING:
    from openhpo.result import Result

FORMATS = ("png", "svg", "pdf")


def report(
    study: StudyArgument,
    to: Annotated[str | None, typer.Option(metavar="FILE", help="The page.", show_default="report.html in STUDY")] = None,
    figures: Annotated[str | None, typer.Option(metavar="DIR", help="Write each chart as a file too.")] = None,
    formats: Annotated[str, typer.Option("--format", help="Of these files: png, svg or pdf.")] = "png",
    watch: Annotated[bool, typer.Option("--watch", help="Write it again and again until the study is finished.")] = False,
    every: Annotated[float, typer.Option(min=1.0, help="With --watch: seconds between two.")] = 10.0,
) -> None:
    """Write a study, finished or not, as one page that needs no network."""
    from openhpo.report.page import need, write_report
    from openhpo.result import load

    if formats not in FORMATS:
        raise UserError(f"--format is one of {', '.join(FORMATS)}, not {formats!r}")
    need()
    while True:
        result = load(study)
        path = write_report(study, to)
        print(f"report: {path}", flush=True)
        if not watch or result.phase != "running":
            break
        time.sleep(every)
    if figures is not None:
        draw(result, Path(figures), formats)


def draw(result: Result, folder: Path, kind: str) -> None:
    """Write each chart as a file.

    Raises:
        UserError: What draws them is missing.
    """
    from plotly.io import write_images

    from openhpo.report.charts import figures
    from openhpo.report.numbers import Numbers

    try:
        import kaleido  # noqa: F401
    except ImportError:
        raise UserError("figures need kaleido, and Chrome or Chromium: pip install 'openhpo[report]' kaleido") from None
    folder.mkdir(parents=True, exist_ok=True)
    charts = list(figures(Numbers(result)))
    drawn, heights = [chart.figure for chart in charts], [chart.figure.layout.height for chart in charts]
    paths = [folder / f"{chart.name}.{kind}" for chart in charts]
    try:
        write_images(drawn, paths, width=900, height=heights, scale=2)  # all in one browser, which takes long to start
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"the figures cannot be drawn: {str(error).strip().splitlines()[0]} Kaleido needs Chrome or Chromium; BROWSER_PATH "
            "may say where it is"
        ) from None
    for path in paths:
        print(f"figure: {path}")
