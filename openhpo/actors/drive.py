"""Runs event loops until their actors have ended: the clock, the sleep and the worker threads of a process."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from openhpo.actors.errors import Stuck
from openhpo.actors.loop import EventLoop
from openhpo.actors.messages import Message, Notice

SPIN = 3e-4  # seconds of looking without a sleep first: an answer is likeliest soon, and each sleep costs at least 60 µs
PART = 0.015  # then sleep for this part of the time that has been quiet, which delays a message by 1 % of it
SHORTEST, LONGEST = 1e-6, 1e-3  # seconds
QUIET, LONGEST_WHEN_QUIET = 1.0, 2e-3  # seconds; after that long: a sleep costs some 20 µs, so this stays below 2 % of a core


class Backoff:
    """How long an idle loop may sleep: not at all at first, then the longer, the longer it has been quiet."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """There was work."""
        self._worked = time.monotonic()

    def spinning(self) -> bool:
        return time.monotonic() - self._worked < SPIN

    def next(self, relaxed: bool) -> float:
        """Seconds; at once the longest where nobody is in a hurry."""
        if relaxed:
            return LONGEST
        quiet = time.monotonic() - self._worked
        return min(max(PART * quiet, SHORTEST), LONGEST if quiet < QUIET else LONGEST_WHEN_QUIET)


class Mailbox:
    """Where threads leave messages for the actors of this process, and where an idle process sleeps.

    Not a `queue.SimpleQueue`, whose `get` with a short timeout can wait for ever: where the time is up before it comes to
    wait, CPython takes the negative rest for no limit.
    """

    def __init__(self) -> None:
        self._posts: deque[tuple[EventLoop, str, Message | Notice]] = deque()
        self._bell = threading.Lock()
        self._bell.acquire()

    def put(self, item: tuple[EventLoop, str, Message | Notice], /) -> None:
        """Leave a message; any thread may."""
        self._posts.append(item)
        with contextlib.suppress(RuntimeError):  # it has rung already, and nobody has come yet
            self._bell.release()

    def deliver(self) -> bool:
        """Hand over what lies here; return whether there was anything."""
        count = len(self._posts)
        for _ in range(count):  # not what comes meanwhile: messages from other ranks get their turn
            loop, name, message = self._posts.popleft()
            loop.take_post(name, message)
        return count > 0

    def wait(self, seconds: float | None) -> None:
        """Sleep so long, or until somebody leaves something; now and then for less."""
        self._bell.acquire(timeout=-1 if seconds is None else seconds)


class WorkerThreads:
    """Threads that run functions beside the event loop; an idle one is used again, for its warm caches.

    They are daemons: a training step that never returns must not keep a failed job alive.
    """

    def __init__(self) -> None:
        self._threads = 0
        self._idle: list[queue.SimpleQueue[Callable[[], None]]] = []

    def submit(self, task: Callable[[], None], /) -> None:
        try:
            tasks = self._idle.pop()
        except IndexError:
            tasks = queue.SimpleQueue()
            self._threads += 1
            threading.Thread(target=self._serve, args=(tasks,), name="openhpo worker", daemon=True).start()
        tasks.put(task)

    @property
    def busy(self) -> bool:
        """Whether a function is running."""
        return len(self._idle) < self._threads

    def settle(self, patience: float) -> None:
        """Wait until nothing runs, for at most `patience` seconds."""
        end = time.monotonic() + patience
        while self.busy and time.monotonic() < end:
            time.sleep(1e-3)

    def _serve(self, tasks: queue.SimpleQueue[Callable[[], None]]) -> None:
        while True:
            task = tasks.get()
            task()
            del task  # what it refers to may be large
            self._idle.append(tasks)


def drive(loops: Sequence[EventLoop], mailbox: Mailbox, deadline: float | None = None) -> None:
    """Step the loops of this process until all their actors have ended.

    Args:
        loops: One under MPI; one a rank where all ranks share the process.
        mailbox: Where the loops' threads leave messages.
        deadline: Seconds after which the run is given up.

    Raises:
        Stuck: The deadline passed.
    """
    end = None if deadline is None else time.monotonic() + deadline
    backoff = Backoff()
    polls = any(loop.transport.polls for loop in loops)
    while any(loop.actors for loop in loops):
        if _turn(loops, mailbox):
            backoff.reset()
        elif not any(loop.transport.busy() for loop in loops):  # bulk data moves only while MPI is called
            relaxed = all(actor.relaxed for loop in loops for actor in loop.actors.values())
            if relaxed or not (polls and backoff.spinning()):
                mailbox.wait(_idle_time(loops, backoff.next(relaxed) if polls else None, end))
        if end is not None and time.monotonic() > end:
            raise Stuck(f"still running after {deadline} s: {_who(loops)}")


def _turn(loops: Sequence[EventLoop], mailbox: Mailbox) -> bool:
    """Do what there is to do in this process now; return whether there was anything."""
    worked = False
    for loop in loops:
        if loop.step():
            worked = True
    return mailbox.deliver() or worked


def _idle_time(loops: Sequence[EventLoop], look: float | None, end: float | None) -> float | None:
    """Seconds until the next timer, the next look for messages or the deadline; None where only a thread can bring work."""
    limits = [timer - loop.transport.now() for loop in loops if (timer := loop.next_timer) is not None]
    if look is not None:
        limits.append(look)
    if end is not None:
        limits.append(end - time.monotonic())
    return max(0.0, min(limits)) if limits else None


def _who(loops: Sequence[EventLoop]) -> str:
    return ", ".join(str(actor.address) for loop in loops for actor in loop.actors.values())
