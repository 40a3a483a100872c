"""Commands that read a study."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openhpo.cli.console import console
from openhpo.errors import UserError
from openhpo.hyperparameters import readable

if TYPE_CHECKING:
    from openhpo.result import Result
    from openhpo.study import Best

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="The study's folder, as given to --study.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def best(
    study: StudyArgument,
    top: Annotated[int, typer.Option(min=1, help="Show so many of the best trials.")] = 1,
    json_: JsonOption = False,
    toml: Annotated[bool, typer.Option("--toml", help="Print the configuration as TOML, to paste.")] = False,
    python: Annotated[bool, typer.Option("--python", help="Print it as a Python dictionary, to paste.")] = False,
) -> None:
    """Show the best configuration of a study, also of one that is running."""
    from openhpo.result import load_together

    if json_ + toml + python > 1:
        raise UserError("choose one of --json, --toml and --python")
    results = load_together(study)
    if len(results) > 1:
        _best_of_each(results, more=json_ or toml or python or top > 1)
        return
    (result,) = results.values()
    found = result.top(top)
    if json_:
        print(json.dumps(as_dict(result, found), indent=2))
    elif python:
        print("\n".join(repr(one.config) for one in found))
    elif toml:
        tables = [f"# trial {one.trial}, {result.objective.metric} {one.value:.6g}\n{toml_of(one.config)}" for one in found]
        print("\n\n".join(tables if top == 1 else [f"[[best]]\n{table}" for table in tables]))
    else:
        show_best(result, top)
    if result.best is None:
        raise typer.Exit(1)


def _best_of_each(results: Mapping[str, Result], *, more: bool) -> None:
    from openhpo.cli.together import show_together

    if more:
        names = ", ".join(str(result.path) for result in results.values())
        raise UserError(f"there are several studies; for --top, --json, --toml or --python name one of them: {names}")
    show_together(results)


def toml_of(config: Mapping[str, Any]) -> str:
    """A configuration as TOML."""
    lines = []
    for name, value in config.items():
        key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
        shown = json.dumps(value) if isinstance(value, str | bool) else repr(value)
        lines.append(f"{key} = {shown}")
    return "\n".join(lines)


def status(
    study: StudyArgument,
    json_: JsonOption = False,
    finished: Annotated[
        bool, typer.Option("--finished", help="Say nothing, and exit with 0 if it ran to its end, with 1 if it can go on.")
    ] = False,
) -> None:
    """Show how far a study is, or each of several of one job."""
    from openhpo.result import load_together

    results = load_together(study).values()
    if finished:
        raise typer.Exit(0 if all(result.finished for result in results) else 1)
    facts = [_status(result) for result in results]
    if json_:
        print(json.dumps(facts if len(facts) > 1 else facts[0], indent=2))
        return
    for place, each in enumerate(facts):
        if place:
            print()
        _show_status(each)


def _show_status(facts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value not in (None, "", []):
            table.add_row(f"[bold]{name.replace('_', ' ')}", _text(value))
    console().print(table)


def _status(result: Result) -> dict[str, Any]:
    from openhpo.progress import clock
    from openhpo.report.numbers import Numbers
    from openhpo.stages import State

    tables, numbers = result.tables, Numbers(result)
    states = result.states if result.replicates == 1 else [candidate.state for candidate in result.candidates]
    count = {state: sum(1 for s in states if s is state) for state in State}
    quiet = time.time() - tables.path.stat().st_mtime
    phases = {
        "finished": "finished",
        "suspended": "suspended: the same command continues it",
        "running": f"running, or interrupted (the same command then continues it): last written {clock(quiet)} ago",
    }
    found = result.best
    waiting = f"{count[State.RUNNING]} running, " if result.phase == "running" else ""
    waiting = f"{count[State.SUSPENDED] + count[State.PAUSED]} to be continued, " if result.phase == "suspended" else waiting
    app = result.definition.get("app", "code of its own")
    return {
        "study": str(result.path),
        "state": phases[result.phase],
        "method": f"{result.definition['sampler']} with {result.definition['engine']} on {app}",
        "objective": str(result.objective),
        "trials": f"{count[State.DONE] + count[State.STOPPED]} done, {waiting}"
        f"{count[State.FAILED]} failed, of {result.definition['trials']}",
        "steps": len(tables.reports),
        "reused": f"{result.used.reused:,} of these" if result.used.reused else None,
        "time": clock(numbers.elapsed),
        "left": clock(numbers.left) if math.isfinite(numbers.left) else None,
        "ranks": f"{len(numbers.running)} of {len(numbers.trainers)} busy" if numbers.trainers else None,
        "utilisation": f"{numbers.costs.utilisation:.0%}" if math.isfinite(numbers.costs.utilisation) else None,
        "best": None if found is None else f"{found.value:.6g} (trial {found.trial}, step {found.step})",
        "failures": [
            f"trial {f['trial']}, rank {f['rank']}: {f['traceback'].strip().rpartition(chr(10))[2]}" for f in result.failures
        ],
    }


def _text(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, list):
        shown = [escape(str(item)) for item in value[:5]]
        return "\n".join([*shown, *([f"… and {len(value) - 5} more"] if len(value) > 5 else [])])
    return escape(str(value))


def as_dict(result: Result, trials: list[Best]) -> dict[str, Any]:
    """The best trials in plain JSON."""
    return {
        "study": str(result.path),
        "objective": str(result.objective),
        "finished": result.finished,
        "trials": len(result.configs) // result.replicates,
        "replicates": result.replicates,
        "failed": len(result.failures),
        "best": [
            {
                "trial": found.trial,
                "value": found.value if math.isfinite(found.value) else None,
                "step": found.step,
                "feasible": found.feasible,
                "config": found.config,
                "metrics": {name: value for name, value in result.metrics_of(found).items() if math.isfinite(value)},
                **({} if math.isnan(found.error) else {"standard_error": found.error}),
            }
            for found in trials
        ],
    }


def show_best(result: Result, top: int) -> None:
    """Print the best trials: one as a list, several as a table."""
    from rich.markup import escape
    from rich.table import Table

    out = console()
    found = result.top(top)
    failures = result.failures
    if not found:
        out.print(f"no trial of {len(result.configs)} has a result; {len(failures)} failed.")
        if failures:
            out.print(f"The first, trial {failures[0]['trial']} on rank {failures[0]['rank']}:\n")
            out.print(failures[0]["traceback"].rstrip(), markup=False)
        return
    if top == 1:
        _show_one(out, result, found[0])
    else:
        title = "trial" if result.replicates == 1 else "configuration"
        names = list(dict.fromkeys(name for one in found for name in one.config))
        table = Table(title, escape(str(result.objective.metric)), "step", *map(escape, names))
        for one in found:
            table.add_row(
                str(one.trial),
                f"{one.value:.6g}",
                str(one.step),
                *(escape(readable(one.config.get(name, ""))) for name in names),
            )
        out.print(table)
    if failures:
        out.print(f"{len(failures)} trials failed; `openhpo status {result.path}` lists them")


def show_rounds(result: Result) -> None:
    """Print the boundaries of each round of a refinement; nothing of other studies."""
    from rich.table import Table

    begun = [remark for remark in result.remarks if "boundaries" in remark]
    ended = {remark["round"]: remark for remark in result.remarks if "kept" in remark}
    if not begun:
        return
    table = Table("round", "trials", "met", "kept", "clusters", "improved", *begun[0]["boundaries"])
    for remark in begun:
        end = ended.get(remark["round"])
        facts = ["", "", "", "", ""]
        if end is not None:
            sizes = [f"[bold]{each['size']}[/]" if each["chosen"] else str(each["size"]) for each in end["clusters"]]
            facts = [str(end["trials"]), str(end["met"]), str(end["kept"]), " ".join(sizes), "yes" if end["improved"] else "no"]
        ranges = [f"{readable(low)} … {readable(high)}" for low, high in remark["boundaries"].values()]
        table.add_row(str(remark["round"]), *facts, *ranges)
    console().print(table)


def show_reused(result: Result) -> None:
    """Print how many steps were taken over; nothing where there are none."""
    used = result.used
    if used.reused:
        console().print(f"  {used.trained:,} steps were trained, and {used.reused:,} taken over", highlight=False)


def _show_one(out: Any, result: Result, found: Best) -> None:
    from rich.markup import escape
    from rich.table import Table

    goal = escape(str(result.objective))
    so_far = "" if result.finished else " so far"
    count, times = len(result.configs), result.replicates
    of = f"{count} trials{so_far}[/]: trial"
    if times > 1:
        of = f"{count // times} configurations, each trained {times} times{so_far}[/]: configuration"
    out.print(f"\n[bold]best of {of} {found.trial} at step {found.step}, {goal}")
    if not found.feasible:
        out.print("[yellow]no trial meets the requirements; this one comes closest")
    table = Table.grid(padding=(0, 2))
    for name, value in found.config.items():
        table.add_row(f"  {name}", escape(readable(value)))
    out.print(table)
    metrics = result.metrics_of(found)
    if times > 1:
        out.print(f"  {found.value:.6g} ± {found.error:.2g} (mean of its replicates and standard error)", highlight=False)
    out.print("  " + ", ".join(f"{name} {value:.6g}" for name, value in metrics.items()), style="bold green")
    out.print(f"study: {result.path} (openhpo best {result.path} --top 5 shows more)", markup=False, soft_wrap=True)
