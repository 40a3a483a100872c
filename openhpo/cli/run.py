"""`openhpo run METHOD APP`: one command a method."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from openhpo.cli.inspect import as_dict, show_best, show_reused, show_rounds
from openhpo.cli.options import Options, joined, pairs, seconds_of, size_of, value_of
from openhpo.cli.together import file, gathers
from openhpo.errors import UserError, meant

if TYPE_CHECKING:
    from openhpo.allocation import Ranks
    from openhpo.cli.apps import App
    from openhpo.engines import Engine
    from openhpo.objective import Objective
    from openhpo.plan import Plan
    from openhpo.result import Result
    from openhpo.samplers import Sampler

run_app = typer.Typer(
    help="Search: openhpo run METHOD APP. Several studies in one job: openhpo run METHOD APP ... + METHOD ...",
    no_args_is_help=True,
)
run_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(file)


class Method(NamedTuple):
    """What a method's own options come to.

    Attributes:
        sampler: What to try.
        engine: Makes the engine from the number of steps of a trial; every trial trains to the end where absent.
        trials: How many there are where the user does not say.
    """

    sampler: Sampler
    engine: Callable[[int], Engine] | None = None
    trials: int | None = None


METHODS: dict[str, Callable[..., Method]] = {}  # by name: a function of the method's own options


def method(make: Callable[..., Method]) -> Callable[..., Method]:
    """Offer a method as a command of `openhpo run`, with the common options beside its own."""
    METHODS[make.__name__] = make
    run_app.command()(joined(Options, make, lambda options, own: _run(make.__name__, options, make(**own))))
    return make


@method
def grid(
    axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES",
            help="Values (lr=0.1,0.01) or how many to spread over the range (lr=5). One value: width=64, with a comma. "
            "Categorical and integer hyperparameters without it take all their values.",
        ),
    ] = None,
) -> Method:
    """Try every combination of values."""
    from openhpo.samplers import Grid

    return Method(Grid(axes_of(axis)))


@method
def random() -> Method:
    """Draw configurations at random, each independent of the others."""
    from openhpo.samplers import Random

    return Method(Random())


@method
def sobol() -> Method:
    """Fill the space evenly with a quasi-random sequence; best with 16, 32, 64, ... trials."""
    from openhpo.samplers import Sobol

    return Method(Sobol())


SamplerOption = Annotated[
    str,
    typer.Option(metavar="NAME", help="What to try: random, sobol, grid, tpe, gp, or one of Optuna's, as optuna:CmaEsSampler."),
]
AxisOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUES", help="With --sampler grid: values (lr=0.1,0.01), or how many (lr=5).")
]
WaitOption = Annotated[
    bool, typer.Option(help="Have idle ranks wait for a slow sampler (gp, optuna), or train a quasi-random point meanwhile.")
]
MinStepsOption = Annotated[int, typer.Option(help="Steps of the first rung (r).")]
FactorOption = Annotated[int, typer.Option(help="One trial in so many goes on to the next rung (eta).")]
SelectOption = Annotated[
    bool,
    typer.Option(
        "--select-brackets/--sweep-brackets",
        help="Choose each bracket by how well its first steps have told the order of later ones, or sweep over all of them.",
    ),
]


@method
def bayes(
    sampler: SamplerOption = "tpe",
    axis: AxisOption = None,
    wait: WaitOption = True,
) -> Method:
    """Bayesian search: learn from the trials so far what good ones have in common. Every trial trains to the end."""
    return Method(sampler_of(sampler, axis, wait=wait))


@method
def refine(
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What to try within boundaries.", show_default="gp where BoTorch is installed, else tpe"
        ),
    ] = None,
    round_trials: Annotated[int, typer.Option(help="Trials of a round.")] = 40,
    rounds: Annotated[int, typer.Option(help="At most so many rounds.")] = 10,
    coefficient: Annotated[
        float, typer.Option(help="How close to a boundary is too close, and how near it moves, in parts of the range.")
    ] = 0.1,
    keep: Annotated[float, typer.Option(help="The part of the trials that meet the requirements which is looked at.")] = 0.75,
    cluster_size: Annotated[int, typer.Option(help="The fewest trials of a cluster.")] = 10,
    patience: Annotated[int, typer.Option(help="End after so many rounds in a row that have not improved.")] = 1,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LOW,HIGH", help="Where no boundary of a hyperparameter moves beyond, such as momentum=0,0.99."
        ),
    ] = None,
) -> Method:
    """Bayesian search round by round, each within boundaries moved to where the last one's best trials lie."""
    from openhpo.samplers import Refinement

    return Method(
        Refinement(
            None if sampler is None else sampler_of(sampler),
            round_trials,
            rounds,
            coefficient=coefficient,
            keep=keep,
            cluster_size=cluster_size,
            patience=patience,
            limits={name: _limits(name, text) for name, text in pairs(limit, "--limit").items()},
        ),
        trials=round_trials * rounds,
    )


