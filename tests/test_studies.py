"""Whole studies: in one process, and on 1, 2 and 5 ranks of each MPI."""

import subprocess
import sys
import textwrap
from time import monotonic, sleep

import h5py
import numpy
import pytest

import openhpo as hpo

from .conftest import ROOT, finished
from .environment import INHERITED, MPI_ENVIRONMENT

APPS = ROOT / "apps"


NETWORK = """
import numpy
import openhpo as hpo

rates = {"lr": hpo.Float((1e-3, 1.0), log=True), "momentum": hpo.Float((0.0, 0.99))}
space = hpo.Space({**rates, "width": hpo.Categorical([8, 16, 32])})
objective = hpo.Minimize("val_loss")
max_steps = 3

def train(trial):
    x, hidden = numpy.linspace(-1, 1, 100), trial.rng.normal(0, 3, trial["width"])
    features, weights, velocity = numpy.tanh(numpy.outer(x, hidden)), numpy.zeros(trial["width"]), numpy.zeros(trial["width"])
    trial.track(weights=weights, velocity=velocity)
    while True:
        for rows in trial.rng.permutation(100).reshape(5, 20):
            error = features[rows] @ weights - numpy.sin(3 * x[rows])
            velocity += -trial["lr"] * features[rows].T @ error / 20 - (1 - trial["momentum"]) * velocity
            weights += velocity
        yield {"train_loss": (error**2).mean(), "val_loss": ((features @ weights - numpy.sin(3 * x)) ** 2).mean()}
"""


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """An app that starts quickly: a small network without torch."""
    path = tmp_path_factory.mktemp("app") / "network.py"
    path.write_text(NETWORK)
    return path


@pytest.fixture(scope="session")
def alone(network, tmp_path_factory):
    """A study of it by `hpo.run` in one plain python process: what every other way of running has to equal."""
    folder = tmp_path_factory.mktemp("alone")
    script = folder / "study.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(network.parent)!r})
            import network, openhpo as hpo
            result = hpo.run(network.train, network.space, network.objective,
                             engine=hpo.Full(3), trials=7, seed=5, study="study")
            print(result.best.value)
            """
        )
    )
    done = finished([sys.executable, str(script)], cwd=folder)
    assert done.returncode == 0, done.stderr
    return hpo.load(folder / "study")


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_a_study_is_the_same_on_any_number_of_ranks(mpi, ranks, network, alone, tmp_path):
    command = ["-m", "openhpo", "run", "random", str(network), "--trials", "7", "--steps", "3", "--seed", "5"]
    done = mpi.run(ranks, *command, "--study", str(tmp_path / "study"))
    assert done.returncode == 0, done.stdout + done.stderr
    result = hpo.load(tmp_path / "study")
    assert result.configs == alone.configs
    for metric in ("train_loss", "val_loss"):
        assert numpy.array_equal(result.curves(metric), alone.curves(metric)), metric  # bit for bit
    assert result.best == alone.best
    assert set(result.tables.stages["rank"].tolist()) <= set(range(ranks))


def test_a_dedicated_coordinator_does_not_train(mpi, tmp_path):
    command = ["-m", "openhpo", "run", "sobol", str(APPS / "branin.py"), "--trials", "16", "--dedicated-coordinator"]
    done = mpi.run(3, *command, "--study", str(tmp_path / "study"))
    assert done.returncode == 0, done.stderr
    assert set(hpo.load(tmp_path / "study").tables.stages["rank"].tolist()) == {1, 2}


def test_the_command_starts_itself_under_mpi(mpi, tmp_path):
    command = [str(mpi.python), "-m", "openhpo", "run", "random", str(APPS / "branin.py"), "--trials", "8", "--ranks", "3"]
    done = finished([*command, "--study", str(tmp_path / "study")])
    assert done.returncode == 0, done.stderr
    assert hpo.load(tmp_path / "study").environment["ranks"] == 3


def test_a_file_that_a_study_has_written_opens_in_plain_h5py(alone):
    with h5py.File(alone.tables.path) as file:
        assert len(file["trials"]) == 7
        assert len(file["reports"]) == len(file["values"]) == 21
        assert [name.decode() for name in file["metrics"][()]] == ["train_loss", "val_loss"]


WAITING = """
    import openhpo as hpo

    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    objective = hpo.Minimize("loss")
    max_steps = 4

    def train(trial):
        while True:
            if trial.step == 3:
                open("gate").read()  # a named pipe: waits for the test to open it too
            yield {"loss": trial["x"] / trial.step}
