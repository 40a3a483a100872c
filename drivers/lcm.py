"""Learning curve matching against random search at the same number of training steps.

The finding of "Neural Network Hyperparameter Optimization with MagmaDNN and OpenDIEL" (Ouyang, McBride, Febbo, Wong, Tomov,
Yin): on MNIST, early stopping by learning curve matching is slightly better and more stable than random search at equal cost.

For each seed the same trials are searched twice. Learning curve matching (LCM) goes through all of them, and stops those that
look like recorded ones that ended badly. What it spent, in steps, is what the search without stopping may spend: it trains the
same trials in full, one after the other from the first on, and the one that it is at when the steps are spent counts as far as
it has come. How all of them would have ended, trained in full, is the best that LCM could have come to. It composes with any
sampler, and trains any app; the second line takes Fashion-MNIST, where a step takes over a hundred times as long:

    python drivers/lcm.py --sampler random --sampler sobol --ranks 2
    python drivers/lcm.py apps/fashion_cnn.py --sampler random --seeds 3 --ranks 2

On several ranks trials overlap, and how they do decides what is recorded when a trial is checked: steps and results of LCM
vary a little from run to run there, and not at all on one rank.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy
import typer

from openhpo.actors import launched_rank
from openhpo.cli.apps import App, load_app
from openhpo.cli.console import console
from openhpo.cli.main import run_command
from openhpo.cli.plots import pyplot, save
from openhpo.cli.run import sampler_of
from openhpo.engines import Full, LearningCurveMatching
from openhpo.errors import UserError
from openhpo.hyperparameters import Float
from openhpo.launch import run
from openhpo.launcher import relaunch
from openhpo.objective import Maximize, Minimize, Objective
from openhpo.palette import BLACK, BLUE, GREY, ORANGE
from openhpo.place import find_place, share_threads
from openhpo.space import Space
from openhpo.stages import State

if TYPE_CHECKING:
    from openhpo.result import Result

APP = Path(__file__).resolve().parents[1] / "apps" / "digits_mlp.py"
SEARCH, MATCHING, ALL = "{} search", "LCM, {}", "all in full, {}"


class Pair(NamedTuple):
    """A seed's trials under learning curve matching, and all in full for `max_steps` steps."""

    sampler: str
    seed: int
    max_steps: int
    matched: Result
    full: Result

    @property
    def steps(self) -> int:
        """Steps that learning curve matching trained."""
        return len(self.matched.tables.reports)

    @property
    def affordable(self) -> float:
        """Trials that can be trained in full for so many steps, the last one in part."""
        return self.steps / self.max_steps

    @property
    def saved(self) -> float:
        """The part of the steps that stopping saved."""
        return 1 - self.steps / (self.max_steps * len(self.full.configs))

    @property
    def stopped(self) -> int:
        """Trials that were stopped."""
        return self.matched.states.count(State.STOPPED)

    def finals(self) -> dict[str, float]:
        """The best objective by method: search at equal steps, matching, all trials in full."""
        return {
            SEARCH: best_of(self.full, self.steps),
            MATCHING: best_of(self.matched),
            ALL: best_of(self.full),
        }


