"""How a failure in one actor looks to everybody else."""


class ActorFailed(Exception):
    """An actor raised, here or on another rank, and the run has ended everywhere.

    On the rank where it happened the original exception is the `__cause__`; elsewhere `remote` holds its traceback.
    """

    def __init__(self, rank: int, actor: str, doing: str, remote: str = "") -> None:
        self.rank = rank
        self.actor = actor
        self.remote = remote
        text = f"actor {actor!r} on rank {rank} failed while {doing}"
        super().__init__(f"{text}\n\n{remote}" if remote else text)


class Deserted(Exception):
    """Raised by an actor whose rank has lost those it works for: the rank leaves alone, at once, and tells nobody.

    Its process ends with status `DESERTED`, without the parts of MPI that would wait for the others.
    """


DESERTED = 3  # exit status


class Stuck(Exception):
    """A run outlived its deadline; the text says which actors were still there."""
