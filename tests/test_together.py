"""Several studies in one job, and studies that go on from what earlier ones have trained."""

import json
import shutil
import threading
from pathlib import Path

import numpy
import pytest

import openhpo as hpo
from openhpo.cli.together import split, words_of
from openhpo.storage import schema

from . import schedules
from .conftest import ROOT

SPACE, LOSS, STEPS, train = schedules.space, schedules.objective, schedules.max_steps, schedules.train
GAIN = hpo.Maximize("gain")


def plan(space=SPACE, objective=LOSS, engine=None, sampler=None, **more):
    return hpo.Plan(space=space, objective=objective, engine=engine or hpo.Full(STEPS), sampler=sampler or hpo.Grid(), **more)


PLANS = {
    "part": plan(SPACE.fix({"momentum": 0.9})),
    "all": plan(objective=GAIN),
    "asha": plan(engine=hpo.ASHA(STEPS, 1, 3), sampler=hpo.Random(), trials=12),
}
QUIET = {"progress": False, "device": "cpu"}


def together(folder, plans=PLANS, **more):
    return hpo.run_together(train, plans, study=folder, **QUIET, **more)


def alone(folder, plan, **more):
    return hpo.run(
        train,
        plan.space,
        plan.objective,
        engine=plan.engine,
        sampler=plan.sampler,
        trials=plan.trials,
        study=folder,
        **QUIET,
        **more,
    )


def steps(result):
    """The steps that were trained, to bring back a state again included."""
    stages = result.tables.stages
    return int((stages["stop"] - stages["start"])[stages["ranks"] > 0].sum())


def test_each_study_is_read_as_if_it_had_run_by_itself(tmp_path):
    results = together(tmp_path / "job")
    assert list(results) == ["part", "all", "asha"]
    for name in ("part", "all"):
        by_itself = alone(tmp_path / name, PLANS[name])
        mine = results[name]
        assert mine.configs == by_itself.configs
        assert numpy.array_equal(mine.curves("weights"), by_itself.curves("weights"))
        assert numpy.array_equal(mine.curves(), by_itself.curves())
        assert mine.best == by_itself.best
        assert mine.finished
        assert (mine.states, mine.steps.tolist()) == (by_itself.states, by_itself.steps.tolist())
        assert mine.used.steps == len(by_itself.tables.reports)
        assert [mine.lineage(3)[-1].stop, mine.lineage(3)[0].start] == [STEPS, 0]
        assert len(mine.trials) == len(by_itself.trials)
    assert results["asha"].best.value == min(
        results["asha"].curves()[:, :].ravel()[~numpy.isnan(results["asha"].curves()).ravel()]
    )
    whole = len(hpo.load(tmp_path / "all").tables.reports)
    assert sum(result.used.trained for result in results.values()) == whole  # the others are parts of that grid
    assert sum(result.used.others for result in results.values()) > 0


def test_studies_of_a_job_are_found_by_their_folders(tmp_path):
    together(tmp_path / "job", {name: PLANS[name] for name in ("part", "asha")})
    assert list(hpo.load_together(tmp_path / "job")) == ["part", "asha"]
    assert list(hpo.load_together(tmp_path / "job" / "asha")) == ["asha"]
    assert hpo.load(tmp_path / "job" / "asha").path == tmp_path / "job" / "asha"
    with pytest.raises(hpo.UserError, match="holds 2 studies; name one of them: .*job/part, .*job/asha"):
        hpo.load(tmp_path / "job")
    with pytest.raises(hpo.UserError, match="holds no study 'ahsa'.*Did you mean 'asha'"):
        hpo.load(tmp_path / "job" / "ahsa")
    alone(tmp_path / "one", PLANS["part"])
    assert list(hpo.load_together(tmp_path / "one")) == ["one"]


