"""The page holds every chart, true to the file, whatever the study is like."""

import base64
import html.parser
import json
import math
import re

import numpy
import pytest

import openhpo as hpo
from openhpo.report.numbers import Numbers

from .conftest import SPACE, run, train

pytest.importorskip("plotly")
from openhpo.report.page import write_report


class Reader(html.parser.HTMLParser):
    """Notes what an HTML page links to, and its text."""

    def __init__(self):
        super().__init__()
        self.links, self.text, self.open = [], "", []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.text += data


def read(path):
    text = path.read_text()
    reader = Reader()
    reader.feed(text)
    figures = dict(re.findall(r'<script type="application/json" id="chart-(\w+)-data">(.*?)</script>', text, re.DOTALL))
    return reader, {name: json.loads(figure) for name, figure in figures.items()}


def values(packed):
    """Numbers as plotly packs them."""
    if isinstance(packed, dict):
        return numpy.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"]).astype(float)
    return packed if isinstance(packed[0], str) else numpy.array(packed, float)


@pytest.fixture(scope="module")
def page(asha, tmp_path_factory):
    return read(write_report(asha.path, tmp_path_factory.mktemp("pages") / "report.html"))


def test_every_chart_is_there(page, population, tmp_path):
    always = {"history", "curves", "parallel", "contributions", "slices", "contours", "metrics", "timeline"}
    assert set(page[1]) == always | {"rungs"}
    _, figures = read(write_report(population.path, tmp_path / "report.html"))
    assert {"history", "curves", "lineage", "schedules", "timeline"} <= set(figures)


def test_a_study_with_shared_stages_shows_its_tree(tmp_path):
    space = hpo.Space({"lr": hpo.Steps([0.1, hpo.Categorical([0.01, 0.001, 0.02])], [3]), "width": 64, "optimizer": "sgd"})
    result = run(tmp_path / "s", space=space, engine=hpo.Full(6), sampler=hpo.Grid(), trials=None)
    _, figures = read(write_report(result.path))
    data = figures["tree"]["data"][0]
    assert sum(values(data["values"])) == len(result.tables.reports) == 3 + 3 * 3
    assert "12 steps instead of 18" in (result.path / "report.html").read_text()


def test_it_asks_nothing_of_the_network(page):
    assert [link for link in page[0].links if not link.startswith(("#", "data:"))] == []


def test_history_and_curves_are_those_of_the_file(page, asha):
    lines = [trace for trace in page[1]["history"]["data"] if trace["name"] == "best so far"]
    assert len(lines) == 3
    improvements = Numbers(asha).improvements
    for trace, way in zip(lines, ("trials", "steps", "seconds"), strict=True):
        assert values(trace["y"])[:-1] == pytest.approx([each.value for each in improvements], rel=1e-6)
        assert values(trace["x"])[:-1] == pytest.approx([getattr(each, way) for each in improvements], rel=1e-6)
    curves = asha.curves()
    told = {}
    for trace in page[1]["curves"]["data"]:
        for step, value, trial in zip(values(trace["x"]), values(trace["y"]), values(trace["customdata"]), strict=True):
            if not math.isnan(step):
                told[int(trial), int(step)] = value
    assert len(told) == (~numpy.isnan(curves)).sum()
    assert all(value == pytest.approx(curves[trial, step - 1], rel=1e-6) for (trial, step), value in told.items())


def test_the_page_holds_what_contours_of_any_two_hyperparameters_are_drawn_from(asha, tmp_path):
    text = write_report(asha.path, tmp_path / "report.html").read_text()
    pairs = json.loads(re.search(r'id="chart-contours-pairs">(.*?)</script>', text, re.DOTALL).group(1))
    numbers = Numbers(asha)
    told = values(pairs["numbers"]).astype(int).tolist()
    assert sorted(told) == [one.number for one in numbers.candidates if math.isfinite(one.value)]
    assert told[0] == asha.best.trial
    assert values(pairs["values"]) == pytest.approx([numbers.candidates[number].value for number in told], rel=1e-6)
    axes = {axis["name"]: axis for axis in pairs["axes"]}
    assert set(axes) == {"lr", "width", "optimizer", "momentum", "batch"}
    assert axes["batch"]["texts"] == ["16", "32", "64"]
    for name, axis in axes.items():
        there = [numbers.candidates[number].config.get(name) for number in told]
        held = values(axis["values"])
        if axis["texts"]:
            assert [axis["texts"][int(place)] for place in held] == [str(value) for value in there]
        else:
            assert held == pytest.approx([math.nan if value is None else value for value in there], rel=1e-6, nan_ok=True)


def test_the_best_stands_out_and_others_are_told_apart_by_the_requirement(page, asha):
    names = {trace["name"]: trace for trace in page[1]["slices"]["data"][:3]}
    assert set(names) == {"requirement not met", "requirement met", "best"}
    assert values(names["best"]["y"])[0] == pytest.approx(asha.best.value, rel=1e-6)
    numbers = Numbers(asha)
    for name, met in (("requirement met", True), ("requirement not met", False)):
        mine = values(names[name]["customdata"]).astype(int)
        assert all(numbers.candidates[number].met is met for number in mine)


