"""Replicates: one configuration trained with several seeds, which engines and samplers see as one trial with means."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

import openhpo as hpo
from openhpo.objective import Score
from openhpo.replicates import Replicates, seed_of, standard_error
from openhpo.stages import TrialRecord
from openhpo.testing import Workers

SPACE = hpo.Space({"x": hpo.Float((0.0, 1.0))})


def study(engine=None, replicates=3, trials=6, **more):
    engine = engine or hpo.Full(4)
    return hpo.Study(SPACE, hpo.Minimize("loss"), engine=engine, trials=trials, replicates=replicates, **more)


def loss(stage, step):
    """Noise that the seed decides, around x."""
    return {"loss": stage.config["x"] + (stage.seed * 2654435761 % 97) / 970 + 1 / step}


def play(found, metrics, workers):
    Workers(found, workers, lambda stage, step, _: metrics(stage, step)).play()


def test_each_configuration_is_trained_with_that_many_seeds_and_the_first_is_the_studys():
    found = study()
    play(found, loss, 4)
    assert len(found.trials) == 18
    assert len(found.candidates) == 6
    for candidate in found.candidates:
        mine = found.trials[3 * candidate.number : 3 * candidate.number + 3]
        assert all(trial.config == candidate.config for trial in mine)
    assert len({seed_of(0, replicate) for replicate in range(100)}) == 100
    assert seed_of(7, 0) == 7


def test_the_engine_sees_means_and_standard_errors():
    found = study()
    play(found, loss, 2)
    for candidate in found.candidates:
        mine = found.trials[3 * candidate.number : 3 * candidate.number + 3]
        for step in range(4):
            values = [trial.losses[step] for trial in mine]
            assert candidate.losses[step] == pytest.approx(statistics.mean(values))
            assert candidate.errors[step] == pytest.approx(statistics.stdev(values) / math.sqrt(3))
        assert candidate.best_step == 4


def test_the_best_is_the_best_mean_and_not_the_luckiest_seed():
    def metrics(stage, step):
        lucky = stage.config["x"] == 0.9 and stage.seed == 0
        return {"loss": 0.0 if lucky else stage.config["x"]}

    found = study(sampler=hpo.Listed([{"x": 0.9}, {"x": 0.4}]), trials=2)
    play(found, metrics, 2)
    assert found.best.config == {"x": 0.4}
    assert found.best.trial == 1
    assert found.best.error == pytest.approx(0.0, abs=1e-12)


def test_replicates_run_side_by_side_where_trainers_are_free():
    found = study(trials=1)
    stages = [found.ask(worker) for worker in range(4)]
    assert [stage.trial for stage in stages[:3]] == [0, 1, 2]
    assert stages[3] is None


def test_stopping_a_configuration_stops_all_its_replicates():
    class Impatient(hpo.Full):
        def judge(self, trial, step):
            return hpo.Verdict.STOP if step == 2 else hpo.Verdict.CONTINUE

    found = study(Impatient(4), trials=1)
    one, two, three = (found.ask(worker) for worker in range(3))
    for step in (1, 2, 3):
        assert found.tell(one, step, {"loss": 1.0}) is hpo.Verdict.CONTINUE  # step 2 of the others is not known yet
    for step in (1, 2):
        assert found.tell(two, step, {"loss": 1.0}) is hpo.Verdict.CONTINUE
    assert found.tell(three, 1, {"loss": 1.0}) is hpo.Verdict.CONTINUE
    assert found.tell(three, 2, {"loss": 1.0}) is hpo.Verdict.STOP
    assert found.tell(one, 4, {"loss": 1.0}) is hpo.Verdict.STOP
    assert found.tell(two, 3, {"loss": 1.0}) is hpo.Verdict.STOP
    for stage in (one, two, three):
        found.end(stage)
    assert found.finished
    assert {trial.state for trial in found.trials} == {hpo.State.STOPPED}
    assert found.candidates[0].state is hpo.State.STOPPED
    assert found.settled == 1


def test_a_replicate_that_has_not_begun_is_not_begun_after_a_stop():
    class Impatient(hpo.Full):
        def judge(self, trial, step):
            return hpo.Verdict.STOP

    found = study(Impatient(4), trials=1)
    one, two = found.ask(0), found.ask(1)
    found.fail(found.ask(2), "out of luck")
    found.tell(one, 1, {"loss": 1.0})
    assert found.tell(two, 1, {"loss": 1.0}) is hpo.Verdict.STOP
    found.end(one)
    found.end(two)
    assert found.finished


def test_a_crash_of_one_replicate_does_not_lose_the_others():
    found = study(trials=2)
    stages = [found.ask(worker) for worker in range(3)]
    found.fail(stages[1], "out of luck")
    for stage in (stages[0], stages[2]):
        for step in range(1, 5):
            found.tell(stage, step, {"loss": float(stage.trial)})
        found.end(stage)
    assert found.candidates[0].state is hpo.State.DONE
    assert list(found.candidates[0].losses) == [1.0] * 4
    assert found.failed == 0
    assert found.best.value == 1.0


def test_a_configuration_of_which_most_replicates_crash_has_failed_and_the_rest_is_not_trained():
    found = study(trials=1)
    stages = [found.ask(worker) for worker in range(3)]
    found.fail(stages[1], "out of luck")
    found.fail(stages[2], "out of memory")
    assert found.tell(stages[0], 1, {"loss": 0.0}) is hpo.Verdict.STOP
    found.end(stages[0])
    assert found.finished
    assert found.failed == 1
    assert found.candidates[0].error == "out of luck"


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize(
    "engine",
    [hpo.Full(9), hpo.SuccessiveHalving(9, 1, 3), hpo.ASHA(9, 1, 3), hpo.ASHA(9, 1, 3, stopping=True), hpo.Hyperband(9, 1, 3)],
)
def test_every_engine_works_with_replicates(engine, workers):
    found = study(engine, replicates=2, trials=12)
    play(found, loss, workers)
    assert found.finished
    assert len(found.candidates) == found.total
    assert len(found.trials) == 2 * found.total
    assert any(candidate.step == 9 for candidate in found.candidates)
    for candidate in found.candidates:
        mine = found.trials[2 * candidate.number : 2 * candidate.number + 2]
        assert candidate.step == min(trial.step for trial in mine)
        assert candidate.state in {trial.state for trial in mine}


@pytest.mark.parametrize("engine", [hpo.SuccessiveHalving(9, 1, 3), hpo.Hyperband(9, 1, 3)])
def test_decisions_of_methods_that_wait_do_not_depend_on_the_number_of_workers(engine):
    kept = []
    for workers in (1, 4):
        found = study(engine, replicates=2, trials=12)
        play(found, loss, workers)
        kept.append([(candidate.step, list(candidate.losses)) for candidate in found.candidates])
    assert kept[0] == kept[1]


def test_population_based_training_has_no_replicates_of_trials():
    with pytest.raises(hpo.UserError, match="copies models from trial to trial"):
        study(hpo.PopulationBased(4), replicates=2)


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_senseless_number_of_replicates_is_refused(count):
    with pytest.raises(hpo.UserError, match="number of replicates"):
        study(replicates=count)


def test_a_replicate_that_ends_by_itself_counts_at_later_steps_with_what_it_came_to():
    group = Replicates(TrialRecord(0, {}), [TrialRecord(0, {}), TrialRecord(1, {})])
    short, long = group.trials
    group.tell(short, Score(0.0, 4.0))
    group.tell(long, Score(0.0, 2.0))
    group.tell(long, Score(0.0, 1.0))
    assert list(group.known()) == [1]
    short.state = hpo.State.DONE
    assert list(group.known()) == [2]
    assert list(group.record.losses) == [3.0, 2.5]


def test_one_that_ends_by_itself_without_having_told_its_objective_counts_with_what_it_told_before():
    group = Replicates(TrialRecord(0, {}), [TrialRecord(0, {}), TrialRecord(1, {})])
    short, long = group.trials
    for trial, losses in ((short, [4.0, None]), (long, [2.0, 2.0, 1.0])):
        for loss in losses:
            group.tell(trial, None if loss is None else Score(0.0, loss))
    short.state = hpo.State.DONE
    assert list(group.known()) == [1, 2, 3]
    assert [group.record.losses[0], group.record.losses[2]] == [3.0, 2.5]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_the_standard_error_is_that_of_statistics(values):
    assert standard_error(values) == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-6)


def test_requirements_are_met_where_every_replicate_meets_them():
    found = hpo.Study(SPACE, hpo.Minimize("loss", require="quality >= 0.5"), engine=hpo.Full(1), trials=1, replicates=2, seed=3)
    one, two = found.ask(0), found.ask(1)
    found.tell(one, 1, {"loss": 1.0, "quality": 0.9})
    found.tell(two, 1, {"loss": 1.0, "quality": 0.4})
    found.end(one)
    found.end(two)
    assert not found.best.feasible
    assert found.candidates[0].score.violation == pytest.approx(0.05)


def test_time_to_a_target_is_the_mean_over_replicates():
    found = hpo.Study(SPACE, hpo.Minimize(hpo.first_step("accuracy >= 1")), engine=hpo.Full(9), trials=2, replicates=2, seed=3)
    play(found, lambda stage, step: {"accuracy": float(step >= 3 + 2 * (stage.trial % 2))}, 2)
    assert [trial.step for trial in found.trials] == [3, 5, 3, 5]
    assert found.best.value == 4.0
    assert found.best.feasible
