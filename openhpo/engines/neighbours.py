"""The nearest of a growing set of points, at a cost that hardly grows with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

BLOCK = 256  # points that are compared one by one
RATIO = 16  # a tree is joined with the larger one beside it when it holds so many times the points of its kind


class Neighbours:
    """Points of one dimension and the Euclidean distance; of several at the same distance the first added is the nearest.

    The newest points lie in an array, the others in k-d trees (SciPy) whose sizes grow by a factor, so that a point is put
    into a tree a few times only, and a search looks into a few trees (the logarithmic method, Bentley and Saxe 1980).

    Args:
        dimension: Of the points.
    """

    def __init__(self, dimension: int) -> None:
        self._points = numpy.empty((BLOCK, dimension))
        self._size = 0
        self._trees: list[tuple[Any, int, int]] = []  # k-d tree, first point, behind the last; in the order of the points

    def __len__(self) -> int:
        return self._size

    def add(self, point: Sequence[float]) -> None:
        """Add a point; its number is how many there were before."""
        if self._size == len(self._points):
            self._points = numpy.concatenate([self._points, numpy.empty_like(self._points)])
        self._points[self._size] = point
        self._size += 1
        newest = self._trees[-1][2] if self._trees else 0
        if self._size - newest == BLOCK:
            self._grow(newest)

    def _grow(self, begin: int) -> None:
        from scipy.spatial import cKDTree

        kind = BLOCK
        while True:
            alike = [tree for tree in self._trees if kind <= tree[2] - tree[1] < kind * RATIO]
            if sum(stop - start for _, start, stop in alike) + BLOCK < kind * RATIO:
                break
            begin = min([begin, *(start for _, start, _ in alike)])
            self._trees = [tree for tree in self._trees if tree not in alike]
            kind *= RATIO
        if kind == BLOCK and self._trees and self._trees[-1][2] - self._trees[-1][1] < BLOCK * RATIO:
            begin = self._trees.pop()[1]  # one tree of the smallest kind is enough
        self._trees.append((cKDTree(self._points[begin : self._size]), begin, self._size))

    def nearest(self, point: Sequence[float]) -> int:
        """The number of the nearest point; there has to be one."""
        wanted = numpy.asarray(point, float)
        best = (numpy.inf, self._size)
        for tree, start, _ in self._trees:
            distance, place = tree.query(wanted)
            best = min(best, (float(distance), start + int(place)))
        newest = self._trees[-1][2] if self._trees else 0
        if newest < self._size:
            distances: NDArray[Any] = numpy.sqrt(((self._points[newest : self._size] - wanted) ** 2).sum(1))
            place = int(distances.argmin())
            best = min(best, (float(distances[place]), newest + place))
        return best[1]
