"""The actor that trains: one a rank."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from openhpo.actors import ActorFailed, Address, Deserted, Interrupted, Notice, PeerLost, WorkDone, WorkFailed, handles
from openhpo.errors import UserError
from openhpo.limits import Limits
from openhpo.member import ABANDONED, GroupFailed, Member, run_in_group
from openhpo.outbox import GATHER
from openhpo.protocol import (
    BEATS,
    COORDINATOR,
    TRAINER,
    Absent,
    Accepted,
    Alive,
    AskSuspend,
    Broken,
    Drop,
    Ended,
    Expelled,
    Failed,
    Fetch,
    Given,
    Gone,
    Kill,
    Missing,
    Onward,
    Ready,
    Reports,
    Returned,
    Saved,
    Suspend,
    Suspended,
    Took,
    Train,
    Trouble,
    Unfit,
    Welcome,
)
from openhpo.resources import Profile
from openhpo.session import Gathering, Lowered, Rested, Session, StepsReady
from openhpo.space import Space
from openhpo.stages import Stage, StateName
from openhpo.store import StateStore
from openhpo.telling import say
from openhpo.training import Trial
from openhpo.training.devices import Device
from openhpo.training.group import Group, is_of_group
from openhpo.training.memory import describe, measured, out_of_memory, release_memory, start_measuring
from openhpo.training.states import Snapshot
from openhpo.training.trial import UNTRACKED, TrialStopped

PATIENCE = 300.0  # seconds to hear from the coordinator, whose rank may still be importing
LOST = 1.5  # leases without a word after which the coordinator is taken for lost; more than one, so that it decides first
REASON = 5.0  # seconds to hear why another rank has left the training of a group
TICK = 1.0  # seconds at most between two looks at what takes too long


class Tick(Notice, frozen=True):
    """Time to look what takes too long."""


class Stuck(Notice, frozen=True):
    """A training that took too long should have ended by now."""

    session: Session


class Reason(Notice, frozen=True):
    """Whoever made the training of a group fail should have said so by now."""

    session: Session


class Trainer(Member):
    """Trains what the coordinator hands out, in a worker thread, passes its reports on, and keeps states for others.

    Args:
        train: The user's training function.
        spaces: What may be tried, by the name of the study: it turns configurations into schedules.
        device: This rank's device.
        precision: The study's arithmetic.
        folder: The study's, for checkpoints.
        budget: Bytes of host memory for states.
        forks: Whether models move between trials.
        limits: How long a step may take, and how much training may be lost.
        state_dtype: The type in which tensors of fp32 are kept in states; None for their own.
    """

    def __init__(
        self,
        train: Callable[[Trial], Any],
        spaces: Mapping[str, Space],
        device: Device,
        precision: str,
        folder: Path,
        budget: int,
        *,
        forks: bool = False,
        limits: Limits | None = None,
        state_dtype: str | None = None,
    ) -> None:
        super().__init__(train, spaces, device, precision, state_dtype)
        self._folder = folder
        self._forks = forks
        self._limits = Limits() if limits is None else limits
        self._store = StateStore(budget)
        self._session: Session | None = None
        self._stage: Stage | None = None  # that is being trained
        self._next: Stage | None = None  # that is to begin, once the thread or its state is there
        self._fetching: int | None = None  # the rank that its state is to come from
        self._written: set[StateName] = set()  # states with a checkpoint of this rank's
        self._over = threading.Event()
        self._tickets: dict[int, tuple[str, StateName]] = {}  # what worker threads do, and for which state
        self._askers: dict[StateName, list[Address]] = {}  # who waits for a state that is being copied
        self._exposure: dict[StateName, float] = {}  # seconds trained since the last checkpoint, of states made here
        self._exposed = 0.0  # the same, of what is being trained, at `_since`
        self._since = 0.0
        self._copying = False  # a copy between two steps is asked for
        self._sent = 0  # steps of the stage that have left
        self._waiting = False  # for the coordinator to accept a batch
        self._due = False  # a batch should have left while another was in flight
        self._suspending = False
        self._begun_at = 0.0
        self._blamed: Broken | None = None  # which follower made the training fail
        self._torn: BaseException | None = None  # with what the training failed, for a reason that another rank knows
        self._returning: Stage | None = None  # that was interrupted, and is given back when its state is written
        self._lease = PATIENCE
        self._heard = self._said = self._ticked = 0.0  # when the coordinator last spoke, this actor did, and looked

    def on_start(self) -> None:
        self._heard = self._said = self._ticked = self.now()
        self._join()
        self._next_tick()

    def _join(self) -> None:
        device = self._device
        self.send(COORDINATOR, Ready(socket.gethostname(), device.name, os.getpid(), device.identity, device.shared))

    def on_stop(self) -> None:
        if self.failure is None and not self._suspending:  # the study is over: nobody will read them
            self._over.set()
            for state in self._written:
                _remove(self._folder, state)
        if self._session is not None:
            self._session.wanted = False
            self._session.leave()
        if self._following is not None:
            self._leave(self._following, abrupt=True)

    # ---- who is there

    @handles(Welcome)
    def on_welcome(self, message: Welcome, sender: Address) -> None:
        self._lease = message.lease
        self._heard = self.now()

    @handles(Alive)
    def on_alive(self, message: Alive, sender: Address) -> None:
        self._heard = self.now()

    @handles(Interrupted)
    def on_interrupted(self, message: Interrupted, sender: Address) -> None:
        name = signal.Signals(message.signal).name
        self.send(COORDINATOR, AskSuspend(f"rank {self.rank} was asked to stop by {name}"))

    @handles(PeerLost)
    def on_peer_lost(self, message: PeerLost, sender: Address) -> None:
        if message.rank == COORDINATOR.rank:
            raise Deserted(f"rank {COORDINATOR.rank}, which coordinates, is gone; the same command continues the study")
        Group.deaths = True
        self._stop_waiting_for(message.rank)

    @handles(Gone)
    def on_gone(self, message: Gone, sender: Address) -> None:
        """The coordinator has given up a rank, and taken back what that had a part in."""
        self._stop_waiting_for(message.rank)
        self._lose_leader(message.rank)
        group = self._group
        if group is None or group.member != 0 or message.rank not in group.ranks:
            return
        group.broken = True
        if self._next is not None and message.rank in self._next.ranks:
            self._next = self._fetching = None
        if self._stage is not None and message.rank in self._stage.ranks:
            self._let_go()

    @handles(Kill)
    def on_kill(self, message: Kill, sender: Address) -> None:
        with contextlib.suppress(OSError):
            os.kill(message.process, signal.SIGKILL)

    def _stop_waiting_for(self, rank: int) -> None:
        if self._fetching == rank and self._next is not None:
            self._give_back(rank)

    @handles(Expelled)
    def on_expelled(self, message: Expelled, sender: Address) -> None:
        """Others do this rank's work: begin anew with empty hands."""
        if self._session is not None:
            self._session.wanted = False
            self._session.leave()
        self._quit()
        self._invitation = None
        if self._group is not None:
            self._group.broken = True
        self._stage = self._next = self._fetching = None
        self.relaxed = False
        self._refuse_askers()
        self._store.clear()
        self._exposure.clear()
        self._tickets = {ticket: ("forget" if what != "train" else what, on) for ticket, (what, on) in self._tickets.items()}
        self._join()

    # ---- what takes too long

    def _next_tick(self) -> None:
        limits = [self._limits.checkpoint_every / 4, (self._limits.step_timeout or 4.0) / 4, self._limits.lease / BEATS]
        self.after(min(TICK, *limits), Tick())

    @handles(Tick)
    def on_tick(self, message: Tick, sender: Address) -> None:
        now = self.now()
        if now - self._ticked > self._lease / 2:
            self._heard = now  # this process itself was stopped, and knows nothing of the other
        self._ticked = now
        if now - self._heard > LOST * self._lease:
            raise Deserted(
                f"rank {COORDINATOR.rank}, which coordinates, has not been heard of for {LOST * self._lease:g} s; "
                "the same command continues the study"
            )
        if now - self._said >= self._lease / BEATS:
            self._said = now
            self.send(COORDINATOR, Alive())
        if self._stage is not None and self._session is not None and not self._session.outbox.waits:
            self._look_at(self._stage, self._session, now)
        self._next_tick()

    def _look_at(self, stage: Stage, session: Session, now: float) -> None:
        limit = self._limits.step_timeout
        if limit is not None and time.monotonic() - session.outbox.put_at > limit:
            self._abandon(stage, session, limit)
        elif not self._copying and self._exposed + now - self._since >= self._limits.checkpoint_every:
            self._copying = True
            session.copy_between()

    def _abandon(self, stage: Stage, session: Session, limit: float) -> None:
        """A step takes too long: fail its stage, and make the thread end as far as Python can."""
        frame = sys._current_frames().get(session.thread.number or 0)
        where = "".join(traceback.format_stack(frame)) if frame is not None else ""
        self._pass_on(stage)
        error = f"step {self._sent + 1} took longer than {limit:g} s (--step-timeout)"
        self.send(COORDINATOR, Failed(stage.id, error, f"It was here:\n{where}\n{error}"))
        say(f"{self._called(stage)} failed on rank {self.rank}: {error}")
        self._let_go()

    def _let_go(self) -> None:
        """Have the training end in the midst of a step, as far as Python can."""
        session = self._session
        self._stage, self.relaxed = None, False
        if self._torn is not None:  # it has ended already
            self._session = self._torn = None
            self.go_on()
        elif session is not None:
            self._dismiss(session.group, abrupt=True)
            session.wanted = False
            session.leave()
            session.thread.stop()
            self.after(ABANDONED, Stuck(session))

    @handles(Stuck)
    def on_stuck(self, message: Stuck, sender: Address) -> None:
        if message.session is self._session and message.session.leaving and self._stage is None:
            self._next = None
            self.send(COORDINATOR, Unfit("a training that took too long does not end, so it cannot begin another one"))

    # ---- the end before the end

    @handles(Suspend)
    def on_suspend(self, message: Suspend, sender: Address) -> None:
        self._suspending = True
        if self._next is not None:
            self.send(COORDINATOR, Returned(self._next.id))
            self._next = self._fetching = None
        if self._session is not None and self._stage is not None:
            self._session.leave_between()
        elif self._session is not None:
            self._session.leave()
        self._write_all()
        self._suspended()

    def _write_all(self) -> None:
        """Write what is only in memory."""
        for state, snapshot in self._store.items():
            if state not in self._written:
                self._write("copy", state, snapshot)

    def _suspended(self) -> None:
        """Say so, once nothing is under way, and all that is to be written is."""
        if not self._suspending or self._session is not None or self._following is not None or self._tickets:
            return
        if self._returning is not None:
            self.send(COORDINATOR, Returned(self._returning.id))
            self._returning = None
        self.send(COORDINATOR, Suspended())

    # ---- beginning a stage

    @handles(Train)
    def on_train(self, message: Train, sender: Address) -> None:
        if self._suspending:  # the two have crossed
            self.send(COORDINATOR, Returned(message.stage.id))
            return
        self._next = message.stage
        self._go_on()

    @property
    def busy(self) -> bool:
        return self._session is not None

    def vacate(self) -> None:
        if self._session is not None:
            self._session.leave()

    def go_on(self) -> None:
        self._go_on()
        self._suspended()

    def _go_on(self) -> None:
        """Begin the next stage, or do the next thing that it takes."""
        stage, session = self._next, self._session
        if self._join_in() or stage is None:
            return
        if self._following is not None:
            self._quit()
            return
        before = stage.before
        if session is not None:
            self._go_on_alive(stage, session)
        elif before is None:
            self._start(stage, None)
        elif before in self._store:
            several = len(stage.ranks) > 1
            snapshot = self._store.use(before, lend=several) if stage.keep else self._store.take(before)
            self._start(stage, snapshot, owned=not stage.keep)
        elif stage.source is not None and stage.source != self.rank:
            self._fetching = stage.source
            self.send(Address(stage.source, TRAINER), Fetch(before))
        elif stage.file or before in self._written:
            self._read(before)
        else:
            self._give_back(self.rank)

    def _go_on_alive(self, stage: Stage, session: Session) -> None:
        """Begin a stage with what is alive here, or have that end, which calls `_go_on` again."""
        course, before = self._course(stage), stage.before
        if not session.fits(stage, course):
            session.leave()
            return
        if not stage.keep and before is not None:
            self._store.drop(before)
        start_measuring(self._device.name)
        session.go_on(stage, course)
        if session.group is not None:
            self._say(session.group, Onward(session.group.number, stage))
        self._begun(stage)

    def _read(self, state: StateName) -> None:
        self._tickets[self.work(_read, self._folder, state)] = ("read", state)

    def _give_back(self, rank: int) -> None:
        stage, self._next, self._fetching = self._next, None, None
        if stage is not None and stage.before is not None:
            self.send(COORDINATOR, Missing(stage.id, stage.before, rank))

    def _start(self, stage: Stage, snapshot: Snapshot | None, *, owned: bool = False) -> None:
        if snapshot is not None and self._forks and snapshot.header == UNTRACKED:
            raise UserError(
                "population based training moves models between trials, but train never calls trial.track: name what makes "
                "the model, as in trial.track(model=model, optimizer=optimizer), or call trial.track() if there is none"
            )
        group = self._lead(stage, snapshot)
        owned = owned and group is None  # what is on its way to others has to stay as it is
        session = self._session = Session(stage, self._course(stage), self.post, self._store.spare, group)
        start_measuring(self._device.name)
        self._tickets[self.work(self._run, session, stage, snapshot, owned)] = ("train", stage.after)
        self._begun(stage)

    def _begun(self, stage: Stage) -> None:
        self._next, self._fetching, self._stage = None, None, stage
        self._sent = stage.start
        self._waiting = self._due = self._copying = False
        self._blamed = None  # for what has ended well all the same
        before = stage.before
        self._exposed = 0.0 if before is None else self._exposure.get(before, 0.0)
        if before is not None and not stage.keep:
            self._exposure.pop(before, None)
        self._since = self._begun_at = self.now()
        self.relaxed = True  # until the training ends, nothing that arrives is urgent

    def _run(self, session: Session, stage: Stage, snapshot: Snapshot | None, owned: bool) -> None:
        given = [snapshot]
        del snapshot  # which the trial is to let go as soon as it is read

        def trial() -> Trial:
            return Trial(
                stage,
                self._device,
                session,
                self._precision,
                course=session.course,
                state=given.pop(),
                owned=owned,
                state_dtype=self._state_dtype,
                group=session.group,
            )

        run_in_group(self._train, trial, session.thread, session.group, session.settle)

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

    @handles(Took)
    def on_took(self, message: Took, sender: Address) -> None:
        session, stage = self._session, self._stage
        if session is None or session.group is None or stage is None:
            return
        if (session.group.number, stage.id) == (message.group, message.stage):
            session.peaks.told(sender.rank, message.peak, message.memory, last=message.last)

    @handles(Gathering)
    def on_gathering(self, message: Gathering, sender: Address) -> None:
        if self._stage is not None:
            self._pass_on(self._stage)
            self.relaxed = False  # the thread waits for what is about to arrive

    @handles(Rested)
    def on_rested(self, message: Rested, sender: Address) -> None:
        session, stage = self._session, self._stage
        if session is None or stage is None:
            return  # of a stage that was taken away meanwhile
        session.rests()
        exposed = self._exposed + self.now() - self._since
        self._exposure[stage.after] = exposed
        self._end(stage, kept=True)
        if self._suspending:
            session.leave()
        elif exposed >= self._limits.checkpoint_every:
            session.copy()  # to be written

    def _end(self, stage: Stage, *, kept: bool) -> None:
        self._pass_on(stage)
        peak, memory = measured(self._device.name)
        if self._session is not None:
            peak, memory = self._session.peaks.with_own(peak, memory)
        profile = Profile(peak, memory, self.now() - self._begun_at, self._sent - stage.start)
        self.send(COORDINATOR, Ended(stage.id, kept, profile))
        self._stage, self.relaxed = None, False

    @handles(WorkDone)
    def on_done(self, message: WorkDone, sender: Address) -> None:
        if message.ticket == self._follow_ticket:
            self._followed(None)
            return
        what, state = self._tickets.pop(message.ticket)
        if what == "train":
            self._training_ended()
        elif what == "read":
            self._has_come(state, message.result)
        elif what in ("copy", "write"):
            if what == "write":
                self._store.take(state)
            self._exposure[state] = 0.0
            self.send(COORDINATOR, Saved(state, moved=what == "write"))
        self._suspended()

    def _training_ended(self) -> None:
        session = self._session
        if session is not None:
            self._dismiss(session.group, abrupt=False)
        if self._stage is not None and session is not None:
            if session.interrupted:
                self._pass_on(self._stage)
                self._returning, self._stage, self.relaxed = self._stage, None, False
            else:
                self._end(self._stage, kept=False)
        self._session = None
        self._go_on()

    @handles(WorkFailed)
    def on_failed(self, message: WorkFailed, sender: Address) -> None:
        error = message.error
        if isinstance(error, UserError | ActorFailed):
            raise error
        if message.ticket == self._follow_ticket:
            self._followed(error)
            return
        what, state = self._tickets.pop(message.ticket)
        if what == "train":
            self._training_failed(error)
        elif what == "read":
            if self._next is not None and self._next.before == state:
                self.send(COORDINATOR, Trouble(f"{error}; its steps are trained again"))
                self._give_back(-1)
        elif isinstance(error, OSError):
            self._store.keep(state)
            self._written.discard(state)
            lost = "its state stays in memory" if not self._suspending else "its steps will be trained again"
            self.send(COORDINATOR, Trouble(f"rank {self.rank} could not write a checkpoint: {error.strerror or error}; {lost}"))
        elif what != "forget":
            raise error
        self._suspended()

    def broken(self, message: Broken) -> None:
        """A follower is at fault, has found that another one is, or has something else to do."""
        session = self._session
        if self._stage is None or session is None or session.group is None or session.group.number != message.group:
            return  # it rests: what is alive stays, but nobody trains on with it
        if message.error:
            self._blamed = message
            session.error = GroupFailed(message.error)
            if self._torn is not None:
                self._training_failed(self._torn)
        elif self._torn is None:
            session.error = GroupFailed("another rank has left the group")

    @handles(Reason)
    def on_reason(self, message: Reason, sender: Address) -> None:
        if message.session is self._session and self._torn is not None:
            self._training_failed(self._torn)

    def _is_torn(self, session: Session, error: BaseException) -> bool:
        """Whether a group's training has failed for a reason that another rank knows and has not told yet, or is dead of."""
        if session.group is None or self._stage is None or self._blamed is not None or self._torn is not None:
            return False
        return is_of_group(error) or isinstance(error, GroupFailed)

    def _training_failed(self, error: BaseException) -> None:
        session = self._session
        group = session.group if session is not None else None
        if session is not None and self._is_torn(session, error):
            self._torn = error
            self._dismiss(group, abrupt=True)
            self.after(REASON, Reason(session))
            return
        blamed, self._blamed, self._torn = self._blamed, None, None
        self._dismiss(group, abrupt=True)
        told = describe(error) if blamed is None else blamed.error
        if self._stage is not None and blamed is None and session is not None and isinstance(session.error, GroupFailed):
            self._pass_on(self._stage)
            self.send(COORDINATOR, Returned(self._stage.id))  # a rank had something else to do: nobody is at fault
        elif self._stage is not None:
            self._pass_on(self._stage)
            text = "".join(traceback.format_exception(error)) if blamed is None else blamed.traceback
            memory = out_of_memory(error) != "" if blamed is None else blamed.memory
            self.send(COORDINATOR, Failed(self._stage.id, told, text if told in text else f"{text}{told}\n", memory))
            say(f"{self._called(self._stage)} failed on rank {self.rank}: {told}")
        elif self._session is not None and not isinstance(error, TrialStopped):  # it rested, or was cleaning up
            say(f"rank {self.rank}: training failed when it was left: {told}")
        self._refuse_askers()
        self._stage, self._session, self.relaxed = None, None, False
        release_memory(error)
        self._go_on()

    def _refuse_askers(self) -> None:
        """The copies that others wait for will not come."""
        for state, askers in self._askers.items():
            for asker in askers:
                self.send(asker, Absent(state, saved=False))
        self._askers.clear()

    # ---- states for others

    @handles(Lowered)
    def on_lowered(self, message: Lowered, sender: Address) -> None:
        state, snapshot = message.state, message.snapshot
        if self._session is not None:
            self._session.promised.discard(state)
        if message.between:
            self._lowered_between(message)
            return
        if self._session is not None and not self._session.wanted:
            return  # nobody needs it any more
        self._store.add(state, snapshot)
        for asker in self._askers.pop(state, []):
            self._give(state, asker)
        if self._suspending or self._exposure.get(state, 0.0) >= self._limits.checkpoint_every:
            self._write("copy", state, snapshot)
        for spilled, what in self._store.to_spill():
            self._write("write", spilled, what)

    def _lowered_between(self, message: Lowered) -> None:
        """A copy of what is being trained, to be written at once; its steps are reported first."""
        if self._stage is None or message.state.stage != self._stage.id:
            return
        self._copying = False
        self._exposed, self._since = 0.0, self.now()
        self._pass_on(self._stage)
        if message.snapshot is None:
            self.send(
                COORDINATOR, Trouble(f"{self._called(self._stage)} cannot be continued from a checkpoint: {message.error}")
            )
        else:
            self._write("copy", message.state, message.snapshot)

    def _write(self, what: str, state: StateName, snapshot: Snapshot) -> None:
        self._written.add(state)
        self._tickets[self.work(_write, self._folder, state, snapshot, self._over)] = (what, state)

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

    def _give(self, state: StateName, asker: Address) -> None:
        snapshot = self._store.use(state, lend=True)
        if snapshot is None:
            self.send(asker, Absent(state, saved=False))
            return
        given = Given(state, snapshot.header, self._exposure.get(state, 0.0))
        self.send(asker, given, [snapshot.data] if snapshot.data.size else [])

    @handles(Given)
    def on_given(self, message: Given, sender: Address, buffers: list[NDArray[numpy.uint8]]) -> None:
        data = buffers[0] if buffers else numpy.empty(0, numpy.uint8)
        self._exposure[message.state] = message.exposed
        self._has_come(message.state, Snapshot(message.header, data))

    @handles(Absent)
    def on_absent(self, message: Absent, sender: Address) -> None:
        if self._next is None or self._next.before != message.state or self._fetching != sender.rank:
            return
        if message.saved:
            self._fetching = None
            self._read(message.state)
        else:
            self._give_back(sender.rank)

    def _has_come(self, state: StateName, snapshot: Snapshot) -> None:
        if self._next is not None and self._next.before == state and self._session is None:
            self._start(self._next, snapshot, owned=True)

    @handles(Drop)
    def on_drop(self, message: Drop, sender: Address) -> None:
        for state in message.states:
            self._store.drop(state)
            self._exposure.pop(state, None)
            if self._session is not None and self._session.state == state:
                self._session.wanted = False


def _read(folder: Path, state: StateName) -> Snapshot:
    from openhpo.storage import checkpoints

    return Snapshot(*checkpoints.read(folder / checkpoints.name_of(state)))


def _write(folder: Path, state: StateName, snapshot: Snapshot, over: threading.Event) -> None:
    from openhpo.storage import checkpoints

    tensors = [(leaf.path, leaf.dtype, leaf.shape, leaf.at, leaf.size) for leaf in snapshot.leaves()]
    checkpoints.write(folder / checkpoints.name_of(state), snapshot.header, snapshot.data, tensors)
    if over.is_set():
        _remove(folder, state)


def _remove(folder: Path, state: StateName) -> None:
    """Remove a checkpoint, and the folder of checkpoints with the last one."""
    from openhpo.storage import checkpoints

    path = folder / checkpoints.name_of(state)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
