"""What all devices have in common, and how a rank says which ones it sees."""

from __future__ import annotations

import contextlib
import importlib.util
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from openhpo.training.staging import Copier

_NOTHING = contextlib.nullcontext()


@dataclass(frozen=True)
class Seen:
    """The devices of one kind that a rank sees.

    Attributes:
        kind: A key of `KINDS`.
        identities: One for each device, in torch's order: the same device has the same one in every process of its node.
        certain: Whether two ranks that see the same identity see the same device.
        error: Why there are none.
    """

    kind: str
    identities: tuple[str, ...]
    certain: bool = True
    error: str = ""


class Device(Protocol):
    """One rank's accelerator. Attributes and methods import torch only when they are used.

    Attributes:
        name: As torch spells it: "cpu", "cuda:0", "hpu".
        identity: What tells it from other devices of its node, such as a UUID; empty for the CPU.
        shared: Whether ranks were told to share devices.
        copier: Copies between it and host memory beside the training; None where torch's plain copies do.
    """

    name: str
    identity: str
    shared: bool
    copier: Copier | None

    def autocast(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        """The context in which a forward pass computes in that type of torch, such as "bfloat16"."""

    def tf32(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which products of fp32 matrices may compute in TF32, where that exists."""

    def current(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the device is the calling thread's own, for code that does not name one."""

    def mark_step(self) -> None:
        """Everything that belongs together has been asked of the device."""


class TorchDevice:
    """A device that torch knows by name and that needs nothing special, such as the CPU.

    Args:
        name: As torch spells it.
        identity: As above.
    """

    def __init__(self, name: str, identity: str = "") -> None:
        self.name = name
        self.identity = identity
        self.shared = False
        self.copier: Copier | None = None

    @property
    def kind(self) -> str:
        """As torch names the type of a device."""
        return self.name.partition(":")[0]

    def autocast(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        import torch

        return torch.autocast(self.kind, dtype=getattr(torch, dtype))

    def tf32(self) -> contextlib.AbstractContextManager[Any]:
        return _NOTHING

    def current(self) -> contextlib.AbstractContextManager[Any]:
        return _NOTHING

    def mark_step(self) -> None:
        pass


def torch_is_built_for(*builds: str) -> bool:
    """Whether torch is installed, and built for one of these ("cuda", "hip", "xpu").

    Known without loading it, which takes seconds.
    """
    if "torch" in sys.modules:
        return True  # asking it costs nothing
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        found = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    except OSError:
        return True  # its import will tell
    return any(found.get(build) is not None for build in builds)


def identity_of(properties: Any) -> str:
    """What torch tells of a device that no other one has: its UUID, or else where it is on the PCI bus; else nothing."""
    found = getattr(properties, "uuid", None)
    uuid = found.hex() if isinstance(found, bytes) else str(found or "")
    if uuid.strip("0-"):  # some drivers give only zeros
        return f"GPU-{uuid}"
    if hasattr(properties, "pci_bus_id"):
        place = (getattr(properties, "pci_domain_id", 0), properties.pci_bus_id, getattr(properties, "pci_device_id", 0))
        return "PCI {:04x}:{:02x}:{:02x}".format(*place)
    return ""


def seen_as(kind: str, properties: list[Any], mask: str) -> Seen | None:
    """What a rank sees of devices whose properties torch tells.

    Where these tell no identity, a device is known by its entry in the mask, or by its number. That is certain where a rank
    sees several: one that sees a single device may have got it from the batch system, which gives another one the same number
    in another rank.

    Args:
        kind: A key of `KINDS`.
        properties: Of each device.
        mask: What the environment says is visible, such as "2,3"; empty where it says nothing.
    """
    entries = [entry.strip() for entry in mask.split(",") if entry.strip()]
    found = [identity_of(item) for item in properties]
    if any(entry.startswith("MIG-") for entry in entries):
        found = [""] * len(found)  # slices of one GPU may have its UUID in common
    told = all(found)
    numbers = entries if len(entries) == len(found) else [str(number) for number in range(len(found))]
    whole = told or len(found) > 1 or any(not number.isdigit() for number in numbers)
    identities = found if told else [f"number {number}" if number.isdigit() else number for number in numbers]
    return Seen(kind, tuple(identities), certain=whole) if found else None
