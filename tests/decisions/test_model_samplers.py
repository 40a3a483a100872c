"""Samplers that fit a model by other libraries: the Gaussian process on BoTorch, and whatever Optuna has."""

import importlib.util
import math
import random
import sys

import numpy
import pytest

import openhpo as hpo
from openhpo.objective import Score
from openhpo.stages import State, TrialRecord

botorch = pytest.mark.skipif(importlib.util.find_spec("botorch") is None, reason="needs BoTorch")
optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs Optuna")
KINDS = [
    pytest.param(lambda: hpo.GaussianProcess(startup=4), marks=botorch, id="gp"),
    pytest.param(lambda: hpo.Optuna("TPESampler", n_startup_trials=4), marks=optuna, id="TPESampler"),
    pytest.param(lambda: hpo.Optuna("CmaEsSampler"), marks=optuna, id="CmaEsSampler"),
    pytest.param(lambda: hpo.Optuna("NSGAIISampler", population_size=4), marks=optuna, id="NSGAIISampler"),
]
SPACE = hpo.Space(
    {
        "optimizer": hpo.Categorical(["sgd", "adam"]),
        "lr": hpo.Float((1e-4, 1.0), log=True),
        "momentum": hpo.Float((0.0, 0.99)),
        "width": hpo.Integer((1, 64), log=True),
        "batch": hpo.Categorical([8, 16, 32], ordered=True),
        "fixed": 3,
    },
    conditions={"momentum": "optimizer == 'sgd'"},
    forbidden=["optimizer == 'adam' and width > 32"],
)


def loss(config):
    found = math.log10(config["lr"] / 0.01) ** 2 + (config["optimizer"] == "adam") + abs(config["batch"] - 16) / 16
    return found + (config.get("momentum", 0.5) - 0.9) ** 2


def play(sampler, trials=14, space=SPACE, objective=None, engine=None, metrics=None, seed=0, **more):
    """A study one trial after the other."""
    study = hpo.Study(
        space,
        objective or hpo.Minimize("loss"),
        engine=engine or hpo.Full(1),
        sampler=sampler,
        trials=trials,
        seed=seed,
        **more,
    )
    while (stage := study.ask()) is not None:
        for step in range(stage.start + 1, stage.stop + 1):
            found = metrics(stage.config, step) if metrics else {"loss": loss(stage.config) + 1 / step}
            if found is None:
                study.fail(stage, "out of luck")
                break
            if study.tell(stage, step, found) is hpo.Verdict.STOP or step == stage.stop:
                study.end(stage)
                break
    return study


@pytest.mark.parametrize("make", KINDS)
def test_only_what_the_space_allows_is_suggested(make):
    for trial in play(make()).trials:
        assert SPACE.holds(trial.config)


@pytest.mark.parametrize("make", KINDS)
def test_suggestions_follow_from_the_history(make):
    one, other = (play(make(), 10) for _ in range(2))
    assert [trial.config for trial in one.trials] == [trial.config for trial in other.trials]
    different = play(make(), 10, seed=1)
    assert [trial.config for trial in one.trials] != [trial.config for trial in different.trials]


@pytest.mark.parametrize("make", KINDS)
def test_it_goes_with_a_method_that_trains_to_several_steps(make):
    found = play(make(), 16, engine=hpo.ASHA(9, 1, 3))
    assert found.finished
    assert found.best is not None


@pytest.mark.parametrize("make", KINDS)
def test_failures_and_absent_numbers_do_not_end_the_search(make):
    luck = random.Random(0)
    found = play(make(), 16, metrics=lambda config, step: luck.choice([None, {"loss": math.nan}, {"loss": loss(config)}]))
    assert len(found.trials) == 16


@pytest.mark.parametrize("make", KINDS)
def test_a_space_without_anything_to_search_is_no_trouble(make):
    found = play(make(), 6, hpo.Space({"lr": 0.1}), metrics=lambda config, step: {"loss": 1.0})
    assert [trial.config for trial in found.trials] == [{"lr": 0.1}] * 6


@pytest.mark.parametrize("make", KINDS)
def test_where_nobody_waits_no_point_is_tried_twice(make):
    sampler = make()
    sampler.wait = False
    found = hpo.Study(SPACE, hpo.Minimize("loss"), engine=hpo.Full(1), sampler=sampler, trials=12)
    found.defer()
    for _ in range(6):
        call = found.draw()
        found.ask()
        found.suggested(call())
        found.ask()
    configs = [repr(trial.config) for trial in found.trials]
    assert len(configs) == len(set(configs)) == 12


# ---- the Gaussian process

PLANE = hpo.Space({"x": hpo.Float((0.0, 1.0)), "y": hpo.Float((0.0, 1.0))})


def bowl(config):
    return (config["x"] - 0.3) ** 2 + (config["y"] - 0.7) ** 2


def records(points, losses, state=State.DONE, **more):
    found = []
    for number, (point, value) in enumerate(zip(points, losses, strict=True)):
        score = Score(
            more.get("violation", [0.0] * len(points))[number], value, more.get("margins", [()] * len(points))[number]
        )
        record = TrialRecord(number, {"x": point[0], "y": point[1]}, state, 1, score, score, 1)
        record.losses.append(value)
        found.append(record)
    return found


@botorch
def test_it_finds_the_bottom_of_a_bowl_in_twenty_trials():
    for seed in range(3):
        found = play(hpo.GaussianProcess(), 20, PLANE, metrics=lambda config, step: {"loss": bowl(config)}, seed=seed)
        assert found.best.value < 1e-3


