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
from typing import TYPE_CHECKING, Any, NamedTuple

from openhpo.errors import UserError, whole
from openhpo.hyperparameters import Config
from openhpo.samplers.base import Suggest
from openhpo.samplers.sobol import SobolPoints
from openhpo.space import Space
from openhpo.stages import AT_REST, State, TrialRecord

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float64]

MOST_ROWS = 500  # that the process is fitted to
COARSE = 100  # rows of the first fit
MOST_BASELINE = 32  # trials, the best by their posterior mean, that an improvement is measured against
MOST_PENDING = 128  # running trials that are taken into account, the latest
CANDIDATES, NEAR, RESTARTS = 1024, 256, 8  # points that the maximisation looks at: spread evenly, near the best; it climbs from
EAGERNESS = 2.0  # how much likelier a better point is to be climbed from
CLIMB = 40  # iterations
NOISE = (-8.0, 2.0)  # mean and standard deviation, before anything is known, of the logarithm of the noise's variance
TAME = 2.0  # times as far above the median as the best is below it: beyond that losses are drawn in
LEVELS = 6  # different numbers of steps that are told apart
LEAST_AT_LEVEL = 4  # trials that have to have come to a number of steps for it to be the one that counts


class GaussianProcess:
    """Model the objective and the requirements. Needs `pip install openhpo[bayes]`.

    Args:
        startup: So many trials are spread evenly over the space before anything is learnt.
        random_fraction: The part of the suggestions that are spread evenly all the same.
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


class Data(NamedTuple):
    """The history as arrays.

    Attributes:
        rows: Coordinates of the configurations and the step, in logarithms from 0 to 1, of each observation.
        losses: Of each, as the process is to see them; NaN where there is none.
        variances: Of these, where they are means of replicates; empty otherwise.
        margins: [observation, requirement] how far it is from being met.
        best: Rows of the configurations at the step that counts.
        pending: Those of the trials that run.
    """

    rows: Floats
    losses: Floats
    variances: Floats
    margins: Floats
    best: Floats
    pending: Floats


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
        self._even = SobolPoints(space, seed)
        self._coordinates = Coordinates(space)
        self._fitted: tuple[bytes, Any] = (b"", None)
        self._remarks: list[dict[str, Any]] = []

    def quick(self, number: int, rng: numpy.random.Generator) -> Config:
        return self._even(number, (), rng)

    def remarks(self) -> Sequence[dict[str, Any]]:
        return self._remarks

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config:
        self._remarks = []
        even = rng.random() < self._sampler.random_fraction
        ended = sum(trial.state in AT_REST for trial in history)
        if even or ended < self._sampler.startup or not self._space.free:
            return self._even(number, history, rng)
        data = self._data(history)
        if data is None:
            return self._even(number, history, rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numerical trouble, which is dealt with
            found = self._maximise(data, rng)
        return found or self._even(number, history, rng)

    # ---- the history

    def _data(self, history: Sequence[TrialRecord]) -> Data | None:
        import numpy

        levels = _levels(history)
        if not levels:
            return None
        counts = [sum(trial.step >= level for trial in history if trial.state in AT_REST) for level in levels]
        enough = [level for level, count in zip(levels, counts, strict=True) if count >= LEAST_AT_LEVEL]
        target = enough[-1] if enough else levels[0]
        several = len(levels) > 1
        top = math.log(levels[-1]) or 1.0

        def place(config: Config, step: int) -> list[float]:
            row = self._coordinates.row(config)
            return [*row, math.log(step) / top] if several else row

        width = max((len(trial.score.margins) for trial in history), default=0)
        rows, losses, errors, margins, best = [], [], [], [], []
        pending = [place(trial.config, target) for trial in history if trial.state not in AT_REST]
        worst = object()
        for trial in history:
            if trial.state not in AT_REST:
                continue
            best.append(place(trial.config, target))
            if trial.state is State.FAILED or not trial.losses:
                rows.append(place(trial.config, target))
                losses.append(worst)
                errors.append(math.nan)
                margins.append([math.nan] * width)
                continue
            for level in levels:
                if level <= trial.step:
                    loss, error = _best_until(trial, level)
                    last = level == max(each for each in levels if each <= trial.step)
                    rows.append(place(trial.config, level))
                    losses.append(loss)
                    errors.append(error)
                    margins.append(list(trial.score.margins) if last and trial.score.margins else [math.nan] * width)
        known = numpy.array([math.nan if loss is worst else loss for loss in losses], float)
        known[~numpy.isfinite(known)] = math.nan
        if numpy.isfinite(known).any():
            known[[loss is worst for loss in losses]] = numpy.nanmax(known)
        variances = numpy.array(errors, float) ** 2
        known, slopes = _tamed(known)
        variances = variances * slopes**2 if numpy.isfinite(variances).any() else numpy.empty(0)
        clipped = numpy.array(margins, float).reshape(len(rows), width)
        table = numpy.array(rows, float)
        kept = _chosen(known, MOST_ROWS)
        return Data(
            table[kept],
            known[kept],
            variances[kept] if len(variances) else variances,
            clipped[kept],
            numpy.array(best, float),
            numpy.array(pending, float).reshape(-1, table.shape[1]),
        )

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

    def _model(self, data: Data) -> tuple[list[Any], list[float]]:
        """The processes of the objective and of the requirements that were ever broken; what 0 is to each of the latter."""
        import numpy

        outcomes = [(data.losses, data.variances)]
        broken = [column for column in data.margins.T if numpy.isfinite(column).sum() > 1 and numpy.nanmax(column) > 0]
        if not numpy.isfinite(
            data.losses
        ).any():  # nothing meets the requirement that the objective is about: come closer to it
            total = numpy.maximum(numpy.nan_to_num(data.margins, nan=0.0, posinf=0.0), 0.0).sum(axis=1)
            total[~numpy.isfinite(data.margins).any(axis=1)] = math.nan
            outcomes, broken = [(total, numpy.empty(0))], []
        outcomes += [(_squashed(column), numpy.empty(0)) for column in broken]
        encoded = self._encoded(data.rows)
        processes = [fitted(encoded, values, variances) for values, variances in outcomes]
        scales = [process.outcome_transform for process in processes[1:]]
        return processes, [float(-scale.means / scale.stdvs) for scale in scales]

    def _maximise(self, data: Data, rng: numpy.random.Generator) -> Config | None:
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
        extra = data.best[:1, len(self._space.free) :]  # the step that counts
        values = self._values(acquisition, active, extra)
        start = _starts(values, rng)
        climbed = self._climb(acquisition, drawn[start], active[start], extra)
        rows, active = self._coordinates.possible(self._coordinates.snapped(numpy.concatenate([climbed, drawn[start]])))
        if not len(rows):
            return None
        order = numpy.argsort(-self._values(acquisition, active, extra), kind="stable")
        tried = {numpy.nan_to_num(row, nan=-1.0).tobytes() for row in (*data.best, *data.pending)}
        fresh = (
            place
            for place in order.tolist()
            if numpy.nan_to_num(numpy.concatenate([active[place], extra[0]]), nan=-1.0).tobytes() not in tried
        )
        return self._coordinates.config(rows[next(fresh, int(order[0]))].tolist())

    def _at_their_best(self, process: Any, data: Data) -> Floats:
        """Encoded configurations, those first whose posterior mean is the best."""
        import torch

        encoded = self._encoded(data.best)
        with torch.no_grad():
            mean = process.posterior(torch.as_tensor(encoded)).mean[:, 0].numpy()
        order: NDArray[numpy.int64] = mean.argsort(kind="stable")
        found: Floats = encoded[order]
        return found

    def _candidates(self, data: Data, rng: numpy.random.Generator) -> tuple[Floats, Floats]:
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

    def _good(self, data: Data) -> Floats:
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


def _levels(history: Sequence[TrialRecord]) -> list[int]:
    """The numbers of steps that trials have come to rest at; at most `LEVELS`, the largest among them."""
    steps = sorted(
        {trial.step for trial in history if trial.state in AT_REST and trial.state is not State.FAILED and trial.step}
    )
    if len(steps) <= LEVELS:
        return steps
    ratio = (steps[-1] / steps[0]) ** (1 / (LEVELS - 1))
    wanted = [steps[0] * ratio**place for place in range(LEVELS)]
    return sorted({min(steps, key=lambda step: abs(math.log(step / at))) for at in wanted})


def _best_until(trial: TrialRecord, step: int) -> tuple[float, float]:
    """The smallest loss of the first steps, and its standard error."""
    found = math.nan
    place = 0
    for at in range(min(step, len(trial.losses))):
        if not trial.losses[at] >= found:
            found, place = (trial.losses[at], at) if not math.isnan(trial.losses[at]) else (found, place)
    return found, trial.errors[place] if trial.errors else math.nan


def _tamed(losses: Floats) -> tuple[Floats, Floats]:
    """Losses with the worst drawn in, as trainings that diverge would tell nothing but that; and the slopes of that.

    Returns:
        Both of the shape of `losses`.
    """
    import numpy

    finite = losses[numpy.isfinite(losses)]
    slopes = numpy.ones_like(losses)
    if not len(finite):
        return losses, slopes
    middle = float(numpy.median(finite))
    scale = middle - float(finite.min())
    if scale <= 0:
        scale = float(finite.max()) - middle
    if scale <= 0:
        return losses, slopes
    middle += TAME * scale
    beyond = (losses - middle) / scale
    with numpy.errstate(invalid="ignore"):
        high = beyond > 0
    found = losses.copy()
    found[high] = middle + scale * beyond[high] / (1 + beyond[high])
    slopes[high] = 1 / (1 + beyond[high]) ** 2
    return found, slopes


def _squashed(margins: Floats) -> Floats:
    """Margins without outliers, the sign kept."""
    import numpy

    finite = numpy.abs(margins[numpy.isfinite(margins)])
    most = 5 * float(numpy.median(finite[finite > 0])) if (finite > 0).any() else 1.0
    return numpy.clip(margins, -most, most)


def _chosen(losses: Floats, most: int) -> NDArray[numpy.int64]:
    """The places of at most so many: the better half of them, and others evenly by rank."""
    import numpy

    order = numpy.argsort(numpy.where(numpy.isnan(losses), numpy.inf, losses), kind="stable")
    if len(order) <= most:
        return numpy.arange(len(losses))
    others = order[most // 2 :]
    spread = others[numpy.linspace(0, len(others) - 1, most - most // 2).astype(int)]
    return numpy.sort(numpy.concatenate([order[: most // 2], spread]))


def fitted(rows: Floats, values: Floats, variances: Floats) -> Any:
    """A process of these values.

    Args:
        rows: Shape [observations, dimensions].
        values: Shape [observations]; NaN where there is none.
        variances: Of the values; empty where they are to be found.
    """
    import numpy
    import torch

    there = numpy.isfinite(values)
    rows, values = rows[there], values[there]
    variances = variances[there] if len(variances) else variances
    state = None
    sizes = [COARSE, len(rows)] if len(rows) > 2 * COARSE else [len(rows)]
    for size, iterations in zip(sizes, (50, 50) if len(sizes) == 1 else (50, 8), strict=False):
        kept = _chosen(values, size)
        process = _process(rows[kept], values[kept], variances[kept] if len(variances) else variances)
        if state is not None:
            own = process.state_dict()
            process.load_state_dict(own | {name: tensor for name, tensor in state.items() if tensor.shape == own[name].shape})
        _fit(process, iterations)
        state = {name: tensor for name, tensor in process.state_dict().items() if "outcome_transform" not in name}
    assert isinstance(process, torch.nn.Module)
    return process.eval()


def _process(rows: Floats, values: Floats, variances: Floats) -> Any:
    import numpy
    import torch
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Standardize
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.means import ConstantMean
    from gpytorch.priors import GammaPrior, LogNormalPrior

    noise, likelihood = None, None
    if len(variances):
        usual = numpy.nanmean(variances) if numpy.isfinite(variances).any() else 0.0
        least = 1e-6 * max(float(numpy.var(values)), 1e-12)
        noise = torch.as_tensor(numpy.maximum(numpy.where(numpy.isfinite(variances), variances, usual), least))[:, None]
    else:  # it may be as good as none
        least_noise = GreaterThan(1e-6, transform=None, initial_value=1e-3)
        likelihood = GaussianLikelihood(noise_prior=LogNormalPrior(*NOISE), noise_constraint=least_noise)
    lengths = LogNormalPrior(0.0, 1.0)  # in parts of a range
    mean = ConstantMean()
    mean.constant.requires_grad_(False)  # that of the trials: where nobody was, things may be as good as on average
    lower = GreaterThan(0.025, transform=None, initial_value=lengths.mode)
    matern = MaternKernel(2.5, ard_num_dims=rows.shape[1], lengthscale_prior=lengths, lengthscale_constraint=lower)
    kernel = ScaleKernel(matern, outputscale_prior=GammaPrior(2.0, 1.0))
    kernel.outputscale = 1.0
    return SingleTaskGP(
        torch.as_tensor(rows),
        torch.as_tensor(values)[:, None],
        train_Yvar=noise,
        likelihood=likelihood,
        covar_module=kernel,
        mean_module=mean,
        outcome_transform=Standardize(1),
    )


def _fit(process: Any, iterations: int) -> None:
    """Maximise the marginal likelihood; where that fails numerically, the kernel stays as it was."""
    from botorch.exceptions import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from gpytorch.mlls import ExactMarginalLogLikelihood

    likelihood = ExactMarginalLogLikelihood(process.likelihood, process)
    try:
        fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": iterations}}, max_attempts=1)
    except (ModelFittingError, RuntimeError, ValueError):
        process.eval()
