"""Whole studies in virtual time: the real coordinator and messages, and trainers that replay curves instead of training."""

from __future__ import annotations

import bisect
import itertools
import math
import tempfile
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openhpo.actors import Actor, Address, Notice, PeerLost, handles
from openhpo.actors.loop import Timer
from openhpo.actors.simulated import Simulation
from openhpo.coordinator import Coordinator
from openhpo.hyperparameters import Config
from openhpo.limits import Limits
from openhpo.progress import Silent
from openhpo.protocol import (
    BEATS,
    COORDINATOR,
    TRAINER,
    Absent,
    Accepted,
    Alive,
    Drop,
    Ended,
    Expelled,
    Failed,
    Fetch,
    Given,
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
    Welcome,
)
from openhpo.stages import Stage, StateName
from openhpo.storage.checkpoints import name_of
from openhpo.study import Study

Curve = Callable[[Config, int], Mapping[str, float]]  # the metrics of a configuration at a step
Pace = Callable[[Config, int], float]  # seconds that a step takes
Setup = Callable[[Config], float]  # seconds from a call of the training function to the start of its first step


def at_once(config: Config) -> float:
    """A set-up that takes no time."""
    return 0.0


class Trained(Notice, frozen=True):
    """So much of the stage is trained."""

    stage: int
    step: int


class Beat(Notice, frozen=True):
    """Time to say that this rank lives."""


