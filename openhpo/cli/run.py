"""`openhpo run METHOD APP`: one command a method."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openhpo.cli.inspect import as_dict, show_best
from openhpo.cli.options import Options, pairs, value_of, with_options
from openhpo.errors import UserError

if TYPE_CHECKING:
    from openhpo.cli.apps import App
    from openhpo.objective import Objective
    from openhpo.result import Result
    from openhpo.samplers import Sampler

run_app = typer.Typer(help="Search: openhpo run METHOD APP.", no_args_is_help=True)


@run_app.command()
@with_options
def grid(
    options: Options,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES",
            help="Values (lr=0.1,0.01) or how many to spread over the range (lr=5). One value: width=64, with a comma. "
            "Categorical and integer hyperparameters without it take all their values.",
        ),
    ] = None,
) -> None:
    """Try every combination of values."""
    from openhpo.samplers import Grid

    _run("grid", options, Grid(axes_of(axis)))


@run_app.command()
@with_options
def random(options: Options) -> None:
    """Draw configurations at random, each independent of the others."""
    from openhpo.samplers import Random

    _run("random", options, Random())


@run_app.command()
@with_options
def sobol(options: Options) -> None:
    """Fill the space evenly with a quasi-random sequence; best with 16, 32, 64, ... trials."""
    from openhpo.samplers import Sobol

    _run("sobol", options, Sobol())


def axes_of(texts: list[str] | None) -> dict[str, Any]:
    """The axes of a grid from NAME=COUNT or NAME=VALUE,VALUE texts."""
    return {name: _axis(text) for name, text in pairs(texts, "--axis").items()}


def _axis(text: str) -> Any:
    if "," not in text:
        count = value_of(text)
        if isinstance(count, int) and not isinstance(count, bool):
            return count
    return [value_of(part.strip()) for part in text.split(",") if part.strip()]


def search(method: str, options: Options, sampler: Sampler) -> Result:
    """Run a study as the command line describes it, on every rank; the name of the method names the folder."""
    from openhpo.actors import launched_size
    from openhpo.launcher import relaunch

    if options.ranks is not None and launched_size() == 1:
        relaunch(options.ranks, sys.orig_argv[1:])

    from openhpo.place import find_place, share_threads

    share_threads(find_place().threads)  # before the app imports torch

    from openhpo.cli.apps import load_app
    from openhpo.engines import Full
    from openhpo.launch import run

    app = load_app(options.app)
    steps = options.steps if options.steps is not None else app.max_steps
    if steps is None:
        raise UserError(f"say how many steps a trial trains for: --steps 20, or max_steps = 20 in {options.app}")
    return run(
        app.train,
        app.space.fix({name: value_of(text) for name, text in pairs(options.set, "--set").items()}),
        _objective(app, options),
        engine=Full(steps),
        sampler=sampler,
        trials=options.trials,
        study=Path(options.study or f"runs/{app.name}-{method}"),
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        dedicated_coordinator=options.dedicated_coordinator,
        progress=options.progress,
        app=app.name,
    )


def _run(method: str, options: Options, sampler: Sampler) -> None:
    """Search, and let rank 0 say what was found."""
    from openhpo.actors import launched_rank

    result = search(method, options, sampler)
    if launched_rank() != 0:
        return
    if options.json:
        print(json.dumps(as_dict(result, result.top(1)), indent=2))
    else:
        show_best(result, 1)
    if result.best is None:
        raise typer.Exit(1)


def _objective(app: App, options: Options) -> Objective:
    from openhpo.objective import Maximize, Minimize

    if options.maximize and options.minimize:
        raise UserError("give --maximize or --minimize, not both")
    derived = pairs(options.derive, "--derive")
    if options.maximize:
        return Maximize(options.maximize, options.require or (), derived)
    if options.minimize:
        return Minimize(options.minimize, options.require or (), derived)
    if app.objective is None:
        raise UserError(f"say what to optimise: --maximize METRIC or --minimize METRIC, or `objective` in {options.app}")
    if options.require or derived:
        given = app.objective
        return type(given)(given.metric, [*given.require, *(options.require or [])], {**given.derived, **derived})
    return app.objective
