"""`openhpo validate`: train the best configurations of a study again, with new seeds."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openhpo.cli.console import console
from openhpo.cli.inspect import StudyArgument
from openhpo.cli.options import AgainPrecisionOption, DeviceOption, ShareOption, seconds_of
from openhpo.errors import UserError

if TYPE_CHECKING:
    from openhpo.result import Result
    from openhpo.validation import Validated


def validate(
    study: StudyArgument,
    top: Annotated[int, typer.Option(min=1, help="How many configurations, the best ones.")] = 5,
    replicates: Annotated[int, typer.Option(min=1, help="How often to train each.")] = 10,
    seed: Annotated[
        int | None, typer.Option(help="Decides the new seeds.", show_default="one that follows from the study's")
    ] = None,
    app: Annotated[str | None, typer.Option(help="The training code.", show_default="where the study found it")] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="DIR", help="The folder of the new trainings.", show_default="STUDY/validation-…"),
    ] = None,
    ranks: Annotated[int | None, typer.Option(help="Start under mpiexec with so many ranks.")] = None,
    device: DeviceOption = "auto",
    share_devices: ShareOption = False,
    precision: AgainPrecisionOption = None,
    time_limit: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop in order after that time, to be continued by the same command.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    progress: Annotated[bool, typer.Option(help="Show how it is getting on.")] = True,
) -> None:
    """Train the best configurations again with seeds that the search has not seen: mean, spread and confidence interval."""
    from openhpo.launcher import relaunch

    relaunch(ranks)

    from openhpo.actors import launched_rank
    from openhpo.cli.apps import load_app
    from openhpo.place import find_place, share_threads
    from openhpo.result import load
    from openhpo.validation import validate as train_again

    share_threads(find_place().threads)  # before the app imports torch
    result = load(study)
    code = app or result.environment.get("code")
    if not code or (app is None and not Path(code).is_file()):
        raise UserError("the study does not say where its training code lies: name it with --app")
    loaded = load_app(code)
    found = train_again(
        loaded.train,
        study,
        top=top,
        replicates=replicates,
        seed=seed,
        into=into,
        device=device,
        share_devices=share_devices,
        precision=precision,
        time_limit=seconds_of(time_limit, "--time-limit"),
        progress=progress,
        app=loaded.name,
    )
    if launched_rank() == 0:
        show(result, found, as_json=json)
        sys.stdout.flush()


def show(result: Result, found: list[Validated], *, as_json: bool) -> None:
    """Print them, the best mean first."""
    from openhpo.validation import as_dict

    if as_json:
        print(json.dumps([as_dict(one) for one in found], indent=2))
        return
    from rich.table import Table

    replicates = len(found[0].values) + found[0].failed
    one_of = "configuration" if result.replicates > 1 else "trial"
    table = Table(one_of, "in the search", f"mean of {replicates}", "spread", "95 % interval", "failed")
    for one in found:
        low, high = one.interval
        table.add_row(
            str(one.found.trial),
            _number(one.found.value),
            f"[bold]{_number(one.mean)}[/]",
            _number(one.spread),
            f"{_number(low)} … {_number(high)}",
            str(one.failed),
        )
    out = console()
    out.print(f"\n{result.objective.metric} with new seeds, at the step that was best in the search:", highlight=False)
    out.print(table)
    best = Table.grid(padding=(0, 2))
    for name, value in found[0].found.config.items():
        best.add_row(f"  {name}", _number(value))
    out.print(f"the best mean is that of {one_of} {found[0].found.trial}:", highlight=False)
    out.print(best)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.6g}"
    return str(value)
