"""How many ranks a stage needs, learnt from what earlier stages took (just-fit allocation: Shin et al., "Stage-based
Hyper-parameter Optimization for Deep Learning", 2019).

The peak memory of one of r ranks is taken for a sum of what every rank holds (weights) and of what is divided among the ranks
(activations of its part of a batch), both linear in the hyperparameters:

    peak = a + b.x + (c + d.x) / r,    all of a, b, c, d at least 0

fitted by non-negative least squares. While all stages had one rank, the two parts cannot be told apart, and the fit prefers
the divided one; the first stage on more ranks shows better. Of what ran out of memory only that is known: it counts, as a peak
just above the memory that there is, where the fit to the others says that it had been enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

SPARE = 0.05  # of the memory, that a prediction leaves free
BEYOND = 1.02  # times the memory that there is: what a stage that ran out of it needed at least
MOST = 400  # observations that are fitted, the latest


class Profile(NamedTuple):
    """What a stage took.

    Attributes:
        peak: Bytes of memory at the most on any of its ranks; 0 where that is not known.
        memory: Bytes that there are on each; 0 where that is not known.
        seconds: Of training, the set-up included.
        steps: Trained in that time.
    """

    peak: int = 0
    memory: int = 0
    seconds: float = 0.0
    steps: int = 0


class Needs:
    """The numbers of ranks that stages need: one at first, then what a regression on memory says."""

    def __init__(self) -> None:
        self._seen: list[tuple[dict[str, float], int, float]] = []  # features, ranks, bytes
        self._failed: list[tuple[dict[str, float], int]] = []  # features and ranks of what ran out of memory
        self._memory = 0
        self._least: dict[tuple[tuple[str, float], ...], int] = {}  # ranks that what ran out of memory needs at least
        self._fit: tuple[list[str], Any] | None = None

    def ranks(self, values: Mapping[str, Any], most: int) -> int:
        """The smallest number of ranks, at most `most`, on which a stage fits: a power of two, or `most` itself."""
        features = numbers(values)
        ranks = self._least.get(tuple(sorted(features.items())), 1)
        while ranks < most and self._memory and self._predicted(features, ranks) > self._memory * (1 - SPARE):
            ranks *= 2
        return min(ranks, most)

    def learn(self, values: Mapping[str, Any], ranks: int, profile: Profile) -> None:
        """A stage was trained."""
        if not profile.peak:
            return
        self._memory = profile.memory or self._memory
        self._seen.append((numbers(values), ranks, float(profile.peak)))
        del self._seen[:-MOST]
        self._fit = None

    def exhausted(self, values: Mapping[str, Any], ranks: int) -> None:
        """A stage ran out of memory; it needs at least twice as many ranks."""
        features = numbers(values)
        key = tuple(sorted(features.items()))
        self._least[key] = max(self._least.get(key, 1), 2 * ranks)
        self._failed.append((features, ranks))
        self._fit = None

    def _predicted(self, features: Mapping[str, float], ranks: int) -> float:
        """Bytes on each of so many ranks."""
        if not self._seen:  # nothing is known but what `_least` says
            return 0.0
        if self._fit is None:
            self._fit = self._fitted()
        names, weights = self._fit
        return float(row(names, features, ranks) @ weights)

    def _fitted(self) -> tuple[list[str], Any]:
        import numpy
        from scipy.optimize import nnls

        seen, failed = list(self._seen), list(self._failed)
        names = sorted({name for features in (*(each[0] for each in seen), *(each[0] for each in failed)) for name in features})
        while True:
            table = numpy.array([row(names, features, ranks) for features, ranks, _ in seen])
            scales = numpy.abs(table).max(axis=0)
            scales[scales == 0] = 1.0
            peaks = numpy.array([peak for _, _, peak in seen])
            weights, _ = nnls(table / scales, peaks / peaks.max())
            weights = weights / scales * peaks.max()
            missed = [each for each in failed if row(names, *each) @ weights <= self._memory]
            if not missed:
                return names, weights
            failed = [each for each in failed if each not in missed]
            seen += [(*each, BEYOND * self._memory) for each in missed]


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What a regression sees of the values in force: numbers as they are, other choices as ones."""
    found = {}
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
        else:
            found[f"{name}={value}"] = 1.0
    return found


def row(names: list[str], features: Mapping[str, float], ranks: int) -> Any:
    """The regressors: what is divided among the ranks first, as a tie goes to the first."""
    import numpy

    x = numpy.array([*(features.get(name, 0.0) for name in names), 1.0])
    return numpy.concatenate([x / ranks, x])
