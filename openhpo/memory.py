"""Keeps Python's garbage collection from looking through a growing study again and again."""

from __future__ import annotations

import gc

FIRST = 4_000  # stages; below that it is no matter
GROWTH = 1.25  # as Python's own collection would look through everything about as often


class LongLived:
    """Sets what lives as long as the study does apart, each time that it has grown by a quarter.

    A study holds some ten objects a stage, and none of them is garbage before its end. Python looks through all of them
    whenever their number has grown by a quarter, which doubles what a decision costs at 100,000 trials, and stops training in
    the same process for as long. What is set apart is still freed when nothing refers to it any more.
    """

    def __init__(self) -> None:
        self._next = FIRST

    def grown(self, stages: int) -> None:
        """So many stages have been handed out."""
        if stages >= self._next:
            self._next = int(GROWTH * stages)
            gc.collect()  # first, so that nothing is kept that only refers to itself
            gc.freeze()
