"""The states that a rank holds for others: in host memory up to a budget, the least recently used ones spilled to
checkpoints.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

from openhpo.stages import StateName
from openhpo.training.states import Snapshot

PART_OF_MEMORY = 0.25  # of a node, for the snapshots of all its ranks together


class StateStore:
    """Snapshots by the name of their state.

    Args:
        budget: Bytes. What is over it is to be spilled; nothing is thrown away before that is done.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._held: OrderedDict[StateName, Snapshot] = OrderedDict()
        self._spilling: set[StateName] = set()
        self._stuck: set[StateName] = set()  # could not be written
        self._lent: set[StateName] = set()  # given to other ranks, whose receives may still be under way
        self._spare: Any = None
        self.size = 0

    def __contains__(self, state: StateName) -> bool:
        return state in self._held

    def add(self, state: StateName, snapshot: Snapshot) -> None:
        self._held[state] = snapshot
        self.size += snapshot.size

    def use(self, state: StateName, *, lend: bool = False) -> Snapshot | None:
        """A snapshot, which counts as used; None where it is not here."""
        snapshot = self._held.get(state)
        if snapshot is not None:
            self._held.move_to_end(state)
            if lend:
                self._lent.add(state)
        return snapshot

    def take(self, state: StateName) -> Snapshot | None:
        """A snapshot that nobody else needs."""
        snapshot = self._held.pop(state, None)
        if snapshot is not None:
            self.size -= snapshot.size
            self._forget(state)
        return snapshot

    def drop(self, state: StateName) -> None:
        """Let a snapshot go; its memory is used for the next one, as fresh memory costs more than the copy into it."""
        lent = state in self._lent or state in self._spilling
        snapshot = self.take(state)
        if snapshot is not None and not lent:
            self._spare = snapshot.data

    def spare(self, size: int) -> Any:
        """A buffer of that size that is free, or None. Called from the training thread."""
        found, self._spare = self._spare, None
        return found if found is not None and found.size == size else None

    def _forget(self, state: StateName) -> None:
        for names in (self._spilling, self._stuck, self._lent):
            names.discard(state)

    def items(self) -> list[tuple[StateName, Snapshot]]:
        """All that is here."""
        return list(self._held.items())

    def clear(self) -> None:
        """Let everything go."""
        for state in list(self._held):
            self.take(state)

    def to_spill(self) -> list[tuple[StateName, Snapshot]]:
        """What has to be written to a checkpoint now, the least recently used first; each is named once."""
        found, size = [], self.size - sum(self._held[state].size for state in self._spilling if state in self._held)
        for state, snapshot in self._held.items():
            if size <= self.budget:
                break
            if state not in self._spilling and state not in self._stuck:
                self._spilling.add(state)
                found.append((state, snapshot))
                size -= snapshot.size
        return found

    def keep(self, state: StateName) -> None:
        """A snapshot could not be written: it stays, over the budget."""
        self._spilling.discard(state)
        self._stuck.add(state)


def default_budget(ranks_on_node: int) -> int:
    """A rank's share of a quarter of its node's memory, in bytes."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 8 << 30
    return int(memory * PART_OF_MEMORY / max(1, ranks_on_node))