def test_a_job_is_continued_and_may_be_given_more_trials(tmp_path):
    interrupted = threading.Event()

    class Interrupt(hpo.Callback):
        def on_report(self, trial, step, metrics):
            if trial == 3 and not interrupted.is_set():
                import os
                import signal

                interrupted.set()
                os.kill(os.getpid(), signal.SIGTERM)

    plans = {"part": PLANS["part"], "asha": hpo.Plan(**{**vars(PLANS["asha"]), "callbacks": [Interrupt()]})}
    results = together(tmp_path / "job", plans)
    assert interrupted.is_set()
    assert [result.phase for result in results.values()] == ["suspended", "suspended"]
    results = together(tmp_path / "job", {"part": PLANS["part"], "asha": PLANS["asha"]})
    assert all(result.finished for result in results.values())
    uninterrupted = together(tmp_path / "other", {"part": PLANS["part"], "asha": PLANS["asha"]})
    assert numpy.array_equal(results["part"].curves("weights"), uninterrupted["part"].curves("weights"))
    more = hpo.Plan(**{**vars(PLANS["asha"]), "trials": 20})
    results = together(tmp_path / "job", {"part": PLANS["part"], "asha": more})
    assert len(results["asha"].configs) == 20
    assert all(result.finished for result in results.values())
    with pytest.raises(hpo.UserError, match="another study: its studies: asha: "):
        together(tmp_path / "job", {"part": PLANS["part"], "asha": plan(engine=hpo.ASHA(9, 1, 3), trials=20)})
    with pytest.raises(hpo.UserError, match="job/asha holds this study with 20 trials, and here it has 3"):
        together(tmp_path / "job", {"part": PLANS["part"], "asha": hpo.Plan(**{**vars(PLANS["asha"]), "trials": 3})})


def test_callbacks_are_told_of_their_own_study_alone(tmp_path):
    class Notes(hpo.Callback):
        def __init__(self):
            self.told = []
            self.steps = set()

        def on_start(self, folder, definition):
            self.told.append((folder, definition["engine"]))

        def on_report(self, trial, step, metrics):
            self.steps.add((trial, step))

        def on_end(self, phase):
            self.told.append(phase)

    notes = {"part": Notes(), "asha": Notes()}
    plans = {name: hpo.Plan(**{**vars(PLANS[name]), "callbacks": [notes[name]]}) for name in notes}
    results = together(tmp_path / "job", plans)
    for name, engine in (("part", "Full"), ("asha", "ASHA")):
        assert notes[name].told == [(tmp_path / "job" / name, engine), "finished"]
        curves = results[name].curves()
        assert notes[name].steps == {(trial, step + 1) for trial, step in numpy.argwhere(~numpy.isnan(curves)).tolist()}


@pytest.mark.parametrize("name", ["", "a b", "../x", "checkpoints", "earlier"])
def test_a_name_that_is_no_folder_is_refused(tmp_path, name):
    with pytest.raises(hpo.UserError, match="cannot be called"):
        together(tmp_path / "job", {name: PLANS["part"], "other": PLANS["asha"]})


def test_a_trial_that_was_stopped_has_no_steps_that_others_trained_on(tmp_path):
    stopping = plan(engine=hpo.ASHA(STEPS, 2, 3, stopping=True))
    results = together(tmp_path / "job", {"asha": stopping, "all": PLANS["all"]})
    stopped = [trial for trial, state in enumerate(results["asha"].states) if state is hpo.State.STOPPED]
    assert stopped
    events = results["asha"].tables.events
    for trial in stopped:
        step = int(events["step"][(events["kind"] == b"trial_stopped") & (events["trial"] == trial)][-1])
        assert results["asha"].steps[trial] == step < STEPS
        assert numpy.isnan(results["asha"].curves()[trial, step:]).all()


def failing(trial):
    while True:
        if trial["momentum"] == 0.5:
            raise ValueError("too little momentum")
        yield {"loss": 1.0}


def test_a_failure_of_a_shared_stage_has_its_traceback_in_each_study(tmp_path):
    results = hpo.run_together(failing, {"one": plan(), "two": plan()}, study=tmp_path / "job", **QUIET)
    for result in results.values():
        assert len(result.failures) == 16
        assert all("in failing" in failure["traceback"] for failure in result.failures)


def test_a_metric_that_only_a_study_needs_which_trains_nothing_is_named(tmp_path):
    with pytest.raises(hpo.UserError, match="'speed' was never yielded"):
        together(tmp_path / "job", {"one": PLANS["part"], "two": plan(PLANS["part"].space, hpo.Minimize("speed"))})


