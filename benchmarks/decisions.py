"""What a decision costs in a study of 1,000 and of 100,000 trials: ask, tell and end, a report.

The coordinator's calls of `Study` in one loop that plays 64 trainers, without actors, files or training. Configurations come
from a sampler of two multiplications, as drawing them by ConfigSpace takes 50 to 100 µs a trial however many there are. Beside
it, a bare loop that hands out spans of steps and keeps what is reported. "Last tenth" are the last 10 % of the reports, so
that a cost which grows with the study shows although it was small at first. All times are CPU times of this thread, which
other processes disturb least; with Python's garbage collection, tamed as the coordinator does it, and without.

Then the tree of stages and the frontier by themselves, beside nested dictionaries and `heapq`.

Run with: python benchmarks/decisions.py [--trials 100000] [--rounds 1] [--only ASHA] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import heapq
import pstats
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import openhpo as hpo
from openhpo.course import Course
from openhpo.hyperparameters import Config
from openhpo.memory import LongLived
from openhpo.samplers import Suggest
from openhpo.tree import Frontier, Node, Tree

FEW, MANY = 1_000, 100_000  # trials
SMALL_REPEATS = 5  # of the small study in each round
TRAINERS = 64
PERIOD = 100  # reports between two looks at the clock
LIMIT = 30.0  # CPU seconds after which a run is given up
GROWTH_AIM, ASHA_AIM = 1.5, 20.0  # times the cost in the small study; µs a report
GOLDEN, PLASTIC = 0.6180339887498949, 0.7548776662466927  # steps of two sequences that fill [0, 1) evenly
NOISE = [random.Random(7).gauss(0.0, 0.05) for _ in range(4093)]  # a prime, so that no trial repeats another's
RANKS, LEVELS = 64, 4  # that hold states, and priorities, in the frontier


class Cheap:
    """A sampler that costs next to nothing."""

    def bind(self, space: hpo.Space, seed: int) -> Suggest:
        return CheapDraws()

    def definition(self) -> dict[str, Any]:
        return {"sampler": "Cheap"}


class CheapDraws(hpo.Suggest):
    learns = False
    size = None

    def __call__(self, number: int, history: object, rng: object) -> Config:
        return {"x": number * GOLDEN % 1.0, "y": number * PLASTIC % 1.0}


class Subject(Protocol):
    """What the loop calls: a `Study`, or the bare baseline."""

    def ask(self, worker: int = 0) -> hpo.Stage | None: ...
    def tell(self, stage: hpo.Stage, step: int, metrics: dict[str, float]) -> hpo.Verdict: ...
    def end(self, stage: hpo.Stage, *, kept: bool = True) -> None: ...
    def prepare(self) -> None: ...
    def changes(self) -> Sequence[object]: ...
    def releases(self) -> Sequence[object]: ...


class Bare:
    """Hands out every trial once, and keeps what it reports."""

    def __init__(self, trials: int, steps: int) -> None:
        self._left = trials
        self._steps = steps
        self._draw = CheapDraws()
        self.values: list[list[float]] = []

    def ask(self, worker: int = 0) -> hpo.Stage | None:
        number = len(self.values)
        if number == self._left:
            return None
        self.values.append([])
        return hpo.Stage(number, number, None, 0, self._steps, self._draw(number, (), None), 0, (worker,))

    def tell(self, stage: hpo.Stage, step: int, metrics: dict[str, float]) -> hpo.Verdict:
        self.values[stage.trial].append(metrics["loss"])
        return hpo.Verdict.CONTINUE

    def end(self, stage: hpo.Stage, *, kept: bool = True) -> None: ...
    def prepare(self) -> None: ...
    def changes(self) -> Sequence[object]:
        return ()

    def releases(self) -> Sequence[object]:
        return ()


@dataclass(frozen=True)
class Case:
    """A method to measure.

    Attributes:
        name: How the table calls it.
        make: Gives the study of so many trials.
        aim: µs of CPU a report; none where only the growth has one.
    """

    name: str
    make: Callable[[int], Subject]
    aim: float | None = None


PLAIN: dict[str, Any] = {"x": hpo.Float((0.0, 1.0)), "y": hpo.Float((0.0, 1.0))}
SHARED: dict[str, Any] = {**PLAIN, "lr": hpo.Steps((0.5, "x", "y"), (1, 1))}  # all trials have the first step in common


def study_of(engine: Callable[[], hpo.Engine], hyperparameters: dict[str, Any] = PLAIN) -> Callable[[int], Subject]:
    def make(trials: int) -> hpo.Study:
        return hpo.Study(hpo.Space(hyperparameters), hpo.Minimize("loss"), engine=engine(), sampler=Cheap(), trials=trials)

    return make


CASES = (
    Case("bare loop, 3 steps", lambda trials: Bare(trials, 3)),
    Case("Full, 3 steps", study_of(lambda: hpo.Full(3))),
    Case("Full, 3 steps, the first shared by all", study_of(lambda: hpo.Full(3), SHARED)),
    Case("ASHA, R = 27, eta = 3", study_of(lambda: hpo.ASHA(27, reduction_factor=3)), ASHA_AIM),
    Case("LearningCurveMatching, 20 steps", study_of(lambda: hpo.LearningCurveMatching(20))),
    Case("PopulationBased, 4 intervals of 1 step", study_of(lambda: hpo.PopulationBased(4, interval=1))),
)


# ---- studies


@dataclass(frozen=True)
class Measured:
    """CPU time of one study.

    Attributes:
        mean: µs a report over all of it.
        last: µs a report over the last tenth.
        trial: µs a trial: its asks, its reports and its end.
        trials: How many began before it was given up; 0 where it came to its end.
    """

    mean: float
    last: float
    trial: float
    trials: int


class Clock:
    """How much CPU time had gone by after how many reports."""

    def __init__(self) -> None:
        self._began = time.thread_time()
        self.marks: list[tuple[int, float]] = [(0, 0.0)]

    def mark(self, told: int) -> float:
        seconds = time.thread_time() - self._began
        self.marks.append((told, seconds))
        return seconds

    def microseconds(self, part: float = 1.0) -> float:
        """CPU time a report over the last `part` of the reports."""
        told, seconds = self.marks[-1]
        before, earlier = next(mark for mark in reversed(self.marks) if mark[0] <= told * (1 - part))
        return 1e6 * (seconds - earlier) / (told - before)


def loss(config: Config, trial: int, step: int) -> float:
    return float(config["x"] + config["y"] / step + NOISE[(31 * trial + step) % len(NOISE)])


def drive(study: Subject, limit: float) -> Measured:
    """Play trainers that take turns to report a step, and a coordinator that has nothing else to do."""
    clock, told, begun, given_up = Clock(), 0, 0, False
    long_lived = LongLived()
    idle = deque(range(TRAINERS))
    running = hand_out(study, idle)
    while running and not given_up:
        going: list[tuple[hpo.Stage, int]] = []
        for stage, step in running:
            verdict = study.tell(stage, step, {"loss": loss(stage.config, stage.trial, step)})
            told += 1
            if told % PERIOD == 0:
                given_up = clock.mark(told) > limit
            if step < stage.stop and verdict is hpo.Verdict.CONTINUE:
                going.append((stage, step + 1))
                continue
            begun = max(begun, stage.trial + 1)
            study.end(stage)
            drain(study)
            idle.append(stage.ranks[0])
            going += hand_out(study, idle)
            if gc.isenabled():
                long_lived.grown(max(stage.id for stage, _ in going[-2:]) if going else 0)
        running = going
    seconds = clock.mark(told)
    return Measured(clock.microseconds(), clock.microseconds(0.1), 1e6 * seconds / begun, begun if given_up else 0)


def hand_out(study: Subject, idle: deque[int]) -> list[tuple[hpo.Stage, int]]:
    """Give idle trainers stages, each with the step that is next, as the coordinator does."""
    given = []
    while idle and (stage := study.ask(idle[0])) is not None:
        idle.popleft()
        drain(study)
        given.append((stage, stage.start + 1))
    drain(study)
    study.prepare()
    return given


def drain(study: Subject) -> None:
    for _ in study.changes():
        pass
    for _ in study.releases():
        pass


def measure(case: Case, trials: int, limit: float, *, collect: bool) -> Measured:
    gc.unfreeze()
    gc.collect()
    if not collect:
        gc.disable()
    try:
        return drive(case.make(trials), limit)
    finally:
        gc.enable()


def median(runs: Sequence[Measured]) -> Measured:
    middle = statistics.median
    mean, last, trial = (middle(getattr(run, name) for run in runs) for name in ("mean", "last", "trial"))
    return Measured(mean, last, trial, max(run.trials for run in runs))


def report_case(case: Case, options: argparse.Namespace, bare: float | None) -> float:
    """Measure a method and print its lines; return µs a report in the large study."""
    drive(case.make(200), options.limit)  # imports
    means = []
    for collect in (True, False):
        few = [measure(case, FEW, options.limit, collect=collect) for _ in range(SMALL_REPEATS * options.rounds)]
        many = [measure(case, options.trials, options.limit, collect=collect) for _ in range(options.rounds)]
        small, large = median(few), median(many)
        name = case.name if collect else "    without garbage collection"
        ratio = "" if bare is None else f"{large.mean / bare:.1f}"
        aims = [f"x {GROWTH_AIM}"] if bare is not None else []
        aims += [f"{case.aim:g} µs"] if case.aim is not None else []
        line = f"{name:42}{small.mean:9.2f}{large.mean:10.2f}{large.last:12.2f}{large.mean / small.mean:9.2f}"
        line += f"{large.last / small.mean:12.2f}{large.trial / small.trial:9.2f}{ratio:>8}"
        line += f"  {' and '.join(aims) if collect else ''}"
        if large.trials:
            line += f"  GIVEN UP after {options.limit:g} s, at trial {large.trials:,}"
        print(line.rstrip(), flush=True)
        means.append(large.mean)
    return means[0]


def report_studies(options: argparse.Namespace) -> None:
    print(f"µs of CPU a report: ask, tell, end and all they cause; medians of {options.rounds} (small: {SMALL_REPEATS} times")
    print("as many) runs; growth against the mean of the small study, also of µs a trial, as a method that stops more trials")
    print("with time has fewer reports for each ask and each check; the last number is the ratio to the bare loop")
    head = (
        f"{'trials':42}{FEW:9,}{options.trials:10,}{'last tenth':>12}{'growth':>9}{'last tenth':>12}{'a trial':>9}{'/ bare':>8}"
    )
    print(f"{head}  at most")
    bare = report_case(CASES[0], options, None)
    for case in CASES[1:]:
        if options.only.lower() in case.name.lower():
            report_case(case, options, bare)


# ---- the tree and the frontier


def rich_configs(count: int) -> list[Config]:
    """Initial rate, decay and three periods: the shape of Table 1(a) of "Stage-based Hyper-parameter Optimization for Deep
    Learning" (Shin et al. 2019), with as many values as it takes.
    """
    numbers = list(range(14 * 6 * 11**3))
    random.Random(1).shuffle(numbers)
    configs = []
    for number in numbers[:count]:
        rest, config = number, {}
        for name, values in {"initial": 14, "factor": 6, "a": 11, "b": 11, "c": 11}.items():
            rest, place = divmod(rest, values)
            config[name] = place + 1 if values == 11 else (place + 1) / 16
        configs.append(config)
    return configs


RICH: dict[str, Any] = {
    **{name: hpo.Float((0.0, 1.0)) for name in ("initial", "factor")},
    **{name: hpo.Integer((1, 11)) for name in "abc"},
    "lr": hpo.Exponential("initial", "factor", ("a", "b", "c")),
}
LENGTH = 60  # steps of these trials


def cost(function: Callable[[Any], object], items: Sequence[Any]) -> float:
    """µs of CPU a call."""
    began = time.thread_time()
    for item in items:
        function(item)
    return 1e6 * (time.thread_time() - began) / len(items)


def insert_bare(trie: dict[Any, Any], config: Config) -> None:
    node = trie
    for part in config.values():
        node = node.setdefault(part, {})


def tree_costs(count: int) -> dict[str, float]:
    configs, space, tree, trie = rich_configs(count), hpo.Space(RICH), Tree(), {}  # type: ignore[var-annotated]
    courses: list[Course] = []
    found = {
        "a trial's way as nested dictionaries (bare)": cost(lambda config: insert_bare(trie, config), configs),
        "its schedule as a course": cost(lambda config: courses.append(space.course(config)), configs),
        "Tree.plan, a trial to come": cost(lambda course: tree.plan(course, LENGTH), courses),
        "Tree.begin, its way again": cost(lambda course: tree.begin(course, LENGTH), courses),
    }
    assert sum(node.future for node in tree.nodes()) == 0
    return found


def frontier_costs(count: int) -> dict[str, float]:
    draw = random.Random(2)
    entries = []
    for number in range(count):
        parent = Node(None, Course({}, {}, {}), 0, 1)
        parent.holders = (number % RANKS,)
        entries.append((Node(parent, parent.course, 1, 2), draw.randrange(LEVELS), draw.randrange(LENGTH)))
    draw.shuffle(entries)
    frontier, heap = Frontier(), []  # type: ignore[var-annotated]
    keys = [(-priority, -remaining, number) for number, (_, priority, remaining) in enumerate(entries)]

    def take(number: int) -> None:
        node = frontier.peek((number % RANKS,))
        assert node is not None
        frontier.remove(node)

    found = {
        "heapq.heappush (bare)": cost(lambda key: heapq.heappush(heap, key), keys),
        "heapq.heappop (bare)": cost(lambda _: heapq.heappop(heap), keys),
        "Frontier.add, of so many nodes": cost(lambda entry: frontier.add(*entry), entries),
        "Frontier.peek and remove, until none is left": cost(take, range(count)),
    }
    assert len(frontier) == 0
    return found


def planning_seconds(trials: int) -> float:
    """CPU seconds of the first `ask` of a study with schedules, which draws and plans its trials ahead."""
    rich = {**PLAIN, "lr": hpo.Cosine("x", 0.0, LENGTH)}
    study = hpo.Study(hpo.Space(rich), hpo.Minimize("loss"), engine=hpo.Full(LENGTH), sampler=Cheap(), trials=trials)
    began = time.thread_time()
    study.ask()
    return time.thread_time() - began


def report_parts(options: argparse.Namespace) -> None:
    print(f"\n{'µs of CPU a call, medians':54}{FEW:>9,}{options.trials:>10,}{'growth':>9}")
    for costs in (tree_costs, frontier_costs):
        few = [costs(FEW) for _ in range(SMALL_REPEATS)]
        many = [costs(options.trials) for _ in range(max(3, options.rounds))]
        for name in few[0]:
            small, large = (statistics.median(run[name] for run in runs) for runs in (few, many))
            print(f"{name:54}{small:9.2f}{large:10.2f}{large / small:9.2f}", flush=True)
    small, large = planning_seconds(FEW), planning_seconds(options.trials)
    print(f"{'first ask with schedules (plans 20,000 at most), seconds':54}{small:7.2f}{large:10.2f}", flush=True)


def profile_case(options: argparse.Namespace) -> None:
    """Where the time goes in the large study of the method that `--only` names."""
    case = next(case for case in CASES if options.only.lower() in case.name.lower())
    drive(case.make(200), options.limit)
    profile = cProfile.Profile()
    print(case.name, profile.runcall(drive, case.make(options.trials), options.limit))
    pstats.Stats(profile).sort_stats("tottime").print_stats(15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=MANY, help="of the large study")
    parser.add_argument("--rounds", type=int, default=1, help="how many times the large study is run")
    parser.add_argument("--limit", type=float, default=LIMIT, help="CPU seconds after which a run is given up")
    parser.add_argument("--only", default="", help="only the methods whose names contain this")
    parser.add_argument("--profile", action="store_true", help="profile the large study of one method instead")
    options = parser.parse_args()
    if options.profile:
        profile_case(options)
        return
    report_studies(options)
    report_parts(options)


if __name__ == "__main__":
    main()
