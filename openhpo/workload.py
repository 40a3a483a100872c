"""The work of a job: the tree of stages that its studies share, what of it is under way, and where states lie.

Rules:
- Pure: no MPI, clock, file, thread or global random state. The same calls give the same answers.
- `ask` hands out a stage, or None when nothing can run now; each stage ends by exactly one `end`, `fail` or `give_back`.
- `tell` reports the steps of a stage in order, each once.
- What trials share is trained once, whichever of the studies they belong to: engines ask for "this trial up to that step", and
  the tree of stages (`tree.py`) resolves that to the spans that nobody has trained yet. A report counts for every trial that
  the stage is part of.
- Of several studies the one that was handed out fewest steps comes first.
- What an earlier study has trained (`earlier`) is handed out to no rank: its reports are there already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from openhpo.allocation import ONE, Allocation, Ranks
from openhpo.course import Course
from openhpo.errors import UserError
from openhpo.holdings import Holdings, Release
from openhpo.hyperparameters import Config
from openhpo.objective import Objective
from openhpo.plan import Plan
from openhpo.resources import Profile
from openhpo.search import Best, Change, Counted, Search
from openhpo.stages import Stage, State, StateName, TrialRecord, Verdict
from openhpo.suggestions import Suggestion
from openhpo.tree import Node, Tree, Walker, Work

if TYPE_CHECKING:
    from pathlib import Path


class Earlier(Protocol):
    """What was trained before: `earlier.Trained`."""

    def reach(self, path: Iterator[tuple[Course, int]]) -> int:
        """The last step up to which a computation is known: what is in force, each part with the step that it ends at."""

    def reports(self, path: Iterator[tuple[Course, int]], start: int) -> Sequence[Mapping[str, float]]:
        """What its steps after `start` have reported, as far as they are known."""

    def definition(self) -> Any:
        """What identifies it, in plain JSON."""

    def keep(self, study: Path) -> None:
        """Copy it into a study's folder, before that begins."""

    def forget(self, study: Path) -> None:
        """Remove that copy."""


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


