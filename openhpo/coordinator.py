"""The actor that decides: turns messages into calls of the study, and its answers into messages and rows of the file."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy
from numpy.typing import NDArray

from openhpo.actors import Actor, Address, Interrupted, Notice, PeerLost, WorkDone, WorkFailed, handles
from openhpo.actors.run import survives_deaths
from openhpo.callbacks import Callbacks
from openhpo.earlier import Trained, forget
from openhpo.errors import UserError
from openhpo.hyperparameters import Config
from openhpo.limits import Limits
from openhpo.memory import LongLived
from openhpo.news import Change, Counted
from openhpo.protocol import (
    BEATS,
    TRAINER,
    Accepted,
    Alive,
    AskSuspend,
    Drop,
    Ended,
    Expelled,
    Failed,
    Gone,
    Kill,
    Missing,
    Ready,
    Reports,
    Returned,
    Saved,
    Suspend,
    Suspended,
    Train,
    Trouble,
    Unfit,
    Welcome,
)
from openhpo.reported import Reported
from openhpo.resume import There, begun_with, check_alone, check_same, make_folders, replay
from openhpo.scheduler import Scheduler
from openhpo.stages import Stage, State, StateName
from openhpo.storage import StudyWriter, Tables, checkpoints, schema
from openhpo.suggestions import Suggestion
from openhpo.training.devices import warning
from openhpo.view import Progress, View
from openhpo.workload import Workload

COMMIT = 0.025  # seconds: reports are answered when they are in the file, and between two flushes lies at least that
MANY = 1000  # reports that are worth a flush of their own
FLUSH_SECONDS = 1.0  # at most so long lies between anything else that happens and the file
SYNC_SECONDS = 10.0  # and so long between the file and the disk, where the machine itself may fail
SWITCH = 2e-4  # seconds after which a sampler in another thread lets go of the interpreter, where messages wait for it


class Commit(Notice, frozen=True):
    """Reports have waited long enough for their answer."""


class Tick(Notice, frozen=True):
    """Time to flush, to show how far the study is, and to look who is still there."""


class TimeUp(Notice, frozen=True):
    """The time limit is reached."""


class Hold(Protocol):
    """The right to write the study: `storage.claim.Claim`."""

    def beat(self) -> None:
        """Show that this run is alive."""

    def release(self) -> None:
        """The run is over."""


class MakeStudy(Protocol):
    """Builds the study, or those of a job, with other numbers of trials than the user's where these are given."""

    def __call__(self, trials: Sequence[int] | None = None, /) -> Workload: ...


@dataclass
class Peer:
    """What the coordinator knows of a rank that trains."""

    address: Address
    host: str
    process: int
    heard: float  # when it last said anything
    identity: str = ""  # of its device
    told: bool = False  # that it was given up
    answers: list[Accepted] = field(default_factory=list)  # to reports that are not in the file yet