@method
def halving(
    sampler: SamplerOption = "random",
    axis: AxisOption = None,
    wait: WaitOption = True,
    min_steps: MinStepsOption = 1,
    reduction_factor: FactorOption = 3,
) -> Method:
    """Successive halving: train all a little, the best third further, and so on. Waits for each rung."""
    from openhpo.engines import SuccessiveHalving

    return Method(sampler_of(sampler, axis, wait=wait), lambda steps: SuccessiveHalving(steps, min_steps, reduction_factor))


@method
def asha(
    sampler: SamplerOption = "random",
    axis: AxisOption = None,
    wait: WaitOption = True,
    min_steps: MinStepsOption = 1,
    reduction_factor: FactorOption = 3,
    early_stopping_rate: Annotated[int, typer.Option(help="Leave out so many of the lowest rungs (s).")] = 0,
    stopping: Annotated[bool, typer.Option(help="Stop trials at rungs instead of pausing and promoting them.")] = False,
    double_ranks: Annotated[
        bool, typer.Option("--double-ranks", help="Train a trial on twice as many ranks from each rung on (RASDA).")
    ] = False,
) -> Method:
    """Asynchronous successive halving: promote the best third of each rung as soon as it is known. Nobody waits."""
    from openhpo.engines import ASHA

    return Method(
        sampler_of(sampler, axis, wait=wait),
        lambda steps: ASHA(
            steps, min_steps, reduction_factor, early_stopping_rate, stopping=stopping, double_ranks=double_ranks
        ),
    )


@method
def hyperband(
    sampler: SamplerOption = "random",
    axis: AxisOption = None,
    wait: WaitOption = True,
    min_steps: MinStepsOption = 1,
    reduction_factor: FactorOption = 3,
    select_brackets: SelectOption = False,
) -> Method:
    """Hyperband: successive halving with several compromises between many short and few long trials."""
    from openhpo.engines import Hyperband

    return Method(
        sampler_of(sampler, axis, wait=wait),
        lambda steps: Hyperband(steps, min_steps, reduction_factor, select_brackets=select_brackets),
    )


@method
def bohb(
    sampler: SamplerOption = "tpe",
    axis: AxisOption = None,
    wait: WaitOption = True,
    min_steps: MinStepsOption = 1,
    reduction_factor: FactorOption = 3,
    select_brackets: SelectOption = True,
    random_fraction: Annotated[float, typer.Option(help="The part of the trials that is tried blindly all the same.")] = 1 / 3,
) -> Method:
    """Hyperband whose trials are drawn by what the earlier ones showed."""
    from openhpo.engines import Hyperband

    return Method(
        sampler_of(sampler, axis, random_fraction, wait=wait),
        lambda steps: Hyperband(steps, min_steps, reduction_factor, select_brackets=select_brackets),
    )


@method
def matching(
    sampler: SamplerOption = "random",
    axis: AxisOption = None,
    wait: WaitOption = True,
    checkpoint: Annotated[
        list[int] | None,
        typer.Option(help="A step at which a trial may be stopped.", show_default="a quarter and half of --steps"),
    ] = None,
    accumulation: Annotated[int, typer.Option(help="Trials that train in full first.")] = 8,
    threshold: Annotated[
        float, typer.Option(help="Stop where the predicted end ranks below this part of the recorded ones.")
    ] = 0.5,
) -> Method:
    """Learning curve matching: stop trials that look like recorded ones that ended badly."""
    from openhpo.engines import LearningCurveMatching

    return Method(
        sampler_of(sampler, axis, wait=wait),
        lambda steps: LearningCurveMatching(steps, checkpoint, accumulation=accumulation, threshold=threshold),
    )


