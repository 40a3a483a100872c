import random

import numpy
import pytest
import torch

import openhpo as hpo
from openhpo.stages import Stage
from openhpo.storage import checkpoints
from openhpo.training.devices import TorchDevice
from openhpo.training.runner import train_stage
from openhpo.training.states import CannotLower, Snapshot, lift, lower, trackable
from openhpo.training.trial import untracked


class State:
    """An object whose state is whatever it is given."""

    def __init__(self, state=None):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def there_and_back(state):
    return lift(lower({"it": State(state)}))["it"]


def through_a_file(state, tmp_path):
    snapshot = lower({"it": State(state)})
    tensors = [(leaf.path, leaf.dtype, leaf.shape, leaf.at, leaf.size) for leaf in snapshot.leaves()]
    checkpoints.write(tmp_path / "c" / "x.h5", snapshot.header, snapshot.data, tensors)
    return lift(Snapshot(*checkpoints.read(tmp_path / "c" / "x.h5")))["it"]


@pytest.fixture(params=["memory", "file"])
def carried(request, tmp_path):
    """What comes out of a state that was lowered and lifted, in memory or through a checkpoint."""
    return there_and_back if request.param == "memory" else lambda state: through_a_file(state, tmp_path)


TENSORS = {
    "bfloat16": torch.randn(3, 5).bfloat16(),
    "float16": torch.randn(3, 5).half(),
    "float64": torch.randn(2, 2, 2, dtype=torch.float64),
    "int8": torch.arange(-3, 3, dtype=torch.int8),
    "int64": torch.arange(5),
    "uint8": torch.arange(5, dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "complex64": torch.randn(3, dtype=torch.complex64),
    "of no dimension": torch.tensor(2.5),
    "of no dimension, whole": torch.tensor(7),
    "bfloat16 of no dimension": torch.tensor(1.5, dtype=torch.bfloat16),
    "empty": torch.empty(0, 3),
    "empty bool": torch.empty(0, dtype=torch.bool),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "a slice": torch.arange(20.0).reshape(4, 5)[::2, 1:3],
    "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
    "large": torch.randn(700, 1000),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_come_back_bit_for_bit(name, carried):
    tensor = TENSORS[name]
    found = carried({"w": tensor})["w"]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    raw = [one.contiguous().reshape(-1).view(torch.uint8) if one.numel() else one for one in (found, tensor)]
    assert torch.equal(*raw)


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(6.0).reshape(2, 3)[:, ::2],
        numpy.float32(3),
        numpy.array(5),
        numpy.empty((0, 2)),
        numpy.array([True]),
        numpy.array(["ab", "c"]),
    ],
    ids=str,
)
def test_arrays_come_back(array, carried):
    found = carried([array])[0]
    assert type(found) is type(array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert numpy.array_equal(found, array)


def test_what_json_has_and_has_not_comes_back(carried):
    state = {
        "plain": [None, True, 3, -2.5, "text", {}, []],
        "numbers": (1, 2.5, 2**80, 1e-320, complex(1, -2)),
        3: {"keys": "need not be texts", (1, "a"): b"\x00bytes", None: ()},
        "torch": [torch.float16, torch.device("cpu"), torch.Size([2, 3])],
    }
    found = carried(state)
    assert found == {**state, "torch": [torch.float16, torch.device("cpu"), (2, 3)]}
    assert type(found["numbers"]) is tuple
    nan = carried({"nan": [float("nan"), float("inf"), float("-inf")]})["nan"]
    assert str(nan) == "[nan, inf, -inf]"


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))

    def forward(self, x):
        return self.body(x)


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=["SGD", "Adam", "RMSprop", "LBFGS"])
def test_a_model_with_its_optimizer_goes_on_exactly_as_if_it_had_never_been_moved(make, tmp_path):
    def train(model, optimizer, steps, first):
        for step in range(first, first + steps):
            generator = torch.Generator().manual_seed(step)
            x, y = torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)

    torch.manual_seed(0)
    whole = Net()
    optimizer = make(whole.parameters())
    train(whole, optimizer, 3, 0)
    snapshot = lower({"model": whole, "optimizer": optimizer})
    before = snapshot.data.copy()
    train(whole, optimizer, 4, 3)
    moved = Net()
    other = make(moved.parameters())
    for _ in range(2):  # twice from one snapshot, which the training in between must not have touched
        states = lift(snapshot)
        moved.load_state_dict(states["model"])
        other.load_state_dict(states["optimizer"])
        train(moved, other, 4, 3)
        assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), moved.state_dict().values(), strict=True))
    assert numpy.array_equal(snapshot.data, before)


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (lambda: numpy.random.default_rng(3), lambda g: g.random(3).tolist()),
        (lambda: random.Random(3), lambda g: [g.random(), g.gauss(0, 1)]),
        (lambda: torch.Generator().manual_seed(3), lambda g: torch.rand(3, generator=g).tolist()),
    ],
    ids=["NumPy", "Python", "torch"],
)
def test_random_generators_come_back_to_where_they_were(make, draw, carried):
    generator = make()
    draw(generator)
    state = carried(trackable(generator).state_dict())
    expected = draw(generator)
    other = make()
    trackable(other).load_state_dict(state)
    assert draw(other) == expected


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ({"a": {"b": [1, {2, 3}]}}, r"it\.a\.b\.1 is a set"),
        ({"f": print}, r"it\.f is a builtin_function"),
        ({"o": numpy.array([object()])}, r"it\.o \(dtype object\)"),
        ({"s": torch.ones(2, 2).to_sparse()}, r"it\.s \(torch.sparse_coo"),
        ({object(): 1}, r"it \(a key\)"),
        (State(), "it is a .*State"),
    ],
)
def test_what_cannot_be_lowered_is_named(state, path):
    with pytest.raises(CannotLower, match=path):
        lower({"it": State(state)})


