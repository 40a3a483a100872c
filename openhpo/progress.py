"""Shows how a study is getting on: a bar on a terminal, plain lines in a batch log, nothing where nobody asked."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from openhpo.launcher import TERMINAL
from openhpo.telling import say
from openhpo.view import Progress, View

if TYPE_CHECKING:
    from rich.console import Console

    from openhpo.study import Best


def choose_view(wanted: bool) -> View:
    """The view that fits where rank 0's standard error goes.

    A launcher puts a pipe between a rank and the terminal, so OPENHPO_TERMINAL tells when a person watches.
    """
    if not wanted:
        return Silent()
    columns = os.environ.get(TERMINAL, "")
    if columns.isdigit():
        return Bar(int(columns))
    if sys.stderr.isatty():
        return Bar(None)
    return Lines()


class Silent:
    """Shows nothing."""

    period = 1.0

    def __init__(self, period: float = 1.0) -> None:
        self.period = period

    def show(self, progress: Progress) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """A line every ten seconds, and one at the end: for batch logs."""

    period = 10.0

    def show(self, progress: Progress) -> None:
        say(describe(progress))

    def note(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        pass


class Bar:
    """A line that redraws itself.

    Args:
        columns: The terminal's width, where it is not this process's own.
    """

    period = 0.25

    def __init__(self, columns: int | None) -> None:
        self._columns = columns
        self._live: Any = None

    def show(self, progress: Progress) -> None:
        from rich.console import Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self._live is None:
            self._live = Live(console=_console(self._columns), auto_refresh=False)
            with contextlib.suppress(OSError):
                self._live.start()
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=progress.trials, completed=progress.settled, width=20)
        line.add_row(bar, Text(f"{progress.settled}/{progress.trials} trials, {_facts(progress)}"))
        with contextlib.suppress(OSError):  # the terminal is gone
            self._live.update(Group(line, Text(_found(progress), style="bold")), refresh=True)

    def note(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(OSError):
                live.stop()


def _console(columns: int | None) -> Console:
    """Standard error as rich draws on it; where nobody looks any more, the work goes on."""
    from rich.console import Console

    class Patient(Console):
        def on_broken_pipe(self) -> None:  # it would end the process
            self.quiet = True

    return Patient(stderr=True, force_terminal=True, width=columns)


def describe(progress: Progress) -> str:
    """One line for a log."""
    return f"[{clock(progress.elapsed)}] {progress.settled}/{progress.trials} trials, {_facts(progress)}, {_found(progress)}"


def _facts(progress: Progress) -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    if progress.settled == progress.trials:
        return f"{progress.steps:,} steps in {clock(progress.elapsed)}{failed}"
    left = f", {clock(progress.left)} left" if progress.left is not None else ""
    return f"{progress.running} running{failed}, {progress.rate:,.0f} steps/s{left}"


def _found(progress: Progress) -> str:
    if progress.studies:
        return "; ".join(f"{name}: {_best(best)}" for name, best in progress.studies.items())
    return _best(progress.best)


def _best(best: Best | None) -> str:
    if best is None:
        return "no result yet"
    return f"best {best.value:.6g} (trial {best.trial}, step {best.step}{'' if best.feasible else ', requirements not met'})"


def clock(seconds: float | None) -> str:
    """Seconds as 0:00:07, or 1d 02:03:04."""
    whole = round(seconds or 0)
    days, rest = divmod(whole, 86_400)
    text = time.strftime("%H:%M:%S", time.gmtime(rest))
    return f"{days}d {text}" if days else text.removeprefix("0")
