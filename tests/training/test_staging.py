"""Copies beside the training, on a device that does as late as it may what is queued: ordinary tensors stand for its memory."""

import contextlib
import queue
import threading
import types
from dataclasses import replace

import numpy
import pytest
import torch

import openhpo as hpo
from openhpo.course import Course
from openhpo.session import Leave, Lowered, Rested, Session
from openhpo.stages import Stage
from openhpo.training.devices import TorchDevice
from openhpo.training.devices.streams import CudaStreams
from openhpo.training.runner import train_stage
from openhpo.training.staging import Arriving, Copier, flat_bytes
from openhpo.training.states import lift, lifts, lower

KB = 1024


class Event:
    done = False


class Machine:
    """Two queues of work. Nothing is done before the host waits; then the training's, as far as it may go, before the copies.

    Args:
        memory: Bytes of pinned memory that the system gives.
        room: Whether there is room for new tensors.
    """

    def __init__(self, memory=1 << 30, room=True):
        self.memory, self.has_room = memory, room
        self.training, self.side = [], []
        self.waits, self.pinnings, self.copies = 0, [], 0

    def train(self, work):
        """Queue something that the training does."""
        self.training.append(work)

    def run(self, until=None):
        """Do what is queued."""
        while until is None or not until.done:
            queue = next((one for one in (self.training, self.side) if one and self._may(one[0])), None)
            if queue is None:
                assert until is None, "nobody ever comes to that event"
                return
            work = queue.pop(0)
            if isinstance(work, Event):
                work.done = True
            elif not isinstance(work, tuple):
                work()

    @staticmethod
    def _may(work):
        return not isinstance(work, tuple) or work[1].done

    # ---- what the copier asks of it

    def takes(self, tensor):
        return True

    def pinned(self, size):
        self.pinnings.append(size)
        return torch.empty(size, dtype=torch.uint8) if size <= self.memory else None

    def branch(self):
        self.side.append(("wait", self.mark_training()))

    def flat(self, tensor, dtype):
        tensor = tensor.detach()
        if tensor.is_contiguous() and tensor.dtype == getattr(torch, dtype):
            return flat_bytes(tensor)  # read when it is copied
        found = torch.empty(tensor.shape, dtype=getattr(torch, dtype))
        self.side.append(lambda: found.copy_(tensor))
        return flat_bytes(found)

    def download(self, source, place):
        assert source.numel() == place.numel()
        self.copies += 1
        self.side.append(lambda: place.copy_(source))

    def mark(self):
        self.side.append(event := Event())
        return event

    def join(self, event):
        self.training.append(("wait", event))

    def wait(self, event):
        self.waits += 1
        self.run(event)

    def room(self, dtype, shape):
        return torch.empty(tuple(shape), dtype=getattr(torch, dtype)) if self.has_room else None

    def upload(self, source, place):
        self.copies += 1
        self.training.append(lambda: place.copy_(source))

    def mark_training(self):
        self.training.append(event := Event())
        return event


class State:
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


def some_state():
    """A state with tensors of many kinds, most of them longer than a piece."""
    generator = torch.Generator().manual_seed(1)
    return {
        "weights": torch.randn(700, 3, generator=generator),
        "transposed": torch.randn(40, 30, generator=generator).t(),
        "halves": torch.randn(999, generator=generator).bfloat16(),
        "count": torch.tensor(7.0),
        "empty": torch.empty(0, 3),
        "flags": torch.tensor([True, False, True]),
        "array": numpy.arange(100.0),
    }


def clone(state):
    return {name: item.clone() if isinstance(item, torch.Tensor) else item.copy() for name, item in state.items()}


def equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in one
    )


def overwrite(state):
    for item in state.values():
        item[...] = 0


LIMITS = [pytest.param(64 * KB, id="roomy"), pytest.param(3 * KB, id="narrow"), pytest.param(KB, id="one piece")]


