"""The arithmetic of each method, against its paper."""

import math
from array import array
from collections import Counter
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

import openhpo as hpo
from openhpo.engines.asha import Rung
from openhpo.engines.hyperband import shares
from openhpo.engines.neighbours import Neighbours
from openhpo.objective import Score
from openhpo.samplers import Suggest
from openhpo.stages import State, TrialRecord
from openhpo.testing import Workers

X = hpo.Space({"x": hpo.Float((0.0, 1.0))})


def by_x(stage, step, model):
    return {"loss": stage.config["x"] + 1 / step}


def played(engine, trials=None, workers=1, metrics=by_x, **more):
    study = hpo.Study(X, hpo.Minimize("loss"), engine=engine, trials=trials, **more)
    return study, Workers(study, workers, metrics).play()


def asked(stages):
    """How many stages end at each step."""
    return dict(sorted(Counter(stage.stop for stage in stages).items()))


# ---- Hyperband (Li et al., JMLR 2018): R = 81, 27, 9 and eta = 3

BRACKETS = {
    81: [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ],
    27: [[(27, 1), (9, 3), (3, 9), (1, 27)], [(12, 3), (4, 9), (1, 27)], [(6, 9), (2, 27)], [(4, 27)]],
    9: [[(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)], [(3, 9)]],
}
TOTALS = {81: (143, 206, 1902), 27: (49, 69, 423), 9: (17, 22, 78)}  # configurations, evaluations, units from scratch


@pytest.mark.parametrize("most", [81, 27, 9])
def test_hyperband_has_the_brackets_of_the_paper(most):
    sweep = hpo.Hyperband(most).sweep()
    assert [list(zip(bracket.sizes, bracket.rungs, strict=True)) for bracket in sweep] == BRACKETS[most]


@pytest.mark.parametrize("most", [81, 27, 9])
@pytest.mark.parametrize("workers", [1, 7])
def test_hyperband_asks_for_exactly_these(most, workers):
    study, play = played(hpo.Hyperband(most), workers=workers)
    configurations, evaluations, units = TOTALS[most]
    assert len(study.trials) == configurations
    assert len(play.stages) == evaluations
    assert sum(stage.stop for stage in play.stages) == units
    expected = Counter()
    for bracket in BRACKETS[most]:
        expected.update({steps: count for count, steps in bracket})
    assert asked(play.stages) == dict(sorted(expected.items()))


def test_hyperband_sweeps_again_where_more_trials_are_wanted():
    study, play = played(hpo.Hyperband(9), trials=34)
    assert len(study.trials) == 34
    assert len(play.stages) == 2 * 22


# ---- the choice of brackets (Li et al., "Hyper-Tune", PVLDB 2022)


def known(curves):
    """Trials at rest with these losses."""
    return [TrialRecord(number, {}, losses=array("d", curve)) for number, curve in enumerate(curves)]


def test_before_anything_is_known_brackets_have_shares_by_their_cost_and_a_half_for_what_first_steps_tell():
    found = shares(hpo.Hyperband(9).sweep(), [])
    worth = numpy.array([0.5 / 1, 0.5 / 3, 1 / 9])
    assert found == pytest.approx(0.25 / 3 + 0.75 * worth / worth.sum())


def test_the_share_of_a_bracket_is_kendalls_tau_over_its_first_steps():
    draws = numpy.random.default_rng(1).normal(size=(30, 9)).cumsum(axis=1)
    trials = known([*draws[:3], *draws[3:10, :3], *draws[10:, :1]])  # of 30, 10 went on to 3 steps and 3 of those to 9

    def tau(first, later, count):
        pairs = count * (count - 1) / 2
        return (kendalltau(draws[:count, first - 1], draws[:count, later - 1]).statistic * pairs + 2) / (pairs + 4)

    worth = numpy.maximum([(tau(1, 3, 10) + tau(1, 9, 3)) / 2, tau(3, 9, 3) / 3, 1 / 9], 0)
    assert shares(hpo.Hyperband(9).sweep(), trials) == pytest.approx(0.25 / 3 + 0.75 * worth / worth.sum())


def test_steps_that_tell_the_wrong_order_or_nothing_that_is_a_number_leave_a_bracket_its_even_part():
    trials = known([*([x, 0, -x, 0, 0, 0, 0, 0, -x] for x in range(6)), [math.nan] * 9])
    found = shares(hpo.Hyperband(9).sweep(), trials)
    assert found[0] == pytest.approx(0.25 / 3)
    assert found.sum() == pytest.approx(1)