@method
def median(
    sampler: SamplerOption = "random",
    axis: AxisOption = None,
    wait: WaitOption = True,
    grace: Annotated[int, typer.Option(help="The first step at which a trial may be stopped.")] = 1,
    interval: Annotated[int, typer.Option(help="Steps between two looks.")] = 1,
    startup: Annotated[int, typer.Option(help="Trials that have to be complete before any is stopped.")] = 5,
) -> Method:
    """Median stopping: stop trials that are worse than the completed ones were on average by then."""
    from openhpo.engines import MedianStopping

    return Method(sampler_of(sampler, axis, wait=wait), lambda steps: MedianStopping(steps, grace, interval, startup))


@method
def pbt(
    sampler: SamplerOption = "random",
    axis: AxisOption = None,
    wait: WaitOption = True,
    interval: Annotated[int, typer.Option(help="Steps between two decisions of a member.")] = 1,
    quantile: Annotated[
        float, typer.Option(help="The part of the population that is replaced, and that donors come from.")
    ] = 0.25,
    factor: Annotated[
        list[float] | None, typer.Option(help="What a perturbed number is multiplied by.", show_default="0.8 and 1.2")
    ] = None,
    resample: Annotated[float, typer.Option(help="How likely a hyperparameter is drawn anew instead.")] = 0.25,
    mutate: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A hyperparameter that may change in training.", show_default="every Float"),
    ] = None,
) -> Method:
    """Population based training: --trials members train side by side; the worst copy the best, with changed hyperparameters."""
    from openhpo.engines import PopulationBased

    return Method(
        sampler_of(sampler, axis, wait=wait),
        lambda steps: PopulationBased(steps, interval, quantile, factor or (0.8, 1.2), resample, mutate),
    )


def sampler_of(name: str, axis: list[str] | None = None, random_fraction: float = 0.0, *, wait: bool = True) -> Sampler:
    """The sampler of that name.

    Args:
        name: As it is said on the command line.
        axis: The axes, of a grid alone.
        random_fraction: What a sampler that learns leaves to chance.
        wait: Whether idle trainers wait for a slow one.

    Raises:
        UserError: There is none.
    """
    from openhpo.samplers import TPE, GaussianProcess, Grid, Optuna, Random, Sobol

    if axis and name != "grid":
        raise UserError(f"--axis goes with --sampler grid, not with {name}")
    makers: dict[str, Callable[[], Sampler]] = {
        "random": Random,
        "sobol": Sobol,
        "grid": lambda: Grid(axes_of(axis)),
        "tpe": lambda: TPE(random_fraction=random_fraction),
        "gp": lambda: GaussianProcess(random_fraction=random_fraction, wait=wait),
        "optuna": lambda: Optuna(wait=wait),
    }
    kind, _, rest = name.partition(":")
    if kind == "optuna" and rest:
        chosen, *given = rest.split(",")
        return Optuna(chosen, wait=wait, **{key: value_of(text) for key, text in pairs(given, "--sampler").items()})
    if name not in makers:
        raise UserError(f"there is no sampler {name!r}; there are {', '.join(makers)}.{meant(name, makers)}")
    return makers[name]()


