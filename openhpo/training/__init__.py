"""What user code touches while it trains. Imports torch only where the user's code has."""

from openhpo.training.trial import Trial, TrialStopped

__all__ = ["Trial", "TrialStopped"]