def begun(engine, trials, workers, loss):
    """How many trials begin with how many steps."""
    _, play = played(engine, trials, workers, lambda stage, step, model: {"loss": loss(stage.config["x"], step)})
    return Counter(stage.stop for stage in play.stages if stage.start == 0)


@pytest.mark.parametrize("workers", [1, 4])
def test_trials_begin_with_few_steps_where_these_tell_the_order_and_train_in_full_where_they_mislead(workers):
    selecting = hpo.Hyperband(9, select_brackets=True)
    telling = begun(selecting, 200, workers, lambda x, step: x)
    guessing = begun(selecting, 200, workers, lambda x, step: x if step == 9 else math.sin(1e6 * x * step))
    misleading = begun(selecting, 200, workers, lambda x, step: x if step == 9 else -x)
    for other in (guessing, misleading):
        assert telling[1] > 1.5 * other[1]
        assert telling[9] < other[9] / 1.5
        assert telling.keys() == other.keys() == {1, 3, 9}


@pytest.mark.parametrize("most", [81, 27, 9])
def test_by_default_selecting_brackets_takes_about_the_steps_of_a_sweep_and_begins_several_kinds(most):
    study, play = played(hpo.Hyperband(most, select_brackets=True))
    _, swept = played(hpo.Hyperband(most))
    assert swept.steps / 2 < play.steps < 2 * swept.steps
    assert len({stage.stop for stage in play.stages if stage.start == 0}) > 1
    assert study.engine.expected_steps(study.total) == pytest.approx(swept.steps, rel=0.1)


def test_a_loss_that_is_not_reported_at_a_rung_counts_as_it_was_reported_before():
    curves = numpy.random.default_rng(2).normal(size=(20, 9))
    held = curves.copy()
    held[:, 8] = held[:, 2] = math.nan  # said at steps 2 and 8
    filled = curves.copy()
    filled[:, 8], filled[:, 2] = curves[:, 7], curves[:, 1]
    sweep = hpo.Hyperband(9).sweep()
    assert numpy.array_equal(shares(sweep, known(held)), shares(sweep, known(filled)))


# ---- successive halving


def test_halving_81_takes_27_9_3_and_1_and_no_more_than_the_last_step():
    _, play = played(hpo.SuccessiveHalving(50, 1, 3), 81)
    assert asked(play.stages) == {1: 81, 3: 27, 9: 9, 27: 3, 50: 1}
    assert play.steps == 266


def test_halving_promotes_the_best():
    study, _ = played(hpo.SuccessiveHalving(9, 1, 3), 27)
    best = sorted(study.trials, key=lambda trial: trial.config["x"])
    assert [trial.step for trial in best] == [9] * 3 + [3] * 6 + [1] * 18


def test_halving_on_taskset_reproduces_the_mean_of_the_reference():
    table = numpy.load(Path(__file__).parent.parent / "data/taskset_lstm.npz")
    losses, index = table["loss"].astype(float), table["index"].tolist()

    class Rows(Suggest):
        learns = False

        def bind(self, space, seed):
            self.rows = numpy.random.default_rng(seed).permutation(len(losses)).tolist()
            return self

        def __call__(self, number, history, rng):
            return {"row": self.rows[number]}

        def definition(self):
            return {}

    ends = []
    for seed in range(100):
        space = hpo.Space({"row": hpo.Integer((0, 999))})
        study = hpo.Study(
            space, hpo.Minimize("loss"), engine=hpo.SuccessiveHalving(50, 1, 3), sampler=Rows(), trials=81, seed=seed
        )
        while (stage := study.ask()) is not None:
            for step in range(stage.start + 1, stage.stop + 1):
                row = losses[stage.config["row"]]
                study.tell(stage, step, {"loss": row[index.index(step)]} if step in index else {})
            study.end(stage)
        (winner,) = [trial for trial in study.trials if trial.step == 50]
        ends.append(losses[winner.config["row"], -1])
    error = numpy.std(ends) * (1 / 100 + 1 / 500) ** 0.5
    assert abs(numpy.mean(ends) - 0.55526) < 3 * error


# ---- asynchronous successive halving (Han and Jiang; Li et al. 2020)


