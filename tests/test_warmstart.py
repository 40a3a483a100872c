"""What a study knows from an earlier one, of the same space or of one that overlaps."""

import json
import shutil

import pytest

import openhpo as hpo
from openhpo.suggestions import Known
from openhpo.warmstart import known_from

OBJECTIVE = hpo.Minimize("loss")
SPACE = hpo.Space({"x": hpo.Float((0.0, 1.0)), "y": hpo.Float((0.0, 1.0))})
NARROW = hpo.Space({"x": hpo.Float((0.0, 0.5)), "y": hpo.Float((0.0, 1.0))})


def train(trial):
    for step in range(1, 4):
        yield {"loss": (trial["x"] - 0.3) ** 2 + (trial["y"] - 0.6) ** 2 + 1 / step, "other": trial["x"]}


def failing(trial):
    if trial["x"] > 0.5:
        raise RuntimeError("out of luck")
    yield from train(trial)


def run(folder, space=SPACE, how=train, trials=12, **more):
    return hpo.run(how, space, OBJECTIVE, engine=hpo.Full(3), trials=trials, study=folder, progress=False, app="test", **more)


def test_trials_of_an_overlapping_space_are_taken_over_with_their_scores_the_best_first(tmp_path):
    old = run(tmp_path / "old")
    known = known_from(tmp_path / "old", NARROW, OBJECTIVE)
    inside = [config for config in old.configs if config["x"] <= 0.5]
    assert 0 < len(inside) < 12
    assert sorted(map(repr, inside)) == sorted(repr(trial.config) for trial in known.trials)
    losses = [trial.score.loss for trial in known.trials]
    assert losses == sorted(losses)
    assert all(len(trial.losses) == 3 for trial in known.trials)


def test_what_the_earlier_space_had_besides_is_left_out_of_account(tmp_path):
    run(tmp_path / "old")
    known = known_from(tmp_path / "old", hpo.Space({"x": hpo.Float((0.0, 1.0)), "new": 3}), OBJECTIVE)
    assert all(set(trial.config) == {"x", "new"} for trial in known.trials)
    assert len(known.trials) == 12


def test_scores_are_those_of_the_new_objective(tmp_path):
    run(tmp_path / "old")
    known = known_from(tmp_path / "old", SPACE, hpo.Maximize("other"))
    assert known.trials[0].score.loss == -max(trial.config["x"] for trial in known.trials)


def test_failed_trials_are_known_as_such(tmp_path):
    run(tmp_path / "old", how=failing)
    known = known_from(tmp_path / "old", SPACE, OBJECTIVE)
    assert {trial.config["x"] > 0.5 for trial in known.trials if trial.state is hpo.State.FAILED} == {True}
    assert known.trials[-1].state is hpo.State.FAILED


def test_tpe_begins_where_the_earlier_study_ended(tmp_path):
    old = run(tmp_path / "old", trials=40)
    fresh = run(tmp_path / "fresh", sampler=hpo.TPE(), trials=6)
    warm = run(tmp_path / "warm", sampler=hpo.TPE(), trials=6, warm_start=tmp_path / "old")
    assert sum(best.value for best in warm.top(6)) < sum(best.value for best in fresh.top(6))
    assert warm.definition["warm_start"]["source"] == str(tmp_path / "old")
    assert len(warm.definition["warm_start"]["trials"]) == len(old.configs)


def test_what_was_known_is_the_same_when_it_is_read_back(tmp_path):
    hard = hpo.Minimize(hpo.first_step("loss <= 0.7"), require="other <= 0.8")
    hpo.run(train, SPACE, hard, engine=hpo.ASHA(3, 1, 2), trials=12, study=tmp_path / "old", progress=False, app="test")
    known = known_from(tmp_path / "old", SPACE, hard)
    again = Known.from_definition(json.loads(json.dumps(known.definition(), allow_nan=False)))
    assert {trial.state for trial in known.trials} == {hpo.State.DONE, hpo.State.STOPPED}
    assert any(trial.score.violation > 0 for trial in known.trials)
    for one, other in zip(known.trials, again.trials, strict=True):
        assert (one.score, one.score.margins, one.best_step) == (other.score, other.score.margins, other.best_step)
        assert (one.state, one.step, repr(one.losses)) == (other.state, other.step, repr(other.losses))
    options = {"engine": hpo.Full(3), "sampler": hpo.TPE(), "study": tmp_path / "new", "progress": False, "app": "test"}
    hpo.run(train, SPACE, hard, trials=3, warm_start=tmp_path / "old", **options)
    assert len(hpo.run(train, SPACE, hard, trials=5, warm_start=tmp_path / "old", **options).configs) == 5


def test_population_based_training_teaches_nothing_of_configurations(tmp_path):
    def tracked(trial):
        trial.track()
        yield from train(trial)

    options = {"engine": hpo.PopulationBased(3), "trials": 4, "progress": False, "app": "test"}
    hpo.run(tracked, SPACE, OBJECTIVE, study=tmp_path / "old", **options)
    with pytest.raises(hpo.UserError, match="took over each other's models"):
        known_from(tmp_path / "old", SPACE, OBJECTIVE)


def test_a_study_goes_on_with_what_it_knew_when_the_earlier_one_is_gone(tmp_path):
    run(tmp_path / "old")
    first = run(tmp_path / "warm", sampler=hpo.TPE(), trials=4, warm_start=tmp_path / "old").configs
    shutil.rmtree(tmp_path / "old")
    more = run(tmp_path / "warm", sampler=hpo.TPE(), trials=6, warm_start=tmp_path / "old")
    assert more.configs[:4] == first
    assert len(more.configs) == 6


@pytest.mark.parametrize(
    ("space", "objective", "message"),
    [
        (hpo.Space({"z": hpo.Float((0.0, 1.0))}), OBJECTIVE, "has nothing to learn from: of its 12 trials none"),
        (SPACE, hpo.Minimize("los"), "cannot be learnt from: the metric 'los' was never yielded"),
    ],
)
def test_a_study_that_teaches_nothing_is_refused(space, objective, message, tmp_path):
    run(tmp_path / "old")
    with pytest.raises(hpo.UserError, match=message):
        known_from(tmp_path / "old", space, objective)


def test_a_study_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(hpo.UserError, match="old"):
        run(tmp_path / "new", warm_start=tmp_path / "old")
