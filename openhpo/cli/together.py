"""Several studies in one job: `openhpo run METHOD APP ... + METHOD ...`, and `openhpo run file STUDIES.toml`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openhpo.cli.console import console
from openhpo.cli.inspect import as_dict
from openhpo.errors import UserError, meant

if TYPE_CHECKING:
    from openhpo.cli.options import Options
    from openhpo.result import Result

SEPARATOR = "+"
OWN = frozenset(  # what each study says for itself
    ["app", "trials", "steps", "maximize", "minimize", "require", "derive", "set", "replicates", "prior", "warm_start", "name"]
)
OF_FILE = ("app", "studies")  # what is no option


@dataclass(frozen=True)
class Block:
    """One study of the command.

    Attributes:
        method: Its method.
        options: The common options as they are given in it.
        chosen: What the method's own options come to.
    """

    method: str
    options: Options
    chosen: Any


_gathered: ContextVar[list[Block] | None] = ContextVar("gathered", default=None)


def gathers(method: str, options: Options, chosen: Any) -> bool:
    """Whether this study is one of several, which are run when all of them are known."""
    blocks = _gathered.get()
    if blocks is not None:
        blocks.append(Block(method, options, chosen))
    return blocks is not None


def run_blocks(arguments: Sequence[str], parse: Callable[[list[str]], object]) -> object:
    """Run the studies of a command line.

    Args:
        arguments: What follows `openhpo run`, with a + between two studies.
        parse: Reads the arguments of one `openhpo run`; what it would run is gathered.

    Raises:
        UserError: They do not go together.
    """
    blocks: list[Block] = []
    token = _gathered.set(blocks)
    try:
        for part in split(arguments):
            count = len(blocks)
            status = parse([*part[:1], blocks[0].options.app, *part[1:]] if blocks else part)
            if len(blocks) == count:  # it asked for help
                return status
    finally:
        _gathered.reset(token)
    _run(blocks)
    return None


def split(arguments: Sequence[str]) -> list[list[str]]:
    """The arguments of each study.

    Raises:
        UserError: There is nothing between two +.
    """
    parts: list[list[str]] = [[]]
    for word in arguments:
        if word == SEPARATOR:
            parts.append([])
        else:
            parts[-1].append(word)
    if not all(parts):
        raise UserError(f"write several studies as METHOD APP ... {SEPARATOR} METHOD ..., each with its method")
    return parts


def of_job(option: str) -> bool:
    """Whether all studies of a job have this option in common."""
    from openhpo.cli.options import Options

    name = option.removeprefix("--").partition("=")[0].replace("-", "_")
    common = {field.name for field in fields(Options)} - OWN
    return name in common or name.removeprefix("no_") in common


def names_of(blocks: Sequence[Block]) -> list[str]:
    """What the studies are called: by --name, or by their methods, with a number where one comes again.

    Raises:
        UserError: Two have the same name.
    """
    names: list[str] = []
    for block in blocks:
        name, number = block.options.name or block.method, 1
        while block.options.name is None and name in names:
            number += 1
            name = f"{block.method}-{number}"
        if name in names:
            raise UserError(f"two studies are called {name!r}: give one of them another --name")
        names.append(name)
    return names


def _check_common(blocks: Sequence[Block], names: Sequence[str]) -> None:
    """Make sure that what all have in common is said once."""
    for block, name in zip(blocks[1:], names[1:], strict=True):
        for field in fields(block.options):
            if field.name not in OWN and getattr(block.options, field.name) != field.default:
                no = "no-" if getattr(block.options, field.name) is False else ""
                option = f"--{no}{field.name.replace('_', '-')}"
                raise UserError(
                    f"{option} is the same for all studies of a job, which share one tree: say it before the first +, not for "
                    f"{name}"
                )
    if not blocks[0].options.merge:
        raise UserError("several studies of a job share one tree of stages: leave out --no-merge, or run them one by one")


def _run(blocks: list[Block]) -> None:
    from openhpo.actors import launched_rank
    from openhpo.cli.run import job_of, loaded, plan_of
    from openhpo.launch import check_names, run_together

    first, names = blocks[0].options, names_of(blocks)
    check_names(names)
    _check_common(blocks, names)
    app = loaded(first)
    plans = {name: plan_of(block.options, app, block.chosen) for name, block in zip(names, blocks, strict=True)}
    folder = Path(first.study or f"runs/{app.name}-together")
    options = job_of(first, app)
    del options["merge"]
    results = run_together(app.train, plans, study=folder, **options)
    if launched_rank() != 0:
        return
    if first.json:
        print(json.dumps([as_dict(result, result.top(1)) for result in results.values()], indent=2))
    else:
        show_together(results)
    if all(result.best is None and result.finished for result in results.values()):
        raise typer.Exit(1)


def show_together(results: Mapping[str, Result]) -> None:
    """Print a line a study: its best trial, and what was trained for it and for others."""
    from rich.markup import escape
    from rich.table import Table

    out = console()
    table = Table("study", "method", "trials", "best", "at step", "steps", "reused")
    for name, result in results.items():
        best, used = result.best, result.used
        table.add_row(
            escape(name),
            f"{result.definition['sampler']} with {result.definition['engine']}",
            str(len(result.configs) // result.replicates),
            *(("none", "") if best is None else (f"{best.value:.6g}", str(best.step))),
            f"{used.steps:,}",
            f"{used.reused:,}",
        )
    out.print(table)
    for name, result in results.items():
        if result.best is not None:
            out.print(f"{name}: {short(result.best.config)}", markup=False, soft_wrap=True)
    for result in results.values():
        if result.failures:
            out.print(
                f"{result.path}: {len(result.failures)} trials failed; `openhpo status {result.path}` lists them", markup=False
            )
    trained = sum(result.used.trained for result in results.values())
    total = sum(result.used.steps for result in results.values())
    out.print(f"{trained:,} steps were trained; the studies by themselves, sharing nothing, have {total:,}", highlight=False)
    one = next(iter(results.values())).path
    out.print(f"studies: {one.parent} (openhpo best {one} --top 5 shows more)", markup=False, soft_wrap=True)


def short(config: Mapping[str, Any]) -> str:
    """A configuration in a line."""
    return ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in config.items())


# ---- from a file


def file(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="STUDIES.toml", help="What the studies have in common, and a table for each.")],
) -> None:
    """Run the studies of a TOML file in one job. Options that follow are added to what all have in common.

    The file has app = "my_app.py", further options as `openhpo run METHOD --help` names them (min-steps = 10,
    set = {decay = 0.0}), and a table [studies.NAME] with method = "asha" for each study.
    """
    from openhpo.cli.run import run_app

    if _gathered.get() is not None:
        raise UserError("a file of studies is a job of its own: write its studies beside the others, or the others into it")
    words = words_of(Path(path), context.args)
    command = typer.main.get_command(run_app)
    return run_blocks(words, lambda part: command.main(part, prog_name="openhpo run", standalone_mode=False))  # type: ignore[return-value]


def words_of(path: Path, more: Sequence[str] = ()) -> list[str]:
    """The command line that a TOML file stands for.

    Args:
        path: The file.
        more: Options to add to what the studies have in common.

    Raises:
        UserError: It cannot be read, or lacks something.
    """
    import tomllib

    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is no TOML: {error}") from None
    studies = content.get("studies")
    if not isinstance(content.get("app"), str) or not isinstance(studies, dict) or not studies:
        raise UserError(
            f'{path} needs app = "my_app.py", and for each study a table such as [studies.asha] with method = "asha"'
        )
    for word in more:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in OWN:
            raise UserError(f"--{name.replace('_', '-')} is each study's own, so say it in {path}, for all or for one of them")
    given = {name: value for name, value in content.items() if name not in OF_FILE}
    common: list[str] = []
    of_each: list[str] = []
    for name, value in given.items():
        (of_each if name.replace("-", "_") in OWN else common).extend(_option(path, name, value))
    app = content["app"] if not content["app"].endswith(".py") else str(path.parent / content["app"])
    words: list[str] = []
    for name, study in studies.items():
        if not isinstance(study, dict) or not isinstance(study.get("method"), str):
            near = meant("method", study) if isinstance(study, dict) else ""
            raise UserError(f'{path}: the study {name!r} does not say its method, such as method = "asha".{near}')
        own = [word for key, value in study.items() if key != "method" for word in _option(path, key, value)]
        start = [SEPARATOR, study["method"]] if words else [study["method"], app, *common, *more]
        words += [*start, "--name", name, *of_each, *own]
    return words


def _option(path: Path, name: str, value: Any) -> Iterator[str]:
    """One option as words: true and false as flags, lists as several, tables as NAME=VALUE."""
    option = "--" + name.replace("_", "-")
    if value is True:
        yield option
    elif value is False:
        yield f"--no-{option[2:]}"
    elif isinstance(value, dict) and name == "prior":  # a configuration, and not an option for each hyperparameter
        yield from _option(path, name, [value])
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (option, f"{key}={_text(path, inner)}")
    elif isinstance(value, list):
        for inner in value:
            yield from (
                option,
                _text(path, inner)
                if not isinstance(inner, dict)
                else ",".join(f"{k}={_text(path, v)}" for k, v in inner.items()),
            )
    else:
        yield from (option, _text(path, value))


def _text(path: Path, value: Any) -> str:
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return ",".join(_text(path, each) for each in value) + ("," if len(value) == 1 else "")
    if isinstance(value, str | int | float):
        return str(value)
    raise UserError(f"{path}: {value!r} is no value of an option")