def test_256_models_cost_1280_units_with_continuation_and_2304_from_scratch():
    _, play = played(hpo.SuccessiveHalving(256, 1, 2), 256)
    assert play.steps == 1280
    assert sum(stage.stop for stage in play.stages) == 2304


def test_asha_on_32_trainers_takes_hardly_longer_than_it_has_to():
    from openhpo.replaying import simulate

    found = simulate(
        lambda: hpo.Study(X, hpo.Minimize("loss"), engine=hpo.ASHA(256, 1, 2), trials=256),
        lambda config, step: {"loss": config["x"] + 1 / step},
        lambda config, step: 1.0,
        32,
    )
    assert found.makespan <= 1.1 * max(256, found.busy / 32)
    assert found.study.best.step == 256


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.integers(2, 4))
def test_a_rung_promotes_each_of_its_best_part_once_and_nobody_else(losses, eta):
    rung, members, promoted = Rung(eta), [], []
    for number, loss in enumerate(losses):
        rung.add(Score(0.0, float(loss)), number)
        members.append((loss, number))
        best = {number for _, number in sorted(members)[: len(members) // eta]}
        while (found := rung.promote()) is not None:
            assert found in best
            assert found not in promoted
            promoted.append(found)
        assert best <= set(promoted)


def test_asha_takes_the_highest_rung_first_and_a_new_trial_when_there_is_nothing_to_promote():
    study = hpo.Study(X, hpo.Minimize("loss"), engine=hpo.ASHA(4, 1, 2), trials=20)
    wanted = []
    for _ in range(12):
        stage = study.ask()
        wanted.append((stage.trial, stage.stop))
        for step in range(stage.start + 1, stage.stop + 1):
            study.tell(stage, step, {"loss": -float(stage.trial)})  # each trial is better than those before
        study.end(stage)
    assert wanted[:7] == [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2) if (2, 2) in wanted[:6] else (3, 1), *wanted[5:7]]
    assert (1, 2) in wanted
    assert any(stop == 4 for _, stop in wanted)


def test_the_early_stopping_rate_leaves_out_the_lowest_rungs():
    assert hpo.ASHA(81, 1, 3, 2).rungs == [9, 27, 81]
    with pytest.raises(hpo.UserError, match="only 5 rungs"):
        hpo.ASHA(81, 1, 3, 5)


def test_the_stopping_variant_stops_all_but_the_best_part_at_each_rung():
    study, play = played(hpo.ASHA(9, 1, 3, stopping=True), 60)
    assert {stage.start for stage in play.stages} == {0}
    stopped = [trial for trial in study.trials if trial.state is State.STOPPED]
    assert {trial.step for trial in stopped} <= {1, 3}
    assert len(stopped) > 30
    assert min(study.trials, key=lambda trial: trial.config["x"]).step == 9


# ---- learning curve matching


def test_matching_stops_what_looks_like_a_recorded_training_that_ended_badly():
    ends = [0.1, 0.9, 0.2, 0.8]  # of the accumulated trials; a later one that looks like number 1 or 3 is stopped
    study = hpo.Study(
        X, hpo.Minimize("loss"), engine=hpo.LearningCurveMatching(8, [4], accumulation=4, threshold=0.4), trials=6
    )

    def train(end):
        stage = study.ask()
        for step in range(1, 9):
            if study.tell(stage, step, {"loss": end + 1 / step}) is hpo.Verdict.STOP:
                break
        study.end(stage)
        return study.trials[stage.trial]

    recorded = [train(end) for end in ends]
    assert all(trial.state is State.DONE for trial in recorded)
    bad, good = train(0.85), train(0.15)
    assert (bad.state, bad.step) == (State.STOPPED, 4)
    assert (good.state, good.step) == (State.DONE, 8)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 1500))
def test_the_nearest_point_is_the_one_that_a_search_through_all_would_find(seed, count):
    rng = numpy.random.default_rng(seed)
    points, found = rng.integers(0, 30, (count, 3)).astype(float), Neighbours(3)
    for point in points:
        found.add(point)
    for wanted in rng.integers(0, 30, (5, 3)).astype(float):
        distances = ((points - wanted) ** 2).sum(1)
        assert distances[found.nearest(wanted)] == distances.min()


# ---- median stopping (Vizier)


