"""How many ranks a stage is trained on, and which. Pure, as the study is.

Rules:
- A stage gets as many ranks as are wanted for what is in force at its start, but never more than there are.
- Where that number changes on the way, with a schedule, the stage ends there.
- What has to wait for its ranks waits first: nothing is handed out past it, so it gets them as they become idle.
- The first rank leads. It is one that holds the state to go on from, where that is idle; the others are those it led last, so
  that the group stays the same; then ranks of its node; then others, who has waited longest first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openhpo.course import Course
from openhpo.errors import UserError
from openhpo.resources import Needs, Profile

Ranks = int | str | Callable[[Mapping[str, Any]], int]
AUTO = "auto"
ONE = 1


class Allocation:
    """Ranks for stages.

    Attributes:
        wide: Whether a stage may get more than one rank.

    Args:
        wanted: How many ranks a trial is trained on: a number; a function of the values in force, `f(values) -> number`; or
            "auto", which goes by the memory that earlier stages took.
        widenings: How many times as many from a number of steps on, as the engine of each study has it; None where it has
            none.
    """

    def __init__(self, wanted: Ranks = ONE, widenings: Sequence[Callable[[int], int] | None] = (None,)) -> None:
        self._wanted = checked(wanted)
        self._widenings = widenings
        self.wide = wanted != ONE or any(widening is not None for widening in widenings)
        self._needs = Needs() if wanted == AUTO else None
        self._hosts: dict[int, str] = {}
        self._gone: set[int] = set()
        self._expected = 0
        self._led: dict[int, tuple[int, ...]] = {}  # the last group of each leader

    # ---- who there is

    def expect(self, ranks: int) -> None:
        """A run begins, with so many ranks that train."""
        self._expected = ranks
        self._hosts.clear()
        self._gone.clear()
        self._led.clear()

    def join(self, rank: int, host: str) -> None:
        """A rank is there."""
        self._hosts[rank] = host
        self._gone.discard(rank)

    def leave(self, rank: int) -> None:
        """A rank is lost."""
        self._hosts.pop(rank, None)
        self._gone.add(rank)
        self._led.pop(rank, None)

    @property
    def most(self) -> int:
        """The ranks that a stage can have at most: all that there are, those that are still to join included."""
        return max(self._expected - len(self._gone), len(self._hosts), ONE)

    # ---- how many

    def size(self, course: Course, step: int) -> int:
        """How many ranks train what goes on after so many steps.

        Raises:
            UserError: The function of the values in force gives no number of ranks.
        """
        if not self.wide:
            return ONE
        widening = self._widenings[course.study]
        times = ONE if widening is None else widening(step)
        return min(self._base(course, step) * times, self.most)

    def _base(self, course: Course, step: int) -> int:
        if isinstance(self._wanted, int):
            return self._wanted
        values = course.at(step)
        if self._needs is not None:
            return self._needs.ranks(values, self.most)
        assert callable(self._wanted)
        found = self._wanted(values)
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise UserError(
                f"ranks_per_trial({dict(values)}) gives {found!r}: it has to be a whole number of ranks, from 1 on. "
                "It is called with the values in force when a stage begins."
            )
        return found

    def change(self, course: Course, start: int, stop: int) -> int | None:
        """The first step between these two from which on another number of ranks is wanted.

        Where that is learnt from stages, the first from which on other values are in force, as what a stage takes is known by
        these.
        """
        if not self.wide or (isinstance(self._wanted, int) and self._widenings[course.study] is None):
            return None
        if self._needs is not None:
            return next(iter(course.turns(start, stop)), None)
        now = self.size(course, start)
        return next((step for step in course.turns(start, stop) if self.size(course, step) != now), None)

    # ---- which

    def choose(self, size: int, idle: Sequence[int], holders: Sequence[int]) -> tuple[int, ...] | None:
        """The ranks of a stage, the leader first; None while too few are idle.

        Args:
            size: How many.
            idle: Who is idle, who has waited longest first.
            holders: Who holds the state to go on from.
        """
        if len(idle) < size:
            return None
        if size == ONE:
            return (idle[0],)
        leader = self._leader(size, idle, holders)
        led = self._led.get(leader, ())
        if len(led) == size and set(led) <= set(idle):
            return led
        host = self._hosts.get(leader)
        others = [rank for rank in idle if rank != leader]
        others.sort(key=lambda rank: (rank not in led, self._hosts.get(rank) != host))  # stable: who has waited longest first
        ranks = self._led[leader] = (leader, *others[: size - 1])
        return ranks

    def _leader(self, size: int, idle: Sequence[int], holders: Sequence[int]) -> int:
        for rank in idle:
            if rank in holders:
                return rank
        near: dict[str | None, list[int]] = {}
        for rank in idle:
            near.setdefault(self._hosts.get(rank), []).append(rank)
        roomy = next((ranks for ranks in near.values() if len(ranks) >= size), None)
        if roomy is None:
            roomy = max(near.values(), key=len)
        return next((rank for rank in roomy if len(self._led.get(rank, ())) == size), roomy[0])

    # ---- what stages took

    def profiled(self, course: Course, step: int, ranks: int, profile: Profile) -> None:
        """A stage was trained, and took so much memory."""
        if self._needs is not None:
            self._needs.learn(course.at(step), ranks, profile)

    def exhausted(self, course: Course, step: int, ranks: int) -> None:
        """A stage ran out of memory on so many ranks."""
        if self._needs is not None:
            self._needs.exhausted(course.at(step), ranks)

    def grows(self, ranks: int) -> bool:
        """Whether a stage that ran out of memory on so many ranks can have more."""
        return self._needs is not None and ranks < self.most

    def definition(self) -> dict[str, Any]:
        """What identifies it, in plain JSON; empty where every trial has one rank."""
        if self._wanted == ONE:
            return {}
        name = f"{self._wanted.__module__}.{self._wanted.__qualname__}" if callable(self._wanted) else self._wanted
        return {"ranks_per_trial": name}


def checked(wanted: Ranks) -> Ranks:
    """What is wanted, if it makes sense.

    Raises:
        UserError: It does not.
    """
    if wanted == AUTO or callable(wanted):
        return wanted
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise UserError(
            f"ranks_per_trial has to be a whole number above 0, a function of the values in force, or {AUTO!r}, not {wanted!r}"
        )
    return wanted
