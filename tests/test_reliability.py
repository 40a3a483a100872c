"""What docs/reliability.md promises of whole runs, each by a run."""

import errno
import io
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from time import monotonic

import numpy
import pytest

import openhpo as hpo
from openhpo.progress import Bar
from openhpo.samplers import Suggest
from openhpo.storage import schema
from openhpo.storage.claim import Claim
from openhpo.view import Progress

from .conftest import ROOT, finished, launchers_folder
from .environment import INHERITED, MPI_ENVIRONMENT
from .test_studies import eventually

SPACE = hpo.Space({"x": hpo.Float((0.0, 1.0))})

SLOW = """
    import os
    import time
    import numpy
    import openhpo as hpo

    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    objective = hpo.Minimize("loss")
    max_steps = 25

    def train(trial):
        w = numpy.zeros(3)
        trial.track(w=w)
        while True:
            time.sleep(float(os.environ.get("COST", "0.05")))  # what a step takes
            w += trial["x"] * trial.rng.random(3)
            yield {"loss": float(w.sum())}
"""


def run(train, folder, *, engine=None, trials=4, **more):
    """A study in this process."""
    return hpo.run(
        train,
        SPACE,
        hpo.Minimize("loss"),
        engine=hpo.Full(4) if engine is None else engine,
        trials=trials,
        study=folder,
        progress=False,
        **more,
    )


def counted(calls):
    """Training that adds to its state, and to `calls`."""

    def train(trial):
        w = numpy.zeros(2)
        trial.track(w=w)
        while True:
            calls.append((trial.number, trial.step))
            w += trial["x"] * trial.rng.random(2)
            yield {"loss": float(w.sum())}

    return train


