"""Workers that play a study: they hold states, lose them, fail, and report in any order, as real ranks may."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from openhpo.stages import Stage, StateName, Verdict
from openhpo.workload import Workload

Metrics = Callable[[Stage, int, float], Mapping[str, float]]  # stage, step, a number in [0, 1) that stands for the model


@dataclass
class Played:
    """What happened.

    Attributes:
        stages: All that were handed out, in order.
        steps: Trained in total.
        transfers: Stages that went on from another worker's state.
        given_back: Stages whose state was lost.
    """

    stages: list[Stage] = field(default_factory=list)
    steps: int = 0
    transfers: int = 0
    given_back: int = 0


@dataclass
class Training:
    """A stage under way."""

    stage: Stage
    step: int
    model: bytes


class Workers:
    """Plays a study to its end, and checks at every turn that what it is asked to do can be done.

    A model is a digest of everything that it was trained with, so two models are equal where their trainings were.

    Args:
        study: The study.
        count: How many workers.
        seed: Decides who is next.
        metrics: What is reported.
        failing: How likely a step is to fail.
        losing: How likely, at each turn, a state is to get lost.
    """

    def __init__(
        self, study: Workload, count: int, metrics: Metrics, *, seed: int = 0, failing: float = 0.0, losing: float = 0.0
    ) -> None:
        self.study = study
        study.allocation.expect(count)
        self.played = Played()
        self.held: list[dict[StateName, bytes]] = [{} for _ in range(count)]
        self._metrics = metrics
        self._random = random.Random(seed)
        self._failing = failing
        self._losing = losing
        self._running: dict[int, Training] = {}

    def play(self, turns: int = 1_000_000) -> Played:
        """Go on until the study is finished.

        Raises:
            AssertionError: It is not after so many turns, or asks for what cannot be.
        """
        for _ in range(turns):
            self._hand_out()
            if not self._running:
                assert self.study.finished, "nothing runs, nothing can be asked for, and the study is not finished"
                return self.played
            if self._losing and self._random.random() < self._losing:
                self._lose()
            self._step(self._random.choice(sorted(self._running)))
        raise AssertionError(f"the study is not finished after {turns} turns")

    def _hand_out(self) -> None:
        while idle := self._idle():
            stage = self.study.ask(*idle)
            self._drop()
            if stage is None:
                return
            assert set(stage.ranks) <= set(idle), "handed out to a rank that is busy"
            assert len(set(stage.ranks)) == len(stage.ranks)
            self._begin(stage.ranks[0], stage)

    def _idle(self) -> list[int]:
        busy = {rank for training in self._running.values() for rank in training.stage.ranks}
        return [worker for worker in range(len(self.held)) if worker not in busy]

    def _begin(self, worker: int, stage: Stage) -> None:
        assert 0 <= stage.start < stage.stop <= self.study.widest
        model = b""
        before = stage.before
        if before is not None:
            assert stage.source is not None, "no rank holds the state to go on from"
            there = self.held[stage.source]
            if before not in there:
                self.study.lost(before, stage.source)
                self.study.give_back(stage)
                self.played.given_back += 1
                return
            model = there[before]
            self.played.transfers += stage.source != worker
            if stage.source == worker and not stage.keep:
                del there[before]
        else:
            assert stage.start == 0
        self.played.stages.append(stage)
        self._running[worker] = Training(stage, stage.start, model)

    def _step(self, worker: int) -> None:
        training = self._running[worker]
        stage = training.stage
        training.step += 1
        self.played.steps += 1
        course = self.study.searches[stage.space].space.course(stage.config)
        values = {**course.constants, **{name: course.value(name, training.step - 1) for name in course.schedules}}
        text = repr((training.model, training.step, sorted(values.items())))
        training.model = hashlib.blake2b(text.encode(), digest_size=8).digest()
        if self._failing and self._random.random() < self._failing:
            del self._running[worker]
            self.study.fail(stage, "out of luck")
            self._drop()
            return
        number = int.from_bytes(training.model, "little") / 2**64
        metrics = self._metrics(stage, training.step, number)
        verdict = self.study.tell(stage, training.step, metrics)
        searches = self.study.searches
        engines = all(search.replicates == 1 and not search.objective.ends for search in searches)  # who alone stops trials
        if verdict is Verdict.STOP and engines and all(math.isfinite(value) for value in metrics.values()):
            assert training.step in stage.checks or training.step == stage.stop, "stopped where training does not wait for it"
        if verdict is Verdict.STOP or training.step == stage.stop:
            del self._running[worker]
            kept = stage.park and training.step == stage.stop
            if kept:
                self.held[worker][stage.after] = training.model
            self.study.end(stage, kept=kept)
            self._drop()

    def _drop(self) -> None:
        for release in self.study.releases():
            for rank in release.ranks:
                assert release.state in self.held[rank] or self._losing, "released a state that nobody holds"
                self.held[rank].pop(release.state, None)

    def _lose(self) -> None:
        worker = self._random.randrange(len(self.held))
        if self.held[worker]:
            del self.held[worker][self._random.choice(sorted(self.held[worker]))]
