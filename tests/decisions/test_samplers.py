import importlib.util
import itertools
import math
from array import array

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openhpo as hpo
from openhpo.objective import NO_SCORE, Score
from openhpo.samplers.base import known
from openhpo.samplers.coordinates import Coordinates
from openhpo.samplers.parzen import Parzen
from openhpo.samplers.tpe import Observed
from openhpo.stages import State, TrialRecord


def suggestions(sampler, space, count, seed=0):
    suggest = sampler.bind(space, seed)
    return [suggest(k, [], numpy.random.default_rng([seed, k])) for k in range(count)]


PLAIN = hpo.Space({"a": hpo.Integer((0, 2)), "b": hpo.Categorical(["x", "y"]), "c": hpo.Float((0.0, 1.0))})
CONDITIONAL = hpo.Space(
    {"momentum": hpo.Float((0.0, 0.9)), "optimizer": hpo.Categorical(["sgd", "adam"]), "lr": hpo.Float((0.001, 0.1), log=True)},
    conditions={"momentum": "optimizer == 'sgd'"},
)


def test_a_grid_is_the_cartesian_product_with_the_last_axis_fastest():
    grid = hpo.Grid(c=[0.25, 0.75]).bind(PLAIN, 0)
    points = [grid(k, [], None) for k in range(grid.size)]
    expected = [dict(zip("abc", point, strict=True)) for point in itertools.product([0, 1, 2], "xy", [0.25, 0.75])]
    assert points == expected


def test_a_count_spreads_values_over_the_range_ends_included():
    grid = hpo.Grid(momentum=[0.9], optimizer=["adam"], lr=3).bind(CONDITIONAL, 0)
    assert [grid(k, [], None)["lr"] for k in range(grid.size)] == pytest.approx([0.001, 0.01, 0.1])


def test_a_count_above_the_number_of_integers_takes_each_once():
    grid = hpo.Grid(a=10, c=1).bind(PLAIN, 0)
    assert grid.size == 3 * 2


def test_inactive_axes_are_not_multiplied_out():
    grid = hpo.Grid(momentum=[0.0, 0.5, 0.9], lr=[0.01, 0.1]).bind(CONDITIONAL, 0)
    points = [grid(k, [], None) for k in range(grid.size)]
    assert len(points) == 3 * 2 + 2
    assert len({tuple(sorted(point.items())) for point in points}) == len(points)


def test_forbidden_points_are_left_out():
    space = hpo.Space({"a": hpo.Integer((0, 2)), "b": hpo.Integer((0, 2))}, forbidden=["a > b"])
    grid = hpo.Grid().bind(space, 0)
    assert [tuple(grid(k, [], None).values()) for k in range(grid.size)] == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]


def test_fixed_hyperparameters_are_no_axes():
    grid = hpo.Grid(c=[0.5]).bind(PLAIN.fix({"a": 1}), 0)
    assert grid.size == 2
    with pytest.raises(hpo.UserError, match="'a', but this hyperparameter is fixed"):
        hpo.Grid(a=[1], c=[0.5]).bind(PLAIN.fix({"a": 1}), 0)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_grid_without_conditions_has_as_many_points_as_the_product_of_its_axes(counts):
    space = hpo.Space({f"x{k}": hpo.Float((0.0, 1.0)) for k in range(len(counts))})
    assert hpo.Grid({f"x{k}": count for k, count in enumerate(counts)}).bind(space, 0).size == numpy.prod(counts)


@pytest.mark.parametrize("sampler", [hpo.Random(), hpo.Sobol()])
def test_a_suggestion_depends_on_the_seed_and_the_number_alone(sampler):
    forward = suggestions(sampler, CONDITIONAL, 40)
    suggest = sampler.bind(CONDITIONAL, 0)
    backward = [suggest(k, [], numpy.random.default_rng([0, k])) for k in reversed(range(40))]
    assert forward == backward[::-1]
    assert forward != suggestions(sampler, CONDITIONAL, 40, seed=1)


def test_sobol_points_are_spread_more_evenly_than_random_ones():
    space = hpo.Space({"x": hpo.Float((0.0, 1.0)), "y": hpo.Float((0.0, 1.0))})

    def boxes_hit(sampler):
        points = suggestions(sampler, space, 64)
        return len({(int(p["x"] * 8), int(p["y"] * 8)) for p in points})

    assert boxes_hit(hpo.Sobol()) == 64  # one in each box: the property of the sequence
    assert boxes_hit(hpo.Random()) < 56


def test_sobol_moves_up_past_forbidden_points():
    space = hpo.Space({"x": hpo.Float((0.0, 1.0))}, forbidden=["x > 0.5"])
    points = [point["x"] for point in suggestions(hpo.Sobol(), space, 100)]
    assert max(points) <= 0.5
    assert len(set(points)) == 100


