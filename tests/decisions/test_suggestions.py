"""Where configurations come from: what the user wants tried first, and slow samplers, which are asked elsewhere."""

import pytest

import openhpo as hpo
from openhpo.stages import TrialRecord
from openhpo.suggestions import Suggestion, copied

SPACE = hpo.Space({"x": hpo.Float((0.0, 1.0)), "k": hpo.Integer((1, 9))})


class Slow(hpo.Suggest):
    """Says how many trials it saw, and how many of them were at rest."""

    slow = True
    ends = True

    def __init__(self, *, waits=True, last=99):
        self.waits = waits
        self.last = last
        self.seen = []

    def bind(self, space, seed):
        return self

    def __call__(self, number, history, rng):
        self.seen.append([trial.step for trial in history])
        return None if number > self.last else {"x": len(history) / 100, "k": 1}

    def definition(self):
        return {"sampler": "Slow"}


def study(sampler, engine=None, trials=4, **more):
    return hpo.Study(SPACE, hpo.Minimize("loss"), engine=engine or hpo.Full(2), sampler=sampler, trials=trials, **more)


def train(found, stage):
    for step in range(stage.start + 1, stage.stop + 1):
        found.tell(stage, step, {"loss": stage.config["x"]})
    found.end(stage)


def test_a_study_that_is_played_by_hand_asks_a_slow_sampler_itself():
    found = study(Slow())
    assert found.ask().config == {"x": 0.0, "k": 1}
    assert found.draw() is None


def test_a_trainer_waits_for_a_slow_sampler_until_it_has_answered():
    found = study(Slow())
    found.defer()
    assert found.draw() is None  # nobody waits yet
    assert found.ask(0) is None
    assert not found.finished
    call = found.draw()
    assert found.draw() is None  # one at a time
    assert found.ask(0) is None
    found.suggested(call())
    assert found.ask(0).config == {"x": 0.0, "k": 1}
    assert found.draw() is None


def test_the_sampler_sees_what_was_known_when_it_was_asked():
    sampler = Slow()
    found = study(sampler)
    found.defer()
    found.ask(0)
    found.suggested(found.draw()())
    first = found.ask(0)
    found.tell(first, 1, {"loss": 1.0})
    found.ask(1)
    call = found.draw()
    found.tell(first, 2, {"loss": 0.5})
    found.end(first)
    call()
    assert sampler.seen == [[], [1]]


def test_a_trainer_that_need_not_wait_trains_a_quick_suggestion_and_the_model_is_asked_ahead():
    found = study(Slow(waits=False))
    found.defer()
    call = found.draw()
    assert SPACE.holds(found.ask(0).config)
    found.suggested(call())
    assert found.draw() is None  # one is ready
    assert found.ask(1).config == {"x": 0.0, "k": 1}
    assert found.draw() is not None


def test_a_sampler_may_end_the_search():
    found = study(Slow(last=1))
    for _ in range(2):
        train(found, found.ask())
    assert found.ask() is None
    assert found.finished
    assert found.total == 2


def test_a_slow_sampler_may_end_the_search():
    found = study(Slow(last=0))
    found.defer()
    found.ask()
    found.suggested(found.draw()())
    train(found, found.ask())
    assert found.ask() is None
    assert not found.finished
    found.suggested(found.draw()())
    assert found.finished


def test_a_slow_sampler_that_may_end_is_asked_once_more_after_the_last_trial():
    sampler = Slow()
    found = study(sampler, trials=1)
    found.defer()
    found.ask()
    found.suggested(found.draw()())
    stage = found.ask()
    assert found.draw() is None
    train(found, stage)
    assert not found.finished
    found.suggested(found.draw()())
    assert sampler.seen == [[], [2]]
    assert found.draw() is None
    assert found.finished
    assert len(found.trials) == 1


def test_one_that_ends_without_having_said_that_it_may_is_told_so():
    sampler = Slow(last=0)
    sampler.ends = False
    found = study(sampler)
    found.ask()
    with pytest.raises(hpo.UserError, match="Slow has no configuration for trial 1 of 4"):
        found.ask()


def test_a_method_that_counts_on_its_number_of_trials_does_not_go_with_a_search_that_may_end():
    with pytest.raises(hpo.UserError, match="choose an engine that does not, such as Full or ASHA"):
        study(Slow(), hpo.SuccessiveHalving(4, 1, 2))


