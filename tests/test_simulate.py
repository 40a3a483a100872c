"""Predictions: what was recorded is replayed, times add up, and mistakes are told."""

import dataclasses
import gzip
import inspect
import json
import re
from types import SimpleNamespace

import numpy
import pytest
from typer.testing import CliRunner

import openhpo as hpo
from openhpo.cli.run import METHODS as THEIRS
from openhpo.cli.simulate import simulate_app
from openhpo.recorded import Candidates, Layout, Plan, Recording, read_study, read_table
from openhpo.storage import StudyWriter, schema

LOSS = hpo.Minimize("loss")
METHODS = ("grid", "random", "sobol", "bayes", "refine", "halving", "asha", "hyperband", "bohb", "matching", "median", "pbt")


def recording(configs=12, steps=9, **changes):
    """Curves that fall the faster the smaller x is, of trainings that take 1 to 3 seconds a step."""
    rng = numpy.random.default_rng(1)
    x = numpy.arange(configs)
    values = (1 + x[:, None]) / numpy.arange(1, steps + 1)
    found = Recording(
        source="curves",
        space=hpo.Space({"x": hpo.Float((0.0, configs))}),
        configs=[{"x": float(number)} for number in x],
        lengths=numpy.full(configs, steps),
        metrics=("loss",),
        values=values[:, :, None],
        reported=numpy.ones((configs, steps, 1), bool),
        seconds=numpy.hstack([rng.uniform(1, 3, (configs, steps)), numpy.zeros((configs, 1))]),
        setup=numpy.zeros(configs),
        crashed=numpy.zeros(configs, bool),
    )
    return dataclasses.replace(found, **changes)


def plan(recorded, engine, trials=None, **more):
    return Plan(Candidates(recorded, LOSS, engine.max_steps, forks=engine.forks), LOSS, engine, trials, **more)


# ---- time


def test_one_rank_takes_as_long_as_all_steps_together():
    recorded = recording(setup=numpy.linspace(0, 2, 12), warmup=5.0)
    found = plan(recorded, hpo.Full(9), trials=12).predict(ranks=1)
    assert found.makespan == pytest.approx(recorded.seconds.sum() + recorded.setup.sum() + 5.0, abs=1e-3)
    assert found.utilisation == pytest.approx(1.0, abs=1e-3)
    assert found.rank_hours == pytest.approx(found.makespan / 3600)
    assert (found.trials, found.steps) == (12, 108)


def test_more_ranks_never_take_longer_for_random_search():
    plans = plan(recording(), hpo.Full(9), trials=40)
    makespans = [plans.predict(ranks).makespan for ranks in (1, 2, 3, 5, 8, 13, 40, 50)]
    assert makespans == sorted(makespans, reverse=True)
    longest = max(plans.candidates.recording.seconds.sum(axis=1))
    assert makespans[-1] == pytest.approx(longest, abs=1e-3)


def test_nodes_are_counted_whole():
    found = plan(recording(), hpo.Full(9), trials=12).predict(ranks=5, ranks_per_node=4)
    assert found.node_hours == pytest.approx(2 * found.makespan / 3600)


@pytest.mark.parametrize("winner_comes_last", [True, False])
def test_a_set_up_is_paid_again_unless_the_model_is_still_alive(winner_comes_last):
    base = recording(configs=3, steps=3, seconds=numpy.ones((3, 4)), setup=numpy.full(3, 10.0))
    order = [trial.config["x"] for trial in plan(base, hpo.Full(3), trials=3).simulate(1).study.trials]
    losses = numpy.ones((3, 3, 1))
    losses[int(order[-1 if winner_comes_last else 0])] = 0.5
    found = plan(dataclasses.replace(base, values=losses), hpo.SuccessiveHalving(3, 1, 3), trials=3).predict(ranks=1)
    assert found.makespan == pytest.approx(3 * 11 + 2 + (0 if winner_comes_last else 10), abs=1e-3)


