"""Refinement: boundaries that move from round to round to where the best trials lie."""

import importlib.util
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import openhpo as hpo
import openhpo.objective
from openhpo.keyed import KeyedGenerator
from openhpo.samplers.refinement import Axis

SPACE = hpo.Space(
    {
        "x": hpo.Float((0.0, 1.0)),
        "lr": hpo.Float((1e-4, 1e-2), log=True),
        "k": hpo.Integer((2, 15)),
        "size": hpo.Categorical([8, 16, 32, 64], ordered=True),
        "kind": hpo.Categorical(["a", "b"]),
    }
)


def study(refinement, space=SPACE, trials=400, **more):
    return hpo.Study(space, hpo.Minimize("loss", **more), engine=hpo.Full(1), sampler=refinement, trials=trials, seed=1)


def metrics(config):
    """The best x lies beyond the first boundary; lr, k and size inside of theirs."""
    loss = (config["x"] - 1.5) ** 2 + abs(math.log10(config["lr"] / 1e-3)) + 0.01 * abs(config["k"] - 5)
    return {"loss": loss + 0.05 * (config["size"] != 16) + 0.1 * (config["kind"] == "a"), "quality": config["x"]}


def play(found):
    said = []
    found.defer()
    while True:
        stage = found.ask()
        if stage is None:
            call = found.draw()
            if call is None:
                return said
            suggestion = call()
            said += suggestion.remarks
            found.suggested(suggestion)
            continue
        found.tell(stage, 1, metrics(stage.config))
        found.end(stage)


def test_boundaries_move_outwards_where_the_best_trials_lie_at_them_and_inwards_where_they_do_not():
    found = study(hpo.Refinement(hpo.TPE(), round_trials=40, rounds=5, patience=5))
    said = play(found)
    first, last = (remark["boundaries"] for remark in (said[0], [each for each in said if "boundaries" in each][-1]))
    assert first["x"] == [0.0, 1.0]
    assert last["x"][1] > 1.1
    assert last["x"][0] > 0.5
    assert 1e-4 < last["lr"][0] < 1e-3 < last["lr"][1] < 1e-2
    assert 2 < last["k"][0] <= 5 <= last["k"][1] < 15
    assert found.best.config["x"] > 1.0


def test_every_round_tells_its_boundaries_its_clusters_and_the_one_that_was_chosen():
    said = play(study(hpo.Refinement(hpo.Random(), round_trials=50, rounds=3, patience=3)))
    ends = [remark for remark in said if "clusters" in remark]
    assert [remark["round"] for remark in ends] == [0, 1, 2]
    for remark in ends:
        assert remark["kept"] == math.ceil(0.75 * remark["met"]) == 38
        assert sum(cluster["size"] for cluster in remark["clusters"]) == remark["kept"]
        assert all(cluster["size"] >= 10 for cluster in remark["clusters"])
        chosen = [cluster for cluster in remark["clusters"] if cluster["chosen"]]
        assert len(chosen) == 1
        assert chosen[0]["mean_loss"] == min(cluster["mean_loss"] for cluster in remark["clusters"])
    assert ends[-1]["next"] is None


def test_a_round_waits_for_all_trials_of_the_one_before():
    found = study(hpo.Refinement(hpo.Random(), round_trials=4, rounds=2))
    found.defer()
    stages = []
    for worker in range(4):
        assert found.ask(worker) is None
        found.suggested(found.draw()())
        stages.append(found.ask(worker))
    assert found.ask(4) is None
    assert found.draw() is None
    for stage in stages:
        found.tell(stage, 1, metrics(stage.config))
        found.end(stage)
    assert found.ask(0) is None
    assert found.draw() is not None


def test_it_ends_when_a_round_has_not_improved():
    found = study(hpo.Refinement(hpo.Random(), round_trials=20, rounds=20, limits={"x": (0.0, 1.0)}))
    said = play(found)
    assert found.finished
    ends = [remark for remark in said if "improved" in remark]
    assert [remark["improved"] for remark in ends] == [True] * (len(ends) - 1) + [False]
    assert found.total == len(found.trials) == 20 * len(ends) < 400


