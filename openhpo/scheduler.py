"""Who gets which stage, as a function of what trainers say, in the order in which they say it.

Pure, as the study is: the coordinator calls it as messages arrive, the replay of a study file as rows follow each other, and
both come to the same decisions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from openhpo.resources import Profile
from openhpo.stages import Stage, StateName, Verdict
from openhpo.suggestions import Suggestion
from openhpo.workload import Workload


class Scheduler:
    """Hands the stages of a study, or of several, to idle trainers, the one that has waited longest first.

    After each call that says what happened, `assign` has to be used up.

    Attributes:
        study: The studies' work.
        ranks: Those that train.
        stages: Those under way.
        stopped: Those of them that nobody wants any more.
        suspended: Whether no more stages are handed out for now.
        finished: Whether nothing runs and nothing will.

    Args:
        study: What decides what is trained.
    """

    def __init__(self, study: Workload) -> None:
        study.defer()
        self.study = study
        self.ranks: set[int] = set()
        self.stages: dict[int, Stage] = {}
        self.stopped: set[int] = set()
        self.suspended = False
        self.finished = False
        self._idle: deque[int] = deque()

    @property
    def idle(self) -> int:
        """How many trainers have nothing to do."""
        return len(self._idle)

    def assign(self) -> Iterator[Stage]:
        """Give work to idle trainers.

        Yields:
            Each stage; the first of its ranks leads. One without ranks is to be told from what an earlier study has reported.
        """
        if self.suspended:
            return
        while self._idle:
            stage = self.study.ask(*self._idle) if self.study.allocation.wide else self.study.ask(self._idle[0])
            if stage is None:
                break
            for rank in stage.ranks:
                self._idle.remove(rank)
            self.stages[stage.id] = stage
            yield stage
        self.finished = not self.stages and self.study.finished
        if not self.finished:
            self.study.prepare()  # while all trainers are busy

    # ---- what happened

    def expect(self, ranks: int) -> None:
        """A run begins, in which so many ranks will train."""
        self.study.allocation.expect(ranks)

    def join(self, rank: int, host: str = "") -> None:
        """A trainer is idle for the first time."""
        self.study.allocation.join(rank, host)
        self.ranks.add(rank)
        self._idle.append(rank)

    def leave(self, rank: int) -> list[Stage]:
        """A trainer is gone, with all that it held in memory.

        Returns:
            The stages that it had a part in; each is still to be `returned` or `failed`.
        """
        self.study.allocation.leave(rank)
        self.ranks.discard(rank)
        if rank in self._idle:
            self._idle.remove(rank)
        self.study.left(rank)
        return [stage for stage in self.stages.values() if rank in stage.ranks]

    def suspend(self) -> None:
        """Hand out no more."""
        self.suspended = True

    def resume(self, trials: Sequence[int]) -> None:
        """A new run begins: what was in memory is gone, and what was being trained waits.

        Args:
            trials: How many there are to be in total from now on, of each study.
        """
        self._idle.clear()
        self.ranks.clear()
        self.suspended = self.finished = False
        self.study.left()
        for stage in list(self.stages.values()):
            self._over(stage)
            self.study.give_back(stage)
        self.study.grow(trials)

    def reports(self, stage: Stage, first: int, metrics: Iterable[Mapping[str, float]]) -> int:
        """Consecutive steps of a stage.

        Returns:
            How many of them count; fewer than there are when they end in a stop.
        """
        if self.study.unwanted(stage):  # since other replicates of its configuration have shown enough
            self.stopped.add(stage.id)
            return 0
        tell, step = self.study.tell, first
        for row in metrics:
            verdict = tell(stage, step, row)
            step += 1
            if verdict is Verdict.STOP:
                self.stopped.add(stage.id)
                break
        return step - first

    def suggested(self, suggestion: Suggestion, study: int = 0) -> None:
        """What a study's slow sampler was asked for is there."""
        self.study.suggested(suggestion, study)

    def ended(self, stage: Stage, *, kept: bool, profile: Profile | None = None) -> None:
        """A stage has ended well; `kept` says whether its leader holds the state at its end."""
        if profile is not None:
            self.study.profiled(stage, profile)
        self._over(stage)
        self.study.end(stage, kept=kept)

    def failed(self, stage: Stage, error: str) -> None:
        """A stage's training raised, and is not tried again."""
        self._over(stage)
        self.study.fail(stage, error)

    def exhausted(self, stage: Stage) -> None:
        """A stage ran out of memory, and is to go on with more ranks."""
        self.study.exhausted(stage)
        self.returned(stage)

    def returned(self, stage: Stage) -> None:
        """A stage has ended before its last step and is to go on elsewhere, or here again."""
        self._over(stage)
        self.study.give_back(stage)

    def lost(self, state: StateName, rank: int | None) -> bool:
        """A state is not where it was said to be: on that rank, or in its file. Return whether that is news."""
        return self.study.lost(state, rank)

    def saved(self, state: StateName, rank: int, file: str, *, moved: bool) -> bool:
        """A state was written to a checkpoint; return whether anybody can need that."""
        return self.study.saved(state, rank, file, moved=moved)

    def _over(self, stage: Stage) -> None:
        del self.stages[stage.id]
        self.stopped.discard(stage.id)
        self._idle.extend(rank for rank in stage.ranks if rank in self.ranks)
