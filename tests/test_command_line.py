"""The commands, as a stranger meets them."""

import json
import os
import re
import sys

import pytest

from openhpo.launcher import LAUNCHER, TERMINAL, find_launcher
from openhpo.place import OURS, THREAD_VARIABLES, share_threads

from .conftest import ROOT, finished

BRANIN = str(ROOT / "apps/branin.py")


@pytest.mark.parametrize(
    "command",
    [[], ["run"], ["run", "grid"], ["run", "random"], ["run", "sobol"], ["best"], ["status"], ["doctor"], ["replay"]]
    + [["run", method] for method in ("bayes", "halving", "asha", "hyperband", "bohb", "matching", "median", "pbt")],
)
def test_every_command_explains_itself(command, openhpo):
    done = openhpo(*command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert len(done.stdout.splitlines()) > 8


@pytest.mark.parametrize("what", ["import openhpo", "import sys; sys.argv = ['openhpo', '--help']; import openhpo.__main__"])
def test_the_package_and_its_help_import_nothing_heavy(what):
    heavy = ["torch", "h5py", "scipy", "ConfigSpace", "mpi4py", "sklearn", "matplotlib"]
    check = f"import atexit, sys\natexit.register(lambda: print('loaded', [m for m in {heavy} if m in sys.modules]))\n{what}"
    done = finished([sys.executable, "-c", check])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"


METHODS = {
    "bayes": ["--trials", "16"],
    "halving": ["--trials", "27", "--steps", "9"],
    "asha": ["--trials", "20", "--steps", "8", "--reduction-factor", "2", "--sampler", "sobol"],
    "hyperband": ["--steps", "9"],
    "bohb": ["--steps", "9", "--random-fraction", "0.2"],
    "matching": ["--trials", "16", "--accumulation", "5", "--checkpoint", "4", "--checkpoint", "8", "--threshold", "0.4"],
    "median": ["--trials", "16", "--grace", "3", "--startup", "4"],
    "pbt": ["--trials", "8", "--interval", "2", "--mutate", "x"],
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_from_the_command_line_and_tells_what_it_found(method, openhpo):
    done = openhpo("run", method, BRANIN, *METHODS[method], "--study", "study")
    assert done.returncode == 0, done.stderr
    assert "best of" in done.stdout
    status = openhpo("status", "study").stdout
    assert "finished" in status
    assert "done, 0 failed" in status


def test_a_grid_goes_with_every_method(openhpo):
    done = openhpo(
        "run", "asha", BRANIN, "--sampler", "grid", "--axis", "x=4", "--axis", "y=0.0,5.0", "--steps", "9", "--study", "s"
    )
    assert done.returncode == 0, done.stderr
    assert "best of 8 trials" in done.stdout


@pytest.mark.parametrize("method", ["bayes", "bohb"])
def test_axes_are_refused_where_no_grid_is_searched(method, openhpo):
    done = openhpo("run", method, BRANIN, "--axis", "x=4", "--study", "s")
    assert (done.returncode, done.stderr) == (2, "error: --axis goes with --sampler grid, not with tpe\n")


def test_replay_trains_a_fresh_model_with_the_winners_schedule(openhpo):
    digits = str(ROOT / "apps/digits_mlp.py")
    assert openhpo("run", "pbt", digits, "--trials", "6", "--steps", "6", "--interval", "2", "--study", "s").returncode == 0
    done = openhpo("replay", "s")
    assert done.returncode == 0, done.stderr
    recorded, fresh = re.findall(r"val_accuracy.*: ([\d.]+) at step \d", done.stdout)
    assert recorded == fresh
    assert openhpo("replay", "s", "--seed", "7").returncode == 0  # into another folder
    assert openhpo("replay", "s", "--trial", "99").stderr == "error: there is no trial 99; there are 6, counted from 0\n"


def test_best_and_status_tell_what_a_study_found(openhpo):
    openhpo("run", "sobol", BRANIN, "--trials", "16", "--study", "study")
    shown = openhpo("best", "study").stdout
    as_json = json.loads(openhpo("best", "study", "--json").stdout)["best"][0]
    assert f"trial {as_json['trial']} at step 20, minimize loss" in shown
    assert f"{as_json['value']:.6g}" in shown
    assert set(as_json["config"]) == {"x", "y"}
    assert len(json.loads(openhpo("best", "study", "--top", "5", "--json").stdout)["best"]) == 5
    assert openhpo("best", "study", "--top", "3").stdout.count("│ ") >= 9
    status = openhpo("status", "study").stdout
    assert "finished" in status
    assert "16 done, 0 failed, of 16" in status
    assert json.loads(openhpo("status", "study", "--json").stdout)["steps"] == 320


def test_a_batch_log_gets_plain_lines(openhpo):
    done = openhpo("run", "random", BRANIN, "--trials", "4", "--study", "study")
    assert re.search(
        r"^\[0:00:\d\d\] 4/4 trials, 80 steps in 0:00:\d\d, best [\d.]+ \(trial \d, step 20\)$", done.stderr, re.MULTILINE
    )
    assert "\x1b" not in done.stdout + done.stderr


def test_a_terminal_gets_a_bar(openhpo):
    done = openhpo("run", "random", BRANIN, "--trials", "4", "--study", "study", **{TERMINAL: "100"})
    assert "━" in done.stderr
    assert "4/4 trials" in done.stderr


def test_progress_can_be_turned_off(openhpo):
    assert openhpo("run", "random", BRANIN, "--trials", "4", "--study", "study", "--no-progress").stderr == ""


def test_the_command_line_overrides_the_app(openhpo):
    command = [
        "run",
        "random",
        BRANIN,
        "--trials",
        "4",
        "--steps",
        "3",
        "--set",
        "x=1",
        "--maximize",
        "wide",
        "--require",
        "loss < 1000",
    ]
    done = openhpo(*command, "--derive", "wide=2 * loss", "--study", "study", "--json")
    best = json.loads(done.stdout)["best"][0]
    assert best["config"]["x"] == 1
    assert best["value"] == pytest.approx(2 * best["metrics"]["loss"])


def test_a_grid_on_the_command_line_takes_counts_values_and_single_values(openhpo):
    done = openhpo("run", "grid", BRANIN, "--axis", "x=3", "--axis", "y=5,", "--steps", "1", "--study", "study", "--json")
    assert json.loads(done.stdout)["trials"] == 3


def test_an_app_may_be_a_module_with_neighbours(openhpo, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/neighbour.py").write_text("")
    (tmp_path / "mine/app.py").write_text(
        (ROOT / "apps/branin.py").read_text().replace("import math", "import math, neighbour")
    )
    assert openhpo("run", "random", "mine.app", "--trials", "2").returncode == 0
    assert (tmp_path / "runs/app-random/study.h5").exists()


def test_an_app_that_lacks_one_of_its_own_imports_shows_which(openhpo, tmp_path):
    (tmp_path / "app.py").write_text("import not_installed_anywhere\n")
    done = openhpo("run", "random", "app", "--trials", "2")
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'not_installed_anywhere'" in done.stderr


@pytest.mark.parametrize("ranks", [1, 3])
def test_doctor_reports_every_rank(mpi, ranks, tmp_path):
    done = mpi.run(ranks, "-m", "openhpo", "doctor", "--study", str(tmp_path))
    assert done.returncode == 0, done.stderr
    names = {"openmpi": "Open MPI", "mpich": "MPICH"}
    for said in (
        names[mpi.name],
        "thread level",
        "ULFM",
        "HDF5",
        "file locks",
        "ranks per node",
        f"{ranks - 1} of {ranks}",
        "cpu",
    ):
        assert said in done.stdout, said


def test_doctor_sees_ulfm_where_it_is_on(mpi, tmp_path):
    if mpi.name != "openmpi":
        pytest.skip("an option of Open MPI")
    done = mpi.run(2, "-m", "openhpo", "doctor", "--study", str(tmp_path), options=("--with-ft", "ulfm"))
    assert re.search(r"ULFM\s+yes", done.stdout)


def test_the_grid_driver_prints_its_points_and_draws_two_axes(tmp_path):
    command = [sys.executable, str(ROOT / "drivers/grid.py"), BRANIN, "--axis", "x=3", "--axis", "y=0,7.5,15", "--steps", "2"]
    done = finished([*command, "--study", str(tmp_path / "study"), "--x", "y", "--y", "x"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 9
    picture = tmp_path / "study/grid.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 5000
    wrong = finished([*command, "--study", str(tmp_path / "study"), "--x", "z"])
    assert wrong.returncode == 2
    assert "the heat map cannot show 'z': the grid varies x, y" in wrong.stderr


def test_threads_are_shared_unless_the_user_chose(monkeypatch):
    for name in (*THREAD_VARIABLES, OURS):
        monkeypatch.delenv(name, raising=False)
    share_threads(3)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    share_threads(2)  # ours may change
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.delenv(OURS)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    share_threads(2)
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_any_launcher_can_be_named():
    assert find_launcher({LAUNCHER: "srun --mpi=pmix", "PATH": ""}) == ["srun", "--mpi=pmix"]


def test_a_launcher_of_another_mpi_is_noticed(tmp_path):
    environment = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}
    done = finished(
        [sys.executable, "-m", "openhpo", "run", "random", BRANIN, "--trials", "2", "--study", "s"],
        environment={**environment, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "the launcher started 4 ranks, but MPI sees 1" in done.stderr


def test_the_app_in_readme_runs_as_shown(openhpo, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    app = next(block for block in blocks if "def train(trial)" in block)
    script = next(block for block in blocks if "hpo.run(" in block)
    (tmp_path / "my_app.py").write_text(app)
    done = openhpo("run", "random", "my_app.py", "--trials", "8", "--json")
    assert json.loads(done.stdout)["best"][0]["value"] < 0.3
    assert openhpo("run", "grid", "my_app.py", "--axis", "lr=4", "--axis", "degree=3,6,9").returncode == 0
    (tmp_path / "my_study.py").write_text(script)
    done = finished([sys.executable, "my_study.py"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(64, 200)" in done.stdout
