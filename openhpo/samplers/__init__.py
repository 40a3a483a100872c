"""Samplers: what to try next. One algorithm a file."""

from openhpo.samplers.base import Sampler, Suggest
from openhpo.samplers.grid import Grid
from openhpo.samplers.random import Random
from openhpo.samplers.sobol import Sobol
from openhpo.samplers.tpe import TPE

__all__ = ["TPE", "Grid", "Random", "Sampler", "Sobol", "Suggest"]
