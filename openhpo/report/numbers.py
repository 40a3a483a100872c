"""The numbers behind a report, from a study's file.

A candidate is what a study compares: a trial or, with replicates, a configuration with means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from openhpo.objective import NO_SCORE, Score
from openhpo.result import Result
from openhpo.stages import AT_REST, State
from openhpo.storage import schema

Floats = NDArray[numpy.float64]

FOLDS = 5  # of the cross-validation of what hyperparameters explain
FEWEST = 20  # candidates below which that is not tried
_STAGE_ENDS = [kind.encode() for kind in schema.STAGE_ENDS]


class Candidate(NamedTuple):
    """What a study compares.

    Attributes:
        number: The trial's, or of replicates the configuration's.
        config: What was in force where it was best.
        state: How far it is.
        score: Its best one; NO_SCORE where it has none.
        step: The step of that.
        steps: How many it has come to.
        value: The objective there; NaN where there is none.
        met: Whether it meets the requirements.
        began, ended: Seconds; the last report's.
    """

    number: int
    config: dict[str, Any]
    state: State
    score: Score
    step: int
    steps: int
    value: float
    met: bool
    began: float
    ended: float

    @property
    def standing(self) -> dict[str, Any]:
        """How it stands, as the first columns of a table."""
        state = self.state.value
        return {"trial": self.number, "state": state, "steps": self.steps, "best_step": self.step, "met": self.met}


class Improvement(NamedTuple):
    """A moment at which the best so far became better.

    Attributes:
        candidate: Whose.
        trials: How many candidates had begun.
        steps: How many steps were trained by then.
        seconds: When.
        value: The objective.
        met: Whether the requirements were.
    """

    candidate: int
    trials: int
    steps: int
    seconds: float
    value: float
    met: bool


class Span(NamedTuple):
    """A stage as a rank trained it.

    Attributes:
        rank: Who.
        trial: For whom.
        stage: Its number.
        start, stop: Seconds.
        how: "trained", "again" where it only brought back a state, or "failed".
    """

    rank: int
    trial: int
    stage: int
    start: float
    stop: float
    how: str


class Contribution(NamedTuple):
    """What hyperparameters have to do with a metric.

    Attributes:
        metric: Its name.
        shares: Of each hyperparameter, as a decision tree sees it; they sum to 1. Empty where there is nothing to tell.
        explained: R² in cross-validation: 1 where they predict the metric, 0 or below where they tell nothing.
        candidates: How many that is from.
    """

    metric: str
    shares: dict[str, float]
    explained: float
    candidates: int

    @property
    def reliable(self) -> bool:
        """Whether the shares mean anything."""
        return self.explained >= 0.2


@dataclass(frozen=True)
class Costs:
    """What a study has spent, and what it has not.

    Attributes:
        trained: Steps that were trained.
        alone: Steps that the same trials take each by itself.
        full: Steps of as many trials to the last step.
        busy: Seconds of training, over all ranks.
        elapsed: Seconds of the study.
        ranks: How many ranks trained.
    """

    trained: int
    alone: int
    full: int
    busy: float
    elapsed: float
    ranks: int

    @property
    def utilisation(self) -> float:
        """The part of the ranks' time in which they trained; NaN of an empty study."""
        return self.busy / (self.elapsed * self.ranks) if self.elapsed and self.ranks else math.nan


