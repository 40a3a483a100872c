"""The tree of stages: what trials share, what is trained, and where states lie.

Rules:
- A node is a span of steps under its parent; the root has trained nothing. The way from the root to a node is one computation.
- A node's children begin where it ends, and differ in what is in force from there on.
- A node is split where two trials part and where one is to rest. The lower part keeps the node's identity, and with it the
  state at the end; the upper part has a state of its own only once somebody has trained to its end again.
- Walkers are the trials on their way; each waits at the node that it needs next.

The idea is that of "Stage-based Hyper-parameter Optimization for Deep Learning" (Shin et al. 2019); the structure is a radix
tree whose edges are functions of the step.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import Enum
from typing import Any

from openhpo.course import Course
from openhpo.replicates import Replicates
from openhpo.stages import StateName, TrialRecord


class Work(Enum):
    """How far a node is."""

    WAITING = "not run"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Walker:
    """A trial on its way through the tree.

    Attributes:
        trial: The trial.
        group: The replicates that it is one of; None where every trial is by itself.
        course: What is in force for it.
        leaf: The last node that it has passed.
        goal: The step it is to reach.
        priority: The engine's.
        search: Whose trial it is.
    """

    __slots__ = ("course", "goal", "group", "leaf", "priority", "search", "trial")

    search: Any  # a `search.Search`, which is a layer above

    def __init__(self, trial: TrialRecord, course: Course, leaf: Node, group: Replicates | None = None) -> None:
        self.trial = trial
        self.group = group
        self.course = course
        self.leaf = leaf
        self.goal = 0
        self.priority = 0


class Node:
    """A span of steps.

    Attributes:
        parent: The node before; None for the root.
        course: What is in force here, as one of its trials has it.
        start, stop: Steps trained before it, and at its end.
        work: How far it is.
        stage: The stage that reported its steps.
        state: The name of its end state, where that lies anywhere.
        scores: Of each step reported; where studies have different objectives, one score for each of these. In a tree of what
            was trained earlier, where the step is reported.
        holders: Ranks that hold its end state.
        file: The checkpoint of its end state; empty where there is none.
        walkers: Trials that need it next.
        heirs: Nodes that wait for its state, which was lost, to be trained again.
        claims: Trials at rest at its end that may be continued.
        loans: States further on that lie in memory alone, and would be made again from this one's checkpoint.
        anchor: The nearest node before it with a checkpoint, where its own state lies in memory alone.
        future: Trials not begun yet whose way leads through it.
        error: Why it failed.
        over: Whether training ended by itself at its end.
        frontier: Where it waits to be trained; None where it does not.
        level: The priority at which it does.
    """

    __slots__ = (
        "_hopefuls",
        "anchor",
        "children",
        "claims",
        "course",
        "error",
        "file",
        "frontier",
        "future",
        "heirs",
        "holders",
        "level",
        "loans",
        "over",
        "parent",
        "scores",
        "stage",
        "start",
        "state",
        "stop",
        "walkers",
        "work",
    )

    def __init__(self, parent: Node | None, course: Course, start: int, stop: int) -> None:
        self.parent = parent
        self.course = course
        self.start = start
        self.stop = stop
        self.children: dict[Hashable, Node] = {}
        self._hopefuls: dict[Node, None] = {}  # the children that may be open
        self.work = Work.WAITING
        self.stage: int | None = None
        self.state: StateName | None = None
        self.scores: Any = []
        self.holders: tuple[int, ...] = ()
        self.file = ""
        self.walkers: Sequence[Walker] = ()
        self.heirs: Sequence[Node] = ()
        self.claims = 0
        self.loans = 0
        self.anchor: Node | None = None
        self.future = 0
        self.frontier: Frontier | None = None
        self.level: int | None = None
        self.error = ""
        self.over = False

    @property
    def available(self) -> bool:
        """Whether its end state lies anywhere."""
        return self.parent is None or bool(self.holders or self.file)

    @property
    def open(self) -> bool:
        """Whether it is going to need its parent's state, as far as is known now."""
        if self.heirs:
            return True
        return self.work in (Work.WAITING, Work.RUNNING) and bool(self.walkers or self.future)

    def join(self, walker: Walker) -> None:
        """A trial comes to wait for this node."""
        if isinstance(self.walkers, list):
            self.walkers.append(walker)
        else:  # most nodes never have any, and a study may have a million nodes
            self.walkers = [walker]
        self.wanted()

    def part(self, walker: Walker) -> None:
        """A trial waits no more."""
        self.walkers = [other for other in self.walkers if other is not walker]

    def inherit(self, heir: Node, instead: Node | None = None) -> None:
        """A node comes to wait for this one's state, perhaps in the place of another one."""
        self.heirs = (*(other for other in self.heirs if other is not instead and other is not heir), heir)
        self.wanted()

    def let_go(self, rank: int) -> None:
        """A rank holds its end state no more."""
        self.holders = tuple(holder for holder in self.holders if holder != rank)

    def wanted(self) -> None:
        """Called whenever something comes to wait for this node, so that its parent need not ask all its children."""
        if self.parent is not None:
            self.parent._hopefuls[self] = None

    def needed(self, besides: Node | None = None) -> bool:
        """Whether anybody is going to need its end state, as far as is known now; one child may be left out of account.

        Each child that turns out not to be open is passed once, so the costs do not grow with their number.
        """
        if self.claims > 0 or self.loans > 0:
            return True
        closed, found = [], False
        for child in self._hopefuls:
            if child.parent is not self or not child.open:
                closed.append(child)
            elif child is not besides:
                found = True
                break
        for child in closed:
            del self._hopefuls[child]
        return found

    @property
    def steps(self) -> int:
        return self.stop - self.start


