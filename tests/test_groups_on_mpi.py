"""Trials that several ranks train together, on real MPI."""

import functools
import json
import sys

import numpy
import pytest

import openhpo as hpo
from openhpo.report.numbers import Numbers
from openhpo.storage import schema

from .conftest import ROOT, mpis

HEAVY = 200_000_000  # bytes that one rank of the case of this name takes
SCRIPT = str(ROOT / "tests/groups_on_mpi.py")


# what one launch may train for all tests that look at it, by the number of ranks
SHARED = {
    5: ["pairs", "pairs again", "doubled batch", "five", "some", "returning", "halving", "doubling", "growing"],
    3: ["raise 0", "raise 1", "memory 0", "memory 1", "turns", "heavy", "comm", "comm of two", "comm of three", "comm raises"],
    2: ["halving", "doubling", "median", "pbt", "growing"],
}


def profiles(result):
    """What the study file says of the stages that came to their end, in order."""
    ended = result.tables.events[result.tables.events["kind"] == schema.STAGE_ENDED.encode()]
    return [json.loads(result.tables.text(int(row["text_at"]), int(row["text_size"]))) for row in ended]


@pytest.fixture(scope="module", params=mpis(), ids=lambda mpi: mpi.name)
def launch(request, tmp_path_factory):
    """Run cases on so many ranks; return what each came to, by name."""

    def start(ranks, *cases, options=()):
        folder = tmp_path_factory.mktemp("groups")
        paths, marker = f"{ROOT}:{ROOT / 'apps'}", str(folder / "marker")
        done = request.param.run(
            ranks, SCRIPT, str(folder), *cases, options=options, timeout=300, PYTHONPATH=paths, MARKER=marker
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return {case: hpo.load(folder / case) for case in cases}

    start.mpi = request.param
    return start


@pytest.fixture(scope="module")
def ran(launch):
    """The same, each number of ranks once."""
    return functools.cache(lambda ranks: launch(ranks, *SHARED[ranks]))


def test_pairs_of_ranks_train_the_same_bits_each_time_and_what_one_rank_does_with_the_doubled_batch(ran):
    pairs, again, doubled = (ran(5)[name] for name in ("pairs", "pairs again", "doubled batch"))
    assert (pairs.curves("size") == 2).all()
    assert (pairs.curves("leads") == 1).all()
    assert (pairs.curves("alike") == 1).all()
    assert len(pairs.groups) == 4
    assert all(len(set(ranks)) == 2 for ranks in pairs.groups.values())
    spans = Numbers(pairs).spans
    assert sorted((span.stage, span.rank) for span in spans) == sorted(
        (s, rank) for s, ranks in pairs.groups.items() for rank in ranks
    )
    assert numpy.array_equal(pairs.curves("fingerprint"), again.curves("fingerprint"))
    assert numpy.allclose(pairs.curves("val_loss"), doubled.curves("val_loss"), rtol=1e-9)
    assert not numpy.array_equal(pairs.curves("fingerprint"), doubled.curves("fingerprint"))
    assert pairs.best.value > 0.8


def test_all_ranks_train_one_trial_and_others_have_as_many_as_they_ask_for(ran):
    five, some, returning = (ran(5)[name] for name in ("five", "some", "returning"))
    assert (five.curves("size") == 5).all()
    assert {tuple(sorted(ranks)) for ranks in five.groups.values()} == {(0, 1, 2, 3, 4)}
    wanted = [2 if config["lr"] > 0.25 else 1 for config in some.configs]
    assert set(wanted) == {1, 2}
    assert some.curves("size")[:, 0].tolist() == wanted
    assert returning.curves("size").shape == (4, 2)


def test_training_over_the_groups_communicator_does_what_one_rank_does(ran):
    alone, two, three = (ran(3)[name] for name in ("comm", "comm of two", "comm of three"))
    for result, size in ((alone, 1), (two, 2), (three, 3)):
        assert not result.failures
        assert (result.curves("size") == size).all()
        assert (result.curves("total") == size * (size + 1) / 2).all()
        assert (result.curves("right") == 1).all()
        assert numpy.allclose(result.curves("val_accuracy"), alone.curves("val_accuracy"), rtol=1e-9)
    assert alone.curves("val_accuracy")[0, -1] > alone.curves("val_accuracy")[0, 0]


def test_a_member_that_raises_wakes_those_that_wait_in_an_operation_of_the_communicator(ran):
    result = ran(3)["comm raises"]
    assert result.finished
    troubled = [config["member"] >= 0 for config in result.configs]
    assert [state.value == "failed" for state in result.states] == troubled
    assert len(result.failures) == sum(troubled)
    for failure in result.failures:
        config = result.configs[failure["trial"]]
        said = f"on purpose, on member {config['member']}, instead of {config['operation']}"
        assert said in failure["traceback"].splitlines()[-1]
    kinds = result.tables.events["kind"].tolist()
    assert b"trainer_lost" not in kinds
    assert kinds.count(b"trainer_ready") == 3


def test_groups_that_take_turns_on_the_same_ranks_are_each_formed_anew(ran):
    turns = ran(3)["turns"]
    assert turns.finished
    assert not turns.failures
    assert turns.curves("size")[:, 0].tolist() == [2, 3] * 4
    assert (turns.curves("alike") == 1).all()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks of the host's memory are Linux's")
def test_the_peak_of_a_stage_is_that_of_the_rank_which_took_most(ran):
    heavy = ran(3)["heavy"]
    assert (heavy.curves("size")[:, :2] == 3).all()
    first = [profile for profile in profiles(heavy) if profile["steps"] == 2]
    leaders = heavy.curves("own")[:, :2].max(axis=1)
    assert len(first) == len(leaders) == 3
    for profile, own, config in zip(first, leaders, heavy.configs, strict=True):
        assert profile["peak"] > own - HEAVY / 10  # Linux counts what is resident by the batch
        if config["heavy"] != 0:
            assert profile["peak"] > own + HEAVY / 2


@pytest.mark.parametrize("ranks", [2, 5])
def test_trials_are_paused_stopped_copied_and_continued_on_groups_of_another_size(ran, ranks):
    results = ran(ranks)
    assert all(result.finished for result in results.values())
    halving, doubling, growing = (results[name] for name in ("halving", "doubling", "growing"))
    assert not any(result.failures for result in (halving, doubling, growing))
    assert sum(state.value == "done" for state in halving.states) >= 1
    for curve in doubling.curves("size"):
        assert (
            curve[~numpy.isnan(curve)].tolist() == [min(2**rung, ranks) for rung in (0, 1, 2, 2)][: numpy.isfinite(curve).sum()]
        )
    assert (doubling.curves("alike")[numpy.isfinite(doubling.curves("alike"))] == 1).all()
    if ranks == 2:
        assert any(state.value == "stopped" for state in results["median"].states)
        assert any(kind == b"trial_forked" for kind in results["pbt"].tables.events["kind"].tolist())
    assert growing.curves("size").tolist() == [[min(size, ranks) for size in (1, 1, 2, 2, 4, 4)]]


@pytest.mark.parametrize("member", [0, 1])
def test_what_one_member_raises_fails_the_trial_with_that_error_and_the_study_goes_on(ran, member):
    result = ran(3)[f"raise {member}"]
    assert result.finished
    for config, state in zip(result.configs, result.states, strict=True):
        assert state.value == ("failed" if config["trouble"] else "done")
    assert result.failures
    for failure in result.failures:
        assert f"on purpose, on member {member}" in failure["traceback"].splitlines()[-1]
        assert "trouble(trial, number)" in failure["traceback"]


@pytest.mark.parametrize("member", [0, 1])
def test_what_runs_out_of_memory_is_trained_again_on_more_ranks(ran, member):
    """Member 0 of one rank runs out of it; of two ranks, member 0 or 1 does."""
    result = ran(3)[f"memory {member}"]
    assert result.finished
    kinds = result.tables.events["kind"].tolist()
    troubled = [number for number, config in enumerate(result.configs) if config["trouble"]]
    assert troubled
    if member == 0:
        assert b"stage_exhausted" in kinds
        assert all(result.states[number].value == "failed" for number in troubled)
        assert all("memory" in failure["traceback"] for failure in result.failures)
    else:  # one rank alone never has a member 1
        assert b"stage_exhausted" not in kinds
        assert all(state.value == "done" for state in result.states)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ULFM is tried on Linux")
@pytest.mark.parametrize("case", ["die 0", "die 1"])
def test_a_member_that_is_killed_ends_the_step_for_its_group_and_the_study_finishes(launch, case):
    if launch.mpi.name != "openmpi":
        pytest.skip("only Open MPI survives deaths")
    result = launch(5, case, options=("--with-ft", "ulfm"))[case]
    assert result.finished
    assert not result.failures
    assert all(state.value == "done" for state in result.states)
    assert result.tables.events["kind"].tolist().count(b"trainer_lost") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ULFM is tried on Linux")
def test_where_a_rank_is_dead_and_mpi_makes_no_communicator_the_run_ends_and_the_same_command_continues_it(launch, tmp_path):
    if launch.mpi.name != "openmpi":
        pytest.skip("only Open MPI survives deaths")
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'apps'}", "MARKER": str(tmp_path / "marker")}
    command = (SCRIPT, str(tmp_path), "die over MPI")
    done = launch.mpi.run(5, *command, options=("--with-ft", "ulfm"), **environment)
    assert done.returncode != 0
    assert "MPI makes no new communicator for trial.comm; the same command continues the study" in done.stderr
    done = launch.mpi.run(4, *command, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    result = hpo.load(tmp_path / "die over MPI")
    assert result.finished
    assert not result.failures
