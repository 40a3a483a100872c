"""`run`: a study on every rank of an MPI job, or in this process alone."""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import os
import platform
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openhpo.actors import Actor, run_actors
from openhpo.allocation import ONE, Ranks
from openhpo.callbacks import Callback, Callbacks
from openhpo.coordinator import Coordinator
from openhpo.earlier import FOLDER, data_of, trained_for
from openhpo.engines import Engine
from openhpo.errors import UserError
from openhpo.launcher import relaunch
from openhpo.limits import Limits
from openhpo.objective import Objective, objective_of
from openhpo.place import Place, find_place, gather_on_node, share_threads
from openhpo.plan import Plan
from openhpo.progress import choose_view
from openhpo.protocol import COORDINATOR, TRAINER
from openhpo.result import Result
from openhpo.samplers import Sampler
from openhpo.space import Space
from openhpo.storage import checkpoints
from openhpo.storage.claim import Claim
from openhpo.store import default_budget
from openhpo.telling import say
from openhpo.trainer import Trainer
from openhpo.training import Trial
from openhpo.training.devices import look, take
from openhpo.training.precision import check_precision, check_space, check_state_dtype
from openhpo.warmstart import known_for
from openhpo.workload import Workload


@dataclass(frozen=True)
class Job:
    """What the studies of a job have in common: see `run`."""

    study: str | Path
    seed: int
    device: str
    share_devices: bool
    precision: str
    state_dtype: str | None
    state_memory: int | None
    merge: bool
    ranks_per_trial: Ranks
    dedicated_coordinator: bool
    limits: Limits
    progress: bool
    actors: Callable[[int, int], Mapping[str, Actor]] | None
    app: str | None
    data: str | None
    warm_tree: str | Path | Sequence[str | Path]


def run(
    train: Callable[[Trial], Any],
    space: Space,
    objective: Objective,
    *,
    engine: Engine,
    sampler: Sampler | None = None,
    trials: int | None = None,
    study: str | Path = "runs/study",
    seed: int = 0,
    ranks: int | None = None,
    device: str = "auto",
    share_devices: bool = False,
    precision: str = "fp32",
    state_dtype: str | None = None,
    state_memory: int | None = None,
    merge: bool = True,
    replicates: int = 1,
    ranks_per_trial: Ranks = ONE,
    prior: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    warm_start: str | Path | None = None,
    dedicated_coordinator: bool = False,
    time_limit: float | None = None,
    retries: int = 0,
    step_timeout: float | None = None,
    checkpoint_every: float = 600.0,
    lease: float = 60.0,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    actors: Callable[[int, int], Mapping[str, Actor]] | None = None,
    app: str | None = None,
    data: str | None = None,
    warm_tree: str | Path | Sequence[str | Path] = (),
) -> Result:
    """Run a study to its end. Under `mpirun` every rank calls this with the same arguments.

    A study that was interrupted goes on where it was. One that has run to its end is not run again, unless it is given more
    trials: its result is returned at once.

    Args:
        train: The training function: a generator that yields a dictionary of metrics a step, or a plain function that
            calls `trial.report` with it.
        space: What may be tried.
        objective: `Minimize(...)` or `Maximize(...)` of a metric that `train` yields.
        engine: Who trains how long, such as `Full(max_steps=20)`.
        sampler: What to try next; random search by default.
        trials: How many in total, those of earlier runs included; a grid's size when absent.
        study: The folder of the study file.
        seed: Decides everything random.
        ranks: Start this program again under mpiexec with so many ranks, unless it already runs under MPI.
        device: "auto" for the best kind there is, "hpu", "cuda" (ROCm too), "xpu", "mps" or "cpu".
        share_devices: Let several ranks of a node train on one accelerator; the CPU is always shared.
        precision: "fp32", "tf32", "bf16" or "fp16": how `trial.autocast` and `trial.backward` compute. A hyperparameter of the
            space that is named precision takes precedence.
        state_dtype: "bf16" or "fp16" to keep and send the fp32 tensors of states in 16 bits: half the bytes, but a trial that
            goes on from one is not bit for bit the uninterrupted one.
        state_memory: Bytes of host memory a rank uses for the states of trials that may go on; those beyond it are written to
            checkpoint files. By default a quarter of the node's memory, divided among its ranks.
        merge: Train what trials have in common once.
        replicates: How often to train each configuration, each time with another seed: engine and sampler see means and their
            standard errors. `trials` counts configurations.
        ranks_per_trial: How many ranks train a trial together, by `trial.parallel` and `trial.shard`: a number; a function of
            the values in force when a stage begins, `f(values) -> number`; or "auto", which goes by the memory that earlier
            stages took, and gives what runs out of memory more ranks.
        prior: A configuration to try first, or several, such as {"lr": 0.1}; what one leaves open is drawn at random.
        warm_start: The folder of an earlier study of the same or an overlapping space, which the sampler learns from.
        dedicated_coordinator: Keep rank 0 free of training, where there are others.
        time_limit: Seconds after which the run stops in order, to be continued: give it somewhat less than the batch system
            does. SIGTERM, SIGUSR1 and the first SIGINT do the same.
        retries: How often a trial is tried again that raised, ran out of memory or took too long, from its last state.
        step_timeout: Seconds that a step may take, the set-up before the first one included.
        checkpoint_every: Seconds of training after which a state is written to a checkpoint file.
        lease: Seconds after which a rank that is not heard of counts as lost, and its work is done elsewhere.
        progress: Show how it is getting on, on standard error of rank 0.
        callbacks: Whom to tell on rank 0 what happens while it runs, such as `hpo.TensorBoard()`.
        actors: Gives further actors of a rank, `actors(rank, size) -> {name: actor}`, to run beside the study's until it ends.
        app: A name for the training code, part of what identifies the study; its module's name by default.
        data: A name for the data that it trains on, where these may differ from study to study; part of what identifies it.
        warm_tree: The folder of an earlier study of the same app, data and seed, or several: what they have trained is taken
            over, and not trained again.

    Raises:
        UserError: The arguments make no sense, on whichever rank that is noticed.
        ActorFailed: A bug, here or on another rank.
    """
    relaunch(ranks)
    plan = Plan(
        space=space,
        objective=objective,
        engine=engine,
        sampler=sampler,
        trials=trials,
        replicates=replicates,
        prior=prior,
        warm_start=warm_start,
        callbacks=callbacks,
    )
    job = Job(
        study,
        seed,
        device,
        share_devices,
        precision,
        state_dtype,
        state_memory,
        merge,
        ranks_per_trial,
        dedicated_coordinator,
        Limits(time_limit, retries, step_timeout, checkpoint_every, lease),
        progress,
        actors,
        app,
        data,
        warm_tree,
    )
    _run(train, {"": plan}, job)
    return Result(Path(study))