def test_the_bars_of_a_metric_sum_to_a_hundred(page):
    for trace in page[1]["contributions"]["data"]:
        assert sum(values(trace["x"])) == pytest.approx(100.0)


def test_parallel_coordinates_have_an_axis_a_hyperparameter_and_one_for_the_objective(page, asha):
    axes = page[1]["parallel"]["data"][0]["dimensions"]
    assert {axis["label"] for axis in axes} == {"lr", "width", "optimizer", "momentum", "batch", "val_loss"}
    (batch,) = [axis for axis in axes if axis["label"] == "batch"]
    assert batch["ticktext"] == ["16", "32", "64"]


def test_failures_are_told_with_their_tracebacks_as_text(page, asha):
    assert f"{len(asha.failures)} × RuntimeError: diverged <b>at once</b>" in page[0].text
    assert 'raise RuntimeError("diverged' in page[0].text


def test_what_defines_the_study_is_there(page):
    assert '"reduction_factor": 3' in page[0].text
    assert "numpy" in page[0].text


def failing(trial):
    raise RuntimeError("never")


def one_metric(trial):
    yield {"val_loss": trial["lr"]}


MANY = hpo.Space({f"x{place}": hpo.Float((0.0, 1.0)) for place in range(200)})
CHOICES = hpo.Space({"a": hpo.Categorical(["u", "v"]), "b": hpo.Categorical([True, False]), "lr": 0.1})


@pytest.mark.parametrize(
    ("how", "space", "trials"),
    [
        pytest.param(failing, SPACE, 5, id="all failed"),
        pytest.param(train, SPACE, 1, id="a single trial"),
        pytest.param(one_metric, SPACE, 30, id="one metric"),
        pytest.param(one_metric, CHOICES, 30, id="choices alone"),
        pytest.param(lambda trial: iter([{"val_loss": trial["x3"]}]), MANY, 40, id="200 hyperparameters"),
        pytest.param(lambda trial: iter([{"val_loss": 1.0}]), SPACE, 30, id="nothing differs"),
        pytest.param(lambda trial: iter([{"val_loss": math.nan}]), SPACE, 5, id="never finite"),
        pytest.param(lambda trial: iter([{"val_loss": 10.0**300 * trial["lr"]}]), SPACE, 30, id="huge"),
    ],
)
def test_odd_studies_make_sensible_pages(how, space, trials, tmp_path):
    objective = hpo.Minimize("val_loss")
    result = run(tmp_path / "odd", how, space, objective, engine=hpo.Full(1), trials=trials)
    reader, figures = read(write_report(result.path))
    assert "odd" in reader.text
    assert "timeline" in figures
    assert (result.path / "report.html").stat().st_size < 10e6
    assert ("history" in figures) == (result.best is not None)


def test_what_is_inactive_wherever_there_is_a_result_is_no_trouble(tmp_path):
    space = hpo.Space(
        {"kind": hpo.Categorical(["a", "b"]), "decay": hpo.Float((1e-5, 1.0), log=True), "x": hpo.Float((0.0, 1.0))},
        conditions={"decay": "kind == 'b'"},
    )

    def fails_with_b(trial):
        if trial["kind"] == "b":
            raise RuntimeError("out of luck")
        yield {"val_loss": trial["x"]}

    result = run(tmp_path / "s", fails_with_b, space, hpo.Minimize("val_loss"), engine=hpo.Full(1), trials=24)
    _, figures = read(write_report(result.path))
    assert "decay" not in {axis["label"] for axis in figures["parallel"]["data"][0]["dimensions"]}


def test_the_orange_line_of_a_population_ends_with_the_best(population, tmp_path):
    _, figures = read(write_report(population.path, tmp_path / "report.html"))
    (line,) = [trace for trace in figures["lineage"]["data"] if trace["name"] == "the model of the best"]
    assert values(line["y"])[-1] == pytest.approx(population.best.value, rel=1e-6)


def test_a_study_that_is_still_written_makes_a_page_that_reloads_itself(tmp_path, monkeypatch):
    result = run(tmp_path / "s", trials=100_000, time_limit=0.5)
    assert result.phase == "suspended"
    assert '<meta http-equiv="refresh"' not in write_report(result.path).read_text()
    monkeypatch.setattr(type(result), "phase", "running")
    assert '<meta http-equiv="refresh"' in write_report(result.path).read_text()
    monkeypatch.undo()
    assert '<meta http-equiv="refresh"' not in page_of_finished(tmp_path)


def page_of_finished(tmp_path):
    return write_report(run(tmp_path / "done", trials=3).path).read_text()


def test_without_plotly_the_extra_is_named(asha, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(hpo.UserError, match=r"a report needs plotly and scikit-learn: pip install 'openhpo\[report\]'"):
        write_report(asha.path)
