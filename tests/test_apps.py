"""The networks among the apps, on few samples; the reader of CIFAR-10 and the generated flows."""

import io
import sys

import numpy
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import openhpo as hpo
from openhpo.cli.apps import load_app
from openhpo.samplers import Random
from openhpo.study import Study
from openhpo.training.devices import TorchDevice
from openhpo.training.runner import train_stage

from .conftest import ROOT

EASY = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4, "warmup": 1}
SMALL = {
    "resnet20_cifar": {**EASY, "batch": 64, "data": "digits", "batches": 6, "measured": 100},
    "wideresnet_cifar": {**EASY, "depth": 10, "width": 1, "data": "digits", "batches": 6, "measured": 100},
    "digits_lars": {"epochs": 12, "warmup": 2, "base_lr": 10.0, "weight_decay": 1e-4, "momentum": 0.9},
    "autoencoder_pde": {"lr": 5e-3, "weight_decay": 1e-4, "beta1": 0.9, "beta2": 0.99, "warmup": 1, "batches": 8},
}


def test_the_digits_are_scikit_learns_and_so_is_their_split():
    load_app(str(ROOT / "apps/digits_mlp.py"))
    images, labels = load_digits(return_X_y=True)
    for shape, given in (((64,), images), ((1, 8, 8), images.reshape(-1, 1, 8, 8))):
        split = train_test_split(given / 16, labels, test_size=0.2, random_state=0, stratify=labels)
        found = sys.modules["digits"].load(torch.device("cpu"), shape)
        for part, expected in zip(found, (split[0], split[2], split[1], split[3]), strict=True):
            assert torch.equal(part, torch.as_tensor(expected).to(part.dtype))


class Kept:
    """Keeps what is reported, and the state at the end."""

    def __init__(self):
        self.rows = []
        self.state = None

    def put(self, step, metrics):
        self.rows.append(metrics)
        return True

    def between(self, trial):
        return True

    def rest(self, trial):
        self.state = trial.lower()


def app_of(name):
    return load_app(str(ROOT / "apps" / f"{name}.py"))


def trained(app, space, steps, *, start=0, state=None, precision="fp32"):
    """Train so many steps from a state; return what was reported and the state then."""
    study = Study(space, app.objective, engine=hpo.Full(start + steps), sampler=Random(), trials=1, seed=3)
    stage = study.ask()
    if start:
        stage = type(stage)(stage.id, 0, None, start, stage.stop, stage.config, stage.seed, stage.ranks)
    kept = Kept()
    course = space.course(stage.config)
    trial = hpo.Trial(stage, TorchDevice("cpu"), kept, precision, course=course, state=state)
    train_stage(app.train, trial)
    return kept.rows, kept.state


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_learns_and_goes_on_from_its_state_as_if_never_interrupted(name, precision):
    app = app_of(name)
    space = app.space.fix(SMALL[name])
    whole, end = trained(app, space, 8, precision=precision)
    assert whole[-1]["train_loss"] < 0.9 * whole[0]["train_loss"]
    assert all(numpy.isfinite(list(metrics.values())).all() for metrics in whole)
    begun, halfway = trained(app, space, 3, precision=precision)
    gone_on, again = trained(app, space, 5, start=3, state=halfway, precision=precision)
    assert begun + gone_on == whole
    assert again.header == end.header
    for leaf in end.leaves():  # between which lie bytes that mean nothing
        place = slice(leaf.at, leaf.at + leaf.size)
        assert again.data[place].tobytes() == end.data[place].tobytes(), leaf.path


def test_the_networks_have_the_published_numbers_of_parameters():
    for name in ("resnet20_cifar", "wideresnet_cifar"):
        app_of(name)
    networks = (sys.modules["resnet20_cifar"].resnet20(), sys.modules["wideresnet_cifar"].wide_resnet(16, 4))
    counts = [sum(weights.numel() for weights in network.parameters()) for network in networks]
    assert [round(count / 1e6, 2) for count in counts] == [0.27, 2.75]


def test_a_depth_that_no_wide_residual_network_has_is_said():
    app_of("wideresnet_cifar")
    with pytest.raises(hpo.UserError, match="a depth of 10, 16, 22"):
        sys.modules["wideresnet_cifar"].wide_resnet(12, 1)


def test_the_batch_grows_by_its_schedule(monkeypatch):
    taken, step = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *given: (taken.append(1), step(self, *given))[1])
    fixed = {**SMALL["wideresnet_cifar"], "batches": 0, "batch": hpo.Exponential(128, 4.0, every=1)}
    trained(app_of("wideresnet_cifar"), hpo.Space(fixed), 2)
    assert len(taken) == 9 + 3  # of the 1,151 digits to train on, 128 and 512 at a time