@pytest.mark.parametrize("limit", LIMITS)
def test_training_may_overwrite_at_once_what_is_being_copied(limit):
    machine, state = Machine(), some_state()
    before = clone(state)
    snapshot = lower({"it": State(state)}, copier=Copier(machine, limit, KB), wait=False)
    state["array"][...] = 0  # host memory has been copied already
    machine.train(lambda: overwrite({name: item for name, item in state.items() if name != "array"}))
    snapshot.arriving.wait()
    machine.run()
    assert not state["weights"].any()
    assert equal(lift(snapshot)["it"], before)


class NoJoin(Machine):
    def join(self, event):
        pass


class NoBranch(Machine):
    def branch(self):
        pass


@pytest.mark.parametrize(("kind", "right"), [(Machine, True), (NoJoin, False), (NoBranch, False)])
def test_a_copy_holds_what_was_queued_before_it_and_nothing_that_was_queued_after(kind, right):
    machine, weights = kind(), torch.zeros(500)
    machine.train(lambda: weights.fill_(1.0))
    snapshot = lower({"it": State({"w": weights})}, copier=Copier(machine, 64 * KB, KB), wait=False)
    machine.train(lambda: weights.fill_(2.0))
    if kind is NoBranch:  # the copies first, as they wait for nothing
        machine.training, queued = [], machine.training
        machine.run()
        machine.training = queued
    machine.run()
    snapshot.arriving.wait()
    assert bool((lift(snapshot)["it"]["w"] == 1.0).all()) is right


def test_nobody_waits_before_the_bytes_are_used():
    machine = Machine()
    snapshot = lower({"it": State(some_state())}, copier=Copier(machine, 64 * KB, KB), wait=False)
    assert machine.waits == 0
    for _ in range(2):
        snapshot.arriving.wait()
    assert 1 < machine.waits < 20


def test_whoever_lowers_without_more_words_gets_all_bytes():
    state = some_state()
    snapshot = lower({"it": State(state)}, copier=Copier(Machine(), 64 * KB, KB))
    assert snapshot.arriving is None
    assert equal(lift(snapshot)["it"], state)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_second_copy_leaves_the_first_one_alone(limit):
    machine, state = Machine(), some_state()
    before, copier = clone(state), Copier(machine, limit, KB)
    first = lower({"it": State(state)}, copier=copier, wait=False)
    machine.train(lambda: overwrite(state))
    second = lower({"it": State(state)}, copier=copier, wait=False)
    second.arriving.wait()
    del before["array"]
    assert equal({name: item for name, item in lift(first)["it"].items() if name != "array"}, before)
    assert not lift(second)["it"]["weights"].any()


def test_the_pinned_buffer_is_one_limited_and_reused():
    machine = Machine()
    copier = Copier(machine, 8 * KB, KB)
    for _ in range(3):
        lower({"it": State({"w": torch.ones(10_000)})}, copier=copier)
    assert machine.pinnings == [8 * KB]


def test_without_pinned_memory_states_are_copied_all_the_same():
    machine, state = Machine(memory=0), some_state()
    copier = Copier(machine, 64 * KB, KB)
    snapshot = lower({"it": State(state)}, copier=copier, wait=False)
    assert snapshot.arriving is None
    assert equal(lift(snapshot)["it"], state)
    assert equal(lifted(snapshot, copier)["it"], state)
    assert len(machine.pinnings) == 1  # not asked again
    assert machine.copies == 0


def lifted(snapshot, copier):
    return {name: make() for name, make in lifts(snapshot, copier=copier).items()}


def on_device(snapshot):
    """As if its tensors had been lowered from an accelerator: ordinary ones are not sent to one."""
    return replace(snapshot, header=snapshot.header.replace(b'{"!": "tensor", ', b'{"!": "tensor", "on": "cuda", '))