def test_no_boundary_moves_beyond_its_limit():
    found = study(hpo.Refinement(hpo.Random(), round_trials=40, rounds=6, patience=6, limits={"x": (0.0, 1.1)}))
    said = play(found)
    assert max(trial.config["x"] for trial in found.trials) <= 1.1
    assert max(remark["boundaries"]["x"][1] for remark in said if "boundaries" in remark) == pytest.approx(1.1)


def test_only_trials_that_meet_the_requirement_are_looked_at():
    said = play(study(hpo.Refinement(hpo.Random(), round_trials=40, rounds=2, patience=2), require="quality >= 0.5"))
    end = next(remark for remark in said if "met" in remark)
    assert 10 <= end["met"] <= 30
    assert end["kept"] == math.ceil(0.75 * end["met"])


def test_where_no_trial_meets_the_requirement_the_boundaries_stay():
    said = play(study(hpo.Refinement(hpo.Random(), round_trials=20, rounds=2, patience=2), require="quality >= 9"))
    begun = [remark["boundaries"] for remark in said if "boundaries" in remark]
    assert begun[0] == begun[1]


def test_it_is_a_function_of_the_history():
    kept = []
    for _ in range(2):
        found = study(hpo.Refinement(hpo.TPE(), round_trials=15, rounds=3, patience=3))
        play(found)
        kept.append([trial.config for trial in found.trials])
    assert kept[0] == kept[1]


def test_what_conditions_refer_to_keeps_its_boundaries():
    space = hpo.Space(
        {"x": hpo.Float((0.0, 1.0)), "depth": hpo.Integer((1, 8)), "skip": hpo.Integer((1, 4))},
        conditions={"skip": "depth > 4"},
    )
    found = hpo.Study(
        space, hpo.Minimize("loss"), engine=hpo.Full(1), sampler=hpo.Refinement(hpo.Random(), 20, 3, patience=3), trials=60
    )
    while (stage := found.ask()) is not None:
        found.tell(stage, 1, {"loss": (stage.config["x"] - 2) ** 2 + stage.config["depth"]})
        found.end(stage)
    assert {trial.config["depth"] for trial in found.trials[40:]} >= {1, 8}
    assert max(trial.config["x"] for trial in found.trials) > 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"round_trials": 1}, "round_trials"),
        ({"coefficient": 0.0}, "coefficient"),
        ({"keep": 1.5}, "keep"),
    ],
)
def test_senseless_numbers_are_refused(arguments, message):
    with pytest.raises(hpo.UserError, match=message):
        hpo.Refinement(**arguments)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"y": (0, 1)}, "a limit for 'y', which is not searched"),
        ({"size": (0, 1)}, "limits are for numbers"),
        ({"x": (0.2, 2)}, "have to lie around its range"),
        ({"lr": (0.0, 1)}, "have to lie around its range"),
    ],
)
def test_senseless_limits_are_refused(limits, message):
    with pytest.raises(hpo.UserError, match=message):
        study(hpo.Refinement(hpo.Random(), limits=limits))


def test_there_has_to_be_something_to_refine():
    with pytest.raises(hpo.UserError, match="nothing to refine"):
        study(hpo.Refinement(hpo.Random()), hpo.Space({"kind": hpo.Categorical(["a", "b"])}))


@given(st.booleans(), st.booleans(), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.5), st.integers(1, 12))
def test_boundaries_stay_in_order_and_keep_the_cluster_inside(whole, log, one, other, coefficient, rounds):
    item = hpo.Integer((2, 60), log) if whole else hpo.Float((0.5, 60.0), log)
    axis = Axis(item, None)
    present = axis.first
    for _ in range(rounds):
        cluster = tuple(sorted(present[0] + part * (present[1] - present[0]) for part in (one, other)))
        if whole:
            low, high = axis.bounds_of(present)
            cluster = tuple(axis.place(min(max(round(math.exp(at) if log else at), low), high)) for at in cluster)
        moved = axis.moved(present, cluster, coefficient)
        low, high = axis.bounds_of(moved)
        assert low < high
        assert axis.limits[0] <= moved[0] < moved[1] <= axis.limits[1]
        assert moved[0] <= cluster[0] + 1e-9
        assert moved[1] >= cluster[1] - 1e-9
        present = moved