def test_sobol_with_nothing_to_search_repeats_the_one_configuration():
    assert suggestions(hpo.Sobol(), hpo.Space({"a": 1}), 3) == [{"a": 1}] * 3


# ---- learning


def trial(number, config, loss, *, step=1, violation=0.0, state=hpo.State.DONE):
    score = Score(violation, loss)
    return TrialRecord(number, config, state, step, score, score, step, array("d", [loss] * step))


def searched(sampler, space, loss, count, *, seed=0, workers=1):
    """The trials of a search, of which so many run at a time."""
    suggest, history = sampler.bind(space, seed), []
    for number in range(count):
        history.append(TrialRecord(number, suggest(number, history, numpy.random.default_rng([seed, number]))))
        if number >= workers - 1:
            done = history[number - workers + 1]
            history[done.number] = trial(done.number, done.config, loss(done.config))
    return history


MIXED = hpo.Space(
    {
        "optimizer": hpo.Categorical(["sgd", "adam", "lars"]),
        "lr": hpo.Float((1e-5, 1.0), log=True),
        "momentum": hpo.Float((0.0, 0.99)),
        "layers": hpo.Integer((1, 8)),
        "width": hpo.Integer((16, 4096), log=True),
        "batch": hpo.Categorical([32, 64, 128], ordered=True),
    },
    conditions={"momentum": "optimizer == 'sgd'"},
    forbidden=["layers > 6 and batch == 128"],
)


def mixed_loss(config):
    """Best near lr = 1e-2, sgd, momentum 0.9, 4 layers."""
    away = abs(math.log10(config["lr"]) + 2) + abs(config["layers"] - 4) / 4
    return away + (abs(config["momentum"] - 0.9) if "momentum" in config else 1.0)


def is_legal(space, config):
    return space.configuration(config) == config


def test_tpe_suggests_only_what_the_space_allows():
    history = searched(hpo.TPE(), MIXED, mixed_loss, 60, workers=4)
    assert all(is_legal(MIXED, trial.config) for trial in history)
    assert any("momentum" not in trial.config for trial in history)


@pytest.mark.parametrize("space", [PLAIN, CONDITIONAL, MIXED], ids=["plain", "conditional", "mixed"])
def test_coordinates_lead_back_to_the_configuration(space):
    coordinates = Coordinates(space)
    for config in suggestions(hpo.Random(), space, 50):
        row = numpy.array(coordinates.row(config))
        again = coordinates.config(numpy.nan_to_num(row, nan=0.5).tolist())
        assert again.keys() == config.keys()
        near = {name: pytest.approx(value) if isinstance(value, float) else value for name, value in config.items()}
        assert again == near
        assert numpy.array_equal(coordinates.snapped(row[None])[0], row, equal_nan=True)


def test_what_tpe_suggests_follows_from_the_history_alone():
    history = searched(hpo.TPE(), MIXED, mixed_loss, 40, workers=3)
    other = searched(hpo.TPE(), MIXED, lambda config: -mixed_loss(config), 40, workers=3)
    experienced = hpo.TPE().bind(MIXED, 0)
    for earlier in (history, other, history[:20]):  # whatever it was asked before
        experienced(len(earlier), earlier, numpy.random.default_rng(0))
        fresh = hpo.TPE().bind(MIXED, 0)
        assert [s(40, history, numpy.random.default_rng(7)) for s in (experienced, fresh)] == [
            fresh(40, history, numpy.random.default_rng(7))
        ] * 2
    assert fresh(40, history, numpy.random.default_rng(7)) != fresh(40, other, numpy.random.default_rng(7))


def test_tpe_finds_what_random_search_does_not():
    def ends(sampler):
        return [min(mixed_loss(t.config) for t in searched(sampler, MIXED, mixed_loss, 60, seed=seed)) for seed in range(9)]

    assert numpy.median(ends(hpo.TPE())) < numpy.median(ends(hpo.Random())) / 2


def test_hundreds_of_workers_get_points_of_their_own():
    space = hpo.Space({"x": hpo.Float((0.0, 1.0)), "y": hpo.Float((0.0, 1.0))})
    suggest = hpo.TPE().bind(space, 0)
    points = suggestions(hpo.Random(), space, 40)
    history = [trial(k, point, (point["x"] - 0.3) ** 2 + (point["y"] - 0.6) ** 2) for k, point in enumerate(points)]
    for number in range(40, 340):
        history.append(TrialRecord(number, suggest(number, history, numpy.random.default_rng([0, number]))))
    places = numpy.array([[t.config["x"], t.config["y"]] for t in history[40:]])
    apart = numpy.abs(places[:, None] - places[None]).max(axis=2) + numpy.eye(300)
    assert apart.min() > 0.0
    assert numpy.median(apart.min(axis=1)) > 0.002
    near = numpy.hypot(places[:, 0] - 0.3, places[:, 1] - 0.6) < 0.3  # a circle with 28 % of the area
    assert near.mean() > 0.4


