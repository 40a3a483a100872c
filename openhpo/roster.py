"""The trials of a study: who they are, how each begins, and what is known of those to come.

Rules:
- A candidate is a configuration as engines and samplers see it: a trial, or r trials where there are r replicates,
  of which trial t is replicate t % r of candidate t // r, and its record holds means.
- What does not depend on results is drawn ahead, so that the tree knows where trials will part.
"""

from __future__ import annotations

from collections.abc import Sequence

from openhpo.course import Course
from openhpo.hyperparameters import Config
from openhpo.replicates import Replicates, seed_of
from openhpo.space import Space
from openhpo.stages import State, TrialRecord
from openhpo.suggestions import Suggestions
from openhpo.tree import Tree, Walker

PLANNED = 20_000  # candidates at most whose place in the tree is known before they begin


class Roster:
    """All trials.

    Attributes:
        suggestions: Where configurations come from.
        trials: Their records, by number.
        candidates: The records that engines and samplers see, by number; without replicates the same list.
        over: Whether the sampler has said that nothing more is worth trying.

    Args:
        space: What may be tried.
        suggestions: Where configurations come from.
        tree: Where trials begin.
        steps: How far a trial may go.
        seed: The study's.
        replicates: Trials of a candidate.
        merge: Whether trials share what they have in common.
        study: The place of their study among those of the job.
    """

    def __init__(
        self,
        space: Space,
        suggestions: Suggestions,
        tree: Tree,
        steps: int,
        seed: int,
        replicates: int,
        *,
        merge: bool,
        study: int = 0,
    ) -> None:
        self.suggestions = suggestions
        self.trials: list[TrialRecord] = []
        self.candidates: list[TrialRecord] = self.trials if replicates == 1 else []
        self.over = False
        self._space = space
        self._tree = tree
        self._steps = steps
        self._merge = merge
        self._study = study
        self._replicates = replicates
        self._seeds = [seed_of(seed, replicate) for replicate in range(replicates)]
        self._walkers: list[Walker] = []
        self._drawn: list[tuple[Config, list[Course]]] = []  # of the candidates to come, the next one last
        self._planned = 0  # of those, the ones whose place in the tree is known

    # ---- those to come

    def ready(self) -> bool:
        """Whether the next candidate may begin, as far as the sampler is concerned."""
        return bool(self._drawn) or self.suggestions.ready(len(self.candidates))

    @property
    def plans(self) -> bool:
        """Whether trials part at steps that are known before they begin."""
        return bool(self._space.schedules) and self._merge and not self.suggestions.learns

    def prepare(self, total: int) -> None:
        """Draw the next configuration ahead, where it does not depend on results."""
        if not self._drawn and not self.suggestions.learns and len(self.candidates) < total:
            self.draw(total)

    def draw(self, total: int) -> bool:
        """See to it that the next configuration is there; where schedules make trials part at steps that are not known, as many
        as reasonable.

        Args:
            total: How many candidates there will be.

        Returns:
            Whether it is; otherwise it is still to be suggested, or the search is over.
        """
        if self._drawn:
            return True
        first, count, plan = len(self.candidates), 1, self.plans
        if plan:
            count = min(total - first, PLANNED)
        for number in range(first, first + count):
            suggestion = self.suggestions.take(number)
            if suggestion is None or suggestion.config is None:
                self.over = suggestion is not None
                break
            self._drawn.append((suggestion.config, self._courses(suggestion.config, number)))
        if plan:
            self._planned = len(self._drawn)
            for _, courses in self._drawn:
                for course in courses:
                    self._tree.plan(course, self._steps)
        self._drawn.reverse()
        return bool(self._drawn)

    def _courses(self, config: Config, number: int) -> list[Course]:
        first = number * self._replicates
        return [self.course(config, trial) for trial in range(first, first + self._replicates)]

    def course(self, config: Config, trial: int) -> Course:
        """What is in force for a trial that has that configuration."""
        seed = self.seed(trial)
        course = self._space.course(config, seed if self._merge else (seed, trial))
        course.study = self._study
        return course

    # ---- those that there are

    def begin(self) -> Sequence[Walker]:
        """The next candidate, whose configuration is there, begins: return its trials at the root of the tree."""
        config, courses = self._drawn.pop()
        first = len(self.trials)
        trials = [TrialRecord(first + replicate, config) for replicate in range(self._replicates)]
        self.trials += trials
        group: Replicates | None = None
        if self._replicates > 1:
            group = Replicates(TrialRecord(len(self.candidates), config), trials)
            self.candidates.append(group.record)
        self.suggestions.add(self.candidates[-1])
        walkers = [Walker(trial, course, self._tree.root, group) for trial, course in zip(trials, courses, strict=True)]
        self._walkers += walkers
        if self._planned:
            self._planned -= 1
            for course in courses:
                self._tree.begin(course, self._steps)
        return walkers

    def seed(self, trial: int) -> int:
        """What the random numbers of a trial's training are keyed by."""
        return self._seeds[trial % self._replicates]

    def walkers(self, candidate: int) -> Sequence[Walker]:
        """The trials of a candidate."""
        first = candidate * self._replicates
        return self._walkers[first : first + self._replicates]

    def resting(self, candidate: int) -> Sequence[Walker]:
        """Those of them that may go on."""
        walkers = self.walkers(candidate)
        return walkers if len(walkers) == 1 else [walker for walker in walkers if walker.trial.state is State.PAUSED]
