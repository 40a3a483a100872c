"""What the commands print, and what `watch` draws in a terminal of 80 by 24."""

import contextlib
import csv
import io
import json
import math
import os
import pty
import select
import subprocess
import sys
import termios
import time
import tomllib

import pytest

import openhpo as hpo
from openhpo.report.numbers import Numbers
from openhpo.report.screen import BLOCKS, screen, sparkline
from openhpo.stages import State

from .conftest import run, train

OPENHPO = [sys.executable, "-m", "openhpo"]


def said(*words, status=0):
    done = subprocess.run([*OPENHPO, *map(str, words)], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


# ---- the screen


def test_a_sparkline_goes_from_the_lowest_to_the_highest_block():
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == BLOCKS
    assert sparkline([0, float("nan"), 1], 8) == "▁ █"
    assert len(sparkline(list(range(1000)), 40)) == 40
    assert sparkline([5, 5], 8) == "▁▁"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 60)])
def test_whatever_the_study_nothing_is_wider_or_longer_than_the_terminal(width, height, asha, population, replicated, tmp_path):
    failed = run(tmp_path / "failed", lambda trial: iter([{"val_loss": 1 / 0}]), engine=hpo.Full(1), trials=3)
    for result in (asha, population, replicated, failed):
        lines = screen(Numbers(result), width, height)
        assert len(lines) <= height
        assert all(line.cell_len <= width for line in lines)


def test_the_screen_shows_the_best_and_the_rungs(asha):
    text = "\n".join(line.plain for line in screen(Numbers(asha), 80, 24))
    assert f"best {asha.best.value:.6g} (trial {asha.best.trial}" in text
    assert "60/60" in text
    assert text.count("went on") == 3


def test_a_population_is_shown_by_its_members(population):
    text = "\n".join(line.plain for line in screen(Numbers(population), 80, 24))
    assert "exploits; members, the best first" in text
    assert f"{population.best.value:.5g}" in text


class Colony(hpo.PopulationBased):
    """An engine of one's own, which copies models."""

    def definition(self):
        return {**super().definition(), "engine": "Colony"}


class Ladder(hpo.ASHA):
    """An engine of one's own, which promotes."""

    def definition(self):
        return {**super().definition(), "engine": "Ladder"}


def test_an_engine_of_ones_own_is_shown_by_what_it_does_and_not_by_its_name(tmp_path, monkeypatch):
    space, objective = (
        hpo.Space({"lr": hpo.Float((1e-4, 0.4), log=True), "width": 64, "optimizer": "sgd"}),
        hpo.Minimize("val_loss"),
    )
    colony = run(tmp_path / "colony", space=space, objective=objective, engine=Colony(8, 2), trials=4)
    assert colony.definition["engine"] == "Colony"
    assert (colony.forks, colony.promotes) == (True, False)
    assert "members, the best first" in "\n".join(line.plain for line in screen(Numbers(colony), 80, 24))
    with pytest.raises(hpo.UserError, match="took over each other's models"):
        run(tmp_path / "warm", space=space, objective=objective, warm_start=colony.path, sampler=hpo.TPE())
    with pytest.raises(hpo.UserError, match="trials of Colony change hyperparameters"):
        hpo.validate(train, colony.path)
    for engine, counted in ((Ladder(9, 1, 3), True), (hpo.Full(9), False)):
        result = run(tmp_path / type(engine).__name__, space=space, objective=objective, engine=engine, trials=12)
        assert (result.forks, result.promotes) == (False, counted)
        numbers = Numbers(result)
        paused = [one._replace(state=State.PAUSED) for one in numbers.candidates[:6]]
        numbers.candidates = paused + [one._replace(state=State.RUNNING) for one in numbers.candidates[6:]]
        monkeypatch.setattr(type(result), "phase", "running")
        assert numbers.left == pytest.approx(numbers.elapsed if counted else math.nan, nan_ok=True)
        monkeypatch.undo()


RUNNING = """
import sys, threading
import openhpo as hpo

def train(trial):
    for step in range(5):
        yield {"val_loss": 1 / (step + 1)}
    threading.Event().wait(300)

space = hpo.Space({"lr": hpo.Float((0.0, 1.0))})
hpo.run(train, space, hpo.Minimize("val_loss"), engine=hpo.Full(9), trials=4, study=sys.argv[1], progress=False)
"""


@pytest.fixture
def running(tmp_path):
    """The folder of a study with a trial in training, which has reported five steps."""
    folder = tmp_path / "running"
    process = subprocess.Popen([sys.executable, "-c", RUNNING, str(folder)])
    deadline = time.monotonic() + 60
    try:
        while not (folder / "study.h5").exists() or len(hpo.load(folder).tables.reports) < 5:
            assert time.monotonic() < deadline
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the study ended with {process.wait(0.05)}")
        yield folder
    finally:
        process.kill()
        process.wait()