def test_the_learning_rate_warms_up_to_what_the_schedule_says():
    app_of("resnet20_cifar")
    rate = sys.modules["warmup"].rate
    space = hpo.Space({"lr": hpo.Linear(0.4, 0.0, 4), "warmup": 2})
    study = Study(space, hpo.Minimize("loss"), engine=hpo.Full(4), sampler=Random(), trials=1)
    stage = study.ask()
    trial = hpo.Trial(stage, TorchDevice("cpu"), Kept(), course=space.course(stage.config))
    assert rate(trial, 0, 2) == pytest.approx(0.4 * 1 / 4)
    assert rate(trial, 1, 2) == pytest.approx(0.35 * 2 / 4)
    trial.step = 3
    assert rate(trial, 0, 2) == pytest.approx(0.2)


# ---- images


def records(count, seed):
    """A file of CIFAR-10's binary version: its labels and pixels, and its bytes."""
    rng = numpy.random.default_rng(seed)
    labels = rng.integers(10, size=count, dtype=numpy.uint8)
    images = rng.integers(256, size=(count, 3, 32, 32), dtype=numpy.uint8)
    return images, labels, b"".join(bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True))


@pytest.fixture
def folder(tmp_path):
    """A folder as CIFAR-10 unpacks to, with 30 images in each of its files."""
    found = tmp_path / "cifar-10-batches-bin"
    found.mkdir()
    for number in range(1, 6):
        (found / f"data_batch_{number}.bin").write_bytes(records(30, number)[2])
    (found / "test_batch.bin").write_bytes(records(30, 6)[2])
    return found


@pytest.fixture
def cifar(folder, monkeypatch):
    """The module that reads images, and a folder for it to read."""
    app_of("resnet20_cifar")
    monkeypatch.setenv("OPENHPO_CIFAR10", str(folder))
    return sys.modules["cifar"]


def test_cifar_10_is_read_as_it_was_written(cifar):
    (images, labels), (test_images, test_labels) = cifar.read_cifar10()
    assert images.shape == (150, 3, 32, 32)
    assert numpy.array_equal(images[60:90], records(30, 3)[0])
    assert numpy.array_equal(labels[60:90], records(30, 3)[1])
    assert numpy.array_equal(test_images, records(30, 6)[0])
    assert numpy.array_equal(test_labels, records(30, 6)[1])


def test_a_fifth_of_what_there_is_to_train_on_is_for_the_search(cifar):
    data = cifar.load.__wrapped__("cifar10", torch.device("cpu"))
    assert [len(part.labels) for part in data[:3]] == [120, 30, 30]
    shown = {image.numpy().tobytes() for part in data[:2] for image in part.images}
    assert len(shown) == 150  # no image is in both
    assert torch.equal(data.test.images, torch.tensor(records(30, 6)[0]))


