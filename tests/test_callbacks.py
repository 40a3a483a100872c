"""Callbacks are told what happens, in order, and cannot harm the study."""

import ast
import importlib.util
import math
import sys
import threading

import numpy
import pytest

import openhpo as hpo

from .conftest import finished

SPACE = hpo.Space({"x": hpo.Float((0.0, 1.0))})


def train(trial):
    if trial["x"] > 0.9:
        raise RuntimeError("too far")
    for step in range(1, 4):
        yield {"loss": trial["x"] + 1 / step}


def run(folder, *callbacks, **more):
    options = {"engine": hpo.Full(3), "trials": 12, "progress": False, "app": "test", **more}
    return hpo.run(train, SPACE, hpo.Minimize("loss"), study=folder, callbacks=callbacks, **options)


class Notes(hpo.Callback):
    """Writes down all that it is told."""

    def __init__(self):
        self.told = []

    def on_start(self, folder, definition):
        self.told.append(("start", folder.name, definition["trials"]))

    def on_trial(self, trial, config):
        self.told.append(("trial", trial, config["x"]))

    def on_report(self, trial, step, metrics):
        self.told.append(("report", trial, step, metrics["loss"]))

    def on_rest(self, trial, state):
        self.told.append(("rest", trial, state))

    def on_end(self, phase):
        self.told.append(("end", phase))


def test_what_is_told_is_what_the_file_has(tmp_path):
    notes = Notes()
    result = run(tmp_path / "s", notes)
    assert notes.told[0] == ("start", "s", 12)
    assert notes.told[-1] == ("end", "finished")
    assert [each[1:] for each in notes.told if each[0] == "trial"] == [(t, c["x"]) for t, c in enumerate(result.configs)]
    assert dict(each[1:] for each in notes.told if each[0] == "rest") == dict(enumerate(result.states))
    reports = [each[1:] for each in notes.told if each[0] == "report"]
    assert len(reports) == len(result.tables.reports)
    curves = result.curves()
    assert all(curves[trial, step - 1] == loss for trial, step, loss in reports)


def test_a_study_that_is_continued_tells_what_is_new(tmp_path):
    run(tmp_path / "s")
    notes = Notes()
    run(tmp_path / "s", notes, trials=15)
    assert [each[1] for each in notes.told if each[0] == "trial"] == [12, 13, 14]
    assert {each[1] for each in notes.told if each[0] == "report"} <= {12, 13, 14}


def test_the_beginning_is_told_first_also_of_a_study_that_is_continued(tmp_path):
    options = {"engine": hpo.Full(3), "trials": 100_000}
    assert run(tmp_path / "s", time_limit=0.3, **options).phase == "suspended"
    notes = Notes()
    run(tmp_path / "s", notes, time_limit=0.3, **options)
    assert notes.told[0] == ("start", "s", 100_000)
    assert notes.told[-1] == ("end", "suspended")


def test_one_that_raises_is_shown_and_told_nothing_more_and_the_others_are(tmp_path, capfd):
    class Broken(hpo.Callback):
        calls = 0

        def on_report(self, trial, step, metrics):
            Broken.calls += 1
            raise ValueError("no such server")

    notes = Notes()
    result = run(tmp_path / "s", Broken(), notes, progress=True)
    assert result.finished
    assert Broken.calls == 1
    assert notes.told[-1] == ("end", "finished")
    said = capfd.readouterr().err
    assert "the callback Broken raised in on_report, and is told nothing more" in said
    assert "ValueError: no such server" in said


def test_one_that_does_not_answer_holds_up_nothing_and_is_given_up_at_the_end(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("openhpo.callbacks.PATIENCE", 0.2)
    never = threading.Event()

    class Stuck(hpo.Callback):
        def on_start(self, folder, definition):
            never.wait(60)

    try:
        assert run(tmp_path / "s", Stuck()).finished
    finally:
        never.set()
    assert "callbacks were" in capfd.readouterr().err


@pytest.mark.parametrize("ranks", [1, 2])
def test_on_mpi_rank_0_is_told_of_all_ranks(ranks, mpi, tmp_path):
    (tmp_path / "study.py").write_text(
        """
import sys

import openhpo as hpo

class Count(hpo.Callback):
    reports = 0
    def on_report(self, trial, step, metrics):
        self.reports += 1
    def on_end(self, phase):
        print("told", self.reports, phase, flush=True)

def train(trial):
    for step in range(3):
        yield {"loss": trial["x"] + step}

hpo.run(train, hpo.Space({"x": hpo.Float((0.0, 1.0))}), hpo.Minimize("loss"), engine=hpo.Full(3), trials=20,
        study=sys.argv[1], callbacks=[Count()], progress=False)
"""
    )
    done = mpi.run(ranks, str(tmp_path / "study.py"), str(tmp_path / "study"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("told 60 finished") == 1


@pytest.mark.skipif(importlib.util.find_spec("tensorboardX") is None, reason="needs tensorboardX")
def test_tensorboard_gets_a_run_a_trial(tmp_path):
    result = run(tmp_path / "s", hpo.TensorBoard())
    runs = sorted(path.name for path in (tmp_path / "s/tensorboard").iterdir())
    reported = sorted(set(result.tables.reports["trial"].tolist()))
    assert runs == [f"trial-{trial:05d}" for trial in reported]


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs MLflow")
def test_mlflow_gets_a_run_a_trial(tmp_path):
    result = run(tmp_path / "s", hpo.MLflow())
    code = (
        "import sys\nfrom mlflow import MlflowClient\n"
        "client = MlflowClient(f'sqlite:///{sys.argv[1]}')\n"
        "(experiment,) = [each for each in client.search_experiments() if each.name == 's']\n"
        "runs = client.search_runs([experiment.experiment_id])\n"
        "print(sorted((int(run.data.tags['openhpo.trial']), run.data.metrics.get('loss')) for run in runs))\n"
    )
    done = finished([sys.executable, "-c", code, str(tmp_path / "s/mlflow.db")], 120)
    assert done.returncode == 0, done.stderr
    curves = result.curves()
    last = [(trial, None if math.isnan(told[0]) else told[~numpy.isnan(told)][-1]) for trial, told in enumerate(curves)]
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == last
