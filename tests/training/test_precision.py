"""What a trial computes in, and what an update takes in it."""

import importlib.util
import sys

import pytest
import torch

import openhpo as hpo
from openhpo.course import Course
from openhpo.stages import Stage
from openhpo.storage import checkpoints
from openhpo.training import precision
from openhpo.training.devices import TorchDevice
from openhpo.training.devices.cuda import Cuda
from openhpo.training.runner import train_stage
from openhpo.training.states import Snapshot


class Port:
    """Keeps reports and states, and has the trial go on with further stages."""

    def __init__(self, *stages):
        self.rows, self.stages, self.snapshots = [], list(stages), []

    def put(self, step, metrics):
        self.rows.append((step, metrics))
        return True

    def between(self, trial):
        return True

    def rest(self, trial):
        self.snapshots.append(trial.lower())
        return self.stages.pop(0) if self.stages else None


def stage(start=0, stop=1, **config):
    return Stage(start, 0, None, start, stop, config or {"lr": 0.1}, 3, (0,))


def trial(name="fp32", port=None, stop=1, **config):
    return hpo.Trial(stage(0, stop, **config), TorchDevice("cpu"), port or Port(), name)


def one_weight(value=1.0, lr=1.0):
    weight = torch.nn.Parameter(torch.tensor([value]))
    return weight, torch.optim.SGD([weight], lr=lr)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_a_forward_pass_computes_in_the_precision_and_weights_stay_in_fp32(name, dtype):
    one, layer = trial(name), torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    with one.autocast():
        out = layer(torch.ones(1, 2))
    assert out.dtype == dtype
    one.backward(out.float().mean(), optimizer)
    assert layer.weight.dtype == torch.float32
    assert not torch.equal(layer.weight, before)


def test_the_hyperparameter_takes_precedence_over_the_option():
    one = trial("bf16", precision="fp16", lr=0.1)
    with one.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float16


def test_an_inactive_hyperparameter_leaves_it_to_the_option():
    with trial("bf16", lr=0.1).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


# ---- TF32


def test_tf32_is_in_force_while_training_and_put_back_afterwards():
    def settings():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    class OnCpu(Cuda):
        """Has a GPU's settings without a GPU."""

        def current(self):
            return TorchDevice.current(self)

    before, seen = settings(), []

    def train(one):
        seen.append(settings())
        yield {"loss": 0.0}
        raise AssertionError("one step is all")

    torch.backends.cudnn.allow_tf32 = False
    try:
        train_stage(train, hpo.Trial(stage(), OnCpu(0), Port(), "tf32"))
        after = settings()
        train_stage(train, hpo.Trial(stage(), OnCpu(0), Port(), "fp32"))
    finally:
        torch.backends.cudnn.allow_tf32 = before[1]
    assert seen == [(True, True), (before[0], False)]
    assert after == (before[0], False)


def test_tf32_changes_nothing_on_a_cpu():
    before = torch.backends.cuda.matmul.allow_tf32

    def train(one):
        assert torch.backends.cuda.matmul.allow_tf32 == before
        yield {"loss": (torch.ones(2, 2) @ torch.ones(2, 2)).sum()}

    port = Port()
    train_stage(train, trial("tf32", port))
    assert port.rows == [(1, {"loss": 8.0})]


# ---- fp16


def test_an_update_with_gradients_that_are_not_finite_is_skipped_and_counted():
    port = Port()
    one = trial("fp16", port, stop=3)
    weight, optimizer = one_weight()
    one.track()
    for factor in (1e38, 1.0):  # scaled up, the first one's gradient is infinite
        one.backward((weight * factor).sum(), optimizer)
        assert torch.isfinite(weight).all()
    assert weight.item() == 0.0
    one.report({"loss": 0.0})
    one.report({"loss": 0.0})
    assert [metrics["skipped_updates"] for _, metrics in port.rows] == [1.0, 0.0]


def test_a_gradient_too_small_for_fp16_is_not_lost():
    one = trial("fp16")
    layer = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    torch.nn.init.zeros_(layer.weight)
    with one.autocast():
        out = layer(torch.ones(1, 1))
    one.backward(out.float().sum() * 1e-8, optimizer)
    assert layer.weight.item() == pytest.approx(-1e-8, rel=1e-2)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_the_norm_of_the_gradients_is_clipped_as_the_optimizer_sees_them(name):
    one = trial(name)
    weight, optimizer = one_weight(0.0)
    one.backward((weight * 50.0).sum(), optimizer, clip_norm=1.0)
    assert weight.item() == pytest.approx(-1.0, rel=1e-5)
    one.backward((weight * 0.5).sum(), optimizer, clip_norm=1.0)  # short enough
    assert weight.item() == pytest.approx(-1.5, rel=1e-5)


def test_a_skipped_update_that_is_clipped_leaves_the_weights_alone():
    one = trial("fp16")
    weight, optimizer = one_weight()
    one.backward((weight * 1e38).sum(), optimizer, clip_norm=1.0)
    assert weight.item() == 1.0


def test_the_metric_of_skipped_updates_is_reported_in_fp16_alone():
    for name in ("fp32", "tf32", "bf16"):
        port = Port()
        trial(name, port, stop=2).report({"loss": 0.0})
        assert port.rows == [(1, {"loss": 0.0})]


