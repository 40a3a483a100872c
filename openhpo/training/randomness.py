"""Random numbers keyed by (seed, step), so that a repeated, merged or resumed step draws the same ones."""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING

import numpy

from openhpo.keyed import key
from openhpo.libraries import loaded

if TYPE_CHECKING:
    from types import ModuleType

SET_UP = 0  # the key of what happens before the first step; steps count from 1


def seed_everything(seed: int, step: int, member: int = 0) -> None:
    """Key the global generators of Python, NumPy and (where it is loaded) torch, for code that draws from them.

    Ranks that train a trial together set it up alike, and draw different numbers from the first step on, so that dropout in
    one part of a batch is not that of another.

    `torch.manual_seed` costs 100 µs a call for what is done here in one.
    """
    number = key(seed, step)
    if member and step != SET_UP:
        number = key(number >> 1, member)
    random.seed(number)
    numpy.random.seed(number & 0xFFFFFFFF)
    torch = loaded("torch")
    if torch is not None:
        _seed_torch(torch, number)


def _seed_torch(torch: ModuleType, number: int) -> None:
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    for kind in _others(torch):
        if kind == "mps":
            torch.mps.manual_seed(number)
        elif kind == "xpu" and torch.xpu.is_initialized():
            torch.xpu.manual_seed_all(number)
    gaudi = loaded("habana_frameworks.torch.hpu.random")
    if gaudi is not None:
        gaudi.manual_seed_all(number)


@cache
def _others(torch: ModuleType) -> tuple[str, ...]:
    """Kinds of accelerators besides CUDA that this torch is built for, asked once as it is done at each step."""
    kinds = {"xpu": getattr(torch.version, "xpu", None) is not None, "mps": torch.backends.mps.is_available()}
    return tuple(kind for kind, there in kinds.items() if there)
