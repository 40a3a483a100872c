"""The actor that decides: turns messages into calls of the study, and its answers into messages and rows of the file."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy

from openhpo.actors import Actor, Address, Notice, WorkDone, WorkFailed, handles
from openhpo.errors import UserError
from openhpo.hyperparameters import Config
from openhpo.memory import LongLived
from openhpo.protocol import TRAINER, Accepted, Drop, Ended, Failed, Missing, Ready, Reports, Saved, Train, Trouble, Welcome
from openhpo.result import load
from openhpo.stages import Stage, State, Verdict
from openhpo.storage import StudyWriter, schema
from openhpo.storage.checkpoints import name_of
from openhpo.study import Best, Change, Study

FLUSH_SECONDS = 1.0  # at most so long lies between a report and the disk
FLUSH_ROWS = 65_536  # or so many rows


class Tick(Notice, frozen=True):
    """Time to flush and to show how far the study is."""


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        trials: In total.
        settled: That have ended, well or not, or come as far as their method had them go.
        running: That train now.
        failed: That raised.
        steps: Reported so far.
        rate: Steps a second, lately.
        elapsed: Seconds since the start.
        left: Estimated seconds to the end; None before anything is known.
        trainers: Ranks that train.
        best: The best trial so far.
    """

    trials: int
    settled: int
    running: int
    failed: int
    steps: int
    rate: float
    elapsed: float
    left: float | None
    trainers: int
    best: Best | None


class View(Protocol):
    """Shows progress to whoever started the study."""

    period: float  # seconds between updates

    def show(self, progress: Progress) -> None:
        """Called once a period, and when the study ends."""

    def note(self, text: str) -> None:
        """Say something that is not progress."""

    def close(self) -> None:
        """The study has ended, well or not."""