def run_together(  # noqa: D417 - the others are those of `run`
    train: Callable[[Trial], Any],
    studies: Mapping[str, Plan],
    *,
    study: str | Path = "runs/studies",
    seed: int = 0,
    ranks: int | None = None,
    device: str = "auto",
    share_devices: bool = False,
    precision: str = "fp32",
    state_dtype: str | None = None,
    state_memory: int | None = None,
    ranks_per_trial: Ranks = ONE,
    dedicated_coordinator: bool = False,
    time_limit: float | None = None,
    retries: int = 0,
    step_timeout: float | None = None,
    checkpoint_every: float = 600.0,
    lease: float = 60.0,
    progress: bool = True,
    actors: Callable[[int, int], Mapping[str, Actor]] | None = None,
    app: str | None = None,
    data: str | None = None,
    warm_tree: str | Path | Sequence[str | Path] = (),
) -> dict[str, Result]:
    """Run several studies of the same training code in one job, over the same ranks and one tree of stages.

    What their trials have in common, across studies too, is trained once. Of the studies the one that was handed out fewest
    steps comes first. They share one file, `study.h5` in the job's folder; `openhpo.load(folder / name)` reads each, and
    `openhpo.load_together(folder)` all of them.

    Args:
        train: The training function.
        studies: What each is to be, by name.
        study: The job's folder.
        seed: Decides everything random, in all studies; they could share nothing otherwise.
        ranks: As all that follow, see `run`.

    Returns:
        Each study, by name.

    Raises:
        UserError: The arguments make no sense, on whichever rank that is noticed.
        ActorFailed: A bug, here or on another rank.
    """
    relaunch(ranks)
    check_names(studies)
    job = Job(
        study,
        seed,
        device,
        share_devices,
        precision,
        state_dtype,
        state_memory,
        True,
        ranks_per_trial,
        dedicated_coordinator,
        Limits(time_limit, retries, step_timeout, checkpoint_every, lease),
        progress,
        actors,
        app,
        data,
        warm_tree,
    )
    _run(train, studies, job)
    return {name: Result(Path(study) / name) for name in studies}


