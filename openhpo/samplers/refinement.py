"""Search within boundaries that are moved from round to round: the outer loop of "Habana Gaudi and SigOpt: HPO of MLPerf
ResNet-50" (Intel, 2022).

A round is a search of its own within the present boundaries. When all of its trials have come to rest:

1. those that meet the requirements are kept, and of these the best 75 %;
2. K-means divides them, by their hyperparameters, into as many clusters of at least ten as there can be;
3. the cluster with the best mean objective is chosen;
4. of each hyperparameter, a boundary that the cluster comes close to moves outwards (exploration), and one that is far moves to
   near the cluster (exploitation). Close and near is 10 % of the present range, in logarithms where it is searched so.

The search ends when a round has not improved on the best trial before it.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openhpo.errors import UserError, meant, whole
from openhpo.hyperparameters import Categorical, Config, Float, Hyperparameter, Integer
from openhpo.keyed import key
from openhpo.objective import NO_SCORE, Score
from openhpo.samplers.base import Sampler, Suggest
from openhpo.samplers.gaussian import GaussianProcess
from openhpo.samplers.tpe import TPE
from openhpo.space import Space
from openhpo.stages import AT_REST, State, TrialRecord

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

Bounds = tuple[float, float]
FARTHEST = 10.0  # first ranges that a boundary without a limit may move away from where it was at first; one of a log scale


class Refinement:
    """Search round by round, each within boundaries that the one before suggests.

    Args:
        sampler: What to try within the boundaries; `GaussianProcess()` where BoTorch is installed, otherwise `TPE()`.
        round_trials: Trials of a round.
        rounds: At most so many.
        coefficient: What is close and near, in parts of a range.
        keep: The part of the trials that meet the requirements which is looked at.
        cluster_size: The fewest trials of a cluster.
        patience: Rounds in a row without an improvement after which the search ends.
        limits: Beyond which no boundary moves, by hyperparameter: {"momentum": (0.0, 0.99)}. Without one, what begins at 0 or
            above does not fall below 0, and a boundary moves at most ten times the first range away, in logarithms once.
            Boundaries of hyperparameters that conditions or
            forbidden combinations refer to stay where they are, as do choices without an order.

    Raises:
        UserError: The numbers make no sense; when a study begins: scikit-learn is not installed.
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        round_trials: int = 40,
        rounds: int = 10,
        *,
        coefficient: float = 0.1,
        keep: float = 0.75,
        cluster_size: int = 10,
        patience: int = 1,
        limits: Mapping[str, Bounds] | None = None,
    ) -> None:
        if sampler is None:
            sampler = GaussianProcess() if importlib.util.find_spec("botorch") else TPE()
        self.sampler = sampler
        self.round_trials = whole(round_trials, "round_trials", 2)
        self.rounds = whole(rounds, "rounds")
        self.coefficient = _part(coefficient, "coefficient")
        self.keep = _part(keep, "keep")
        self.cluster_size = whole(cluster_size, "cluster_size", 2)
        self.patience = whole(patience, "patience")
        self.limits = {name: (float(low), float(high)) for name, (low, high) in (limits or {}).items()}

    def bind(self, space: Space, seed: int) -> RefinedSearch:
        if importlib.util.find_spec("sklearn") is None:
            raise UserError("a refinement needs scikit-learn: pip install scikit-learn, or 'openhpo[bayes]', which has it")
        return RefinedSearch(self, space, seed)

    def definition(self) -> dict[str, Any]:
        described = {**vars(self), "limits": {name: list(limit) for name, limit in self.limits.items()}}
        return {"sampler": "Refinement", "refinement": {**described, "sampler": self.sampler.definition()}}


def _part(value: float, what: str) -> float:
    if not isinstance(value, int | float) or not 0.0 < value <= 1.0:
        raise UserError(f"{what} has to be above 0 and at most 1, not {value!r}")
    return float(value)


@dataclass
class Round:
    """A search within boundaries.

    Attributes:
        number: From 0.
        space: Within the boundaries.
        suggest: Its sampler.
        start: The first trial.
    """

    number: int
    space: Space
    suggest: Suggest
    start: int


