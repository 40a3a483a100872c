"""Which device a rank takes, with stand-ins for the hardware that is not here."""

import importlib.machinery
import os
import sys
import types

import pytest
import torch

import openhpo as hpo
from openhpo.stages import Stage
from openhpo.training.devices import Seen, deal, look, take
from openhpo.training.devices.base import identity_of, seen_as
from openhpo.training.devices.choosing import KINDS, Kind
from openhpo.training.devices.cuda import MASKS

from ..conftest import ROOT, finished


def alone(wish):
    """The device of a rank that is alone on its node."""
    return take([look(wish)], 0)


@pytest.fixture
def gaudi(monkeypatch):
    """A stand-in for habana_frameworks that records its calls, on a node with four modules."""
    calls = []
    core = types.ModuleType("habana_frameworks.torch.core")
    core.mark_step = lambda: calls.append("mark_step")
    hpu = types.ModuleType("habana_frameworks.torch.hpu")
    hpu.device_count = lambda: 4
    for name, module in {
        "habana_frameworks": types.ModuleType("habana_frameworks"),
        "habana_frameworks.torch": types.ModuleType("habana_frameworks.torch"),
        "habana_frameworks.torch.core": core,
        "habana_frameworks.torch.hpu": hpu,
    }.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("HABANA_VISIBLE_MODULES", "HLS_MODULE_ID"):
        monkeypatch.setenv(name, "")  # and so put back what a test sets
    return calls


class Recorder:
    """A loss and an optimizer in one, that notes what is done to it."""

    def __init__(self, calls):
        self.calls = calls

    def __getattr__(self, name):
        return lambda **_: self.calls.append(name)


class Port:
    def put(self, step, metrics):
        return True

    def between(self, trial):
        return True


@pytest.fixture
def gpus(monkeypatch):
    """Has torch see GPUs with these UUIDs; None stands for one of which it tells nothing."""
    for name in MASKS:
        monkeypatch.delenv(name, raising=False)

    def see(*uuids):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: types.SimpleNamespace(uuid=uuids[number]))

    return see


def node(*ranks):
    """What the ranks of a node see: each a text with a letter for each device."""
    return [None if devices is None else Seen("cuda", tuple(devices)) for devices in ranks]


# ---- what a rank sees


def test_without_an_accelerator_the_cpu_is_taken():
    assert alone("auto").name == "cpu"
    assert alone("cpu").name == "cpu"


def test_a_torch_that_is_built_for_cpus_alone_is_not_loaded_to_find_a_gpu():
    script = "import sys; from openhpo.training.devices import look; print(look('auto').kind)"
    done = finished([sys.executable, "-c", f"{script}; print('torch' in sys.modules)"])
    assert done.stdout.split() == ["cpu", str(torch.version.cuda is not None)], done.stderr


def test_a_gpu_is_known_by_its_uuid_and_else_by_its_place_on_the_bus(gpus):
    gpus("aa-1", "bb-2")
    assert look("auto") == Seen("cuda", ("GPU-aa-1", "GPU-bb-2"))
    bus = types.SimpleNamespace(uuid="0000-0000", pci_bus_id=0x3B, pci_domain_id=0, pci_device_id=1)
    assert identity_of(bus) == "PCI 0000:3b:01"
    assert identity_of(types.SimpleNamespace(uuid=b"\x01\xff")) == "GPU-01ff"


