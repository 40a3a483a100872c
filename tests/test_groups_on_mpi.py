"""Trials that several ranks train together, on real MPI."""

import json
import sys

import numpy
import pytest

import openhpo as hpo

from .conftest import ROOT

SCRIPT = str(ROOT / "tests/groups_on_mpi.py")
PATHS = f"{ROOT}:{ROOT / 'apps'}"


@pytest.fixture
def run(mpi, tmp_path):
    """Run cases on so many ranks; return what each came to."""

    def start(ranks, *cases, options=()):
        marker = str(tmp_path / "marker")
        done = mpi.run(ranks, SCRIPT, str(tmp_path), *cases, options=options, timeout=240, PYTHONPATH=PATHS, MARKER=marker)
        assert done.returncode == 0, done.stderr[-3000:]
        return [hpo.load(tmp_path / case) for case in cases]

    return start


def groups(result):
    """The ranks of each stage that had several."""
    events = result.tables.events
    rows = events[events["kind"] == b"stage_group"]
    return [tuple(json.loads(result.tables.text(int(row["text_at"]), int(row["text_size"])))) for row in rows]


def test_pairs_of_ranks_train_the_same_bits_each_time_and_what_one_rank_does_with_the_doubled_batch(run):
    pairs, again, doubled = run(5, "pairs", "pairs again", "doubled batch")
    assert (pairs.curves("size") == 2).all()
    assert (pairs.curves("leads") == 1).all()
    assert (pairs.curves("alike") == 1).all()
    assert len(groups(pairs)) == 4
    assert all(len(set(ranks)) == 2 for ranks in groups(pairs))
    assert numpy.array_equal(pairs.curves("fingerprint"), again.curves("fingerprint"))
    assert numpy.allclose(pairs.curves("val_loss"), doubled.curves("val_loss"), rtol=1e-9)
    assert not numpy.array_equal(pairs.curves("fingerprint"), doubled.curves("fingerprint"))
    assert pairs.best.value > 0.8


def test_all_ranks_train_one_trial_and_others_have_as_many_as_they_ask_for(run):
    five, some, comm, returning = run(5, "five", "some", "comm", "returning")
    assert (five.curves("size") == 5).all()
    assert {tuple(sorted(ranks)) for ranks in groups(five)} == {(0, 1, 2, 3, 4)}
    wanted = [2 if config["lr"] > 0.25 else 1 for config in some.configs]
    assert set(wanted) == {1, 2}
    assert some.curves("size")[:, 0].tolist() == wanted
    assert (comm.curves("total") == 3).all()
    assert returning.curves("size").shape == (4, 2)


def test_groups_that_take_turns_on_the_same_ranks_are_each_formed_anew(run):
    (turns,) = run(3, "turns")
    assert turns.finished
    assert not turns.failures
    assert turns.curves("size")[:, 0].tolist() == [2, 3] * 4
    assert (turns.curves("alike") == 1).all()


@pytest.mark.parametrize("ranks", [2, 5])
def test_trials_are_paused_stopped_copied_and_continued_on_groups_of_another_size(run, ranks):
    halving, doubling, median, pbt, growing = run(ranks, "halving", "doubling", "median", "pbt", "growing")
    assert all(result.finished and not result.failures for result in (halving, doubling, median, pbt, growing))
    assert sum(state.value == "done" for state in halving.states) >= 1
    for curve in doubling.curves("size"):
        assert (
            curve[~numpy.isnan(curve)].tolist() == [min(2**rung, ranks) for rung in (0, 1, 2, 2)][: numpy.isfinite(curve).sum()]
        )
    assert (doubling.curves("alike")[numpy.isfinite(doubling.curves("alike"))] == 1).all()
    assert any(state.value == "stopped" for state in median.states)
    assert any(kind == b"trial_forked" for kind in pbt.tables.events["kind"].tolist())
    assert growing.curves("size").tolist() == [[min(size, ranks) for size in (1, 1, 2, 2, 4, 4)]]


@pytest.mark.parametrize("member", [0, 1])
def test_what_one_member_raises_fails_the_trial_with_that_error_and_the_study_goes_on(run, member):
    (result,) = run(3, f"raise {member}")
    assert result.finished
    for config, state in zip(result.configs, result.states, strict=True):
        assert state.value == ("failed" if config["trouble"] else "done")
    assert result.failures
    for failure in result.failures:
        assert f"on purpose, on member {member}" in failure["traceback"].splitlines()[-1]
        assert "trouble(trial, number)" in failure["traceback"]


@pytest.mark.parametrize("member", [0, 1])
def test_what_runs_out_of_memory_is_trained_again_on_more_ranks(run, member):
    """Member 0 of one rank runs out of it; of two ranks, member 0 or 1 does."""
    (result,) = run(3, f"memory {member}")
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
@pytest.mark.parametrize("member", [0, 1])
def test_a_member_that_is_killed_ends_the_step_for_its_group_and_the_study_finishes(mpi, run, member):
    if mpi.name != "openmpi":
        pytest.skip("only Open MPI survives deaths")
    (result,) = run(5, f"die {member}", options=("--with-ft", "ulfm"))
    assert result.finished
    assert not result.failures
    assert all(state.value == "done" for state in result.states)
    assert result.tables.events["kind"].tolist().count(b"trainer_lost") == 1