@pytest.mark.parametrize(("content", "said"), [(b"", "0 bytes"), (b"\0" * 3072, "damaged"), (b"\x0b" * 3073, "labels above 9")])
def test_a_file_that_is_no_part_of_cifar_10_is_refused(cifar, folder, content, said):
    (folder / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(hpo.UserError, match=rf"data_batch_2\.bin .*{said}"):
        cifar.read_cifar10()


def test_a_folder_without_cifar_10_is_said_by_the_name_of_the_setting(cifar, folder, monkeypatch):
    (folder / "test_batch.bin").unlink()
    with pytest.raises(hpo.UserError, match=r"OPENHPO_CIFAR10 has to name .* test_batch\.bin"):
        cifar.read_cifar10()
    monkeypatch.delenv("OPENHPO_CIFAR10")
    with pytest.raises(hpo.UserError, match="set OPENHPO_CIFAR10"):
        cifar.read_cifar10()


def test_the_folder_decides_what_is_trained_on(openhpo, folder, tmp_path):
    command = ["run", "random", str(ROOT / "apps/resnet20_cifar.py"), "--trials", "1", "--steps", "1", "--set", "batches=1"]
    done = openhpo(*command, "--study", "study", OPENHPO_CIFAR10=str(folder))
    assert done.returncode == 0, done.stderr
    result = hpo.load(tmp_path / "study")
    assert result.configs[0]["data"] == "cifar10"
    assert {"val_accuracy", "val_loss", "test_accuracy", "test_loss"} <= set(result.metrics)


def test_grey_images_get_three_channels_and_a_multiple_of_eight_pixels(cifar):
    images = numpy.full((2, 28, 28), 7, numpy.uint8)
    part = cifar.part(images, numpy.array([1, 2]), torch.device("cpu"))
    assert part.images.shape == (2, 3, 32, 32)
    assert torch.equal(part.images[:, :, 2:30, 2:30], torch.full((2, 3, 28, 28), 7, dtype=torch.uint8))
    assert int(part.images.sum()) == 2 * 3 * 28 * 28 * 7  # black around it


def test_images_are_moved_within_their_edge_and_mirrored(cifar):
    images = torch.arange(1, 4 * 3 * 64 + 1).reshape(4, 3, 8, 8)
    shifts = torch.tensor([[1, 1], [1, 1], [2, 1], [1, 0]])
    found = cifar.augment(images, shifts, torch.tensor([False, True, False, False]))
    assert torch.equal(found[0], images[0])
    assert torch.equal(found[1], images[1].flip(2))
    assert torch.equal(found[2, :, :7], images[2, :, 1:])
    assert not found[2, :, 7].any()
    assert torch.equal(found[3, :, :, 1:], images[3, :, :, :7])
    assert not found[3, :, :, 0].any()


# ---- fields


@pytest.fixture
def flow():
    """The module that computes flows."""
    app_of("autoencoder_pde")
    return sys.modules["decaying_flow"]


def energy_and_enstrophy(flow, square, modes):
    u, v = square.velocity(modes)
    return numpy.array([(u**2 + v**2).mean() / 2, (square.backward(modes) ** 2).mean() / 2])


def history(flow, viscosity, steps=40):
    square = flow.Square(32)
    modes = flow.random_vorticity(square, 2, numpy.random.default_rng(1))
    first, found = modes, [energy_and_enstrophy(flow, square, modes)]
    for _ in range(steps):
        modes = flow.advance(square, modes, viscosity, 0.025)
        found.append(energy_and_enstrophy(flow, square, modes))
    return first, modes, numpy.array(found)


def test_without_viscosity_energy_and_enstrophy_stay_while_the_flow_changes(flow):
    first, last, found = history(flow, 0.0)
    assert found[0, 0] == pytest.approx(0.5)
    numpy.testing.assert_allclose(found, found[:1].repeat(len(found), 0), rtol=1e-5)
    assert abs(last - first).max() > 0.1 * abs(first).max()


def test_with_viscosity_energy_and_enstrophy_decay_as_the_equation_says(flow):
    _, _, found = history(flow, 5e-3)
    assert (numpy.diff(found, axis=0) < 0).all()
    lost = numpy.diff(found[:, 0]) / 0.025
    mean = (found[1:, 1] + found[:-1, 1]) / 2
    numpy.testing.assert_allclose(lost, -2 * 5e-3 * mean, rtol=1e-3)  # dE/dt is minus twice viscosity times enstrophy


def test_a_vortex_array_that_does_not_move_decays_as_taylor_and_green_say(flow):
    square, viscosity, dt, steps = flow.Square(32), 0.01, 0.05, 30
    x = 2 * numpy.pi * numpy.arange(32) / 32
    field = numpy.cos(3 * x) * numpy.cos(2 * x)[:, None]  # [y, x], an eigenfunction with the eigenvalue -(9 + 4)
    modes = square.forward(field[None])
    for _ in range(steps):
        modes = flow.advance(square, modes, viscosity, dt)
    expected = field * numpy.exp(-viscosity * 13 * dt * steps)
    numpy.testing.assert_allclose(square.backward(modes)[0], expected, atol=1e-12)


def test_snapshots_are_velocities_of_an_incompressible_fluid_flow_by_flow(flow):
    found = flow.snapshots(flows=3, times=2, points=16)
    assert found.shape == (6, 2, 16, 16)
    assert found.dtype == numpy.float32
    square = flow.Square(16)
    divergence = 1j * square.kx * square.forward(found[:, 0]) + 1j * square.ky * square.forward(found[:, 1])
    assert abs(square.backward(divergence)).max() < 1e-5
    energy = (found**2).mean((1, 2, 3))
    assert (energy[1::2] < energy[::2]).all()


def test_fields_of_ones_own_are_split_in_order(flow, tmp_path):
    fields = numpy.random.default_rng(0).standard_normal((50, 1, 8, 16)).astype(numpy.float32)
    numpy.savez(tmp_path / "mine.npz", fields=fields)
    parts = sys.modules["autoencoder_pde"].load(str(tmp_path / "mine.npz"), torch.device("cpu"))
    assert [len(part) for part in parts] == [32, 8, 10]
    assert parts[0].var().item() == pytest.approx(1, rel=1e-3)
    scaled = (fields[40:] - fields[:32].mean()) / fields[:32].std(ddof=1)
    numpy.testing.assert_allclose(parts[2].numpy(), scaled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"flow": numpy.zeros((9, 1, 8, 8), numpy.float32)}, "an array 'fields'"),
        ({"fields": numpy.zeros((9, 1, 8, 8))}, "it is float64 of shape"),
        ({"fields": numpy.zeros((9, 8, 8), numpy.float32)}, r"of shape \[9, 8, 8\]"),
        ({"fields": numpy.zeros((9, 1, 8, 12), numpy.float32)}, "a multiple of 8"),
        ({"fields": numpy.full((9, 1, 8, 8), numpy.nan, numpy.float32)}, "not finite"),
    ],
)
def test_a_file_without_such_fields_is_refused(flow, tmp_path, arrays, said):
    numpy.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(hpo.UserError, match=said):
        sys.modules["autoencoder_pde"].read(tmp_path / "mine.npz")


def one_array():
    file = io.BytesIO()
    numpy.save(file, numpy.zeros((9, 1, 8, 8), numpy.float32))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off", one_array()], ids=len)
def test_a_file_that_is_no_archive_is_refused(flow, tmp_path, content):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(hpo.UserError, match=r"has to be a \.npz file"):
        sys.modules["autoencoder_pde"].read(tmp_path / "mine.npz")
