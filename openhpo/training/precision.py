"""The arithmetic of a training: which floating-point type, and what an update takes in it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from openhpo.errors import UserError, meant
from openhpo.hyperparameters import Categorical
from openhpo.libraries import loaded
from openhpo.training.devices import Device

if TYPE_CHECKING:
    from openhpo.space import Space

NAME = "precision"  # of the option, and of a hyperparameter that takes precedence over it
AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}  # to the types as torch names them
PRECISIONS = ("fp32", "tf32", *AUTOCAST)
NEEDS_TORCH = "torch is not installed: pip install 'openhpo[apps]'"

_NOTHING = contextlib.nullcontext()


def check_precision(value: Any, what: str = "") -> str:
    """A precision by its name.

    Args:
        value: The name.
        what: Who says so, for the error.

    Raises:
        UserError: There is none of that name, or it needs torch, which is not installed.
    """
    if not isinstance(value, str) or value not in PRECISIONS:
        hint = meant(value, PRECISIONS) if isinstance(value, str) else ""
        raise UserError(f"{what}there is no precision {value!r}: choose {', '.join(PRECISIONS)}.{hint}")
    if value != "fp32" and not has_torch():
        raise UserError(f"{what}the precision {value} needs torch. {NEEDS_TORCH}")
    return value


def check_state_dtype(value: Any) -> str | None:
    """The type, as torch names it, in which the fp32 tensors of states are stored; None for their own.

    Raises:
        UserError: There is none of that name.
    """
    if value is not None and value not in AUTOCAST:
        raise UserError(f"states cannot be stored in {value!r}: choose {' or '.join(AUTOCAST)}, or leave it away for fp32")
    return None if value is None else AUTOCAST[value]


def check_space(space: Space) -> None:
    """Raise UserError where a hyperparameter named precision may have another value than a precision."""
    item = space.hyperparameters.get(NAME)
    if NAME in space.fixed:
        check_chosen(space.fixed[NAME])
    elif isinstance(item, Categorical):
        for choice in item.choices:
            check_chosen(choice)
    elif item is not None:
        raise UserError(
            f"the hyperparameter {NAME!r} is the arithmetic to train in: make it a Categorical of some of "
            f"{', '.join(PRECISIONS)}, or call it something else"
        )


def check_chosen(value: Any) -> None:
    """The same of a hyperparameter's value."""
    check_precision(value, f"the hyperparameter {NAME!r} is the arithmetic to train in, but ")


def has_torch() -> bool:
    """Whether torch is installed; known without loading it."""
    return loaded("torch") is not None or importlib.util.find_spec("torch") is not None


class Arithmetic:
    """How one trial computes. Entered, its settings are in force, and its device is the calling thread's.

    Attributes:
        name: The precision, one of `PRECISIONS`.
        skipped: Updates that were left out because a gradient was not finite, since the step began; only in fp16.

    Args:
        device: Where it computes.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.name = "fp32"
        self.skipped = 0
        self._scaler: Any = None
        self._scale = 0.0  # the scaler's, before the update that comes
        self._stack: contextlib.ExitStack | None = None  # while it is entered
        self._settings = contextlib.ExitStack()  # of torch, as they were before

    def __enter__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._device.current())
        self._apply()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._settings.close()
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def use(self, name: str) -> None:
        """Compute in that precision from now on.

        Raises:
            UserError: There is none of that name.
        """
        if name == self.name:
            return
        check_chosen(name)
        self.name = name
        self._scaler = None
        if self._stack is not None:
            self._apply()

    def _apply(self) -> None:
        self._settings.close()
        if self.name == "tf32":
            self._settings.enter_context(self._device.tf32())

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context for a forward pass."""
        dtype = AUTOCAST.get(self.name)
        return _NOTHING if dtype is None else self._device.autocast(dtype)

    def backward(self, loss: Any, optimizer: Any, clip_norm: float | None = None) -> None:
        """Zero the gradients, compute them, and take one step of the optimizer.

        Raises:
            UserError: torch is not installed.
        """
        if loaded("torch") is None and not has_torch():
            raise UserError(f"trial.backward is for models in torch. {NEEDS_TORCH}")
        optimizer.zero_grad(set_to_none=True)
        if self.name == "fp16":
            self._update_scaled(loss, optimizer, clip_norm)
        else:
            loss.backward()
            self._device.mark_step()
            _clip(optimizer, clip_norm)
            optimizer.step()
        self._device.mark_step()

    def _update_scaled(self, loss: Any, optimizer: Any, clip_norm: float | None) -> None:
        """One update with the loss scaled up, so that small gradients are not lost in fp16."""
        scaler = self.scaler
        scaler.scale(loss).backward()
        self._device.mark_step()
        scaler.unscale_(optimizer)
        _clip(optimizer, clip_norm)
        scaler.step(optimizer)
        scale = self._scale or scaler.get_scale()
        scaler.update()
        self._scale = scaler.get_scale()
        self.skipped += self._scale < scale  # which it lowers after gradients that are not finite, and never else

    @property
    def scaler(self) -> Any:
        """The gradient scaler of fp16, whose state belongs to the trial's."""
        if self._scaler is None:
            import torch

            self._scaler = torch.amp.GradScaler(self._device.name.partition(":")[0])
            self._scale = 0.0
        return self._scaler

    def load_scaler(self, state: Mapping[str, Any]) -> None:
        """Go on with the gradient scaler's state."""
        self.scaler.load_state_dict(dict(state))
        self._scale = 0.0

    def take_skipped(self) -> int:
        """The number of updates that were skipped since this was last asked."""
        skipped, self.skipped = self.skipped, 0
        return skipped


def _clip(optimizer: Any, norm: float | None) -> None:
    """Shorten all of an optimizer's gradients together to that norm."""
    if norm is not None:
        import torch

        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, norm)