def test_what_is_in_the_place_of_a_study_is_left_alone(tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "part").write_text("mine")
    with pytest.raises(hpo.UserError, match="the folder .*job/part cannot be made"):
        together(tmp_path / "job")
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["part"]
    alone(tmp_path / "other" / "asha", PLANS["asha"])
    with pytest.raises(hpo.UserError, match="other/asha holds a study of its own"):
        together(tmp_path / "other")
    together(tmp_path / "jobs")
    with pytest.raises(hpo.UserError, match="jobs/asha is one of the studies of .*jobs, which run together"):
        alone(tmp_path / "jobs" / "asha", PLANS["asha"])
    with pytest.raises(hpo.UserError, match="holds several studies that share a tree, and here there are one study by itself"):
        alone(tmp_path / "jobs", PLANS["asha"])


def test_a_job_that_learns_from_an_earlier_study_goes_on_when_that_is_gone(tmp_path):
    alone(tmp_path / "old", PLANS["part"])
    plans = {"bayes": plan(sampler=hpo.TPE(), trials=6, warm_start=tmp_path / "old"), "part": PLANS["part"]}
    together(tmp_path / "job", plans)
    shutil.rmtree(tmp_path / "old")
    plans["bayes"] = plan(sampler=hpo.TPE(), trials=9, warm_start=tmp_path / "old")
    assert len(together(tmp_path / "job", plans)["bayes"].configs) == 9


def test_a_member_does_not_copy_one_that_has_reached_its_target(tmp_path):
    target = hpo.Minimize(hpo.first_step("loss <= 2.4"))
    space = hpo.Space({"lr": hpo.Float((0.1, 1.0)), "momentum": 0.9})
    for seed in range(6):
        population = plan(space, target, hpo.PopulationBased(20, 2), hpo.Random(), trials=8)
        result = alone(tmp_path / str(seed), population, seed=seed)
        assert result.finished  # and can be read
        events = result.tables.events
        assert (events["stage"][events["kind"] == b"trial_forked"] >= 0).all()


# ---- what an earlier study has trained


def test_a_study_takes_over_what_an_earlier_one_has_trained(tmp_path):
    part = alone(tmp_path / "part", PLANS["part"])
    fresh = alone(tmp_path / "fresh", PLANS["all"])
    result = alone(tmp_path / "all", PLANS["all"], warm_tree=tmp_path / "part")
    assert numpy.array_equal(result.curves("weights"), fresh.curves("weights"))
    assert result.best == fresh.best
    assert result.used.earlier == len(part.tables.reports)
    assert result.used.trained == len(fresh.tables.reports) - len(part.tables.reports)
    assert steps(result) == result.used.trained  # nothing of it is trained again for its state: no new trial goes on from there
    again = alone(tmp_path / "again", PLANS["part"], warm_tree=tmp_path / "part")
    assert steps(again) == 0
    assert again.finished
    assert again.best == part.best


def test_what_goes_on_from_an_earlier_state_trains_to_it_again_and_reports_it_once(tmp_path):
    halves = hpo.SuccessiveHalving(4, 1, 2)
    alone(tmp_path / "short", plan(engine=halves, sampler=hpo.Random(), trials=8))
    longer = plan(engine=hpo.Full(9), sampler=hpo.Random(), trials=8)
    fresh = alone(tmp_path / "fresh", longer)
    result = alone(tmp_path / "long", longer, warm_tree=[tmp_path / "short"])
    assert numpy.array_equal(result.curves("weights"), fresh.curves("weights"))
    assert result.used.earlier == len(hpo.load(tmp_path / "short").tables.reports)
    assert steps(result) <= len(fresh.tables.reports)
    assert result.finished


