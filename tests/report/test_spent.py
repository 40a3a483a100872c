"""What the time of a study's trainers was spent on."""

import numpy
import pytest

import openhpo as hpo
from openhpo.report.spent import spent
from openhpo.storage import schema

SPACE = hpo.Space({"x": hpo.Float((0.1, 1.0))})


def train(trial):
    w = numpy.zeros(3)
    trial.track(w=w)
    while True:
        w += trial["x"]
        yield {"loss": -float(w.sum()), "step_seconds": 1e-6}


def population(folder):
    engine = hpo.PopulationBased(6, 1)
    return hpo.run(train, SPACE, hpo.Minimize("loss"), engine=engine, trials=8, study=folder, progress=False, merge=False)


def test_exploits_are_counted_as_often_as_members_took_over_a_model_that_was_trained_on(tmp_path):
    result = population(tmp_path / "study")
    found = spent(result, "step_seconds")
    taken = int((result.tables.events["kind"] == schema.TRIAL_FORKED.encode()).sum())
    assert found.exploit_count == taken > 0
    assert found.exploit_count + found.handover_count == len(result.tables.stages)
    assert found.training == pytest.approx(1e-6 * len(result.tables.reports))
    assert found.training + found.exploits + found.handovers + found.idle == pytest.approx(result.tables.events["time"][-1])
    assert min(found) > 0


def test_where_no_model_is_taken_over_nothing_is_spent_on_exploits(tmp_path):
    engine = hpo.ASHA(9, 1, 3)
    result = hpo.run(train, SPACE, hpo.Minimize("loss"), engine=engine, trials=9, study=tmp_path / "study", progress=False)
    found = spent(result, "step_seconds")
    assert (found.exploits, found.exploit_count) == (0, 0)
    assert found.handover_count == len(result.tables.stages) > 9


def test_a_metric_that_nobody_reported_is_said_with_those_that_were(tmp_path):
    with pytest.raises(hpo.UserError, match="reported 'seconds'; reported: loss, step_seconds"):
        spent(population(tmp_path / "study"), "seconds")


def test_the_times_of_a_study_that_was_continued_are_not_told(tmp_path):
    for trials in (2, 4):
        result = hpo.run(
            train, SPACE, hpo.Minimize("loss"), engine=hpo.Full(3), trials=trials, study=tmp_path / "study", progress=False
        )
    with pytest.raises(hpo.UserError, match="interrupted and continued"):
        spent(result, "step_seconds")
