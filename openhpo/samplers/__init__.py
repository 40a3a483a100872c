"""Samplers: what to try next. One algorithm a file."""

from openhpo.samplers.base import Sampler, Suggest
from openhpo.samplers.gaussian import GaussianProcess
from openhpo.samplers.grid import Grid
from openhpo.samplers.listed import Listed
from openhpo.samplers.optuna import Optuna
from openhpo.samplers.random import Random
from openhpo.samplers.refinement import Refinement
from openhpo.samplers.sobol import Sobol
from openhpo.samplers.tpe import TPE

__all__ = ["TPE", "GaussianProcess", "Grid", "Listed", "Optuna", "Random", "Refinement", "Sampler", "Sobol", "Suggest"]
