"""Plays whole studies in which everything goes wrong that can: the real coordinator, messages and study file, in virtual time.

One seed decides all of it: the space, the engine's numbers, how many ranks, delays, the order of what happens at once, ranks
that die, stand still or are cut off, runs that are killed, suspended and continued, trainings that fail or whose objective is
not finite, states that get lost. `python -m openhpo.testing.faults --seed 17 --engine ASHA` plays one again and tells what
happens in it.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openhpo.actors import Actor, Interrupted, handles
from openhpo.actors.messages import Address
from openhpo.actors.simulated import Simulation
from openhpo.coordinator import Coordinator
from openhpo.earlier import Source, Trained
from openhpo.engines import (
    ASHA,
    Engine,
    Full,
    Hyperband,
    LearningCurveMatching,
    MedianStopping,
    PopulationBased,
    SuccessiveHalving,
)
from openhpo.hyperparameters import Categorical, Float, Integer
from openhpo.limits import Limits
from openhpo.objective import Maximize, Minimize
from openhpo.plan import Plan
from openhpo.protocol import COORDINATOR, TRAINER, Accepted, Reports
from openhpo.replaying import ReplayTrainer
from openhpo.result import load_file
from openhpo.samplers import TPE, Grid, Random, Refinement, Sampler, Sobol
from openhpo.samplers.tpe import ParzenSearch
from openhpo.schedules import Exponential
from openhpo.space import Space
from openhpo.stages import AT_REST, Stage, StateName
from openhpo.storage import read, schema
from openhpo.testing.promises import Make, Seen, check_file, facts
from openhpo.workload import Workload

LIVES = 12  # runs of a study in which something may go wrong; the next one is left alone, so that it comes to an end

PATIENCE = 10_000.0  # virtual seconds after which a run counts as stuck


class Slow(TPE):
    """A sampler that is asked in a worker thread."""

    def __init__(self, *, waits: bool) -> None:
        super().__init__(startup=3)
        self.waits = waits

    def bind(self, space: Space, seed: int) -> ParzenSearch:
        suggest = super().bind(space, seed)
        suggest.slow, suggest.waits = True, self.waits
        return suggest


Method = tuple[Engine, Sampler] | tuple[Engine, Sampler, int]  # an engine, a sampler, and replicates where there are any


def _first(rng: random.Random) -> Method:
    methods: list[Method] = [
        (ASHA(9, 1, 3), Random()),
        (Hyperband(9, 1, 3), Slow(waits=True)),
        (MedianStopping(9, 2, 1, 3), Sobol(), 2),
    ]
    return rng.choice(methods)


def _third(rng: random.Random) -> Method:
    methods: list[Method] = [(PopulationBased(9, 2), Random()), (ASHA(6, 1, 2, stopping=True), Slow(waits=False))]
    return rng.choice(methods)


# by name: a method, or those of several studies of one job
ENGINES: dict[str, Callable[[random.Random], Method | list[Method]]] = {
    "Random": lambda rng: (Full(rng.randint(1, 9)), Random()),
    "Grid": lambda rng: (Full(rng.randint(1, 9)), Grid(x=3)),
    "Sobol": lambda rng: (Full(rng.randint(1, 9)), Sobol()),
    "SuccessiveHalving": lambda rng: (SuccessiveHalving(9, 1, rng.choice([2, 3])), Random()),
    "Hyperband": lambda rng: (Hyperband(9, 1, 3), Random()),
    "ASHA": lambda rng: (ASHA(9, 1, rng.choice([2, 3])), Random()),
    "BOHB": lambda rng: (Hyperband(9, 1, 3, select_brackets=True), TPE(startup=4, random_fraction=0.2)),
    "ASHA stopping": lambda rng: (ASHA(9, 1, 3, stopping=True), Random()),
    "LearningCurveMatching": lambda rng: (LearningCurveMatching(9, [3, 6], accumulation=4), Random()),
    "MedianStopping": lambda rng: (MedianStopping(9, 2, 1, 3), Random()),
    "slow sampler": lambda rng: (rng.choice([Full(4), ASHA(9, 1, 3)]), Slow(waits=True)),
    "slow sampler that is not waited for": lambda rng: (rng.choice([Full(4), Hyperband(9, 1, 3)]), Slow(waits=False)),
    "replicates": lambda rng: (rng.choice([Full(4), ASHA(9, 1, 3), Hyperband(9, 1, 3)]), Random(), rng.choice([2, 3])),
    "replicates, stopping": lambda rng: (rng.choice([MedianStopping(9, 2, 1, 2), ASHA(9, 1, 3, stopping=True)]), Sobol(), 3),
    "replicates, slow sampler": lambda rng: (ASHA(9, 1, 3), Slow(waits=True), 2),
    "refinement": lambda rng: (rng.choice([Full(4), ASHA(9, 1, 3)]), Refinement(TPE(startup=2), 4, 3, cluster_size=2)),
    "PopulationBased": lambda rng: (PopulationBased(9, rng.choice([2, 3])), Random()),
    "warm tree, orderly": lambda rng: rng.choice([(Full(rng.randint(2, 9)), Random()), (SuccessiveHalving(9, 1, 3), Random())]),
    "warm tree": lambda rng: rng.choice([(ASHA(9, 1, 3), Random()), (PopulationBased(9, 2), Random())]),
    "together, orderly": lambda rng: [(Full(rng.randint(1, 9)), Grid(x=3)), (SuccessiveHalving(9, 1, 3), Random())],
    "together": lambda rng: [_first(rng), (Full(rng.randint(1, 9)), Random()), _third(rng)],
}
# these decide by results alone, not by who was first
ORDERLY = {"Random", "Grid", "Sobol", "SuccessiveHalving", "Hyperband", "together, orderly", "warm tree, orderly"}


class Killed(BaseException):
    """The whole run is gone, at once."""


@dataclass
class Lot:
    """What a seed stands for.

    Attributes:
        rng: Decides what happens next.
        ranks: How many there are.
        failing: How likely a step is to raise, by its model: the same training fails again.
        flaky: How likely it is to raise by chance.
        infinite: How likely an objective is not to be finite, by its model.
        losing: How likely a state is to be gone when it is asked for.
        saving: How likely a state is written to a checkpoint.
        trouble: Faults a run, on average.
        group: Ranks that train a trial together, as far as there are so many.
        earlier: What an earlier study has trained.
    """

    rng: random.Random
    engine: str
    ranks: int
    trials: int
    merge: bool
    schedules: bool
    retries: int
    failing: float
    flaky: float
    infinite: float
    losing: float
    saving: float
    trouble: float
    group: int
    earlier: Trained | None = None

    @staticmethod
    def of(engine: str, seed: int) -> Lot:
        rng = random.Random(f"{engine} {seed}")

        def maybe(most: float) -> float:
            return rng.choice([0.0, 0.0, rng.random() * most])

        return Lot(
            rng,
            engine,
            rng.choice([1, 2, 3, 5, 8]),
            rng.randint(2, 14),
            rng.random() < 0.7,
            rng.random() < 0.5,
            rng.choice([0, 0, 2]),
            maybe(0.03),
            maybe(0.05),
            maybe(0.03),
            maybe(0.2),
            rng.choice([0.0, 0.3, 1.0]),
            rng.choice([0.5, 2.0, 6.0]),
            rng.choice([1, 1, 2, 3]),
        )

    def study(self, seed: int) -> Make:
        """Makes the studies, again and again the same."""
        start = self.rng.randrange(1 << 30)

        def make(totals: Sequence[int] | None = None, /) -> Workload:
            found = ENGINES[self.engine](random.Random(start))
            methods = found if isinstance(found, list) else [found]
            counts = [self.trials] * len(methods) if totals is None else totals
            plans = {}
            for place, ((engine, sampler, *replicates), trials) in enumerate(zip(methods, counts, strict=True)):
                items: dict[str, Any] = {"x": Float((0.0, 1.0)), "kind": Categorical(["a", "b"])}
                if self.schedules:
                    items["lr"] = Exponential(0.5, Categorical([0.5, 0.1]), [Integer((1, 4))])
                if place % 2:  # so that studies differ in what is fixed, and meet all the same
                    items["kind"] = "a"
                plans["" if len(methods) == 1 else f"study{place}"] = Plan(
                    space=Space(items),
                    objective=Minimize("loss") if place < 2 else Maximize("loss"),
                    engine=engine,
                    sampler=sampler,
                    trials=trials,
                    replicates=replicates[0] if replicates else 1,
                )
            return Workload(
                plans,
                seed=seed,
                merge=self.merge or len(methods) > 1 or "warm" in self.engine,
                ranks_per_trial=self.group,
                earlier=self.earlier,
            )

        return make


class FaultyTrainer(ReplayTrainer):
    """A trainer with bad luck. Its models are digests of all that they were trained with, so equal ones are equal trainings."""

    def __init__(self, plan: Lot, seen: Seen, spaces: Sequence[Space], folder: Path) -> None:
        super().__init__(lambda config, step: {}, lambda config, step: plan.rng.expovariate(1.0) + 1e-3, folder=folder)
        self._plan = plan
        self._seen = seen
        self._spaces = spaces

    def train(self, model: bytes, stage: Stage, step: int) -> tuple[bytes, Mapping[str, float]]:
        plan = self._plan
        course = self._spaces[stage.space].course(stage.config)
        values = {**course.constants, **{name: course.value(name, step - 1) for name in course.schedules}}
        text = repr((model, step, stage.seed, sorted(values.items())))
        model = hashlib.blake2b(text.encode(), digest_size=8).digest()
        number = int.from_bytes(model, "little") / 2**64
        if number < plan.failing or plan.rng.random() < plan.flaky:
            raise RuntimeError("out of luck")
        if plan.failing <= number < plan.failing + plan.infinite:
            return model, {"loss": math.nan}
        return model, {"loss": values["x"] + 1 / step + 0.01 * number}

    def pause(self, stage: Stage, step: int) -> int:
        most = super().pause(stage, step)
        return self._plan.rng.randint(step + 1, most)

    def reported(self, stage: Stage, step: int) -> bool:
        if self._plan.rng.random() < self._plan.saving / 3:
            self.save(StateName(stage.id, step), self._model)
        return True

    def send(self, address: Address, message: Any, buffers: Any = ()) -> None:
        if isinstance(message, Reports):
            values = memoryview(message.values).cast("d")
            for place in range(message.count):
                key = (message.stage, message.first + place)
                now = values[place * len(message.names)]
                self._seen.values.setdefault(key, now)
        super().send(address, message, buffers)

    @handles(Accepted)
    def on_accepted(self, message: Accepted, sender: Address) -> None:
        self._seen.acknowledged[message.stage] = max(message.step, self._seen.acknowledged.get(message.stage, 0))
        super().on_accepted(message, sender)

    def _end(self, stage: Stage, *, kept: bool) -> None:
        super()._end(stage, kept=kept)
        if kept and stage.after in self.states and not self._suspending:
            if self._plan.rng.random() < self._plan.saving:
                self.save(stage.after, self._model, moved=self._plan.rng.random() < 0.5)
            elif self._plan.rng.random() < self._plan.losing:
                del self.states[stage.after]


class Storm(Simulation):
    """A simulation of one run that goes wrong now and then."""

    def __init__(self, plan: Lot, actors: Callable[[int, int], Mapping[str, Actor]], seen: Seen, *, calm: bool) -> None:
        rng = plan.rng
        super().__init__(
            actors, plan.ranks, seed=rng.randrange(1 << 30), latency=rng.choice([1e-6, 0.05]), jitter=rng.choice([1e-6, 0.3])
        )
        self._plan = plan
        self._seen = seen
        if not calm:
            time = 0.0
            for _ in range(10):
                time += rng.expovariate(plan.trouble / 20)
                self.at(time, self._go_wrong)

    def _go_wrong(self) -> None:
        if not self.loops[0].actors:
            return  # it is over
        rng = self._plan.rng
        what = rng.choice(["kill all", "kill", "kill", "freeze", "freeze", "cut", "suspend"])
        rank = rng.randrange(self.size)
        self._seen.log.append(f"{self.time:.3f}: {what} {rank}")
        if what == "kill all" or (what == "kill" and rank == 0):
            for loop in self.loops:
                loop.actors.clear()
            raise Killed
        if what == "kill":
            self.kill(rank)
        elif what == "freeze":
            self.freeze(rank, rng.expovariate(0.1))
        elif what == "cut" and rank:
            self.cut(rank, rng.randrange(rank), rng.expovariate(0.1))
        elif what == "suspend":
            loop = self.loops[rank]
            for name in list(loop.actors):
                if Interrupted in loop.actors[name].handlers:
                    self.put((loop, name, Interrupted(signal.SIGTERM)))


class Quiet:
    """Notes what the coordinator says."""

    period = 1e9

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def show(self, progress: Any) -> None:
        pass

    def note(self, text: str) -> None:
        self._log.append(f"    {text}")

    def close(self) -> None:
        pass


def play(engine: str, seed: int, folder: Path) -> Seen:
    """Play one seed to its end.

    Args:
        engine: A key of ENGINES.
        seed: Decides everything.
        folder: An empty folder for the study.

    Raises:
        AssertionError: A promise was broken.
    """
    plan = Lot.of(engine, seed)
    make, seen = plan.study(seed), Seen()
    path = folder / "study"
    if "warm" in engine:
        plan.earlier = _earlier(plan, seed, folder / "earlier")
    while True:
        seen.lives += 1
        calm = seen.lives > LIVES
        if calm:
            plan.flaky = plan.losing = 0.0
        seen.log.append(f"life {seen.lives} on {plan.ranks} ranks")
        study = _live(plan, make, seen, path, calm=calm)
        found = check_file(make, seen, path, study)
        seen.forget(path)
        if read(path).events["kind"][-1].decode() == schema.FINISHED:
            break
        assert seen.lives <= LIVES + 1, "the study does not come to its end"
        plan.ranks = plan.rng.choice([1, 2, 3, 5, 8])
    check_end(plan, make, found)
    return seen


def _earlier(plan: Lot, seed: int, path: Path) -> Trained:
    """What a study of the same space has trained, in which nothing went wrong but the trainings that had to."""
    before = replace(plan, engine="Random", merge=True, flaky=0.0, losing=0.0, trials=plan.rng.randint(1, plan.trials))
    seen = Seen()
    _live(before, before.study(seed), seen, path, calm=True)
    return Trained([Source("earlier", load_file(path))])


def _live(plan: Lot, make: Make, seen: Seen, path: Path, *, calm: bool) -> Workload | None:
    """One run; return its study where it ended in order."""
    coordinators: list[Coordinator] = []

    def cast(rank: int, size: int) -> Mapping[str, Actor]:
        trainer = FaultyTrainer(plan, seen, [search.space for search in make(None).searches], path)
        if rank != COORDINATOR.rank:
            return {TRAINER: trainer}
        limits = Limits(retries=plan.retries, lease=plan.rng.choice([2.0, 10.0]))
        coordinators.append(Coordinator(make, path, {}, {}, Quiet(seen.log), limits))
        return {COORDINATOR.name: coordinators[0], TRAINER: trainer}

    storm = Storm(plan, cast, seen, calm=calm)
    try:
        storm.run(until=PATIENCE)
    except Killed:
        # what the operating system has at this moment is what a kill leaves
        there = (path / schema.FILE).read_bytes()
        writer = coordinators[0]._writer
        if writer is not None:
            writer.abandon()
            (path / schema.FILE).write_bytes(there)
        return None
    return coordinators[0]._study


def check_end(plan: Lot, make: Make, study: Workload) -> None:
    """What has to hold of a study that has come to its end.

    Raises:
        AssertionError: It does not.
    """
    assert study.begun == study.total
    trials = [trial for search in study.searches for trial in search.trials]
    assert {trial.state for trial in trials} <= AT_REST
    unlucky = any("luck" in trial.error or "lost" in trial.error for trial in trials)
    if plan.engine in ORDERLY and not unlucky:
        calm = [trial for search in alone(plan, make).searches for trial in search.trials]
        assert [facts(trial)[:-1] for trial in trials] == [facts(trial)[:-1] for trial in calm], (
            "the study is not the one that would have been"
        )


def alone(plan: Lot, make: Make) -> Workload:
    """The study as it would have been with one trainer, no trouble, and nothing trained before."""
    plan.earlier = None
    study = make(None)
    trainer = FaultyTrainer(plan, Seen(), [search.space for search in study.searches], Path())
    plan.flaky = 0.0
    held: dict[StateName, bytes] = {}
    while (stage := study.ask(0)) is not None:
        model = b"" if stage.before is None else held[stage.before]
        for step in range(stage.start + 1, stage.stop + 1):
            try:
                model, metrics = trainer.train(model, stage, step)
            except RuntimeError as error:
                study.fail(stage, str(error))
                break
            if study.tell(stage, step, metrics).value == "stop" or step == stage.stop:
                held[stage.after] = model
                study.end(stage, kept=stage.park and step == stage.stop)
                break
    assert study.finished
    return study


def main(arguments: Iterable[str] | None = None) -> None:
    """Play seeds, and tell of those that break a promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=sorted(ENGINES), help="one of them; all by default")
    parser.add_argument("--seed", type=int, help="one of them, with what happens in it")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=100, help="how many for each engine")
    options = parser.parse_args(None if arguments is None else list(arguments))
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    broken = 0
    for engine in [options.engine] if options.engine else ENGINES:
        for seed in seeds:
            try:
                seen = once(engine, seed)
                if options.seed is not None:
                    print("\n".join(seen.log))
            except Exception as error:
                broken += 1
                print(f"{type(error).__name__}: {error}\n  python -m openhpo.testing.faults --engine '{engine}' --seed {seed}")
                if options.seed is not None:
                    raise
    print(f"{broken} of {len(seeds) * (1 if options.engine else len(ENGINES))} seeds break a promise")
    raise SystemExit(1 if broken else 0)


def once(engine: str, seed: int) -> Seen:
    """Play one seed in a folder of its own, in memory where the machine offers that."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(dir=place))
    try:
        return play(engine, seed, folder)
    finally:
        shutil.rmtree(folder)


__all__ = ["ENGINES", "main", "once", "play"]

if __name__ == "__main__":
    main()
