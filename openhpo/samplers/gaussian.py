"""Bayesian search with Gaussian processes, by BoTorch (Balandat et al., NeurIPS 2020).

What is tried next maximises the noisy expected improvement (Letham, Karrer, Ottoni and Bakshy, Bayesian Analysis 2019; in
logarithms, Ament et al., NeurIPS 2023) over the trials so far and those that still run, given that requirements are met, each
of which has a process of its own. Every fifth is what is expected to be the best, without regard to what is learnt by it: the
improvement, where it can only be a matter of one in a million, looks elsewhere for long.

Where trials come to rest at different numbers of steps, the objective has a process over these levels (`ladder`), and what is
tried is the best of one function drawn from it (Thompson, Biometrika 1933), among what would be trained further by its first
loss. To maximise an improvement, of which next to nothing is known before trials were trained far, would be to go where the
first losses are the best, time and again; a drawn function is as random as the last level is unknown.

Suggestions are a function of the history: kernels are fitted to some of the trials first and from there to all, not from the
last suggestion's. No random number of torch's own generator is used, which belongs to the training on this rank.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openhpo.errors import UserError, whole
from openhpo.hyperparameters import Config
from openhpo.samplers.base import Suggest, known
from openhpo.space import Space
from openhpo.stages import TrialRecord

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from openhpo.samplers.improvement import NoisyImprovement
    from openhpo.samplers.ladder import Ladder
    from openhpo.samplers.observations import Observations
    from openhpo.samplers.processes import Process

    Floats = NDArray[numpy.float64]

SURE = 0.2  # the part of the suggestions that are what is expected to be the best
DRAWN = 256  # points of a function that is drawn
MOST_BASELINE = 32  # trials, the best by their posterior mean, that an improvement is measured against
MOST_PENDING = 128  # running trials that are taken into account, the latest
CANDIDATES, NEAR, RESTARTS = 1024, 256, 8  # points that the maximisation looks at: spread evenly, near the best; it climbs from
EAGERNESS = 2.0  # how much likelier a better point is to be climbed from
CLIMB = 40  # iterations


class GaussianProcess:
    """Model the objective and the requirements. Needs `pip install openhpo[bayes]`.

    Args:
        startup: So many trials are drawn at random before anything is learnt, and more until four are at rest that did not
            fail, or as many as this with one that did not. Points that are spread evenly have no close neighbours, from which a
            kernel would learn how fast the objective changes.
        random_fraction: The part of the suggestions that are drawn at random all the same.
        wait: Whether an idle trainer waits for a suggestion, which takes seconds when hundreds of trials are known, or trains a
            point of a quasi-random sequence meanwhile.

    Raises:
        UserError: The numbers make no sense; when a study begins: BoTorch is not installed.
    """

    def __init__(self, startup: int = 10, random_fraction: float = 0.0, *, wait: bool = True) -> None:
        self.startup = whole(startup, "startup", 2)
        if not 0.0 <= random_fraction < 1.0:
            raise UserError(f"random_fraction has to be at least 0 and below 1, not {random_fraction!r}")
        self.random_fraction = float(random_fraction)
        self.wait = wait

    def bind(self, space: Space, seed: int) -> GaussianSearch:
        return GaussianSearch(self, space, seed)

    def definition(self) -> dict[str, Any]:
        return {"sampler": "GaussianProcess", **vars(self)}


class GaussianSearch(Suggest):
    """A Gaussian process over one space."""

    slow = True

    def __init__(self, sampler: GaussianProcess, space: Space, seed: int) -> None:
        import importlib.util

        if importlib.util.find_spec("botorch") is None:
            raise UserError("the sampler gp needs BoTorch: pip install 'openhpo[bayes]'; --sampler tpe does without")
        from openhpo.samplers.coordinates import Coordinates

        self.waits = sampler.wait
        self._sampler = sampler
        self._space = space
        self._coordinates = Coordinates(space)
        self._fitted: tuple[bytes, Any] = (b"", None)

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config:
        from openhpo.samplers.observations import observed

        drawn = rng.random() < self._sampler.random_fraction
        if drawn or not known(self._sampler.startup, history) or not self._space.free:
            return self._space.sample(rng)
        data = observed(history, self._coordinates)
        if data is None:
            return self._space.sample(rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numerical trouble, which is dealt with
            found = self._maximise(data, rng)
        return found or self._space.sample(rng)

    # ---- rows as the kernels see them

    def _encoded(self, rows: Floats) -> Floats:
        """Numbers as they are, or in the middle where they are inactive; a column a choice."""
        import numpy

        columns = [numpy.nan_to_num(rows[:, self._coordinates.numbers], nan=0.5)]
        for column in self._coordinates.categories.tolist():
            hot = rows[:, column, None] == numpy.arange(self._coordinates.choices[column])
            columns.append(hot / math.sqrt(2.0))
        return numpy.concatenate(columns, axis=1)

    # ---- the processes

    def _model(self, data: Observations) -> tuple[Ladder, list[tuple[float, Process]]]:
        """The processes of the objective, and of the requirements that were ever broken with what 0 is to each of these."""
        import numpy

        from openhpo.samplers.ladder import climbed
        from openhpo.samplers.observations import squashed
        from openhpo.samplers.processes import fitted

        encoded = self._encoded(data.rows)
        broken = [column for column in data.margins.T if numpy.isfinite(column).sum() > 1 and numpy.nanmax(column) > 0]
        nothing = numpy.empty(0)
        if numpy.isfinite(data.losses[-1]).any():
            ladder = climbed(encoded, data.losses, data.variances)
        else:  # nothing meets the requirement that it is about: come closer to it
            total = numpy.maximum(numpy.nan_to_num(data.margins, nan=0.0, posinf=0.0), 0.0).sum(axis=1)
            total[~numpy.isfinite(data.margins).any(axis=1)] = math.nan
            ladder, broken = climbed(encoded, total[None], numpy.empty((1, 0))), []
        processes = [fitted(encoded, squashed(column), nothing) for column in broken]
        return ladder, [(-process.mean / process.spread, process) for process in processes]

    def _maximise(self, data: Observations, rng: numpy.random.Generator) -> Config | None:
        import numpy

        from openhpo.samplers.improvement import NoisyImprovement

        fingerprint = b"".join(part.tobytes() for part in data[:4])
        if self._fitted[0] != fingerprint:
            self._fitted = (fingerprint, self._model(data))
        ladder, requirements = self._fitted[1]
        if len(data.losses) > 1:
            return self._draw(ladder, requirements, data, rng)
        encoded = self._encoded(data.rows)
        best = ladder.means(encoded).argsort(kind="stable")
        points = numpy.concatenate([encoded[best[:MOST_BASELINE]], self._encoded(data.pending)[-MOST_PENDING:]])
        sure = rng.random() < SURE
        acquisition = NoisyImprovement(ladder.parts, requirements, points, rng, sure=sure)
        drawn, active = self._candidates(data.rows[best[:8]], rng)
        if not len(drawn):
            return None
        values = self._values(acquisition, active)
        start = _starts(values, rng)
        climbed = self._climb(acquisition, drawn[start], active[start])
        rows, active = self._coordinates.possible(self._coordinates.snapped(numpy.concatenate([climbed, drawn[start]])))
        if not len(rows):
            return None
        order = numpy.argsort(-self._values(acquisition, active), kind="stable").tolist()
        return self._coordinates.config(rows[self._fresh(order, active, data)].tolist())

    def _draw(
        self, ladder: Ladder, requirements: list[tuple[float, Process]], data: Observations, rng: numpy.random.Generator
    ) -> Config | None:
        """Where one function that the objective at the last level may be is the best, of what would be trained that far."""
        import numpy

        best = ladder.means(self._encoded(data.rows)).argsort(kind="stable")
        drawn, active = self._candidates(data.rows[best[:8]], rng)
        if not len(drawn):
            return None
        kept = numpy.sort(rng.permutation(len(drawn))[:DRAWN])
        drawn, active = drawn[kept], active[kept]
        encoded = self._encoded(active)
        values = sum((factor * process.drawn(encoded, rng) for factor, process in ladder.parts), numpy.zeros(len(active)))
        missed = sum(
            (process.drawn(encoded, rng) > most for most, process in (*requirements, *ladder.hurdles)), numpy.zeros(len(active))
        )
        order = numpy.lexsort((values, missed)).tolist()
        return self._coordinates.config(drawn[self._fresh(order, active, data)].tolist())

    def _fresh(self, order: list[int], active: Floats, data: Observations) -> int:
        """The first of these places whose row nobody has tried."""
        import numpy

        tried = {numpy.nan_to_num(row, nan=-1.0).tobytes() for row in (*data.rows, *data.pending)}
        fresh = (place for place in order if numpy.nan_to_num(active[place], nan=-1.0).tobytes() not in tried)
        return next(fresh, order[0])

    def _candidates(self, good: Floats, rng: numpy.random.Generator) -> tuple[Floats, Floats]:
        """Rows to begin from: spread evenly, and near the best trials."""
        import numpy

        width = len(self._space.free)
        even = rng.random((CANDIDATES, width))
        near = numpy.repeat(good, NEAR // len(good), axis=0)
        missing = numpy.isnan(near)
        near = numpy.where(missing, rng.random(near.shape), near)
        scales = rng.choice([0.02, 0.1, 0.3], size=(len(near), 1))
        moved = numpy.clip(near + rng.normal(size=near.shape) * scales, 0.0, 1.0)
        choices = self._coordinates.choices
        for column in self._coordinates.categories.tolist():
            even[:, column] = numpy.floor(even[:, column] * choices[column])
            changed = rng.random(len(near)) < 0.2
            other = numpy.floor(rng.random(len(near)) * choices[column])
            moved[:, column] = numpy.where(changed | missing[:, column], other, numpy.nan_to_num(near[:, column]))
        found: tuple[Floats, Floats] = self._coordinates.possible(self._coordinates.snapped(numpy.concatenate([even, moved])))
        return found

    def _values(self, acquisition: NoisyImprovement, active: Floats) -> Floats:
        """The acquisition at rows."""
        import numpy

        return numpy.nan_to_num(acquisition(self._encoded(active)), nan=-numpy.inf)

    def _climb(self, acquisition: NoisyImprovement, drawn: Floats, active: Floats) -> Floats:
        """Move numbers uphill; choices stay."""
        import numpy
        from scipy.optimize import minimize

        numbers = self._coordinates.numbers
        count = len(numbers)
        if not count:
            return drawn
        encoded = self._encoded(active)
        free = ~numpy.isnan(active[:, numbers])

        def loss(flat: Floats, place: int) -> tuple[float, Floats]:
            inside = numpy.where(free[place], flat, 0.5)
            value, slope = acquisition.slope(numpy.concatenate([inside, encoded[place, count:]]))
            return -value, numpy.nan_to_num(numpy.where(free[place], -slope[:count], 0.0))

        rows = drawn.copy()
        bounds = [(0.0, 1.0)] * count
        for place, row in enumerate(rows):  # one after the other: together, the worst would decide how far the others step
            found = minimize(loss, row[numbers], (place,), "L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": CLIMB})
            row[numbers] = numpy.clip(found.x, 0.0, 1.0)
        return rows


def _starts(values: Floats, rng: numpy.random.Generator) -> NDArray[numpy.int64]:
    """Where to climb from: the best point, and others the likelier the better they are, so that not all lie in one valley."""
    import numpy

    best = int(numpy.argmax(values))
    usable = numpy.flatnonzero(numpy.isfinite(values) & (numpy.arange(len(values)) != best))
    spread = float(values[usable].std()) if len(usable) else 0.0
    if len(usable) <= RESTARTS or spread <= 0:
        return numpy.concatenate([[best], usable[: RESTARTS - 1]]).astype(int)
    weights = numpy.exp(EAGERNESS * (values[usable] - values[usable].max()) / spread)
    others = rng.choice(usable, size=min(RESTARTS - 1, int((weights > 0).sum())), replace=False, p=weights / weights.sum())
    return numpy.concatenate([[best], others]).astype(int)