class Numbers:
    """What a report tells of a study.

    Args:
        result: The study.
    """

    def __init__(self, result: Result) -> None:
        self.result = result
        self.objective = result.objective
        self._columns: dict[str, list[Any]] = {}  # of hyperparameters, once they were asked for
        self._are_numbers: dict[str, bool] = {}

    # ---- who

    @cached_property
    def candidates(self) -> list[Candidate]:
        """All of them, by number."""
        result, value_of = self.result, self.objective.value
        began, ended = self._times
        if result.replicates == 1:
            rows = zip(result.best_configs, result.states, result.scores, result.steps.tolist(), strict=True)
            return [
                Candidate(
                    *(number, config, state, score, step, steps, math.nan if score == NO_SCORE else value_of(score)),
                    *(score.violation == 0, float(began[number]), float(ended[number])),
                )
                for number, (config, state, (score, step), steps) in enumerate(rows)
            ]
        count = result.replicates
        return [
            Candidate(
                *(one.number, one.config, one.state, one.score, one.best_step, one.step),
                *(math.nan if one.score == NO_SCORE else value_of(one.score), one.score.violation == 0),
                float(began[one.number * count]),
                float(ended[one.number * count : (one.number + 1) * count].max()),
            )
            for one in result.candidates
        ]

    @cached_property
    def _times(self) -> tuple[Floats, Floats]:
        """When each trial began, and when it reported last."""
        tables = self.result.tables
        began = tables.trials["time"].astype(float)
        ended = began.copy()
        numpy.maximum.at(ended, tables.reports["trial"], tables.reports["time"])
        return began, ended

    @cached_property
    def best(self) -> Candidate | None:
        """The best of them."""
        found = self.result.best
        return None if found is None else self.candidates[found.trial]

    @cached_property
    def hyperparameters(self) -> list[str]:
        """Those that were searched, the order of the space."""
        space = self.result.definition.get("space", {}).get("hyperparameters", {})
        seen: dict[str, set[str]] = {}
        for candidate in self.candidates:
            for name, value in candidate.config.items():
                seen.setdefault(name, set()).add(repr(value))
        order = [name for name in space if name in seen] + [name for name in seen if name not in space]
        return [name for name in order if len(seen[name]) > 1]

    def logarithmic(self, name: str) -> bool:
        """Whether a hyperparameter is searched in logarithms."""
        return bool(self._described(name).get("log"))

    def column(self, name: str) -> list[Any]:
        """A hyperparameter of each candidate; None where it is inactive."""
        if name not in self._columns:
            self._columns[name] = [candidate.config.get(name) for candidate in self.candidates]
        return self._columns[name]

    def _described(self, name: str) -> dict[str, Any]:
        described = self.result.definition.get("space", {}).get("hyperparameters", {}).get(name)
        return described if isinstance(described, dict) else {}

    def is_number(self, name: str) -> bool:
        """Whether a hyperparameter is searched as a number, and no choice."""
        if name not in self._are_numbers:
            there = {type(value) for value in self.column(name)} - {type(None)}
            self._are_numbers[name] = there <= {int, float} and "choices" not in self._described(name)
        return self._are_numbers[name]

    def choices(self, name: str) -> list[str]:
        """The values of what is no number, in the order of the space."""
        there = {str(value) for value in self.column(name) if value is not None}
        known = [str(choice) for choice in self._described(name).get("choices", ())]
        return [choice for choice in known if choice in there] + sorted(there - set(known))

    def rank(self, names: Sequence[str], most: int) -> list[str]:
        """So many of the hyperparameters, those first that have most to do with the objective."""
        shares = self.contributions[0].shares if self.contributions else {}
        return sorted(names, key=lambda name: -shares.get(name, 0.0))[:most]

    # ---- when it became better

    @cached_property
    def improvements(self) -> list[Improvement]:
        """The best so far, each time that it became better."""
        return self._improvements_of_means() if self.result.replicates > 1 else self._improvements_of_trials()

    def _improvements_of_trials(self) -> list[Improvement]:
        reports, best, found = self.result.tables.reports, NO_SCORE, list[Improvement]()
        trials = self.result.tables.trials["time"]
        for row, score in enumerate(self.result.scored):
            if score is not None and score < best:
                best = score
                time = float(reports["time"][row])
                begun = int(numpy.searchsorted(trials, time, side="right"))
                trial = int(reports["trial"][row])
                found.append(Improvement(trial, begun, row + 1, time, self.objective.value(score), score.violation == 0))
        return found

    def _improvements_of_means(self) -> list[Improvement]:
        times, best, found = self.result.tables.reports["time"], NO_SCORE, list[Improvement]()
        began = numpy.array([candidate.began for candidate in self.candidates])
        for one in sorted(self.candidates, key=lambda candidate: candidate.ended):
            if one.score < best:
                best = one.score
                steps = int(numpy.searchsorted(times, one.ended, side="right"))
                begun = int((began <= one.ended).sum())
                found.append(Improvement(one.number, begun, steps, one.ended, one.value, one.met))
        return found

    # ---- what hyperparameters have to do with it

    def encoded(self, names: Sequence[str]) -> tuple[Floats, list[str]]:
        """Hyperparameters of all candidates as columns of numbers, and whose each column is.

        Numbers searched in logarithms are logarithms; choices have a column each; what is inactive is -1 beside a column of its
        own that says so.
        """
        columns, owners = list[Floats](), list[str]()
        for name in names:
            values = self.column(name)
            if any(value is None for value in values):
                columns.append(numpy.array([value is None for value in values], float))
                owners.append(name)
            if self.is_number(name):
                log = self.logarithmic(name) and all(value is None or value > 0 for value in values)
                columns.append(numpy.array([-1.0 if v is None else math.log(v) if log else float(v) for v in values], float))
                owners.append(name)
                continue
            for choice in sorted({str(value) for value in values if value is not None}):
                columns.append(numpy.array([str(value) == choice for value in values], float))
                owners.append(name)
        return numpy.array(columns, float).reshape(len(columns), len(self.candidates)).T, owners

    @cached_property
    def contributions(self) -> list[Contribution]:
        """Of the objective first, then of each metric; needs scikit-learn."""
        table, owners = self.encoded(self.hyperparameters)
        targets = {str(self.objective.metric): numpy.array([candidate.value for candidate in self.candidates], float)}
        targets |= {name: column for name, column in self.metrics.items() if name not in targets}
        return [self._contribution(metric, table, owners, values) for metric, values in targets.items()]

    def _contribution(self, metric: str, table: Floats, owners: list[str], values: Floats) -> Contribution:
        there = numpy.isfinite(values)
        count = int(there.sum())
        if count < FEWEST or not owners or numpy.ptp(values[there]) == 0:
            return Contribution(metric, {}, math.nan, count)
        from sklearn.model_selection import KFold, cross_val_predict
        from sklearn.tree import DecisionTreeRegressor

        rows, wanted = table[there], _ranks(values[there])  # a diverged training is the worst, not a million times as bad
        tree = DecisionTreeRegressor(min_samples_leaf=max(3, count // 100), random_state=0)
        guessed = cross_val_predict(tree, rows, wanted, cv=KFold(FOLDS, shuffle=True, random_state=0))
        explained = 1.0 - float(((wanted - guessed) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum())
        tree.fit(rows, wanted)
        shares = dict.fromkeys(self.hyperparameters, 0.0)
        for owner, share in zip(owners, tree.feature_importances_.tolist(), strict=True):
            shares[owner] += share
        return Contribution(metric, shares if sum(shares.values()) else {}, explained, count)

    @cached_property
    def metrics(self) -> dict[str, Floats]:
        """All metrics of each candidate at its best step; of replicates their means."""
        found = {name: numpy.full(len(self.candidates), math.nan) for name in self.result.metrics}
        for place, candidate in enumerate(self.candidates):
            if candidate.score == NO_SCORE:
                continue
            for name, value in self.result.metrics_where(candidate.number, candidate.step).items():
                found[name][place] = value
        return found

    # ---- who trained when

    @cached_property
    def _own_stages(self) -> NDArray[Any]:
        """The stages that were trained for this study, and not for others of its job or by an earlier one."""
        stages = self.result.tables.stages
        own: NDArray[Any] = stages[(stages["ranks"] > 0) & (stages["study"] >= 0)]
        return own

    @cached_property
    def spans(self) -> list[Span]:
        """The stages, by their beginnings, once for each of their ranks; one that runs ends at the last moment known."""
        tables = self.result.tables
        events = tables.events[numpy.isin(tables.events["kind"], _STAGE_ENDS)]
        ends = dict(zip(events["stage"].tolist(), events["time"].tolist(), strict=True))
        failed = set(events["stage"][events["kind"] == schema.STAGE_FAILED.encode()].tolist())
        names = ("rank", "trial", "stage", "time", "again")
        rows = list(zip(*(self._own_stages[name].tolist() for name in names), strict=True))
        begun: dict[int, float] = {}  # of each rank, when it began its next stage
        found = []
        for rank, trial, stage, time, again in reversed(rows):
            # one that was under way when a run ended has no end of its own
            later = self._resumed[self._resumed >= time]
            how = "failed" if stage in failed else "again" if again else "trained"
            for member in reversed(self.result.groups.get(stage, (rank,))):
                until = min(self.elapsed, begun.get(member, math.inf), float(later[0]) if len(later) else math.inf)
                begun[member] = time
                found.append(Span(member, trial, stage, time, max(time, ends.get(stage, until)), how))
        return found[::-1]

    @cached_property
    def _resumed(self) -> Floats:
        """When the study was gone on with."""
        events = self.result.tables.events
        times: Floats = events["time"][events["kind"] == schema.RESUMED.encode()]
        return times

    @cached_property
    def running(self) -> dict[int, int]:
        """The stage that each rank trains now."""
        tables = self.result.tables
        ends = set(tables.events["stage"][numpy.isin(tables.events["kind"], _STAGE_ENDS)].tolist())
        here = self.trainers
        since = float(self._resumed[-1]) if len(self._resumed) else 0.0
        columns = (self._own_stages[name].tolist() for name in ("stage", "rank", "time"))
        now = [(rank, stage) for stage, rank, time in zip(*columns, strict=True) if stage not in ends and time >= since]
        groups = self.result.groups
        return {member: stage for rank, stage in now for member in groups.get(stage, (rank,)) if member in here}

    @cached_property
    def trainers(self) -> set[int]:
        """The ranks that train in the present run; none where the study is at rest."""
        if self.result.phase != "running":
            return set()
        found: set[int] = set()
        for kind, rank in zip(
            self.result.tables.events["kind"].tolist(), self.result.tables.events["rank"].tolist(), strict=True
        ):
            if kind in (schema.STARTED.encode(), schema.RESUMED.encode()):
                found = set()
            elif kind == schema.READY.encode():
                found.add(rank)
            elif kind == schema.LEFT.encode():
                found.discard(rank)
        return found

    @cached_property
    def settled(self) -> int:
        """How many candidates have ended, well or not."""
        return sum(one.state in (State.DONE, State.STOPPED, State.FAILED) for one in self.candidates)

    @cached_property
    def left(self) -> float:
        """Seconds until the study is finished, if it goes on as so far; NaN where nothing tells."""
        total = int(self.result.definition["trials"])
        resting = sum(one.state in AT_REST for one in self.candidates)
        done = resting if self.result.promotes else self.settled
        if self.result.phase != "running" or not done:
            return math.nan
        return self.elapsed * (total - done) / done if done < total else 0.0

    @cached_property
    def elapsed(self) -> float:
        """Seconds of work on the study, over all its runs."""
        tables = self.result.tables
        return float(max(tables.events["time"].max(initial=0.0), tables.reports["time"].max(initial=0.0)))

    @cached_property
    def transfers(self) -> list[tuple[float, int, int]]:
        """When a stage began with a state from another rank: seconds, from which rank, to which."""
        stages = self._own_stages
        rank_of = dict(zip(stages["stage"].tolist(), stages["rank"].tolist(), strict=True))
        columns = (stages[name].tolist() for name in ("parent", "rank", "time"))
        return [
            (time, rank_of[parent], rank)
            for parent, rank, time in zip(*columns, strict=True)
            if parent in rank_of and rank_of[parent] != rank
        ]

    @cached_property
    def forks(self) -> NDArray[Any]:
        """The events in which a trial took over another one's model."""
        events = self.result.tables.events
        found: NDArray[Any] = events[events["kind"] == schema.TRIAL_FORKED.encode()]
        return found

    @cached_property
    def costs(self) -> Costs:
        """What was spent, and what was not."""
        trained = len(self.result.tables.reports)
        most = int(self.result.definition.get("max_steps", 0) or 0)
        steps = self.result.steps
        return Costs(
            trained,
            int(steps.sum()),
            most * len(steps),
            sum(span.stop - span.start for span in self.spans),
            self.elapsed,
            len({span.rank for span in self.spans}),
        )

    @cached_property
    def rungs(self) -> list[tuple[int, int, int]]:
        """Where trials came to rest: the step, how many came there, and how many went on."""
        resting = (State.STOPPED, State.PAUSED, State.DONE)
        steps = numpy.array([candidate.steps for candidate in self.candidates])
        stops = numpy.unique(
            [candidate.steps for candidate in self.candidates if candidate.state in resting and candidate.steps]
        )
        if len(stops) > 40:  # not rungs, but wherever each was stopped
            stops = numpy.unique(numpy.linspace(stops[0], stops[-1], 21).astype(int))
        return [(stop, int((steps >= stop).sum()), int((steps > stop).sum())) for stop in stops.tolist()]


def _ranks(values: Floats) -> Floats:
    """From 0 to 1, ties in the middle."""
    from scipy.stats import rankdata

    found: Floats = (rankdata(values) - 0.5) / len(values)
    return found
