"""The numbers of a report are those of the study."""

import itertools
import math

import numpy
import pytest

import openhpo as hpo
from openhpo.report.numbers import Numbers

from .conftest import run


def test_the_best_so_far_ends_with_the_best_and_only_ever_improves(asha, population, replicated):
    for result in (asha, population, replicated):
        found = Numbers(result).improvements
        assert found[-1].candidate == result.best.trial
        assert found[-1].value == result.best.value
        scores = [(not each.met, each.value) for each in found]
        assert scores == sorted(scores, reverse=True)
        for way in ("trials", "steps", "seconds"):
            values = [getattr(each, way) for each in found]
            assert values == sorted(values)
        assert found[-1].steps <= len(result.tables.reports)


def test_contributions_of_a_metric_sum_to_one_and_name_what_decides_it(asha):
    found = Numbers(asha).contributions
    assert [each.metric for each in found] == ["val_loss", "val_accuracy", "cost"]
    for each in found:
        assert sum(each.shares.values()) == pytest.approx(1.0)
        assert set(each.shares) == {"lr", "width", "optimizer", "momentum", "batch"}
    assert max(found[0].shares, key=found[0].shares.get) == "lr"
    assert max(found[2].shares, key=found[2].shares.get) == "width"
    assert found[2].reliable


def test_what_is_noise_is_not_passed_off_as_a_contribution(tmp_path):
    def noise(trial):
        yield {"loss": trial.rng.random() * hash(trial["lr"]) % 1.0}

    result = run(tmp_path / "s", noise, engine=hpo.Full(1), trials=40, objective=hpo.Minimize("loss"))
    assert not Numbers(result).contributions[0].reliable
    few = run(tmp_path / "few", noise, engine=hpo.Full(1), trials=10, objective=hpo.Minimize("loss"))
    assert Numbers(few).contributions[0].shares == {}
    assert not Numbers(few).contributions[0].reliable


def test_rungs_count_who_came_and_who_went_on(asha):
    rungs = Numbers(asha).rungs
    steps = numpy.array([one.steps for one in Numbers(asha).candidates])
    assert [step for step, _, _ in rungs] == [1, 3, 9]
    for step, came, went_on in rungs:
        assert came == (steps >= step).sum()
        assert went_on == (steps > step).sum()


def test_costs_are_what_was_trained_and_what_was_not(asha, population):
    costs = Numbers(asha).costs
    assert costs.trained == costs.alone == len(asha.tables.reports)
    assert costs.full == 60 * 9
    assert 0 < costs.busy <= costs.elapsed * costs.ranks
    assert Numbers(population).costs.trained == len(population.tables.reports)
    merged = Numbers(population).costs
    assert merged.alone >= merged.trained


def test_of_replicates_configurations_are_told_with_means(replicated):
    numbers = Numbers(replicated)
    assert len(numbers.candidates) == 24
    best = numbers.best
    curves = replicated.curves()[2 * best.number : 2 * best.number + 2, best.step - 1]
    assert best.value == pytest.approx(curves.mean())
    assert numbers.metrics["val_loss"][best.number] == pytest.approx(best.value)


def test_spans_lie_within_the_study_and_do_not_overlap_on_a_rank(asha):
    numbers = Numbers(asha)
    for rank in {span.rank for span in numbers.spans}:
        mine = [span for span in numbers.spans if span.rank == rank]
        assert all(0 <= span.start <= span.stop <= numbers.elapsed for span in mine)
        assert all(one.stop <= other.start + 1e-6 for one, other in itertools.pairwise(mine))
    assert {span.how for span in numbers.spans} == {"trained", "failed"}


def test_a_finished_study_has_nobody_at_work(asha):
    assert Numbers(asha).trainers == set()
    assert Numbers(asha).running == {}
    assert math.isnan(Numbers(asha).left)


def test_of_a_study_that_was_continued_nobody_trains_two_stages_at_once(tmp_path):
    first = run(tmp_path / "s", engine=hpo.Full(20_000), trials=3, time_limit=0.05)
    assert not first.finished
    again = run(tmp_path / "s", engine=hpo.Full(20_000), trials=3)
    numbers = Numbers(again)
    assert len(numbers.spans) > 3
    for one, other in itertools.pairwise(numbers.spans):
        assert one.stop <= other.start + 1e-6
    assert numbers.costs.utilisation <= 1.0
