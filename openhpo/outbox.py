"""Between a training thread, which puts reports in, and the event loop, which takes them out."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

GATHER = 0.2  # seconds in which reports gather: a wake of the loop costs training in the same process up to 2 ms
BATCH = 1024  # reports that do not wait for that
ROOM = 4096  # steps that training may be ahead of the coordinator


class Outbox:
    """Reports of one stage on their way.

    Without a lock: appending to and popping from a deque are atomic, and `wake` may be called once too often, never too
    rarely. The loop has to look again `GATHER` after it found something, as nobody is woken for what comes before.

    Args:
        wake: Called from the training thread when the loop should take what lies here.
        last: The last step, for which nobody is woken: the end of the stage, which follows, does that.
        checks: Steps after which training waits for the verdict.
        room: How many reports may lie here before `put` waits.
    """

    def __init__(self, wake: Callable[[], None], last: int = 0, checks: Iterable[int] = (), room: int = ROOM) -> None:
        self._wake = wake
        self._last = last
        self._checks = frozenset(checks)
        self._room = room
        self._batch = min(BATCH, room)
        self._rows: deque[dict[str, float]] = deque()
        self._woken = False
        self._taken = 0.0
        self._accepted = 0  # the last step that the coordinator has answered for
        self._change = threading.Event()
        self.stopped = False
        self.waits = False  # training waits for the coordinator
        self.put_at = time.monotonic()  # when the last step was put here, or the stage began

    def put(self, step: int, metrics: dict[str, float]) -> bool:
        """Take one step's metrics; wait where it has to; return whether training should go on."""
        self._rows.append(metrics)
        now = self.put_at = time.monotonic()
        check = step in self._checks
        due = check or len(self._rows) >= self._batch or now - self._taken >= GATHER
        if due and not self._woken and step != self._last:
            self._woken = True
            self._wake()
        if check or len(self._rows) >= self._room:
            self._wait(step if check else 0)
        return not self.stopped

    def _wait(self, step: int) -> None:
        self.waits = True
        while not self.stopped and (self._accepted < step or len(self._rows) >= self._room):
            self._change.clear()
            if not self.stopped and (self._accepted < step or len(self._rows) >= self._room):
                self._change.wait()
        self.put_at = time.monotonic()
        self.waits = False

    def take(self) -> list[dict[str, float]]:
        """All that lies here, in order."""
        self._woken = False  # first, so that what comes from now on wakes again
        rows = []
        while self._rows:
            rows.append(self._rows.popleft())
        if rows:
            self._taken = time.monotonic()
        self._change.set()
        return rows

    def accept(self, step: int) -> None:
        """The coordinator has answered for all steps up to this one."""
        self._accepted = step
        self._change.set()

    def stop(self) -> None:
        """Have training end at its next report."""
        self.stopped = True
        self._change.set()
