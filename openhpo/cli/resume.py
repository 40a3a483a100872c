"""`openhpo resume`: go on with a study by the command that began it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from openhpo.cli.inspect import StudyArgument
from openhpo.cli.together import SEPARATOR, of_job, split
from openhpo.errors import UserError

EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def resume(
    context: typer.Context,
    study: StudyArgument,
    ranks: Annotated[
        int | None,
        typer.Option(
            help="Start under mpiexec with so many ranks.", show_default="as before, unless started by mpirun or srun"
        ),
    ] = None,
) -> None:
    """Go on with a study that was interrupted, on any number of ranks; further options are added to its command.

    The same command does the same; this one knows it from the study file. `openhpo resume runs/x --trials 200` gives it more
    trials. Of a job of several studies all go on; `openhpo resume runs/job/asha --trials 200` says which of them gets more.
    """
    from openhpo.actors import launched_size
    from openhpo.result import load_file
    from openhpo.storage.reader import located

    tables = load_file(study)
    environment = tables.environment
    words = shlex.split(str(environment.get("command", "")))
    if len(words) < 2:
        raise UserError(f"{study} does not say by which command it was begun: give that command again")
    folder = Path(str(environment.get("folder", ".")))
    name = located(Path(study))[1]
    place = tables.names.index(name) if name in tables.names else None
    command = command_of(words[1:], tables.path.parent.resolve(), ranks, context.args, place, launched=launched_size() > 1)
    if not folder.is_dir():
        raise UserError(f"{study} was begun in {folder}, which is not there: change to your code, and give the command again")
    os.chdir(folder)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *command])


def command_of(
    words: list[str], study: Path, ranks: int | None, extra: list[str], place: int | None, *, launched: bool
) -> list[str]:
    """What to give to Python.

    Args:
        words: What it was given then.
        study: The study's folder now.
        ranks: How many to start; None for as many as then.
        extra: Further options, which win over those before them.
        place: Which of the studies of a job was named; None for none.
        launched: Whether these ranks have been started already.

    Raises:
        UserError: The command is a script of its own, which takes no options of ours.
    """
    ours = words[:3] == ["-m", "openhpo", "run"] or (Path(words[0]).name == "openhpo" and words[1:2] == ["run"])
    if not ours:
        if ranks is not None or extra:
            raise UserError(
                f"this study was begun by {shlex.join(words)}, which decides these itself: change it there, and run it again"
            )
        return words
    if ranks is not None or launched:
        words = without_option(words, "--ranks")
    more = ["--ranks", str(ranks)] if ranks is not None else []
    parts = split(without_option(words, "--study"))
    parts[0] += ["--study", str(study), *more]
    own = False
    for word in extra:
        if word.startswith("--"):  # what follows is its value
            own = len(parts) > 1 and not of_job(word)
        if own and place is None:
            raise UserError(
                f"this job runs several studies, so it is not clear which of them {word} is for: name it, as in "
                f"openhpo resume {study}/NAME {shlex.join(extra)}"
            )
        parts[place or 0 if own else 0].append(word)
    return [word for part in parts for word in (SEPARATOR, *part)][1:]


def without_option(words: list[str], option: str) -> list[str]:
    """A command line without an option and its value."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == option:
            skip = True
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return kept
