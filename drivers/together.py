"""Studies over overlapping grids: in one job over one tree of stages, one after the other, and each by itself.

"Stage-based Hyper-parameter Optimization for Deep Learning" (Shin, Shin, Cho, Kim, Jeong, Yu and Chun 2019) lets studies of the
same model and data share a tree and its results. Here two grids of learning-rate schedules as in their Table 1(a), with the
initial rates 0.5 and 0.2, and 0.2 and 0.1, and a search by ASHA among the same schedules, are trained on handwritten digits:
`--unit` epochs for every 20 of theirs.

For example:

    python drivers/together.py --ranks 2
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy
import typer

from openhpo.actors import launched_rank
from openhpo.cli.apps import load_app
from openhpo.cli.console import console
from openhpo.cli.main import run_command
from openhpo.engines import ASHA, Full
from openhpo.hyperparameters import Categorical
from openhpo.launch import run, run_together
from openhpo.launcher import relaunch
from openhpo.plan import Plan
from openhpo.samplers import Grid, Random
from openhpo.schedules import Exponential
from openhpo.space import Space

if TYPE_CHECKING:
    from openhpo.result import Result

APP = Path(__file__).resolve().parents[1] / "apps" / "digits_resnet.py"
UNIT = 20  # epochs: the periods of Table 1(a) and its 200 epochs are multiples of it
FULL, PERIODS, FACTORS = 10, (2, 3, 4), (0.2, 0.1)  # of these units; and what the rate is multiplied by
INITIAL = {"first": (0.5, 0.2), "second": (0.2, 0.1)}


def main(
    unit: Annotated[int, typer.Option(min=1, help="Epochs trained for every 20 of the paper's; 20 is full size.")] = 2,
    images: Annotated[int, typer.Option(min=2, max=1437, help="Images an epoch.")] = 256,
    trials: Annotated[int, typer.Option(min=1, help="Trials of ASHA.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything random.")] = 0,
    ranks: Annotated[int | None, typer.Option(help="Start under mpiexec with so many ranks.")] = None,
    study: Annotated[Path, typer.Option(metavar="DIR", help="The folder of studies.")] = Path("runs/together"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or hpu. Only the CPU promises equal bits.")] = "cpu",
    progress: Annotated[bool, typer.Option(help="Show how it is getting on.")] = True,
) -> None:
    """Train two overlapping grids and a search by ASHA, together and apart: how many epochs, and whether curves are equal."""
    relaunch(ranks)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # how a sum is split among threads decides its last bits
    app = load_app(str(APP))
    assert app.objective is not None
    common: dict[str, Any] = {"seed": seed, "device": device, "app": app.name, "progress": progress}
    plans = {
        name: Plan(
            space=space_of(app.space, rates, unit, images),
            objective=app.objective,
            engine=Full(FULL * unit),
            sampler=Grid(),
        )
        for name, rates in INITIAL.items()
    }
    every = sorted({rate for rates in INITIAL.values() for rate in rates}, reverse=True)
    plans["asha"] = Plan(
        space=space_of(app.space, every, unit, images),
        objective=app.objective,
        engine=ASHA(FULL * unit, unit, 3),
        sampler=Random(),
        trials=trials,
    )

    def alone(name: str, folder: str, warm_tree: Sequence[Path] = ()) -> Result:
        plan = plans[name]
        return run(
            app.train,
            plan.space,
            plan.objective,
            engine=plan.engine,
            sampler=plan.sampler,
            trials=plan.trials,
            study=study / folder / name,
            warm_tree=warm_tree,
            **common,
        )

    apart = {name: alone(name, "apart") for name in plans}
    together = run_together(app.train, plans, study=study / "together", **common)
    after: dict[str, Result] = {}
    for name in plans:
        after[name] = alone(name, "after", [study / "after" / earlier for earlier in after])
    if launched_rank() == 0:
        show(apart, together, after)


def space_of(space: Space, rates: Sequence[float], unit: int, images: int) -> Space:
    """The app's space with schedules of learning rates that begin with one of these."""
    periods = [Categorical([period * unit for period in PERIODS])] * 3
    schedule = Exponential(initial=Categorical(list(rates)), factor=Categorical(list(FACTORS)), every=periods)
    fixed = {name: value for name, value in space.fixed.items() if name not in space.hyperparameters}
    return Space({**fixed, "lr": schedule, "images": images})


def union_of(results: Mapping[str, Result]) -> int:
    """Epochs of all trials, computed from their learning rates alone: those that begin with the same ones are counted once."""
    numbers: dict[tuple[int, float], int] = {}
    for result in results.values():
        space = Space.from_definition(result.definition["space"])
        for config, steps in zip(result.configs, result.steps.tolist(), strict=True):
            course, before = space.course(config), -1
            for step in range(steps):
                before = numbers.setdefault((before, course.value("lr", step)), len(numbers))
    return len(numbers)


def trained(result: Result) -> int:
    """Epochs that ranks have trained, those that only bring back a state included."""
    stages = result.tables.stages
    own = stages[(stages["ranks"] > 0) & (stages["study"] >= 0)]
    again = own[own["again"] == 1]
    return result.used.trained + int((again["stop"] - again["start"]).sum())


def show(apart: Mapping[str, Result], together: Mapping[str, Result], after: Mapping[str, Result]) -> None:
    """Print epochs, and whether trials came to the same.

    Raises:
        typer.Exit: With 1 where they did not, or where more was trained together than the union.
    """
    from rich.table import Table

    table = Table(
        "study", "trials", "by itself", "in one job", "one after the other", title="epochs trained", title_justify="left"
    )
    for name, result in apart.items():
        counts = [trained(each[name]) for each in (apart, together, after)]
        table.add_row(name, str(len(result.configs)), *(f"{count:,}" for count in counts))
    sums = [sum(trained(result) for result in each.values()) for each in (apart, together, after)]
    table.add_section()
    table.add_row("all", "", *(f"{count:,}" for count in sums))
    out = console()
    out.print(table)
    grids = list(INITIAL)
    same = all(numpy.array_equal(each[name].curves(), apart[name].curves()) for name in grids for each in (together, after))
    union = union_of(together)
    verdict = "exactly" if sums[1] == union else "NOT"
    out.print(f"the union of the trees trained in one job has {union:,} epochs: {verdict} what was trained", highlight=False)
    print(f"the curves of both grids are {'the same bits' if same else 'NOT the same'} all three ways")
    if not same or sums[1] != union:
        raise typer.Exit(1)


if __name__ == "__main__":
    run_command(main)
