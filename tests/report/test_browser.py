"""The page in a browser: every chart is drawn, nothing complains, nothing is cut off. Needs Chromium or Chrome."""

import importlib.util
import itertools
import math
import os
import shutil
import subprocess
import sys

import numpy
import pytest

from openhpo.report.numbers import Numbers
from openhpo.report.page import write_report
from openhpo.report.pairs import pairs_of

pytest.importorskip("plotly")
from openhpo.report.charts.contours import pair_figure

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None or importlib.util.find_spec("playwright") is None, reason="needs Chromium and playwright"
)
# WebGL without a graphics card
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield launched
        launched.close()


@pytest.mark.parametrize("which", ["asha", "population", "replicated"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_every_chart_is_drawn_without_a_complaint_and_fits(which, width, scheme, browser, request, tmp_path):
    path = write_report(request.getfixturevalue(which).path, tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    requests = []
    page.on("request", lambda sent: requests.append(sent.url))
    page.goto(path.as_uri())
    page.evaluate("drawAll()")
    page.wait_for_function("[...document.querySelectorAll('.chart')].every((chart) => chart.dataset.drawn)", timeout=60_000)
    charts = page.evaluate(
        "[...document.querySelectorAll('.chart')].map((chart) => [chart.id, chart.querySelectorAll('svg, canvas').length])"
    )
    assert len(charts) >= 7
    assert all(parts > 0 for _, parts in charts)
    assert [text for text in said if "GPU stall" not in text] == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    text, back = page.evaluate(
        "[getComputedStyle(document.querySelector('.chart text')).fill, getComputedStyle(document.body).backgroundColor]"
    )
    light = [sum(int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]) > 382 for colour in (text, back)]
    assert light == ([True, False] if scheme == "dark" else [False, True])
    page.close()


def test_a_choice_changes_what_is_shown(browser, asha, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(write_report(asha.path, tmp_path / "report.html").as_uri())
    page.evaluate("drawAll()")
    page.wait_for_function("document.querySelector('#chart-slices').dataset.drawn", timeout=60_000)
    title = "document.querySelector('#chart-slices').layout.xaxis.title.text"
    assert page.evaluate(title) == "lr"
    page.evaluate("document.querySelector('#chart-slices').scrollIntoView()")
    page.click("#chart-slices .updatemenu-header")
    page.click("#chart-slices .updatemenu-dropdown-button >> nth=1")
    page.wait_for_function(f"{title} !== 'lr'", timeout=10_000)
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_any_two_hyperparameters_can_be_chosen_and_what_is_drawn_is_what_python_computes(
    width, scheme, browser, asha, tmp_path
):
    numbers = Numbers(asha)
    pairs = pairs_of(numbers)
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(write_report(asha.path, tmp_path / "report.html").as_uri())
    page.evaluate("document.querySelector('#chart-contours').scrollIntoView()")
    page.wait_for_function("document.querySelector('#chart-contours').dataset.drawn", timeout=60_000)
    names = [axis.name for axis in pairs.axes]
    for one, other in itertools.permutations(range(len(names)), 2):
        page.select_option("#chart-contours-x", label=names[one])
        page.select_option("#chart-contours-y", label=names[other])
        chart = "document.querySelector('#chart-contours')"
        titles = f"[{chart}.layout.xaxis.title.text, {chart}.layout.yaxis.title.text].join()"
        page.wait_for_function(f"{titles} === '{names[one]},{names[other]}'", timeout=10_000)
        shown = page.evaluate(f"{chart}.data.map((each) => [each.type, [...each.x], [...each.y], each.z])")
        expected = [
            (trace.type, list(trace.x), list(trace.y), getattr(trace, "z", None))
            for trace in pair_figure(numbers, pairs, one, other).data
        ]
        assert [each[0] for each in shown] == [each[0] for each in expected]
        for mine, theirs in zip(shown, expected, strict=True):
            assert mine[1] == pytest.approx(theirs[1], rel=1e-6)
            assert mine[2] == pytest.approx(theirs[2], rel=1e-6)
            if theirs[3] is not None:
                z = numpy.array([[math.nan if value is None else value for value in line] for line in mine[3]])
                assert z == pytest.approx(numpy.array(theirs[3]), rel=1e-6, nan_ok=True)
        count = len(pairs.rows(one, other))
        assert page.inner_text("#chart-contours-said").startswith(f"{count} trials")
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_choosing_the_same_twice_swaps_and_the_choice_outlives_a_reload(browser, asha, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(write_report(asha.path, tmp_path / "report.html").as_uri())
    chosen = "['x', 'y'].map((axis) => document.querySelector(`#chart-contours-${axis}`).selectedOptions[0]?.text).join()"

    def see(expected):
        page.evaluate("document.querySelector('#chart-contours').scrollIntoView()")
        page.wait_for_function(f"{chosen} === '{expected}'", timeout=60_000)

    page.evaluate("document.querySelector('#chart-contours').scrollIntoView()")
    page.wait_for_function("document.querySelector('#chart-contours').dataset.drawn", timeout=60_000)
    page.select_option("#chart-contours-y", label="batch")
    page.select_option("#chart-contours-x", label="optimizer")
    see("optimizer,batch")
    page.select_option("#chart-contours-x", label="batch")
    see("batch,optimizer")
    page.reload()
    see("batch,optimizer")
    page.close()


@pytest.mark.skipif(importlib.util.find_spec("kaleido") is None, reason="needs kaleido")
@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<svg")])
def test_each_chart_can_be_had_as_a_file(kind, begins, replicated, tmp_path):
    command = [sys.executable, "-m", "openhpo", "report", str(replicated.path), "--figures", str(tmp_path), "--format", kind]
    environment = {**os.environ, "BROWSER_PATH": str(BROWSER)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stderr
    files = sorted(path.stem for path in tmp_path.glob(f"*.{kind}"))
    assert {"history", "curves", "parallel", "contributions", "slices", "timeline", "contours-1"} <= set(files)
    assert all(path.read_bytes().startswith(begins) for path in tmp_path.glob(f"*.{kind}"))