def test_a_sampler_may_have_a_study_wait_for_results():
    class Rounds(Slow):
        slow = False

        def ready(self, number, history):
            return number % 2 == 1 or all(trial.state is hpo.State.DONE for trial in history)

    found = study(Rounds())
    one, two = found.ask(0), found.ask(1)
    assert found.ask(2) is None
    train(found, one)
    assert found.ask(0) is None
    train(found, two)
    assert found.ask(0) is not None


def test_a_sampler_that_waits_for_what_cannot_come_is_told_so():
    class Never(Slow):
        def ready(self, number, history):
            return number == 0

    found = study(Never())
    train(found, found.ask())
    with pytest.raises(hpo.UserError, match="Never is not ready for trial 1 of 4, and nothing runs"):
        _ = found.finished


def test_a_copy_of_a_record_does_not_change_with_it():
    record = TrialRecord(0, {"x": 1.0})
    record.losses.append(1.0)
    copy = copied(record)
    record.losses.append(2.0)
    record.state = hpo.State.DONE
    assert list(copy.losses) == [1.0]
    assert copy.state is hpo.State.RUNNING


# ---- what the user wants tried first


@pytest.mark.parametrize("sampler", [hpo.Random(), hpo.Sobol(), hpo.TPE(), Slow()])
def test_configurations_to_try_first_come_first_and_what_they_leave_open_is_drawn(sampler):
    found = study(sampler, prior=[{"x": 0.25, "k": 3}, {"k": 7}])
    assert found.ask(0).config == {"x": 0.25, "k": 3}
    second = found.ask(1).config
    assert second["k"] == 7
    assert SPACE.holds(second)
    assert SPACE.holds(found.ask(2).config)


def test_one_configuration_to_try_first_need_not_be_in_a_list_and_needs_no_slow_sampler():
    found = study(Slow(), prior={"x": 0.25})
    found.defer()
    assert found.ask(0).config["x"] == 0.25
    assert found.definition()["prior"] == [{"x": 0.25}]


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"y": 1.0}, "prior names 'y', which is not searched: there are x, k"),
        ({"x": 7.0}, "prior: x cannot be 7.0"),
        ({"k": 1.5}, "prior: k cannot be 1.5"),
        ([3], "prior has to be a dictionary"),
    ],
)
def test_what_cannot_be_tried_first_is_refused(prior, message):
    with pytest.raises(hpo.UserError, match=message):
        study(hpo.Random(), prior=prior)


def test_a_grid_has_a_list_of_its_own():
    with pytest.raises(hpo.UserError, match="prior goes with samplers that can try anything"):
        study(hpo.Grid(x=2, k=2), prior={"x": 0.5})


def test_a_forbidden_combination_cannot_be_tried_first():
    space = hpo.Space({"a": hpo.Categorical(["u", "v"]), "b": hpo.Categorical(["u", "v"])}, forbidden=["a == 'u' and b == 'v'"])
    found = hpo.Study(space, hpo.Minimize("loss"), engine=hpo.Full(1), trials=2, prior={"a": "u", "b": "v"})
    with pytest.raises(hpo.UserError, match="no configuration has .* the rules a == 'u'"):
        found.ask()


def test_values_to_try_first_are_never_left_out_because_of_a_condition():
    space = hpo.Space(
        {"optimizer": hpo.Categorical(["sgd", "adam"]), "momentum": hpo.Float((0.0, 1.0))},
        conditions={"momentum": "optimizer == 'sgd'"},
    )
    for seed in range(10):
        found = hpo.Study(space, hpo.Minimize("loss"), engine=hpo.Full(1), trials=2, prior={"momentum": 0.9}, seed=seed)
        assert found.ask().config == {"optimizer": "sgd", "momentum": 0.9}


def test_replay_gives_back_what_the_file_has_and_not_what_a_sampler_says_now():
    found = study(Slow(waits=False))
    found.defer()
    found.recall([[{"x": 0.125, "k": 2}]])
    assert found.ask(0).config == {"x": 0.125, "k": 2}
    found.suggested(Suggestion({"x": 0.75, "k": 4}))
    assert found.ask(1).config == {"x": 0.75, "k": 4}