def main(
    app: Annotated[Path, typer.Argument(metavar="APP", help="The training code.", show_default="apps/digits_mlp.py")] = APP,
    sampler: Annotated[list[str] | None, typer.Option(help="What to try.", show_default="random and sobol")] = None,
    seeds: Annotated[int, typer.Option(min=2, help="How many seeds, from 0.")] = 10,
    trials: Annotated[int, typer.Option(min=2, help="Trials of a seed.")] = 32,
    steps: Annotated[int | None, typer.Option(help="Steps of a trial in full.", show_default="max_steps of APP")] = None,
    lr: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="The range of APP's hyperparameter lr, if it has one.")
    ] = (1e-5, 10.0),
    minimize: Annotated[str, typer.Option(metavar="METRIC", help="The metric that both minimise.")] = "val_loss",
    maximize: Annotated[str | None, typer.Option(metavar="METRIC", help="A metric to maximise instead.")] = None,
    checkpoint: Annotated[
        list[int] | None,
        typer.Option(help="A step at which a trial may be stopped.", show_default="a quarter and half of --steps"),
    ] = None,
    accumulation: Annotated[int, typer.Option(help="Trials that train in full first.")] = 8,
    threshold: Annotated[
        float, typer.Option(help="Stop where the predicted end ranks below this part of the recorded ones.")
    ] = 0.5,
    ranks: Annotated[int | None, typer.Option(help="Start under mpiexec with so many ranks.")] = None,
    study: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the studies and plots.")] = Path("runs/lcm"),
    device: Annotated[str, typer.Option(help="The kind of device to train on: auto, cpu, cuda or hpu.")] = "auto",
) -> None:
    """Learning curve matching against search without stopping, at equal numbers of training steps, over several seeds."""
    pyplot()  # a plot that cannot be drawn is better known before training than after
    relaunch(ranks)
    share_threads(find_place().threads)  # before the app imports torch
    code = load_app(str(app))
    full = Full(needed(steps or code.max_steps, app))
    matching = LearningCurveMatching(full.max_steps, checkpoint, accumulation=accumulation, threshold=threshold)
    space = widened(code, lr)
    objective = Maximize(maximize) if maximize else Minimize(minimize)
    pairs = []
    for name in dict.fromkeys(sampler or ["random", "sobol"]):
        for seed in range(seeds):
            matched, searched = (
                run(code.train, space, objective, engine=engine, sampler=sampler_of(name), trials=trials, seed=seed,
                    study=study / f"{name}-{kind}-{seed}", device=device, progress=False, app=code.name)
                for kind, engine in (("lcm", matching), ("full", full))
            )  # fmt: skip
            pairs.append(Pair(name, seed, full.max_steps, matched, searched))
            if launched_rank() == 0:
                print(f"{name}, seed {seed}: done", file=sys.stderr, flush=True)
    if launched_rank() == 0:
        show_seeds(pairs, objective)
        show_methods(pairs, objective)
        show_published(pairs, objective)
        print(f"plots: {draw_curves(pairs[0], matching, study / 'curves.png')}, {draw_finals(pairs, study / 'final.png')}")


def needed(steps: int | None, app: Path) -> int:
    """The number of steps of a trial.

    Raises:
        UserError: Nobody says it.
    """
    if steps is None:
        raise UserError(f"say how many steps a trial trains for: --steps 20, or max_steps = 20 in {app}")
    return steps


def widened(app: App, lr: tuple[float, float]) -> Space:
    """The app's space with learning rates over many orders of magnitude.

    The realistic case: who knows a range of good learning rates already has no bad trials to stop.
    """
    space = app.space
    if not isinstance(space.hyperparameters.get("lr"), Float):
        return space
    parts = {**space.hyperparameters, **space.schedules, **space.fixed, "lr": Float(lr, log=True)}
    return Space(parts, conditions=space.conditions, forbidden=space.forbidden)


def best_of(result: Result, steps: int | None = None) -> float:
    """The best objective, within the first steps of trials that train one after the other; within all where absent."""
    spent = result.curves().ravel()[:steps]
    sign = result.objective.sign
    return sign * min((sign * value for value in spent[numpy.isfinite(spent)].tolist()), default=numpy.inf)


def finals_of(pairs: Sequence[Pair], sampler: str) -> dict[str, list[float]]:
    """The best objective by method, seed by seed, of one sampler."""
    found = [pair.finals() for pair in pairs if pair.sampler == sampler]
    return {method: [finals[method] for finals in found] for method in (SEARCH, MATCHING, ALL)}


def saved_by(pairs: Sequence[Pair], sampler: str) -> float:
    """The part of the steps that stopping saved, mean over seeds."""
    return statistics.mean(pair.saved for pair in pairs if pair.sampler == sampler)


def samplers_of(pairs: Sequence[Pair]) -> list[str]:
    """The samplers, in their order."""
    return list(dict.fromkeys(pair.sampler for pair in pairs))


# ---- tables