def study_with_times(folder, **changes):
    """Two trials on rank 0, one on rank 1; set-up of 2, 1 and 2 s, steps of 0.5 s, a first use of each rank of 4 and 6 s."""
    definition = {
        "app": "x",
        "space": hpo.Space({"x": hpo.Float((0.0, 1.0))}).definition(),
        "objective": LOSS.definition(),
        "engine": "Full",
        "sampler": "Random",
        "max_steps": 5,
        "merge": True,
        "trials": 4,
        "seed": 0,
        **changes,
    }
    file = StudyWriter(folder, definition, {})
    file.event(schema.STARTED, 0.0, step=4)
    for rank in (0, 1):
        file.event(schema.READY, 0.0, rank=rank)
    stages = [(0, 0, 0.0, 2.0 + 4.0), (1, 1, 0.0, 2.0 + 6.0), (2, 0, 8.5, 1.0), (3, 0, 12.0, 1.0)]
    for trial, rank, begin, setup in stages:
        file.trial(trial, 0, {"x": trial / 4}, begin)
        file.stage(trial, trial, None, 0, 5, rank, begin)
        first = begin + setup + 0.5
        for step, count, time in [(1, 1, first), (2, 3, first + 1.5), (5, 1, first + 2.0)]:  # batches
            losses = numpy.array([[1.0 / at] for at in range(step, step + count)])
            file.reports(trial, trial, step, ["loss"], losses, time)
        file.event(schema.STAGE_ENDED, first + 2.0, trial=trial, stage=trial, rank=rank, step=5)
        file.event("trial_done", first + 2.0, trial=trial, stage=trial, step=5)
    file.close()


def test_steps_set_up_and_warm_up_are_told_apart(tmp_path):
    study_with_times(tmp_path / "study")
    found = read_study(str(tmp_path / "study"))
    assert found.seconds[:, :5] == pytest.approx(0.5)
    assert found.setup == pytest.approx(1.0)  # what is usual
    assert found.warmup == pytest.approx(6.0)  # the median of 5 and 7
    assert found.steps == 5
    again = plan(found, hpo.Full(5), trials=4).predict(ranks=1)
    assert again.makespan == pytest.approx(6 + 4 * (1 + 5 * 0.5), abs=1e-3)


# ---- what is drawn, and what comes of it


def test_the_best_is_the_best_recorded_of_those_that_were_drawn():
    for seed in range(5):
        plans = plan(recording(), hpo.Full(9), trials=5, seed=seed)
        drawn = [trial.config["x"] for trial in plans.simulate(3).study.trials]
        found = plans.predict(3)
        assert found.best == pytest.approx((1 + min(drawn)) / 9)
        assert found.config == {"x": min(drawn)}
        assert found.best_step == 9


def test_every_configuration_is_drawn_once_before_any_is_drawn_again():
    plans = plan(recording(configs=7), hpo.Full(2), trials=21)
    trials = plans.simulate(4).study.trials
    drawn = [trial.config["x"] for trial in trials]
    for begin in (0, 7, 14):
        assert sorted(drawn[begin : begin + 7]) == list(range(7))
    assert drawn[:7] != drawn[7:14]
    assert [trial.step for trial in trials] == [2] * 21
    assert plans.predict(4).steps == 42  # what is drawn again is trained again


def test_the_seed_decides_what_is_drawn():
    orders = {
        tuple(trial.config["x"] for trial in plan(recording(), hpo.Full(2), 12, seed=seed).simulate(2).study.trials)
        for seed in (1, 2, 1)
    }
    assert len(orders) == 2


def test_a_prediction_is_the_same_each_time():
    plans = plan(recording(), hpo.ASHA(9, 1, 3), trials=30)
    assert plans.predict(4) == plans.predict(4)


def test_short_curves_are_no_candidates():
    lengths = numpy.array([9] * 4 + [2] * 8)
    candidates = Candidates(recording(lengths=lengths), LOSS, 9)
    assert candidates.rows.tolist() == [0, 1, 2, 3]
    assert Candidates(recording(lengths=lengths), LOSS, 2).rows.tolist() == list(range(12))


