"""The object that a training function gets."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from openhpo.errors import meant
from openhpo.stages import Stage
from openhpo.training.devices import Device
from openhpo.training.metrics import numbers
from openhpo.training.randomness import SET_UP, KeyedGenerator, seed_everything

if TYPE_CHECKING:
    import numpy


class TrialStopped(BaseException):
    """No further step will run: raised by `Trial.report`, and caught by openhpo around the training function.

    A BaseException, as a stop is no error and must pass through `except Exception` in the training code.
    """


class Port(Protocol):
    """Where reports go: the trainer, or a list in a test."""

    def put(self, step: int, metrics: dict[str, float]) -> bool:
        """Take one step's metrics, wait until the next step may run, and return whether it should."""


class Trial:
    """One configuration in training, as the training function sees it.

    `trial["lr"]` is a hyperparameter's value in force; `trial.get(name, default)` is for those that may be inactive.

    Attributes:
        config: All active hyperparameters.
        seed: What the random numbers are keyed by; the same for every trial of a study, so that equal configurations are
            equal computations.
        number: The trial's number in the study.
        step: The step being trained, from 1.
    """

    def __init__(self, stage: Stage, device: Device, port: Port, precision: str = "fp32") -> None:
        self.config: Mapping[str, Any] = dict(stage.config)
        self.seed = stage.seed
        self.number = stage.trial
        self.step = stage.start + 1
        self.tracked: dict[str, Any] = {}
        self._stop = stage.stop
        self._device = device
        self._port = port
        self._precision = precision
        self._keyed: KeyedGenerator | None = None
        self._rekey(SET_UP)

    def __getitem__(self, name: str) -> Any:
        try:
            return self.config[name]
        except KeyError:
            there = ", ".join(self.config)
            raise KeyError(
                f"{name!r} is no active hyperparameter of this trial, which has {there}.{meant(name, self.config)}"
            ) from None

    def get(self, name: str, default: Any = None) -> Any:
        """A hyperparameter's value, or `default` where it is inactive."""
        return self.config.get(name, default)

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
        """This rank's `torch.device`."""
        import torch

        return torch.device(self._device.name)

    def track(self, **objects: Any) -> None:
        """Name the objects that make up the training's state, each with `state_dict` and `load_state_dict`.

        Call it when all is set up: from here on the random numbers are those of the first step.

        Raises:
            TypeError: An object lacks these methods.
        """
        for name, item in objects.items():
            if not (hasattr(item, "state_dict") and hasattr(item, "load_state_dict")):
                raise TypeError(f"track({name}=…): a {type(item).__name__} has no state_dict() and load_state_dict()")
        self.tracked.update(objects)
        self._rekey(self.step)

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Hand over the metrics of this step; return when the next one may run.

        A generator yields them instead, which comes to the same.

        Args:
            metrics: Numbers by name; NumPy scalars and tensors of one element are taken too.

        Raises:
            TrialStopped: No further step will run. Let it pass.
            UserError: A metric is no number.
        """
        go_on = self._port.put(self.step, numbers(metrics))
        if not go_on or self.step >= self._stop:
            raise TrialStopped
        self.step += 1
        self._rekey(self.step)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context for a forward pass in the study's precision; does nothing in fp32."""
        return self._device.autocast(self._precision)

    def backward(self, loss: Any, optimizer: Any) -> None:
        """Zero the gradients, compute them from `loss`, and take one step of `optimizer`, as the device needs it."""
        self._device.backward(loss, optimizer)

    def _rekey(self, step: int) -> None:
        self._key = step
        seed_everything(self.seed, step)
        if self._keyed is not None:
            self._keyed.rekey(self.seed, step)
