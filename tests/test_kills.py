"""Runs whose processes are really killed, a few times; `python -m tests.kills` does more."""

import os
import random
import signal
import sys

import pytest

import openhpo as hpo

from . import kills
from .conftest import launchers_folder
from .environment import MPI_ENVIRONMENT
from .test_studies import eventually

ULFM = ["--with-ft", "ulfm"]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the ranks through /proc")


@pytest.fixture
def runs(mpi, tmp_path):
    def make(name, method, *launcher, seconds=None):
        environment = {**MPI_ENVIRONMENT, "TMPDIR": launchers_folder()}
        made = kills.Runs(tmp_path / name, mpi.python, method, list(launcher), environment)
        made.train(seconds)
        return made

    return make


@pytest.fixture
def ulfm(mpi):
    if mpi.name != "openmpi":
        pytest.skip("only Open MPI survives deaths")


@pytest.mark.parametrize(("method", "seconds"), [("halving", None), ("random", 0.1)], ids=["halving of networks", "random"])
def test_after_kill_9_of_all_ranks_the_study_goes_on_to_what_it_would_have_been(runs, mpi, method, seconds):
    calm, killed = runs("calm", method, seconds=seconds), runs("killed", method, seconds=seconds)
    calm.finish(2)
    kills.kill_everything(killed, random.Random(f"{mpi.name} {method}"), 3)
    killed.finish(3)
    killed.check()
    kills.check_equal(calm.study, killed.study)


@pytest.mark.parametrize(("method", "seed", "seconds"), [("asha", 1, 0.1), ("pbt", 2, None), ("random", 3, 0.2)])
def test_trainers_that_are_killed_are_survived_and_every_acknowledged_report_is_there_once(runs, ulfm, method, seed, seconds):
    study = runs("study", method, *ULFM, seconds=seconds)
    assert kills.kill_trainers(study, random.Random(seed)) > 0
    assert kills.losses(study) > 0
    kills.check_legal(study, method)


@pytest.mark.parametrize("launcher", [[], ULFM], ids=["plain", "ulfm"])
def test_a_rank_that_is_stopped_is_given_up_within_its_lease_and_the_study_finishes(runs, mpi, launcher):
    if launcher and mpi.name != "openmpi":
        pytest.skip("only Open MPI survives deaths")
    study = runs("study", "random", *launcher, seconds=0.2)
    with study.start(4, "--lease", "2s") as process:
        kills.wait_for_reports(study, process, 3)
        ranks = {rank: this for this, rank in kills.processes_of(process.pid).items()}
        os.kill(ranks[2], signal.SIGSTOP)
        status = kills.waited(process, study.errors)
    assert status == 0, study.errors.read_text()
    assert "rank 2 is lost: it has not been heard of for 2 s" in study.errors.read_text()
    assert hpo.load(study.study).finished
    study.check()
    eventually(lambda: not alive(ranks[2]) or None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_ranks_whose_coordinator_is_gone_leave_by_themselves_and_the_same_command_continues(runs, ulfm, number):
    study = runs("study", "asha", *ULFM, seconds=0.1)
    with study.start(4, "--lease", "2s") as process:
        kills.wait_for_reports(study, process, 3)
        ranks = {rank: this for this, rank in kills.processes_of(process.pid).items()}
        os.kill(ranks[0], number)
        status = kills.waited(process, study.errors)
    assert status not in (0, 1, 2), study.errors.read_text()
    assert "rank 0, which coordinates" in study.errors.read_text()
    assert "Traceback" not in study.errors.read_text()
    eventually(lambda: not any(alive(this) for rank, this in ranks.items() if rank > 0) or None)
    kills.kill({ranks[0]: 0})  # one that is stopped cannot leave
    study.check()
    study.finish(3)
    study.check()
    kills.check_legal(study, "asha")


def test_without_ulfm_the_death_of_a_rank_ends_the_job_with_a_clear_line_and_the_same_command_continues(runs, mpi, tmp_path):
    study = runs("study", "asha", seconds=0.1)
    study.supervised()
    with study.start(4, "--ranks", "4") as process:
        kills.wait_for_reports(study, process, 3)
        ranks = {rank: this for this, rank in kills.processes_of(process.pid).items()}
        os.kill(ranks[2], signal.SIGKILL)
        status = kills.waited(process, study.errors)
    assert status not in (0, 2), study.errors.read_text()
    assert "the same command continues the study" in study.errors.read_text()
    assert "Traceback" not in study.errors.read_text()
    study.check()
    study.finish(0, "--ranks", "3")
    study.check()
    kills.check_legal(study, "asha")


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
