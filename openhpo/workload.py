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

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openhpo.allocation import ONE, Allocation, Ranks
from openhpo.errors import UserError
from openhpo.holdings import Release
from openhpo.hyperparameters import Config
from openhpo.objective import Objective
from openhpo.plan import Plan
from openhpo.resources import Profile
from openhpo.search import Search
from openhpo.stages import Stage, State, StateName, Verdict
from openhpo.suggestions import Suggestion
from openhpo.tree import Node, Work
from openhpo.ways import Earlier, Run, Ways


class Workload(Ways):
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
        super().__init__(earlier)
        self.seed = _seed(seed)
        self.merge = merge
        if earlier is not None and not merge:
            raise UserError("what an earlier study has trained is used where trials share stages: leave out --no-merge")
        self.names = list(plans)
        self.searches = [Search(plan, seed, self, place, merge=merge) for place, plan in enumerate(plans.values())]
        widenings = [search.engine.widening if search.engine.widens else None for search in self.searches]
        self.allocation = Allocation(ranks_per_trial, widenings)
        self._objectives = _slots(self.searches)
        self._forks = any(search.engine.forks for search in self.searches)
        self._running: dict[int, Run] = {}
        self._known: dict[int, Sequence[Mapping[str, float]]] = {}  # what stages report that nobody trains
        self._stages = 0
        self._seen: set[str] = set()

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

    def _split_at_change(self, node: Node) -> bool:
        """Let a node that waits end where another number of ranks is wanted; return whether there was such a step."""
        if not self.allocation.wide or node.work is not Work.WAITING:
            return False
        step = self.allocation.change(self._course_of(node), node.start, node.stop)
        if step is None:
            return False
        self._split(node, step)
        return True

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
        if not self._run_of(stage).stopped:
            self._check_seen(self.searches[stage.study])
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
            if search.failed < len(search.candidates):
                self._check_seen(search)
        return True

    def _check_seen(self, search: Search) -> None:
        """Make sure that training yields what a search needs."""
        if not self._seen.issuperset(search.objective.needs):
            raise UserError(search.objective.missing(self._seen))

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


__all__ = ["Workload"]
