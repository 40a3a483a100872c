"""A study: one search over a tree of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openhpo.allocation import ONE, Ranks
from openhpo.engines import Engine
from openhpo.objective import Objective
from openhpo.plan import Plan
from openhpo.samplers import Sampler
from openhpo.search import Best, Search
from openhpo.space import Space
from openhpo.stages import Stage, State, TrialRecord, Verdict
from openhpo.suggestions import Known, Suggestion
from openhpo.ways import Earlier
from openhpo.workload import Workload


class Study(Workload):
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
        earlier: What was trained before, and need not be again (`earlier.Trained`).

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
        earlier: Earlier | None = None,
    ) -> None:
        plan = Plan(
            space=space,
            objective=objective,
            engine=engine,
            sampler=sampler,
            trials=trials,
            replicates=replicates,
            prior=prior,
            known=known,
        )
        super().__init__({"": plan}, seed=seed, merge=merge, ranks_per_trial=ranks_per_trial, earlier=earlier)
        search = self.searches[0]
        self.space, self.objective, self.engine, self.sampler = search.space, search.objective, search.engine, search.sampler
        self.replicates = search.replicates
        self.trials, self.candidates = search.trials, search.candidates

    @property
    def search(self) -> Search:
        """Its method at work."""
        return self.searches[0]

    def extend(self, trials: int) -> None:
        """Let more trials follow.

        Args:
            trials: How many in total.

        Raises:
            UserError: The method needs to know their number from its first decision on, or they would be fewer.
        """
        self.grow([trials])

    def draw(self) -> Callable[[], Suggestion] | None:
        """What to call in another thread, where a slow sampler is to be asked now; `suggested` takes its answer."""
        return self.search.draw()

    @property
    def best(self) -> Best | None:
        """The best trial so far; None until one has reported a finite objective."""
        return self.search.best


__all__ = ["Best", "Stage", "State", "Study", "TrialRecord", "Verdict"]
