"""Engines: who trains how long, and from whose state. One algorithm a file."""

from openhpo.engines.asha import ASHA
from openhpo.engines.base import Engine, Request
from openhpo.engines.full import Full
from openhpo.engines.halving import SuccessiveHalving
from openhpo.engines.hyperband import Hyperband
from openhpo.engines.matching import LearningCurveMatching
from openhpo.engines.median import MedianStopping
from openhpo.engines.population import PopulationBased

__all__ = [
    "ASHA",
    "Engine",
    "Full",
    "Hyperband",
    "LearningCurveMatching",
    "MedianStopping",
    "PopulationBased",
    "Request",
    "SuccessiveHalving",
]
