"""The commands, and what becomes of errors."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from openhpo.cli.compare import compare
from openhpo.cli.export import export
from openhpo.cli.inspect import best, status
from openhpo.cli.new import new
from openhpo.cli.replay import replay
from openhpo.cli.report import report
from openhpo.cli.resume import EXTRA, resume
from openhpo.cli.run import run_app
from openhpo.cli.simulate import simulate_app
from openhpo.cli.together import SEPARATOR, run_blocks
from openhpo.cli.trials import trials
from openhpo.cli.validate import validate
from openhpo.cli.watch import watch
from openhpo.errors import UserError
from openhpo.telling import say

STACKS = "OPENHPO_STACKS_AFTER"  # seconds after which every rank prints the stacks of its threads, to find a hang

LAUNCHED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_ID", "PALS_SIZE", "FLUX_JOB_SIZE")

app = typer.Typer(
    help="Hyperparameter optimisation on supercomputers, with nothing but MPI and a file system.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(run_app, name="run")
app.add_typer(simulate_app, name="simulate")
app.command()(best)
app.command()(status)
app.command()(trials)
app.command()(watch)
app.command()(report)
app.command()(export)
app.command()(compare)
app.command()(new)
app.command()(replay)
app.command()(validate)
app.command(context_settings=EXTRA)(resume)


@app.command()
def doctor(
    study: str = typer.Option("runs", help="The folder studies go to; its file system is looked at."),
    device: str = typer.Option("auto", help="The kind of device a rank should take: auto, hpu, cuda, xpu, mps or cpu."),
    ranks: int = typer.Option(1, help="Start this under mpiexec with so many ranks."),
) -> None:
    """Look at this machine: MPI, devices, versions, file system. Under mpirun, at every rank."""
    from openhpo.cli.doctor import examine

    examine(study, device, ranks)


def main() -> NoReturn:
    """The command `openhpo`."""
    _run(_command)


def _command() -> object:
    words = sys.argv[1:]
    if words[:1] == ["run"] and SEPARATOR in words:
        return run_blocks(words[1:], lambda part: app(["run", *part], standalone_mode=False))
    return app(standalone_mode=False)


def run_command(function: Callable[..., None]) -> NoReturn:
    """Run one function as a command line of its own, as the drivers are."""
    alone = typer.Typer(pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})
    alone.command()(function)
    _run(lambda: alone(standalone_mode=False))


def _run(command: Callable[[], object]) -> NoReturn:
    """Run a command; a user's mistake ends with one message, from rank 0, and status 2."""
    if os.environ.get(STACKS):
        faulthandler.dump_traceback_later(float(os.environ[STACKS]))
    if any(name in os.environ for name in LAUNCHED):
        from openhpo.actors.run import heed_signals

        heed_signals()  # while libraries are being imported
    try:
        status = command()
    except UserError as error:
        _refuse(f"error: {error}")
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        _refuse(_usage_error(error))
    sys.exit(status if isinstance(status, int) else 0)


def _usage_error(error: Exception) -> str:
    """What to say of an error in the command line; any other exception is a bug, and goes on up.

    Known by its method: Typer's class for it is Click's in some versions, and its own private one in others.
    """
    if not hasattr(error, "format_message"):
        raise error
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return f"{error.format_message()}{_apps() if context is not None and context.info_name == 'run' else ''}"
    apps = _apps() if getattr(getattr(error, "param", None), "name", None) == "app" else ""
    hint = f"\nTry '{context.command_path} --help'." if context is not None else ""
    return f"error: {error.format_message()}{apps}{hint}"


def _apps() -> str:
    """What is around to run."""
    from openhpo.cli.new import apps_around

    found = apps_around()
    if not found:
        return "\nThere is no app here; `openhpo new my_app.py` writes one to begin with."
    width = max(len(path) for path, _ in found)
    return "\n\nApps here:\n" + "\n".join(f"  {path:<{width}}  {says}".rstrip() for path, says in found)


def _refuse(text: str) -> NoReturn:
    """Say it once: rank 0 does, or another rank where rank 0 has nothing to complain of."""
    from openhpo.actors.run import all_leaving, launched_rank, leave_job

    rank = launched_rank()
    if rank == 0:
        say(text)
    if not all_leaving():
        if rank != 0:
            say(f"rank {rank}: {text}")
        leave_job(2)
    sys.exit(2)
