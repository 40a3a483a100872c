"""Starting under MPI, which must not start itself again and again."""

import sys

from .conftest import ROOT, finished


def test_one_rank_runs_in_this_process_and_starts_no_launcher(tmp_path):
    command = [sys.executable, "-m", "openhpo", "run", "random", str(ROOT / "apps/branin.py"), "--trials", "2", "--ranks", "1"]
    done = finished([*command, "--study", "s"], environment={"OPENHPO_LAUNCHER": "false"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_ranks_that_do_not_know_of_each_other_are_refused_instead_of_starting_more(tmp_path):
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')  # starts one process, which is told nothing
    launcher.chmod(0o755)
    command = [sys.executable, "-m", "openhpo", "run", "random", str(ROOT / "apps/branin.py"), "--trials", "2", "--ranks", "3"]
    done = finished([*command, "--study", "s"], environment={"OPENHPO_LAUNCHER": f"'{launcher}'"}, cwd=tmp_path)
    assert done.returncode == 2
    assert "tells it nothing of other ranks" in done.stderr
    assert "Traceback" not in done.stderr
