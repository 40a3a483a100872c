"""Runs event loops until their actors have ended: the clock, the sleep and the worker threads of a process."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from openhpo.actors.errors import Stuck
from openhpo.actors.loop import EventLoop
from openhpo.actors.messages import Message, Notice

PostQueue: TypeAlias = "queue.SimpleQueue[tuple[EventLoop, str, Message | Notice]]"

SPIN = 1e-4  # seconds of looking without a sleep first: the shortest sleep takes about as long, and gives the core away
PART = 0.02  # then sleep for this part of the time that has been quiet, so a message waits for 1 % of it on average
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

    def next(self) -> float:
        quiet = time.monotonic() - self._worked
        return min(max(PART * quiet, SHORTEST), LONGEST if quiet < QUIET else LONGEST_WHEN_QUIET)


class WorkerThreads:
    """Threads that run functions beside the event loop; an idle one is used again, for its warm caches.

    They are daemons: a training step that never returns must not keep a failed job alive.
    """

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[Callable[[], None]]] = []

    def submit(self, task: Callable[[], None], /) -> None:
        try:
            tasks = self._idle.pop()
        except IndexError:
            tasks = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(tasks,), name="openhpo worker", daemon=True).start()
        tasks.put(task)

    def _serve(self, tasks: queue.SimpleQueue[Callable[[], None]]) -> None:
        while True:
            task = tasks.get()
            task()
            del task  # what it refers to may be large
            self._idle.append(tasks)


def drive(loops: Sequence[EventLoop], posts: PostQueue, deadline: float | None = None) -> None:
    """Step the loops of this process until all their actors have ended.

    Args:
        loops: One under MPI; one a rank where all ranks share the process.
        posts: Where the loops' threads leave messages; waiting for it is how an idle process sleeps.
        deadline: Seconds after which the run is given up.

    Raises:
        Stuck: The deadline passed.
    """
    end = None if deadline is None else time.monotonic() + deadline
    backoff = Backoff()
    polls = any(loop.transport.polls for loop in loops)
    while any(loop.actors for loop in loops):
        if _turn(loops, posts):
            backoff.reset()
        elif not (polls and backoff.spinning()) and not any(loop.transport.busy() for loop in loops):
            # bulk data moves only while MPI is called, so a busy transport keeps the loop awake
            _sleep(posts, _idle_time(loops, backoff if polls else None, end), backoff)
        if end is not None and time.monotonic() > end:
            raise Stuck(f"still running after {deadline} s: {_who(loops)}")


def _idle_time(loops: Sequence[EventLoop], backoff: Backoff | None, end: float | None) -> float | None:
    """Seconds until the next timer, the next look for messages or the deadline; None where only a thread can bring work."""
    limits = [timer - loop.transport.now() for loop in loops if (timer := loop.next_timer) is not None]
    if backoff is not None:
        limits.append(backoff.next())
    if end is not None:
        limits.append(end - time.monotonic())
    return max(0.0, min(limits)) if limits else None


def _sleep(posts: PostQueue, seconds: float | None, backoff: Backoff) -> None:
    """Wait so long, or until a thread leaves something."""
    with contextlib.suppress(queue.Empty):
        post = posts.get(timeout=seconds)
        backoff.reset()
        _take(post)


def _turn(loops: Sequence[EventLoop], posts: PostQueue) -> bool:
    """Do what there is to do in this process now; return whether there was anything."""
    worked = False
    for loop in loops:
        if loop.step():
            worked = True
    while not posts.empty():
        _take(posts.get())
        worked = True
    return worked


def _take(post: tuple[EventLoop, str, Message | Notice]) -> None:
    loop, name, message = post
    loop.take_post(name, message)


def _who(loops: Sequence[EventLoop]) -> str:
    return ", ".join(str(actor.address) for loop in loops for actor in loop.actors.values())
