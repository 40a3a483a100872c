"""What the coordinator and its trainers say to each other.

A trainer is ready; the coordinator has it train a stage; the trainer reports steps, one batch in flight at a time, so that
what piles up meanwhile travels together and a slow coordinator slows the trainers down; the stage ends or fails; the
coordinator has it train the next.

A state is named by the stage that ended in it. It stays where it was made; a trainer that is told to go on from one that it
does not have fetches it from a trainer that does, or from a checkpoint, or says that it is missing and gives the stage back.
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
    """Coordinator to trainer: the reports of that stage up to that step have arrived; go on, or stop."""

    stage: int
    step: int
    stop: bool


class Ended(Message):
    """Trainer to coordinator: the stage reached its last step, obeyed a stop, or its training returned.

    `kept` says whether the state at its end is here.
    """

    stage: int
    kept: bool


class Failed(Message):
    """Trainer to coordinator: the stage's training raised."""

    stage: int
    error: str
    traceback: str


class Drop(Message):
    """Coordinator to trainer: nobody needs these states any more."""

    states: tuple[int, ...]


class Fetch(Message):
    """Trainer to trainer: send me that state."""

    state: int


class Given(Message):
    """Trainer to trainer: the state's header; its data comes beside it."""

    state: int
    header: bytes


class Absent(Message):
    """Trainer to trainer: that state is not here any more, but perhaps has just moved to its checkpoint."""

    state: int
    saved: bool


class Missing(Message):
    """Trainer to coordinator: the stage cannot begin, as its parent's state is not on that rank, or (-1) not in its file."""

    stage: int
    state: int
    rank: int


class Saved(Message):
    """Trainer to coordinator: that state has moved from this rank's memory to its checkpoint file."""

    state: int


class Trouble(Message):
    """Trainer to coordinator: something for the user to know; training goes on."""

    text: str
