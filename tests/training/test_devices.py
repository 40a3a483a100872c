"""Which device a rank takes, with stand-ins for the hardware that is not here."""

import importlib.machinery
import sys
import types

import pytest
import torch

import openhpo as hpo
from openhpo.training.devices import choose_device

from ..conftest import finished


@pytest.fixture
def gaudi(monkeypatch):
    """A stand-in for habana_frameworks that records its calls."""
    calls = []
    core = types.ModuleType("habana_frameworks.torch.core")
    core.mark_step = lambda: calls.append("mark_step")
    for name, module in {
        "habana_frameworks": types.ModuleType("habana_frameworks"),
        "habana_frameworks.torch": types.ModuleType("habana_frameworks.torch"),
        "habana_frameworks.torch.core": core,
    }.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    return calls


class Recorder:
    """A loss and an optimizer in one, that notes what is done to it."""

    def __init__(self, calls):
        self.calls = calls

    def __getattr__(self, name):
        return lambda **_: self.calls.append(name)


def test_without_an_accelerator_the_cpu_is_taken():
    assert choose_device("auto", 3).name == "cpu"
    assert choose_device("cpu", 0).name == "cpu"


def test_a_torch_that_is_built_for_cpus_alone_is_not_loaded_to_find_a_gpu():
    look = "import sys; from openhpo.training.devices import choose_device; print(choose_device('auto', 0).name)"
    done = finished([sys.executable, "-c", f"{look}; print('torch' in sys.modules)"])
    assert done.stdout.split() == ["cpu", str(torch.version.cuda is not None)], done.stderr


def test_gpus_are_dealt_out_by_the_place_on_the_node(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [choose_device("auto", rank).name for rank in range(6)] == [
        "cuda:0",
        "cuda:1",
        "cuda:2",
        "cuda:3",
        "cuda:0",
        "cuda:1",
    ]


def test_gaudi_marks_its_steps_around_the_optimizer(gaudi):
    device = choose_device("auto", 0)
    assert device.name == "hpu"
    recorder = Recorder(gaudi)
    device.backward(recorder, recorder)
    assert gaudi == ["zero_grad", "backward", "mark_step", "step", "mark_step"]


@pytest.mark.parametrize(("wish", "said"), [("cuda", "no cuda device was found"), ("tpu", "there is no device 'tpu'")])
def test_a_device_that_is_not_there_is_refused(wish, said):
    with pytest.raises(hpo.UserError, match=said):
        choose_device(wish, 0)
