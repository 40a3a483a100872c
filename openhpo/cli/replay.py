"""`openhpo replay`: train a fresh model as the winner was trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openhpo.cli.console import console
from openhpo.cli.inspect import StudyArgument
from openhpo.cli.options import AgainPrecisionOption, DeviceOption
from openhpo.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from openhpo.lineage import Span


def replay(
    study: StudyArgument,
    app: Annotated[str | None, typer.Option(help="The training code.", show_default="where the study found it")] = None,
    trial: Annotated[int | None, typer.Option(help="Whose training to repeat.", show_default="the best trial's")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to train for.", show_default="up to its best step")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides what is random.", show_default="the study's")] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="DIR", help="The folder of what comes out.", show_default="STUDY/replay-trial-N"),
    ] = None,
    device: DeviceOption = "auto",
    precision: AgainPrecisionOption = None,
) -> None:
    """Train a fresh model with the schedule of hyperparameters that the best trial came to, step by step.

    With the study's seed this repeats the training exactly; another one shows whether the schedule is good or was lucky.
    """
    from openhpo.actors import launched_size
    from openhpo.cli.apps import load_app
    from openhpo.engines import Full
    from openhpo.launch import run
    from openhpo.place import find_place, share_threads
    from openhpo.replay import space_of
    from openhpo.result import load

    result = load(study)
    if trial is None:
        if result.best is None:
            raise UserError(f"no trial of {study} has a result to repeat")
        trial = result.best.trial * result.replicates
    if launched_size() > 1:
        raise UserError("replay trains one model on one rank: run it without mpirun")
    lineage = result.lineage(trial)
    share_threads(find_place().threads)
    code = app or result.environment.get("code")
    if not code or (app is None and not Path(code).is_file()):
        raise UserError("the study does not say where its training code lies: name it with --app")
    loaded = load_app(code)
    space = space_of(loaded.space, lineage)
    given, steps = steps, lineage[-1].stop if steps is None else steps
    out = console()
    show(out, lineage)
    sys.stdout.flush()
    again = run(
        loaded.train,
        space,
        result.objective,
        engine=Full(steps),
        trials=1,
        study=into or Path(result.path) / name_of(trial, steps=given, seed=seed, precision=precision),
        seed=int(result.definition["seed"]) if seed is None else seed,
        device=device,
        precision=precision or str(result.definition.get("precision", "fp32")),
        app=loaded.name,
    )
    score, step = result.scores[trial]
    if again.best is None:
        out.print("the repeated training has no result")
        raise typer.Exit(1)
    name = result.objective.metric
    out.print(f"\n[bold]{name}[/] of the study's trial {trial}: {result.objective.value(score):.6g} at step {step}")
    out.print(f"[bold]{name}[/] of the fresh model: {again.best.value:.6g} at step {again.best.step}")
    out.print(f"its curves: {again.path}", markup=False, soft_wrap=True)


def name_of(trial: int, **options: int | str | None) -> str:
    """A folder for what these options ask for."""
    return "-".join(["replay-trial", str(trial), *(f"{name}-{value}" for name, value in options.items() if value is not None)])


def show(out: Console, lineage: list[Span]) -> None:
    """Print a lineage as a table, a row for each change of hyperparameters or of whom it was trained for."""
    from rich.table import Table

    merged: list[Span] = []
    for span in lineage:
        if merged and merged[-1].config == span.config and merged[-1].trial == span.trial:
            merged[-1] = merged[-1]._replace(stop=span.stop)
        else:
            merged.append(span)
    names = list(dict.fromkeys(name for span in merged for name in span.config))
    table = Table("steps", "trained for trial", *names)
    for span in merged:
        values = [span.config.get(name, "") for name in names]
        shown = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(f"{span.start + 1} to {span.stop}", str(span.trial), *shown)
    out.print(table)
