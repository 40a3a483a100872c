"""Contract suites for interchangeable parts, for this project's own and for anyone's. Needs pytest."""

from openhpo.testing.engines import EngineContract
from openhpo.testing.transports import Play, TransportContract
from openhpo.testing.workers import Played, Workers

__all__ = ["EngineContract", "Play", "Played", "TransportContract", "Workers"]
