"""Where the commands print."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from openhpo.actors.run import launched_size
from openhpo.launcher import TERMINAL

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Standard output, with colours only where a person looks.

    Under a launcher that cannot be seen from here: Open MPI gives each rank a terminal of its own even in a batch job.
    """
    from rich.console import Console

    if launched_size() == 1:
        return Console(highlight=False)
    columns = os.environ.get(TERMINAL, "")
    return Console(highlight=False, force_terminal=columns.isdigit(), width=int(columns) if columns.isdigit() else 100)
