"""What is exported is read back by those whom it is for, with the same numbers."""

import csv
import importlib.util
import io
import json
import math
import subprocess
import sys

import numpy
import pytest

from openhpo.report.exports import EXPORTS
from openhpo.report.numbers import Numbers


def needs(module):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"needs {module}")


def test_csv_has_all_trials_and_all_curves(asha, tmp_path):
    trials, curves = (list(csv.DictReader(io.StringIO(file.read_text()))) for file in EXPORTS["csv"](asha, tmp_path / "tables"))
    assert [float(row["param_lr"]) for row in trials] == [config["lr"] for config in asha.configs]
    assert len(curves) == len(asha.tables.reports)
    table = asha.curves()
    for row in curves:
        assert float(row["val_loss"]) == table[int(row["trial"]), int(row["step"]) - 1]


def test_json_has_all_of_it(replicated, tmp_path):
    (file,) = EXPORTS["json"](replicated, tmp_path / "study.json")
    content = json.loads(file.read_text())
    assert content["definition"] == replicated.definition
    assert content["best"] == replicated.best.trial
    best = content["trials"][content["best"]]
    assert best["value"] == replicated.best.value
    assert len(best["curves"]) == 2


@needs("pyarrow")
def test_parquet_has_the_tables(asha, tmp_path):
    import pandas

    trials, curves = (pandas.read_parquet(file) for file in EXPORTS["parquet"](asha, tmp_path / "tables"))
    assert trials["param_width"].tolist() == [config["width"] for config in asha.configs]
    assert len(curves) == len(asha.tables.reports)


@needs("optuna")
def test_optuna_loads_a_study_with_the_same_best_curves_and_parameters(asha, tmp_path):
    import optuna

    (file,) = EXPORTS["optuna"](asha, tmp_path / "study.db")
    study = optuna.load_study(study_name=asha.path.name, storage=f"sqlite:///{file}")
    assert study.best_value == pytest.approx(
        min(c.value for c in Numbers(asha).candidates if c.state.value == "done" and c.met)
    )
    table = asha.curves()
    for trial, config in zip(study.trials, asha.configs, strict=True):
        assert trial.params == config
        told = table[trial.number]
        assert trial.intermediate_values == {step + 1: told[step] for step in numpy.flatnonzero(~numpy.isnan(told)).tolist()}
    names = {state.name for state in {trial.state for trial in study.trials}}
    assert names == {"COMPLETE", "PRUNED", "FAIL"}


@needs("tensorboardX")
@needs("tensorboard")
def test_tensorboard_reads_the_same_scalars_and_hyperparameters(replicated, tmp_path):
    code = """
import json, sys
from pathlib import Path
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    events = EventAccumulator(str(folder)); events.Reload()
    scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    found[folder.name] = [scalars, sorted(events.PluginTagToContent("hparams"))]
print(json.dumps(found))
"""
    (folder,) = EXPORTS["tensorboard"](replicated, tmp_path / "runs")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    curves = replicated.curves()
    assert len(found) == len(curves) == 48
    for trial, (scalars, tags) in enumerate(found.values()):
        told = curves[trial][~numpy.isnan(curves[trial])]
        assert scalars.get("val_loss", []) == pytest.approx(told.tolist(), rel=1e-6)
        assert "_hparams_/session_start_info" in tags
        best = Numbers(replicated).candidates[trial // 2].value
        assert math.isnan(best) or scalars["best/val_loss"] == pytest.approx([best], rel=1e-6)


@needs("optuna")
@needs("optuna_dashboard")
@pytest.mark.filterwarnings("ignore")  # of what it uses itself
def test_optuna_dashboard_shows_the_same_trials(asha, tmp_path):
    from wsgiref.util import setup_testing_defaults

    from optuna_dashboard import wsgi

    (file,) = EXPORTS["optuna"](asha, tmp_path / "study.db")
    application = wsgi(f"sqlite:///{file}")

    def asked(path, query=""):
        environment, status = {"PATH_INFO": path, "QUERY_STRING": query}, []
        setup_testing_defaults(environment)
        body = b"".join(application(environment, lambda said, headers, error=None: status.append(said)))
        assert status == ["200 OK"]
        return json.loads(body)

    (study,) = asked("/api/studies")["study_summaries"]
    shown = asked(f"/api/studies/{study['study_id']}", "after=0")
    assert len(shown["trials"]) == len(asha.configs)
    values = {trial["number"]: trial["values"][0] for trial in shown["trials"] if trial["state"] == "Complete"}
    numbers = Numbers(asha)
    assert values == {one.number: one.value for one in numbers.candidates if one.state.value == "done"}


@needs("mlflow")
def test_mlflow_reads_the_same_metrics_and_parameters(replicated, tmp_path):
    code = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{sys.argv[1]}")
(experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
found = {}
for run in client.search_runs([experiment.experiment_id], max_results=1000):
    history = {name: [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}
    found[run.data.tags["openhpo.trial"]] = [run.data.params, history, run.info.status]
print(json.dumps(found))
"""
    (file,) = EXPORTS["mlflow"](replicated, tmp_path / "runs.db")
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    curves = replicated.curves()
    assert len(found) == len(curves)
    for trial, told in enumerate(curves):
        parameters, history, status = found[str(trial)]
        assert parameters == {name: str(value) for name, value in replicated.configs[trial].items()}
        steps = numpy.flatnonzero(~numpy.isnan(told)).tolist()
        assert sorted(history.get("val_loss", [])) == [[step + 1, told[step]] for step in steps]
        assert (status == "FAILED") == (replicated.states[trial].value == "failed")
