"""One method at work on its trials: what it wants trained next, what reports mean to it, which of its trials is best.

Rules:
- Pure, as all decisions are. A search knows nothing of stages, ranks and states: it sends its trials through the workload's
  tree, and is told there of every step that counts for them, and where they come to rest.
- Trial k's configuration depends on the search's definition and, for samplers that learn, on the trials told so far.
- With replicates, a configuration is several trials; to the engine and the sampler it is one, with means (`replicates.py`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openhpo.engines import Engine, Request
from openhpo.errors import UserError, whole
from openhpo.hyperparameters import Config
from openhpo.news import Change, Counted
from openhpo.objective import NO_SCORE, Score, objective_of
from openhpo.replicates import Replicates
from openhpo.roster import Roster
from openhpo.samplers import Random, Sampler
from openhpo.space import Space
from openhpo.stages import State, TrialRecord, Verdict
from openhpo.suggestions import Known, Suggestion, Suggestions, prior_of
from openhpo.tree import Frontier, Walker
from openhpo.ways import Ways

if TYPE_CHECKING:
    from openhpo.plan import Plan

NAN = math.nan


@dataclass(frozen=True)
class Best:
    """The best trial so far.

    Attributes:
        trial: Its number; of replicates, the configuration's.
        config: Its hyperparameters at its best step.
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


