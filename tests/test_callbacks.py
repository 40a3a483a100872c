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


SHARING = hpo.Space({"lr": hpo.Steps([0.1, hpo.Categorical([0.01, 0.001]), hpo.Categorical([0.5, 0.25, 0.125])], [2, 5])})


def shared(trial):
    trial.track()
    total = 0.0
    while True:
        total += trial["lr"] * trial.rng.random()
        yield {"loss": total} | ({"odd": math.nan if trial.step == 3 else -total} if trial.step % 2 else {})


class Curves(hpo.Callback):
    """The curves of all trials, as they were told; each step may be told once."""

    def __init__(self):
        self.told = {}
        self.order = {}

    def on_trial(self, trial, config):
        self.order.setdefault(trial, []).append("begins")

    def on_report(self, trial, step, metrics):
        assert (trial, step) not in self.told
        self.told[trial, step] = metrics
        self.order.setdefault(trial, []).append(step)

    def on_rest(self, trial, state):
        self.order.setdefault(trial, []).append(state)

    def curve(self, metric, shape):
        found = numpy.full(shape, math.nan)
        for (trial, step), metrics in self.told.items():
            found[trial, step - 1] = metrics.get(metric, math.nan)
        return found

    def agree(self, result):
        for metric in ("loss", "odd"):
            expected = result.curves(metric)
            numpy.testing.assert_array_equal(self.curve(metric, expected.shape), expected)
        assert len(self.told) == result.steps.sum()
        for trial, order in self.order.items():
            assert order[0] == "begins"
            assert order[-1] in (hpo.stages.State.DONE, hpo.stages.State.STOPPED, hpo.stages.State.PAUSED)
            steps = [each for each in order if isinstance(each, int)]
            assert steps == list(range(1, int(result.steps[trial]) + 1))


def run_shared(folder, *callbacks, space=SHARING, **more):
    options = {"engine": hpo.Full(8), "sampler": hpo.Grid(), "progress": False, "app": "test", **more}
    return hpo.run(shared, space, hpo.Minimize("loss"), study=folder, callbacks=callbacks, **options)


@pytest.mark.parametrize(
    ("engine", "replicates"),
    [(hpo.Full(8), 1), (hpo.Full(8), 3), (hpo.ASHA(8, 1, 2), 1), (hpo.SuccessiveHalving(8, 2, 2), 2)],
    ids=["full", "replicates", "asha", "halving with replicates"],
)
def test_every_trial_that_shares_stages_is_told_its_whole_curve(engine, replicates, tmp_path):
    curves = Curves()
    result = run_shared(tmp_path / "s", curves, engine=engine, replicates=replicates)
    assert result.finished
    assert len(result.tables.reports) < result.steps.sum()  # some were trained once for several
    curves.agree(result)


def test_a_trial_that_comes_to_share_what_an_earlier_run_trained_is_told_it_and_others_are_told_nothing_twice(tmp_path):
    first, second = Curves(), Curves()
    space = hpo.Space({"lr": hpo.Steps([0.1, hpo.Categorical([0.01, 0.001])], [6])})
    options = {"space": space, "sampler": hpo.Random(), "seed": 5}
    run_shared(tmp_path / "s", first, trials=3, **options)
    before = hpo.load(tmp_path / "s")
    first.agree(before)
    result = run_shared(tmp_path / "s", second, trials=12, **options)
    assert len(result.tables.reports) == 6 + 2 + 2
    assert {trial for trial, _ in second.told} == set(range(3, 12))
    second.told |= first.told
    second.agree(result)


def test_runs_of_an_interrupted_study_together_tell_whole_curves(tmp_path):
    told, runs = {}, 0
    for _ in range(60):
        curves = Curves()
        limit = 0.2 if runs else 0.02  # a tenth of what all takes on an idle machine, so that there is something left
        result = run_shared(tmp_path / "s", curves, engine=hpo.ASHA(4000, 500, 2), time_limit=limit)
        assert not told.keys() & curves.told.keys()
        told |= curves.told
        runs += 1
        if result.finished:
            break
    assert result.finished
    assert runs > 1
    curves.told = told
    for metric in ("loss", "odd"):
        numpy.testing.assert_array_equal(curves.curve(metric, result.curves().shape), result.curves(metric))