def ranks_of(text: str) -> Ranks:
    """The ranks of a trial as --ranks-per-trial has them."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--ranks-per-trial is a whole number above 0, or auto, not {text!r}")
    return int(text)


def _limits(name: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--limit {name}={text}: write it as {name}=LOW,HIGH") from None
    return low, high


def axes_of(texts: list[str] | None) -> dict[str, Any]:
    """The axes of a grid from NAME=COUNT or NAME=VALUE,VALUE texts."""
    return {name: _axis(text) for name, text in pairs(texts, "--axis").items()}


def _axis(text: str) -> Any:
    if "," not in text:
        count = value_of(text)
        if isinstance(count, int) and not isinstance(count, bool):
            return count
    return [value_of(part.strip()) for part in text.split(",") if part.strip()]


def search(method: str, options: Options, sampler: Sampler, engine: Callable[[int], Engine] | None = None) -> Result:
    """Run a study as the command line describes it, on every rank; the name of the method names the folder.

    Args:
        method: Names the study's folder.
        options: The common options.
        sampler: What to try.
        engine: Makes the engine from the number of steps of a trial; every trial trains to the end where absent.
    """
    from openhpo.launch import run

    app = loaded(options)
    plan = plan_of(options, app, Method(sampler, engine))
    return run(
        app.train,
        plan.space,
        plan.objective,
        engine=plan.engine,
        sampler=sampler,
        trials=options.trials,
        replicates=plan.replicates,
        prior=plan.prior,
        warm_start=plan.warm_start,
        study=Path(options.study or f"runs/{app.name}-{method}"),
        **job_of(options, app),
    )


def loaded(options: Options) -> App:
    """The app, on the ranks that the options ask for."""
    from openhpo.launcher import relaunch

    relaunch(options.ranks)

    from openhpo.place import find_place, share_threads

    share_threads(find_place().threads)  # before the app imports torch

    from openhpo.cli.apps import load_app

    return load_app(options.app)


def plan_of(options: Options, app: App, chosen: Method) -> Plan:
    """What a study is to be, by its options.

    Raises:
        UserError: Something is missing, or makes no sense.
    """
    from openhpo.engines import Full
    from openhpo.plan import Plan

    steps = options.steps if options.steps is not None else app.max_steps
    if steps is None:
        raise UserError(f"say how many steps a trial trains for: --steps 20, or max_steps = 20 in {options.app}")
    return Plan(
        space=app.space.fix({name: value_of(text) for name, text in pairs(options.set, "--set").items()}),
        objective=objective_of(
            app.objective,
            f", or `objective` in {options.app}",
            options.maximize,
            options.minimize,
            options.require,
            options.derive,
        ),
        engine=(chosen.engine or Full)(steps),
        sampler=chosen.sampler,
        trials=chosen.trials if options.trials is None else options.trials,
        replicates=options.replicates,
        prior=[
            {name: value_of(value) for name, value in pairs(text.split(","), "--prior").items()} for text in options.prior or []
        ],
        warm_start=options.warm_start,
    )


def job_of(options: Options, app: App) -> dict[str, Any]:
    """What the studies of a job have in common, as arguments of `run`."""
    return {
        "seed": options.seed,
        "device": options.device,
        "share_devices": options.share_devices,
        "precision": options.precision,
        "state_dtype": options.state_dtype,
        "state_memory": size_of(options.state_memory, "--state-memory"),
        "merge": options.merge,
        "ranks_per_trial": app.ranks_per_trial if options.ranks_per_trial is None else ranks_of(options.ranks_per_trial),
        "dedicated_coordinator": options.dedicated_coordinator,
        "time_limit": seconds_of(options.time_limit, "--time-limit"),
        "retries": options.retries,
        "step_timeout": seconds_of(options.step_timeout, "--step-timeout"),
        "checkpoint_every": seconds_of(options.checkpoint_every, "--checkpoint-every") or 600.0,
        "lease": seconds_of(options.lease, "--lease") or 60.0,
        "progress": options.progress,
        "app": app.name,
        "data": app.data,
        "warm_tree": options.warm_tree or (),
    }


def _run(name: str, options: Options, chosen: Method) -> None:
    """Search, and let rank 0 say what was found."""
    from openhpo.actors import launched_rank

    if gathers(name, options, chosen):
        return
    if options.name is not None:
        raise UserError(
            "--name is for one of several studies of a job, with a + between two of them; --study says where one goes"
        )
    if options.trials is None and chosen.trials is not None:
        options = replace(options, trials=chosen.trials)
    result = search(name, options, chosen.sampler, chosen.engine)
    if launched_rank() != 0:
        return
    if options.json:
        print(json.dumps(as_dict(result, result.top(1)), indent=2))
    else:
        show_rounds(result)
        show_best(result, 1)
        show_reused(result)
    if result.best is None and result.finished:
        raise typer.Exit(1)


def objective_of(
    known: Objective | None,
    where: str,
    maximize: str | None,
    minimize: str | None,
    require: list[str] | None,
    derive: list[str] | None,
) -> Objective:
    """What to optimise.

    Args:
        known: What the app or the study says of it.
        where: Where else it could be said.
        maximize: The option of that name, which wins; so with those that follow.
        minimize: The same.
        require: What is required besides.
        derive: Metrics that are computed besides.

    Raises:
        UserError: Nobody says, or both directions are asked for.
    """
    from openhpo.objective import Maximize, Minimize

    if maximize and minimize:
        raise UserError("give --maximize or --minimize, not both")
    required, derived = require or [], pairs(derive, "--derive")
    if maximize:
        return Maximize(maximize, required, derived)
    if minimize:
        return Minimize(minimize, required, derived)
    if known is None:
        raise UserError(f"say what to optimise: --maximize METRIC or --minimize METRIC{where}")
    return type(known)(known.metric, [*known.require, *required], {**known.derived, **derived})
