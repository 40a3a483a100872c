"""Libraries that are used where the user's code has loaded them, and are not loaded for their own sake."""

from __future__ import annotations

import sys
from types import ModuleType


def loaded(name: str) -> ModuleType | None:
    """A module that is loaded; None also while another thread is about to load it, as then it is not whole."""
    module = sys.modules.get(name)
    half = getattr(getattr(module, "__spec__", None), "_initializing", False)  # as importlib itself asks
    return None if half else module