def test_a_cluster_near_a_boundary_moves_it_out_by_the_coefficient_and_a_far_one_in_to_near_the_cluster():
    axis = Axis(hpo.Float((10.0, 20.0)), None)
    assert axis.moved((10.0, 20.0), (10.5, 15.0), 0.1) == (9.0, 16.0)
    logarithmic = Axis(hpo.Float((1e-4, 1e-2), log=True), None)
    low, high = logarithmic.bounds_of(logarithmic.moved(logarithmic.first, (math.log(1e-3), math.log(9.9e-3)), 0.1))
    assert low == pytest.approx(1e-3 / 10**0.2)
    assert high == pytest.approx(1e-2 * 10**0.2)
    assert Axis(hpo.Integer((41, 50)), None).moved((41.0, 50.0), (45.0, 50.0), 0.1) == (44.0, 51.0)


def test_without_scikit_learn_what_to_install_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(hpo.UserError, match="pip install scikit-learn"):
        study(hpo.Refinement(hpo.Random()))


def test_whoever_hears_what_was_remarked_or_sees_the_history_alone_suggests_the_same():
    sampler = hpo.Refinement(hpo.TPE(startup=4), round_trials=15, rounds=3, patience=3)
    found = study(sampler, trials=40)
    said = play(found)
    for hears in (True, False):
        for number in (0, 7, 15, 16, 30, 39):
            suggest = sampler.bind(SPACE, 1)
            if hears:
                rounds = number // 15 + (number % 15 > 0)  # those whose begin has been told before
                begun = [remark for remark in said if "boundaries" in remark][:rounds]
                suggest.heard(said[: said.index(begun[-1]) + 1] if begun else [])
            keyed = KeyedGenerator()
            keyed.rekey(1, number)
            assert suggest.ready(number, found.trials[:number])
            assert suggest(number, found.trials[:number], keyed.generator) == found.trials[number].config


def test_an_old_round_is_not_judged_anew_when_its_trials_have_changed_since():
    sampler = hpo.Refinement(hpo.Random(), round_trials=15, rounds=3, patience=3)
    found = study(sampler, trials=40)
    said = play(found)
    begun = [remark for remark in said if "boundaries" in remark]
    suggest = sampler.bind(SPACE, 1)
    suggest.heard(said[: said.index(begun[1]) + 1])
    for trial in found.trials[:15]:
        trial.score = hpo.objective.Score(0.0, -trial.score.loss)  # as if their training had gone on
    keyed = KeyedGenerator()
    keyed.rekey(1, 20)
    assert suggest(20, found.trials[:20], keyed.generator) == found.trials[20].config


def test_rounds_are_told_once_and_the_last_one_is_told_too():
    for trials in (30, 40, 45):
        said = play(study(hpo.Refinement(hpo.Random(), round_trials=15, rounds=3, patience=3), trials=trials))
        whole = trials // 15
        assert [remark["round"] for remark in said if "improved" in remark] == list(range(whole))
        assert [remark["round"] for remark in said if "boundaries" in remark] == list(range(min(3, whole + 1)))


def test_a_trial_that_is_as_good_is_no_improvement_whatever_its_margin():
    assert not hpo.objective.Score(0.0, 5.0, hpo.objective.Margins((-0.2,))) < hpo.objective.Score(0.0, 5.0)
    assert hpo.objective.Score(0.0, 5.0, hpo.objective.Margins((-0.2,))) == hpo.objective.Score(0.0, 5.0)


def test_it_does_not_go_with_an_engine_that_decides_by_the_number_of_trials():
    with pytest.raises(hpo.UserError, match="choose an engine that does not"):
        hpo.Study(SPACE, hpo.Minimize("loss"), engine=hpo.SuccessiveHalving(4), sampler=hpo.Refinement(hpo.Random()), trials=40)
