"""What users get wrong: each a message that names the culprit and the remedy, status 2, no traceback, no half-made study."""

import os
import re
import sys
import sysconfig
import textwrap

import pytest

import openhpo as hpo

from .conftest import ROOT, finished
from .environment import MPI_ENVIRONMENT

BRANIN = str(ROOT / "apps/branin.py")

GOOD = """
    import openhpo as hpo

    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    objective = hpo.Minimize("loss")
    max_steps = 2

    def train(trial):
        while True:
            yield {"loss": trial["x"], "accuracy": 1.0}
"""


def app(tmp_path, *changes):
    """An app file: a good one, with changes."""
    text = textwrap.dedent(GOOD)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "my_app.py").write_text(text)
    return "my_app.py"


def refused(done, *said):
    """Check that a command refused politely."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for text in said:
        assert text in " ".join(done.stderr.split()), done.stderr


CASES = {
    "no_such_file": (None, ["random", "nowhere.py"], ["there is no app nowhere.py", "does not exist"]),
    "no_such_module": (None, ["random", "nowhere"], ["there is no app 'nowhere'"]),
    "no_train": ([("def train", "def trian")], ["random", "my_app.py"], ["has no `train`"]),
    "no_space": ([("space =", "spice =")], ["random", "my_app.py"], ["has no `space`"]),
    "never_yielded": (
        [],
        ["random", "my_app.py", "--maximize", "acuracy"],
        ["the metric 'acuracy' was never yielded: train yields accuracy, loss", "Did you mean 'accuracy'?"],
    ),
    "no_number": ([('trial["x"]', '"low"')], ["random", "my_app.py"], ["the metric 'loss' is no number", "'low' (str)"]),
    "no_dictionary": ([('{"loss": trial["x"], "accuracy": 1.0}', "0.5")], ["random", "my_app.py"], ["train yielded 0.5"]),
    "no_objective": ([("objective", "target")], ["random", "my_app.py"], ["--maximize METRIC or --minimize METRIC"]),
    "two_objectives": ([], ["random", "my_app.py", "--maximize", "a", "--minimize", "b"], ["not both"]),
    "no_steps": ([("max_steps", "most")], ["random", "my_app.py"], ["--steps"]),
    "unknown_method": ([], ["rando", "my_app.py"], ["No such command 'rando'", "random"]),
    "unknown_option": ([], ["random", "my_app.py", "--trails", "3"], ["No such option: --trails", "--trials"]),
    "no_app": ([], ["random"], ["APP"]),
    "lower_above_upper": ([("0.0, 1.0", "1.0, 0.0")], ["random", "my_app.py"], ["'x'", "lower bound 1.0 is not below"]),
    "log_with_zero": ([("(0.0, 1.0)", "(0.0, 1.0), log=True")], ["random", "my_app.py"], ["'x'", "log=True", "above 0"]),
    "grid_without_count": ([], ["grid", "my_app.py"], ["a grid over 'x' needs a count or values", "x=5"]),
    "grid_of_unknown": ([], ["grid", "my_app.py", "--axis", "y=3"], ["axis 'y'", "does not exist"]),
    "grid_outside": ([], ["grid", "my_app.py", "--axis", "x=0.5,2.0"], ["axis 'x' holds 2.0"]),
    "axis_without_value": ([], ["grid", "my_app.py", "--axis", "x"], ["--axis 'x'", "NAME=VALUE"]),
    "fix_unknown": ([], ["random", "my_app.py", "--set", "y=3"], ["there is no hyperparameter 'y'"]),
    "fix_outside": ([], ["random", "my_app.py", "--set", "x=3"], ["x cannot be 3"]),
    "unknown_sampler": ([], ["asha", "my_app.py", "--sampler", "sobel"], ["no sampler 'sobel'", "Did you mean 'sobol'?"]),
    "axis_without_grid": ([], ["asha", "my_app.py", "--axis", "x=3"], ["--axis goes with --sampler grid"]),
    "eta_of_one": ([], ["halving", "my_app.py", "--trials", "9", "--reduction-factor", "1"], ["reduction_factor", "not 1"]),
    "rung_above_steps": ([], ["asha", "my_app.py", "--trials", "9", "--min-steps", "9"], ["min_steps is 9", "max_steps, 2"]),
    "population_of_one": ([], ["pbt", "my_app.py", "--trials", "1"], ["two members at least"]),
    "mutate_unknown": ([], ["pbt", "my_app.py", "--trials", "4", "--mutate", "lr"], ["mutate names 'lr'", "not searched"]),
    "nothing_tracked": ([], ["pbt", "my_app.py", "--trials", "8"], ["train never calls trial.track"]),
    "late_checkpoint": (
        [],
        ["matching", "my_app.py", "--trials", "9", "--checkpoint", "2"],
        ["checkpoints have to lie between"],
    ),
    "size_of_nothing": ([], ["asha", "my_app.py", "--trials", "9", "--state-memory", "much"], ["--state-memory 'much'", "4G"]),
    "endless_part": (
        [("hpo.Float((0.0, 1.0))", "hpo.Chain(hpo.Constant(0.1), hpo.Constant(0.2))")],
        ["random", "my_app.py"],
        ["'x'", "needs an end"],
    ),
    "zero_trials": ([], ["random", "my_app.py", "--trials", "0"], ["number of trials", "above 0"]),
    "negative_seed": ([], ["random", "my_app.py", "--seed", "-1"], ["the seed", "from 0 on"]),
    "zero_steps": ([], ["random", "my_app.py", "--steps", "0"], ["number of steps", "at least 1"]),
    "bad_requirement": ([], ["random", "my_app.py", "--require", "loss == 3"], ["'loss == 3' is no requirement"]),
    "unknown_device": ([], ["random", "my_app.py", "--device", "abacus"], ["there is no device 'abacus'"]),
    "unknown_state_dtype": ([], ["random", "my_app.py", "--state-dtype", "int8"], ["states cannot be stored in 'int8'"]),
    "precision_that_is_none": (
        [('"x": hpo.Float((0.0, 1.0))', '"x": hpo.Float((0.0, 1.0)), "precision": hpo.Categorical(["fp32", "bf61"])')],
        ["random", "my_app.py"],
        ["the hyperparameter 'precision'", "there is no precision 'bf61'", "Did you mean 'bf16'?"],
    ),
    "unknown_precision": ([], ["random", "my_app.py", "--precision", "fp3"], ["there is no precision 'fp3'"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_named(case, openhpo, tmp_path):
    changes, command, said = CASES[case]
    if changes is not None:
        app(tmp_path, *changes)
    if "--trials" not in command and command[0] == "random":
        command = [*command, "--trials", "3"]
    refused(openhpo("run", *command, "--study", "study"), *said)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    "case", ["no_such_file", "no_space", "never_yielded", "no_number", "grid_without_count", "unknown_option"]
)
def test_a_mistake_on_several_ranks_is_said_once_and_nobody_hangs(case, mpi, tmp_path):
    changes, command, said = CASES[case]
    path = str(tmp_path / app(tmp_path, *(changes or [])))
    command = [path if argument == "my_app.py" else argument for argument in command]
    if command[0] == "random":
        command += ["--trials", "3"]
    done = mpi.run(3, "-m", "openhpo", "run", *command, "--study", str(tmp_path / "study"), timeout=60)
    refused(done, *said)
    assert done.stderr.count("error:") == 1
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("supervised", [False, True], ids=["mpiexec", "--ranks"])
def test_a_mistake_that_one_rank_alone_makes_ends_the_job(mpi, supervised, tmp_path):
    only_here = "import os\nif os.environ.get('OMPI_COMM_WORLD_RANK', os.environ.get('PMI_RANK')) == '1': del space\n"
    path = tmp_path / app(tmp_path)
    path.write_text(path.read_text() + only_here)
    command = ["-m", "openhpo", "run", "random", str(path), "--trials", "3", "--study", str(tmp_path / "study")]
    if supervised:
        done = finished([str(mpi.python), *command, "--ranks", "3"], 60, MPI_ENVIRONMENT)
    else:
        done = mpi.run(3, *command, timeout=60)
    assert done.returncode != 0
    assert "rank 1: error:" in done.stderr
    assert "has no `space`" in done.stderr
    assert "the same command" not in done.stderr


def test_a_folder_with_another_study_is_refused_and_kept(openhpo, mpi, tmp_path):
    app(tmp_path)
    assert openhpo("run", "random", "my_app.py", "--trials", "3", "--study", "study").returncode == 0
    before = (tmp_path / "study/study.h5").read_bytes()
    refused(
        openhpo("run", "sobol", "my_app.py", "--trials", "3", "--study", "study"),
        'study holds another study: its sampler is "Random", and here it is "Sobol"',
        "another --study",
    )
    refused(
        openhpo("run", "random", "my_app.py", "--trials", "3", "--set", "x=0.5", "--study", "study"),
        "its space: fixed: x is null, and here it is 0.5",
    )
    command = ["-m", "openhpo", "run", "random", str(tmp_path / "my_app.py"), "--trials", "3", "--seed", "1"]
    refused(mpi.run(2, *command, "--study", str(tmp_path / "study")), "its seed is 0, and here it is 1")
    assert (tmp_path / "study/study.h5").read_bytes() == before


def test_ranks_without_any_launcher_are_refused(tmp_path):
    app(tmp_path)
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.symlink_to(os.path.realpath(sys.executable))
    paths = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
    done = finished(
        [str(python), "-m", "openhpo", "run", "random", "my_app.py", "--trials", "3", "--ranks", "2", "--study", "study"],
        environment={"PYTHONPATH": paths, "PATH": str(python.parent)},
        cwd=tmp_path,
    )
    refused(done, "--ranks needs a launcher", "mpiexec", "leave --ranks away")
    assert not (tmp_path / "study").exists()


def test_a_study_that_cannot_be_read_is_named(openhpo, tmp_path):
    refused(openhpo("best", "nowhere"), "there is no study at nowhere", "--study")
    (tmp_path / "text.h5").write_text("no HDF5 at all")
    refused(openhpo("status", "text.h5"), "text.h5 cannot be read as a study")


def test_a_study_folder_that_cannot_be_written_is_named(openhpo, tmp_path):
    app(tmp_path)
    (tmp_path / "file").write_text("in the way")
    refused(openhpo("run", "random", "my_app.py", "--trials", "3", "--study", "file/study"), "cannot be written to file/study")


FAILING = [('yield {"loss": trial["x"], "accuracy": 1.0}', 'yield {"loss": 1 / (trial.number % 2)}')]


def test_an_exception_in_training_fails_its_trial_and_the_study_goes_on(mpi, tmp_path):
    path = tmp_path / app(tmp_path, *FAILING)
    done = mpi.run(2, "-m", "openhpo", "run", "random", str(path), "--trials", "6", "--study", str(tmp_path / "study"))
    assert done.returncode == 0, done.stderr
    result = hpo.load(tmp_path / "study")
    assert [state.value for state in result.states] == ["failed", "done"] * 3
    for failure in result.failures:
        assert "ZeroDivisionError" in failure["traceback"]
        assert "my_app.py" in failure["traceback"]
        assert failure["rank"] == result.tables.stages["rank"][failure["trial"]]
    assert "3 trials failed" in done.stdout


def test_a_command_whose_trials_all_fail_says_so_and_exits_1(openhpo, tmp_path):
    app(tmp_path, ('trial["x"]', "1 / 0"))
    done = openhpo("run", "random", "my_app.py", "--trials", "3", "--study", "study")
    assert done.returncode == 1
    assert "no trial of 3 has a result; 3 failed" in done.stdout
    assert "ZeroDivisionError: division by zero" in done.stdout
    assert len(hpo.load(tmp_path / "study").failures) == 3


def test_a_metric_that_is_not_finite_never_wins(openhpo, tmp_path):
    app(tmp_path, ('{"loss": trial["x"]', '{"loss": [float("nan"), float("-inf"), 0.5][trial.number % 3]'))
    done = openhpo("run", "random", "my_app.py", "--trials", "3", "--study", "study")
    assert done.returncode == 0, done.stderr
    assert re.search(r"trial 2 at step 1", done.stdout)


def test_a_bug_in_openhpo_itself_ends_all_ranks_with_a_full_traceback(mpi, tmp_path):
    path = tmp_path / app(tmp_path, ("import openhpo as hpo", "import openhpo as hpo, openhpo.coordinator, openhpo.workload"))
    path.write_text(path.read_text() + "\nopenhpo.workload.Workload.tell = lambda *arguments: 1 / 0\n")
    done = mpi.run(
        3, "-m", "openhpo", "run", "random", str(path), "--trials", "6", "--study", str(tmp_path / "study"), timeout=30
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "'coordinator' on rank 0 failed while handling Reports" in done.stderr


@pytest.mark.parametrize("ranks", ["1", "2"])
@pytest.mark.parametrize("module", ["torch", "sklearn"])
def test_an_app_whose_library_is_not_installed_names_the_extra(module, ranks, openhpo, tmp_path):
    name = app(tmp_path, ("import openhpo as hpo", f"import {module}\nimport openhpo as hpo"))
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module named {module}', name='{module}')")
    done = openhpo("run", "random", name, "--trials", "2", "--ranks", ranks, "--device", "cpu", **MPI_ENVIRONMENT)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"my_app.py needs {module}, which is not installed: pip install 'openhpo[apps]'" in done.stderr