def test_failures_are_as_frequent_among_candidates_as_they_were():
    lengths, crashed = numpy.array([9] * 4 + [2] * 8), numpy.array([False] * 8 + [True] * 4)
    assert Candidates(recording(lengths=lengths, crashed=crashed), LOSS, 9).rows.tolist() == [0, 1, 2, 3, 8, 9]


def test_a_training_that_raised_raises_again():
    lengths, crashed = numpy.full(12, 9), numpy.zeros(12, bool)
    lengths[3], crashed[3] = 4, True
    recorded = recording(lengths=lengths, crashed=crashed)
    plans = plan(recorded, hpo.Full(9), trials=12)
    found = plans.predict(ranks=1)
    assert found.failed == 1
    assert found.steps == 11 * 9 + 4
    assert found.makespan == pytest.approx(recorded.seconds.sum() - recorded.seconds[3, 5:].sum(), abs=1e-3)
    (failed,) = [trial for trial in plans.simulate(1).study.trials if trial.error]
    assert failed.config == {"x": 3.0}


def test_a_training_that_diverged_fails_at_that_step():
    base = recording()
    values = base.values.copy()
    values[3, 4:] = numpy.nan
    found = plan(dataclasses.replace(base, values=values), hpo.Full(9), trials=12).predict(ranks=1)
    assert found.failed == 1
    assert found.steps == 11 * 9 + 5
    assert found.makespan == pytest.approx(base.seconds.sum() - base.seconds[3, 5:].sum(), abs=1e-3)


def test_hyperparameters_that_change_in_training_take_the_nearest_recorded_curve():
    candidates = Candidates(recording(), LOSS, 9, forks=True)
    assert candidates.curve({"x": 3.4}, 2) == {"loss": (1 + 3) / 2}
    assert candidates.pace({"x": 7.6}, 5) == candidates.recording.seconds[8, 4]
    found = plan(recording(), hpo.PopulationBased(9, 3), trials=8).predict(ranks=4)
    assert found.trials == 8
    assert found.best in candidates.recording.values


def test_nearest_knows_choices_logarithms_and_what_is_inactive():
    space = hpo.Space({"lr": hpo.Float((1e-4, 1.0), log=True), "kind": hpo.Categorical(["a", "b"])})
    configs = [{"lr": 1e-4, "kind": "a"}, {"lr": 1.0, "kind": "a"}, {"lr": 1e-4, "kind": "b"}, {"kind": "a"}]
    candidates = Candidates(dataclasses.replace(recording(configs=4), space=space, configs=configs), LOSS, 9)
    near = {(2e-3, "a"): 0, (0.05, "a"): 1, (0.05, "b"): 2}
    for (lr, kind), row in near.items():
        assert candidates.curve({"lr": lr, "kind": kind}, 1)["loss"] == row + 1
    assert candidates.curve({"kind": "a"}, 1)["loss"] == 4


# ---- studies


def quadratic(trial):
    loss = trial["x"] ** 2 + 1
    trial.track()
    while True:
        loss *= 0.9
        yield {"loss": loss, "step_loss": loss * trial.step} if trial.step % 2 else {"loss": loss}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "study"
    space = hpo.Space({"x": hpo.Float((-1.0, 1.0)), "n": hpo.Integer((1, 5))})
    hpo.run(quadratic, space, LOSS, engine=hpo.Full(6), trials=10, study=folder, progress=False)
    return folder


def test_a_study_is_replayed_with_exactly_its_curves(study):
    recorded, result = read_study(str(study)), hpo.load(study)
    assert recorded.configs == result.configs
    assert recorded.objective.definition() == result.objective.definition()
    for name in ("loss", "step_loss"):
        candidates = Candidates(recorded, hpo.Minimize(name), 6)
        curves = result.curves(name)
        for config, curve in zip(result.configs, curves, strict=True):
            for step in range(1, 7):
                expected = {} if numpy.isnan(curve[step - 1]) else {name: curve[step - 1]}
                assert candidates.curve(config, step) == expected
    found = plan(recorded, hpo.Full(6), trials=10).predict(ranks=2)
    assert found.best == result.best.value
    assert found.config == result.best.config
    assert recorded.seconds.sum() + recorded.setup.sum() <= result.tables.events["time"][-1]


