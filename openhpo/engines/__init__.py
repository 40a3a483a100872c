"""Engines: who trains how long. One algorithm a file."""

from openhpo.engines.base import Engine, Request
from openhpo.engines.full import Full

__all__ = ["Engine", "Full", "Request"]
