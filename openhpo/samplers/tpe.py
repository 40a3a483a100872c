"""Tree-structured Parzen estimator: try what is likely among the good trials and unlikely among the others.

Bergstra, Bardenet, Bengio and Kegl (NeurIPS 2011): with l the density of the good trials and g that of the others, the expected
improvement grows with l / g. Both have one product kernel a trial, as in BOHB (Falkner, Klein and Hutter, ICML 2018), so what
hyperparameters do together is seen. Watanabe ("Tree-structured Parzen estimator: understanding its algorithm components",
2023) compares the choices that are left; those made here were found on six functions that are in no test or benchmark.

Trials that were trained for different numbers of steps are compared as BOHB does, at the largest number that enough trials have
reached; those that their method gave up before that count among the others. A trial that is done, at its goal or because its
training returned, has reached every number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openhpo.errors import UserError, whole
from openhpo.hyperparameters import Config
from openhpo.samplers.base import Suggest, known
from openhpo.samplers.sobol import SobolPoints
from openhpo.space import Space
from openhpo.stages import AT_REST, State, TrialRecord

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from openhpo.samplers.coordinates import Coordinates

    Floats = NDArray[numpy.float64]

GOOD, MOST_GOOD = 0.2, 25  # the part of the trials that is good, and how many at most
RUNNING = 1.0  # how many of the others all that still run are worth together
MOST_OTHERS = 500  # that are looked at, evenly by rank
WIDTH, WIDTH_OTHERS = 0.85, 0.5  # of the kernels of good trials and of others, in parts of Scott's
ENDED = AT_REST - {State.PAUSED}
SAME = 2  # trials that may have the same first loss, to the last digit, and count as good
PRIOR = 2.0  # how many observations the kernel that knows nothing is worth


class TPE:
    """Learn from the trials so far what good ones have in common.

    Args:
        startup: So many trials are spread evenly over the space before anything is learnt, and more until four are at rest
            that did not fail, or as many as this with one that did not.
        candidates: How many points are drawn for a suggestion; more make it greedier.
        random_fraction: The part of the suggestions that are spread evenly all the same (rho of BOHB).

    Raises:
        UserError: The numbers make no sense.
    """

    def __init__(self, startup: int = 10, candidates: int = 24, random_fraction: float = 0.0) -> None:
        self.startup = whole(startup, "startup", 2)
        self.candidates = whole(candidates, "candidates")
        if not 0.0 <= random_fraction < 1.0:
            raise UserError(f"random_fraction has to be at least 0 and below 1, not {random_fraction!r}")
        self.random_fraction = float(random_fraction)

    def bind(self, space: Space, seed: int) -> ParzenSearch:
        return ParzenSearch(self, space, seed)

    def definition(self) -> dict[str, Any]:
        return {"sampler": "TPE", **vars(self)}


class ParzenSearch(Suggest):
    """TPE in one space."""

    def __init__(self, sampler: TPE, space: Space, seed: int) -> None:
        from openhpo.samplers.coordinates import Coordinates

        self._sampler = sampler
        self._space = space
        self._even = SobolPoints(space, seed)
        self._coordinates = Coordinates(space)
        self._observed = Observed(self._coordinates)

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config:
        self._observed.look(history)
        even = rng.random() < self._sampler.random_fraction
        if even or not known(self._sampler.startup, history) or not self._space.free:
            return self._even(number, history, rng)
        return self._learnt(history, rng) or self._even(number, history, rng)

    def _learnt(self, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config | None:
        import numpy

        from openhpo.samplers.parzen import Parzen

        rows, best = self._observed.rows, self._observed.ranked(history, len(self._space.free) + 1)
        best = self._observed.news_first(best)
        good = best[: min(self._observed.well(best), max(2, min(math.ceil(GOOD * len(best)), MOST_GOOD)))]
        running = self._observed.running  # so that nobody goes where they are
        worse = best[len(good) :: 1 + (len(best) - len(good)) // MOST_OTHERS]
        counts = numpy.ones(len(running) + len(worse))
        counts[: len(running)] = min(1.0, RUNNING / max(1, len(running)))
        weights = numpy.log(len(good) + 1) - numpy.log(numpy.arange(1, len(good) + 1))
        likely = Parzen(self._coordinates, rows[good], weights / weights.mean(), WIDTH, PRIOR)
        unlikely = Parzen(self._coordinates, rows[numpy.concatenate([running, worse])], counts, WIDTH_OTHERS, PRIOR)
        drawn = self._coordinates.snapped(likely.draw(rng, self._sampler.candidates))
        drawn, candidates = self._coordinates.possible(drawn)
        if not len(drawn):
            return None
        gains = likely.logarithms(candidates) - unlikely.logarithms(candidates)
        order: list[int] = numpy.argsort(-gains, kind="stable").tolist()
        untried = (place for place in order if not self._observed.tried(candidates[place]))
        return self._coordinates.config(drawn[next(untried, order[0])].tolist())


class Observed:
    """The trials so far as arrays. Whatever it keeps follows from the history that it is shown."""

    def __init__(self, coordinates: Coordinates) -> None:
        self._coordinates = coordinates
        self._forget()

    def _forget(self) -> None:
        import numpy

        self._configs: list[Config] = []
        self._open: list[int] = []  # trials that may still change
        self._tried: set[bytes] = set()
        self._rows = numpy.empty((0, len(self._coordinates.choices)))
        self._ranks = numpy.empty((0, 4))  # by trial: whether it failed, its steps, its violation, its loss; NaN while it runs
        self._firsts = numpy.empty(0)  # the first loss of each trial that is at rest; NaN where there is none

    def look(self, history: Sequence[TrialRecord]) -> None:
        """Take in what is new."""
        import numpy

        seen = len(self._configs)
        if seen > len(history) or (seen and history[seen - 1].config is not self._configs[-1]):  # another history
            self._forget()
            seen = 0
        if len(history) > len(self._rows):
            more = max(len(history) - len(self._rows), len(self._rows), 64)
            self._rows = numpy.concatenate([self._rows, numpy.empty((more, self._rows.shape[1]))])
            self._ranks = numpy.concatenate([self._ranks, numpy.full((more, 4), numpy.nan)])
            self._firsts = numpy.concatenate([self._firsts, numpy.full(more, numpy.nan)])
        for place, trial in enumerate(history[seen:], seen):
            self._rows[place] = self._coordinates.row(trial.config)
            self._configs.append(trial.config)
            self._open.append(place)
            self._tried.add(numpy.nan_to_num(self._rows[place], nan=-1.0).tobytes())
        still = []
        for number in self._open:
            trial = history[number]
            if trial.state is State.FAILED:
                self._ranks[number] = (1.0, trial.step, math.inf, math.inf)
            elif trial.state in AT_REST:
                steps = math.inf if trial.state is State.DONE else trial.step
                self._ranks[number] = (0.0, steps, trial.score.violation, trial.score.loss)
                if trial.losses and math.isfinite(trial.losses[0]):
                    self._firsts[number] = trial.losses[0]
            else:
                self._ranks[number] = math.nan
            if trial.state not in ENDED:
                still.append(number)
        self._open = still

    @property
    def rows(self) -> Floats:
        """Coordinates, shape [trials, columns]."""
        return self._rows[: len(self._configs)]

    @property
    def running(self) -> NDArray[numpy.int64]:
        """The numbers of the others."""
        import numpy

        return numpy.flatnonzero(numpy.isnan(self._ranks[: len(self._configs), 0]))

    def well(self, numbers: NDArray[numpy.int64]) -> int:
        """How many of these trials, which do not run, did not fail."""
        return int((self._ranks[numbers, 0] == 0).sum())

    def tried(self, row: Floats) -> bool:
        """Whether there is a trial with these coordinates."""
        import numpy

        return numpy.nan_to_num(row, nan=-1.0).tobytes() in self._tried

    def news_first(self, ranked: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        """The same numbers, those that begin as `SAME` others before behind all but the failed ones: where nothing depends on
        what was changed, more of the same tells nothing, and would draw all that follows to its place.
        """
        import numpy

        firsts = self._firsts[ranked]
        order = numpy.argsort(firsts, kind="stable")
        among = firsts[order]  # equal ones side by side, the best ranked first
        again = numpy.zeros(len(ranked), bool)
        again[order[SAME:]] = among[SAME:] == among[:-SAME]
        failed = self._ranks[ranked, 0] > 0
        found: NDArray[numpy.int64] = numpy.concatenate([ranked[~again & ~failed], ranked[again], ranked[failed]])
        return found

    def ranked(self, history: Sequence[TrialRecord], least: int) -> NDArray[numpy.int64]:
        """The numbers of the trials that do not run, the best first.

        Args:
            history: All trials.
            least: How many trials have to have come to a step for it to be the one that they are compared at.
        """
        import numpy

        ranks = self._ranks[: len(self._configs)]
        numbers = numpy.flatnonzero(ranks[:, 0] >= 0)
        failed, steps, violations, losses = ranks[numbers].T.copy()
        trained = numpy.sort(steps[failed == 0])[::-1]
        budget = trained[min(least, len(trained)) - 1] if len(trained) else 0.0
        for place in numpy.flatnonzero((steps > budget) & (failed == 0)).tolist():  # fewer than `least`
            until = history[int(numbers[place])].losses[: int(budget)]
            losses[place] = min((loss for loss in until if not math.isnan(loss)), default=math.inf)
        order = numpy.lexsort((losses, violations, -numpy.minimum(steps, budget), failed))
        found: NDArray[numpy.int64] = numbers[order]
        return found
