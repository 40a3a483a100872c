"""Where the states of a study lie: in the memories of ranks, in checkpoints; and which of them nobody can need any more.

Rules:
- A state lies at the end of a node, under one name; who holds it and its file are the node's.
- It is let go when nobody needs its node any more (`Node.needed`).
- One that lies in memory alone has an anchor: the nearest node before it with a checkpoint, which is kept for its sake.
"""

from __future__ import annotations

from typing import NamedTuple

from openhpo.stages import StateName
from openhpo.tree import Node


class Release(NamedTuple):
    """A state that nobody can need any more.

    Attributes:
        state: Its name.
        ranks: Who holds it.
        file: Its checkpoint; empty where there is none.
    """

    state: StateName
    ranks: tuple[int, ...]
    file: str


class Holdings:
    """The states of a study by name. Pure, as the study is."""

    def __init__(self) -> None:
        self._nodes: dict[StateName, Node] = {}  # whose end states lie somewhere
        self._consumed: dict[StateName, Node] = {}  # whose end states a running stage has gone on from
        self._releases: list[Release] = []

    # ---- states come

    def hold(self, node: Node, state: StateName, rank: int) -> None:
        """A node's end state lies with that rank."""
        self._name(node, state)
        node.holders = (rank,)

    def write(self, node: Node, state: StateName, file: str) -> None:
        """A node's end state lies in that checkpoint."""
        self._name(node, state)
        node.file = file
        self._unmoor(node)

    def _name(self, node: Node, state: StateName) -> None:
        if node.state is not None and node.state != state:
            if node.available:
                self._releases.append(Release(node.state, node.holders, node.file))
            self._nodes.pop(node.state, None)
            node.holders, node.file = (), ""
        node.state = state
        self._nodes[state] = node

    def moor(self, node: Node, parent: Node) -> None:
        """A state may lie in memory alone: keep the checkpoint that it would be made from again."""
        anchor = parent if parent.file else parent.anchor
        if anchor is not None and not node.file and node.anchor is None:
            node.anchor = anchor
            anchor.loans += 1

    def _unmoor(self, node: Node) -> None:
        anchor, node.anchor = node.anchor, None
        if anchor is not None:
            anchor.loans -= 1
            self.let_go(anchor)

    # ---- states go

    def consume(self, node: Node, rank: int) -> None:
        """A rank trains on with the end state of a node, which nobody else needs."""
        node.let_go(rank)
        if not node.available and node.state is not None:
            self._consumed[node.state] = self._nodes.pop(node.state)

    def consumed(self, state: StateName | None) -> None:
        """The training that went on from a state has ended, as far as that goes on alive."""
        if state is not None:
            self._consumed.pop(state, None)

    def moved(self, state: StateName, rank: int) -> bool:
        """A rank holds a state no more, which is in a checkpoint now; return whether it was there."""
        node = self._nodes.get(state)
        if node is None or rank not in node.holders:
            return False
        node.let_go(rank)
        return True

    def lost(self, state: StateName, rank: int | None = None) -> bool:
        """A rank does not hold a state any more; without one, its file is gone or damaged. Return whether it was there."""
        node = self._nodes.get(state)
        if node is None or not (node.file if rank is None else rank in node.holders):
            return False
        if rank is None:
            node.file = ""
        else:
            node.let_go(rank)
        if not node.available:
            del self._nodes[state]
        return True

    def left(self, rank: int | None = None) -> None:
        """A rank is gone, with all that it held in memory; without one, all of them are."""
        for state, node in list(self._nodes.items()):
            for holder in node.holders if rank is None else (rank,):
                self.lost(state, holder)

    def let_go(self, node: Node) -> None:
        """Release the end state of a node if nobody can need it."""
        if node.parent is None or node.needed():
            return
        if node.state is not None and node.available:
            self._releases.append(Release(node.state, node.holders, node.file))
            self._nodes.pop(node.state, None)
            node.holders, node.file = (), ""
        self._unmoor(node)

    # ---- how it stands

    def find(self, state: StateName) -> Node | None:
        """The node of a state that lies somewhere, or that a running stage has gone on from."""
        return self._nodes.get(state) or self._consumed.get(state)

    @property
    def checkpoints(self) -> dict[StateName, str]:
        """The files that states are to be found in."""
        return {state: node.file for state, node in self._nodes.items() if node.file}

    def releases(self) -> list[Release]:
        """The states that nobody can need any more, since the last call."""
        found, self._releases = self._releases, []
        return found