@pytest.mark.parametrize("limit", [*LIMITS, pytest.param(5 * KB + 8, id="uneven")])
def test_a_state_is_brought_back_to_the_device_through_the_same_buffer(limit):
    machine, state = Machine(), some_state()
    snapshot = on_device(lower({"it": State(state)}))
    found = lifted(snapshot, Copier(machine, limit, KB))["it"]
    snapshot.data[...] = 255  # it has been read
    assert machine.copies
    machine.run()
    del state["array"], found["array"]
    assert equal(found, state)


def test_a_state_goes_down_and_up_in_turns_through_one_buffer():
    machine, state = Machine(), some_state()
    copier = Copier(machine, 4 * KB, KB)
    for _ in range(3):
        snapshot = on_device(lower({"it": State(state)}, copier=copier, wait=False))
        state = lifted(snapshot, copier)["it"]
    machine.run()
    assert equal(state, some_state())


def test_what_was_in_host_memory_comes_back_there():
    machine = Machine()
    snapshot = lower({"it": State(some_state())})
    lifted(snapshot, Copier(machine, 64 * KB, KB))
    assert machine.copies == 0


def test_without_room_on_the_device_a_state_stays_in_host_memory():
    state = some_state()
    found = lifted(on_device(lower({"it": State(state)})), Copier(Machine(room=False), 64 * KB, KB))
    assert equal(found["it"], state)


def test_a_device_that_fails_while_it_is_asked_leaves_no_copy_under_way():
    class Fails(Machine):
        def flat(self, tensor, dtype):
            if tensor.dtype == torch.bfloat16:
                raise RuntimeError("CUDA out of memory")
            return super().flat(tensor, dtype)

    machine = Fails()
    copier = Copier(machine, 64 * KB, KB)
    with pytest.raises(RuntimeError, match="out of memory"):
        lower({"it": State(some_state())}, copier=copier)
    assert not machine.side
    assert lower({"it": State({"w": torch.ones(9)})}, copier=copier).data.size == 64


# ---- what is asked of torch


class Log(list):
    """Stands for torch's streams of a GPU, and notes in which order what is asked of them."""

    def stream(self, name):
        return types.SimpleNamespace(
            name=name,
            wait_stream=lambda other: self.append(f"{name} waits for {other.name}"),
            wait_event=lambda event: self.append(f"{name} waits for an event"),
        )

    def event(self, blocking):
        return types.SimpleNamespace(
            record=lambda stream: self.append(f"event on {stream.name}"), synchronize=lambda: self.append("the host waits")
        )

    @contextlib.contextmanager
    def on(self, stream):
        self.append(f"to {stream.name}")
        yield


