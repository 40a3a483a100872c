"""What the coordinator and its trainers say to each other.

A trainer is ready; the coordinator has it train a stage; the trainer reports steps, one batch in flight at a time, so that
what piles up meanwhile travels together and a slow coordinator slows the trainers down; the stage ends or fails; the
coordinator has it train the next.

A state is named by the stage in whose training it was made, and its step. It stays where it was made; a trainer that is told
to go on from one that it does not have fetches it from a trainer that does, or from a checkpoint, or says that it is missing
and gives the stage back.

A stage that several ranks train is the first one's to answer for, the leader's: it hands the state to the others, tells them
after each step whether to go on, and reports alone. Whoever of them fails tells the leader.

Both sides tell each other that they live. A trainer that is silent for too long is given up: what it still says is refused,
and it is told so, and may join anew with nothing in its hands.
"""

from typing import Any

from openhpo.actors import Address, Message
from openhpo.resources import Profile
from openhpo.stages import Stage, StateName

COORDINATOR = Address(0, "coordinator")
TRAINER = "trainer"  # the name of the trainer on its rank
BEATS = 5  # times a lease that both sides say that they live


class Ready(Message):
    """Trainer to coordinator: this rank can train, and holds nothing.

    `device` is its name for torch, and `identity` what tells it from the others of its node. `shared` says that ranks were told
    to share devices.
    """

    host: str
    device: str
    process: int
    identity: str = ""
    shared: bool = False


class Welcome(Message):
    """Coordinator to trainer: heard. Both sides are to be heard of once in `lease` seconds at least."""

    lease: float


class Alive(Message):
    """Either way: still here."""


class Expelled(Message):
    """Coordinator to trainer: you were silent for too long, and your work is done elsewhere."""


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
    """Coordinator to trainer: the reports of that stage up to that step are in the study file; go on, or stop."""

    stage: int
    step: int
    stop: bool


class Ended(Message):
    """Trainer to coordinator: the stage reached its last step, obeyed a stop, or its training returned.

    `kept` says whether the state at its end is here, `profile` what it took.
    """

    stage: int
    kept: bool
    profile: Profile = Profile()

    @property
    def told(self) -> dict[str, Any]:
        """What the study file says of it."""
        return {"kept": self.kept, **self.profile._asdict()}


class Failed(Message):
    """Trainer to coordinator: the stage's training raised, ran out of memory, or took too long over a step."""

    stage: int
    error: str
    traceback: str
    memory: bool = False  # whether it ran out of it


class Returned(Message):
    """Trainer to coordinator: the stage has ended after the last step reported, because the run is being suspended."""

    stage: int


class Suspend(Message):
    """Coordinator to trainer: stop at the next step, and write to checkpoints whatever state may be needed."""


class Suspended(Message):
    """Trainer to coordinator: done."""


class AskSuspend(Message):
    """Trainer to coordinator: somebody wants the run to stop in order, such as a batch system by a signal to this rank."""

    why: str


class Unfit(Message):
    """Trainer to coordinator: this rank cannot train any more."""

    why: str


class Kill(Message):
    """Coordinator to trainer: end that process of your host, which does not answer, as MPI would wait for it at the end."""

    process: int


class Gone(Message):
    """Coordinator to trainer: that rank is lost; do not wait for a state from it."""

    rank: int


class Drop(Message):
    """Coordinator to trainer: nobody needs these states any more."""

    states: tuple[StateName, ...]


class Fetch(Message):
    """Trainer to trainer: send me that state."""

    state: StateName


class Given(Message):
    """Trainer to trainer: the state's header, and the seconds trained since its last checkpoint; its data comes beside it."""

    state: StateName
    header: bytes
    exposed: float


class Absent(Message):
    """Trainer to trainer: that state is not here any more, but perhaps has just moved to its checkpoint."""

    state: StateName
    saved: bool


class Follow(Message):
    """Leader to follower: train this stage with me; the state that it goes on from comes beside it.

    `header` is that state's, empty for a new model. Both know the group by `group`: the same number is the same group, as it
    was left.
    """

    group: int
    stage: Stage
    header: bytes = b""


class Onward(Message):
    """Leader to follower: with what is alive there, go on with this stage."""

    group: int
    stage: Stage


class Next(Message):
    """Leader to follower: that step is reported, go on to the next one."""

    group: int
    step: int


class Leave(Message):
    """Leader to follower: the training is over; `abrupt` where it is left in the midst of a step."""

    group: int
    abrupt: bool


class Meet(Message):
    """Leader to follower: what the leader's training has to tell the others', so that they find each other."""

    group: int
    text: str


class Broken(Message):
    """Follower to leader: I train with you no more; `error` says why where the training is at fault."""

    group: int
    error: str = ""
    traceback: str = ""
    memory: bool = False


class Took(Message):
    """Follower to leader: bytes of memory that this rank has taken at the most in that stage, of how many; 0 where not known.

    Nothing comes after the `last`.
    """

    group: int
    stage: int
    peak: int
    memory: int
    last: bool


class Missing(Message):
    """Trainer to coordinator: the stage cannot begin, as its parent's state is not on that rank, or (-1) not in its file."""

    stage: int
    state: StateName
    rank: int


class Saved(Message):
    """Trainer to coordinator: that state is in its checkpoint file, and, where it `moved`, no more in this rank's memory."""

    state: StateName
    moved: bool


class Trouble(Message):
    """Trainer to coordinator: something for the user to know; training goes on."""

    text: str
