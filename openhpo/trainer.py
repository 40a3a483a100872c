"""The actor that trains: one a rank."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import traceback
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from openhpo.actors import Actor, ActorFailed, Address, Notice, WorkDone, WorkFailed, handles
from openhpo.course import Course
from openhpo.errors import UserError
from openhpo.outbox import GATHER
from openhpo.protocol import (
    COORDINATOR,
    TRAINER,
    Absent,
    Accepted,
    Drop,
    Ended,
    Failed,
    Fetch,
    Given,
    Missing,
    Ready,
    Reports,
    Saved,
    Train,
    Trouble,
    Welcome,
)
from openhpo.session import Lowered, Rested, Session, StepsReady
from openhpo.space import Space
from openhpo.stages import Stage
from openhpo.store import StateStore
from openhpo.training import Trial
from openhpo.training.devices import Device
from openhpo.training.runner import train_stage
from openhpo.training.states import Snapshot
from openhpo.training.trial import UNTRACKED

PATIENCE = 300.0  # seconds to hear from the coordinator, whose rank may still be importing


class Alone(Notice, frozen=True):
    """The coordinator should have answered by now."""


class Trainer(Actor):
    """Trains what the coordinator hands out, in a worker thread, passes its reports on, and keeps states for others.

    Args:
        train: The user's training function.
        space: What may be tried: it turns configurations into schedules.
        device: This rank's device.
        precision: The study's arithmetic.
        folder: The study's, for checkpoints.
        budget: Bytes of host memory for states.
        forks: Whether models move between trials.
    """

    def __init__(
        self,
        train: Callable[[Trial], Any],
        space: Space,
        device: Device,
        precision: str,
        folder: Path,
        budget: int,
        *,
        forks: bool = False,
    ) -> None:
        self._train = train
        self._space = space
        self._device = device
        self._precision = precision
        self._folder = folder
        self._forks = forks
        self._store = StateStore(budget)
        self._session: Session | None = None
        self._stage: Stage | None = None  # that is being trained
        self._next: Stage | None = None  # that is to begin, once the thread or its state is there
        self._written: set[int] = set()  # states with a checkpoint of this rank's
        self._over = threading.Event()
        self._tickets: dict[int, tuple[str, int]] = {}  # what worker threads do, and for which state
        self._askers: dict[int, list[Address]] = {}  # who waits for a state that is being copied
        self._sent = 0  # steps of the stage that have left
        self._waiting = False  # for the coordinator to accept a batch
        self._due = False  # a batch should have left while another was in flight

    def on_start(self) -> None:
        self.send(COORDINATOR, Ready(socket.gethostname(), self._device.name))
        self._alone = self.after(PATIENCE, Alone())

    def on_stop(self) -> None:
        if self.failure is None:  # the study is over: nobody will read them
            self._over.set()
            for state in self._written:
                _remove(self._folder, state)
        if self._session is not None:
            self._session.wanted = False
            self._session.leave()

    @handles(Welcome)
    def on_welcome(self, message: Welcome, sender: Address) -> None:
        self._alone.cancel()

    @handles(Alone)
    def on_alone(self, message: Alone, sender: Address) -> None:
        raise TimeoutError(f"rank {COORDINATOR.rank} has not started a coordinator within {PATIENCE:.0f} s")

    # ---- beginning a stage

    @handles(Train)
    def on_train(self, message: Train, sender: Address) -> None:
        self._next = message.stage
        self._go_on()

    def _course(self, stage: Stage) -> Course:
        return self._space.course(stage.config, stage.seed)

    def _go_on(self) -> None:
        """Begin the next stage, or do the next thing that it takes."""
        stage, session = self._next, self._session
        if stage is None:
            return
        if session is not None:
            course = self._course(stage)
            if session.fits(stage, course):
                if not stage.keep and stage.parent is not None:
                    self._store.drop(stage.parent)
                session.go_on(stage, course)
                self._begun(stage)
            else:
                session.leave()  # its end calls this again
        elif stage.parent is None:
            self._start(stage, None)
        elif stage.parent in self._store:
            snapshot = self._store.use(stage.parent) if stage.keep else self._store.take(stage.parent)
            self._start(stage, snapshot, owned=not stage.keep)
        elif stage.source is not None and stage.source != self.rank:
            self.send(Address(stage.source, TRAINER), Fetch(stage.parent))
        elif stage.file or stage.parent in self._written:
            self._read(stage.parent)
        else:
            self._give_back(self.rank)

    def _read(self, state: int) -> None:
        self._tickets[self.work(_read, self._folder, state)] = ("read", state)

    def _give_back(self, rank: int) -> None:
        stage, self._next = self._next, None
        assert stage is not None
        assert stage.parent is not None
        self.send(COORDINATOR, Missing(stage.id, stage.parent, rank))

    def _start(self, stage: Stage, snapshot: Snapshot | None, *, owned: bool = False) -> None:
        if snapshot is not None and self._forks and snapshot.header == UNTRACKED:
            raise UserError(
                "population based training moves models between trials, but train never calls trial.track: name what makes "
                "the model, as in trial.track(model=model, optimizer=optimizer), or call trial.track() if there is none"
            )
        session = self._session = Session(stage, self._course(stage), self.post, self._store.spare)
        self._tickets[self.work(self._run, session, stage, snapshot, owned)] = ("train", stage.id)
        self._begun(stage)

    def _begun(self, stage: Stage) -> None:
        self._next, self._stage = None, stage
        self._sent = stage.start
        self._waiting = self._due = False
        self.relaxed = True  # until the training ends, nothing that arrives is urgent

    def _run(self, session: Session, stage: Stage, snapshot: Snapshot | None, owned: bool) -> None:
        trial = Trial(stage, self._device, session, self._precision, course=session.course, state=snapshot, owned=owned)
        del snapshot
        train_stage(self._train, trial)

    # ---- reports

    @handles(StepsReady)
    def on_steps(self, message: StepsReady, sender: Address) -> None:
        if self._waiting:
            self._due = True
        elif self._stage is not None:
            self._pass_on(self._stage)

    @handles(Accepted)
    def on_accepted(self, message: Accepted, sender: Address) -> None:
        if self._stage is None or self._session is None or message.stage != self._stage.id:
            return  # of a stage that has ended here meanwhile
        self._waiting = False
        if message.stop:
            self._session.outbox.stop()
        self._session.outbox.accept(message.step)
        if self._due:
            self._pass_on(self._stage)

    def _pass_on(self, stage: Stage) -> None:
        """Send what the training thread has left, consecutive steps with the same metrics together."""
        assert self._session is not None
        self._due = False
        rows = self._session.outbox.take()
        if rows:
            self.after(GATHER, StepsReady())  # nobody wakes this actor for what comes before
        while rows:
            names = tuple(rows[0])
            count = next((at for at, row in enumerate(rows) if tuple(row) != names), len(rows))
            values = array("d")
            for row in rows[:count]:
                values.extend(row.values())
            self.send(COORDINATOR, Reports(stage.id, self._sent + 1, count, names, values.tobytes()))
            self._sent += count
            self._waiting = True
            rows = rows[count:]

    # ---- the end of a stage

    @handles(Rested)
    def on_rested(self, message: Rested, sender: Address) -> None:
        assert self._session is not None
        assert self._stage is not None
        self._session.rests()
        self._end(self._stage, kept=True)

    def _end(self, stage: Stage, *, kept: bool) -> None:
        self._pass_on(stage)
        self.send(COORDINATOR, Ended(stage.id, kept))
        self._stage, self.relaxed = None, False

    @handles(WorkDone)
    def on_done(self, message: WorkDone, sender: Address) -> None:
        what, state = self._tickets.pop(message.ticket)
        if what == "train":
            if self._stage is not None:
                self._end(self._stage, kept=False)
            self._session = None
            self._go_on()
        elif what == "read":
            self._has_come(state, message.result)
        else:
            self._store.take(state)
            self.send(COORDINATOR, Saved(state))

    @handles(WorkFailed)
    def on_failed(self, message: WorkFailed, sender: Address) -> None:
        what, state = self._tickets.pop(message.ticket)
        error = message.error
        if isinstance(error, UserError | ActorFailed):
            raise error
        if what == "train":
            self._training_failed(error)
        elif what == "read":
            self.send(COORDINATOR, Trouble(f"{error}; its steps are trained again"))
            self._give_back(-1)
        elif isinstance(error, OSError):
            self._store.keep(state)
            self.send(
                COORDINATOR,
                Trouble(f"rank {self.rank} could not write a checkpoint: {error.strerror or error}; its state stays in memory"),
            )
        else:
            raise error

    def _training_failed(self, error: BaseException) -> None:
        told = f"{type(error).__name__}: {error}".strip()
        if self._stage is None:  # it rested, or was cleaning up
            print(f"rank {self.rank}: training failed when it was left: {told}", file=sys.stderr, flush=True)
        else:
            self._pass_on(self._stage)
            text = "".join(traceback.format_exception(error))
            self.send(COORDINATOR, Failed(self._stage.id, told.splitlines()[0], text))
            print(f"trial {self._stage.trial} failed on rank {self.rank}: {told}", file=sys.stderr, flush=True)
        for state, askers in self._askers.items():  # the copy that they wait for will not come
            for asker in askers:
                self.send(asker, Absent(state, saved=False))
        self._askers.clear()
        self._stage, self._session, self.relaxed = None, None, False
        self._go_on()

    # ---- states for others

    @handles(Lowered)
    def on_lowered(self, message: Lowered, sender: Address) -> None:
        self._store.add(message.state, message.snapshot)
        if self._session is not None:
            self._session.promised.discard(message.state)
        for asker in self._askers.pop(message.state, []):
            self._give(message.state, asker)
        for state, snapshot in self._store.to_spill():
            self._written.add(state)
            self._tickets[self.work(_write, self._folder, state, snapshot, self._over)] = ("write", state)

    @handles(Fetch)
    def on_fetch(self, message: Fetch, sender: Address) -> None:
        session, state = self._session, message.state
        if state in self._store:
            self._give(state, sender)
        elif session is not None and (
            state in session.promised or (session.state == state and session.wanted and session.copy())
        ):
            self._askers.setdefault(state, []).append(sender)
        else:  # it never was, was let go, or has been copied and is in its file by now
            self.send(sender, Absent(state, state in self._written))

    def _give(self, state: int, asker: Address) -> None:
        snapshot = self._store.use(state, lend=True)
        if snapshot is None:
            self.send(asker, Absent(state, saved=False))
        elif snapshot.data.size:
            self.send(asker, Given(state, snapshot.header), [snapshot.data])
        else:
            self.send(asker, Given(state, snapshot.header))

    @handles(Given)
    def on_given(self, message: Given, sender: Address, buffers: list[NDArray[numpy.uint8]]) -> None:
        data = buffers[0] if buffers else numpy.empty(0, numpy.uint8)
        self._has_come(message.state, Snapshot(message.header, data))

    @handles(Absent)
    def on_absent(self, message: Absent, sender: Address) -> None:
        if self._next is None or self._next.parent != message.state:
            return
        if message.saved:
            self._read(message.state)
        else:
            self._give_back(sender.rank)

    def _has_come(self, state: int, snapshot: Snapshot) -> None:
        if self._next is not None and self._next.parent == state:
            self._start(self._next, snapshot, owned=True)

    @handles(Drop)
    def on_drop(self, message: Drop, sender: Address) -> None:
        for state in message.states:
            self._store.drop(state)
            if self._session is not None and self._session.state == state:
                self._session.wanted = False


def _read(folder: Path, state: int) -> Snapshot:
    from openhpo.storage import checkpoints

    return Snapshot(*checkpoints.read(folder / checkpoints.name_of(state)))


def _write(folder: Path, state: int, snapshot: Snapshot, over: threading.Event) -> None:
    from openhpo.storage import checkpoints

    tensors = [(leaf.path, leaf.dtype, leaf.shape, leaf.at, leaf.size) for leaf in snapshot.leaves()]
    checkpoints.write(folder / checkpoints.name_of(state), snapshot.header, snapshot.data, tensors)
    if over.is_set():
        _remove(folder, state)


def _remove(folder: Path, state: int) -> None:
    """Remove a checkpoint, and the folder of checkpoints with the last one."""
    from openhpo.storage import checkpoints

    path = folder / checkpoints.name_of(state)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