class Search:
    """An engine, a sampler, and their trials.

    Args:
        plan: What it is to be.
        seed: Decides everything random.
        merge: Whether trials share what they have in common.
        ways: Where trials go.
        place: Its place among the studies of the job.

    Attributes:
        total: How many candidates there will be.
        trials: The records of all trainings, by number.
        candidates: The same as the engine and the sampler see them; of replicates their means.
        frontier: What can be trained now for its trials.
        settled: Candidates that have ended, well or not.
        at_rest: Those, and the ones that have come as far as their method had them go.
        failed: Those that failed.
        issued: Steps that were handed out for its trials.
        slot: Its score's place in those of a step; None where there is one score.

    Raises:
        UserError: The definition makes no sense.
    """

    def __init__(self, plan: Plan, seed: int, ways: Ways, place: int = 0, *, merge: bool = True) -> None:
        self.space = plan.space if isinstance(plan.space, Space) else Space(plan.space)
        self.objective = objective_of(plan.objective)
        self.engine = copy.copy(plan.engine)  # what it remembers is this search's
        self.sampler: Sampler = Random() if plan.sampler is None else plan.sampler
        self.seed = seed
        self.place = place
        self.replicates = _replicates(plan.replicates, plan.engine)
        self.prior = prior_of(plan.prior)
        self.known: Known | None = plan.known
        self._ways = ways
        self._suggestions = Suggestions(self.sampler, self.space, seed, self.prior, self.known)
        self.total = total_of(plan.trials, self._suggestions.size, plan.engine.size)
        if self._suggestions.ends and not plan.engine.extendable:
            raise UserError(
                f"{type(self.sampler).__name__} may end before all trials have begun, and {type(plan.engine).__name__} decides "
                "by their number: choose an engine that does not, such as Full or ASHA"
            )
        self.engine.start(self.space, self.total, seed)
        self._roster = Roster(
            self.space, self._suggestions, ways.tree, plan.engine.max_steps, seed, self.replicates, merge=merge, study=place
        )
        self.trials = self._roster.trials
        self.candidates = self._roster.candidates
        self.frontier = Frontier()
        self.settled = self.at_rest = self.failed = self.issued = 0
        self.slot: int | None = None
        self._awaiting: Request | None = None  # for a trial whose configuration is still to be suggested
        self._best: TrialRecord | None = None
        self._best_model: tuple[Config, Sequence[float]] = ({}, ())  # as it was: the trial may go on with another one since
        self._concluded = False

    def extend(self, trials: int) -> None:
        """Let more trials follow.

        Args:
            trials: How many in total.

        Raises:
            UserError: The method needs to know their number from its first decision on, or they would be fewer.
        """
        total = total_of(trials, self._suggestions.size, self.engine.size)
        if total < self.total:
            raise UserError(f"the study has {self.total} trials already, so it cannot have {total} in total")
        if total > self.total and not self.engine.extendable:
            raise UserError(
                f"{type(self.engine).__name__} decides by the number of trials, so a study of {self.total} cannot be "
                f"continued to {total}; choose another --study"
            )
        self._concluded = self._concluded and total == self.total
        self.total = total

    # ---- what the engine asks for

    def pull(self) -> bool:
        """Take what the engine asks for of trials that have begun; return whether there was anything."""
        pulled = False
        while (request := self.engine.request(self.candidates, False, len(self.frontier))) is not None:
            self._accept(request)
            pulled = True
        return pulled

    def pull_new(self) -> bool:
        """Let the engine ask for a new trial; return whether one began."""
        if self._awaiting is not None or len(self.candidates) >= self.total or not self._roster.ready():
            return False
        self._awaiting = self.engine.request(self.candidates, True, len(self.frontier))
        return self._awaiting is not None and self._begin()

    def _begin(self) -> bool:
        """Let the trial begin that the engine has asked for, if its configuration is there; return whether it did."""
        if not self._roster.draw(self.total):
            if self._roster.over:
                self._end_early()
            return False
        request, self._awaiting = self._awaiting, None
        assert request is not None
        walkers = self._roster.begin()
        for walker in walkers:
            walker.search = self
            self._changed(walker, State.RUNNING, None)
        self._send(walkers, request)
        return True

    def _end_early(self) -> None:
        """The sampler says that nothing more is worth trying."""
        if not self._suggestions.ends:
            raise UserError(
                f"{type(self.sampler).__name__} has no configuration for trial {len(self.candidates)} of {self.total}: "
                "a sampler that may run out of them has to say so by `ends = True`"
            )
        self._awaiting = None
        self._concluded = True
        self.total = len(self.candidates)

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
                self._ways.walk(walker)
            self._ways.let_go(before)

    def _fork(self, walker: Walker, donor: Walker, config: Config | None) -> None:
        """Go on with the model of another trial, from where that one last rested."""
        trial, leaf = walker.trial, donor.leaf
        trial.config = donor.trial.config if config is None else config
        walker.course = self._roster.course(trial.config, trial.number)
        walker.leaf = leaf
        trial.step, trial.stage = leaf.stop, leaf.stage
        trial.losses = donor.trial.losses[: leaf.stop]
        self._changed(walker, State.RUNNING, leaf.stage, forked=True)

    def joined(self, walker: Walker, stage: int, step: int) -> None:
        """The steps of another trial's stage count for a trial, up to one of them."""
        trial = walker.trial
        seed = self.seed_of(trial.number)
        self._ways.note(Change(self.place, trial.number, seed, State.RUNNING, stage, step, False, trial.config, "", True))

    def _changed(self, walker: Walker, state: State, stage: int | None, *, forked: bool = False) -> None:
        trial = walker.trial
        seed = self.seed_of(trial.number)
        self._ways.note(Change(self.place, trial.number, seed, state, stage, trial.step, forked, trial.config, trial.error))

    def seed_of(self, trial: int) -> int:
        """What the random numbers of a trial's training are keyed by."""
        return self._roster.seed(trial)

    # ---- what the sampler suggests

    def foresee(self) -> None:
        """Have the tree know where trials will part, where that does not depend on results: others may come before them."""
        if self._roster.plans:
            self._roster.draw(self.total)

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
        awaited = self._awaiting is not None or self.concluding
        return self._suggestions.draw(number, awaited=awaited) if awaited or number < self.total else None

    def suggested(self, suggestion: Suggestion) -> None:
        """The answer to a `draw`."""
        if self.concluding:
            self._suggestions.concluded(suggestion)
            self._concluded = True
            return
        self._suggestions.suggested(suggestion)
        if self._awaiting is not None:
            self._begin()

    @property
    def awaiting(self) -> bool:
        """Whether a trial is to begin whose configuration is still to be suggested."""
        return self._awaiting is not None

    @property
    def concluding(self) -> bool:
        """Whether a slow sampler is to be asked once more after the last trial, for what it has to remark on the whole."""
        everyone = len(self.candidates) == self.total == self.at_rest
        return everyone and self._suggestions.concludes and not self._concluded

    def check_over(self) -> None:
        """Make sure that nothing runs because nothing is to come, and not because the sampler keeps trials from beginning.

        Raises:
            UserError: It is the sampler.
        """
        number = len(self.candidates)
        if number < self.total and not self._roster.ready():
            raise UserError(
                f"{type(self.sampler).__name__} is not ready for trial {number} of {self.total}, and nothing runs that it "
                "could wait for: its `ready` has to become true, at the latest when all trials are at rest"
            )

    # ---- what was reported

    def record(self, walker: Walker, step: int, scores: Any, stage: int | None) -> State | None:
        """Take a step into a trial; return how that ends it, if it does.

        Args:
            walker: The trial.
            step: The step.
            scores: What the step scores, by the objectives of the job.
            stage: The stage that reported it.
        """
        score: Score | None = scores if self.slot is None else scores[self.slot]
        trial, group = walker.trial, walker.group
        trial.step, trial.stage = step, stage
        if stage is not None and self._ways.observed:
            self._ways.note(Counted(self.place, trial.number, step, stage))
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
        if best is None or best is candidate or (candidate.score, candidate.number) < (best.score, best.number):
            self._best, self._best_model = candidate, (candidate.config, candidate.losses)

    def rest(self, walker: Walker, state: State) -> None:
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

    def _retire(self, walker: Walker) -> None:
        """A trial at rest will not be continued."""
        if walker.goal >= 0:
            walker.goal = -1
            walker.leaf.claims -= 1
            self._ways.let_go(walker.leaf)

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
            for walker in walkers:
                if walker.trial.state is State.RUNNING:
                    self._ways.withdraw(walker)
                    self.rest(walker, State.STOPPED)
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

    # ---- how it stands

    @property
    def best(self) -> Best | None:
        """The best trial so far; None until one has reported a finite objective."""
        trial = self._best
        if trial is None or trial.score == NO_SCORE:
            return None
        config, losses = self._best_model
        values = [self.objective.sign * loss for loss in (losses if losses is trial.losses else losses[: trial.best_step])]
        value, error = self.objective.value(trial.score), trial.errors[trial.best_step - 1] if trial.errors else NAN
        return Best(trial.number, config, value, trial.best_step, trial.score.violation == 0, values, error)

    def definition(self) -> dict[str, Any]:
        """What identifies this search, in plain JSON."""
        return {
            "space": self.space.definition(),
            "objective": self.objective.definition(),
            **self.engine.definition(),
            **({"forks": True} if self.engine.forks else {}),
            **({"promotes": True} if self.engine.promotes else {}),
            **self.sampler.definition(),
            "trials": self.total,
            **({"replicates": self.replicates} if self.replicates > 1 else {}),
            **({"prior": self.prior} if self.prior else {}),
            **({} if self.known is None else {"warm_start": self.known.definition()}),
        }


def _replicates(replicates: int, engine: Engine) -> int:
    if whole(replicates, "the number of replicates") > 1 and engine.forks:
        raise UserError(f"{type(engine).__name__} copies models from trial to trial, so it cannot have replicates of trials")
    return replicates


def total_of(trials: int | None, *sizes: int | None) -> int:
    """How many candidates there will be.

    Args:
        trials: What the user says.
        sizes: What the sampler has, and what the engine needs.

    Raises:
        UserError: Nobody says.
    """
    known = [size for size in sizes if size is not None]
    if trials is None:
        if not known:
            raise UserError("say how many trials to run: trials=32, or --trials 32 on the command line")
        return known[0]
    if not isinstance(trials, int) or trials < 1:
        raise UserError(f"the number of trials has to be a whole number above 0, not {trials!r}")
    return trials if sizes[0] is None else min(trials, sizes[0])


__all__ = ["Best", "Search", "total_of"]