def test_torch_is_asked_for_a_side_stream_between_two_waits(monkeypatch):
    log = Log()
    training = log.stream("training")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda number: training)
    monkeypatch.setattr(torch.cuda, "Stream", lambda number: log.stream("side"))
    monkeypatch.setattr(torch.cuda, "Event", log.event)
    monkeypatch.setattr(torch.cuda, "stream", log.on)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: log.append(f"memory kept for {stream.name}"))
    streams = CudaStreams(0)
    assert not streams.takes(torch.ones(1))
    monkeypatch.setattr(streams, "takes", lambda tensor: True)
    monkeypatch.setattr(streams, "pinned", lambda size: torch.empty(size, dtype=torch.uint8))
    state = {"w": torch.randn(30, 2).t()}
    snapshot = lower({"it": State(state)}, copier=Copier(streams, 64 * KB, KB), wait=False)
    assert log == [
        "side waits for training",
        "memory kept for side",
        "to side",
        "to side",
        "event on side",
        "training waits for an event",
    ]
    snapshot.arriving.wait()
    assert log[-1] == "the host waits"
    assert torch.equal(lift(snapshot)["it"]["w"], state["w"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, whose driver pins memory")
def test_memory_that_cannot_be_pinned_is_no_error():
    assert CudaStreams(0).pinned(64) is None


# ---- 16 bits


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("through", [None, "device"])
def test_tensors_of_fp32_are_stored_in_half_the_bytes_and_come_back_in_fp32(dtype, through):
    weights = torch.randn(10_000)
    state = {"w": weights, "steps": torch.tensor(16_777_215.0), "d": torch.ones(3, dtype=torch.float64), "n": torch.arange(3)}
    copier = Copier(Machine(), 64 * KB, KB) if through else None
    snapshot = lower({"it": State(state)}, dtype=dtype, copier=copier)
    assert snapshot.data.size < 20_000 + 4 * 64
    found = lift(snapshot)["it"]
    assert [found[name].dtype for name in found] == [state[name].dtype for name in state]
    assert torch.equal(found["w"], weights.to(getattr(torch, dtype)).float())
    assert not torch.equal(found["w"], weights)
    assert torch.equal(found["steps"], state["steps"])  # a single number stays exact
    assert torch.equal(found["d"], state["d"])
    assert lower({"it": State(found)}, dtype=dtype).data.tobytes()[:20_000] == snapshot.data.tobytes()[:20_000]


# ---- in a training


class Reporting:
    """A device whose copies a test lets through."""

    def __init__(self):
        self.may = threading.Event()
        self.error = None

    def wait(self, event):
        assert self.may.wait(PATIENCE)
        if self.error is not None:
            raise self.error


@pytest.fixture
def slow(monkeypatch):
    """Has the copies of every trial arrive only when they are let through."""
    streams = Reporting()
    plain = hpo.Trial.lower

    def slowly(self, spare=None, *, wait=True):
        snapshot = plain(self, spare)
        arriving = Arriving(streams, snapshot.data)
        arriving.expect(None, [])
        return replace(snapshot, arriving=arriving)

    monkeypatch.setattr(hpo.Trial, "lower", slowly)
    return streams


PATIENCE = 20  # seconds


class Said:
    """What a training thread says, in its order."""

    def __init__(self):
        self.notices, self.seen = queue.SimpleQueue(), []

    def until(self, wanted):
        """Wait for something."""
        while not self.seen or self.seen[-1] != wanted:
            self.seen.append(self.notices.get(timeout=PATIENCE))

    def notice(self, notice):
        if isinstance(notice, Rested | Lowered):
            self.notices.put(type(notice))


@pytest.fixture
def said():
    return Said()


def session_of(stage, said):
    return Session(stage, Course(stage.config, stage.config, {}), said.notice, lambda size: None)


def trained(session, stage, said):
    def train(trial):
        trial.track(weights=numpy.zeros(3))
        while True:
            said.notices.put(trial.step)
            yield {"loss": 0.0}

    thread = threading.Thread(
        target=lambda: train_stage(train, hpo.Trial(stage, TorchDevice("cpu"), session)),
        daemon=True,
    )
    thread.start()
    return thread


def test_training_goes_on_while_its_state_is_on_its_way_and_says_no_more_before_it_has_come(slow, said):
    first = Stage(0, 0, None, 0, 1, {"x": 1.0}, 0, (0,), park=True)
    second = Stage(1, 0, 0, 1, 3, {"x": 1.0}, 0, (0,), park=True, keep=True)
    session = session_of(first, said)
    thread = trained(session, first, said)
    said.until(Rested)
    session.rests()
    session.go_on(second, session.course)
    said.until(3)
    assert said.seen == [1, Rested, 2, 3]
    slow.may.set()
    said.until(Rested)
    assert said.seen[4:] == [Lowered, Rested]
    session._orders.put(Leave(keep=False))
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_copy_that_fails_on_its_way_fails_the_training(slow, said):
    first = Stage(0, 0, None, 0, 2, {"x": 1.0}, 0, (0,))
    session = session_of(first, said)
    trial = hpo.Trial(first, TorchDevice("cpu"), session)
    trial.track(weights=numpy.zeros(3))
    session.copy_between()
    assert session.between(trial)
    slow.error = RuntimeError("the device is gone")
    slow.may.set()
    with pytest.raises(RuntimeError, match="the device is gone"):
        session.settle()
    assert said.notices.empty()
