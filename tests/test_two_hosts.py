"""A study across two hosts, whose wire is cut, whose ranks stand still and of which one dies."""

import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import openhpo as hpo
from openhpo.storage import schema

from . import kills
from .conftest import Mpi, launchers_folder, mpis
from .environment import MPI_ENVIRONMENT
from .two_hosts import Study, TwoHosts, two_hosts, until, why_not

LEASE = 2.0
NEAR, FAR = {0, 1}, {2, 3}  # the ranks of each host
DEVICE = ["--device", "cpu"]  # where it is named, what does not use torch does not load it
OPTIONS = ["--lease", f"{LEASE:g}s", "--trials", "12", "--steps", "8", *DEVICE]
STEP = 0.05  # seconds
STARTING = 120  # seconds at most until all ranks train; a few on an idle machine
SLACK = 5  # seconds for a busy machine, beside what is promised
ENDING = 20  # seconds: a launcher that cannot reach a host is ended by force after 5

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="network namespaces are Linux's")


@dataclass(frozen=True)
class Launched:
    """An MPI, and how its launcher is to take a death."""

    mpi: Mpi
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.mpi.name}-ulfm" if self.options else self.mpi.name

    def study(self, hosts: TwoHosts, folder: Path, method: str = "random") -> Study:
        environment = {**MPI_ENVIRONMENT, "TMPDIR": launchers_folder()}
        return Study(hosts, folder, self.mpi.name, self.mpi.python, self.options, environment, method)


# Open MPI starts its daemons on other hosts by a command line in which a path with spaces falls apart
MPIS = [mpi for mpi in mpis() if mpi.name != "openmpi" or " " not in str(mpi.python)]
PLAIN = [Launched(mpi) for mpi in MPIS]
ALL = [*PLAIN, *(Launched(mpi, ("--with-ft", "ulfm")) for mpi in MPIS if mpi.name == "openmpi")]


@pytest.fixture(scope="module")
def both():
    if reason := why_not():
        pytest.skip(reason)
    with two_hosts(Path(launchers_folder())) as hosts:
        yield hosts


@pytest.fixture
def hosts(both):
    yield both
    both.mend()


@pytest.fixture(scope="module")
def calm(both, tmp_path_factory):
    """The study that nothing happens to, on one host."""
    study = PLAIN[0].study(both, tmp_path_factory.mktemp("calm"))
    study.train(0)
    study.finish(1, *OPTIONS)
    return study.study


@pytest.fixture
def study(hosts, launched, tmp_path):
    """A study of short steps on both hosts."""
    study = launched.study(hosts, tmp_path / "both")
    study.train(STEP)
    return study


@pytest.fixture(scope="module")
def digits(both, tmp_path_factory):
    """A study of networks, whose states go from rank to rank, on one host."""
    study = PLAIN[0].study(both, tmp_path_factory.mktemp("digits"), "halving")
    study.finish(1, *DEVICE)
    return study.study


@pytest.mark.parametrize("launched", PLAIN, ids=str)
def test_a_study_across_two_hosts_trains_on_both_and_comes_to_what_it_does_on_one(hosts, launched, digits, tmp_path):
    study = launched.study(hosts, tmp_path, "halving")
    study.finish(4, *DEVICE)
    study.check()
    kills.check_equal(digits, study.study)
    names = {rank: json.loads(ready["text"])["host"] for rank, ready in study.events(schema.READY).items()}
    assert names == {0: hosts.near, 1: hosts.near, 2: hosts.far, 3: hosts.far}
    assert study.trained() == NEAR | FAR


@pytest.mark.parametrize("launched", ALL, ids=str)
def test_with_the_wire_cut_the_study_finishes_on_the_near_host_and_the_far_ranks_leave(hosts, study, calm, launched):
    supervised = launched in PLAIN
    if supervised:
        study.supervised()
    with running(study) as process:
        hosts.cut()
        gone = until(lambda: study.events(schema.LEFT).keys() == FAR, LEASE + SLACK, "the far ranks are given up")
        until(lambda: not hosts.ranks(hosts.far), 1.5 * LEASE + SLACK - gone, "the far ranks leave")
        status = ended(process, hosts)
    # Open MPI's mpiexec waits for the far host for ever, so rank 0 has it killed, and tells its supervisor that all is well
    assert status in ({0} if supervised else {0, -signal.SIGKILL}), study.errors.read_text()
    check_went_on(study, FAR)
    kills.check_equal(calm, study.study)


