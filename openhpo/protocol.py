"""What the coordinator and its trainers say to each other.

A trainer is ready; the coordinator has it train a stage; the trainer reports steps, one batch in flight at a time, so that
what piles up meanwhile travels together and a slow coordinator slows the trainers down; the stage ends or fails; the
coordinator has it train the next.
"""

from openhpo.actors import Address, Message
from openhpo.stages import Stage

COORDINATOR = Address(0, "coordinator")
TRAINER = "trainer"  # the name of the trainer on its rank


class Ready(Message):
    """Trainer to coordinator: this rank can train."""

    host: str
    device: str


class Welcome(Message):
    """Coordinator to trainer: heard."""


class Train(Message):
    """Coordinator to trainer: do this."""

    stage: Stage


class Reports(Message):
    """Trainer to coordinator: consecutive steps of a stage.

    `values` holds float64, shape [count, names], in the machine's byte order.
    """

    stage: int
    first: int
    count: int
    names: tuple[str, ...]
    values: bytes


class Accepted(Message):
    """Coordinator to trainer: the last batch of reports of that stage has arrived; go on, or stop."""

    stage: int
    stop: bool


class Ended(Message):
    """Trainer to coordinator: the stage reached its last step, obeyed a stop, or its training returned."""

    stage: int


class Failed(Message):
    """Trainer to coordinator: the stage's training raised."""

    stage: int
    error: str
    traceback: str