"""


def test_another_process_reads_the_curves_while_the_study_runs(tmp_path):
    import os

    (tmp_path / "waiting.py").write_text(textwrap.dedent(WAITING))
    os.mkfifo(tmp_path / "gate")
    command = [sys.executable, "-m", "openhpo", "run", "random", "waiting.py", "--trials", "1", "--study", "study"]
    environment = {**INHERITED, **MPI_ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as process:
        try:
            seen = eventually(lambda: curves_so_far(tmp_path / "study", 2))
            assert seen.shape == (1, 2)
            assert not hpo.load(tmp_path / "study").finished
            (tmp_path / "gate").write_text("go")
            assert process.wait(30) == 0
        finally:
            process.kill()
    final = hpo.load(tmp_path / "study")
    assert final.finished
    assert final.curves().shape == (1, 4)
    assert numpy.array_equal(final.curves()[:, :2], seen)


def curves_so_far(folder, steps):
    try:
        curves = hpo.load(folder).curves()
    except hpo.UserError:
        return None
    return curves if curves.shape[1] == steps else None


def eventually(look, deadline=60):
    end = monotonic() + deadline
    while monotonic() < end:
        found = look()
        if found is not None:
            return found
        sleep(0.01)  # what it waits for needs the core
    raise AssertionError(f"not within {deadline} s")


def test_what_was_flushed_survives_kill_9(tmp_path):
    import os

    (tmp_path / "waiting.py").write_text(textwrap.dedent(WAITING))
    os.mkfifo(tmp_path / "gate")
    command = [sys.executable, "-m", "openhpo", "run", "random", "waiting.py", "--trials", "1", "--study", "study"]
    with subprocess.Popen(command, cwd=tmp_path, env={**INHERITED, "PYTHONPATH": str(ROOT)}) as process:
        seen = eventually(lambda: curves_so_far(tmp_path / "study", 2))
        process.kill()
    assert numpy.array_equal(hpo.load(tmp_path / "study").curves(), seen)
    (tmp_path / "gate").unlink()
    (tmp_path / "gate").write_text("open")
    again = finished([sys.executable, *command[1:]], cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert numpy.array_equal(hpo.load(tmp_path / "study").curves()[:, :2], seen)
    assert hpo.load(tmp_path / "study").finished


def test_a_finished_study_returns_at_once_and_is_not_touched(openhpo, tmp_path):
    command = ["run", "random", str(APPS / "branin.py"), "--trials", "5", "--study", "study", "--json"]
    first = openhpo(*command)
    before = (tmp_path / "study/study.h5").read_bytes()
    second = openhpo(*command)
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert (tmp_path / "study/study.h5").read_bytes() == before


def test_both_styles_of_training_give_the_same_curves(tmp_path):
    def generator(trial):
        total = 0.0
        while True:
            total += trial["x"] * trial.rng.random()
            yield {"loss": total}

    def plain(trial):
        total = 0.0
        try:
            while True:
                total += trial["x"] * trial.rng.random()
                trial.report({"loss": total})
        except Exception as error:  # a stop is no error, and must not end up here
            raise AssertionError from error

    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    runs = [
        hpo.run(
            train, space, hpo.Minimize("loss"), engine=hpo.Full(5), trials=4, study=tmp_path / train.__name__, progress=False
        )
        for train in (generator, plain)
    ]
    assert numpy.array_equal(runs[0].curves(), runs[1].curves())
    assert runs[0].curves().shape == (4, 5)


def test_a_training_that_ends_by_itself_ends_its_trial(tmp_path):
    def train(trial):
        for step in range(trial["steps"]):
            yield {"loss": float(step)}

    space = hpo.Space({"steps": hpo.Categorical([1, 3, 9])})
    result = hpo.run(
        train, space, hpo.Minimize("loss"), engine=hpo.Full(5), sampler=hpo.Grid(), study=tmp_path / "s", progress=False
    )
    assert [int(numpy.isfinite(curve).sum()) for curve in result.curves()] == [1, 3, 5]


def test_cleaning_up_code_of_the_training_runs_when_its_trial_ends(tmp_path):
    closed = []

    def train(trial):
        try:
            while True:
                yield {"loss": 0.0}
        finally:
            closed.append(trial.number)

    hpo.run(
        train,
        hpo.Space({"x": hpo.Float((0.0, 1.0))}),
        hpo.Minimize("loss"),
        engine=hpo.Full(2),
        trials=3,
        study=tmp_path / "s",
        progress=False,
    )
    assert closed == [0, 1, 2]


def test_a_step_may_have_no_metrics_at_all(tmp_path):
    def train(trial):
        while True:
            yield {"loss": 1.0 / trial.step} if trial.step % 3 == 0 else {}

    result = hpo.run(
        train, hpo.Space({"x": 1}), hpo.Minimize("loss"), engine=hpo.Full(7), trials=2, study=tmp_path / "s", progress=False
    )
    assert result.trials["steps"].tolist() == [7, 7]
    assert numpy.flatnonzero(numpy.isfinite(result.curves()[1])).tolist() == [2, 5]


def test_metrics_that_appear_late_or_now_and_then_are_kept_apart(tmp_path):
    def train(trial):
        while True:
            yield {"loss": 1.0 / trial.step, **({"accuracy": trial.step} if trial.step % 2 == 0 else {})}

    result = hpo.run(
        train, hpo.Space({"x": 1}), hpo.Maximize("accuracy"), engine=hpo.Full(4), trials=1, study=tmp_path / "s", progress=False
    )
    assert result.curves("accuracy")[0, 1::2].tolist() == [2.0, 4.0]
    assert numpy.isnan(result.curves("accuracy")[0, ::2]).all()
    assert numpy.isfinite(result.curves("loss")).all()
    assert result.best is not None
    assert result.best.value == 4