class Coordinator(Actor):
    """Hands stages to trainers and their reports to the study and its file.

    Args:
        make_study: Builds the study; called on this rank alone, because only decisions need its libraries.
        folder: Where the study file goes.
        identity: What identifies the study besides its own definition: the app, the precision.
        environment: What it runs on.
        view: Shows progress.
    """

    def __init__(
        self,
        make_study: Callable[[], Study],
        folder: Path,
        identity: Mapping[str, Any],
        environment: Mapping[str, Any],
        view: View,
    ) -> None:
        self._make_study = make_study
        self._folder = folder
        self._identity = identity
        self._environment = environment
        self._view = view
        self._idle: deque[Address] = deque()
        self._stages: dict[int, Stage] = {}
        self._stopped: set[int] = set()  # stages whose trainer has been told to stop
        self._configs: dict[int, Config] = {}  # of the trials, as the file has them
        self._long_lived = LongLived()
        self._trainers = 0
        self._steps = 0
        self._shown = (0.0, 0)  # when progress was last shown, and the steps then
        self._writer: StudyWriter | None = None

    # ---- start and end

    def on_start(self) -> None:
        self._study = self._make_study()
        definition = {**self._identity, **self._study.definition()}
        if (self._folder / schema.FILE).exists():
            check_same(self._folder, definition)
            self._view.note(f"{self._folder} holds this study, finished; nothing is left to run")
            self.stop_all()
            return
        self._writer = StudyWriter(self._folder, definition, self._environment)
        self._began = self.now()
        self._writer.event(schema.STARTED, 0.0)
        self._writer.flush()
        self._view.show(self._progress())
        self.after(min(FLUSH_SECONDS, self._view.period), Tick())

    def on_stop(self) -> None:
        self._view.close()
        if self._writer is None:
            return
        if isinstance(self.failure, UserError) and not self._study.at_rest - self._study.failed:
            self._writer.discard()  # nothing was found yet, and a mended command should not stumble over it
        else:
            self._writer.close()
        self._writer = None

    def _finish(self) -> None:
        assert self._writer is not None
        self._writer.event(schema.FINISHED, self._time())
        self._writer.close()
        self._writer = None
        self._view.show(self._progress())
        self.stop_all()

    # ---- trainers

    @handles(Ready)
    def on_ready(self, message: Ready, sender: Address) -> None:
        self.send(sender, Welcome())
        if self._writer is None:
            return  # it is already over
        self._trainers += 1
        text = json.dumps({"host": message.host, "device": message.device})
        self._writer.event("trainer_ready", self._time(), rank=sender.rank, text=text)
        self._idle.append(sender)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give work to idle trainers, the one that has waited longest first, or end."""
        assert self._writer is not None
        while self._idle:
            stage = self._study.ask(self._idle[0].rank)
            if stage is None:
                break
            self._release()  # before, so that a trainer does not copy what it leaves for nobody
            self.send(self._idle.popleft(), Train(stage))
            self.flush()  # the trainer need not wait for the file's rows
            self._stages[stage.id] = stage
            self._record_changes()
            self._record_stage(stage)
            self._long_lived.grown(stage.id + 1)
        self._record_changes()
        if not self._stages and self._study.finished:
            self._finish()
        else:
            self._study.prepare()  # while all trainers are busy

    def _record_stage(self, stage: Stage) -> None:
        assert self._writer is not None
        config = None if stage.config == self._configs[stage.trial] else stage.config
        self._writer.stage(stage.id, stage.trial, stage.parent, stage.start, stage.stop, stage.ranks[0], self._time(), config)

    def _record_changes(self) -> None:
        """Write what trials came to, and have states dropped that nobody can need."""
        assert self._writer is not None
        for change in self._study.changes():
            self._record_change(change)
        self._release()

    def _release(self) -> None:
        for release in self._study.releases():
            for rank in release.ranks:
                self.send(Address(rank, TRAINER), Drop((release.state,)))
            if release.file:
                self._remove(release.file)

    def _record_change(self, change: Change) -> None:
        assert self._writer is not None
        if change.state is State.RUNNING and not change.forked:
            self._configs[change.trial] = change.config
            self._writer.trial(change.trial, self._study.seed, change.config, self._time())
            return
        kind = schema.TRIAL_FORKED if change.forked else f"{schema.TRIAL}{change.state.value}"
        text = json.dumps(change.config) if change.forked else change.error
        stage = schema.NONE if change.stage is None else change.stage
        self._writer.event(kind, self._time(), trial=change.trial, stage=stage, step=change.step, text=text)

    # ---- what trainers say

    @handles(Reports)
    def on_reports(self, message: Reports, sender: Address) -> None:
        assert self._writer is not None
        stage = self._stages[message.stage]
        names = message.names
        values = numpy.ndarray((message.count, len(names)), float, message.values)
        last = message.first + message.count - 1
        if stage.id in self._stopped:
            return  # trained before the stop was heard
        tell, step, verdict = self._study.tell, message.first, Verdict.CONTINUE
        for row in values.tolist():
            verdict = tell(stage, step, dict(zip(names, row, strict=True)))
            step += 1
            if verdict is Verdict.STOP:
                self._stopped.add(stage.id)
                values = values[: step - message.first]
                break
        self._writer.reports(stage.trial, stage.id, message.first, names, values, self._time())
        self._steps += len(values)
        self.send(sender, Accepted(stage.id, last, verdict is Verdict.STOP))
        if self._writer.waiting >= FLUSH_ROWS:
            self._writer.flush()

    @handles(Ended)
    def on_ended(self, message: Ended, sender: Address) -> None:
        stage = self._stages.pop(message.stage)
        stopped = stage.id in self._stopped
        self._study.end(stage, kept=message.kept)
        self._settle(stage, sender, schema.STAGE_STOPPED if stopped else schema.STAGE_ENDED)

    @handles(Failed)
    def on_failed(self, message: Failed, sender: Address) -> None:
        stage = self._stages.pop(message.stage)
        self._study.fail(stage, message.error)
        self._settle(stage, sender, schema.STAGE_FAILED, message.traceback)

    def _settle(self, stage: Stage, trainer: Address, kind: str, text: str = "") -> None:
        assert self._writer is not None
        self._stopped.discard(stage.id)
        step = self._study.trials[stage.trial].step
        self._writer.event(kind, self._time(), trial=stage.trial, stage=stage.id, rank=trainer.rank, step=step, text=text)
        self._record_changes()
        self._idle.append(trainer)
        self._hand_out()

    # ---- states

    @handles(Missing)
    def on_missing(self, message: Missing, sender: Address) -> None:
        assert self._writer is not None
        stage = self._stages.pop(message.stage)
        rank = None if message.rank == schema.NONE else message.rank
        if self._study.lost(message.state, rank):
            self._writer.event(schema.STATE_LOST, self._time(), stage=message.state, rank=message.rank)
        self._study.give_back(stage)
        self._idle.append(sender)
        self._hand_out()

    @handles(Saved)
    def on_saved(self, message: Saved, sender: Address) -> None:
        file = name_of(message.state)
        if not self._study.saved(message.state, sender.rank, file):
            self._remove(file)  # nobody needs it any more

    def _remove(self, file: str) -> None:
        self.work((self._folder / file).unlink, True)

    @handles(WorkDone)
    def on_removed(self, message: WorkDone, sender: Address) -> None:
        pass

    @handles(WorkFailed)
    def on_not_removed(self, message: WorkFailed, sender: Address) -> None:
        self._view.note(f"a checkpoint could not be removed: {message.error}")

    @handles(Trouble)
    def on_trouble(self, message: Trouble, sender: Address) -> None:
        self._view.note(message.text)
        if self._writer is not None:
            self._writer.event(schema.TROUBLE, self._time(), rank=sender.rank, text=message.text)

    # ---- time

    def _time(self) -> float:
        """Seconds since the study began."""
        return self.now() - self._began

    @handles(Tick)
    def on_tick(self, message: Tick, sender: Address) -> None:
        if self._writer is None:
            return
        if self._writer.waiting:
            self._writer.flush()
        if self._time() - self._shown[0] >= self._view.period:
            self._view.show(self._progress())
        self.after(min(FLUSH_SECONDS, self._view.period), Tick())

    def _progress(self) -> Progress:
        study, elapsed = self._study, self._time()
        before, steps = self._shown
        self._shown = (elapsed, self._steps)
        expected = study.engine.expected_steps(study.total)
        part = 1.0 if study.settled == study.total else min(0.99, max(study.settled / study.total, self._steps / expected))
        return Progress(
            trials=study.total,
            settled=study.at_rest,
            running=len(self._stages),
            failed=study.failed,
            steps=self._steps,
            rate=(self._steps - steps) / max(elapsed - before, 1e-9),
            elapsed=elapsed,
            left=elapsed * (1 - part) / part if part else None,
            trainers=self._trainers,
            best=study.best,
        )


def check_same(folder: Path, definition: Mapping[str, Any]) -> None:
    """Make sure that a folder holds this very study, finished.

    Raises:
        UserError: It holds another one, or one that was interrupted.
    """
    there = load(folder)
    wanted = json.loads(json.dumps(definition))
    differing = [key for key in {**wanted, **there.definition} if wanted.get(key) != there.definition.get(key)]
    if differing:
        where, its, here = _difference(differing[0], there.definition.get(differing[0]), wanted.get(differing[0]))
        raise UserError(
            f"{folder} holds another study: its {where} is {_short(its)}, and here it is {_short(here)}. "
            "Choose another --study, or remove that folder."
        )
    if not there.finished:
        raise UserError(
            f"{folder} holds this study, but it was interrupted, and continuing one is not possible yet. "
            f"`openhpo best {folder}` shows what it found; choose another --study to start anew."
        )


def _difference(where: str, one: Any, other: Any) -> tuple[str, Any, Any]:
    """The innermost place where two values differ, and what is there."""
    if isinstance(one, dict) and isinstance(other, dict):
        key = next(key for key in {**other, **one} if one.get(key) != other.get(key))
        return _difference(f"{where}: {key}", one.get(key), other.get(key))
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        place = next(place for place, (mine, theirs) in enumerate(zip(one, other, strict=True)) if mine != theirs)
        return _difference(f"{where}, number {place + 1}", one[place], other[place])
    return where, one, other


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:199] + "…"
