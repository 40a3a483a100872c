"""Bayesian search with a Gaussian process, by BoTorch (Balandat et al., NeurIPS 2020).

What is tried next maximises the noisy expected improvement (Letham, Karrer, Ottoni and Bakshy, Bayesian Analysis 2019; in
logarithms, Ament et al., NeurIPS 2023) over the trials so far and those that still run, given that requirements are met, each
of which has a process of its own. Where trials were trained for different numbers of steps, the process is one over
configuration and step, and the improvement that of step counts that enough trials have come to, as in MOBSTER (Klein, Tiao,
Lienart, Archambeau and Seeger, 2020) and Hyper-Tune (Li et al., VLDB 2022).

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
from openhpo.samplers.base import Suggest
from openhpo.space import Space
from openhpo.stages import AT_REST, TrialRecord

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from openhpo.samplers.observations import Observations

    Floats = NDArray[numpy.float64]

MOST_BASELINE = 32  # trials, the best by their posterior mean, that an improvement is measured against
MOST_PENDING = 128  # running trials that are taken into account, the latest
CANDIDATES, NEAR, RESTARTS = 1024, 256, 8  # points that the maximisation looks at: spread evenly, near the best; it climbs from
EAGERNESS = 2.0  # how much likelier a better point is to be climbed from
CLIMB = 40  # iterations


class GaussianProcess:
    """Model the objective and the requirements. Needs `pip install openhpo[bayes]`.

    Args:
        startup: So many trials are drawn at random before anything is learnt; where they come to rest at different numbers of
            steps, so many for each of these, as what leads after few steps need not do so later. Points that are spread evenly
            have no close neighbours, from which a kernel would learn how fast the objective changes.
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
        from openhpo.samplers.observations import levels_of, observed

        drawn = rng.random() < self._sampler.random_fraction
        ended = [trial for trial in history if trial.state in AT_REST]
        if drawn or len(ended) < self._sampler.startup * max(1, len(levels_of(ended))) or not self._space.free:
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
        """Numbers as they are, or in the middle where they are inactive; a column a choice; the step, where there is one."""
        import numpy

        columns = [numpy.nan_to_num(rows[:, self._coordinates.numbers], nan=0.5)]
        for column in self._coordinates.categories.tolist():
            hot = rows[:, column, None] == numpy.arange(self._coordinates.choices[column])
            columns.append(hot / math.sqrt(2.0))
        columns.append(rows[:, len(self._space.free) :])
        return numpy.concatenate(columns, axis=1)

    # ---- the processes

    def _model(self, data: Observations) -> tuple[list[Any], list[float]]:
        """The processes of the objective and of the requirements that were ever broken; what 0 is to each of the latter."""
        import numpy

        from openhpo.samplers.observations import squashed
        from openhpo.samplers.processes import fitted

        outcomes = [(data.losses, data.variances)]
        broken = [column for column in data.margins.T if numpy.isfinite(column).sum() > 1 and numpy.nanmax(column) > 0]
        if not numpy.isfinite(data.losses).any():  # nothing meets the requirement that it is about: come closer to it
            total = numpy.maximum(numpy.nan_to_num(data.margins, nan=0.0, posinf=0.0), 0.0).sum(axis=1)
            total[~numpy.isfinite(data.margins).any(axis=1)] = math.nan
            outcomes, broken = [(total, numpy.empty(0))], []
        outcomes += [(squashed(column), numpy.empty(0)) for column in broken]
        encoded = self._encoded(data.rows)
        processes = [fitted(encoded, values, variances) for values, variances in outcomes]
        scales = [process.outcome_transform for process in processes[1:]]
        return processes, [float(-scale.means / scale.stdvs) for scale in scales]

    def _maximise(self, data: Observations, rng: numpy.random.Generator) -> Config | None:
        import numpy
        import torch

        from openhpo.samplers.improvement import NoisyImprovement

        fingerprint = b"".join(part.tobytes() for part in data[:4])
        if self._fitted[0] != fingerprint:
            self._fitted = (fingerprint, self._model(data))
        processes, thresholds = self._fitted[1]
        best = self._at_their_best(processes[0], data)[:MOST_BASELINE]
        points = numpy.concatenate([best, self._encoded(data.pending)[-MOST_PENDING:]])
        acquisition = NoisyImprovement(processes, thresholds, torch.as_tensor(points), rng)
        drawn, active = self._candidates(data, rng)
        if not len(drawn):
            return None
        extra = data.ended[:1, len(self._space.free) :]  # the step that counts
        values = self._values(acquisition, active, extra)
        start = _starts(values, rng)
        climbed = self._climb(acquisition, drawn[start], active[start], extra)
        rows, active = self._coordinates.possible(self._coordinates.snapped(numpy.concatenate([climbed, drawn[start]])))
        if not len(rows):
            return None
        order = numpy.argsort(-self._values(acquisition, active, extra), kind="stable")
        tried = {numpy.nan_to_num(row, nan=-1.0).tobytes() for row in (*data.ended, *data.pending)}
        fresh = (
            place
            for place in order.tolist()
            if numpy.nan_to_num(numpy.concatenate([active[place], extra[0]]), nan=-1.0).tobytes() not in tried
        )
        return self._coordinates.config(rows[next(fresh, int(order[0]))].tolist())

    def _at_their_best(self, process: Any, data: Observations) -> Floats:
        """Encoded configurations, those first whose posterior mean is the best."""
        import torch

        encoded = self._encoded(data.ended)
        with torch.no_grad():
            mean = process.posterior(torch.as_tensor(encoded)).mean[:, 0].numpy()
        order: NDArray[numpy.int64] = mean.argsort(kind="stable")
        found: Floats = encoded[order]
        return found

    def _candidates(self, data: Observations, rng: numpy.random.Generator) -> tuple[Floats, Floats]:
        """Rows to begin from: spread evenly, and near the best trials."""
        import numpy

        width = len(self._space.free)
        even = rng.random((CANDIDATES, width))
        near = numpy.repeat(self._good(data)[:8, :width], NEAR // 8, axis=0)
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

    def _good(self, data: Observations) -> Floats:
        import numpy

        order = numpy.argsort(numpy.where(numpy.isnan(data.losses), numpy.inf, data.losses), kind="stable")
        found: Floats = data.rows[order]
        return found

    def _values(self, acquisition: Any, active: Floats, extra: Floats) -> Floats:
        """The acquisition at rows."""
        import numpy
        import torch

        rows = numpy.concatenate([active, numpy.repeat(extra, len(active), axis=0)], axis=1)
        with torch.no_grad():
            found: Floats = acquisition(torch.as_tensor(self._encoded(rows))).numpy()
        return numpy.nan_to_num(found, nan=-numpy.inf)

    def _climb(self, acquisition: Any, drawn: Floats, active: Floats, extra: Floats) -> Floats:
        """Move numbers uphill; choices stay."""
        import numpy
        import torch
        from scipy.optimize import minimize

        numbers = self._coordinates.numbers
        if not len(numbers):
            return drawn
        encoded = torch.as_tensor(self._encoded(numpy.concatenate([active, numpy.repeat(extra, len(active), axis=0)], axis=1)))
        free = torch.as_tensor(~numpy.isnan(active[:, numbers]))
        rest = encoded[:, len(numbers) :]

        def loss(flat: Floats, place: int) -> tuple[float, Floats]:
            numbers_here = torch.as_tensor(flat[None]).requires_grad_()
            inside = torch.where(free[place], numbers_here, torch.full_like(numbers_here, 0.5))
            value = -acquisition(torch.cat([inside, rest[place, None]], dim=1)).sum()
            (slope,) = torch.autograd.grad(value, numbers_here)
            return float(value), numpy.nan_to_num(slope.numpy()[0])

        rows = drawn.copy()
        bounds = [(0.0, 1.0)] * len(numbers)
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