class RefinedSearch(Suggest):
    """A refinement of one space.

    Where the search stands follows from what was remarked when the present round began; whoever has not heard that works it
    out from the history.
    """

    slow = True
    ends = True

    def __init__(self, refinement: Refinement, space: Space, seed: int) -> None:
        self._refinement = refinement
        self._space = space
        self._seed = seed
        self._axes = _axes(space, refinement.limits)
        self.reach = space.within({name: axis.bounds_of(axis.limits) for name, axis in self._axes.items()})
        self._bounds = {name: axis.bounds_of(axis.first) for name, axis in self._axes.items()}
        self._remarks: list[dict[str, Any]] = []
        self._stale = 0  # rounds in a row that have not improved
        self._best: Score = NO_SCORE
        self._over = False
        self._told = -1  # the last round whose boundaries are in the study file
        self._begin(0)

    def _begin(self, number: int) -> None:
        space = self._space.within(self._bounds)
        suggest = self._refinement.sampler.bind(space, self._seed if number == 0 else key(self._seed, -number) >> 1)
        if suggest.size is not None:
            raise UserError(
                f"a refinement needs a sampler that can try anything, not {type(self._refinement.sampler).__name__}"
            )
        if not suggest.waits:
            raise UserError("within a refinement idle ranks wait for the sampler: leave out --no-wait, or wait=False")
        self._round = Round(number, space, suggest, number * self._refinement.round_trials)

    # ---- what a study asks

    def ready(self, number: int, history: Sequence[TrialRecord]) -> bool:
        return number % self._refinement.round_trials > 0 or all(trial.state in AT_REST for trial in history)

    def remarks(self) -> Sequence[dict[str, Any]]:
        return self._remarks

    def heard(self, remarks: Sequence[dict[str, Any]]) -> None:
        for remark in remarks:
            if "improved" in remark:
                self._best = Score.from_definition(remark["best"])
                self._stale, self._over = remark["stale"], remark["over"]
                continue
            self._told = remark["round"]
            if self._told != self._round.number:
                self._bounds = {name: (low, high) for name, (low, high) in remark["boundaries"].items()}
                self._begin(self._told)

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config | None:
        before = len(history) - number  # trials of an earlier study
        length = self._refinement.round_trials
        self._remarks = []
        while not self._over and number >= self._round.start + length:
            trials = history[before + self._round.start : before + self._round.start + length]
            self._remarks = [self._refine(trials)]
            if not self._over:
                self._begin(self._round.number + 1)
        if self._over:
            return None
        if self._told < self._round.number:
            self._remarks.append({"round": self._round.number, "boundaries": self._described()})
        start = before + self._round.start
        seen = [trial for trial in history[:start] if self._round.space.holds(trial.config)] + list(history[start:])
        return self._round.suggest(number - self._round.start, seen, rng)

    def _described(self) -> dict[str, list[Any]]:
        return {name: list(bounds) for name, bounds in self._bounds.items()}

    # ---- between rounds

    def _refine(self, trials: Sequence[TrialRecord]) -> dict[str, Any]:
        """Move the boundaries after a round, or end the search; return what is to be told of it."""
        import numpy

        ended = [trial for trial in trials if trial.state is not State.FAILED and trial.score != NO_SCORE]
        best = min((trial.score for trial in ended), default=NO_SCORE)
        improved = best < self._best
        self._best = min(best, self._best)
        self._stale = 0 if improved else self._stale + 1
        met = sorted((trial for trial in ended if trial.score.violation == 0), key=lambda trial: trial.score)
        kept = met[: math.ceil(self._refinement.keep * len(met))]
        clusters: list[dict[str, Any]] = []
        if len(kept) > 1:
            labels = self._clusters(kept)
            losses = numpy.array([trial.score.loss for trial in kept])
            means = [float(losses[labels == label].mean()) for label in range(labels.max() + 1)]
            chosen = int(numpy.argmin(means))
            for label, mean in enumerate(means):
                clusters.append({"size": int((labels == label).sum()), "mean_loss": mean, "chosen": label == chosen})
            self._move([trial.config for trial, label in zip(kept, labels.tolist(), strict=True) if label == chosen])
        self._over = self._stale >= self._refinement.patience or self._round.number + 1 >= self._refinement.rounds
        return {
            "round": self._round.number,
            "trials": len(trials),
            "met": len(met),
            "kept": len(kept),
            "improved": improved,
            "best": self._best.definition(),
            "stale": self._stale,
            "over": self._over,
            "clusters": clusters,
            "next": None if self._over else self._described(),
        }

    def _clusters(self, kept: Sequence[TrialRecord]) -> NDArray[numpy.int64]:
        """The cluster of each of these, from 0."""
        import numpy
        from sklearn.cluster import KMeans

        points = self._points(kept)
        for count in range(len(kept) // self._refinement.cluster_size, 1, -1):
            labels = KMeans(count, n_init=10, random_state=self._round.number).fit_predict(points)
            if numpy.bincount(labels, minlength=count).min() >= self._refinement.cluster_size:
                found: NDArray[numpy.int64] = labels.astype(int)
                return found
        return numpy.zeros(len(kept), int)

    def _points(self, kept: Sequence[TrialRecord]) -> NDArray[numpy.float64]:
        """Their hyperparameters: places within the present boundaries, and a column for each choice without an order."""
        import numpy

        columns = []
        for name in self._space.free:
            values = [trial.config.get(name) for trial in kept]
            axis, item = self._axes.get(name), self._space.hyperparameters[name]
            if axis is not None:
                low, high = axis.ends(self._bounds[name])
                places = [0.5 if value is None else (axis.place(value) - low) / ((high - low) or 1.0) for value in values]
                columns.append(places)
            elif isinstance(item, Categorical):
                columns += [[float(value == choice) / math.sqrt(2.0) for value in values] for choice in item.choices]
            else:
                rules = self._space.rules
                columns.append([0.5 if value is None else rules.unit(name, value) for value in values])
        return numpy.array(columns).T

    def _move(self, cluster: Sequence[Config]) -> None:
        for name, axis in self._axes.items():
            places = [axis.place(config[name]) for config in cluster if name in config]
            if places:
                ends = axis.ends(self._bounds[name])
                moved = axis.moved(ends, (min(places), max(places)), self._refinement.coefficient)
                self._bounds[name] = axis.bounds_of(moved)


class Axis:
    """A hyperparameter whose boundaries move, as places on a line: its values, their logarithms, or numbers of choices.

    Attributes:
        first: Its boundaries at first.
        limits: Beyond which they do not move.
    """

    def __init__(self, item: Hyperparameter, limits: Bounds | None) -> None:
        self._item = item
        self._choices = list(item.choices) if isinstance(item, Categorical) else []
        self._log = not self._choices and bool(getattr(item, "log", False))
        self._whole = isinstance(item, Integer) or bool(self._choices)
        if isinstance(item, Categorical):
            self.first: Bounds = (0.0, len(self._choices) - 1.0)
            self.limits: Bounds = self.first
            return
        low, high = float(item.bounds[0]), float(item.bounds[1])
        self.first = (self._to(low), self._to(high))
        width = self.first[1] - self.first[0]
        if limits is None:
            floor = 0.0 if low >= 0 and not self._log else -math.inf
            floor = max(floor, 1.0) if isinstance(item, Integer) and low >= 1 else floor
            least = max(floor, self.first[0] - FARTHEST * width) if not self._log else self.first[0] - width
            most = self.first[1] + (width if self._log else FARTHEST * width)
            if self._log and isinstance(item, Integer):
                least = max(least, 0.0)
            self.limits = (least, most)
        else:
            self.limits = (self._to(limits[0]), self._to(limits[1]))

    def _to(self, value: float) -> float:
        return math.log(value) if self._log else value

    def place(self, value: Any) -> float:
        """Where a value is on the line."""
        return float(self._choices.index(value)) if self._choices else self._to(float(value))

    def ends(self, bounds: tuple[Any, Any]) -> Bounds:
        """The places of two values."""
        return self.place(bounds[0]), self.place(bounds[1])

    def bounds_of(self, ends: Bounds) -> tuple[Any, Any]:
        """The values at two places."""
        if self._choices:
            return self._choices[int(ends[0])], self._choices[int(ends[1])]
        values = [math.exp(end) if self._log else end for end in ends]
        if self._whole:
            return math.ceil(values[0] - 1e-9), math.floor(values[1] + 1e-9)
        return values[0], values[1]

    def moved(self, present: Bounds, cluster: Bounds, coefficient: float) -> Bounds:
        """Boundaries after a round.

        Args:
            present: These boundaries now.
            cluster: The first and the last place of the chosen cluster.
            coefficient: What is close and near, in parts of the present range.
        """
        near = coefficient * (present[1] - present[0])
        low = present[0] - near if cluster[0] - present[0] <= near else cluster[0] - near
        high = present[1] + near if present[1] - cluster[1] <= near else cluster[1] + near
        if self._whole and not self._log:
            low = min(math.floor(present[0] - near), present[0] - 1) if low < present[0] else math.floor(low)
            high = max(math.ceil(present[1] + near), present[1] + 1) if high > present[1] else math.ceil(high)
        elif self._whole:  # at least the next whole number, in logarithms
            low, high = self._to(max(1.0, math.floor(math.exp(low)))), self._to(math.ceil(math.exp(high)))
        low, high = max(low, self.limits[0]), min(high, self.limits[1])
        if high - low <= 1e-12:  # nothing is left between cluster and limit
            return present
        return low, high


def _axes(space: Space, limits: Mapping[str, Bounds]) -> dict[str, Axis]:
    for name, (low, high) in limits.items():
        if name not in space.free:
            raise UserError(f"there is a limit for {name!r}, which is not searched.{meant(name, space.free)}")
        item = space.hyperparameters[name]
        if isinstance(item, Categorical):
            raise UserError(f"there is a limit for {name!r}, which is {item}: limits are for numbers")
        inside = low <= item.bounds[0] and high >= item.bounds[1] and (low > 0 or not item.log)
        if not inside:
            raise UserError(f"the limits of {name}, {low:g} and {high:g}, have to lie around its range: it is {item}")
    texts = [*space.conditions.values(), *space.forbidden]
    referred = {name for name in space.free if any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts)}
    found = {}
    for name in space.free:
        item = space.hyperparameters[name]
        movable = isinstance(item, Float | Integer) or (
            isinstance(item, Categorical) and item.ordered and len(item.choices) > 1
        )
        if movable and name not in referred:
            found[name] = Axis(item, limits.get(name))
    if not found:
        raise UserError("there is nothing to refine: no hyperparameter has boundaries that may move")
    return found
