"""What a study asks of its sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from openhpo.hyperparameters import Config
from openhpo.space import Space
from openhpo.stages import AT_REST, State, TrialRecord

if TYPE_CHECKING:
    import numpy


ENOUGH = 4  # trials at rest that did not fail, which a model can begin from


class Suggest(ABC):
    """A sampler bound to a space and a seed.

    Its suggestions are a function of the arguments and of the remarks that it has heard, so there is nothing else to save, and
    trial k is the same however many ranks there are where the method allows it.

    Attributes:
        reach: A space that holds all it may suggest, where that is not the study's own.
        learns: Whether a suggestion depends on the history, so that it cannot be drawn ahead.
        slow: Whether one may take longer than messages should wait. Then it is made in a worker thread, from a copy of the
            history as it was when a trainer became idle.
        waits: Whether that trainer waits for it; otherwise it trains a point of a quasi-random sequence meanwhile. Of slow ones
            alone.
        ends: Whether it may say that the search is over before there are as many trials as were asked for.
        size: How many configurations there are; None for any number.
    """

    reach: Space | None = None
    learns: bool = True
    slow: bool = False
    waits: bool = True
    ends: bool = False
    size: int | None = None

    @abstractmethod
    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config | None:
        """The configuration of a trial; None where the search is over.

        Args:
            number: The trial's.
            history: What is known of the trials before it, and of those of an earlier study, which come first: whoever wants
                the trial of a record goes by its place in this sequence, not by its number.
            rng: Keyed by the study's seed and that number.
        """

    def ready(self, number: int, history: Sequence[TrialRecord]) -> bool:
        """Whether it can be asked for that trial now, or has to see more results first. Has to be quick."""
        return True

    def remarks(self) -> Sequence[dict[str, Any]]:
        """What the study file should tell of the last suggestion, in plain JSON."""
        return ()

    def heard(self, remarks: Sequence[dict[str, Any]]) -> None:  # noqa: B027 - most have nothing to do
        """What it said of a suggestion, before the next one is asked for: its own remarks, or those in the study file where the
        suggestion was made by a run before this one. Whoever decides by anything but the history goes on from there.
        """


class Sampler(Protocol):
    """Decides what to try next."""

    def bind(self, space: Space, seed: int) -> Suggest:
        """Prepare for a study.

        Raises:
            UserError: The sampler cannot search this space.
        """

    def definition(self) -> dict[str, Any]:
        """What identifies the sampler, in plain JSON."""


def known(startup: int, history: Sequence[TrialRecord]) -> bool:
    """Whether a model can begin: so many trials were begun, and enough are at rest.

    Four that did not fail are enough. Many ranks begin more than `startup` trials at once, and would draw as many again knowing
    nothing while they wait for that many results. Where trials fail, `startup` at rest are enough, one of which did not.
    """
    if len(history) < startup:
        return False
    rested = well = 0
    for trial in history:
        rested += trial.state in AT_REST
        well += trial.state in AT_REST and trial.state is not State.FAILED
        if well >= min(startup, ENOUGH) or (well and rested >= startup):
            return True
    return False
