"""Starting under MPI, which must not start itself again and again."""

import sys

import pytest

from .conftest import ROOT, finished

RANK = """
import os, signal, sys
from openhpo.actors import Actor, Interrupted, handles, run_actors
from openhpo.actors.local import local_transports
from openhpo.launcher import relaunch

relaunch(2)

class Asked(Actor):
    def on_start(self):
        os.kill(os.getpid(), signal.SIGTERM)

    @handles(Interrupted)
    def on_interrupted(self, message, sender):
        self.stop()
"""


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


@pytest.mark.parametrize(
    ("act", "launchers", "told", "status"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "a rank died (its launcher says 137)", 137),
        ("os.kill(os.getpid(), signal.SIGKILL)", 1, "a rank died (its launcher says 1)", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", 2, "", 2),
        ("os._exit(0)", 0, "a rank died (its launcher says 0)", 1),
        ("sys.exit(2)", 2, "", 2),
        ("1 / 0", 1, "ZeroDivisionError: division by zero", 1),
        ("run_actors(lambda rank, size: {}, transport=local_transports(1)[0])", 0, "", 0),
        (
            "run_actors(lambda rank, size: {'asked': Asked()}, transport=local_transports(1)[0])",
            0,
            "asked to end by its launcher",
            0,
        ),
        (
            "run_actors(lambda *_: {'asked': Asked()}, transport=local_transports(1)[0])",
            143,
            "a rank died (its launcher says 143)",
            143,
        ),
    ],
)
def test_whatever_a_launcher_says_its_supervisor_tells_whether_a_rank_died_or_was_asked_to_end(
    tmp_path, act, launchers, told, status
):
    launcher, program = tmp_path / "launcher", tmp_path / "program.py"
    launcher.write_text(f'#!/bin/sh\nshift 2\nPMI_SIZE=2 PMI_RANK=0 "$@"\nexit {launchers}\n')
    launcher.chmod(0o755)
    program.write_text(f"{RANK}\n{act}\n")
    done = finished([sys.executable, str(program)], environment={"OPENHPO_LAUNCHER": f"'{launcher}'"}, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert told in done.stderr
    assert done.stderr.count("the same command continues") == ("rank died" in told or "asked" in told)