class Workload:
    """Studies over one tree, as calls in and values out.

    Args:
        plans: The studies, by name; a single one may have none ("").
        seed: Decides everything random: suggestions, and the training of every trial.
        merge: Train what trials share once. False trains every trial by itself.
        ranks_per_trial: How many ranks train a trial together: a number; a function of the values in force when a stage begins;
            or "auto", which goes by the memory that earlier stages took. An engine may multiply it.
        earlier: What was trained before.

    Attributes:
        names: What the studies are called.
        searches: Their methods at work.
        allocation: Which ranks a stage gets.
        tree: What was trained, and what is wanted.
        observed: Whether somebody is told of every step.

    Raises:
        UserError: The definition makes no sense.
    """

    def __init__(
        self,
        plans: Mapping[str, Plan],
        *,
        seed: int = 0,
        merge: bool = True,
        ranks_per_trial: Ranks = ONE,
        earlier: Earlier | None = None,
    ) -> None:
        self.seed = _seed(seed)
        self.merge = merge
        self.earlier = earlier
        if earlier is not None and not merge:
            raise UserError("what an earlier study has trained is used where trials share stages: leave out --no-merge")
        self.tree = Tree(self._was_split)
        self.names = list(plans)
        self.searches = [Search(plan, seed, self.tree, self, place, merge=merge) for place, plan in enumerate(plans.values())]
        widenings = [search.engine.widening if search.engine.widens else None for search in self.searches]
        self.allocation = Allocation(ranks_per_trial, widenings)
        self._objectives = _slots(self.searches)
        self._forks = any(search.engine.forks for search in self.searches)
        self._running: dict[int, Run] = {}
        self._holdings = Holdings()
        self._runs: dict[Node, Run] = {}
        self._again: set[Node] = set()  # nodes that are being trained again for their state
        self._known: dict[int, Sequence[Mapping[str, float]]] = {}  # what stages report that nobody trains
        self._stages = 0
        self._seen: set[str] = set()
        self._changes: list[Change] = []
        self.observed = False
        self._news: list[Change | Counted] = []

    def grow(self, trials: Sequence[int]) -> None:
        """Let more trials follow.

        Args:
            trials: How many in total, of each study.

        Raises:
            UserError: A method needs to know their number from its first decision on, or they would be fewer.
        """
        for search, total in zip(self.searches, trials, strict=True):
            search.extend(total)

    # ---- what to run

    def ask(self, *idle: int) -> Stage | None:
        """The next stage for idle trainers: of the engine's highest priority; then one that goes on from a state which one of
        them holds; then the one with the longest way to go.

        Args:
            idle: The trainers' ranks, the one that has waited longest first; rank 0 where none is given.

        Returns:
            None when nothing can run now: `finished` says whether anything will come. Nor can what needs more ranks than are
            idle, and it is not passed over. A stage without ranks is not to be trained: what it reports is known, from
            `earlier`.
        """
        idle = idle or (0,)
        if len(self.searches) > 1 and not self._stages:
            for search in self.searches:
                search.foresee()
        while True:
            for search in self.searches:
                search.pull()
            node = self._next(idle)
            if node is None:
                return None
            if self.earlier is not None and (reach := self._reach(node)) > node.start:
                known = self._split(node, reach) if reach < node.stop else node
                self._withdraw(known)
                return self._issue(known, ())
            assert node.parent is not None
            if not node.parent.available:
                self._withdraw(node)
                self._offer(node)  # its parent's state was lost meanwhile
            elif not self._split_at_change(node):
                course = self._course_of(node)
                ranks = self.allocation.choose(self.allocation.size(course, node.start), idle, node.parent.holders)
                if ranks is None:
                    return None
                self._withdraw(node)
                return self._issue(node, ranks)

    def _next(self, idle: Sequence[int]) -> Node | None:
        """The node that is to be trained next; None where nothing can."""
        searches = self.searches
        if len(searches) > 1:
            searches = sorted(searches, key=lambda search: search.issued)
        for search in searches:
            while (node := search.frontier.peek(idle)) is None:
                if not search.pull_new():
                    break
                search.pull()
            if node is not None:
                return node
        return None

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

    def _course_of(self, node: Node) -> Course:
        """What is in force for whom a node is trained."""
        return node.course if node.work is Work.DONE else self._someone(node).course

    def _split_at_change(self, node: Node) -> bool:
        """Let a node that waits end where another number of ranks is wanted; return whether there was such a step."""
        if not self.allocation.wide or node.work is not Work.WAITING:
            return False
        step = self.allocation.change(self._course_of(node), node.start, node.stop)
        if step is None:
            return False
        self._split(node, step)
        return True

    def _split(self, node: Node, step: int) -> Node:
        """Let a node that waits end at a step; return it."""
        upper = self.tree.split(node, step)
        self._was_split(upper, node)
        return upper

    def _issue(self, node: Node, ranks: tuple[int, ...]) -> Stage:
        parent = node.parent
        assert parent is not None
        again, worker = node.work is Work.DONE, ranks[0] if ranks else None
        walker = self._someone(node)
        search = walker.search
        course = node.course if again else walker.course
        held = worker in parent.holders
        keep = parent.parent is not None and (self._forks or parent.needed(besides=node))
        source = None if not parent.holders else worker if held else min(parent.holders)
        stop = node.stop
        park = bool(node.heirs) or not self._final(stop)
        park = park or any(w.goal > stop for w in node.walkers)
        park = park or any(child.future for child in node.children.values())
        stage = Stage(
            self._stages,
            walker.trial.number,
            parent.stage,
            node.start,
            stop,
            course.config,
            search.seed_of(walker.trial.number),
            ranks,
            () if again else self._checks(node.start, stop),
            None if parent.state is None else parent.state.stage,
            source,
            parent.file if source is None else "",
            keep,
            park,
            again,
            search.place,
            course.study,
        )
        self._stages += 1
        if ranks:
            search.issued += stage.stop - stage.start
        if worker is not None and held and not keep:
            self._holdings.consume(parent, worker)
        if self.earlier is not None and not ranks:
            self._known[stage.id] = self.earlier.reports(self._path(node), node.start)
        run = Run(stage, node, node.start, course)
        self._running[stage.id] = run
        if again:
            self._again.add(node)
        else:
            node.work, node.stage = Work.RUNNING, stage.id
            self._runs[node] = run
            for other in node.walkers:
                if other is not walker:
                    other.search.joined(other, stage.id, node.stop)
        return stage

    def _checks(self, start: int, stop: int) -> tuple[int, ...]:
        """The steps after which training waits for the verdict."""
        if len(self.searches) == 1:
            return self.searches[0].engine.checks(start, stop)
        return tuple(sorted({step for search in self.searches for step in search.engine.checks(start, stop)}))

    def _final(self, step: int) -> bool:
        """Whether no method ever asks for a state after so many steps."""
        return all(search.engine.final(step) for search in self.searches)

    def _someone(self, node: Node) -> Walker:
        """A trial that a node is trained for."""
        while not node.walkers:
            node = node.heirs[0]
        return node.walkers[0]

    # ---- trials on their way

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

    # ---- what happened

    def tell(self, stage: Stage, step: int, metrics: Mapping[str, float]) -> Verdict:
        """Report one step of a stage.

        Args:
            stage: As `ask` gave it.
            step: Counts from 1 over the whole trial.
            metrics: What training yielded.

        Returns:
            STOP when no trial wants the stage to go on; what is told of it after that does not count.
        """
        run = self._run_of(stage)
        if run.stopped:
            return Verdict.STOP
        if step != run.step + 1:
            raise ValueError(f"stage {stage.id} reported step {step} after step {run.step}")
        run.step = step
        if run.stage.again:
            return Verdict.CONTINUE
        if len(self._seen) < len(metrics) or not self._seen.issuperset(metrics):
            self._seen.update(metrics)
        scores = self._scores(step, metrics)
        node = run.node
        node.scores.append(scores)
        for walker in tuple(node.walkers):
            ending = walker.search.record(walker, step, scores, stage.id)
            if ending is not None:
                node.part(walker)
                walker.search.rest(walker, ending)
        if step == node.stop and run.below:
            self._pass_split(run)
        run.stopped = not run.node.walkers
        return Verdict.STOP if run.stopped else Verdict.CONTINUE

    def _scores(self, step: int, metrics: Mapping[str, float]) -> Any:
        """What a step scores: by the objective that there is, or by each of several."""
        objectives = self._objectives
        if len(objectives) == 1:
            return objectives[0].score(step, metrics)
        return tuple(objective.score(step, metrics) for objective in objectives)

    def _pass_split(self, run: Run) -> None:
        """A stage has come to the end of a node that is only part of what it trains."""
        node = run.node
        del self._runs[node]
        run.node = run.below.pop()
        self._complete(node)

    def end(self, stage: Stage, *, kept: bool = True) -> None:
        """The stage reached its last step, obeyed STOP, or its training returned by itself.

        Args:
            stage: As `ask` gave it.
            kept: Whether its trainer holds the state after the last step that counts.

        Raises:
            UserError: No trial has ever yielded a metric that the objective needs.
        """
        objective = self.searches[stage.study].objective
        if not self._seen.issuperset(objective.needs) and not self._run_of(stage).stopped:
            raise UserError(objective.missing(self._seen))
        run = self._settle(stage)
        node, parent = run.node, run.node.parent
        assert parent is not None
        if run.step < node.stop and run.stage.again:
            self._fail_heirs(node, f"training to step {node.stop} again ended by itself at step {run.step}")
        elif run.step < node.stop and run.step == node.start:
            self._end_at_once(run)
        else:
            if run.step < node.stop:
                node = self._cut_short(run)
            if kept and stage.park and stage.ranks:
                self._holdings.hold(node, stage.after, stage.ranks[0])
            self._holdings.moor(node, parent)
            self._complete(node)
            self._holdings.let_go(node)
        self._holdings.let_go(parent)

    def _cut_short(self, run: Run) -> Node:
        """A stage ended before its last step: return what is done of it; the rest waits for whoever still wants it."""
        rest = run.node
        done = self.tree.split(rest, run.step)
        done.walkers, rest.walkers = rest.walkers, ()
        done.over = not run.stopped
        self._back_to_waiting(run)
        return done

    def _end_at_once(self, run: Run) -> None:
        """A stage ended before its first step."""
        self._back_to_waiting(run)
        walkers, run.node.walkers = run.node.walkers, ()
        for walker in walkers:
            if run.stopped:
                self.walk(walker)
            else:
                walker.search.rest(walker, State.DONE)

    def _back_to_waiting(self, run: Run) -> None:
        for node in (run.node, *run.below):
            self._runs.pop(node, None)
            node.work, node.stage = Work.WAITING, None

    def _complete(self, node: Node) -> None:
        """All steps of a node are reported: move its trials on."""
        self._runs.pop(node, None)
        node.work = Work.DONE
        walkers, node.walkers = node.walkers, ()
        for walker in walkers:
            self._move(walker, node)
            if node.over:
                walker.search.rest(walker, State.DONE)
            else:
                self.walk(walker)
        heirs, node.heirs = node.heirs, ()
        for heir in heirs:
            self._offer(heir)

    def fail(self, stage: Stage, error: str) -> None:
        """The stage's training raised; `error` is what a list of failures should say of it.

        The same training would fail again, so every trial that shares the stage fails.
        """
        run = self._settle(stage)
        node = run.node
        if run.stage.again:
            self._fail_heirs(node, error)
            return
        if node.start < run.step < node.stop:
            upper = self.tree.split(node, run.step)
            self._runs.pop(upper, None)
            upper.work = Work.DONE
        for part in (node, *run.below):
            self._runs.pop(part, None)
            part.work, part.error = Work.FAILED, error
            walkers, part.walkers = part.walkers, ()
            for walker in walkers:
                walker.trial.error = error
                walker.search.rest(walker, State.FAILED)
        if node.parent is not None:
            self._holdings.let_go(node.parent)

    def _fail_heirs(self, node: Node, error: str) -> None:
        heirs, node.heirs = node.heirs, ()
        for heir in heirs:
            self._fail_heirs(heir, error)
            self._withdraw(heir)
            if heir.work is not Work.DONE:
                walkers, heir.walkers = heir.walkers, ()
                for walker in walkers:
                    walker.trial.error = error
                    walker.search.rest(walker, State.FAILED)

    def profiled(self, stage: Stage, profile: Profile) -> None:
        """What a stage took that is about to end."""
        self.allocation.profiled(self._run_of(stage).course, stage.start, len(stage.ranks), profile)

    def exhausted(self, stage: Stage) -> None:
        """A stage ran out of memory, and is about to be given back to be trained on more ranks."""
        self.allocation.exhausted(self._run_of(stage).course, stage.start, len(stage.ranks))

    def give_back(self, stage: Stage) -> None:
        """The stage has ended before its last step through no fault of its own: what it reported counts, and the rest waits.

        Where the state that it goes on from was not where it was said to be, call `lost` first.
        """
        run = self._run_of(stage)
        if not stage.again and (run.stopped or run.step == stage.stop):
            self.end(stage, kept=False)
            return
        self._settle(stage)
        passed: list[Node] = []
        if not stage.again:
            if run.node.start < run.step:
                passed = self._part(run, run.step)
            self._back_to_waiting(run)
        for node in (run.node, *run.below):
            if node.walkers or node.heirs:
                self._offer(node)
        for node in passed:  # now that it is known what is made again from them
            self._holdings.let_go(node)

    def _part(self, run: Run, step: int) -> list[Node]:
        """Split the node that a stage is in, at a step that is reported; return the nodes that its trials were at before."""
        rest, passed = run.node, []
        done = self.tree.split(rest, step)
        self._was_split(done, rest)
        for walker in rest.walkers:
            passed.append(walker.leaf)
            walker.leaf = done
        return passed

    def lost(self, state: StateName, rank: int | None = None) -> bool:
        """A rank does not hold a state any more; without one, its file is gone or damaged. Return whether it was there."""
        return self._holdings.lost(state, rank)

    def left(self, rank: int | None = None) -> None:
        """A rank is gone, with all that it held in memory; without one, all of them are. Give back what it trained as well."""
        self._holdings.left(rank)

    def saved(self, state: StateName, rank: int, file: str, *, moved: bool = False) -> bool:
        """A rank has written a state to a checkpoint; return whether anybody can still need that.

        Args:
            state: One at the end of a stage, or one at a step that a running stage has reported.
            rank: The rank.
            file: The checkpoint.
            moved: Whether the state has left the rank's memory.
        """
        if moved and not self._holdings.moved(state, rank):
            return False
        node, passed = self._holdings.find(state), list[Node]()
        if node is None:
            node, passed = self._parted(state)
        if node is None:
            return False
        self._holdings.write(node, state, file)
        for other in passed:
            self._holdings.let_go(other)
        return True

    def _parted(self, state: StateName) -> tuple[Node | None, list[Node]]:
        """The node that ends at a step within a running stage, and those that trials were at before.

        None where nobody can need the state.
        """
        run = self._running.get(state.stage)
        if run is None or run.stopped or not run.stage.start < state.step <= run.step:
            return None, []
        above = run.node.parent
        if state.step == run.node.start:
            return (above, []) if above is not None and not above.available else (None, [])
        if not run.node.start < state.step < run.node.stop:
            return None, []
        passed = self._part(run, state.step)
        return run.node.parent, passed

    @property
    def checkpoints(self) -> dict[StateName, str]:
        """The files that states are to be found in."""
        return self._holdings.checkpoints

    @property
    def issued(self) -> int:
        """Stages handed out so far."""
        return self._stages

    def known(self, stage: Stage) -> Sequence[Mapping[str, float]]:
        """What a stage without ranks reports, step by step."""
        return self._known[stage.id]

    def unwanted(self, stage: Stage) -> bool:
        """Whether nobody wants a running stage any more."""
        return self._run_of(stage).stopped

    def reported(self, stage: Stage) -> int:
        """The last step that a running stage has reported, counted over the whole trial."""
        return self._run_of(stage).step

    def _settle(self, stage: Stage) -> Run:
        run = self._run_of(stage)
        del self._running[stage.id]
        self._known.pop(stage.id, None)
        self._holdings.consumed(stage.before)
        if stage.again:
            self._again.discard(run.node)
        return run

    def _run_of(self, stage: Stage) -> Run:
        run = self._running.get(stage.id)
        if run is None:
            raise ValueError(f"stage {stage.id} is not running")
        return run

    # ---- what samplers suggest

    def prepare(self) -> None:
        """Draw what the next trials are ahead, where that does not depend on what is told until then.

        Changes no answer of this object, only when the time for one is spent.
        """
        for search in self.searches:
            search.prepare()

    def recall(self, configs: Sequence[Sequence[Config]]) -> None:
        """From now on, give the first trials of each study these configurations instead of asking its sampler.

        Raises:
            ValueError: One of them is none of the space.
        """
        for search, own in zip(self.searches, configs, strict=True):
            search.recall(own)

    def defer(self) -> None:
        """From now on have slow samplers asked by whoever calls: `draws` gives the calls, `suggested` takes their answers."""
        for search in self.searches:
            search.defer()

    def draws(self) -> list[tuple[int, Callable[[], Suggestion]]]:
        """What to call in other threads, where slow samplers are to be asked now, each with the place of its study."""
        calls = ((search.place, search.draw()) for search in self.searches)
        return [(place, call) for place, call in calls if call is not None]

    def suggested(self, suggestion: Suggestion, study: int = 0) -> None:
        """The answer to one of the calls of `draws`."""
        self.searches[study].suggested(suggestion)

    # ---- how it stands

    def changes(self) -> list[Change]:
        """What trials came to since the last call, in order."""
        found, self._changes = self._changes, []
        return found

    def note(self, news: Change | Counted) -> None:
        """A trial has come to something."""
        if isinstance(news, Change):
            self._changes.append(news)
        if self.observed:
            self._news.append(news)

    def observe(self) -> None:
        """From now on keep what trials come to for `news` too, with every step that counts for them."""
        self.observed = True

    def news(self) -> list[Change | Counted]:
        """What trials came to since the last call, in order; nothing where nobody observes.

        A trial that takes over another one's model has not come to the steps of that one.
        """
        found, self._news = self._news, []
        return found

    def releases(self) -> list[Release]:
        """The states that nobody can need any more, since the last call."""
        return self._holdings.releases()

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing more will be asked for."""
        if self._running or any(search.awaiting or search.concluding for search in self.searches):
            return False
        while True:
            pulled = [search.pull() for search in self.searches]
            if any(len(search.frontier) for search in self.searches):
                return False
            begun = [search.pull_new() for search in self.searches]
            if not any(begun) and not any(pulled):
                break
        if any(search.awaiting for search in self.searches):
            return False
        for search in self.searches:
            search.check_over()
        return True

    @property
    def total(self) -> int:
        """How many candidates there will be, of all studies together."""
        return sum(search.total for search in self.searches)

    @property
    def begun(self) -> int:
        """How many have begun."""
        return sum(len(search.candidates) for search in self.searches)

    @property
    def settled(self) -> int:
        """How many have ended, well or not."""
        return sum(search.settled for search in self.searches)

    @property
    def at_rest(self) -> int:
        """How many have ended, or come as far as their method had them go."""
        return sum(search.at_rest for search in self.searches)

    @property
    def failed(self) -> int:
        """How many have failed."""
        return sum(search.failed for search in self.searches)

    @property
    def expected_steps(self) -> float:
        """About how many steps all of it takes."""
        return sum(search.engine.expected_steps(search.total) * search.replicates for search in self.searches)

    @property
    def forks(self) -> bool:
        """Whether models move between trials."""
        return self._forks

    @property
    def widest(self) -> int:
        """Steps that a trial may go at most."""
        return max(search.engine.max_steps for search in self.searches)

    @property
    def single(self) -> bool:
        """Whether it is one study, by itself."""
        return self.names == [""]

    def called(self, trial: int, study: int) -> str:
        """What a trial is called."""
        return f"trial {trial}" if self.single else f"trial {trial} of {self.names[study]}"

    def definition(self) -> dict[str, Any]:
        """What identifies these studies, in plain JSON: two runs with the same definition are runs of the same."""
        described = {name: search.definition() for name, search in zip(self.names, self.searches, strict=True)}
        return {
            **(described[""] if self.single else {"studies": described}),
            "seed": self.seed,
            "merge": self.merge,
            **({} if self.earlier is None else {"warm_tree": self.earlier.definition()}),
            **self.allocation.definition(),
        }


def _slots(searches: Sequence[Search]) -> list[Objective]:
    """The different objectives; tells each search which of them is its own, where there are several."""
    described = [search.objective.definition() for search in searches]
    distinct = [place for place, one in enumerate(described) if one not in described[:place]]
    if len(distinct) > 1:
        for search, one in zip(searches, described, strict=True):
            search.slot = next(slot for slot, place in enumerate(distinct) if described[place] == one)
    return [searches[place].objective for place in distinct]


def _seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise UserError(f"the seed has to be a whole number from 0 on, below 2 to the 63rd, not {seed!r}")
    return seed


__all__ = ["Best", "State", "TrialRecord", "Workload"]
