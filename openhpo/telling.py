"""What is told on standard error, where somebody may or may not read it."""

from __future__ import annotations

import contextlib
import sys
import traceback


def say(text: str) -> None:
    """A line on standard error. Where nobody reads it any more, as when a launcher is gone, the work goes on."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def say_traceback() -> None:
    """The traceback of the exception that is being handled, in the same way."""
    say(traceback.format_exc().rstrip())


def flush() -> None:
    """Have all that was printed leave this process, where that is possible."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