def show_seeds(pairs: Sequence[Pair], objective: Objective) -> None:
    """Print what each seed came to."""
    from rich.table import Table

    table = Table("sampler", title=f"each seed: best {objective.metric}", title_justify="left")
    for title in ("seed", "LCM", "search at equal steps", "all in full", "LCM's steps", "= trials in full", "stopped", "saved"):
        table.add_column(title, justify="right")
    for pair in pairs:
        finals = pair.finals()
        table.add_row(
            pair.sampler,
            str(pair.seed),
            *(f"{finals[method]:.4f}" for method in (MATCHING, SEARCH, ALL)),
            str(pair.steps),
            f"{pair.affordable:.1f} of {len(pair.full.configs)}",
            str(pair.stopped),
            f"{pair.saved:.0%}",
        )
    console().print(table)


def show_methods(pairs: Sequence[Pair], objective: Objective) -> None:
    """Print mean and spread of each method."""
    from rich.table import Table

    seeds = len({pair.seed for pair in pairs})
    table = Table("method", title=f"best {objective.metric} of {seeds} seeds", title_justify="left")
    for title in ("mean", "standard deviation", "worst seed", "mean steps", "saved"):
        table.add_column(title, justify="right")
    for sampler in samplers_of(pairs):
        mine = [pair for pair in pairs if pair.sampler == sampler]
        spent = statistics.mean(pair.steps for pair in mine)
        steps = {
            SEARCH: spent,
            MATCHING: spent,
            ALL: mine[0].max_steps * len(mine[0].full.configs),
        }
        for method, finals in finals_of(pairs, sampler).items():
            worst = max(finals, key=lambda value: objective.sign * value)
            table.add_row(
                method.format(sampler),
                f"{statistics.mean(finals):.4f}",
                f"{statistics.stdev(finals):.4f}",
                f"{worst:.4f}",
                f"{steps[method]:.0f}",
                f"{saved_by(pairs, sampler):.0%}" if method == MATCHING else "",
            )
    console().print(table)


def show_published(pairs: Sequence[Pair], objective: Objective) -> None:
    """Print the published finding beside this one."""
    from rich.table import Table

    samplers = samplers_of(pairs)
    table = Table("LCM at equal steps", "published (MNIST, random search)", *(f"here, {sampler}" for sampler in samplers))
    rows = [(*compare(finals_of(pairs, sampler), objective), f"{saved_by(pairs, sampler):.0%}") for sampler in samplers]
    published = {
        "final performance": "slightly better",
        "spread over seeds": "more stable",
        "seed by seed": "-",
        "steps saved": "-",
    }
    for place, (name, claim) in enumerate(published.items()):
        table.add_row(name, claim, *(row[place] for row in rows))
    console().print(table)


def compare(finals: dict[str, list[float]], objective: Objective) -> tuple[str, str, str]:
    """How matching did beside search at equal steps: its mean, its spread, and in how many seeds."""
    gains = [objective.sign * (b - a) for a, b in zip(finals[MATCHING], finals[SEARCH], strict=True)]
    mine, theirs = (statistics.mean(finals[method]) for method in (MATCHING, SEARCH))
    spread, other = (statistics.stdev(finals[method]) for method in (MATCHING, SEARCH))
    gain = statistics.mean(gains)
    better, worse = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
    return (
        f"{'better' if gain > 0 else 'the same' if gain == 0 else 'worse'}: {mine:.4f} against {theirs:.4f}",
        f"{'smaller' if spread < other else 'the same' if spread == other else 'larger'}: {spread:.4f} against {other:.4f}",
        f"better {better}, same {len(gains) - better - worse}, worse {worse}",
    )


# ---- plots


