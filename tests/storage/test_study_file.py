"""The study file by itself: what is written is read, whatever the order, and damage is named."""

from concurrent.futures import ThreadPoolExecutor, wait

import h5py
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openhpo as hpo
from openhpo.storage import StudyWriter, read, reader, schema

DEFINITION = {
    "app": "x",
    "engine": "Full(30)",
    "sampler": "Random()",
    "seed": 0,
    "objective": {"direction": "minimize", "metric": "loss", "require": [], "derived": {}},
    "trials": 9,
}


def writer(folder):
    return StudyWriter(folder, DEFINITION, {"python": "3"})


batches = st.lists(
    st.tuples(
        st.integers(0, 4),  # the trial
        st.integers(1, 30),  # steps in the batch
        st.lists(st.sampled_from(["loss", "accuracy", "time"]), min_size=1, unique=True),
        st.booleans(),  # flush after it
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(batches)
def test_whatever_is_reported_in_whatever_batches_is_read_back(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("study")
    file = writer(folder)
    expected: dict[str, dict[tuple[int, int], float]] = {}
    steps = [0] * 5
    for trial in range(5):
        file.trial(trial, 3, {"lr": 0.1 * trial}, 0.0)
        file.stage(trial, trial, None, 0, 1000, 0, 0.0)
    for trial, count, names, flush in parts:
        values = numpy.random.default_rng(steps[trial]).random((count, len(names)))
        file.reports(trial, trial, steps[trial] + 1, names, values, 1.0)
        for row in range(count):
            for column, name in enumerate(names):
                expected.setdefault(name, {})[trial, steps[trial] + row] = values[row, column]
        steps[trial] += count
        if flush:
            file.flush()
    file.close()
    result = hpo.load(folder)
    assert result.configs == [{"lr": 0.1 * trial} for trial in range(5)]
    assert set(result.metrics) == set(expected)
    for name, values in expected.items():
        curves = result.curves(name)
        assert curves.shape == (5, max(steps))
        assert {(t, s): v for (t, s), v in numpy.ndenumerate(curves) if not numpy.isnan(v)} == values


def test_a_reader_sees_what_was_flushed_while_the_writer_goes_on(tmp_path):
    file = writer(tmp_path)
    file.trial(0, 0, {"text": "ü" * 1000}, 0.0)
    file.stage(0, 0, None, 0, 9, 0, 0.0)
    file.reports(0, 0, 1, ["loss"], numpy.array([[0.5]]), 0.0)
    assert len(read(tmp_path).reports) == 0
    file.flush()
    assert hpo.load(tmp_path).configs == [{"text": "ü" * 1000}]
    file.reports(0, 0, 2, ["loss", "late"], numpy.array([[0.25, 1.0]]), 0.0)
    file.flush()
    tables = read(tmp_path)
    assert tables.metrics == ["loss", "late"]
    assert numpy.array_equal(tables.values, [[0.5, numpy.nan], [0.25, 1.0]], equal_nan=True)
    file.close()


def test_a_reader_in_the_same_process_never_finds_rows_that_are_not_written_yet(tmp_path, monkeypatch):
    file = writer(tmp_path)
    file.trial(0, 0, {"x": 1}, 0.0)
    file.stage(0, 0, None, 0, 9, 0, 0.0)
    file.flush()
    write, readings = h5py.Dataset.write_direct, []
    with ThreadPoolExecutor() as pool:

        def write_while_somebody_reads(dataset, *given):
            readings.append(pool.submit(read, tmp_path))
            wait(readings, timeout=0.1)
            write(dataset, *given)

        monkeypatch.setattr(h5py.Dataset, "write_direct", write_while_somebody_reads)
        file.trial(1, 1, {"x": 2}, 0.0)
        file.stage(1, 1, None, 0, 9, 0, 0.0)
        file.reports(1, 1, 1, ["loss"], numpy.array([[0.5]]), 0.0)
        file.flush()
        found = [(len(tables.trials), len(tables.stages), tables.values.tolist()) for tables in (r.result() for r in readings)]
    assert len(found) >= 4
    assert set(map(str, found)) <= {str((t, s, v)) for t in (1, 2) for s in (1, 2) for v in ([], [[0.5]])}
    file.close()


def test_a_writer_never_overwrites_a_study(tmp_path):
    writer(tmp_path).close()
    with pytest.raises(hpo.UserError, match="cannot be written"):
        writer(tmp_path)


def test_discarding_leaves_what_was_there_before(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    writer(tmp_path).discard()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    writer(tmp_path / "new").discard()
    assert not (tmp_path / "new").exists()


def test_a_file_of_another_program_or_version_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    with pytest.raises(hpo.UserError, match="no study of openhpo"):
        hpo.load(tmp_path / "other.h5")
    writer(tmp_path).close()
    with h5py.File(tmp_path / schema.FILE, "r+") as file:
        file.attrs["openhpo"] = 99
    with pytest.raises(hpo.UserError, match="version 99"):
        hpo.load(tmp_path)


def test_a_metric_that_nobody_reported_is_named(tmp_path):
    file = writer(tmp_path)
    file.trial(0, 0, {}, 0.0)
    file.stage(0, 0, None, 0, 9, 0, 0.0)
    file.reports(0, 0, 1, ["val_loss"], numpy.array([[0.5]]), 0.0)
    file.close()
    with pytest.raises(hpo.UserError, match="reported: val_loss. Did you mean 'val_loss'"):
        hpo.load(tmp_path).curves("val_los")


@pytest.fixture
def study(tmp_path):
    def train(trial):
        while True:
            if trial.number == 1 and trial.step == 2:
                raise RuntimeError("on purpose")
            yield {"loss": trial["x"] / trial.step, "accuracy": trial.step / 4}

    space = hpo.Space(
        {"x": hpo.Float((1.0, 2.0)), "kind": hpo.Categorical(["a", "b"]), "y": hpo.Integer((1, 9)), "k": True},
        conditions={"y": "kind == 'a'"},
    )
    return hpo.run(
        train,
        space,
        hpo.Minimize("loss", require="accuracy <= 0.75"),
        engine=hpo.Full(4),
        trials=8,
        study=tmp_path / "study",
        progress=False,
    )


def test_tables_are_record_arrays_with_a_column_a_hyperparameter(study):
    trials = study.table("trials")
    assert trials["state"].tolist() == ["done", "failed", *["done"] * 6]
    assert trials["steps"].tolist() == [4, 1, *[4] * 6]
    assert trials["best_step"].tolist() == [3, 1, *[3] * 6]
    assert trials["value"][0] == pytest.approx(trials["x"][0] / 3)
    active = trials["kind"] == "a"
    assert numpy.array_equal(numpy.isnan(trials["y"]), ~active)
    assert study.table("reports")["loss"].shape == (29,)
    assert set(study.table("events")["kind"]) >= {"study_started", "stage_ended", "stage_failed", "study_finished"}
    assert len(study.table("stages")) == 8


def test_a_table_holds_whatever_numbers_and_names_a_space_may_have(tmp_path):
    ends = [-(1 << 63), (1 << 63) - 1]
    space = hpo.Space({"x": hpo.Categorical(ends), "a b": hpo.Float((0.0, 1.0)), "a b ": hpo.Float((0.0, 1.0))})

    def train(trial):
        while True:
            yield {"loss": trial["a b"]}

    result = hpo.run(train, space, hpo.Minimize("loss"), engine=hpo.Full(1), trials=8, study=tmp_path / "study", progress=False)
    table = result.table()
    assert {*table["x"].tolist()} == {*ends}
    assert table["a b"].tolist() == [config["a b"] for config in result.configs]
    assert table["a b "].tolist() == [config["a b "] for config in result.configs]


def test_tables_are_data_frames_where_pandas_is_installed(study, monkeypatch):
    import importlib.util
    import sys
    import types

    stand_in = types.ModuleType("pandas")
    stand_in.DataFrame = dict
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: stand_in if name == "pandas" else find(name))
    assert list(study.to_dataframe())[:4] == ["trial", "state", "steps", "value"]


def test_the_best_is_feasible_and_comes_with_its_curve_and_metrics(study):
    best = study.best
    assert best.feasible
    assert best.step == 3
    assert best.curve == pytest.approx([best.config["x"] / step for step in (1, 2, 3, 4)])
    assert study.metrics_at(best.trial, 3)["accuracy"] == 0.75
    assert [one.value for one in study.top(3)] == sorted(one.value for one in study.top(8))[:3]


def test_failures_carry_their_traceback_and_rank(study):
    (failure,) = study.failures
    assert (failure["trial"], failure["rank"], failure["step"]) == (1, 0, 1)
    assert failure["traceback"].rstrip().endswith("RuntimeError: on purpose")


def test_a_metric_that_appears_while_the_same_process_reads_is_seen_the_next_time(tmp_path, monkeypatch):
    file = writer(tmp_path)
    file.event(schema.STARTED, 0.0, step=1)
    file.trial(0, 0, {}, 0.0)
    file.stage(0, 0, None, 0, 9, 0, 0.0)
    file.reports(0, 0, 1, ["loss"], numpy.ones((1, 1)), 1.0)
    file.flush()
    rows = reader._rows

    def meanwhile(h5, name):
        if name == "metrics":
            file.reports(0, 0, 2, ["loss", "accuracy"], numpy.ones((1, 2)), 2.0)
            file.flush()
        return rows(h5, name)

    with monkeypatch.context() as patch:
        patch.setattr(reader, "_rows", meanwhile)
        found = read(tmp_path)
    assert (found.metrics, found.values.shape) == (["loss"], (1, 1))
    assert read(tmp_path).metrics == ["loss", "accuracy"]
    file.close()