def test_of_a_model_that_was_taken_over_no_steps_are_told_and_its_new_ones_are(tmp_path):
    class Notes(hpo.Callback):
        def __init__(self):
            self.told = []

        def on_report(self, trial, step, metrics):
            self.told.append((trial, step, metrics["loss"]))

    notes = Notes()
    space = hpo.Space({"lr": hpo.Float((0.01, 1.0), log=True)})
    result = run_shared(tmp_path / "s", notes, space=space, engine=hpo.PopulationBased(12, 3), sampler=hpo.Random(), trials=8)
    reports = result.tables.reports
    rows = zip(reports["trial"].tolist(), reports["step"].tolist(), result.tables.values[:, 0].tolist(), strict=True)
    assert (result.tables.events["kind"] == b"trial_forked").any()
    assert set(rows) <= set(notes.told)
    curves = result.curves()
    for trial in range(8):
        at, last, own = 0, 0, 0  # the steps of its model, those when it took it over, and those that count since it began
        for event in result.tables.events[result.tables.events["trial"] == trial]:
            if event["kind"] == b"trial_forked":
                at = last = int(event["step"])
            elif event["kind"].startswith(b"trial_"):
                own, at = own + int(event["step"]) - at, int(event["step"])
        mine = [(step, loss) for who, step, loss in notes.told if who == trial]
        assert len(mine) == own
        assert mine[len(mine) - (at - last) :] == list(enumerate(curves[trial, last:at].tolist(), last + 1))


def test_steps_without_metrics_are_told_too(tmp_path):
    def late(trial):
        yield {}
        yield {}
        yield {"loss": trial["x"]}

    curves = Curves()
    space = hpo.Space({"x": hpo.Categorical([1.0, 1.0 / 2])})
    options = {"engine": hpo.Full(3), "sampler": hpo.Grid(), "progress": False, "app": "test"}
    hpo.run(late, space, hpo.Minimize("loss"), study=tmp_path / "s", callbacks=[curves], **options)
    losses = ({}, {}, {"loss": 1.0}, {}, {}, {"loss": 0.5})
    assert curves.told == {(trial, step): losses[3 * trial + step - 1] for trial in range(2) for step in (1, 2, 3)}


def test_without_callbacks_nothing_is_kept_for_them(tmp_path, monkeypatch):
    def never(self):
        raise AssertionError

    monkeypatch.setattr("openhpo.study.Study.observe", never)
    monkeypatch.setattr("openhpo.reported.Reported.__init__", never)
    assert run_shared(tmp_path / "s").finished


@pytest.mark.parametrize("replicates", [1, 2])
def test_on_two_ranks_too_every_trial_is_told_its_whole_curve(replicates, mpi, tmp_path):
    (tmp_path / "study.py").write_text(
        f"""
import sys

import numpy

import openhpo as hpo

class Told(hpo.Callback):
    curves = numpy.full((6 * {replicates}, 8), numpy.nan)
    def on_report(self, trial, step, metrics):
        assert numpy.isnan(self.curves[trial, step - 1])
        self.curves[trial, step - 1] = metrics["loss"]
    def on_end(self, phase):
        numpy.save(sys.argv[2], self.curves)

def train(trial):
    trial.track()
    total = 0.0
    while True:
        total += trial["lr"] * trial.rng.random()
        yield {{"loss": total}}

lr = hpo.Steps([0.1, hpo.Categorical([0.01, 0.001]), hpo.Categorical([0.5, 0.25, 0.125])], [2, 5])
hpo.run(train, hpo.Space({{"lr": lr}}), hpo.Minimize("loss"), engine=hpo.Full(8), sampler=hpo.Grid(), study=sys.argv[1],
        replicates={replicates}, callbacks=[Told()], progress=False)
"""
    )
    done = mpi.run(2, str(tmp_path / "study.py"), str(tmp_path / "study"), str(tmp_path / "told.npy"))
    assert done.returncode == 0, done.stderr
    result = hpo.load(tmp_path / "study")
    assert len(result.tables.reports) < result.steps.sum()
    numpy.testing.assert_array_equal(numpy.load(tmp_path / "told.npy"), result.curves())


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