def check_names(names: Iterable[str]) -> None:
    """Make sure that studies can be told apart, and found.

    Raises:
        UserError: They cannot.
    """
    names = list(names)
    if not names:
        raise UserError('say which studies to run: run_together(train, {"asha": hpo.Plan(...), ...})')
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in (checkpoints.FOLDER, FOLDER):
            raise UserError(f"a study cannot be called {name!r}: its name is a folder, of letters, digits, - and _")


def _run(train: Callable[[Trial], Any], plans: Mapping[str, Plan], job: Job) -> None:
    """Run studies on this rank."""
    check_precision(job.precision)
    stored = check_state_dtype(job.state_dtype)
    plans = {name: replace(plan, space=_space(plan.space)) for name, plan in plans.items()}
    spaces = {name: plan.space for name, plan in plans.items()}
    folder = Path(job.study)
    place = find_place()
    share_threads(place.threads)
    trains = place.rank != COORDINATOR.rank or not job.dedicated_coordinator or place.size == 1
    around = gather_on_node(look(job.device) if trains else None)
    identity = {"app": job.app or getattr(train, "__module__", "app"), "precision": job.precision}
    identity |= {} if job.data is None else {"data": job.data}
    identity |= {} if job.state_dtype is None else {"state_dtype": job.state_dtype}
    sources = [Path(each) for each in ([job.warm_tree] if isinstance(job.warm_tree, str | Path) else job.warm_tree)]

    def make_study(totals: Sequence[int] | None = None, /) -> Workload:
        counts = [None] * len(plans) if totals is None else totals
        made = {name: _warm(plan.of(count), folder / name) for (name, plan), count in zip(plans.items(), counts, strict=True)}
        objectives = [objective_of(plan.objective) for plan in plans.values()]
        data = data_of(job.data, [{"space": {"fixed": plan.space.fixed}} for plan in plans.values()])
        earlier = trained_for(folder, sources, {**identity, "data": data, "seed": job.seed}, objectives)
        return Workload(made, seed=job.seed, merge=job.merge, ranks_per_trial=job.ranks_per_trial, earlier=earlier)

    def cast(rank: int, size: int) -> Mapping[str, Actor]:
        trainers = size - (job.dedicated_coordinator and size > 1)
        if isinstance(job.ranks_per_trial, int) and job.ranks_per_trial > trainers:
            raise UserError(
                f"ranks_per_trial is {job.ranks_per_trial}, and {trainers} rank{'s' * (trainers > 1)} of this job can train: "
                "start more ranks, or give each trial fewer"
            )
        company: dict[str, Actor] = {**(job.actors(rank, size) if job.actors is not None else {})}
        if rank == COORDINATOR.rank:
            company[COORDINATOR.name] = Coordinator(
                make_study,
                folder,
                identity,
                environment(place, train),
                choose_view(job.progress),
                job.limits,
                Claim,
                callbacks=told,
                trainers=trainers,
            )
        if trains:
            company[TRAINER] = Trainer(
                train,
                spaces,
                take(around, place.local_rank, share=job.share_devices),
                job.precision,
                folder,
                default_budget(place.local_size) if job.state_memory is None else job.state_memory,
                forks=any(plan.engine.forks for plan in plans.values()),
                state_dtype=stored,
                limits=job.limits,
            )
        return company

    told = [Callbacks(plan.callbacks) for plan in plans.values()]
    try:
        run_actors(cast)
    finally:  # after all ranks have left each other, as it may take a while
        for callbacks in told:
            callbacks.close()
            for trouble in callbacks.troubles():
                say(trouble)


def _warm(plan: Plan, folder: Path) -> Plan:
    """A plan with what its sampler is to know."""
    if plan.warm_start is None:
        return plan
    return replace(plan, known=known_for(folder, plan.warm_start, plan.space, plan.objective))


def _space(given: Space) -> Space:
    space = given if isinstance(given, Space) else Space(given)
    check_space(space)
    return space


def environment(place: Place, train: Callable[[Trial], Any]) -> dict[str, Any]:
    """What a run runs on, for its study file: versions, command, host, where the training code lies."""
    found = {"python": platform.python_version(), "host": socket.gethostname(), "command": shlex.join(sys.orig_argv)}
    with contextlib.suppress(TypeError, OSError):
        found["code"] = str(Path(inspect.getsourcefile(train) or "").resolve())
    for package in ("openhpo", "torch", "numpy", "ConfigSpace", "h5py", "mpi4py"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if place.size > 1:
        from mpi4py import MPI

        found["mpi"] = MPI.Get_library_version().split(",")[0].split("\n")[0].strip(" \0")
    return {**found, "folder": os.getcwd(), "ranks": place.size, "ranks_on_node": place.local_size, "threads": place.threads}
