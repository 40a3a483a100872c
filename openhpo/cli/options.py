"""The options that all methods of `openhpo run` have in common."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer

from openhpo.errors import UserError

TrialsOption = Annotated[int | None, typer.Option(help="How many configurations to train.", show_default="all of a grid")]
MaximizeOption = Annotated[str | None, typer.Option(metavar="METRIC", help="The metric to make large.")]
MinimizeOption = Annotated[str | None, typer.Option(metavar="METRIC", help="The metric to make small.")]
RequireOption = Annotated[
    list[str] | None, typer.Option(metavar="EXPR", help="What a good trial satisfies, such as 'val_accuracy >= 0.9'.")
]
DeriveOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=EXPR", help="A metric computed from others, such as 'gap=val_loss - train_loss'."),
]
DeviceOption = Annotated[str, typer.Option(help="The kind of device to train on: auto, hpu, cuda, xpu, mps or cpu.")]
PrecisionOption = Annotated[
    str, typer.Option(help="Arithmetic of trial.autocast() and trial.backward(): fp32, tf32, bf16 or fp16.")
]
AgainPrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="Arithmetic: fp32, tf32, bf16 or fp16.", show_default="the study's")
]
ShareOption = Annotated[bool, typer.Option("--share-devices", help="Let several ranks of a node train on one accelerator.")]
SeedOption = Annotated[int, typer.Option(help="Decides everything random.")]


@dataclass(frozen=True)
class Options:
    """What every method takes."""

    app: Annotated[
        str, typer.Argument(metavar="APP", help="Your training code: a .py file or a module with `train` and `space`.")
    ]
    trials: TrialsOption = None
    steps: Annotated[
        int | None, typer.Option(help="Steps a trial trains for; a step is one `yield`.", show_default="max_steps of APP")
    ] = None
    maximize: MaximizeOption = None
    minimize: MinimizeOption = None
    require: RequireOption = None
    derive: DeriveOption = None
    set: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Fix a hyperparameter.")] = None
    study: Annotated[str | None, typer.Option(metavar="DIR", help="The study's folder.", show_default="runs/APP-METHOD")] = None
    seed: SeedOption = 0
    ranks: Annotated[
        int | None, typer.Option(help="Start under mpiexec with so many ranks, unless started by mpirun or srun already.")
    ] = None
    device: DeviceOption = "auto"
    share_devices: ShareOption = False
    precision: PrecisionOption = "fp32"
    state_dtype: Annotated[
        str | None,
        typer.Option(
            metavar="bf16|fp16",
            help="Keep and send fp32 tensors of states in 16 bits; going on is then not exact.",
            show_default="fp32",
        ),
    ] = None
    state_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Host memory of a rank for the states of paused trials, such as 4G; the rest goes to checkpoint files.",
            show_default="a quarter of the node, divided among its ranks",
        ),
    ] = None
    merge: Annotated[bool, typer.Option(help="Train what trials have in common once.")] = True
    replicates: Annotated[
        int, typer.Option(min=1, help="Train each configuration so often, each time with another seed, and compare the means.")
    ] = 1
    ranks_per_trial: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Train each trial on N ranks together (trial.parallel); auto goes by the memory that stages took.",
            show_default="ranks_per_trial of APP, or 1",
        ),
    ] = None
    prior: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE,...", help="A configuration to try first, such as lr=0.1,width=64; may be repeated."),
    ] = None
    warm_start: Annotated[
        str | None, typer.Option(metavar="DIR", help="An earlier study of the same or an overlapping space to learn from.")
    ] = None
    warm_tree: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", help="An earlier study of the same app, data and seed: what it has trained is not trained again."
        ),
    ] = None
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What to call one of several studies of a job.", show_default="its method"),
    ] = None
    dedicated_coordinator: Annotated[bool, typer.Option("--dedicated-coordinator", help="Keep rank 0 free of training.")] = (
        False
    )
    time_limit: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stop in order after that time, such as 5h50m, to be continued by the same command."),
    ] = None
    retries: Annotated[int, typer.Option(min=0, help="Try a trial again so often that raised, ran out of memory or hung.")] = 0
    step_timeout: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long a step may take, such as 10m, the set-up before the first included."),
    ] = None
    checkpoint_every: Annotated[
        str, typer.Option(metavar="TIME", help="Write a state to its checkpoint after so much training: a kill costs no more.")
    ] = "10m"
    lease: Annotated[
        str, typer.Option(metavar="TIME", help="Give up a rank that is not heard of for so long, and do its work elsewhere.")
    ] = "60s"
    progress: Annotated[bool, typer.Option(help="Show how it is getting on.")] = True
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `command(options, **own)` the common options beside its own."""
    return joined(Options, command, lambda options, own: command(options, **own), skip=1)


def joined(
    kind: type[Any], own: Callable[..., Any], carry_out: Callable[[Any, dict[str, Any]], None], *, skip: int = 0
) -> Callable[..., None]:
    """A command with the fields of a class of options beside the parameters of a function, as Typer reads signatures.

    Args:
        kind: The class; its first field comes first.
        own: The function, whose name and docstring the command has, too.
        carry_out: What the command does with an object of that class and the values of the function's parameters.
        skip: How many of the function's parameters are none of the command's.
    """
    hints = get_type_hints(kind, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]
    own_hints = get_type_hints(own, include_extras=True)
    others = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=own_hints[parameter.name])
        for parameter in list(inspect.signature(own).parameters.values())[skip:]
    ]

    def wrapper(**values: Any) -> None:
        options = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        carry_out(options, values)

    wrapper.__name__ = own.__name__
    wrapper.__doc__ = own.__doc__
    parameters = [shared[0], *others, *shared[1:]]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """Split NAME=REST.

    Raises:
        UserError: There is no =, or a name twice.
    """
    found: dict[str, str] = {}
    for text in texts or []:
        name, equals, rest = text.partition("=")
        if not equals or not name or not rest:
            raise UserError(f"{option} {text!r}: write it as NAME=VALUE")
        if name in found:
            raise UserError(f"{option} names {name!r} twice")
        found[name.strip()] = rest.strip()
    return found


def size_of(text: str | None, option: str) -> int | None:
    """Bytes from 4G, 512M, 100K or a plain number.

    Raises:
        UserError: It is none of these.
    """
    if text is None:
        return None
    number, unit = text.strip().upper().removesuffix("IB").removesuffix("B"), 1
    if number and number[-1] in "KMGT":
        number, unit = number[:-1], 1024 ** ("KMGT".index(number[-1]) + 1)
    try:
        size = float(number) * unit
    except ValueError:
        size = -1.0
    if not 0 <= size < 1 << 60:
        raise UserError(f"{option} {text!r} is no size such as 4G or 512M")
    return int(size)


_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}


def seconds_of(text: str | None, option: str) -> float | None:
    """Seconds from 5h50m, 90s, 1d, 02:30:00 or a plain number.

    Raises:
        UserError: It is none of these, or not above 0.
    """
    if text is None:
        return None
    text, seconds = text.strip().lower(), -1.0
    clock = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if clock:
        days, hours, minutes, rest = (int(part or 0) for part in clock.groups())
        seconds = float(((days * 24 + hours) * 60 + minutes) * 60 + rest)
    elif re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif re.fullmatch(r"(\d+(\.\d+)?(d|h|ms|m|s))+", text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(d|h|ms|m|s)", text))
    if not seconds > 0:
        raise UserError(f"{option} {text!r} is no time such as 5h50m, 90s or 01:30:00")
    return seconds


def value_of(text: str) -> Any:
    """A number or truth value where the text is one, else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float | str) else text
