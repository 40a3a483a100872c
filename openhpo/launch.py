"""`run`: a study on every rank of an MPI job, or in this process alone."""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import os
import platform
import shlex
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openhpo.actors import Actor, run_actors
from openhpo.allocation import ONE, Ranks
from openhpo.callbacks import Callback, Callbacks
from openhpo.coordinator import Coordinator
from openhpo.engines import Engine
from openhpo.errors import UserError
from openhpo.launcher import relaunch
from openhpo.limits import Limits
from openhpo.objective import Objective
from openhpo.place import Place, find_place, gather_on_node, share_threads
from openhpo.progress import choose_view
from openhpo.protocol import COORDINATOR, TRAINER
from openhpo.result import Result
from openhpo.samplers import Sampler
from openhpo.space import Space
from openhpo.storage.claim import Claim
from openhpo.store import default_budget
from openhpo.study import Study
from openhpo.trainer import Trainer
from openhpo.training import Trial
from openhpo.training.devices import look, take
from openhpo.training.precision import check_precision, check_space, check_state_dtype
from openhpo.warmstart import known_for


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

    Raises:
        UserError: The arguments make no sense, on whichever rank that is noticed.
        ActorFailed: A bug, here or on another rank.
    """
    relaunch(ranks)
    check_precision(precision)
    stored = check_state_dtype(state_dtype)
    if not isinstance(space, Space):
        space = Space(space)
    check_space(space)
    folder = Path(study)
    place = find_place()
    share_threads(place.threads)
    trains = place.rank != COORDINATOR.rank or not dedicated_coordinator or place.size == 1
    around = gather_on_node(look(device) if trains else None)
    limits = Limits(time_limit, retries, step_timeout, checkpoint_every, lease)
    identity = {"app": app or getattr(train, "__module__", "app"), "precision": precision}
    identity |= {} if state_dtype is None else {"state_dtype": state_dtype}

    def make_study(total: int | None = None, /) -> Study:
        count = trials if total is None else total
        return Study(
            space,
            objective,
            engine=engine,
            sampler=sampler,
            trials=count,
            seed=seed,
            merge=merge,
            replicates=replicates,
            prior=prior,
            known=None if warm_start is None else known_for(folder, warm_start, space, objective),
            ranks_per_trial=ranks_per_trial,
        )

    def cast(rank: int, size: int) -> Mapping[str, Actor]:
        trainers = size - (dedicated_coordinator and size > 1)
        if isinstance(ranks_per_trial, int) and ranks_per_trial > trainers:
            raise UserError(
                f"ranks_per_trial is {ranks_per_trial}, and {trainers} rank{'s' * (trainers > 1)} of this job can train: start "
                "more ranks, or give each trial fewer"
            )
        company: dict[str, Actor] = {**(actors(rank, size) if actors is not None else {})}
        if rank == COORDINATOR.rank:
            company[COORDINATOR.name] = Coordinator(
                make_study,
                folder,
                identity,
                environment(place, train),
                choose_view(progress),
                limits,
                Claim,
                callbacks=told,
                trainers=trainers,
            )
        if trains:
            company[TRAINER] = Trainer(
                train,
                space,
                take(around, place.local_rank, share=share_devices),
                precision,
                folder,
                default_budget(place.local_size) if state_memory is None else state_memory,
                forks=engine.forks,
                state_dtype=stored,
                limits=limits,
            )
        return company

    told = Callbacks(callbacks)
    try:
        run_actors(cast)
    finally:  # after all ranks have left each other, as it may take a while
        told.close()
        for trouble in told.troubles():
            print(trouble, file=sys.stderr, flush=True)
    return Result(folder)


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
