"""Runs a training function for one stage. Both styles, generator and plain function, are this one mechanism."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from openhpo.training.trial import Trial, TrialStopped


def train_stage(train: Callable[[Trial], Any], trial: Trial) -> None:
    """Call `train(trial)` and report what it yields, until the stage's last step, a stop, or its own end."""
    steps: Any = None
    with trial.training():
        try:
            steps = train(trial)
            if isinstance(steps, Iterator):
                for metrics in steps:
                    trial.report(metrics)
        except TrialStopped:
            pass
        finally:
            if hasattr(steps, "close"):
                steps.close()  # its `finally` blocks run now, in this thread
