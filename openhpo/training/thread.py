"""A thread that trains, and can be made to stop."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from openhpo.training.trial import TrialStopped

TURNS = 64  # of a loop, in which Python raises what another thread has asked for


class TrainingThread:
    """The thread in which a training function runs.

    Attributes:
        number: By which Python knows the thread; None while nothing is trained.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._lock = threading.Lock()

    @contextmanager
    def training(self) -> Iterator[None]:
        """In here, this thread may be stopped; once it is left, it is not any more."""
        self.number = threading.get_ident()
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        while self.number is not None:
            try:
                with self._lock:
                    self.number = None
                for _ in range(TURNS):
                    pass
            except TrialStopped:  # it was asked for a moment too late
                self.number = None

    def stop(self) -> None:
        """Have it raise TrialStopped as soon as it runs Python again; what is stuck in C stays there."""
        with self._lock:
            if self.number is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.number), ctypes.py_object(TrialStopped))
