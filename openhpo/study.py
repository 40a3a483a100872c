"""The decisions of a study: what to run next, what a report means, which trial is best.

Rules:
- Pure: no MPI, clock, file, thread or global random state. The same calls give the same answers.
- `ask` hands out a stage, or None when nothing can run now; each stage ends by exactly one `end`, `fail` or `give_back`.
- `tell` reports the steps of a stage in order, each once.
- What trials share is trained once: engines ask for "this trial up to that step", and the tree of stages (`tree.py`) resolves
  that to the spans that nobody has trained yet. A report counts for every trial that the stage is part of.
- Trial k's configuration depends on the study's definition and, for samplers that learn, on the trials told so far.
- With replicates, a configuration is several trials; to the engine and the sampler it is one, with means (`replicates.py`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from openhpo.allocation import ONE, Allocation, Ranks
from openhpo.course import Course
from openhpo.engines import Engine, Request
from openhpo.errors import UserError, whole
from openhpo.holdings import Holdings, Release
from openhpo.hyperparameters import Config
from openhpo.objective import NO_SCORE, Objective, Score, objective_of
from openhpo.replicates import Replicates
from openhpo.resources import Profile
from openhpo.roster import Roster
from openhpo.samplers import Random, Sampler
from openhpo.space import Space
from openhpo.stages import Stage, State, StateName, TrialRecord, Verdict
from openhpo.suggestions import Known, Suggestion, Suggestions, prior_of
from openhpo.tree import Frontier, Node, Tree, Walker, Work

NAN = math.nan


@dataclass(frozen=True)
class Best:
    """The best trial so far.

    Attributes:
        trial: Its number; of replicates, the configuration's.
        config: Its hyperparameters.
        value: The objective at its best step; the mean over its replicates.
        step: That step.
        feasible: Whether it meets the requirements.
        curve: The objective after each of its steps.
        error: The standard error of the mean; NaN without replicates.
    """

    trial: int
    config: Config
    value: float
    step: int
    feasible: bool
    curve: list[float]
    error: float = NAN


class Change(NamedTuple):
    """Something that a trial came to.

    Attributes:
        trial: Its number.
        seed: What its training's random numbers are keyed by.
        state: What it is now: begun (RUNNING), or at rest.
        stage: The stage that brought it to `step`; for a fork, the one whose end state it goes on with.
        step: Steps trained of the model it holds.
        forked: Whether it has taken another trial's model.
        config: Its hyperparameters.
        error: What it failed with.
    """

    trial: int
    seed: int
    state: State
    stage: int | None
    step: int
    forked: bool
    config: Config
    error: str


class Counted(NamedTuple):
    """A step that has come to count for a trial: trained for it, or before for others that it shares it with.

    Attributes:
        trial: The trial's number.
        step: The step.
        stage: The stage that reported it.
    """

    trial: int
    step: int
    stage: int


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


class Study:
    """A search, as calls in and values out.

    Args:
        space: What may be tried.
        objective: `Minimize(...)` or `Maximize(...)`.
        engine: Who trains how long.
        sampler: What to try next.
        trials: How many trials in total; a grid's size, or the number that the engine fixes, when absent.
        seed: Decides everything random: suggestions, and the training of every trial.
        merge: Train what trials share once. False trains every trial by itself.
        replicates: How often to train each configuration, each time with another seed. Trial t is replicate t % replicates of
            configuration t // replicates, and `trials` counts configurations.
        prior: A configuration to try first, or several; what one leaves open is drawn.
        known: What the sampler is to know from an earlier study (`warmstart.known_from`).
        ranks_per_trial: How many ranks train a trial together: a number; a function of the values in force when a stage begins;
            or "auto", which goes by the memory that earlier stages took. The engine may multiply it.

    Attributes:
        allocation: Which ranks a stage gets.

    Raises:
        UserError: The definition makes no sense.
    """

    def __init__(
        self,
        space: Space,
        objective: Objective,
        *,
        engine: Engine,
        sampler: Sampler | None = None,
        trials: int | None = None,
        seed: int = 0,
        merge: bool = True,
        replicates: int = 1,
        prior: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        known: Known | None = None,
        ranks_per_trial: Ranks = ONE,
    ) -> None:
        self.space = space if isinstance(space, Space) else Space(space)
        self.objective = objective_of(objective)
        self.engine = copy.copy(engine)  # what it remembers is this study's
        self.sampler = Random() if sampler is None else sampler
        self.seed = _seed(seed)
        self.merge = merge
        self.replicates = _replicates(replicates, engine)
        self.prior = prior_of(prior)
        self.known = known
        self.allocation = Allocation(ranks_per_trial, self.engine.widening if self.engine.widens else None)
        self.tree = Tree()
        self._suggestions = Suggestions(self.sampler, self.space, seed, self.prior, self.known)
        self.total = _total(trials, self._suggestions.size, engine.size)
        if self._suggestions.ends and not engine.extendable:
            raise UserError(
                f"{type(self.sampler).__name__} may end before all trials have begun, and {type(engine).__name__} decides "
                "by their number: choose an engine that does not, such as Full or ASHA"
            )
        self.engine.start(self.space, self.total, seed)
        self._roster = Roster(self.space, self._suggestions, self.tree, engine.max_steps, seed, self.replicates, merge=merge)
        self.trials = self._roster.trials
        self.candidates = self._roster.candidates  # as the engine and the sampler see trials
        self._awaiting: Request | None = None  # for a trial whose configuration is still to be suggested
        self._frontier = Frontier()
        self._running: dict[int, Run] = {}
        self._holdings = Holdings()
        self._runs: dict[Node, Run] = {}
        self._again: set[Node] = set()  # nodes that are being trained again for their state
        self._stages = 0
        self._best: TrialRecord | None = None
        self._seen: set[str] = set()
        self.settled = 0  # trials that have ended, well or not
        self.at_rest = 0  # those, and the ones that have come as far as their method had them go
        self.failed = 0
        self._changes: list[Change] = []
        self._news: list[Change | Counted] | None = None  # where somebody is told of every step
        self._concluded = False

    def extend(self, trials: int) -> None:
        """Let more trials follow.

        Args:
            trials: How many in total.

        Raises:
            UserError: The method needs to know their number from its first decision on, or they would be fewer.
        """
        total = _total(trials, self._suggestions.size, self.engine.size)
        if total < self.total:
            raise UserError(f"the study has {self.total} trials already, so it cannot have {total} in total")
        if total > self.total and not self.engine.extendable:
            raise UserError(
                f"{type(self.engine).__name__} decides by the number of trials, so a study of {self.total} cannot be "
                f"continued to {total}; choose another --study"
            )
        self._concluded = self._concluded and total == self.total
        self.total = total

    # ---- what to run

    def ask(self, *idle: int) -> Stage | None:
        """The next stage for idle trainers: of the engine's highest priority; then one that goes on from a state which one of
        them holds; then the one with the longest way to go.

        Args:
            idle: The trainers' ranks, the one that has waited longest first; rank 0 where none is given.

        Returns:
            None when nothing can run now: `finished` says whether anything will come. Nor can what needs more ranks than are
            idle, and it is not passed over.
        """
        idle = idle or (0,)
        while True:
            self._pull()
            node = self._frontier.peek(idle)
            if node is None:
                if not self._pull_new():
                    return None
                continue
            assert node.parent is not None
            if not node.parent.available:
                self._frontier.remove(node)
                self._offer(node)  # its parent's state was lost meanwhile
            elif not self._split_at_change(node):
                course = self._course_of(node)
                ranks = self.allocation.choose(self.allocation.size(course, node.start), idle, node.parent.holders)
                if ranks is None:
                    return None
                self._frontier.remove(node)
                return self._issue(node, ranks)

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
        self._was_split(self.tree.split(node, step), node)
        return True

    def _pull(self) -> bool:
        """Take what the engine asks for of trials that have begun; return whether there was anything."""
        pulled = False
        while (request := self.engine.request(self.candidates, False, len(self._frontier))) is not None:
            self._accept(request)
            pulled = True
        return pulled

    def _pull_new(self) -> bool:
        """Let the engine ask for a new trial; return whether one began."""
        if self._awaiting is not None or len(self.candidates) >= self.total or not self._roster.ready():
            return False
        self._awaiting = self.engine.request(self.candidates, True, len(self._frontier))
        return self._awaiting is not None and self._begin()

    def _begin(self) -> bool:
        """Let the trial begin that the engine has asked for, if its configuration is there; return whether it did."""
        if not self._roster.draw(self.total):
            if self._roster.over:
                self._end_search()
            return False
        request, self._awaiting = self._awaiting, None
        assert request is not None
        walkers = self._roster.begin()
        for walker in walkers:
            self._changed(walker, State.RUNNING, None)
        self._send(walkers, request)
        return True

    def _end_search(self) -> None:
        """The sampler says that nothing more is worth trying."""
        if not self._suggestions.ends:
            raise UserError(
                f"{type(self.sampler).__name__} has no configuration for trial {len(self.candidates)} of {self.total}: "
                "a sampler that may run out of them has to say so by `ends = True`"
            )
        self._awaiting = None
        self._concluded = True
        self.total = len(self.candidates)

    def _changed(self, walker: Walker, state: State, stage: int | None, *, forked: bool = False) -> None:
        trial = walker.trial
        seed = self._roster.seed(trial.number)
        change = Change(trial.number, seed, state, stage, trial.step, forked, trial.config, trial.error)
        self._changes.append(change)
        if self._news is not None:
            self._news.append(change)

    def _accept(self, request: Request) -> None:
        """A trial that has come to rest goes on."""
        assert request.trial is not None
        self.candidates[request.trial].state = State.RUNNING
        walkers = self._roster.resting(request.trial)
        self.at_rest -= 1
        for walker in walkers:
            walker.leaf.claims -= 1
        self._send(walkers, request)

    def _send(self, walkers: Sequence[Walker], request: Request) -> None:
        for walker in walkers:  # before the first of them arrives
            walker.goal, walker.priority = request.stop, request.priority
            walker.trial.state = State.RUNNING
        for walker in walkers:
            before = walker.leaf
            if request.donor is not None:
                self._fork(walker, self._roster.walkers(request.donor)[0], request.config)
            if walker.trial.state is State.RUNNING:  # not stopped by what another one passed
                self._walk(walker)
            self._holdings.let_go(before)

    def _fork(self, walker: Walker, donor: Walker, config: Config | None) -> None:
        """Go on with the model of another trial, from where that one last rested."""
        trial, leaf = walker.trial, donor.leaf
        trial.config = donor.trial.config if config is None else config
        walker.course = self._roster.course(trial.config, trial.number)
        walker.leaf = leaf
        trial.step, trial.stage = leaf.stop, leaf.stage
        trial.losses = donor.trial.losses[: leaf.stop]
        self._changed(walker, State.RUNNING, leaf.stage, forked=True)

    def _issue(self, node: Node, ranks: tuple[int, ...]) -> Stage:
        parent = node.parent
        assert parent is not None
        again, worker = node.work is Work.DONE, ranks[0]
        walker = self._someone(node)
        held = worker in parent.holders
        keep = parent.parent is not None and (self.engine.forks or parent.needed(besides=node))
        source = None if not parent.holders else worker if held else min(parent.holders)
        stop = node.stop
        park = bool(node.heirs) or not self.engine.final(stop) or any(w.goal > stop for w in node.walkers)
        park = park or any(child.future for child in node.children.values())
        config = node.course.config if again else walker.course.config
        stage = Stage(
            self._stages,
            walker.trial.number,
            parent.stage,
            node.start,
            stop,
            config,
            self._roster.seed(walker.trial.number),
            ranks,
            () if again else self.engine.checks(node.start, stop),
            None if parent.state is None else parent.state.stage,
            source,
            parent.file if source is None else "",
            keep,
            park,
            again,
        )
        self._stages += 1
        if held and not keep:
            self._holdings.consume(parent, worker)
        run = Run(stage, node, node.start, node.course if again else walker.course)
        self._running[stage.id] = run
        if again:
            self._again.add(node)
        else:
            node.work, node.stage = Work.RUNNING, stage.id
            self._runs[node] = run
        return stage

    def _someone(self, node: Node) -> Walker:
        """A trial that a node is trained for."""
        while not node.walkers:
            node = node.heirs[0]
        return node.walkers[0]

    # ---- trials

    def prepare(self) -> None:
        """Draw the next trial's configuration ahead, where it does not depend on what is told until then.

        Changes no answer of this object, only when the time for one is spent.
        """
        self._roster.prepare(self.total)

    def recall(self, configs: Sequence[Config]) -> None:
        """From now on, give the first trials these configurations instead of asking the sampler.

        Raises:
            ValueError: One of them is none of the space.
        """
        self._suggestions.recall(configs[:: self.replicates])

    def defer(self) -> None:
        """From now on have a slow sampler asked by whoever calls: `draw` gives the call, `suggested` takes its answer."""
        self._suggestions.defer()

    def draw(self) -> Callable[[], Suggestion] | None:
        """What to call in another thread, where a slow sampler is to be asked now."""
        number = len(self.candidates)
        awaited = self._awaiting is not None or self._concluding
        return self._suggestions.draw(number, awaited=awaited) if awaited or number < self.total else None

    def suggested(self, suggestion: Suggestion) -> None:
        """The answer to a `draw`."""
        if self._concluding:
            self._suggestions.concluded(suggestion)
            self._concluded = True
            return
        self._suggestions.suggested(suggestion)
        if self._awaiting is not None:
            self._begin()

    @property
    def _concluding(self) -> bool:
        """Whether a slow sampler is to be asked once more after the last trial, for what it has to remark on the whole."""
        everyone = len(self.candidates) == self.total == self.at_rest
        return everyone and self._suggestions.concludes and not self._concluded

    def _walk(self, walker: Walker) -> None:
        """Move a trial on over what is trained already, to where it has to wait or to its goal."""
        trial = walker.trial
        while trial.state is State.RUNNING and trial.step < walker.goal:
            node, lower = self.tree.descend(walker.leaf, walker.course, walker.goal)
            if lower is not None:
                self._was_split(node, lower)
            ending = self._take_over(walker, node)
            if ending is not None:
                self._rest(walker, ending)
                return
            if node.work is Work.FAILED:
                trial.error = node.error
                self._rest(walker, State.FAILED)
            elif node.work is Work.DONE:
                self._move(walker, node)
                if node.over:
                    self._rest(walker, State.DONE)
            else:
                node.join(walker)
                if node.work is Work.WAITING:
                    self._offer(node)
                return
        if trial.state is State.RUNNING:
            self._rest(walker, State.DONE if trial.step >= self.engine.max_steps else State.PAUSED)

    def _take_over(self, walker: Walker, node: Node) -> State | None:
        """Let a trial have what was reported of a node; return how that ends it, if it does."""
        trial = walker.trial
        for place, score in enumerate(node.scores):
            if node.start + place == trial.step:
                ending = self._record(walker, trial.step + 1, score, node.stage)
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
            self._frontier.remove(lower)
            self._offer(first)

    def _offer(self, node: Node) -> None:
        """Have a node trained as soon as a trainer is free; before it whatever has to bring back a state that was lost."""
        while node.parent is not None and not node.parent.available:
            node.parent.inherit(node)
            node = node.parent
            if node in self._again:
                return  # it is on its way
        walkers = self._walkers_at(node)
        if walkers:
            self._frontier.add(node, max(w.priority for w in walkers), max(w.goal for w in walkers) - node.start)

    def _walkers_at(self, node: Node) -> list[Walker]:
        """The trials that wait for a node, or for one that waits for its state."""
        found = list(node.walkers) if node.work is not Work.DONE else []
        for heir in node.heirs:
            found += self._walkers_at(heir)
        return found

    def _rest(self, walker: Walker, state: State) -> None:
        """A trial has come to rest: at its goal, or for good."""
        trial = walker.trial
        trial.state = state
        walker.leaf.claims += 1
        self._changed(walker, state, trial.stage)
        if state in (State.STOPPED, State.FAILED) or self.engine.final(trial.step) or trial.step < walker.goal:
            self._retire(walker)
        if walker.group is None:
            self._stand(trial)
        else:
            self._rest_group(walker.group)

    def _stand(self, candidate: TrialRecord) -> None:
        """A trial has come to rest, with all its replicates: count it, and tell the engine."""
        self.at_rest += 1
        self.settled += candidate.state is not State.PAUSED
        self.failed += candidate.state is State.FAILED
        for number in self.engine.rest(candidate):
            for walker in self._roster.walkers(number):
                self._retire(walker)

    # ---- replicates

    def _rest_group(self, group: Replicates) -> None:
        """One of the replicates of a configuration has come to rest."""
        if group.record.state is not State.RUNNING:
            return
        walkers = self._roster.walkers(group.record.number)
        if self._follow(group) or group.lost:
            self._halt(walkers)
        state = group.rests
        if state is None or group.record.state is not State.RUNNING:
            return
        group.record.state, group.record.error = state, group.error
        if state is not State.PAUSED:
            for walker in walkers:
                self._retire(walker)
        self._stand(group.record)

    def _follow(self, group: Replicates) -> bool:
        """Have the engine judge what has become known of a configuration; return whether that stops it."""
        if not group.stopped:  # what is told after that does not count
            for step in group.known():
                self._compare(group.record)
                group.stopped = group.stopped or self.engine.judge(group.record, step) is Verdict.STOP
        return group.stopped

    def _halt(self, walkers: Sequence[Walker]) -> None:
        """Stop those of the trials that train, or wait for it."""
        for walker in walkers:
            if walker.trial.state is not State.RUNNING:
                continue
            node = self._node_of(walker)
            if node is not None:
                node.part(walker)
                run = self._runs.get(node)
                if run is not None:
                    run.stopped = run.stopped or not run.node.walkers
                else:
                    self._take_back(node)
            self._rest(walker, State.STOPPED)

    def _take_back(self, node: Node) -> None:
        """Do not train a node that nobody waits for any more, nor what would bring back a state for its sake."""
        while not node.walkers and not node.heirs and node not in self._again:
            self._frontier.remove(node)
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

    def _retire(self, walker: Walker) -> None:
        """A trial at rest will not be continued."""
        if walker.goal >= 0:
            walker.goal = -1
            walker.leaf.claims -= 1
            self._holdings.let_go(walker.leaf)

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
        score = self.objective.score(step, metrics)
        node = run.node
        node.scores.append(score)
        for walker in tuple(node.walkers):
            ending = self._record(walker, step, score, stage.id)
            if ending is not None:
                node.part(walker)
                self._rest(walker, ending)
        if step == node.stop and run.below:
            self._pass_split(run)
        run.stopped = not run.node.walkers
        return Verdict.STOP if run.stopped else Verdict.CONTINUE

    def _record(self, walker: Walker, step: int, score: Score | None, stage: int | None) -> State | None:
        """Take a step into a trial; return how that ends it, if it does."""
        trial, group = walker.trial, walker.group
        trial.step, trial.stage = step, stage
        if self._news is not None and stage is not None:
            self._news.append(Counted(trial.number, step, stage))
        if score is None:
            trial.losses.append(NAN)
        else:
            trial.last = score
            trial.losses.append(NAN if score is NO_SCORE else score.loss)
            if score < trial.score:
                trial.score, trial.best_step = score, step
                if group is None:
                    self._compare(trial)
        if score is NO_SCORE and not self.engine.forks:  # else the engine replaces the model by a better one's
            trial.error = f"{self.objective.metric} is not finite at step {step}"
            return State.FAILED
        if group is not None:
            group.tell(trial, score)
        stopped = self.engine.judge(trial, step) is Verdict.STOP if group is None else self._follow(group)
        if self.objective.ends and score is not None and score.violation == 0:
            return State.DONE
        return State.STOPPED if stopped else None

    def _compare(self, candidate: TrialRecord) -> None:
        """A trial has a new score; a tie goes to the smaller number, whichever was reported first."""
        best = self._best
        if best is None or (candidate.score, candidate.number) < (best.score, best.number):
            self._best = candidate

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
        if not self._seen.issuperset(self.objective.needs) and not self._run_of(stage).stopped:
            raise UserError(self.objective.missing(self._seen))
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
            if kept and stage.park:
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
                self._walk(walker)
            else:
                self._rest(walker, State.DONE)

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
                self._rest(walker, State.DONE)
            else:
                self._walk(walker)
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
                self._rest(walker, State.FAILED)
        if node.parent is not None:
            self._holdings.let_go(node.parent)

    def _fail_heirs(self, node: Node, error: str) -> None:
        heirs, node.heirs = node.heirs, ()
        for heir in heirs:
            self._fail_heirs(heir, error)
            self._frontier.remove(heir)
            if heir.work is not Work.DONE:
                walkers, heir.walkers = heir.walkers, ()
                for walker in walkers:
                    walker.trial.error = error
                    self._rest(walker, State.FAILED)

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

    def unwanted(self, stage: Stage) -> bool:
        """Whether nobody wants a running stage any more."""
        return self._run_of(stage).stopped

    def reported(self, stage: Stage) -> int:
        """The last step that a running stage has reported, counted over the whole trial."""
        return self._run_of(stage).step

    def _settle(self, stage: Stage) -> Run:
        run = self._run_of(stage)
        del self._running[stage.id]
        self._holdings.consumed(stage.before)
        if stage.again:
            self._again.discard(run.node)
        return run

    def _run_of(self, stage: Stage) -> Run:
        run = self._running.get(stage.id)
        if run is None:
            raise ValueError(f"stage {stage.id} is not running")
        return run

    # ---- how it stands

    def changes(self) -> list[Change]:
        """What trials came to since the last call, in order."""
        found, self._changes = self._changes, []
        return found

    def observe(self) -> None:
        """From now on keep what trials come to for `news` too, with every step that counts for them."""
        self._news = []

    def news(self) -> list[Change | Counted]:
        """What trials came to since the last call, in order; nothing where nobody observes.

        A trial that takes over another one's model has not come to the steps of that one.
        """
        found = self._news
        if not found:
            return []
        self._news = []
        return found

    def releases(self) -> list[Release]:
        """The states that nobody can need any more, since the last call."""
        return self._holdings.releases()

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing more will be asked for."""
        if self._running or self._awaiting is not None or self._concluding:
            return False
        while True:
            pulled = self._pull()
            if len(self._frontier):
                return False
            if not self._pull_new() and not pulled:
                return self._awaiting is None and self._complete_search()

    def _complete_search(self) -> bool:
        """True; unless it is the sampler that keeps trials from beginning."""
        number = len(self.candidates)
        if number < self.total and not self._roster.ready():
            raise UserError(
                f"{type(self.sampler).__name__} is not ready for trial {number} of {self.total}, and nothing runs that it "
                "could wait for: its `ready` has to become true, at the latest when all trials are at rest"
            )
        return True

    @property
    def best(self) -> Best | None:
        """The best trial so far; None until one has reported a finite objective."""
        trial = self._best
        if trial is None or trial.score == NO_SCORE:
            return None
        value, values = self.objective.value(trial.score), [self.objective.sign * loss for loss in trial.losses]
        error = trial.errors[trial.best_step - 1] if trial.errors else NAN
        return Best(trial.number, trial.config, value, trial.best_step, trial.score.violation == 0, values, error)

    def definition(self) -> dict[str, Any]:
        """What identifies this study, in plain JSON: two runs with the same definition are runs of one study."""
        return {
            "space": self.space.definition(),
            "objective": self.objective.definition(),
            **self.engine.definition(),
            **({"forks": True} if self.engine.forks else {}),
            **({"promotes": True} if self.engine.promotes else {}),
            **self.sampler.definition(),
            "trials": self.total,
            "seed": self.seed,
            "merge": self.merge,
            **({"replicates": self.replicates} if self.replicates > 1 else {}),
            **({"prior": self.prior} if self.prior else {}),
            **({} if self.known is None else {"warm_start": self.known.definition()}),
            **self.allocation.definition(),
        }


def _replicates(replicates: int, engine: Engine) -> int:
    if whole(replicates, "the number of replicates") > 1 and engine.forks:
        raise UserError(f"{type(engine).__name__} copies models from trial to trial, so it cannot have replicates of trials")
    return replicates


def _seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise UserError(f"the seed has to be a whole number from 0 on, below 2 to the 63rd, not {seed!r}")
    return seed


def _total(trials: int | None, *sizes: int | None) -> int:
    known = [size for size in sizes if size is not None]
    if trials is None:
        if not known:
            raise UserError("say how many trials to run: trials=32, or --trials 32 on the command line")
        return known[0]
    if not isinstance(trials, int) or trials < 1:
        raise UserError(f"the number of trials has to be a whole number above 0, not {trials!r}")
    return trials if sizes[0] is None else min(trials, sizes[0])


__all__ = ["Best", "Stage", "State", "Study", "TrialRecord", "Verdict"]
