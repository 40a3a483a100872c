"""Actors on MPI: plain classes on every rank that send each other typed messages.

Knows nothing of hyperparameters, and is useful by itself: subclass `Message` and `Actor`, and call `run_actors`.
"""

from openhpo.actors.actor import Actor, handles
from openhpo.actors.errors import ActorFailed, Deserted, Stuck
from openhpo.actors.messages import Address, Interrupted, Message, Notice, PeerLost, WorkDone, WorkFailed
from openhpo.actors.run import launched_rank, launched_size, run_actors
from openhpo.actors.simulated import Simulation
from openhpo.actors.transport import Transport

__all__ = [
    "Actor",
    "ActorFailed",
    "Address",
    "Deserted",
    "Interrupted",
    "Message",
    "Notice",
    "PeerLost",
    "Simulation",
    "Stuck",
    "Transport",
    "WorkDone",
    "WorkFailed",
    "handles",
    "launched_rank",
    "launched_size",
    "run_actors",
]