def test_what_trials_share_is_trained_once_in_a_prediction_too(tmp_path):
    space = hpo.Space({"x": hpo.Steps([0.5, hpo.Categorical([0.1, 0.2, 0.3])], [4])})
    result = hpo.run(quadratic, space, LOSS, engine=hpo.Full(6), sampler=hpo.Grid(), study=tmp_path / "s", progress=False)
    assert len(result.tables.reports) == 4 + 3 * 2
    recorded = read_study(str(tmp_path / "s"))
    assert recorded.lengths.tolist() == [6, 6, 6]
    assert plan(recorded, hpo.Full(6), once=True).predict(ranks=2).steps == 10


def test_models_of_several_configurations_are_left_out(tmp_path):
    space = hpo.Space({"x": hpo.Float((-1.0, 1.0))})
    result = hpo.run(
        quadratic, space, LOSS, engine=hpo.PopulationBased(8, 2), trials=8, study=tmp_path / "s", seed=1, progress=False
    )
    forked = {int(event["trial"]) for event in result.tables.events if event["kind"] == b"trial_forked"}
    assert forked
    recorded = read_study(str(tmp_path / "s"))
    assert recorded.configs == [config for trial, config in enumerate(result.configs) if trial not in forked]
    assert f"left out: {len(forked)} trials that took over another's model" in recorded.notes[-1]


def test_what_raised_in_a_study_raises_in_a_prediction(tmp_path):
    def train(trial):
        while True:
            if trial["x"] > 0 and trial.step == 3:
                raise RuntimeError("out of luck")
            yield {"loss": trial["x"]}

    space = hpo.Space({"x": hpo.Categorical([-2.0, -1.0, 1.0])})
    hpo.run(train, space, LOSS, engine=hpo.Full(5), sampler=hpo.Grid(), study=tmp_path / "s", progress=False)
    recorded = read_study(str(tmp_path / "s"))
    assert recorded.crashed.tolist() == [False, False, True]
    assert recorded.lengths.tolist() == [5, 5, 2]
    found = plan(recorded, hpo.Full(5), once=True).predict(ranks=1)
    assert (found.failed, found.steps) == (1, 12)


RICH = hpo.Space(
    {
        "peak": hpo.Float((1e-3, 1.0), log=True),
        "lr": hpo.Chain(hpo.Warmup("peak", steps=hpo.Integer((1, 4))), hpo.Cosine("peak", "peak / 100", steps=95)),
        "batch": hpo.Exponential(initial=32, factor=2, every=(hpo.Categorical([30, 60]), 90)),
        "kind": hpo.Categorical(["sgd", "adam"]),
        "momentum": hpo.Float((0.0, 1.0)),
        "width": hpo.Integer((8, 64), log=True),
        "constant": 3,
    },
    conditions={"momentum": "kind == 'sgd'"},
    forbidden=["kind == 'adam' and width > 32"],
)


@pytest.mark.parametrize("space", [RICH, RICH.fix({"width": 16}), RICH.fix({"lr": 0.1})])
def test_a_space_comes_back_from_its_definition(space):
    again = hpo.Space.from_definition(json.loads(json.dumps(space.definition())))
    assert json.loads(json.dumps(again.definition())) == json.loads(json.dumps(space.definition()))
    assert again.names == space.names  # in that order
    rng = numpy.random.default_rng(0)
    config = space.sample(rng)
    assert again.course(config).key(10) == space.course(config).key(10)


def test_a_study_that_does_not_say_what_was_searched_is_refused(tmp_path):
    study_with_times(tmp_path / "study", space={"hyperparameters": {"x": {"type": "Complex"}}})
    with pytest.raises(hpo.UserError, match="does not say what was searched"):
        read_study(str(tmp_path / "study"))


def test_a_space_of_configspace_comes_back():
    import ConfigSpace

    space = hpo.Space(ConfigSpace.ConfigurationSpace({"x": (0.0, 1.0), "kind": ["a", "b"], "fixed": 3}))
    again = hpo.Space.from_definition(json.loads(json.dumps(space.definition())))
    assert again.hyperparameters == space.hyperparameters
    assert again.fixed == space.fixed