class ReplayTrainer(Actor):
    """Takes stages as a trainer does, keeps states, and lets the time go by that steps would take.

    Args:
        curve: What is reported.
        pace: How long a step takes.
        fetch: Seconds it takes to get a state from another rank.
        folder: The study's, for checkpoints.
        setup: How long it takes to set up, which comes before every stage but one that goes on where this trainer's last one
            has come to rest.
        warmup: Seconds that the first set-up takes longer.
    """

    def __init__(
        self,
        curve: Curve,
        pace: Pace,
        fetch: float = 0.0,
        folder: Path | None = None,
        *,
        setup: Setup = at_once,
        warmup: float = 0.0,
    ) -> None:
        self._curve = curve
        self._pace = pace
        self._fetch = fetch
        self._folder = folder
        self._setup = setup
        self._warmup = warmup  # that is still to come
        self._alive: tuple[StateName, Config] | None = None  # what the training function was left with
        self.states: dict[StateName, bytes] = {}
        self._stage: Stage | None = None  # that is trained, or waits for its state
        self._begun = False
        self._model = b""
        self._done = 0
        self._ends: list[float] = []  # when each step of what is being trained is over
        self._timer: Timer | None = None
        self._checked = True  # the verdict of the last check has come
        self._suspending = False
        self._lease = math.inf
        self.busy = 0.0  # seconds of training, set-ups included
        self.ended = 0.0  # when the study ended

    def on_start(self) -> None:
        self._join()

    def _join(self) -> None:
        self.send(COORDINATOR, Ready("simulated", "none", 0))

    def on_stop(self) -> None:
        self.ended = self.now()

    def ahead(self, now: float) -> float:
        """How much of `busy` is still to come."""
        return max(0.0, self._ends[-1] - now) if self._begun and self._ends else 0.0

    # ---- what a subclass may play with

    def train(self, model: bytes, stage: Stage, step: int) -> tuple[bytes, Mapping[str, float]]:
        """One step.

        Returns:
            The model after it, and what is reported.
        """
        return model, self._curve(stage.config, step)

    def pause(self, stage: Stage, step: int) -> int:
        """The step at which it reports next, after that one: the next check, or the end."""
        return next((check for check in stage.checks if check > step), stage.stop)

    def reported(self, stage: Stage, step: int) -> bool:
        """Called after reports; return whether to go on."""
        return True

    # ---- who is there

    @handles(Welcome)
    def on_welcome(self, message: Welcome, sender: Address) -> None:
        if self._lease == math.inf and message.lease < math.inf:
            self.after(message.lease / BEATS, Beat())
        self._lease = message.lease

    @handles(Beat)
    def on_beat(self, message: Beat, sender: Address) -> None:
        self.send(COORDINATOR, Alive())
        self.after(self._lease / BEATS, Beat())

    @handles(Alive)
    def on_alive(self, message: Alive, sender: Address) -> None:
        pass

    @handles(Kill)
    def on_kill(self, message: Kill, sender: Address) -> None:
        pass

    @handles(Expelled)
    def on_expelled(self, message: Expelled, sender: Address) -> None:
        self._clear()
        self.states.clear()
        self._join()

    def _clear(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._stage, self._begun = None, False

    @handles(PeerLost)
    def on_peer_lost(self, message: PeerLost, sender: Address) -> None:
        self.on_gone(Gone(message.rank), sender)

    @handles(Gone)
    def on_gone(self, message: Gone, sender: Address) -> None:
        if self._stage is not None and message.rank in self._stage.ranks:
            self._clear()  # the coordinator has taken it back
            if self._suspending:
                self._suspended()
        if self._stage is not None and not self._begun and self._stage.source == message.rank:
            self._missing(message.rank)

    # ---- states

    @handles(Drop)
    def on_drop(self, message: Drop, sender: Address) -> None:
        for state in message.states:
            self.states.pop(state, None)

    @handles(Fetch)
    def on_fetch(self, message: Fetch, sender: Address) -> None:
        model = self.states.get(message.state)
        self.send(sender, Absent(message.state, saved=False) if model is None else Given(message.state, model, 0.0))

    @handles(Given)
    def on_given(self, message: Given, sender: Address) -> None:
        if self._waits_for(message.state):
            self._begin(message.header, self._fetch)

    @handles(Absent)
    def on_absent(self, message: Absent, sender: Address) -> None:
        if self._waits_for(message.state):
            self._missing(sender.rank)

    def _waits_for(self, state: StateName) -> bool:
        return self._stage is not None and not self._begun and self._stage.before == state

    def _missing(self, rank: int) -> None:
        stage, self._stage = self._stage, None
        assert stage is not None
        assert stage.before is not None
        self.send(COORDINATOR, Missing(stage.id, stage.before, rank))

    def save(self, state: StateName, model: bytes, *, moved: bool = False) -> None:
        """Write a state to its checkpoint."""
        assert self._folder is not None
        path = self._folder / name_of(state)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(model)
        if moved:
            self.states.pop(state, None)
        self.send(COORDINATOR, Saved(state, moved))

    # ---- stages

    @handles(Train)
    def on_train(self, message: Train, sender: Address) -> None:
        stage = self._stage = message.stage
        self._begun = False
        before = stage.before
        if self._suspending:
            self._stage = None
            self.send(COORDINATOR, Returned(stage.id))
        elif before is None:
            self._begin(b"")
        elif before in self.states:
            self._begin(self.states[before] if stage.keep else self.states.pop(before))
        elif stage.source not in (None, self.rank):
            self.send(Address(stage.source, TRAINER), Fetch(before))
        else:
            self._read(stage, before)

    def _read(self, stage: Stage, before: StateName) -> None:
        path = self._folder / stage.file if self._folder is not None and stage.file else None
        if path is not None and path.exists():
            self._begin(path.read_bytes())
        else:
            self._missing(-1 if stage.file else self.rank)

    def _begin(self, model: bytes, delay: float = 0.0) -> None:
        assert self._stage is not None
        stage = self._stage
        setup = self._warmup + (0.0 if self._alive == (stage.before, stage.config) else self._setup(stage.config))
        self._warmup, self._alive = 0.0, None
        self._begun, self._model, self._done, self._checked = True, model, stage.start, True
        self._train_on(stage, delay + setup)
        self.busy += setup

    def _train_on(self, stage: Stage, delay: float = 0.0) -> None:
        """Train up to the next check, or to the end."""
        stop = self.pause(stage, self._done)
        paces = (self._pace(stage.config, step) for step in range(self._done + 1, stop + 1))
        self._ends = list(itertools.accumulate(paces, initial=self.now() + delay))[1:]
        self.busy += self._ends[-1] - self.now() - delay
        self._timer = self.after(self._ends[-1] - self.now(), Trained(stage.id, stop))

    @handles(Trained)
    def on_trained(self, message: Trained, sender: Address) -> None:
        stage = self._stage
        if stage is None or stage.id != message.stage or not self._begun:
            return
        first, rows = self._done + 1, []
        try:
            while self._done < message.step:
                self._model, metrics = self.train(self._model, stage, self._done + 1)
                self._done += 1
                rows.append(dict(metrics))
        except Exception as error:
            self._report(stage, first, rows)
            self._clear()
            self.send(COORDINATOR, Failed(stage.id, str(error), str(error)))
            if self._suspending:
                self._suspended()
            return
        self._report(stage, first, rows)
        if self._done == stage.stop:
            self._end(stage, kept=stage.park)
        elif self._suspending:
            self._leave(stage)
        elif self._done in stage.checks:
            self._checked = False
        elif self.reported(stage, self._done):
            self._train_on(stage)

    def _report(self, stage: Stage, first: int, rows: Sequence[Mapping[str, float]]) -> None:
        for names, group in itertools.groupby(rows, key=tuple):
            block = list(group)
            values = array("d", [value for row in block for value in row.values()])
            self.send(COORDINATOR, Reports(stage.id, first, len(block), names, values.tobytes()))
            first += len(block)

    @handles(Accepted)
    def on_accepted(self, message: Accepted, sender: Address) -> None:
        stage = self._stage
        if stage is None or stage.id != message.stage or not self._begun:
            return
        if message.stop:
            if self._timer is not None:
                self._timer.cancel()
            self._end(stage, kept=False)
        elif not self._checked and message.step >= self._done:
            self._checked = True
            if self._suspending:
                self._leave(stage)
            else:
                self._train_on(stage)

    def _end(self, stage: Stage, *, kept: bool) -> None:
        if kept:
            self.states[stage.after] = self._model
        self._clear()
        self._alive = (stage.after, stage.config) if kept else None
        self.send(COORDINATOR, Ended(stage.id, kept))
        if self._suspending:
            self._suspended()

    # ---- the end before the end

    @handles(Suspend)
    def on_suspend(self, message: Suspend, sender: Address) -> None:
        self._suspending = True
        stage = self._stage
        if stage is None:
            self._suspended()
        elif not self._begun:
            self._clear()
            self.send(COORDINATOR, Returned(stage.id))
            self._suspended()
        elif self._checked and self._timer is not None:
            self._timer.cancel()
            passed = min(bisect.bisect_left(self._ends, self.now()), len(self._ends) - 1)
            self._timer = self.after(self._ends[passed] - self.now(), Trained(stage.id, self._done + passed + 1))

    def _leave(self, stage: Stage) -> None:
        if self._folder is not None:
            self.save(StateName(stage.id, self._done), self._model)
        self._clear()
        self.send(COORDINATOR, Returned(stage.id))
        self._suspended()

    def _suspended(self) -> None:
        if self._folder is not None:
            for state, model in list(self.states.items()):
                self.save(state, model)
        self.send(COORDINATOR, Suspended())


@dataclass(frozen=True)
class Simulated:
    """What a study came to in virtual time.

    Attributes:
        makespan: Seconds from its start to its end.
        busy: Seconds of training, of all ranks together.
        ranks: How many there were.
        dry: Seconds until there was no more work for an idle rank; the end, where there always was.
        busy_until_dry: Seconds of training until then.
        study: The study itself.
    """

    makespan: float
    busy: float
    ranks: int
    dry: float
    busy_until_dry: float
    study: Study

    @property
    def utilisation(self) -> float:
        """The part of the ranks' time that went into training."""
        return self.busy / (self.makespan * self.ranks)

    @property
    def utilisation_until_dry(self) -> float:
        """The same, until the queue ran dry."""
        return self.busy_until_dry / (self.dry * self.ranks) if self.dry else 1.0


class Unwritten:
    """Takes what a study file would hold, and keeps nothing of it."""

    def __init__(self, folder: Path, definition: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        self.waiting = 0

    def ignore(self, *arguments: Any, **more: Any) -> None:
        """Nothing."""

    trial = stage = reports = event = flush = close = abandon = sync = discard = ignore


class Planner(Coordinator):
    """A coordinator that notes when trainers begin to wait for work."""

    def __init__(self, make_study: Callable[[], Study], trainers: list[ReplayTrainer]) -> None:
        super().__init__(
            lambda totals=None: make_study(),
            Path(tempfile.gettempdir()) / "openhpo-simulation-that-is-not-written",
            {},
            {},
            Silent(math.inf),
            Limits(lease=math.inf),
            make_writer=Unwritten,
        )
        self.dry: float | None = None
        self.busy_until_dry = 0.0
        self._all = trainers

    def _hand_out(self) -> None:
        super()._hand_out()
        if self.dry is None and self._scheduler.idle and self._study.begun == self._study.total:
            now = self.now()
            self.dry = now
            self.busy_until_dry = sum(trainer.busy - trainer.ahead(now) for trainer in self._all)


def simulate(
    study: Callable[[], Study],
    curve: Curve,
    pace: Pace,
    ranks: int,
    *,
    fetch: float = 0.0,
    seed: int = 0,
    setup: Setup = at_once,
    warmup: float = 0.0,
) -> Simulated:
    """Run a study in virtual time.

    Args:
        study: Makes it.
        curve: What trials report.
        pace: Seconds that a step takes.
        ranks: How many train; the first of them coordinates too.
        fetch: Seconds it takes to get a state from another rank.
        seed: Decides the order of what happens at the same time.
        setup: Seconds it takes to set up, wherever a trainer would call the training function.
        warmup: Seconds that the first set-up of each rank takes longer.
    """
    made: list[Study] = []
    trainers: list[ReplayTrainer] = []

    def make() -> Study:
        made.append(study())
        return made[0]

    planner = Planner(make, trainers)

    def cast(rank: int, size: int) -> Mapping[str, Actor]:
        trainers.append(ReplayTrainer(curve, pace, fetch, setup=setup, warmup=warmup))
        if rank == COORDINATOR.rank:
            return {COORDINATOR.name: planner, TRAINER: trainers[-1]}
        return {TRAINER: trainers[-1]}

    Simulation(cast, ranks, seed=seed).run()
    makespan, busy = trainers[0].ended, sum(trainer.busy for trainer in trainers)
    dry = makespan if planner.dry is None else planner.dry
    return Simulated(makespan, busy, ranks, dry, busy if planner.dry is None else planner.busy_until_dry, made[0])
