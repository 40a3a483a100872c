import random

import numpy
import pytest
import torch

import openhpo as hpo
from openhpo.stages import Stage
from openhpo.training.devices import TorchDevice
from openhpo.training.metrics import numbers
from openhpo.training.runner import train_stage


class Port:
    """Keeps what is put in, and can say stop."""

    def __init__(self, stop_after=None):
        self.rows = []
        self.stop_after = stop_after

    def put(self, step, metrics):
        self.rows.append((step, metrics))
        return step != self.stop_after

    def between(self, trial):
        return True

    def rest(self, trial):
        return None


def trial(port=None, *, start=0, stop=3, seed=1, **config):
    stage = Stage(0, 0, None, start, stop, config or {"lr": 0.1}, seed, (0,))
    return hpo.Trial(stage, TorchDevice("cpu"), port or Port())


def draws(one):
    return [one.rng.random(), random.random(), numpy.random.random(), torch.rand(1).item()]


def test_random_numbers_of_a_step_depend_on_the_seed_and_the_step_alone():
    whole, seen = trial(stop=9), {}
    whole.track()
    for _ in range(5):
        seen[whole.step] = draws(whole)
        whole.report({"loss": 0.0})
    later = trial(start=3, stop=9)  # as if continued elsewhere, after drawing some for its set-up
    draws(later)
    later.track()
    assert draws(later) == seen[4]
    assert len({tuple(values) for values in seen.values()}) == 5
    assert draws(trial(seed=2)) != draws(trial(seed=1))


def test_steps_count_from_one_and_end_with_the_stage():
    def train(one):
        while True:
            yield {"step": one.step}

    port = Port()
    train_stage(train, trial(port, stop=3))
    assert port.rows == [(1, {"step": 1.0}), (2, {"step": 2.0}), (3, {"step": 3.0})]


def test_a_stop_ends_training_after_the_step_that_heard_it():
    def train(one):
        while True:
            one.report({"loss": 0.0})

    port = Port(stop_after=2)
    train_stage(train, trial(port, stop=9))
    assert [step for step, _ in port.rows] == [1, 2]


def test_hyperparameters_are_read_by_name_and_a_wrong_name_is_explained():
    one = trial(lr=0.5, width=3)
    assert (one["lr"], one.get("momentum", 0.9)) == (0.5, 0.9)
    with pytest.raises(KeyError, match=r"'with' is no active hyperparameter.*lr, width.*Did you mean 'width'"):
        one["with"]


def test_only_what_has_a_state_can_be_tracked():
    one = trial()
    one.track(model=torch.nn.Linear(2, 2))
    assert list(one.tracked) == ["model"]
    with pytest.raises(TypeError, match=r"track\(rate=…\): a float has no state_dict"):
        one.track(rate=0.1)


@pytest.mark.parametrize(
    "value",
    [1, 1.0, True, numpy.float32(1), numpy.int64(1), numpy.array(1.0), numpy.array([1.0]), torch.tensor(1), torch.ones(1)],
)
def test_numbers_of_all_kinds_are_metrics(value):
    found = numbers({"m": value})
    assert found == {"m": 1.0}
    assert type(found["m"]) is float


@pytest.mark.parametrize("value", ["1", None, [1.0], numpy.ones(2), torch.ones(2), 1j, object()])
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(hpo.UserError, match=r"the metric 'm' is no number"):
        numbers({"m": value})


@pytest.mark.parametrize("metrics", [{1: 1.0}, {"": 1.0}, {"x" * 64: 1.0}, {"ü" * 32: 1.0}, [1.0], None])
def test_names_that_cannot_be_stored_are_refused(metrics):
    with pytest.raises(hpo.UserError):
        numbers(metrics)


def test_backward_takes_one_optimisation_step():
    one = trial()
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):  # the second has to forget the first one's gradient
        with one.autocast():
            loss = model(torch.ones(1, 1)).sum()
        one.backward(loss, optimizer)
    assert model.weight.item() == 0.0


def test_autocast_computes_in_bfloat16_where_the_study_says_so():
    stage = Stage(0, 0, None, 0, 1, {}, 0, (0,))
    one = hpo.Trial(stage, TorchDevice("cpu"), Port(), "bf16")
    with one.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
