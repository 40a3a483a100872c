"""The object that a training function gets."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from openhpo.course import Course
from openhpo.errors import UserError, meant
from openhpo.keyed import KeyedGenerator
from openhpo.stages import Stage
from openhpo.training.devices import Device
from openhpo.training.group import Group, average_of, part_of
from openhpo.training.metrics import numbers
from openhpo.training.precision import NAME, Arithmetic
from openhpo.training.randomness import SET_UP, seed_everything
from openhpo.training.states import Lowering, Snapshot, lifts, lower, trackable

if TYPE_CHECKING:
    import numpy

GRAD_SCALER = "grad scaler"  # its name in a state, which no tracked object has, as it is no Python name
SKIPPED = "skipped_updates"  # the metric
UNTRACKED = b"null"  # the header of the state of a training that never called track
_ABSENT = object()


RULES: dict[str, Callable[[int], float]] = {"linear": float, "sqrt": math.sqrt, "none": lambda size: 1.0}  # of `scaled`


class TrialStopped(BaseException):
    """No further step will run: raised by `Trial.report`, and caught by openhpo around the training function.

    A BaseException, as a stop is no error and must pass through `except Exception` in the training code.
    """


class Port(Protocol):
    """Where reports go: the trainer, or a list in a test."""

    def put(self, step: int, metrics: dict[str, float]) -> bool:
        """Take one step's metrics, wait until the next step may run, and return whether it should."""

    def rest(self, trial: Trial) -> tuple[Stage, Course] | None:
        """The stage is over: wait for the next one that goes on here, and return it; None when none does."""

    def between(self, trial: Trial) -> bool:
        """Called between two steps of a stage: copy the state where that is asked for; return whether to go on."""


def inner(item: Any) -> Any:
    """The module within the one that `Trial.parallel` gave, whose state does not depend on how many ranks there are."""
    return item.module if type(item).__name__ == "DistributedDataParallel" else item


def untracked() -> Snapshot:
    """The state of a training that never called track."""
    import numpy

    return Snapshot(UNTRACKED, numpy.empty(0, numpy.uint8))


