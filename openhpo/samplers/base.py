"""What a study asks of its sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from openhpo.hyperparameters import Config
from openhpo.space import Space
from openhpo.stages import TrialRecord

if TYPE_CHECKING:
    import numpy


class Suggest(Protocol):
    """A sampler bound to a space and a seed.

    Its suggestions are a function of the arguments alone, so there is nothing to save, and trial k is the same however
    many ranks there are where the method allows it.
    """

    @property
    def learns(self) -> bool:
        """Whether a suggestion depends on the history, so that it cannot be drawn ahead."""

    @property
    def size(self) -> int | None:
        """How many configurations there are; None for any number."""

    def __call__(self, number: int, history: Sequence[TrialRecord], rng: numpy.random.Generator) -> Config:
        """The configuration of trial `number`; `rng` is keyed by the study's seed and that number."""


class Sampler(Protocol):
    """Decides what to try next."""

    def bind(self, space: Space, seed: int) -> Suggest:
        """Prepare for a study.

        Raises:
            UserError: The sampler cannot search this space.
        """

    def definition(self) -> dict[str, Any]:
        """What identifies the sampler, in plain JSON."""
