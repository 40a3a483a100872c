"""Intel Gaudi through habana_frameworks. This has not run on the hardware: it is tested against a stand-in."""

from __future__ import annotations

import importlib
import importlib.util
import os

from openhpo.errors import UserError
from openhpo.training.devices.base import Seen, TorchDevice

OWN = "HLS_MODULE_ID"  # the module that a process acquires
VISIBLE = "HABANA_VISIBLE_MODULES"  # those among which the ranks of a node choose, such as "0,1,2,3"


def look() -> Seen | None:
    """The modules of this node that are visible to this process."""
    if importlib.util.find_spec("habana_frameworks") is None:
        return None
    text = os.environ.get(OWN) or os.environ.get(VISIBLE) or ""
    modules = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not all(module.isdigit() for module in modules):
        raise UserError(f"{OWN} and {VISIBLE} list the numbers of Gaudi modules, such as 0,1,2,3, and say {text!r}")
    if not modules:
        hpu = importlib.import_module("habana_frameworks.torch.hpu")
        modules = [str(number) for number in range(hpu.device_count())]
    return Seen("hpu", tuple(f"module {module}" for module in modules)) if modules else None


class Gaudi(TorchDevice):
    """One Gaudi in lazy mode, where operations pile up until a step mark sends them to the device.

    Args:
        number: Among those that this process sees.
        identity: "module " and its number on the node.
        ranks: That train on this node.
    """

    def __init__(self, number: int, identity: str, ranks: int = 1) -> None:
        super().__init__("hpu", identity)
        os.environ[OWN] = identity.removeprefix("module ")  # read when the device is acquired, which is at its first use
        self._core = importlib.import_module("habana_frameworks.torch.core")

    def mark_step(self) -> None:
        self._core.mark_step()