def learn(one):
    """A small net, of whose updates one in three is skipped, so that the scale changes all the time."""
    layer = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(layer.parameters(), lr=one["lr"])
    one.track(layer=layer, optimizer=optimizer)
    while True:
        for batch in range(4):
            with one.autocast():
                loss = (layer(torch.randn(8, 4)) ** 2).mean()
            one.backward(loss.float() * (1e38 if (one.step + batch) % 3 == 0 else 1.0), optimizer, clip_norm=0.5)
        yield {"loss": loss, "norm": sum(parameter.double().norm() for parameter in layer.parameters())}


def content(snapshot):
    """What is in a state, without the gaps between its tensors."""
    return snapshot.header, [snapshot.data[leaf.at : leaf.at + leaf.size].tobytes() for leaf in snapshot.leaves()]


def through_a_file(snapshot, path):
    tensors = [(leaf.path, leaf.dtype, leaf.shape, leaf.at, leaf.size) for leaf in snapshot.leaves()]
    checkpoints.write(path, snapshot.header, snapshot.data, tensors)
    return Snapshot(*checkpoints.read(path))


def test_a_trial_in_fp16_goes_on_from_a_state_bit_for_bit(tmp_path):
    whole, first, second = Port(), Port(), Port()
    device = TorchDevice("cpu")
    train_stage(learn, hpo.Trial(stage(0, 6), device, whole, "fp16"))
    train_stage(learn, hpo.Trial(stage(0, 3), device, first, "fp16"))
    kept = first.snapshots[0]
    for state in (kept, kept, through_a_file(kept, tmp_path / "x.h5")):  # twice from one, as forks do, and after a kill
        train_stage(learn, hpo.Trial(stage(3, 6), device, second, "fp16", state=state))
        assert first.rows + second.rows == whole.rows
        assert content(second.snapshots[0]) == content(whole.snapshots[0])
        second.rows.clear()
        second.snapshots.clear()
    assert sum(metrics["skipped_updates"] for _, metrics in whole.rows) > 3


def test_the_scale_is_what_makes_continuing_exact():
    first, second, whole = Port(), Port(), Port()
    device = TorchDevice("cpu")
    train_stage(learn, hpo.Trial(stage(0, 3), device, first, "fp16"))
    train_stage(learn, hpo.Trial(stage(0, 6), device, whole, "fp16"))
    without = hpo.Trial(stage(3, 6), device, second, "fp16", state=first.snapshots[0])
    without._arithmetic._scaler = None
    train_stage(learn, without)
    assert second.snapshots[0].header != whole.snapshots[0].header


@pytest.mark.parametrize(("before", "after"), [("fp16", "bf16"), ("fp32", "fp16")])
def test_a_fork_may_change_the_precision(before, after):
    first, second = Port(), Port()
    train_stage(learn, hpo.Trial(stage(0, 2, precision=before, lr=0.1), TorchDevice("cpu"), first))
    again = stage(2, 4, precision=after, lr=0.1)
    train_stage(learn, hpo.Trial(again, TorchDevice("cpu"), second, state=first.snapshots[0]))
    assert [step for step, _ in second.rows] == [3, 4]


def test_a_trial_goes_on_in_its_thread_with_its_scale():
    whole, parts = Port(), Port((stage(3, 6), Course({"lr": 0.1}, {"lr": 0.1}, {})))
    train_stage(learn, hpo.Trial(stage(0, 6), TorchDevice("cpu"), whole, "fp16"))
    train_stage(learn, hpo.Trial(stage(0, 3), TorchDevice("cpu"), parts, "fp16"))
    assert parts.rows == whole.rows


# ---- mistakes


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (hpo.Categorical(["fp16", "fp8"]), r"the hyperparameter 'precision'.*there is no precision 'fp8'"),
        (hpo.Categorical([16, 32]), "there is no precision 16"),
        (hpo.Integer((8, 32)), "make it a Categorical of some of fp32, tf32"),
        ("half", "there is no precision 'half'"),
    ],
)
def test_a_hyperparameter_of_that_name_has_to_be_a_precision(item, said, tmp_path):
    space = hpo.Space({"precision": item, "x": hpo.Float((0.0, 1.0))})
    with pytest.raises(hpo.UserError, match=said):
        hpo.run(learn, space, hpo.Minimize("loss"), engine=hpo.Full(1), trials=1, study=tmp_path, progress=False)
    with pytest.raises(hpo.UserError, match="there is no precision 'fp8'"):
        hpo.Trial(stage(precision="fp8"), TorchDevice("cpu"), Port())


@pytest.fixture
def no_torch(monkeypatch):
    """As where torch is not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(precision, "loaded", lambda name: None if name == "torch" else sys.modules.get(name))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))


def test_without_torch_the_extra_is_named(no_torch, monkeypatch, tmp_path):
    space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
    more = {"engine": hpo.Full(1), "trials": 1, "progress": False, "device": "cpu"}

    def train(one):
        yield {"loss": one["x"]}

    with pytest.raises(hpo.UserError, match=r"the precision bf16 needs torch.*openhpo\[apps\]"):
        hpo.run(train, space, hpo.Minimize("loss"), study=tmp_path / "a", precision="bf16", **more)
    assert hpo.run(train, space, hpo.Minimize("loss"), study=tmp_path / "b", **more).best is not None
    with pytest.raises(hpo.UserError, match=r"trial.backward is for models in torch.*openhpo\[apps\]"):
        trial().backward(None, None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(hpo.UserError, match=r"trial.device is for training with torch.*openhpo\[apps\]"):
        _ = trial().device