class Coordinator(Actor):
    """Hands stages to trainers and their reports to the study and its file.

    What it does with the study is a function of the events and reports in the file, so another run can go on from there.

    Args:
        make_study: Builds the study; called on this rank alone, because only decisions need its libraries.
        folder: Where the study file goes.
        identity: What identifies the study besides its own definition: the app, the precision, the type of states.
        environment: What it runs on.
        view: Shows progress.
        limits: How long the run may take, and what it does about what goes wrong.
        claim: Takes the right to write the study.
        make_writer: What writes a new study; a simulation may do without.
        callbacks: Whom else to tell what happens, for each study.
        trainers: How many ranks train; all by default.
    """

    def __init__(
        self,
        make_study: MakeStudy,
        folder: Path,
        identity: Mapping[str, Any],
        environment: Mapping[str, Any],
        view: View,
        limits: Limits | None = None,
        claim: Callable[[Path], Hold] | None = None,
        make_writer: Callable[[Path, Mapping[str, Any], Mapping[str, Any]], Any] = StudyWriter,
        callbacks: Sequence[Callbacks] = (),
        trainers: int | None = None,
    ) -> None:
        self._make_study = make_study
        self._folder = folder
        self._identity = identity
        self._environment = environment
        self._view = view
        self._limits = Limits() if limits is None else limits
        self._claim = claim
        self._make_writer = make_writer
        self._hold: Hold | None = None
        self._trainers: dict[int, Peer] = {}
        self._expelled: dict[int, Peer] = {}  # ranks that were given up, and may come back
        self._pending: set[int] = set()  # ranks that have not said yet that they are suspended
        self._attempts: dict[tuple[int, int], int] = {}  # of trials that failed, by study and trial
        self._deaths: dict[tuple[int, int], int] = {}  # of ranks, by what they trained
        self._commit_due = False
        self._committed = 0.0  # when the file was last flushed
        self._synced: float | None = 0.0  # when the disk last was up to date; None while that is under way
        self._syncing = -1
        self._suggesting: dict[int, int] = {}  # which study's sampler a worker thread asks, by its ticket
        self._callbacks = callbacks
        self._expected = trainers
        self._absent: set[int] = set()  # ranks that are known to be lost
        self._reported: Reported | None = None  # where callbacks are told of every step
        self._warned = False  # of devices that are shared by accident
        self._beaten = 0.0  # when trainers were last told that this rank lives
        self._ticked = 0.0
        self._configs: dict[tuple[int, int], Config] = {}  # by study and trial, as the file has them
        self._known: deque[Stage] = deque()  # what an earlier study has trained
        self._long_lived = LongLived()
        self._steps = 0
        self._shown = (0.0, 0)  # when progress was last shown, and the steps then
        self._fresh = True  # this run began the study
        self._writer: StudyWriter | None = None

    # ---- start and end

    def on_start(self) -> None:
        self._study = self._make_study()
        definition = {**self._identity, **self._study.definition()}
        self._began = self._committed = self._beaten = self._ticked = self.now()
        self._synced = self.now()
        there = self._what_is_there(definition)
        if there is not None and there.finished and there.totals == self._totals:
            self._view.note(f"{self._folder} holds this study, finished; nothing is left to run")
            self.stop_all()
            return
        if self._claim is not None:
            self._hold = self._claim(self._folder)
            there = self._what_is_there(definition)  # another run may have gone on with it while this one waited
        self._scheduler = Scheduler(self._study)
        for place, callbacks in enumerate(self._callbacks):
            own = definition if self._study.single else {**definition, **definition["studies"][self._study.names[place]]}
            callbacks.tell("on_start", self._folder_of(place), own)
        if there is None:
            self._observe(None)
            self._writer = self._begin(definition)
            totals = "" if self._study.single else json.dumps({"trials": self._totals})
            self._writer.event(schema.STARTED, 0.0, step=self._study.total, rank=self._ranks, text=totals)
            self._scheduler.expect(self._ranks)
        else:
            self._continue(there, definition)
        self._flush()
        self._view.show(self._progress())
        self._next_tick()
        if self._limits.time_limit is not None:
            self.after(self._limits.time_limit, TimeUp())

    @property
    def _ranks(self) -> int:
        """How many ranks are to train."""
        return self.size if self._expected is None else self._expected

    @property
    def _totals(self) -> list[int]:
        return [search.total for search in self._study.searches]

    def _folder_of(self, place: int) -> Path:
        """Where whatever belongs to one of the studies goes."""
        return self._folder if self._study.single else self._folder / self._study.names[place]

    def _begin(self, definition: Mapping[str, Any]) -> StudyWriter:
        """Make the file, and the folders of studies that share it."""
        if self._study.single:
            check_alone(self._folder)
        else:
            make_folders(self._folder, self._study.names)
        if isinstance(self._study.earlier, Trained):
            self._study.earlier.keep(self._folder)
        writer: StudyWriter = self._make_writer(self._folder, definition, self._environment)
        return writer

    def _what_is_there(self, definition: Mapping[str, Any]) -> There | None:
        return check_same(self._folder, definition) if (self._folder / schema.FILE).exists() else None

    def _continue(self, there: There, definition: Mapping[str, Any]) -> None:
        """Bring the study to where its file ends, and go on."""
        tables, totals = there.tables, self._totals
        self._fresh = False
        if (first := begun_with(tables, tables.events[0]) if len(tables.events) else totals) != totals:
            self._study = self._make_study(first)
            self._scheduler = Scheduler(self._study)
        kept = replay(tables, self._scheduler)
        self._observe(tables)
        self._scheduler.resume(totals)
        self._scheduler.expect(self._ranks)
        self._writer = StudyWriter.resume(
            tables, definition, self._environment, trials=kept.trials, stages=kept.stages, reports=kept.reports
        )
        self._began -= kept.seconds
        ranks = tables.stages["ranks"][tables.reports["stage"][: kept.reports]]
        self._steps = int((ranks > 0).sum())
        self._shown = (self._time(), self._steps)
        rows = tables.trials[: kept.trials]
        self._configs = {(int(row["study"]), int(row["trial"])): tables.config(row) for row in rows}
        told = {**self._environment, **({} if self._study.single else {"trials": totals})}
        self._writer.event(schema.RESUMED, self._time(), step=sum(totals), rank=self._ranks, text=json.dumps(told))
        for change in kept.untold:
            self._record_change(change)
            self._tell_change(change)
        self._record_changes()
        self._tidy()
        study = self._study
        self._view.note(
            f"{self._folder} goes on: of {study.total} trials {study.at_rest} have come to where they were to go, and "
            f"{self._steps:,} steps are done"
        )

    def _observe(self, earlier: Tables | None) -> None:
        """See to it that callbacks can be told of every step that comes to count from now on."""
        if any(self._callbacks):
            self._reported = Reported(earlier)
            self._study.observe()

    def _tidy(self) -> None:
        """Remove checkpoints that nobody needs, and forget those that are gone."""
        wanted = self._study.checkpoints
        folder = self._folder / checkpoints.FOLDER
        files = {f"{checkpoints.FOLDER}/{path.name}" for path in folder.iterdir()} if folder.is_dir() else set()
        for file in files - set(wanted.values()):
            with contextlib.suppress(OSError):
                (self._folder / file).unlink()
        for state, file in wanted.items():
            if file not in files:
                self._forget(state, None)

    def on_stop(self) -> None:
        self._view.close()
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                self._tell_all("on_end", "failed")
                if self._fresh and isinstance(self.failure, UserError) and not self._study.at_rest - self._study.failed:
                    self._discard(writer)
                else:
                    writer.close()
        finally:
            self._let_go()

    def _discard(self, writer: StudyWriter) -> None:
        """Remove what this run began: nothing was found yet, and a mended command should not stumble over it."""
        for name in self._study.names if not self._study.single else ():
            with contextlib.suppress(OSError):
                (self._folder / name).rmdir()
        if isinstance(self._study.earlier, Trained):
            forget(self._folder)
        writer.discard()

    def _tell_all(self, what: str, *about: Any) -> None:
        for callbacks in self._callbacks:
            callbacks.tell(what, *about)

    def _let_go(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    def _close(self, phase: str) -> None:
        """End the run well."""
        assert self._writer is not None
        self._record_changes()
        self._tell_all("on_end", phase)
        self._writer.close()
        self._writer = None
        self._view.show(self._progress())
        self._let_go()

    def _finish(self) -> None:
        assert self._writer is not None
        self._writer.event(schema.FINISHED, self._time())
        self._close("finished")
        self.work(shutil.rmtree, self._folder / checkpoints.FOLDER, True)
        self._stop_all()

    def _stop_all(self) -> None:
        """End all ranks, and see to it that those which do not answer do not keep the others."""
        for lost in self._expelled.values() if survives_deaths() else ():
            near = [trainer for trainer in self._trainers.values() if trainer.host == lost.host]
            if near:
                self.send(near[0].address, Kill(lost.process))
        self.stop_all(without=self._expelled)

    # ---- the end before the end

    @handles(TimeUp)
    def on_time_up(self, message: TimeUp, sender: Address) -> None:
        self._suspend("the time limit is reached")

    @handles(Interrupted)
    def on_interrupted(self, message: Interrupted, sender: Address) -> None:
        self._suspend(f"asked to stop by {signal.Signals(message.signal).name}")

    @handles(AskSuspend)
    def on_ask_suspend(self, message: AskSuspend, sender: Address) -> None:
        self._suspend(message.why)

    def _suspend(self, why: str) -> None:
        """Have all trainers stop at their next step, so that the study can go on another time."""
        if self._writer is None or self._scheduler.suspended:
            return
        self._scheduler.suspend()
        self._writer.event(schema.SUSPENDED, self._time(), text=why)
        self._flush()
        self._view.note(f"{why}: each rank stops after its present step")
        self._pending = set(self._trainers)
        for trainer in self._trainers.values():
            self.send(trainer.address, Suspend())
        self._suspended()

    @handles(Suspended)
    def on_suspended(self, message: Suspended, sender: Address) -> None:
        if self._knows(sender):
            self._pending.discard(sender.rank)
            self._suspended()

    def _suspended(self) -> None:
        """End, where nothing is under way any more."""
        if self._writer is None or self._pending:
            return
        study = self._study
        self._close("suspended")
        self._view.note(
            f"to be continued: {study.total - study.settled} of {study.total} trials are left; the same command goes on, "
            f"or openhpo resume {self._folder}"
        )
        self._stop_all()

    # ---- trainers

    @handles(Ready)
    def on_ready(self, message: Ready, sender: Address) -> None:
        self.send(sender, Welcome(self._limits.lease))
        self._expelled.pop(sender.rank, None)
        self._absent.discard(sender.rank)
        if self._writer is None or self._scheduler.suspended:
            return  # it is already over
        if sender.rank in self._trainers:
            self._lose(sender.rank, "it began anew")
        self._warn_of_sharing(message, sender.rank)
        self._trainers[sender.rank] = Peer(sender, message.host, message.process, self.now(), message.identity)
        device = {"device": message.device} | ({"identity": message.identity} if message.identity else {})
        text = json.dumps({"host": message.host, **device, **({"shared": True} if message.shared else {})})
        self._writer.event(schema.READY, self._time(), rank=sender.rank, text=text)
        self._scheduler.join(sender.rank, message.host)
        self._hand_out()

    def _warn_of_sharing(self, message: Ready, rank: int) -> None:
        """Say once that two ranks seem to have the same accelerator although nobody told them to."""
        if self._warned or message.shared or not message.identity:
            return
        for other, trainer in self._trainers.items():
            if (trainer.host, trainer.identity) == (message.host, message.identity):
                self._warned = True
                self._tell_trouble(warning(message.host, message.identity, (other, rank)), rank)
                return

    def _knows(self, sender: Address) -> bool:
        """Whether a trainer takes part; one that was given up is told so, and what it says is not heard."""
        trainer = self._trainers.get(sender.rank)
        if trainer is not None:
            trainer.heard = self.now()
        elif sender.rank in self._expelled and not self._expelled[sender.rank].told:
            self._expelled[sender.rank].told = True  # once, though more may be on its way: each time it would join anew
            self.send(sender, Expelled())
        return trainer is not None and self._writer is not None

    def _stage_of(self, number: int, sender: Address) -> Stage | None:
        """The stage that a trainer speaks of, where it is its own and still under way."""
        if not self._knows(sender):
            return None
        stage = self._scheduler.stages.get(number)
        return stage if stage is not None and stage.ranks[0] == sender.rank else None

    @handles(Alive)
    def on_alive(self, message: Alive, sender: Address) -> None:
        self._knows(sender)

    @handles(PeerLost)
    def on_peer_lost(self, message: PeerLost, sender: Address) -> None:
        expelled = self._expelled.pop(message.rank, None) is not None
        if self._writer is not None and not expelled and message.rank not in {*self._trainers, *self._absent}:
            self._absent.add(message.rank)
            self._writer.event(schema.LEFT, self._time(), rank=message.rank, text="its process ended before it joined")
            self._scheduler.leave(message.rank)  # so that nobody waits for it to come
            self._settle()
        self._lose(message.rank, "its process is gone")

    @handles(Unfit)
    def on_unfit(self, message: Unfit, sender: Address) -> None:
        if self._knows(sender):
            self._lose(sender.rank, message.why)

    def _expel(self, trainer: Peer) -> None:
        self._expelled[trainer.address.rank] = trainer
        self._lose(trainer.address.rank, f"it has not been heard of for {self._limits.lease:g} s")

    def _lose(self, rank: int, why: str) -> None:
        """Go on without a rank."""
        if self._writer is None or self._trainers.pop(rank, None) is None:
            return
        self._pending.discard(rank)
        self._absent.add(rank)
        self._writer.event(schema.LEFT, self._time(), rank=rank, text=why)
        stages = self._scheduler.leave(rank)
        trained = f"; what it trained goes on elsewhere ({self._called(stages[0])})" if stages else ""
        for trainer in self._trainers.values():
            self.send(trainer.address, Gone(rank))
        self._view.note(f"rank {rank} is lost: {why}{trained}. {len(self._trainers)} ranks are left to train")
        for stage in stages:
            key = (stage.study, stage.trial)
            deaths = self._deaths[key] = self._deaths.get(key, 0) + 1
            self._give_up_or_back(
                stage, f"the rank that trained it was lost {deaths} times: {why}", again=deaths < self._limits.deaths
            )
        self._settle()
        if self._scheduler.suspended:
            self._suspended()
        elif not self._trainers:
            self._suspend("no rank is left to train")

    def _hand_out(self) -> None:
        """Give work to idle trainers, or end."""
        self._assign()
        while self._known:
            self._tell_known(self._known.popleft())
            self._assign()
        if self._scheduler.finished:
            self._finish()
        else:
            self._have_suggested()

    def _assign(self) -> None:
        for stage in self._scheduler.assign():
            self._release()  # before, so that a trainer does not copy what it leaves for nobody
            if stage.ranks:
                self.send(Address(stage.ranks[0], TRAINER), Train(stage))
                self.flush()  # the trainer need not wait for the file's rows
            else:
                self._known.append(stage)
            self._record_changes()
            self._record_stage(stage)
            self._long_lived.grown(stage.id + 1)
        self._record_changes()

    def _tell_known(self, stage: Stage) -> None:
        """Tell the study what an earlier one has reported, as if it were trained now."""
        for names, rows in itertools.groupby(self._study.known(stage), key=tuple):
            values = numpy.array([list(row.values()) for row in rows])
            if not self._take(stage, self._study.reported(stage) + 1, names, values):
                break
        self._record_end(stage, schema.STAGE_ENDED, json.dumps({"kept": False}))
        self._scheduler.ended(stage, kept=False)
        self._record_changes()

    def _have_suggested(self) -> None:
        """Have slow samplers asked in worker threads, so that messages do not wait for them."""
        for place, call in [] if self._scheduler.suspended else self._study.draws():
            self._suggesting[self.work(obliging, call)] = place

    def _suggested(self, suggestion: Suggestion, study: int) -> None:
        if self._writer is None or self._scheduler.suspended:
            return  # the next run asks again
        self._writer.event(schema.SUGGESTED, self._time(), study=study, text=json.dumps(suggestion._asdict()))
        self._scheduler.suggested(suggestion, study)
        self._settle()

    def _called(self, stage: Stage) -> str:
        """What the trial of a stage is called."""
        return self._study.called(stage.trial, stage.study)

    def _record_stage(self, stage: Stage) -> None:
        assert self._writer is not None
        config = None if stage.config == self._configs[stage.study, stage.trial] else stage.config
        self._writer.stage(
            stage.id,
            stage.trial,
            stage.parent,
            stage.start,
            stage.stop,
            stage.ranks[0] if stage.ranks else schema.NONE,
            self._time(),
            config,
            ranks=len(stage.ranks),
            again=stage.again,
            study=stage.study,
        )
        if len(stage.ranks) > 1:
            self._writer.event(
                schema.GROUP,
                self._time(),
                trial=stage.trial,
                study=stage.study,
                stage=stage.id,
                rank=stage.ranks[0],
                step=stage.start,
                text=json.dumps(stage.ranks),
            )

    def _record_changes(self) -> None:
        """Write what trials came to, and have states dropped that nobody can need."""
        assert self._writer is not None
        for change in self._study.changes():
            self._record_change(change)
        self._tell()
        self._release()

    def _release(self) -> None:
        for release in self._study.releases():
            for rank in release.ranks:
                if rank in self._trainers:
                    self.send(Address(rank, TRAINER), Drop((release.state,)))
            if release.file:
                self._remove(release.file)

    def _record_change(self, change: Change) -> None:
        assert self._writer is not None
        if change.state is State.RUNNING and not change.forked and not change.joined:
            self._configs[change.study, change.trial] = change.config
            self._writer.trial(change.trial, change.seed, change.config, self._time(), change.study)
            return
        kind = schema.TRIAL_JOINED if change.joined else f"{schema.TRIAL}{change.state.value}"
        kind = schema.TRIAL_FORKED if change.forked else kind
        text = json.dumps(change.config) if change.forked else change.error
        stage = schema.NONE if change.stage is None else change.stage
        self._writer.event(kind, self._time(), trial=change.trial, study=change.study, stage=stage, step=change.step, text=text)

    def _tell(self) -> None:
        """Tell callbacks what trials came to, each step of each trial that it counts for."""
        if self._reported is None:
            return
        for news in self._study.news():
            if isinstance(news, Counted):
                metrics = self._reported.at(news.stage, news.step)
                self._callbacks[news.study].tell("on_report", news.trial, news.step, metrics)
            else:
                self._tell_change(news)

    def _tell_change(self, change: Change) -> None:
        if change.forked or change.joined or not self._callbacks:
            return
        callbacks = self._callbacks[change.study]
        if change.state is State.RUNNING:
            callbacks.tell("on_trial", change.trial, change.config)
        else:
            callbacks.tell("on_rest", change.trial, change.state)

    # ---- what trainers say

    @handles(Reports)
    def on_reports(self, message: Reports, sender: Address) -> None:
        stage = self._stage_of(message.stage, sender)
        if stage is None:
            return
        assert self._writer is not None
        stopped = self._scheduler.stopped
        if stage.id in stopped:
            return  # trained before the stop was heard
        values = numpy.ndarray((message.count, len(message.names)), float, message.values)
        last = message.first + message.count - 1
        self._take(stage, message.first, message.names, values)
        self._trainers[sender.rank].answers.append(Accepted(stage.id, last, stage.id in stopped))
        # where training waits for the answer, it does not wait for anything else
        at_once = last in stage.checks or self._writer.waiting >= MANY
        wait = 0.0 if at_once else self._committed + COMMIT - self.now()
        if wait <= 0:
            self._flush()
        elif not self._commit_due:
            self._commit_due = True
            self.after(wait, Commit())

    def _take(self, stage: Stage, first: int, names: Sequence[str], values: NDArray[numpy.float64]) -> bool:
        """Take in consecutive steps of a stage; return whether all of them count."""
        assert self._writer is not None
        rows = (dict(zip(names, row, strict=True)) for row in values.tolist())  # thousands: one at a time stays in the cache
        count = self._scheduler.reports(stage, first, rows)
        if count and not stage.again:
            self._writer.reports(stage.trial, stage.id, first, names, values[:count], self._time())
            self._steps += count if stage.ranks else 0
            if self._reported is not None:
                self._reported.add(stage.id, first, names, values[:count])
                self._tell()
        return count == len(values) and stage.id not in self._scheduler.stopped

    @handles(Commit)
    def on_commit(self, message: Commit, sender: Address) -> None:
        self._commit_due = False
        if self._writer is not None and self._writer.waiting:
            self._flush()

    def _flush(self) -> None:
        """Write what has happened, and answer for it."""
        assert self._writer is not None
        self._writer.flush()
        self._committed = self.now()
        for trainer in self._trainers.values():
            for answer in trainer.answers:
                self.send(trainer.address, answer)
            trainer.answers.clear()

    @handles(Ended)
    def on_ended(self, message: Ended, sender: Address) -> None:
        stage = self._stage_of(message.stage, sender)
        if stage is not None:
            kind = schema.STAGE_STOPPED if stage.id in self._scheduler.stopped else schema.STAGE_ENDED
            self._record_end(stage, kind, json.dumps(message.told))
            self._scheduler.ended(stage, kept=message.kept, profile=message.profile)
            self._settle()

    @handles(Returned)
    def on_returned(self, message: Returned, sender: Address) -> None:
        stage = self._stage_of(message.stage, sender)
        if stage is not None:
            self._record_end(stage, schema.STAGE_RETURNED, "")
            self._scheduler.returned(stage)
            self._settle()

    @handles(Failed)
    def on_failed(self, message: Failed, sender: Address) -> None:
        stage = self._stage_of(message.stage, sender)
        if stage is not None:
            if message.memory and self._study.allocation.grows(len(stage.ranks)):
                ranks = len(stage.ranks)
                self._view.note(f"{self._called(stage)} ran out of memory on {ranks} rank{'s' * (ranks > 1)}: it gets more")
                self._record_end(stage, schema.STAGE_EXHAUSTED, message.traceback)
                self._scheduler.exhausted(stage)
                self._settle()
                return
            key = (stage.study, stage.trial)
            attempts = self._attempts[key] = self._attempts.get(key, 0) + 1
            again = attempts <= self._limits.retries
            if again:
                left = self._limits.retries - attempts
                self._view.note(f"{self._called(stage)} is tried again after: {message.error} ({left} retries are left)")
            self._give_up_or_back(stage, message.error, message.traceback, again=again)
            self._settle()

    def _give_up_or_back(self, stage: Stage, error: str, traceback: str = "", *, again: bool) -> None:
        """Have a stage that went wrong trained again, or fail its trials."""
        self._record_end(stage, schema.STAGE_RETURNED if again else schema.STAGE_FAILED, traceback or error)
        if again:
            self._scheduler.returned(stage)
        else:
            self._scheduler.failed(stage, error)

    def _record_end(self, stage: Stage, kind: str, text: str) -> None:
        assert self._writer is not None
        self._writer.event(
            kind,
            self._time(),
            trial=stage.trial,
            study=stage.study,
            stage=stage.id,
            rank=stage.ranks[0] if stage.ranks else schema.NONE,
            step=self._study.reported(stage),
            text=text,
        )

    def _settle(self) -> None:
        self._record_changes()
        self._hand_out()

    # ---- states

    @handles(Missing)
    def on_missing(self, message: Missing, sender: Address) -> None:
        stage = self._stage_of(message.stage, sender)
        if stage is not None:
            self._forget(message.state, None if message.rank == schema.NONE else message.rank)
            self._record_end(stage, schema.STAGE_RETURNED, "the state that it goes on from is missing")
            self._scheduler.returned(stage)
            self._settle()

    def _forget(self, state: StateName, rank: int | None) -> None:
        """A state is not where it was said to be: on that rank, or in its file."""
        assert self._writer is not None
        if self._scheduler.lost(state, rank):
            where = schema.NONE if rank is None else rank
            self._writer.event(schema.STATE_LOST, self._time(), stage=state.stage, step=state.step, rank=where)

    @handles(Saved)
    def on_saved(self, message: Saved, sender: Address) -> None:
        state, file = message.state, checkpoints.name_of(message.state)
        if not self._knows(sender) or self._writer is None:
            return  # the next run tidies up
        if self._scheduler.saved(state, sender.rank, file, moved=message.moved):
            kind = schema.STATE_MOVED if message.moved else schema.STATE_SAVED
            self._writer.event(kind, self._time(), stage=state.stage, step=state.step, rank=sender.rank)
            self._record_changes()
        elif state not in self._study.checkpoints:
            self._remove(file)  # nobody needs it any more

    def _remove(self, file: str) -> None:
        self.work((self._folder / file).unlink, True)

    @handles(WorkDone)
    def on_done(self, message: WorkDone, sender: Address) -> None:
        if message.ticket == self._syncing:
            self._synced = self.now()
        elif message.ticket in self._suggesting:
            self._suggested(message.result, self._suggesting.pop(message.ticket))

    @handles(WorkFailed)
    def on_failed_work(self, message: WorkFailed, sender: Address) -> None:
        if message.ticket in self._suggesting:
            raise message.error
        self._view.note(f"a checkpoint could not be removed: {message.error}")

    @handles(Trouble)
    def on_trouble(self, message: Trouble, sender: Address) -> None:
        if self._knows(sender):
            self._tell_trouble(message.text, sender.rank)

    def _tell_trouble(self, text: str, rank: int) -> None:
        self._view.note(text)
        if self._writer is not None:
            self._writer.event(schema.TROUBLE, self._time(), rank=rank, text=text)

    # ---- time

    def _time(self) -> float:
        """Seconds of work on the study, over all its runs."""
        return self.now() - self._began

    def _next_tick(self) -> None:
        self.after(min(FLUSH_SECONDS, self._view.period, self._limits.lease / BEATS), Tick())

    @handles(Tick)
    def on_tick(self, message: Tick, sender: Address) -> None:
        if self._writer is None:
            return
        if self._writer.waiting:
            self._flush()
        if self._synced is not None and self.now() - self._synced >= SYNC_SECONDS:
            self._synced = None
            self._syncing = self.work(self._writer.sync)
        if self._hold is not None:
            self._hold.beat()
        self._look_around()
        for callbacks in self._callbacks:
            for trouble in callbacks.troubles():
                self._view.note(trouble)
        if self._time() - self._shown[0] >= self._view.period:
            self._view.show(self._progress())
        self._next_tick()

    def _look_around(self) -> None:
        """Tell trainers that this rank lives, and give up those that are silent."""
        now, lease = self.now(), self._limits.lease
        asleep = now - self._ticked > lease / 2  # this process itself was stopped, and knows nothing of the others
        self._ticked = now
        if asleep:
            for trainer in self._trainers.values():
                trainer.heard = now
        if now - self._beaten >= lease / BEATS:
            self._beaten = now
            for trainer in self._trainers.values():
                self.send(trainer.address, Alive())
        for trainer in [trainer for trainer in self._trainers.values() if now - trainer.heard > lease]:
            self._expel(trainer)

    def _progress(self) -> Progress:
        study, elapsed = self._study, self._time()
        before, steps = self._shown
        self._shown = (elapsed, self._steps)
        expected = study.expected_steps
        part = 1.0 if study.settled == study.total else min(0.99, max(study.settled / study.total, self._steps / expected))
        return Progress(
            trials=study.total,
            settled=study.at_rest,
            running=len(self._scheduler.stages),
            failed=study.failed,
            steps=self._steps,
            rate=(self._steps - steps) / max(elapsed - before, 1e-9),
            elapsed=elapsed,
            left=elapsed * (1 - part) / part if part else None,
            trainers=len(self._trainers),
            best=study.searches[0].best if study.single else None,
            studies={} if study.single else dict(zip(study.names, (search.best for search in study.searches), strict=True)),
        )


def obliging(call: Callable[[], Suggestion]) -> Suggestion:
    """Make a call in this thread that lets others have Python's lock soon after they ask for it: messages should not wait."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(min(SWITCH, usual))
    try:
        return call()
    finally:
        sys.setswitchinterval(usual)