class Tree:
    """All nodes of a job.

    Args:
        was_split: Is told of the upper and the lower part of a node that had to be split for a trial that is to come.
    """

    def __init__(self, was_split: Callable[[Node, Node], None] | None = None) -> None:
        self.root = Node(None, Course({}, {}, {}), 0, 0)
        self.root.work = Work.DONE
        self._was_split = was_split

    def descend(self, node: Node, course: Course, goal: int) -> tuple[Node, Node | None]:
        """The next node on the way of a course.

        Returns:
            The child, which ends where the course leaves it or at `goal` at the latest; and, where an existing node had to be
            split for that, the lower part.
        """
        key = course.key(node.stop)
        child = node.children.get(key)
        if child is None:
            child = node.children[key] = Node(node, course, node.stop, goal)
            return child, None
        end = child.course.parting(course, node.stop, min(child.stop, goal))
        if end == child.stop:
            return child, None
        return self.split(child, end), child

    def split(self, node: Node, at: int) -> Node:
        """Cut a node in two; return the upper part, which ends at step `at`."""
        assert node.parent is not None
        assert node.start < at < node.stop
        upper = Node(node.parent, node.course, node.start, at)
        node.parent.children[node.course.key(node.start)] = upper
        upper.children[node.course.key(at)] = node
        reached = node.start + len(node.scores)
        upper.scores, node.scores = node.scores[: at - node.start], node.scores[at - node.start :]
        upper.stage, upper.future, upper.error = node.stage, node.future, node.error
        upper.wanted()
        upper.work = Work.DONE if reached >= at and node.work is not Work.WAITING else node.work
        if reached < at:
            upper.walkers, node.walkers = node.walkers, ()
        node.parent, node.start = upper, at
        node.wanted()
        return upper

    def plan(self, course: Course, goal: int) -> None:
        """Make room for a trial that is to come, so that what it shares is known before it is trained."""
        node = self.root
        while node.stop < goal:
            node, lower = self.descend(node, course, goal)
            if lower is not None and self._was_split is not None:
                self._was_split(node, lower)
            node.future += 1
            node.wanted()

    def begin(self, course: Course, goal: int) -> list[Node]:
        """A planned trial begins: return the nodes of its way, which no longer count it as one to come."""
        node, way = self.root, []
        while node.stop < goal:
            node, _ = self.descend(node, course, goal)
            node.future -= 1
            way.append(node)
        return way

    def nodes(self) -> Iterator[Node]:
        """All nodes but the root, parents before children."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


class Frontier:
    """The nodes that can be trained now.

    The next one for a rank is of the highest priority; then one whose parent's state the rank holds; then the one with the
    longest way still to go. Each call costs O(log n).
    """

    def __init__(self) -> None:
        self._levels: dict[int, Level] = {}
        self._order: list[int] = []
        self._count = itertools.count()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, node: Node, priority: int, remaining: int) -> None:
        """Offer a node, or offer it again with a higher priority or a longer way."""
        if node.level is None:
            self._size += 1
            node.frontier = self
        node.level = priority if node.level is None else max(priority, node.level)
        level = self._levels.get(node.level)
        if level is None:
            level = self._levels[node.level] = Level()
            heapq.heappush(self._order, -node.level)
        entry = (-remaining, next(self._count), node)
        heapq.heappush(level.free, entry)
        assert node.parent is not None
        for rank in node.parent.holders:
            heapq.heappush(level.held.setdefault(rank, []), entry)

    def remove(self, node: Node) -> None:
        """Take a node back."""
        if node.level is not None:
            node.level = node.frontier = None
            self._size -= 1

    def peek(self, ranks: Sequence[int]) -> Node | None:
        """The next node for idle ranks; None where there is none. Whoever takes it has to `remove` it."""
        while self._order:
            priority = -self._order[0]
            node = self._levels[priority].peek(ranks, priority)
            if node is not None:
                return node
            heapq.heappop(self._order)
            del self._levels[priority]
        return None


class Level:
    """The nodes of one priority; entries that have become stale are dropped when they come up."""

    def __init__(self) -> None:
        self.free: list[tuple[int, int, Node]] = []
        self.held: dict[int, list[tuple[int, int, Node]]] = {}

    def peek(self, ranks: Sequence[int], priority: int) -> Node | None:
        for rank in ranks:
            here = self.held.get(rank, [])
            while here:
                node = here[0][2]
                assert node.parent is not None
                if node.level == priority and rank in node.parent.holders:
                    return node
                heapq.heappop(here)
        while self.free:
            node = self.free[0][2]
            if node.level == priority:
                return node
            heapq.heappop(self.free)
        return None