@pytest.mark.parametrize("launched", ALL, ids=str)
def test_a_rank_on_the_far_host_that_stands_still_is_given_up_and_nothing_waits_for_it(hosts, study, calm):
    with running(study) as process:
        os.kill(hosts.ranks(hosts.far)[2], signal.SIGSTOP)
        until(lambda: study.events(schema.LEFT).keys() == {2}, LEASE + SLACK, "the rank is given up")
        status = ended(process, hosts)
        until(lambda: not hosts.processes(hosts.far), SLACK, "all on the far host ends, the rank that stands still included")
    assert status == 0, study.errors.read_text()
    check_went_on(study, {2})
    kills.check_equal(calm, study.study)


@pytest.mark.parametrize("launched", ALL, ids=str)
def test_a_far_host_that_dies_ends_the_job_and_the_near_host_finishes_the_study(hosts, study, calm):
    study.supervised()
    with running(study) as process:
        hosts.end(hosts.far)
        status = ended(process, hosts)
    told = study.errors.read_text()
    assert "Traceback" not in told
    # ranks that live to be told to end by their launcher stop in order; else they are killed, and their supervisor says so
    in_order = hpo.load(study.study).phase in ("suspended", "finished")
    assert (status == 0) == in_order, told
    assert status != 2
    assert "the same command" in told or hpo.load(study.study).finished
    study.check()
    study.train(0)
    study.finish(2, *OPTIONS)
    study.check()
    kills.check_equal(calm, study.study)


@pytest.mark.parametrize("launched", PLAIN, ids=str)
def test_a_trial_on_as_many_ranks_as_a_host_has_gets_those_of_one_host(hosts, launched, tmp_path):
    study = launched.study(hosts, tmp_path)
    study.train_together(0, 2)
    study.finish(4, *OPTIONS)
    groups = hpo.load(study.study).groups
    assert len(groups) == 12
    assert {frozenset(group) for group in groups.values()} == {frozenset(NEAR), frozenset(FAR)}


@pytest.mark.parametrize("names", ["resolved", "looping"])
@pytest.mark.parametrize("launched", PLAIN, ids=str)
def test_a_trial_on_more_ranks_than_a_host_has_trains_across_both(hosts, launched, names, tmp_path):
    study = launched.study(hosts, tmp_path)
    study.train_together(0, 3)
    with hosts.looping() if names == "looping" else contextlib.nullcontext():
        study.finish(4, *OPTIONS)
    result = hpo.load(study.study)
    assert not result.failures
    assert (result.curves("size") == 3).all()
    for group in result.groups.values():
        assert set(group) & NEAR
        assert set(group) & FAR


@pytest.mark.parametrize("launched", ALL, ids=str)
def test_the_death_of_the_host_that_followers_live_on_ends_their_step_and_the_near_host_finishes_the_study(hosts, study):
    study.train_together(STEP, 3)
    study.supervised()
    with running(study, lambda: spanning(study)) as process:
        hosts.end(hosts.far)
        status = ended(process, hosts)
    told = study.errors.read_text()
    assert "Traceback" not in told
    assert status != 2
    assert "the same command" in told or hpo.load(study.study).finished
    assert not hpo.load(study.study).failures
    study.check()
    study.train_together(0, 3)
    study.finish(2, *OPTIONS)
    study.check()
    result = hpo.load(study.study)
    assert not result.failures
    assert set(result.curves("size")[-1]) <= {2, 3}


def spanning(study):
    """Whether a step was trained by a group of ranks of both hosts that is led from the near one."""
    if not (study.study / schema.FILE).exists():
        return False
    result = hpo.load(study.study)
    reported = set(result.tables.reports["stage"].tolist())
    return any(stage in reported and group[0] in NEAR and set(group) & FAR for stage, group in result.groups.items())


@contextlib.contextmanager
def running(study, trains=None):
    """Start it on both hosts, and go on when all ranks are training, or what else is to be awaited."""
    trains = trains or (lambda: study.trained() == NEAR | FAR)
    process = study.start(4, *OPTIONS)
    try:
        until(lambda: trains() or process.poll() is not None, STARTING, "all ranks train")
        assert process.poll() is None, study.errors.read_text()
        yield process
    finally:
        process.kill()  # what it started is ended with the hosts
        process.wait()


def ended(process, hosts):
    """Wait until the run is over and nothing of it is left on the near host; return its status."""
    status = process.wait(ENDING)
    until(lambda: not hosts.programs(hosts.near), ENDING, "nothing is left on the near host", lambda: hosts.state(hosts.near))
    return status


def check_went_on(study, without):
    """The study is finished and whole, and others trained after those ranks were lost."""
    assert hpo.load(study.study).finished
    lost = study.events(schema.LEFT)
    assert lost.keys() == without
    assert all(f"not been heard of for {LEASE:g} s" in loss["text"] for loss in lost.values())
    after = study.trained(max(loss["time"] for loss in lost.values()))
    assert after
    assert not after & without
    study.check()
    assert "Traceback" not in study.errors.read_text()