class Trial:
    """One configuration in training, as the training function sees it.

    `trial["lr"]` is a hyperparameter's value in force at this step; `trial.get(name, default)` is for those that may be
    inactive. What a schedule or population based training changes has to be read anew at each step.

    Attributes:
        seed: What the random numbers are keyed by; the same for every trial of a study, so that equal configurations are
            equal computations.
        number: The trial's number in the study.
        step: The step being trained, from 1.
        stage: The span of steps being trained.
        size: How many ranks train it together.
        member: The place of this rank among them, from 0, which leads: only what it yields counts.

    Args:
        stage: The first span of steps.
        device: Where to train.
        port: Where reports go.
        precision: Of `autocast` and `backward`, where no hyperparameter says it.
        course: What is in force; the stage's configuration as constants where absent.
        state: The state to go on from; None for a new model.
        owned: Whether nobody else needs the memory of that state.
        group: The ranks that train it together; None for this one alone.
        state_dtype: The type in which tensors of fp32 are kept in states, such as "bfloat16"; None for their own.
    """

    def __init__(
        self,
        stage: Stage,
        device: Device,
        port: Port,
        precision: str = "fp32",
        *,
        course: Course | None = None,
        state: Snapshot | None = None,
        owned: bool = False,
        group: Group | None = None,
        state_dtype: str | None = None,
    ) -> None:
        self.seed = stage.seed
        self._group = group
        self.size = 1 if group is None else len(group)
        self.member = 0 if group is None else group.member
        self.tracked: dict[str, Any] = {}
        self._tracks = False
        self._device = device
        self._port = port
        self._precision = precision
        self._state_dtype = state_dtype
        self._arithmetic = Arithmetic(device)
        self._keyed: KeyedGenerator | None = None
        self._begin(stage, Course(stage.config, stage.config, {}) if course is None else course)
        self.step = stage.start + 1
        self._states: dict[str, Callable[[], Any]] = {}  # that wait for the objects they belong to
        self._again_up_to = 0  # steps that are only trained to get to where the stage begins
        if state is not None and state.header == UNTRACKED:
            self._again_up_to, self.step = stage.start, 1
        elif state is not None:
            self._states = lifts(state, owned=owned, copier=device.copier)
        scaler = self._states.pop(GRAD_SCALER, None)
        self._rekey(SET_UP)
        if scaler is not None and self._arithmetic.name == "fp16":  # a fork may change the precision
            self._arithmetic.load_scaler(scaler())

    def _begin(self, stage: Stage, course: Course) -> None:
        self.stage = stage
        self.number = stage.trial
        self._course = course

    @property
    def config(self) -> Mapping[str, Any]:
        """All active hyperparameters, as they are at this step."""
        return dict(self.at(0))

    def __getitem__(self, name: str) -> Any:
        found = self._now.get(name, _ABSENT)
        if found is not _ABSENT:
            return found
        try:
            found = self._now[name] = self.at(0)[name]
        except KeyError:
            there = ", ".join(self.at(0))
            why = ""
            if name in self._course.config:
                why = f" {name!r} only says how a schedule goes; ask for the schedule."
            raise KeyError(
                f"{name!r} is no active hyperparameter of this trial, which has {there}.{why}{meant(name, self.at(0))}"
            ) from None
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """A hyperparameter's value, or `default` where it is inactive."""
        return self[name] if name in self._course.constants or name in self._course.schedules else default

    def at(self, fraction: float) -> Mapping[str, Any]:
        """The hyperparameters in force within this step, for schedules that go on from batch to batch.

        Args:
            fraction: How much of the step is done, from 0 to 1: `trial.at(batch / batches)["lr"]`.
        """
        return self._course.at(self.step - 1 + fraction)

    @property
    def rng(self) -> numpy.random.Generator:
        """A NumPy generator keyed by (seed, step): a repeated or resumed step draws the same numbers.

        It is one object, keyed anew at each step. The global generators of Python, NumPy and torch are keyed alike.
        """
        if self._keyed is None:
            self._keyed = KeyedGenerator()
            self._keyed.rekey(self.seed, self._key)
        return self._keyed.generator

    @cached_property
    def device(self) -> Any:
        """This rank's `torch.device`.

        Raises:
            UserError: torch is not installed.
        """
        try:
            import torch
        except ModuleNotFoundError:
            raise UserError(
                "trial.device is for training with torch, which is not installed: pip install 'openhpo[apps]'"
            ) from None
        return torch.device(self._device.name)

    def track(self, **objects: Any) -> None:
        """Name the objects that make up the training's state, and bring them to the state that this stage goes on from.

        Call it when all is set up: from here on the random numbers are those of the first step. Called without objects, it
        says that the training has no state but its step. A training that never calls it can only be continued by
        training it again from its first step.

        Args:
            objects: Each with `state_dict` and `load_state_dict`, or a NumPy array, a tensor, or a random generator, which
                are restored in place.

        Raises:
            TypeError: An object is none of these.
            KeyError: The state that this stage goes on from has no such name.
        """
        self._tracks = True
        for name, item in objects.items():
            tracked = trackable(inner(item))
            if tracked is None:
                raise TypeError(
                    f"track({name}=…): a {type(item).__name__} has no state_dict() and load_state_dict(), "
                    "and is no NumPy array, tensor or random generator"
                )
            self.tracked[name] = tracked
            if self._states:
                if name not in self._states:
                    raise KeyError(f"track({name}=…): the state to go on from has {', '.join(self._states)}, but no {name!r}")
                tracked.load_state_dict(self._states.pop(name)())
        self._rekey(self.step)

    def check_state(self) -> None:
        """Raise CannotLower where the state cannot be stored, without copying it."""
        lowering = Lowering()
        for name, item in self.tracked.items():
            lowering.node(name, item.state_dict())

    def lower(self, spare: Callable[[int], Any] | None = None, *, wait: bool = True) -> Snapshot:
        """The state, copied to host memory.

        Args:
            spare: Gives a buffer of so many bytes that nobody needs any more, or None.
            wait: Whether to wait for the bytes that come from an accelerator.

        Raises:
            CannotLower: It holds something that cannot be stored.
        """
        if not self._tracks:
            return untracked()
        scaler = {GRAD_SCALER: self._arithmetic.scaler} if self._arithmetic.name == "fp16" else {}
        tracked = {**self.tracked, **scaler}
        return lower(tracked, spare, copier=self._device.copier, dtype=self._state_dtype, wait=wait)

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Hand over the metrics of this step; return when the next one may run.

        A generator yields them instead, which comes to the same.

        Args:
            metrics: Numbers by name; NumPy scalars and tensors of one element are taken too.

        Raises:
            TrialStopped: No further step will run. Let it pass.
            UserError: A metric is no number.
        """
        found = numbers(metrics)
        self._device.mark_step()
        if self._arithmetic.name == "fp16":
            found.setdefault(SKIPPED, float(self._arithmetic.take_skipped()))
        if self.step <= self._again_up_to:
            self._next_step()
            return
        if self._states:
            raise UserError(
                f"train goes on from a state that holds {', '.join(self._states)}, and has not tracked that before its first "
                "step: call trial.track(...) after the set-up, with the same names every time"
            )
        if not self._port.put(self.step, found):
            raise TrialStopped
        if self.step >= self.stage.stop:
            following = self._port.rest(self)
            if following is None:
                raise TrialStopped
            self._begin(*following)
        elif not self._port.between(self):
            raise TrialStopped
        self._next_step()

    def _next_step(self) -> None:
        self.step += 1
        self._rekey(self.step)

    def training(self) -> contextlib.AbstractContextManager[None]:
        """The context in which the training function runs: its device is the current one, its settings of torch in force."""
        return self._arithmetic

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context for a forward pass in the trial's precision; does nothing in fp32 and tf32."""
        return self._arithmetic.autocast()

    def backward(self, loss: Any, optimizer: Any, *, clip_norm: float | None = None) -> None:
        """Zero the gradients, compute them from `loss`, and take one step of `optimizer`, as device and precision need it.

        In fp16 the loss is scaled up, and an update with gradients that are not finite is left out; how many were in a step is
        the metric skipped_updates. The scale is part of the trial's state.

        Args:
            loss: A tensor of one element.
            optimizer: A torch optimizer of parameters in fp32.
            clip_norm: What the norm of all its gradients together is shortened to where it is longer.

        Raises:
            UserError: torch is not installed.
        """
        self._arithmetic.backward(loss, optimizer, clip_norm)

    # ---- several ranks

    @property
    def leader(self) -> bool:
        """Whether this rank leads: the one to write files or print."""
        return self.member == 0

    def parallel(self, model: Any, **options: Any) -> Any:
        """Wrap a torch module so that its gradients are averaged over the ranks that train this trial; every rank calls it.

        Where there is one rank, the module itself comes back. `track` takes either, and keeps the module inside.

        Args:
            model: On this rank's device.
            options: Of `torch.nn.parallel.DistributedDataParallel`.
        """
        if self._group is None:
            return model
        self._group.form(self._device)
        from torch.nn.parallel import DistributedDataParallel

        kind = self._device.name.partition(":")[0]
        devices = {"device_ids": [self.device]} if kind in ("cuda", "xpu") else {}
        return DistributedDataParallel(model, **{**devices, **options})

    def shard(self, items: Any) -> Any:
        """This rank's part of what all ranks have alike: a permutation of sample numbers from `trial.rng`, a list of files.

        Every `size`-th item, as many for each rank; up to `size - 1` items are left out. The batches that the ranks cut from
        their parts make up, together, the batches of one rank with a batch `size` times as large.

        Args:
            items: Anything with a length that can be sliced.

        Raises:
            UserError: There are fewer items than ranks.
        """
        return part_of(items, self.member, self.size)

    def average(self, values: Any) -> Any:
        """The mean over the ranks that train this trial; every rank calls it.

        Args:
            values: A number, or several by name.
        """
        if self._group is None:
            return values
        self._group.form(self._device)
        return average_of(values, self.size, self.device)

    @property
    def comm(self) -> Any:
        """An mpi4py communicator of the ranks that train this trial; every rank asks for it before its first use.

        Where another rank fails, these raise instead of waiting for it: `barrier`, `bcast`, `gather`, `scatter`, `allgather`,
        `reduce` and `allreduce`, of objects and, with a capital, of buffers. What waits in another operation, which is MPI's
        own, cannot be woken unless MPI raises (ULFM): the ranks that wait are given up then.
        """
        if self._group is None:
            from mpi4py import MPI

            return MPI.COMM_SELF
        return self._group.comm

    def scaled(self, value: float, rule: str = "linear") -> float:
        """A learning rate for a batch that is `size` times as large, as each rank has a batch of its own.

        Args:
            value: For one rank.
            rule: "linear" (Goyal et al., "Accurate, Large Minibatch SGD", 2017), "sqrt" (Krizhevsky, "One weird trick for
                parallelizing convolutional neural networks", 2014), or "none".

        Raises:
            UserError: There is no such rule.
        """
        if rule not in RULES:
            raise UserError(f"trial.scaled: there is no rule {rule!r}; there are {', '.join(RULES)}.{meant(rule, RULES)}")
        return value * RULES[rule](self.size)

    def _rekey(self, step: int) -> None:
        self._key = step
        self._now: dict[str, Any] = {}  # the values in force, as they are asked for
        self._arithmetic.use(self.get(NAME, self._precision))
        seed_everything(self.seed, step, self.member)
        if self._keyed is not None:
            self._keyed.rekey(self.seed, step)