# ---- tables

CURVES = {(0.1, "relu"): [1.0, 0.5, 0.25], (0.2, "tanh"): [2.0, 1.0, 0.5]}


def csv_of(folder):
    points = [(*config, step, loss) for config, curve in CURVES.items() for step, loss in enumerate(curve, 1)]
    rows = [f"{lr},{act},{100 * step},{loss},{step / 10}" for lr, act, step, loss in points]
    (folder / "t.csv").write_text("\n".join(["lr,act,step,val loss,seconds", *rows]))
    return folder / "t.csv"


def json_of(folder):
    records = [
        {"hp": {"lr": lr, "act": act}, "val": {"loss": curve}, "seconds": [0.1, 0.2, 0.3]}
        for (lr, act), curve in CURVES.items()
    ]
    with gzip.open(folder / "t.json.gz", "wt") as file:
        json.dump(records, file)
    return folder / "t.json.gz"


def lines_of(folder):
    records = [{"lr": lr, "act": act, "val loss": curve, "seconds": [0.1, 0.3, 0.6]} for (lr, act), curve in CURVES.items()]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder / "t.jsonl"


def npz_of(folder):
    losses, lr, act = numpy.array(list(CURVES.values())), *map(numpy.array, zip(*CURVES, strict=True))
    numpy.savez(folder / "t.npz", lr=lr, act=act, seconds=numpy.array([[0.1, 0.2, 0.3]] * 2), val_loss=losses)
    return folder / "t.npz"


def layers_of(folder):
    losses = numpy.array(list(CURVES.values()))
    stack = numpy.stack([losses, losses * 2, [[0.1, 0.3, 0.6]] * 2], axis=2)
    numpy.savez(
        folder / "l.npz",
        configs=numpy.array([[0.1, 3], [0.2, 4]]),
        config_columns=["lr", "width"],
        metric_columns=["val loss", "other", "seconds"],
        task_1=stack,
        task_2=stack + 1,
    )
    return folder / "l.npz"


TABLES = {
    "csv": (csv_of, Layout(pace="seconds")),
    "json": (json_of, Layout(pace="seconds")),
    "lines": (lines_of, Layout(elapsed="seconds")),
    "npz": (npz_of, Layout(pace="seconds")),
    "npz with layers": (layers_of, Layout(elapsed="seconds", curves="task_1")),
}


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_is_read(kind, tmp_path):
    write, layout = TABLES[kind]
    found = read_table(str(write(tmp_path)), layout)
    expected = [{"lr": lr, "act": act} for lr, act in CURVES]
    assert found.configs == ([{"lr": 0.1, "width": 3}, {"lr": 0.2, "width": 4}] if "layers" in kind else expected)
    assert found.values[:, :, found.metrics.index("val_loss")].tolist() == list(CURVES.values())
    assert found.seconds == pytest.approx(numpy.array([[0.1, 0.2, 0.3, 0.0]] * 2))
    assert found.lengths.tolist() == [3, 3]
    assert found.space.hyperparameters["lr"] == hpo.Float((0.1, 0.2))


def test_curves_of_a_table_may_have_holes_and_several_lengths(tmp_path):
    (tmp_path / "t.csv").write_text("lr,step,loss,other\n1,0,9,9\n1,1,3,\n1,2,2,5\n2,1,4,\n2,2,,\n3,1,nan,2\n")
    found = read_table(str(tmp_path / "t.csv"), Layout())
    assert found.configs == [{"lr": 1}, {"lr": 2}, {"lr": 3}]
    assert found.lengths.tolist() == [2, 1, 1]
    candidates = Candidates(found, hpo.Minimize("loss + other"), 1)
    assert candidates.curve({"lr": 1}, 1) == {"loss": 3.0}
    assert candidates.curve({"lr": 1}, 2) == {"loss": 2.0, "other": 5.0}