def test_of_few_combinations_tpe_tries_each_before_any_twice():
    space = hpo.Space({"a": hpo.Integer((0, 3)), "b": hpo.Categorical(["x", "y", "z"])})
    history = searched(hpo.TPE(startup=2), space, lambda config: config["a"], 40)
    assert len({tuple(t.config.items()) for t in history}) == 12


def beside(history, count=60):
    """Where TPE goes on from a history in one dimension."""
    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    suggest = hpo.TPE().bind(space, 0)
    return numpy.array([suggest(len(history), history, numpy.random.default_rng(k))["x"] for k in range(count)])


def test_tpe_goes_where_requirements_are_met():
    points = numpy.linspace(0.01, 0.99, 30).tolist()
    history = [trial(k, {"x": x}, x, violation=max(0.0, 0.6 - x)) for k, x in enumerate(points)]
    assert (numpy.abs(beside(history) - 0.65) < 0.2).mean() > 0.8
    never = [trial(k, {"x": x}, 0.0, violation=1.5 - x) for k, x in enumerate(points)]
    assert (beside(never) > 0.7).mean() > 0.8


def test_tpe_keeps_away_from_what_failed():
    points = numpy.linspace(0.01, 0.99, 30).tolist()
    history = [trial(k, {"x": x}, x, state=hpo.State.FAILED if x < 0.5 else hpo.State.DONE) for k, x in enumerate(points)]
    assert (beside(history) > 0.45).mean() > 0.8


def test_where_next_to_all_failed_tpe_goes_where_some_did_not():
    points = numpy.linspace(0.0, 1.0, 60).tolist()
    history = [
        trial(k, {"x": x}, x, state=hpo.State.DONE if 0.6 < x < 0.68 else hpo.State.FAILED) for k, x in enumerate(points)
    ]
    assert (numpy.abs(beside(history) - 0.64) < 0.1).mean() > 0.5


@pytest.mark.parametrize(
    ("states", "startup", "enough"),
    [
        ("D" * 9, 10, False),
        ("D" * 10, 10, True),
        ("P" * 4 + "R" * 6, 10, True),
        ("D" * 3 + "R" * 20, 10, False),
        ("DR", 2, False),
        ("DS", 2, True),
        ("DDR", 3, False),
        ("R" * 12 + "DDSD", 10, True),
        ("F" * 9 + "D", 10, True),
        ("F" * 10, 10, False),
        ("F" * 8 + "D" + "R" * 9, 10, False),
        ("FFDDDFD", 10, False),
    ],
)
def test_a_model_begins_when_enough_trials_were_begun_and_enough_are_at_rest(states, startup, enough):
    """D for done, P for paused, S for stopped, F for failed, R for running."""
    kinds = {state.value[0].upper(): state for state in (State.DONE, State.PAUSED, State.STOPPED, State.FAILED, State.RUNNING)}
    history = [trial(k, {"x": 0.5}, 0.5, state=kinds[letter]) for k, letter in enumerate(states)]
    assert known(startup, history) == enough


def test_where_most_trials_fail_tpe_finds_where_they_do_not():
    space, found = hpo.Space({"x": hpo.Float((0.0, 1.0)), "y": hpo.Float((0.0, 1.0))}), []
    for seed in range(5):
        suggest, history = hpo.TPE().bind(space, seed), []
        for k in range(60):
            config = suggest(k, history, numpy.random.default_rng([seed, k]))
            well = config["x"] < 0.25 and config["y"] < 0.25
            history.append(trial(k, config, config["x"], state=State.DONE if well else State.FAILED))
        found.append(sum(record.state is State.DONE for record in history))
    assert numpy.median(found) > 20, found  # of 60; without learning 4


@pytest.mark.parametrize("ended", [3, 4])
def test_tpe_learns_from_four_trials_that_ended_well_while_many_run(ended):
    """Were as many results as `startup` waited for, as many trials again would be drawn knowing nothing."""
    history = [trial(k, {"x": 0.5}, 0.5, state=hpo.State.RUNNING) for k in range(16)]
    history[: ended + 2] = [trial(k, {"x": 0.7 + k / 50}, 1 - k / 50) for k in range(ended)] + [
        trial(ended + k, {"x": 0.1}, 0.0, state=hpo.State.FAILED) for k in range(2)
    ]
    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    even = hpo.Sobol().bind(space, 0)(16, history, numpy.random.default_rng(0))["x"]
    assert (beside(history) == even).all() == (ended == 3)


