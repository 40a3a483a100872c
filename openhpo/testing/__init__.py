"""Contract suites for interchangeable parts, for this project's own and for anyone's. Needs pytest."""

from openhpo.testing.transports import Play, TransportContract

__all__ = ["Play", "TransportContract"]
