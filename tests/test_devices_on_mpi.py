"""Ranks of a node agree on who takes which device, and say so."""

import json

import openhpo as hpo
from openhpo.storage import schema

from .conftest import ROOT

SCRIPT = str(ROOT / "tests/pretended_devices.py")
BRANIN = str(ROOT / "apps/branin.py")


def run(mpi, folder, sees, *options):
    ranks = len(sees.split())
    return mpi.run(
        ranks, SCRIPT, "run", "random", BRANIN, "--trials", "2", "--study", str(folder), *options, PRETENDED=sees, timeout=120
    )


def ready(folder):
    """What the ranks said when they joined, and what was told besides."""
    tables = hpo.load(folder).tables
    texts = {schema.READY: {}, schema.TROUBLE: {}}
    for event in tables.events:
        if event["kind"].decode() in texts:
            text = tables.text(int(event["text_at"]), int(event["text_size"]))
            texts[event["kind"].decode()][int(event["rank"])] = text
    return {rank: json.loads(text) for rank, text in texts[schema.READY].items()}, list(texts[schema.TROUBLE].values())


def test_each_rank_takes_its_own_device_and_the_study_file_says_which(mpi, tmp_path):
    done = run(mpi, tmp_path / "s", "A,B A,B A,B", "--dedicated-coordinator")
    assert done.returncode == 0, done.stderr
    found, troubles = ready(tmp_path / "s")
    assert {rank: said["identity"] for rank, said in found.items()} == {1: "A", 2: "B"}
    assert troubles == []


def test_too_many_ranks_for_the_devices_are_refused_once(mpi, tmp_path):
    done = run(mpi, tmp_path / "s", "A,B A,B A,B")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("would both take A") == 1
    assert "--share-devices" in done.stderr
    assert not (tmp_path / "s").exists()


def test_ranks_share_where_they_are_told_to(mpi, tmp_path):
    done = run(mpi, tmp_path / "s", "A A", "--share-devices")
    assert done.returncode == 0, done.stderr
    found, troubles = ready(tmp_path / "s")
    assert [(said["identity"], said["shared"]) for said in found.values()] == [("A", True)] * 2
    assert troubles == []
    assert "same device" not in done.stderr


def test_ranks_that_may_have_the_same_device_train_and_are_warned_of_once(mpi, tmp_path):
    done = run(mpi, tmp_path / "s", "A? A? A?")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("seem to train on the same device (A)") == 1
    assert len(ready(tmp_path / "s")[1]) == 1


def test_doctor_shows_devices_and_warns_of_those_that_two_ranks_have(mpi):
    wide = {"COLUMNS": "200", "timeout": 120}
    done = mpi.run(3, SCRIPT, "doctor", PRETENDED="A,B A,B A,B", **wide)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert said.count("warning:") == 1
    assert "local ranks 0 and 2 would both take A" in said
    said = " ".join(mpi.run(2, SCRIPT, "doctor", PRETENDED="A? A?", **wide).stdout.split())
    assert "warning: ranks 0 and 1 of" in said
    said = " ".join(mpi.run(2, SCRIPT, "doctor", PRETENDED="A B", **wide).stdout.split())
    assert "warning" not in said