def start(python, app, *options):
    """Start `openhpo run random APP` on 4 ranks."""
    environment = {**INHERITED, **MPI_ENVIRONMENT, "PYTHONPATH": str(ROOT), "TMPDIR": launchers_folder()}
    command = [str(python), "-m", "openhpo", "run", "random", str(app), "--ranks", "4", "--study", "study", *options]
    return subprocess.Popen(
        command, cwd=app.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def reports_in(folder):
    try:
        return len(hpo.load(folder).tables.reports)
    except hpo.UserError:
        return 0


@pytest.fixture
def slow(tmp_path):
    app = tmp_path / "slow.py"
    app.write_text(textwrap.dedent(SLOW))
    return app


# ---- walltime and signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda number: number.name)
def test_a_run_that_is_asked_to_stop_ends_in_order_and_its_continuation_repeats_no_step(mpi, slow, number):
    study = slow.parent / "study"
    with start(mpi.python, slow, "--trials", "6") as process:
        try:
            eventually(lambda: reports_in(study) >= 12 or None)
            process.send_signal(number)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, out
    assert "to be continued: 6 of 6 trials are left" in out
    assert "Traceback" not in out
    stopped = hpo.load(study)
    assert stopped.phase == "suspended"
    assert hpo.Result(study).states == [hpo.State.SUSPENDED] * len(stopped.configs)
    command = ["-m", "openhpo", "run", "random", str(slow), "--trials", "6"]
    done = mpi.run(3, *command, "--study", str(study), COST="0")
    assert done.returncode == 0, done.stderr
    result = hpo.load(study)
    assert result.phase == "finished"
    assert len(result.tables.reports) == 6 * 25
    assert not result.tables.stages["again"].any()
    calm = finished([str(mpi.python), *command, "--study", "calm"], environment={"COST": "0"}, cwd=slow.parent)
    assert calm.returncode == 0, calm.stderr
    assert numpy.array_equal(hpo.load(slow.parent / "calm").curves(), result.curves())


def test_a_second_interrupt_leaves_at_once_and_what_was_acknowledged_is_there(tmp_path):
    app = tmp_path / "hanging.py"
    app.write_text(textwrap.dedent(SLOW).replace("time.sleep(", "time.sleep(3600 if trial.step == 5 else "))
    command = [sys.executable, "-m", "openhpo", "run", "random", str(app), "--trials", "2", "--study", str(tmp_path / "study")]
    environment = {**INHERITED, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            eventually(lambda: reports_in(tmp_path / "study") >= 4 or None)
            process.send_signal(signal.SIGINT)
            eventually(lambda: hpo.load(tmp_path / "study").phase == "suspended" or None)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert reports_in(tmp_path / "study") == 4


@pytest.mark.parametrize("terminal", [{}, {"OPENHPO_TERMINAL": "80"}], ids=["log", "terminal"])
def test_a_study_finishes_although_nobody_reads_what_it_says_any_more(terminal, tmp_path):
    read, written = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "openhpo", "run", "random", str(ROOT / "apps/branin.py"), "--trials", "20"]
    done = subprocess.run(
        [*command, "--study", str(tmp_path / "study")],
        stdout=subprocess.PIPE,
        stderr=written,
        env={**INHERITED, **terminal},
        timeout=120,
        check=False,
        text=True,
    )
    os.close(written)
    assert done.returncode == 0
    assert "best of 20 trials" in done.stdout
    assert hpo.load(tmp_path / "study").finished


def test_a_bar_whose_terminal_is_gone_is_drawn_no_more_and_nothing_else_happens(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    bar = Bar(80)
    for settled in (0, 1):
        bar.show(Progress(2, settled, running=1, failed=0, steps=1, rate=1.0, elapsed=1.0, left=None, trainers=1, best=None))
    bar.note("a line")
    bar.close()


def test_a_time_limit_stops_in_order_and_the_same_command_finishes(openhpo, slow):
    command = ["run", "random", str(slow), "--trials", "3", "--study", "study"]
    first = openhpo(*command, "--time-limit", "1.2s")
    assert first.returncode == 0, first.stderr
    assert "the time limit is reached" in first.stderr
    assert openhpo("status", "study", "--finished").returncode == 1
    assert "suspended" in openhpo("status", "study").stdout
    done = openhpo("resume", str(slow.parent / "study"), "--time-limit", "1h")
    assert done.returncode == 0, done.stderr
    assert openhpo("status", "study", "--finished").returncode == 0
    assert len(hpo.load(slow.parent / "study").tables.reports) == 3 * 25


# ---- going on


def test_a_study_that_is_given_more_trials_goes_on_to_them(tmp_path):
    calls = []
    run(counted(calls), tmp_path / "study", trials=3)
    assert len(calls) == 3 * 4
    more = run(counted(calls), tmp_path / "study", trials=5)
    assert len(calls) == 5 * 4
    at_once = run(counted([]), tmp_path / "at once", trials=5)
    assert more.configs == at_once.configs
    assert numpy.array_equal(more.curves(), at_once.curves())
    assert run(counted(calls), tmp_path / "study", trials=5).best == more.best
    assert len(calls) == 5 * 4  # nothing was left to run


def test_fewer_trials_or_more_where_the_method_counts_them_are_refused_and_nothing_is_touched(tmp_path):
    run(counted([]), tmp_path / "study", trials=3)
    before = (tmp_path / "study/study.h5").read_bytes()
    with pytest.raises(hpo.UserError, match="the total"):
        run(counted([]), tmp_path / "study", trials=2)
    assert (tmp_path / "study/study.h5").read_bytes() == before
    run(counted([]), tmp_path / "halving", engine=hpo.SuccessiveHalving(4, 1, 2), trials=4)
    before = (tmp_path / "halving/study.h5").read_bytes()
    with pytest.raises(hpo.UserError, match="SuccessiveHalving decides by the number of trials"):
        run(counted([]), tmp_path / "halving", engine=hpo.SuccessiveHalving(4, 1, 2), trials=8)
    assert (tmp_path / "halving/study.h5").read_bytes() == before


def interrupted(folder, at, calls=None, **more):
    """A study in this process whose training asks it to stop at its `at`-th step."""
    count = iter(range(1, 10_000))

    def train(trial):
        for metrics in counted([] if calls is None else calls)(trial):
            if next(count) == at:
                os.kill(os.getpid(), signal.SIGTERM)
                eventually(lambda: hpo.load(folder).phase == "suspended" or None)
            yield metrics

    return run(train, folder, **more)


class Fickle(Suggest):
    """Never says the same again, as sums of many numbers may not on another machine."""

    def __init__(self, count):
        self._count = count

    def bind(self, space, seed):
        return self

    def __call__(self, number, history, rng):
        return {"x": next(self._count) / 100}

    def definition(self):
        return {"sampler": "Fickle"}


def test_trials_that_have_begun_go_on_with_the_configurations_in_the_file_whatever_the_sampler_would_say_now(tmp_path):
    count = itertools.count()
    stopped = interrupted(tmp_path / "study", 6, sampler=Fickle(count))
    assert stopped.phase == "suspended"
    calls = []
    result = run(counted(calls), tmp_path / "study", sampler=Fickle(count))
    assert result.finished
    assert result.configs == [{"x": number / 100} for number in range(4)]
    assert len(calls) == 4 * 4 - 6


def test_missing_and_damaged_checkpoints_are_trained_again(tmp_path):
    calls = []
    whole = run(counted(calls), tmp_path / "whole")
    for name, damage in (
        ("missing", lambda path: path.unlink()),
        ("cut", lambda path: path.write_bytes(path.read_bytes()[:700])),
        ("foreign", lambda path: path.write_text("not a checkpoint")),
    ):
        assert interrupted(tmp_path / name, 6).phase == "suspended"
        files = list((tmp_path / name / "checkpoints").iterdir())
        assert files
        for path in files:
            damage(path)
        result = run(counted([]), tmp_path / name)
        assert result.finished
        assert numpy.array_equal(result.curves(), whole.curves())
        assert result.tables.stages["again"].any()
        assert not (tmp_path / name / "checkpoints").exists()


def test_checkpoints_are_written_in_training_and_a_continued_study_goes_on_from_them(tmp_path):
    saved = threading.Event()

    def train(trial):
        for metrics in counted([])(trial):
            if not saved.wait(0.02) and list((tmp_path / "study/checkpoints").glob("*.h5")):  # what a step costs
                saved.set()
            yield metrics

    result = run(train, tmp_path / "study", engine=hpo.Full(2000), trials=1, checkpoint_every=0.01)
    assert saved.is_set()
    assert schema.STATE_SAVED in list(result.table("events")["kind"])


# ---- failures


def test_a_trial_that_fails_by_chance_is_tried_again_from_its_last_state(tmp_path):
    failed = []

    def flaky(trial):
        for metrics in counted([])(trial):
            if trial.step == 3 and len(failed) < 2:
                failed.append(trial.number)
                raise OSError(errno.EIO, "the disk hiccups")
            yield metrics

    result = run(flaky, tmp_path / "study", retries=2)
    assert len(failed) == 2
    assert result.failures == []
    assert numpy.array_equal(result.curves(), run(counted([]), tmp_path / "calm").curves())


def test_a_trial_that_goes_on_failing_fails_with_its_traceback_and_the_study_goes_on(tmp_path):
    attempts = []

    def train(trial):
        for metrics in counted([])(trial):
            if trial.number == 1 and trial.step == 2:
                attempts.append(trial.step)
                raise ValueError("never works")
            yield metrics

    result = run(train, tmp_path / "study", retries=2)
    assert len(attempts) == 3
    assert [state.value for state in result.states] == ["done", "failed", "done", "done"]
    [failure] = result.failures
    assert failure["trial"] == 1
    assert 'raise ValueError("never works")' in failure["traceback"]


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError("no"), "host"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 8 bytes"), "host"),
        (RuntimeError("CUDA error: out of memory"), "accelerator"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB"), "accelerator"),
        (RuntimeError("synStatus 26 [Generic failure] Device memory allocation failed"), "accelerator"),
    ],
    ids=range(5),
)
def test_running_out_of_memory_is_told_as_that(tmp_path, error, memory):
    def train(trial):
        yield {"loss": 1.0}
        if trial.number == 1:
            raise error
        yield {"loss": 1.0}

    result = run(train, tmp_path / "study", engine=hpo.Full(2), trials=3)
    [failure] = result.failures
    assert f"out of {memory} memory" in failure["traceback"]
    assert sum(state is hpo.State.DONE for state in result.states) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_trial_whose_objective_is_not_finite_fails_at_that_step_and_is_not_trained_further(tmp_path, value):
    calls = []

    def train(trial):
        for metrics in counted(calls)(trial):
            yield {"loss": value} if (trial.number, trial.step) == (1, 2) else metrics

    result = run(train, tmp_path / "study", retries=2)
    assert [state.value for state in result.states] == ["done", "failed", "done", "done"]
    [failure] = result.failures
    assert failure["traceback"] == "loss is not finite at step 2"
    assert len(result.tables.reports) == 4 * 3 + 2
    assert result.best.trial != 1 or result.best.step == 1


def test_a_step_that_takes_too_long_fails_its_trial_with_the_place_where_it_was(tmp_path):
    def train(trial):
        for metrics in counted([])(trial):
            while (trial.number, trial.step) == (1, 2):
                pass
            yield metrics

    result = run(train, tmp_path / "study", step_timeout=0.5)
    assert [state.value for state in result.states] == ["done", "failed", "done", "done"]
    [failure] = result.failures
    assert "step 2 took longer than 0.5 s" in failure["traceback"]
    assert "while (trial.number, trial.step) == (1, 2)" in failure["traceback"]


def test_a_rank_whose_training_never_ends_is_given_up_and_the_study_can_be_continued(tmp_path):
    code = """
        import sys, threading
        import openhpo as hpo, openhpo.trainer
        openhpo.trainer.ABANDONED = 0.2

        def train(trial):
            while True:
                if trial.number == 1 and len(sys.argv) > 1:
                    threading.Lock().acquire() and None
                    lock = threading.Lock(); lock.acquire(); lock.acquire()  # in C, where nothing can end it
                yield {"loss": trial["x"]}

        result = hpo.run(train, hpo.Space({"x": hpo.Float((0.0, 1.0))}), hpo.Minimize("loss"), engine=hpo.Full(3), trials=3,
                         study="study", step_timeout=0.5, ranks=None)
        print(result.phase, [state.value for state in result.states])
    """
    (tmp_path / "stuck.py").write_text(textwrap.dedent(code))
    first = finished([sys.executable, "stuck.py", "hang"], cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "no rank is left to train" in first.stderr
    assert "suspended ['done', 'failed'" in first.stdout
    second = finished([sys.executable, "stuck.py"], cwd=tmp_path)
    assert second.stdout.strip() == "finished ['done', 'failed', 'done']", second.stderr


# ---- two runs, and disks


def test_two_runs_at_once_on_one_study_are_refused(tmp_path, openhpo):
    (tmp_path / "study").mkdir()
    claim = Claim(tmp_path / "study")
    stop = threading.Event()

    def beat():
        while not stop.wait(0.2):
            claim.beat()

    thread = threading.Thread(target=beat)
    path = tmp_path / "study/running.json"
    other = json.loads(path.read_text())
    thread.start()
    try:
        done = openhpo("run", "random", str(ROOT / "apps/branin.py"), "--trials", "2", "--study", "study")
    finally:
        stop.set()
        thread.join()
    assert done.returncode == 2
    assert f"is being worked on by another run: process {other['process']}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "study/study.h5").exists()
    claim.release()
    assert openhpo("run", "random", str(ROOT / "apps/branin.py"), "--trials", "2", "--study", "study").returncode == 0
    assert not path.exists()


def test_what_a_killed_run_left_on_this_host_holds_nobody_up(tmp_path):
    (tmp_path / "study").mkdir()
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    claim = Claim(tmp_path / "study")
    path = tmp_path / "study/running.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "process": dead.pid, "token": "theirs"}))
    before = monotonic()
    Claim(tmp_path / "study").release()
    assert monotonic() - before < 5
    path.write_text(json.dumps({"process": 1, "token": "theirs"}))
    with pytest.raises(hpo.UserError, match="taken over"):
        claim.beat()


FILLING = """
    import resource, signal
    import openhpo as hpo

    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    objective = hpo.Minimize("loss")
    max_steps = 20_000

    def train(trial):
        while True:
            yield {"loss": trial["x"], **{f"metric {k}": 1.0 for k in range(20)}}
"""


def test_a_full_disk_ends_the_run_with_one_message_and_loses_nothing_that_was_acknowledged(tmp_path):
    (tmp_path / "filling.py").write_text(textwrap.dedent(FILLING))
    command = [sys.executable, "-m", "openhpo", "run", "random", "filling.py", "--trials", "3", "--study", "study"]
    limit = 2_000_000

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # as a full disk, but for the number of the error

    environment = {**INHERITED, "PYTHONPATH": str(ROOT)}
    full = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, preexec_fn=limited, capture_output=True, text=True, timeout=120
    )
    assert full.returncode == 2, full.stderr
    assert "cannot be written" in full.stderr
    assert "Traceback" not in full.stderr
    before = reports_in(tmp_path / "study")
    done = finished(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert reports_in(tmp_path / "study") == 3 * 20_000 >= before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    (tmp_path / "study").mkdir(mode=0o555)
    with pytest.raises(hpo.UserError, match="cannot be written"):
        run(counted([]), tmp_path / "study")