def draw_curves(pair: Pair, matching: LearningCurveMatching, path: Path) -> Path:
    """Draw the learning curves of one seed: recorded ones solid, stopped ones faded up to where they were stopped."""
    figure, axes = pyplot().subplots(figsize=(7.5, 4.5), layout="constrained")
    objective, curves = pair.matched.objective, pair.matched.curves()
    finite = curves[:, 0][numpy.isfinite(curves[:, 0])]
    low, high = float(numpy.nanmin(curves)), float(numpy.nanmax(curves))
    if objective.sign > 0 and low > 0:
        from matplotlib.ticker import LogLocator

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        low, high = low / 1.15, min(high, 2 * float(numpy.median(finite)))  # what diverges leaves the chart at its top
        axes.set_ylim(low, high)
    kinds: dict[str, dict[str, Any]] = {
        "accumulation, in full": {"color": BLACK, "linewidth": 1.2, "zorder": 2},
        "checked, in full": {"color": BLUE, "linewidth": 1.6, "zorder": 3},
        "stopped": {"color": ORANGE, "linewidth": 1.2, "alpha": 0.55, "zorder": 1},
    }
    counts = dict.fromkeys(kinds, 0)
    for number, (curve, state) in enumerate(zip(curves, pair.matched.states, strict=True)):
        first, checked, stopped = kinds
        kind = stopped if state is State.STOPPED else first if number < matching.accumulation else checked
        counts[kind] += 1
        told = numpy.flatnonzero(numpy.isfinite(curve))
        axes.plot(told + 1, curve[told], **kinds[kind])
        if kind == stopped and len(told) and low <= curve[told[-1]] <= high:
            axes.plot(told[-1] + 1, curve[told[-1]], "o", markersize=4, **kinds[kind])
    for step in matching.checkpoints:
        axes.axvline(step, color=GREY, linestyle="--", linewidth=1, zorder=0)
    handles = [axes.plot([], [], label=f"{kind} ({counts[kind]})", **style)[0] for kind, style in kinds.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    axes.set_xlabel("step")
    axes.set_ylabel(str(objective.metric))
    axes.set_xlim(1, matching.max_steps)
    axes.set_xticks([1, matching.max_steps, *matching.checkpoints],
                    ["1", str(matching.max_steps), *(f"{step}\ncheckpoint" for step in matching.checkpoints)])  # fmt: skip
    axes.set_title(f"learning curve matching, {pair.sampler}, seed {pair.seed}: {pair.saved:.0%} of the steps saved")
    return save(figure, path)


def draw_finals(pairs: Sequence[Pair], path: Path) -> Path:
    """Draw the final performance of every method: a point a seed, seeds joined, mean and standard deviation beside them."""
    samplers = samplers_of(pairs)
    figure, panels = pyplot().subplots(
        1, len(samplers), figsize=(1.5 + 3.6 * len(samplers), 4.5), sharey=True, squeeze=False, layout="constrained"
    )
    objective = pairs[0].matched.objective
    for axes, sampler in zip(panels[0], samplers, strict=True):
        finals = finals_of(pairs, sampler)
        for joined in zip(*finals.values(), strict=True):
            axes.plot(range(3), joined, color=GREY, linewidth=0.6, alpha=0.6, zorder=1)
        for place, (values, colour) in enumerate(zip(finals.values(), (BLUE, ORANGE, GREY), strict=True)):
            mean, spread = statistics.mean(values), statistics.stdev(values)
            axes.plot([place] * len(values), values, "o", color=colour, markersize=5, alpha=0.8, zorder=2)
            axes.errorbar(place + 0.22, mean, spread, fmt="D", color=BLACK, markersize=5, capsize=4, zorder=3)
            axes.annotate(
                f"{mean:.4f}", (place + 0.22, mean), (6, 0), textcoords="offset points", va="center", fontsize="small"
            )
        share = 1 - saved_by(pairs, sampler)
        axes.set_xticks(
            range(3), [f"{sampler} search\nequal steps", f"LCM\n{share:.0%} of steps", "all in full\n100% of steps"]
        )
        axes.set_xlim(-0.4, 2.7)
        axes.set_title(f"{sampler} sampler", fontsize="medium")
    better = "lower" if objective.sign > 0 else "higher"
    panels[0][0].set_ylabel(f"best {objective.metric}, {better} is better")
    seeds = len({pair.seed for pair in pairs})
    figure.suptitle(f"{seeds} seeds, lines join the same seed; diamonds: mean and standard deviation", fontsize="medium")
    return save(figure, path)


if __name__ == "__main__":
    run_command(main)