def test_what_trains_now_is_shown_with_its_curve_and_its_rank(running):
    numbers = Numbers(hpo.load(running))
    text = "\n".join(line.plain for line in screen(numbers, 80, 24))
    assert "running  running" in text
    assert "ranks 1/1 busy  ■" in text
    (line,) = [line for line in text.splitlines() if "rank 0 " in line]
    assert "step     5" in line
    assert "█" in line
    assert "▁" in line
    status = said("status", running)
    assert "1 of 1 busy" in status
    assert "0 done, 1 running" in status


# ---- watch


def drawn_until(terminal, wanted, deadline):
    """What has come from a terminal until all of some texts are in it."""
    text = ""
    while not all(each in text for each in wanted):
        left = deadline - time.monotonic()
        assert left > 0, f"{wanted} not in {text[-2000:]}"
        if select.select([terminal], [], [], left)[0]:
            try:
                text += os.read(terminal, 65536).decode(errors="replace")
            except OSError:  # the other end was closed
                break
    return text


def test_watch_draws_a_study_and_leaves_with_q(tmp_path):
    result = run(tmp_path / "study", trials=100_000, time_limit=0.5)
    assert not result.finished
    before = (tmp_path / "study/study.h5").read_bytes()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [*OPENHPO, "watch", str(tmp_path / "study")], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    try:
        drawn_until(ours, ["study", "suspended", "q leaves"], time.monotonic() + 60)
        os.write(ours, b"q")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert (tmp_path / "study/study.h5").read_bytes() == before


def test_watch_needs_a_terminal(asha):
    assert "watch needs a terminal to draw on" in said("watch", asha.path, status=2)


# ---- lists


def test_the_best_can_be_pasted(asha):
    config = asha.best.config
    assert tomllib.loads(said("best", asha.path, "--toml")) == config
    assert eval(said("best", asha.path, "--python")) == config
    three = tomllib.loads(said("best", asha.path, "--toml", "--top", "3"))["best"]
    assert three == [found.config for found in asha.top(3)]
    assert "choose one of" in said("best", asha.path, "--toml", "--json", status=2)


def test_trials_are_filtered_and_sorted(asha):
    rows = json.loads(said("trials", asha.path, "--json", "--sort", "best", "--top", "5"))
    assert [row["trial"] for row in rows] == [found.trial for found in asha.top(5)]
    rows = json.loads(said("trials", asha.path, "--json", "--where", "lr < 0.01", "--where", "optimizer == sgd"))
    expected = [t for t, config in enumerate(asha.configs) if config["lr"] < 0.01 and config["optimizer"] == "sgd"]
    assert [row["trial"] for row in rows] == expected
    failed = list(csv.DictReader(io.StringIO(said("trials", asha.path, "--csv", "--where", "state = failed"))))
    assert [int(row["trial"]) for row in failed] == [failure["trial"] for failure in asha.failures]
    last = json.loads(said("trials", asha.path, "--json", "--sort", "val_loss", "--reverse"))
    told = [row["val_loss"] for row in last]
    assert told == sorted([value for value in told if value is not None], reverse=True) + [None] * told.count(None)
    assert json.loads(said("trials", asha.path, "--json", "--where", "lr<0.01", "--where", "optimizer=sgd")) == rows
    by_rate = json.loads(said("trials", asha.path, "--json", "--sort", "lr", "--reverse"))
    assert [row["lr"] for row in by_rate] == sorted((config["lr"] for config in asha.configs), reverse=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--where", "lt < 3"], "trials have no 'lt': there are trial, state"),
        (["--where", "widht < 3"], "Did you mean 'width'?"),
        (["--where", "lr"], "--where takes a comparison"),
        (["--where", "lr < small"], "lr is a number, and 'small' is none"),
        (["--sort", "los"], "trials have no 'los'"),
    ],
)
def test_mistakes_in_a_filter_are_told(words, message, asha):
    assert message in said("trials", asha.path, *words, status=2)


def test_the_status_tells_how_configurations_with_replicates_stand(replicated):
    failed = sum(1 for one in replicated.candidates if one.state is hpo.State.FAILED)
    assert f"{24 - failed} done, {failed} failed, of 24" in said("status", replicated.path)


def test_a_study_without_a_result_gives_screens_and_no_traceback(tmp_path):
    run(tmp_path / "failed", lambda trial: iter([{"val_loss": 1 / 0}]), engine=hpo.Full(1), trials=3)
    assert "3 failed" in said("status", tmp_path / "failed")
    assert "failed" in said("trials", tmp_path / "failed")
    run(tmp_path / "one", train, trials=1)
    assert "1 done" in said("status", tmp_path / "one")