def test_several_earlier_studies_and_those_of_a_job_are_taken_over_too(tmp_path):
    one, two = SPACE.fix({"momentum": 0.9}), SPACE.fix({"momentum": 0.5})
    together(tmp_path / "job", {"a": plan(one), "b": PLANS["asha"]})
    alone(tmp_path / "two", plan(two))
    result = alone(tmp_path / "all", PLANS["all"], warm_tree=[tmp_path / "job", tmp_path / "two"])
    assert steps(result) == 0
    fresh = alone(tmp_path / "fresh", PLANS["all"])
    assert numpy.array_equal(result.curves("weights"), fresh.curves("weights"))
    both = together(tmp_path / "both", PLANS, warm_tree=tmp_path / "all")
    assert sum(result.used.trained for result in both.values()) == 0
    assert numpy.array_equal(both["all"].curves("weights"), fresh.curves("weights"))


def test_replicates_and_copied_models_are_found_again(tmp_path):
    space = hpo.Space({"lr": hpo.Float((0.1, 1.0)), "momentum": 0.9})
    population = plan(space, engine=hpo.PopulationBased(9, 3), sampler=hpo.Random(), trials=6)
    first = alone(tmp_path / "pbt", population)
    assert any(kind == schema.TRIAL_FORKED.encode() for kind in first.tables.events["kind"])
    again = alone(tmp_path / "again", population, warm_tree=tmp_path / "pbt")
    assert again.finished  # who decides by who was first may decide otherwise where some cost nothing
    assert again.used.earlier >= 6 * 3
    assert steps(again) < steps(first)
    one = alone(tmp_path / "one", plan(space, engine=hpo.Full(5), sampler=hpo.Random(), trials=4))
    three = hpo.run(
        train,
        space,
        LOSS,
        engine=hpo.Full(5),
        trials=4,
        replicates=3,
        study=tmp_path / "three",
        warm_tree=tmp_path / "one",
        **QUIET,
    )
    assert three.used.earlier == len(one.tables.reports)
    assert three.used.trained == 2 * len(one.tables.reports)


def test_a_study_goes_on_after_the_earlier_one_is_gone(tmp_path):
    alone(tmp_path / "part", PLANS["part"])
    first = alone(tmp_path / "asha", PLANS["asha"], warm_tree=tmp_path / "part")
    shutil.rmtree(tmp_path / "part")
    more = hpo.Plan(**{**vars(PLANS["asha"]), "trials": 30})
    result = alone(tmp_path / "asha", more, warm_tree=tmp_path / "part")
    assert len(result.configs) == 30
    assert result.used.earlier >= first.used.earlier > 0
    assert result.finished


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"app": "one"}, {"app": "two"}, "its app is .*one.*, and here it is .*two"),
        ({"data": "cifar"}, {"data": "fashion"}, "its data is .*cifar.*, and here it is .*fashion"),
        ({"data": "cifar"}, {}, "its data is .*cifar.*, and here it is null"),
        ({"space": {"data": "cifar"}}, {"space": {"data": "fashion"}}, "its data is .*cifar.*, and here it is .*fashion"),
        ({"seed": 3}, {"seed": 4}, "its seed is 3, and here it is 4"),
        ({"precision": "bf16"}, {}, "its precision is .*bf16.*, and here it is .*fp32"),
        ({"state_dtype": "bf16"}, {}, "its state_dtype is"),
        ({"merge": False}, {}, "run with --no-merge"),
    ],
)
def test_what_would_not_be_the_same_steps_is_refused_by_name(tmp_path, there, here, said):
    def short(**fixed):
        return plan(hpo.Space({"lr": 0.1, "momentum": 0.9, **fixed}), engine=hpo.Full(1), sampler=hpo.Random(), trials=1)

    there, here = dict(there), dict(here)
    alone(tmp_path / "there", short(**there.pop("space", {})), **there)
    with pytest.raises(hpo.UserError, match=f"there cannot be taken over: {said}" if "merge" not in there else said):
        alone(tmp_path / "here", short(**here.pop("space", {})), warm_tree=tmp_path / "there", **here)
    assert not (tmp_path / "here").exists()


def test_an_earlier_study_that_did_not_report_what_counts_now_is_refused(tmp_path):
    alone(tmp_path / "there", PLANS["part"])
    with pytest.raises(hpo.UserError, match="there cannot be taken over: in it the metric 'speed' was never yielded"):
        alone(tmp_path / "here", plan(objective=hpo.Maximize("speed")), warm_tree=tmp_path / "there")


