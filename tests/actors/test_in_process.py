"""The transport contract, in one process: real time and virtual time."""

import pytest

from openhpo.actors import Simulation, run_actors
from openhpo.testing import TransportContract


@pytest.fixture(params=[1, 2, 5])
def size(request):
    return request.param


class TestLocalTransport(TransportContract):
    @pytest.fixture
    def play(self, size):
        return lambda cast, deadline=30.0: run_actors(cast, ranks=size, deadline=deadline)


class TestSimulatedTransport(TransportContract):
    @pytest.fixture(params=[0, 1, 2], ids=lambda seed: f"seed{seed}")
    def play(self, size, request):
        return lambda cast, deadline=30.0: Simulation(cast, size, seed=request.param).run(until=deadline)
