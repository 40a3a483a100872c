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
    ladder, _ = suggest._fitted[1]
    (_, process), *others = ladder.parts
    assert not others
    assert numpy.sqrt(process.noise) * process.spread == pytest.approx(0.2, rel=0.3)


def test_the_logarithm_of_the_improvement_is_right_far_into_the_tail():
    from scipy.integrate import quad

    from openhpo.samplers.improvement import log_improvement

    places = numpy.array([3.0, 0.0, -0.5, -1.5, -8.0])
    exact = [
        math.log(quad(lambda u, z=z: (z - u) * math.exp(-(u**2) / 2) / math.sqrt(2 * math.pi), z - 30, z, epsabs=0)[0])
        for z in places.tolist()
    ]
    assert log_improvement(places).tolist() == pytest.approx(exact, rel=1e-6)
    far = log_improvement(numpy.array([-2e3, -1e5])).tolist()
    assert far == pytest.approx([-z * z / 2 - 2 * math.log(z) - math.log(2 * math.pi) / 2 for z in (2e3, 1e5)])


def wavy(rng, count, width=3):
    rows = rng.random((count, width))
    return rows, (rows**2).sum(axis=1) + numpy.sin(5 * rows[:, 0])


@botorch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("errors", [None, 0.05])
def test_what_a_process_says_is_what_botorchs_model_of_the_same_kernel_says(errors):
    import torch

    from openhpo.samplers.processes import _model, fitted

    rows, values = wavy(numpy.random.default_rng(0), 40)
    found = fitted(rows, values, numpy.empty(0) if errors is None else numpy.full(40, errors**2))
    model = _model(rows, found.targets, None if errors is None else found.noise)
    kernel = model.covar_module
    kernel.base_kernel.lengthscale, kernel.outputscale = torch.as_tensor(found.lengths), found.scale
    if errors is None:
        model.likelihood.noise = float(found.noise[0])
    places = numpy.random.default_rng(1).random((5, 3))
    posterior = model.eval().posterior(torch.as_tensor(places))
    assert found.means(places) == pytest.approx(posterior.mean.detach().numpy()[:, 0], abs=1e-4)
    draws = numpy.array([found.drawn(places, numpy.random.default_rng(seed)) for seed in range(4000)])
    assert draws.std(axis=0) == pytest.approx(posterior.variance.sqrt().detach().numpy()[:, 0], rel=0.1, abs=2e-3)


@botorch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_noise_and_what_is_not_is_found():
    from openhpo.samplers.processes import fitted

    rng = numpy.random.default_rng(1)
    rows, values = wavy(rng, 60)
    clean = fitted(rows, values, numpy.empty(0))
    noisy = fitted(rows, values + 0.3 * rng.standard_normal(60), numpy.empty(0))
    assert clean.noise[0] * clean.spread**2 < 1e-3
    assert noisy.noise[0] * noisy.spread**2 == pytest.approx(0.09, rel=0.5)
    assert clean.lengths[0] < clean.lengths[1]  # what waves has the shorter length


@botorch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("sure", [False, True])
def test_the_slopes_of_what_is_climbed_are_right(sure):
    from scipy.optimize import approx_fprime

    from openhpo.samplers.improvement import NoisyImprovement
    from openhpo.samplers.processes import fitted

    rng = numpy.random.default_rng(0)
    rows, values = wavy(rng, 30)
    one, other, requirement = (fitted(rows, each, numpy.empty(0)) for each in (values, values**2, rows[:, 0]))
    found = NoisyImprovement([(1.0, one), (0.3, other)], [(0.1, requirement)], rows[:10], rng, sure=sure)
    for place in ([0.3, 0.2, 0.8], [0.31, 0.29, 0.32]):
        value, slope = found.slope(numpy.array(place))
        assert value == pytest.approx(found(numpy.array([place]))[0])
        assert slope == pytest.approx(approx_fprime(numpy.array(place), lambda x: found(x[None])[0], 1e-7), rel=1e-3, abs=1e-3)


def levels(tie, count=60):
    """Losses after few steps and after many; the latter are known of the first third, which is drawn at random."""
    rng = numpy.random.default_rng(0)
    rows, late = wavy(rng, count, 2)
    early = tie * late + 0.05 * rng.standard_normal(count)
    known = late.copy()
    known[count // 3 :] = math.nan
    return rows, numpy.stack([early, known]), late


@botorch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tie", [1.0, -1.0])
def test_early_losses_tell_of_late_ones_also_where_they_say_the_contrary(tie):
    from openhpo.samplers.ladder import climbed

    rows, losses, late = levels(tie)
    found = climbed(rows, losses, numpy.empty((2, 0)))
    unknown = numpy.isnan(losses[1])
    assert numpy.corrcoef(found.means(rows)[unknown], late[unknown])[0, 1] > 0.9


@botorch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_where_nearly_nobody_came_to_a_level_it_is_nearly_unknown_there():
    from openhpo.samplers.ladder import climbed

    rows, losses, _ = levels(1.0)
    losses[1, 3:] = math.nan
    found = climbed(rows, losses, numpy.empty((2, 0)))
    places = numpy.random.default_rng(1).random((40, 2))
    draws = numpy.array(
        [
            sum(factor * process.drawn(places, numpy.random.default_rng(number)) for factor, process in found.parts)
            for number in range(20)
        ]
    )
    assert len(set(draws.argmin(axis=1).tolist())) > 8


def test_whoever_would_not_be_trained_further_is_known_by_the_first_loss():
    from openhpo.samplers.ladder import climbed

    rows, losses, _ = levels(1.0)
    ((most, process),) = climbed(rows, losses, numpy.empty((2, 0))).hurdles
    assert (losses[0] <= most * process.spread + process.mean).sum() == pytest.approx(20, abs=1)


@botorch
def test_a_curve_that_goes_on_is_known_as_far_as_it_came():
    from openhpo.samplers.coordinates import Coordinates
    from openhpo.samplers.observations import observed

    history = records([(0.1, 0.2), (0.3, 0.4), (0.5, 0.6)], [3.0, 2.0, 1.0], State.PAUSED)
    history[2].state = State.RUNNING  # promoted
    data = observed(history, Coordinates(PLANE))
    assert len(data.rows) == 3
    assert data.pending.tolist() == [[0.5, 0.6]]


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