def test_an_earlier_study_goes_with_merged_stages_only(tmp_path):
    alone(tmp_path / "there", PLANS["part"])
    with pytest.raises(hpo.UserError, match="leave out --no-merge"):
        alone(tmp_path / "here", PLANS["part"], warm_tree=tmp_path / "there", merge=False)


# ---- the command line


APP = "from tests.schedules import data, max_steps, objective, space, train\n"


@pytest.fixture
def app(tmp_path):
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_overlapping_grids_train_their_union_on_any_number_of_ranks(mpi, ranks, app, tmp_path):
    both = ["grid", str(app), "--set", "momentum=0.9", "--study", str(tmp_path / "job"), "--device", "cpu", "--no-progress"]
    done = mpi.run(ranks, "-m", "openhpo", "run", *both, "+", "grid", "+", "asha", "--trials", "12")
    assert done.returncode == 0, done.stderr
    results = hpo.load_together(tmp_path / "job")
    assert list(results) == ["grid", "grid-2", "asha"]
    assert f"{results['grid-2'].used.steps} steps were trained" in done.stdout
    tables = results["grid-2"].tables
    assert results["grid-2"].used.steps == len(tables.reports) == 440
    reference = alone(tmp_path / "alone", PLANS["all"], app="app", data="made up")
    assert numpy.array_equal(results["grid-2"].curves("weights"), reference.curves("weights"))
    warm = ["run", "grid", str(app), "--warm-tree", str(tmp_path / "job"), "--study", str(tmp_path / "warm"), "--device", "cpu"]
    done = mpi.run(ranks, "-m", "openhpo", *warm, "--no-progress")
    assert done.returncode == 0, done.stderr
    assert "0 steps were trained, and 440 taken over" in done.stdout


def test_a_file_says_the_same_as_the_command_line(tmp_path, app, openhpo):
    path = tmp_path / "studies.toml"
    path.write_text(
        'app = "app.py"\nseed = 3\nstudy = "runs/job"\ndevice = "cpu"\nprogress = false\n'
        '[studies.some]\nmethod = "grid"\nset = {momentum = 0.9}\naxis = {"lr.initial" = [0.5]}\n'
        '[studies.asha]\nmethod = "asha"\ntrials = 6\nmin-steps = 2\nmaximize = "gain"\nprior = [{momentum = 0.5}]\n'
    )
    some, asha = split(words_of(path, ["--retries", "1"]))
    assert some[:8] == ["grid", str(app), "--seed", "3", "--study", "runs/job", "--device", "cpu"]
    assert some[8:] == [
        "--no-progress",
        "--retries",
        "1",
        "--name",
        "some",
        "--set",
        "momentum=0.9",
        "--axis",
        "lr.initial=0.5,",
    ]
    assert asha == [
        "asha",
        "--name",
        "asha",
        "--trials",
        "6",
        "--min-steps",
        "2",
        "--maximize",
        "gain",
        "--prior",
        "momentum=0.5",
    ]
    done = openhpo("run", "file", str(path), PYTHONPATH=f"{ROOT}")
    assert done.returncode == 0, done.stderr
    found = hpo.load_together(tmp_path / "runs/job")
    assert len(found["some"].configs) == 8
    assert found["asha"].definition["min_steps"] == 2
    assert found["asha"].definition["seed"] == 3
    assert found["asha"].configs[0]["momentum"] == 0.5
    for words in (
        ["status", "runs/job"],
        ["best", "runs/job"],
        ["best", "runs/job/asha", "--json"],
        ["trials", "runs/job/some"],
    ):
        done = openhpo(*words)
        assert done.returncode == 0, done.stderr
    assert json.loads(openhpo("best", "runs/job/asha", "--json").stdout)["trials"] == 6
    assert openhpo("status", "runs/job", "--finished").returncode == 0
    assert "runs/job/some, runs/job/asha" in openhpo("report", "runs/job").stderr
    assert openhpo("report", "runs/job/asha").returncode == 0
    assert (tmp_path / "runs/job/asha/report.html").exists()
    done = openhpo("resume", "runs/job/asha", PYTHONPATH=f"{ROOT}")
    assert done.returncode == 0, done.stderr
    done = openhpo("compare", "runs/job/some", "runs/job")
    assert "different objectives" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["grid", "app.py", "+"], "METHOD APP ... + METHOD"),
        (["grid", "app.py", "+", "asha", "--trials", "4", "--seed", "3"], "--seed is the same for all studies of a job"),
        (["grid", "app.py", "+", "asha", "--trials", "4", "--no-progress"], "--no-progress is the same for all"),
        (["grid", "app.py", "--no-merge", "+", "grid"], "share one tree"),
        (["grid", "app.py", "--name", "asha", "+", "asha", "--name", "asha"], "two studies are called 'asha'"),
        (["grid", "app.py", "+", "ahsa"], "No such command 'ahsa'"),
        (["grid", "app.py", "+", "asha"], "say how many trials"),
        (["grid", "app.py", "+", "asha", "--trials", "4", "--min-step", "3"], "No such option"),
        (["file", "missing.toml"], "missing.toml cannot be read"),
        (["file", "missing.toml", "+", "grid"], "a file of studies is a job of its own"),
        (["grid", "app.py", "--name", "mine"], "--name is for one of several studies"),
    ],
)
def test_mistakes_in_a_command_of_several_studies_are_told_in_a_line(words, said, app, openhpo, tmp_path):
    done = openhpo("run", *words, PYTHONPATH=f"{ROOT}")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("app = 3", "needs app"),
        ('app = "app.py"', "for each study a table"),
        ('app = "app.py"\n[studies.a]\nmetod = "asha"', "does not say its method.*Did you mean 'metod'"),
        ('app = "app.py"\n[studies', "is no TOML"),
        ('app = "app.py"\n[studies.a]\nmethod = "asha"\nset = {a = {b = 1}}', "is no value of an option"),
    ],
)
def test_mistakes_in_a_file_of_studies_are_named(text, said, tmp_path):
    path = tmp_path / "studies.toml"
    path.write_text(text)
    with pytest.raises(hpo.UserError, match=said):
        words_of(path)