def test_tpe_believes_long_trainings_where_there_are_enough():
    points = numpy.linspace(0.01, 0.99, 30).tolist()
    short = [trial(k, {"x": x}, x, state=hpo.State.PAUSED) for k, x in enumerate(points)]
    assert (beside(short) < 0.4).mean() > 0.8
    long = [trial(30 + k, {"x": x}, 1 - x, step=9) for k, x in enumerate(numpy.linspace(0.05, 0.95, 12).tolist())]
    assert (beside(short + long) > 0.6).mean() > 0.8


def test_what_tpe_cannot_work_with_is_refused():
    with pytest.raises(hpo.UserError, match="startup has to be a whole number of at least 2"):
        hpo.TPE(startup=0)
    with pytest.raises(hpo.UserError, match="random_fraction"):
        hpo.TPE(random_fraction=1.0)


def test_a_parzen_estimator_is_a_density_and_draws_from_itself():
    space = hpo.Space({"x": hpo.Float((0.0, 1.0)), "kind": hpo.Categorical(["a", "b", "c"]), "y": hpo.Float((0.0, 1.0))})
    rows = numpy.array([[0.02, 0, 0.3], [0.5, 2, 0.9], [0.55, 2, numpy.nan]])
    density = Parzen(Coordinates(space), rows, numpy.array([1.0, 2.0, 1.0]), 0.85, 1.0)
    rng = numpy.random.default_rng(0)
    even = rng.random((200_000, 3))
    even[:, 1] = numpy.floor(even[:, 1] * 3)
    weights = numpy.exp(density.logarithms(even)) * 3
    assert weights.mean() == pytest.approx(1.0, abs=0.01)
    drawn = density.draw(rng, 200_000)
    for look in (
        lambda r: r[:, 0],
        lambda r: r[:, 1] == 2,
        lambda r: r[:, 0] * r[:, 2],
        lambda r: (r[:, 1] == 0) * r[:, 2] ** 2,
    ):
        assert look(drawn).mean() == pytest.approx((weights * look(even)).mean(), abs=0.01)


# ---- where a trial ends as soon as it is good enough

botorch = importlib.util.find_spec("botorch")
TARGET = hpo.Space({"x": hpo.Float((0.0, 1.0)), "y": hpo.Float((0.0, 1.0))})


def distance_left(config, step):
    """Gets to 0.1 in 3 to 40 steps, the sooner the nearer x and y are to the middle, or never."""
    far = abs(config["x"] - 0.5) + abs(config["y"] - 0.5)
    return 1.0 - step * 0.3 * math.exp(-6 * far)


def first_steps(sampler, seed, trials=30):
    study = hpo.Study(
        TARGET,
        hpo.Minimize(hpo.first_step("error <= 0.1")),
        engine=hpo.Full(40),
        sampler=sampler,
        trials=trials,
        seed=seed,
    )
    while (stage := study.ask()) is not None:
        for step in range(1, 41):
            if study.tell(stage, step, {"error": distance_left(stage.config, step)}) is hpo.Verdict.STOP:
                break
        study.end(stage)
    return study


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(lambda: hpo.TPE(), id="tpe"),
        pytest.param(lambda: hpo.GaussianProcess(), id="gp", marks=pytest.mark.skipif(not botorch, reason="needs BoTorch")),
    ],
)
def test_those_that_reach_a_target_sooner_are_learnt_from(sampler):
    learnt = [first_steps(sampler(), seed) for seed in range(2)]
    drawn = [first_steps(hpo.Random(), seed) for seed in range(2)]

    def usual(studies):
        steps = sorted(trial.step for study in studies for trial in study.trials[20:])
        return steps[len(steps) // 2]

    assert usual(learnt) <= usual(drawn) / 2


def test_failed_trials_are_never_among_the_good_ones():
    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    records = []
    for number in range(20):
        failed = number % 4 == 3
        score = NO_SCORE if failed else Score(0.0, 1.0 + number)
        state = hpo.State.FAILED if failed else hpo.State.DONE
        record = TrialRecord(number, {"x": number / 20}, state, 2, score, score, 2)
        record.losses.extend([math.nan if number % 2 else 5.0, score.loss])
        records.append(record)
    observed = Observed(Coordinates(space))
    observed.look(records)
    ranked = observed.news_first(observed.ranked(records, 2)).tolist()
    assert sorted(ranked[15:]) == [number for number in range(20) if number % 4 == 3]
