"""The transport contract over MPI: test_on_mpi.py runs this file under mpiexec, with pytest on every rank."""

import pytest
from mpi4py import MPI

from openhpo.actors import run_actors
from openhpo.actors.mpi import MpiTransport
from openhpo.testing import TransportContract


class TestMpiTransport(TransportContract):
    @pytest.fixture
    def size(self):
        return MPI.COMM_WORLD.size

    @pytest.fixture(params=[True, False], ids=["matched", "iprobe"])
    def play(self, request):
        transport = MpiTransport(matched_probe=request.param)
        return lambda cast, deadline=30.0: run_actors(cast, transport=transport, deadline=deadline)