def test_what_stands_above_the_studies_of_a_file_holds_for_all_of_them(tmp_path):
    path = tmp_path / "studies.toml"
    path.write_text(
        'app = "app.py"\nsteps = 6\nset = {a = 1}\n[studies.x]\nmethod = "asha"\nsteps = 9\n[studies.y]\nmethod = "grid"'
    )
    x, y = split(words_of(path))
    assert x[2:] == ["--name", "x", "--steps", "6", "--set", "a=1", "--steps", "9"]
    assert y[1:] == ["--name", "y", "--steps", "6", "--set", "a=1"]
    with pytest.raises(hpo.UserError, match="--trials is each study's own, so say it in .*studies.toml"):
        words_of(path, ["--trials", "9"])


def test_a_configuration_to_try_first_is_one_table_or_several(tmp_path):
    path = tmp_path / "studies.toml"
    for text, words in (
        ("{a = 1, b = 2}", ["--prior", "a=1,b=2"]),
        ("[{a = 1, b = 2}, {a = 3}]", ["--prior", "a=1,b=2", "--prior", "a=3"]),
    ):
        path.write_text(f'app = "app.py"\n[studies.x]\nmethod = "asha"\nprior = {text}\n')
        assert words_of(path)[4:] == words


def test_one_of_several_studies_is_given_more_trials_by_its_folder(app, openhpo, tmp_path):
    words = ["run", "random", "app.py", "--trials", "2", "--study", "runs/job", "+", "sobol", "--trials", "2"]
    done = openhpo(*words, PYTHONPATH=f"{ROOT}")
    assert done.returncode == 0, done.stderr
    done = openhpo("resume", "runs/job", "--trials", "4", PYTHONPATH=f"{ROOT}")
    assert done.returncode == 2
    assert "not clear which of them --trials is for" in done.stderr
    more = ["--trials=5", "--no-progress", "--time-limit", "1h"]  # the study's own, and the job's
    done = openhpo("resume", "runs/job/sobol", *more, PYTHONPATH=f"{ROOT}")
    assert done.returncode == 0, done.stderr
    found = hpo.load_together(tmp_path / "runs/job")
    assert [len(found[name].configs) for name in ("random", "sobol")] == [2, 5]
