"""How somebody begins: a starter app, and what is around."""

import subprocess
import sys

import openhpo as hpo


def test_the_starter_app_runs_as_it_is_and_pauses_and_goes_on(openhpo, tmp_path):
    assert "openhpo run random my_app.py" in openhpo("new", "my_app").stdout
    done = openhpo("run", "asha", "my_app.py", "--trials", "9", "--study", "s")
    assert done.returncode == 0, done.stderr
    assert hpo.load(tmp_path / "s").best.value < 0.2
    again = openhpo("new", "my_app.py")
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_a_name_that_is_no_module_is_refused(openhpo):
    done = openhpo("new", "my-app.py")
    assert done.returncode == 2
    assert "cannot be imported as a module" in done.stderr


def test_run_without_an_app_tells_what_is_around_and_imports_none_of_it(openhpo, tmp_path):
    assert "There is no app here" in openhpo("run", "random").stderr
    (tmp_path / "mine.py").write_text('"""My training."""\nprint("imported")\nspace = 1\ndef train(trial): ...\n')
    (tmp_path / "other.py").write_text("x = 1\n")
    done = openhpo("run", "random")
    assert done.returncode == 2
    assert "mine.py  My training." in done.stderr
    assert "other.py" not in done.stderr
    assert "imported" not in done.stdout + done.stderr


def test_looking_at_studies_loads_no_heavy_package(tmp_path):
    hpo.run(
        lambda trial: iter([{"loss": trial["x"]}]),
        hpo.Space({"x": hpo.Float((0.0, 1.0))}),
        hpo.Minimize("loss"),
        engine=hpo.Full(1),
        trials=3,
        study=tmp_path / "s",
        progress=False,
    )
    for command in ("status", "best", "trials"):
        code = (
            "import sys\nfrom openhpo.cli.main import app\n"
            f"app([{command!r}, {str(tmp_path / 's')!r}], standalone_mode=False)\n"
            "heavy = {'plotly', 'pandas', 'sklearn', 'torch', 'tensorboardX', 'matplotlib', 'scipy', 'mpi4py'}\n"
            "heavy &= set(sys.modules)\n"
            "assert not heavy, heavy\n"
        )
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
