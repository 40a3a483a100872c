"""Trials on their way through the tree of stages.

Rules:
- Pure, as all decisions are. A trial walks over what is trained already, and hears of it; it waits at the node that nobody has
  trained yet, and that node is offered to trainers.
- What waits for a state that was lost waits for the nearest node before it that still has one; that is trained again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from openhpo.course import Course
from openhpo.holdings import Holdings
from openhpo.news import Change, Counted
from openhpo.stages import Stage, State
from openhpo.tree import Node, Tree, Walker, Work


class Earlier(Protocol):
    """What was trained before: `earlier.Trained`."""

    def reach(self, path: Iterator[tuple[Course, int]]) -> int:
        """The last step up to which a computation is known: what is in force, each part with the step that it ends at."""

    def reports(self, path: Iterator[tuple[Course, int]], start: int) -> Sequence[Mapping[str, float]]:
        """What its steps after `start` have reported, as far as they are known."""

    def definition(self) -> Any:
        """What identifies it, in plain JSON."""


@dataclass(slots=True)
class Run:
    """A stage under way.

    Attributes:
        stage: The stage.
        node: The node that its next report belongs to.
        below: The nodes after that, the next one last, where a node was split while it ran.
        step: The last step told.
        course: What is in force.
        stopped: Whether nobody wants it any more.
    """

    stage: Stage
    node: Node
    step: int
    course: Course
    below: list[Node] = field(default_factory=list)
    stopped: bool = False


class Ways:
    """Where trials are, and what is under way for them.

    Args:
        earlier: What was trained before.

    Attributes:
        tree: What was trained, and what is wanted.
        earlier: As above.
        observed: Whether somebody is told of every step.
    """

    def __init__(self, earlier: Earlier | None = None) -> None:
        self.tree = Tree(self._was_split)
        self.earlier = earlier
        self.observed = False
        self._holdings = Holdings()
        self._runs: dict[Node, Run] = {}  # what is under way, by each of its nodes
        self._again: set[Node] = set()  # nodes that are being trained again for their state
        self._changes: list[Change] = []
        self._news: list[Change | Counted] = []

    # ---- on the way

    def walk(self, walker: Walker) -> None:
        """Move a trial on over what is trained already, to where it has to wait or to its goal."""
        trial = walker.trial
        before = trial.step
        while trial.state is State.RUNNING and trial.step < walker.goal:
            node, lower = self.tree.descend(walker.leaf, walker.course, walker.goal)
            if lower is not None:
                self._was_split(node, lower)
            ending = self._take_over(walker, node)
            if ending is not None:
                walker.search.rest(walker, ending)
                return
            if node.work is Work.FAILED:
                trial.error = node.error
                walker.search.rest(walker, State.FAILED)
            elif node.work is Work.DONE:
                self._move(walker, node)
                if node.over:
                    walker.search.rest(walker, State.DONE)
            else:
                node.join(walker)
                self._tell_joined(walker, node, walked=trial.step > before)
                if node.work is Work.WAITING:
                    self._offer(node)
                return
        if trial.state is State.RUNNING:
            walker.search.rest(walker, State.DONE if trial.step >= walker.search.engine.max_steps else State.PAUSED)

    def _tell_joined(self, walker: Walker, node: Node, *, walked: bool) -> None:
        """Tell what counts for a trial that waits, as others are trained or were trained for it."""
        run = self._runs.get(node)
        if run is not None:
            walker.search.joined(walker, run.stage.id, node.stop)
        elif walked and walker.trial.stage is not None:
            walker.search.joined(walker, walker.trial.stage, walker.trial.step)

    def _take_over(self, walker: Walker, node: Node) -> State | None:
        """Let a trial have what was reported of a node; return how that ends it, if it does."""
        trial = walker.trial
        for place, score in enumerate(node.scores):
            if node.start + place == trial.step:
                ending: State | None = walker.search.record(walker, trial.step + 1, score, node.stage)
                if ending is not None:
                    return ending
        return None

    def _move(self, walker: Walker, node: Node) -> None:
        before, walker.leaf = walker.leaf, node
        if before.available or before.anchor is not None:
            self._holdings.let_go(before)

    def _was_split(self, upper: Node, lower: Node) -> None:
        run = self._runs.get(lower)
        if run is not None and upper.work is Work.RUNNING:
            self._runs[upper] = run
            if run.node is lower:
                run.below.append(lower)
                run.node = upper
            else:
                run.below.insert(run.below.index(lower) + 1, upper)
        first = upper if lower.work is Work.WAITING else lower  # which of the two is to be trained, now or again
        assert upper.parent is not None
        if lower in upper.parent.heirs:
            upper.parent.inherit(first, instead=lower)
        if lower.level is not None:
            self._withdraw(lower)
            self._offer(first)

    def _split(self, node: Node, step: int) -> Node:
        """Let a node that waits end at a step; return it."""
        upper = self.tree.split(node, step)
        self._was_split(upper, node)
        return upper

    def _offer(self, node: Node) -> None:
        """Have a node trained as soon as a trainer is free; before it whatever has to bring back a state that was lost."""
        while node.parent is not None and not node.parent.available and self._reach(node) == node.start:
            node.parent.inherit(node)
            node = node.parent
            if node in self._again:
                return  # it is on its way
        walkers = self._walkers_at(node)
        if walkers:
            frontier = walkers[0].search.frontier if node.frontier is None else node.frontier
            frontier.add(node, max(w.priority for w in walkers), max(w.goal for w in walkers) - node.start)

    def _withdraw(self, node: Node) -> None:
        """A node is trained, or is not to be."""
        if node.frontier is not None:
            node.frontier.remove(node)

    def _walkers_at(self, node: Node) -> list[Walker]:
        """The trials that wait for a node, or for one that waits for its state."""
        found = list(node.walkers) if node.work is not Work.DONE else []
        for heir in node.heirs:
            found += self._walkers_at(heir)
        return found

    def _someone(self, node: Node) -> Walker:
        """A trial that a node is trained for."""
        while not node.walkers:
            node = node.heirs[0]
        return node.walkers[0]

    def _course_of(self, node: Node) -> Course:
        """What is in force for whom a node is trained."""
        return node.course if node.work is Work.DONE else self._someone(node).course

    def _reach(self, node: Node) -> int:
        """The step up to which the reports of a node are known from before."""
        if self.earlier is None or node.work is not Work.WAITING:
            return node.start
        return max(node.start, self.earlier.reach(self._path(node)))

    def _path(self, node: Node) -> Iterator[tuple[Course, int]]:
        """What is in force on the way to the end of a node, each part with the step that it ends at."""
        way, above = [(self._course_of(node), node.stop)], node.parent
        while above is not None and above.parent is not None:
            way.append((above.course, above.stop))
            above = above.parent
        return reversed(way)

    # ---- out of the way

    def withdraw(self, walker: Walker) -> None:
        """A trial that trains, or waits for it, does so no more."""
        node = self._node_of(walker)
        if node is not None:
            node.part(walker)
            run = self._runs.get(node)
            if run is not None:
                run.stopped = run.stopped or not run.node.walkers
            else:
                self._take_back(node)

    def _take_back(self, node: Node) -> None:
        """Do not train a node that nobody waits for any more, nor what would bring back a state for its sake."""
        while not node.walkers and not node.heirs and node not in self._again:
            self._withdraw(node)
            parent = node.parent
            if parent is None or node not in parent.heirs:
                return
            parent.heirs = tuple(heir for heir in parent.heirs if heir is not node)
            node = parent

    def _node_of(self, walker: Walker) -> Node | None:
        """The node that a trial waits for; None where it is on its way."""
        node: Node | None = walker.leaf
        while node is not None:
            node = node.children.get(walker.course.key(node.stop))
            if node is not None and walker in node.walkers:
                return node
        return None

    def let_go(self, node: Node) -> None:
        """Release the end state of a node if nobody can need it."""
        self._holdings.let_go(node)

    # ---- what is told

    def note(self, news: Change | Counted) -> None:
        """A trial has come to something."""
        if isinstance(news, Change):
            self._changes.append(news)
        if self.observed:
            self._news.append(news)

    def changes(self) -> list[Change]:
        """What trials came to since the last call, in order."""
        found, self._changes = self._changes, []
        return found

    def observe(self) -> None:
        """From now on keep what trials come to for `news` too, with every step that counts for them."""
        self.observed = True

    def news(self) -> list[Change | Counted]:
        """What trials came to since the last call, in order; nothing where nobody observes.

        A trial that takes over another one's model has not come to the steps of that one.
        """
        found, self._news = self._news, []
        return found
