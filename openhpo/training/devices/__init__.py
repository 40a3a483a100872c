"""Where training runs: one accelerator a rank, unless ranks are told to share.

A new kind of accelerator is one small module here: what a rank sees of it (`look`), and a device of it. Deciding who takes
which is the same for all kinds. Only CPUs have been trained on so far: Gaudi is tested against a stand-in module that records
calls, the others with torch's answers replaced.
"""

from openhpo.training.devices.base import Device, Seen, TorchDevice
from openhpo.training.devices.choosing import KINDS, deal, look, take, warning

__all__ = ["KINDS", "Device", "Seen", "TorchDevice", "deal", "look", "take", "warning"]