def test_a_value_before_training_is_no_step(tmp_path):
    found = read_table(str(npz_of(tmp_path)), Layout(first_step=0, elapsed="seconds"))
    assert found.values[:, :, 0].tolist() == [curve[1:] for curve in CURVES.values()]
    assert found.seconds[0] == pytest.approx([0.1, 0.1, 0.0])


# ---- the command


def call(*words):
    """Run the command in this process; a mistake is raised."""
    done = CliRunner().invoke(simulate_app, [str(word) for word in words], env={"COLUMNS": "120"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return SimpleNamespace(out=done.stdout, code=done.exit_code, err=done.stderr)


def test_every_method_of_run_is_there_with_all_its_options():
    ours = {command.callback.__name__: inspect.signature(command.callback) for command in simulate_app.registered_commands}
    assert tuple(ours) == tuple(THEIRS) == METHODS
    for name, make in THEIRS.items():
        own = inspect.signature(make).parameters
        assert {option: ours[name].parameters[option].default for option in own} == {o: p.default for o, p in own.items()}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_predicts(method, study):
    more = {"pbt": ["--interval", 2], "median": ["--startup", 2, "--grace", 2], "matching": ["--accumulation", 3]}.get(
        method, []
    )
    trials = [] if method in ("hyperband", "bohb") else ["--trials", 9]
    told = json.loads(call(study, method, "--ranks", "1,3", *trials, "--json", *more).out)
    assert told["method"] == method
    assert [one["ranks"] for one in told["predictions"]] == [1, 3]
    for one in told["predictions"]:
        assert one["best"] is not None
        assert one["makespan"] > 0
        assert 0 < one["utilisation"] <= 1
    assert told["recorded"] == 10


def test_a_table_is_printed_and_a_figure_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    done = call(
        *(csv_of(tmp_path), "random", "--ranks", "1,2,4", "--ranks-per-node", 2, "--pace", 1800, "--minimize", "val_loss"),
        *("--trials", 4, "--plot", tmp_path / "figures" / "a.png"),
    )
    assert re.search(r"1 +6:00:00 +6\.00 +6\.00 +100\.0 % +4 +12 +0\.25", done.out)
    assert re.search(r"4 +1:30:00 +6\.00 +3\.00 +100\.0 % +4 +12 +0\.25", done.out)
    assert "4 trials draw each of them more than once" in done.out
    assert (tmp_path / "figures" / "a.png").stat().st_size > 1000


def test_a_grid_takes_what_is_recorded_on_its_axes(tmp_path):
    table = csv_of(tmp_path)
    options = ["--ranks", 1, "--pace", 1, "--minimize", "val_loss", "--json"]
    (whole,) = json.loads(call(table, "grid", *options).out)["predictions"]
    (one,) = json.loads(call(table, "asha", "--sampler", "grid", "--axis", "lr=0.2,", *options).out)["predictions"]
    assert (whole["trials"], one["trials"]) == (2, 1)


def test_pace_and_set_up_of_a_study_can_be_replaced(study):
    options = ["--ranks", 1, "--trials", 10, "--pace", 2, "--setup", 3, "--json"]
    (found,) = json.loads(call(study, "random", *options).out)["predictions"]
    assert found["makespan"] == pytest.approx(10 * (3 + 6 * 2), abs=1e-3)


MISTAKES = {
    ("nowhere", "random", "--ranks", "4"): "there is no study at nowhere",
    ("nowhere.csv", "random", "--ranks", "4", "--pace", "1"): "there is no table nowhere.csv",
    ("STUDY", "random", "--ranks", "4,many"): "--ranks '4,many': write whole numbers above 0",
    ("STUDY", "random", "--ranks", "0"): "write whole numbers above 0",
    ("STUDY", "random", "--ranks", "4"): "say how many trials to run",
    ("STUDY", "random", "--ranks", "4", "--trials", "2", "--steps", "7"): "the longest is recorded for 6, so say --steps 6",
    (
        "STUDY",
        "random",
        "--ranks",
        "4",
        "--trials",
        "2",
        "--minimize",
        "los",
    ): "no metric 'los'; it has loss, step_loss. Did you",
    ("STUDY", "random", "--ranks", "4", "--trials", "2", "--pace", "seconds"): "is a study, so --pace has to be a number",
    ("STUDY", "random", "--ranks", "4", "--trials", "2", "--pace", "-1"): "the seconds of a step cannot be that",
    ("STUDY", "grid", "--ranks", "4", "--axis", "x=3"): "only what is recorded can be simulated, so name the values",
    ("STUDY", "grid", "--ranks", "4", "--axis", "xx=3,4"): "no hyperparameter 'xx'. Did you mean 'x'?",
    (
        "SHORT.jsonl",
        "grid",
        "--ranks",
        "4",
        "--pace",
        "1",
        "--minimize",
        "loss",
        "--axis",
        "x=1,",
    ): "no configuration with these values that is rec",
    ("STUDY", "grid", "--ranks", "4", "--axis", "n=30,40"): "no configuration with these values of n",
    ("STUDY", "pbt", "--ranks", "4", "--trials", "8", "--mutate", "y"): "mutate names 'y', which is not searched",
    ("TABLE", "random", "--ranks", "4"): "say how long a step takes: --pace SECONDS",
    (
        "TABLE",
        "random",
        "--ranks",
        "4",
        "--pace",
        "1",
    ): "say what to optimise: --maximize METRIC or --minimize METRIC; TABLE has",
    ("TABLE", "random", "--ranks", "4", "--pace", "time"): "has no column 'time' of seconds; it has val loss, seconds",
    ("TABLE", "random", "--ranks", "4", "--pace", "act"): "has no column 'act' of seconds",
    ("TABLE", "random", "--ranks", "4", "--pace", "1", "--elapsed", "seconds"): "give --pace or --elapsed, not both",
    ("TABLE", "random", "--ranks", "4", "--pace", "1", "--step-column", "epoch"): "no column 'epoch' that counts steps",
    ("TABLE", "random", "--ranks", "4", "--pace", "1", "--hyperparameter", "l"): "has no column 'l'; it has",
    ("TABLE", "random", "--ranks", "4", "--pace", "1", "--hyperparameter", "step"): "has no column 'step'",
    ("BROKEN.json", "random", "--ranks", "4", "--pace", "1"): "cannot be read as a table: Expecting",
    ("BROKEN.npz", "random", "--ranks", "4", "--pace", "1"): "cannot be read as a table",
    ("TWICE.csv", "random", "--ranks", "4", "--pace", "1", "--hyperparameter", "lr"): "has step 1 of lr=1 twice",
    ("GAPS.csv", "random", "--ranks", "4", "--pace", "1"): "there is a curve with 1, 3",
    ("SHORT.csv", "random", "--ranks", "4", "--pace", "1"): "row 2 of SHORT.csv has 2 values, and there are 3 columns",
    ("TASKS.npz", "random", "--ranks", "4", "--pace", "1"): "so say which: --curves task_1 or --curves task_2",
    ("TASKS.npz", "random", "--ranks", "4", "--pace", "1", "--curves", "task_3"): "has no curves 'task_3'",
}


@pytest.mark.parametrize("words", MISTAKES, ids=lambda words: " ".join(words))
def test_mistakes_are_told_in_one_sentence(words, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BROKEN.json").write_text("[{")
    (tmp_path / "BROKEN.npz").write_text("no archive")
    (tmp_path / "TWICE.csv").write_text("lr,step,loss\n1,1,3\n1,1,4\n")
    (tmp_path / "GAPS.csv").write_text("lr,step,loss\n1,1,3\n1,3,4\n")
    (tmp_path / "SHORT.csv").write_text("lr,step,loss\n1,1,3\n1,2\n")
    (tmp_path / "SHORT.jsonl").write_text('{"x": 1, "loss": [1]}\n{"x": 2, "loss": [2, 1]}\n')
    layers_of(tmp_path).rename(tmp_path / "TASKS.npz")
    table = csv_of(tmp_path)
    given = {"STUDY": str(study), "TABLE": str(table)}
    with pytest.raises(hpo.UserError) as told:
        call(*(given.get(word, word) for word in words))
    assert MISTAKES[words].replace("TABLE", str(table)) in str(told.value)