def test_median_stopping_compares_the_best_so_far_with_the_median_of_the_running_averages():
    study = hpo.Study(X, hpo.Minimize("loss"), engine=hpo.MedianStopping(4, startup=3), trials=5)
    curves = [[4.0, 2.0, 1.0, 1.0], [8.0, 4.0, 2.0, 2.0], [6.0, 3.0, 3.0, 3.0], [9.0, 4.6, 1.0, 1.0], [6.0, 4.4, 1.0, 1.0]]
    ends = []
    for curve in curves:
        stage = study.ask()
        for step, loss in enumerate(curve, 1):
            if study.tell(stage, step, {"loss": loss}) is hpo.Verdict.STOP:
                break
        study.end(stage)
        ends.append(step)
    # medians of the averages: 6 after one step, 4.5 after two; 9 > 6 stops the fourth at once, and 4.4 < 4.5 spares the fifth
    assert ends == [4, 4, 4, 1, 4]


# ---- population based training


def test_members_of_the_worst_quarter_go_on_with_models_of_the_best_quarter():
    study, play = played(hpo.PopulationBased(6, 1, resample=0.0), 8)
    donors = {change.stage for change in study.changes() if change.forked}
    owner = {stage.id: stage.trial for stage in play.stages}
    taken = [stage for stage in play.stages if stage.parent is not None and owner[stage.parent] != stage.trial]
    assert taken
    assert {stage.parent for stage in taken} <= donors
    for stage in taken:
        theirs = next(other for other in play.stages if other.id == stage.parent)
        assert stage.start == theirs.stop
        assert (
            stage.config["x"] / theirs.config["x"] == pytest.approx(0.8)
            or stage.config["x"] / theirs.config["x"] == pytest.approx(1.2)
            or stage.config["x"] == 1.0
        )


def test_a_population_is_wanted_and_something_to_mutate():
    with pytest.raises(hpo.UserError, match="two members at least"):
        played(hpo.PopulationBased(4), 1)
    with pytest.raises(hpo.UserError, match="nothing to mutate"):
        hpo.Study(hpo.Space({"a": hpo.Integer((1, 3))}), hpo.Minimize("l"), engine=hpo.PopulationBased(4), trials=4)
    with pytest.raises(hpo.UserError, match="mutate names 'y'"):
        played(hpo.PopulationBased(4, mutate=["y"]), 4)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_what_may_not_be_mutated_stays_what_the_donor_has(seed):
    space = hpo.Space(
        {
            "lr": hpo.Float((1e-3, 1.0), log=True),
            "batch": hpo.Categorical([16, 32, 64], ordered=True),
            "depth": hpo.Integer((1, 9)),
            "width": hpo.Integer((8, 64)),
            "act": hpo.Categorical(["relu", "tanh"]),
        }
    )
    engine = hpo.PopulationBased(5, mutate=["lr", "batch", "depth", "act"], resample=0.1)
    study = hpo.Study(space, hpo.Minimize("loss"), engine=engine, trials=12, seed=seed)
    play = Workers(study, 3, lambda stage, step, model: {"loss": model}, seed=seed).play()
    stages = {stage.id: stage for stage in play.stages}
    for stage in play.stages:
        if stage.parent is not None:
            assert stage.config["width"] == stages[stage.parent].config["width"]
        assert 1e-3 <= stage.config["lr"] <= 1.0
        assert stage.config["batch"] in (16, 32, 64)
        assert 1 <= stage.config["depth"] <= 9


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: hpo.SuccessiveHalving(9, 10), "min_steps is 10"),
        (lambda: hpo.SuccessiveHalving(9, 1, 1), "reduction_factor has to be a whole number of at least 2, not 1"),
        (lambda: hpo.Hyperband(0), "at least 1, not 0"),
        (lambda: hpo.LearningCurveMatching(8, [8]), "between step 1 and step 7"),
        (lambda: hpo.LearningCurveMatching(8, [2], [3, 4]), "no point lies up to there"),
        (lambda: hpo.LearningCurveMatching(8, threshold=1.5), "rank threshold"),
        (lambda: hpo.PopulationBased(8, quantile=0.6), "quantile"),
        (lambda: hpo.PopulationBased(8, factors=[]), "factors"),
        (lambda: hpo.MedianStopping(8, interval=0), "interval has to be"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(make, complaint):
    with pytest.raises(hpo.UserError, match=complaint):
        make()
