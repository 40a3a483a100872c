"""What the ranks that train a stage together took of memory at the most.

Only the leader says when a stage is over, and it may be there before the others. They tell it their peaks without being asked:
after their first step, where most of them have it, at steps after which training waits for a verdict, and at the end. There the
leader's training thread waits a moment for those who are about to be there too.
"""

from __future__ import annotations

import threading

LATE = 0.25  # seconds that the end of a stage waits for the others' peaks; who is later counts with what it told before


class Peaks:
    """The followers' peaks in one stage. The event loop calls `told`, the training thread `wait`.

    Args:
        followers: The ranks that train with the leader.
    """

    def __init__(self, followers: tuple[int, ...] = ()) -> None:
        self._awaited = set(followers)
        self._found: dict[int, tuple[int, int]] = {}
        self._complete = threading.Event()
        if not followers:
            self._complete.set()

    def told(self, rank: int, peak: int, memory: int, *, last: bool) -> None:
        """A follower says what it took so far, of how much; nothing comes after the `last`."""
        self._found[rank] = (peak, memory)
        if last:
            self._awaited.discard(rank)
        if not self._awaited:
            self._complete.set()

    @property
    def complete(self) -> bool:
        """Whether all have told their last."""
        return self._complete.is_set()

    def wait(self, seconds: float = LATE) -> None:
        """Until all have told their last; or so long, as one of them may be lost."""
        self._complete.wait(seconds)

    def with_own(self, peak: int, memory: int) -> tuple[int, int]:
        """The largest peak, the leader's own included, and the smallest memory of those that know theirs; 0 is unknown."""
        told = [(peak, memory), *self._found.values()]
        return max(each for each, _ in told), min((each for _, each in told if each), default=0)
