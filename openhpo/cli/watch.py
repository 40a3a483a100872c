"""A study, live in the terminal."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from openhpo.cli.inspect import StudyArgument
from openhpo.errors import UserError

MOST_OF_TIME = 0.1  # that reading may take: of a large study, or over a slow file system, it is read less often


def watch(
    study: StudyArgument,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks, at least.")] = 1.0,
) -> None:
    """Follow a study from any machine that sees its folder. Ends with the study, or with q."""
    from rich.console import Console, Group
    from rich.live import Live

    from openhpo.report.numbers import Numbers
    from openhpo.report.screen import screen
    from openhpo.result import load

    console = Console(highlight=False)
    if not console.is_terminal:
        raise UserError(f"watch needs a terminal to draw on; `openhpo status {study}` prints how the study is")
    load(study)  # a wrong name is told before the screen is taken
    with keys() as pressed, Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            began = time.monotonic()
            numbers = Numbers(load(study))
            lines = screen(numbers, console.width, console.height - 1)
            live.update(Group(*lines, *[""] * (console.height - 1 - len(lines)), "q leaves"), refresh=True)
            if numbers.result.finished:
                break
            taken = time.monotonic() - began
            if pressed(max(every, taken / MOST_OF_TIME)):
                return
    console.print(*screen(numbers, console.width, console.height - 1), sep="\n")


def waited(seconds: float) -> bool:
    """Wait; nobody can press anything."""
    time.sleep(seconds)
    return False


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], bool]]:
    """Gives a call that waits so many seconds, and says whether q was pressed."""
    if not sys.stdin.isatty():
        yield waited
        return
    import termios
    import tty

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    tty.setcbreak(file)

    def pressed(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([file], [], [], left)[0] and os.read(file, 1) in (b"q", b"Q", b"\x03", b""):
                return True
        return False

    try:
        yield pressed
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)