def test_a_gpu_of_which_nothing_is_told_is_known_by_the_mask(gpus, monkeypatch):
    gpus(None, None)
    assert look("cuda") == Seen("cuda", ("number 0", "number 1"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert look("cuda") == Seen("cuda", ("number 2", "number 3"))
    gpus(None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # perhaps each rank's own 0
    assert look("cuda") == Seen("cuda", ("number 0",), certain=False)


def test_slices_of_one_gpu_are_told_apart(gpus, monkeypatch):
    gpus("aa")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7")
    assert look("cuda") == Seen("cuda", ("MIG-7",))


def test_a_gpu_whose_properties_cannot_be_asked_for_is_left_to_the_training(gpus, monkeypatch):
    gpus("aa")

    def fails(number):
        raise RuntimeError("CUDA error: busy")

    monkeypatch.setattr(torch.cuda, "get_device_properties", fails)
    assert alone("auto").name == "cuda:0"


def test_tiles_of_intel_are_known_by_their_mask():
    assert seen_as("xpu", [None], "0.1") == Seen("xpu", ("0.1",))


@pytest.mark.parametrize(
    ("wish", "said"), [("cuda", "no cuda device was found"), ("cdua", "there is no device 'cdua'.*Did you mean 'cuda'")]
)
def test_a_device_that_is_not_there_is_refused(wish, said):
    with pytest.raises(hpo.UserError, match=said):
        alone(wish)


def test_a_driver_that_fails_is_told_of_only_when_the_device_is_taken(monkeypatch):
    def fails():
        raise RuntimeError("driver mismatch")

    monkeypatch.setitem(KINDS, "xpu", Kind(fails, KINDS["xpu"].device))
    seen = look("xpu")  # others wait for what this rank sees
    with pytest.raises(hpo.UserError, match=r"driver mismatch.*--device cpu"):
        take([seen], 0)


def test_a_torch_for_intel_gpus_gives_each_rank_one(monkeypatch):
    properties = types.SimpleNamespace(uuid=b"\x07")
    fake = types.SimpleNamespace(device_count=lambda: 1, get_device_properties=lambda number: properties)
    monkeypatch.setattr(torch, "xpu", fake)
    device = alone("xpu")
    assert (device.name, device.identity) == ("xpu:0", "GPU-07")


def test_an_apple_computer_has_one_gpu(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    around = [look("mps"), look("mps")]
    assert take(around[:1], 0).name == "mps"
    with pytest.raises(hpo.UserError, match="2 ranks train on .*, and see 1 mps device:"):
        take(around, 1)


# ---- who takes which


@pytest.mark.parametrize(
    ("ranks", "taken"),
    [
        (["ABCD"] * 4, "ABCD"),
        (["A", "B", "C"], "ABC"),  # each is bound to its own
        (["AB", "AB", "CD", "CD"], "ABCD"),
        (["AB", "A"], "BA"),  # the bound one comes first
        ([None, "AB", "AB"], "-AB"),  # a coordinator that does not train takes none
        (["AB"] * 5, "ABABA"),
        (["A", "AB", "AB", "AB"], "ABAB"),
    ],
)
def test_each_rank_takes_a_device_that_the_fewest_have(ranks, taken):
    dealt = deal(node(*ranks))
    assert "".join(devices[dealt[place]] if devices else "-" for place, devices in enumerate(ranks)) == taken


@pytest.mark.parametrize("place", range(3))
def test_more_ranks_than_devices_are_refused_on_each_of_them(place):
    with pytest.raises(hpo.UserError) as caught:
        take(node("AB", "AB", "AB"), place)
    for text in ("3 ranks train on", "see 2 cuda devices", "local ranks 0 and 2 would both take A", "--share-devices", "cpu"):
        assert text in str(caught.value)


def test_ranks_that_are_bound_to_the_same_device_are_refused():
    with pytest.raises(hpo.UserError, match=r"see 1 cuda device: .* 0 and 1 would both take A.*bind each rank to a device"):
        take(node("A", "A"), 0)


def test_ranks_share_a_device_when_they_are_told_to():
    device = take(node("AB", "AB", "AB"), 2, share=True)
    assert (device.name, device.identity, device.shared) == ("cuda:0", "A", True)


def test_ranks_that_see_one_device_each_which_nothing_tells_apart_take_it():
    around = [Seen("cuda", ("number 0",), certain=False)] * 2
    assert [take(around, place).name for place in range(2)] == ["cuda:0", "cuda:0"]


def test_the_cpu_is_always_shared():
    assert take([look("cpu")] * 9, 8).name == "cpu"


# ---- what training does with it


def test_gaudi_modules_are_dealt_out_and_named_as_habana_wants_it(gaudi, monkeypatch):
    around = [look("auto")] * 4
    assert take(around, 2).name == "hpu"
    assert os.environ["HLS_MODULE_ID"] == "2"
    monkeypatch.setenv("HLS_MODULE_ID", "")
    monkeypatch.setenv("HABANA_VISIBLE_MODULES", "4,5,6,7")
    take([look("auto")] * 4, 1)
    assert os.environ["HLS_MODULE_ID"] == "5"
    assert look("auto") == Seen("hpu", ("module 5",))  # where the launcher has chosen already
    monkeypatch.setenv("HLS_MODULE_ID", "all")
    with pytest.raises(hpo.UserError, match="list the numbers of Gaudi modules"):
        alone("auto")


def test_gaudi_marks_its_steps_around_the_optimizer_and_at_the_end_of_a_step(gaudi):
    trial = hpo.Trial(Stage(0, 0, None, 0, 2, {}, 0, (0,)), alone("auto"), Port())
    recorder = Recorder(gaudi)
    trial.backward(recorder, recorder)
    assert gaudi == ["zero_grad", "backward", "mark_step", "step", "mark_step"]
    trial.report({"loss": 0.0})
    assert gaudi[5:] == ["mark_step"]


@pytest.mark.parametrize(("kind", "number"), [("cuda", 1), ("xpu", 1)])
def test_the_device_is_the_current_one_while_training(kind, number, monkeypatch):
    entered = []

    class Current:
        def __init__(self, number):
            self.number = number

        def __enter__(self):
            entered.append(self.number)

        def __exit__(self, *_):
            entered.append("left")

    monkeypatch.setattr(torch, kind, types.SimpleNamespace(device=Current, is_initialized=lambda: False))
    with KINDS[kind].device(number, "A").current():
        assert entered == [number]
    assert entered == [number, "left"]


def test_the_benchmark_of_gpus_says_that_it_needs_one():
    done = finished([sys.executable, str(ROOT / "benchmarks/gpu.py")], environment={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1
    assert "this benchmark needs a GPU, and torch sees none here" in done.stderr
    assert "Traceback" not in done.stderr