def test_nothing_is_pickled(tmp_path):
    snapshot = lower({"model": Net()})
    assert b"pickle" not in snapshot.header
    assert not snapshot.data.tobytes().count(b"\x80\x04\x95")


# ---- a trial that goes on


class Port:
    def __init__(self, stages=()):
        self.rows, self.stages, self.snapshots = [], list(stages), []

    def put(self, step, metrics):
        self.rows.append((step, metrics))
        return True

    def between(self, trial):
        return True

    def rest(self, trial):
        self.snapshots.append(trial.lower())
        return self.stages.pop(0) if self.stages else None


def stage(start, stop, parent=None):
    return Stage(start, 0, parent, start, stop, {"lr": 0.1}, 5, (0,), park=True)


def learn(trial):
    weights = trial.rng.normal(size=4)
    trial.track(weights=weights)
    while True:
        weights -= trial["lr"] * (weights - trial.rng.normal(size=4))
        yield {"loss": float((weights**2).sum())}


def test_a_trial_continued_from_a_snapshot_repeats_the_uninterrupted_one():
    whole = Port()
    train_stage(learn, hpo.Trial(stage(0, 6), TorchDevice("cpu"), whole))
    first, second = Port(), Port()
    train_stage(learn, hpo.Trial(stage(0, 3), TorchDevice("cpu"), first))
    train_stage(learn, hpo.Trial(stage(3, 6, 0), TorchDevice("cpu"), second, state=first.snapshots[0]))
    assert first.rows + second.rows == whole.rows


def test_a_trial_goes_on_with_the_next_stage_without_being_called_again():
    calls = []

    def counted(trial):
        calls.append(trial.step)
        yield from learn(trial)

    from openhpo.course import Course

    port = Port([(stage(3, 6, 0), Course({"lr": 0.1}, {"lr": 0.1}, {}))])
    train_stage(counted, hpo.Trial(stage(0, 3), TorchDevice("cpu"), port))
    assert calls == [1]
    assert [step for step, _ in port.rows] == [1, 2, 3, 4, 5, 6]


def test_a_training_that_tracks_nothing_is_trained_again_from_its_first_step_in_silence():
    def silent(trial):
        total = 0.0
        while True:
            total += trial.rng.random()
            yield {"total": total}

    whole, second = Port(), Port()
    train_stage(silent, hpo.Trial(stage(0, 6), TorchDevice("cpu"), whole))
    assert whole.snapshots[0].header == untracked().header
    train_stage(silent, hpo.Trial(stage(3, 6, 0), TorchDevice("cpu"), second, state=untracked()))
    assert second.rows == whole.rows[3:]


def test_a_state_that_is_not_taken_up_is_an_error_and_not_a_fresh_start():
    snapshot = lower({"weights": State({"a": 1})})

    def forgetful(trial):
        while True:
            yield {"loss": 0.0}

    with pytest.raises(hpo.UserError, match="a state that holds weights, and has not tracked that"):
        train_stage(forgetful, hpo.Trial(stage(3, 6, 0), TorchDevice("cpu"), Port(), state=snapshot))

    def renamed(trial):
        trial.track(model=State())
        yield {}

    with pytest.raises(KeyError, match="the state to go on from has weights, but no 'model'"):
        train_stage(renamed, hpo.Trial(stage(3, 6, 0), TorchDevice("cpu"), Port(), state=snapshot))