@botorch
def test_torchs_own_random_numbers_are_left_to_training():
    import torch

    torch.manual_seed(7)
    before = torch.get_rng_state()
    play(hpo.GaussianProcess(), 12)
    assert bool((torch.get_rng_state() == before).all())


@botorch
def test_trials_that_run_are_not_suggested_again_and_keep_others_away():
    rng = numpy.random.default_rng(0)
    points = rng.random((12, 2))
    history = records(points.tolist(), [bowl({"x": x, "y": y}) for x, y in points])
    suggest = hpo.GaussianProcess().bind(PLANE, 0)
    chosen = []
    for number in range(12, 22):
        config = suggest(number, history, numpy.random.default_rng(number))
        chosen.append((config["x"], config["y"]))
        history.append(TrialRecord(number, config))
    distances = [math.dist(one, other) for place, one in enumerate(chosen) for other in chosen[:place]]
    assert min(distances) > 1e-3
    assert max(distances) > 0.1


@botorch
def test_requirements_are_met_by_most_of_what_is_suggested():
    # the bottom of the bowl is out of bounds
    def metrics(config, step):
        return {"loss": bowl(config), "room": config["x"] - 0.5}

    found = play(hpo.GaussianProcess(), 30, PLANE, hpo.Minimize("loss", require="room >= 0"), metrics=metrics)
    assert found.best.feasible
    assert found.best.value == pytest.approx(0.04, abs=0.01)
    assert sum(trial.score.violation == 0 for trial in found.trials[15:]) >= 8


@botorch
def test_where_nothing_meets_the_target_it_comes_closer_to_it():
    def metrics(config, step):
        return {"accuracy": 1.0 - bowl(config)}

    found = play(
        hpo.GaussianProcess(), 20, PLANE, hpo.Minimize(hpo.first_step("accuracy >= 2")), engine=hpo.Full(2), metrics=metrics
    )
    assert not found.best.feasible
    assert bowl(found.best.config) < 0.01


@botorch
def test_a_diverged_training_does_not_hide_what_the_others_tell():
    def metrics(config, step):
        return {"loss": 1e30 if config["x"] > 0.9 else bowl(config)}

    found = play(hpo.GaussianProcess(), 25, PLANE, metrics=metrics)
    assert found.best.value < 5e-3


@botorch
def test_the_noise_of_replicates_is_taken_as_measured():
    suggest = hpo.GaussianProcess().bind(PLANE, 0)
    rng = numpy.random.default_rng(0)
    points = rng.random((12, 2)).tolist()
    history = records(points, [bowl({"x": x, "y": y}) for x, y in points])
    for record in history:
        record.errors.append(0.2)
    suggest(12, history, rng)
    process = suggest._fitted[1][0][0]
    scale = float(process.outcome_transform.stdvs)
    assert numpy.sqrt(process.likelihood.noise.detach().numpy()) * scale == pytest.approx(0.2, rel=0.3)


@botorch
def test_the_logarithm_of_the_improvement_is_right_far_into_the_tail():
    import torch
    from scipy.integrate import quad

    from openhpo.samplers.improvement import log_improvement

    places = torch.tensor([3.0, 0.0, -0.5, -1.5, -8.0], dtype=torch.float64)
    exact = [
        math.log(quad(lambda u, z=z: (z - u) * math.exp(-(u**2) / 2) / math.sqrt(2 * math.pi), z - 30, z, epsabs=0)[0])
        for z in places.tolist()
    ]
    assert log_improvement(places).tolist() == pytest.approx(exact, rel=1e-6)
    far = log_improvement(torch.tensor([-2e3, -1e5], dtype=torch.float64)).tolist()
    assert far == pytest.approx([-z * z / 2 - 2 * math.log(z) - math.log(2 * math.pi) / 2 for z in (2e3, 1e5)])
    slope = torch.tensor([-50.0, -0.9, 2.0], dtype=torch.float64, requires_grad=True)
    log_improvement(slope).sum().backward()
    assert torch.isfinite(slope.grad).all()
    assert (slope.grad > 0).all()


def test_without_botorch_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(hpo.UserError, match=r"pip install 'openhpo\[bayes\]'"):
        play(hpo.GaussianProcess())


# ---- Optuna


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(hpo.UserError, match=r"pip install 'openhpo\[optuna\]'"):
        play(hpo.Optuna())


@optuna
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("TPESample", {}, "has no sampler 'TPESample'. Did you mean 'TPESampler'?"),
        ("TPESampler", {"colour": 1}, "TPESampler cannot be made.*colour"),
        ("nowhere.Sampler", {}, "there is no sampler 'nowhere.Sampler'"),
        ("QMCSampler", {}, "--sampler sobol"),
    ],
)
def test_a_sampler_that_optuna_has_not_is_refused(name, options, message):
    with pytest.raises(hpo.UserError, match=message):
        play(hpo.Optuna(name, **options))


@optuna
def test_optuna_sees_what_trials_came_to():
    suggest = hpo.Optuna("TPESampler").bind(PLANE, 0)
    points = [(0.1, 0.2), (0.3, 0.4), (0.5, 0.6), (0.7, 0.8)]
    history = records(points, [1.0, 2.0, 3.0, 4.0], margins=[(-1.0,), (2.0,), (0.0,), (0.0,)])
    history[1].state, history[2].state, history[3].state = State.PAUSED, State.FAILED, State.RUNNING
    seen = [suggest._trial(record) for record in history]
    assert [trial.state.name for trial in seen] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert seen[0].value == 1.0
    assert seen[0].params == {"x": 0.1, "y": 0.2}
    assert seen[0].system_attrs["constraints"] == [-1.0]
    assert seen[1].intermediate_values == {1: 2.0}
