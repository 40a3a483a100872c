"""Trials over several ranks, on real MPI: run by test_groups_on_mpi.py under mpiexec, as `groups_on_mpi.py FOLDER CASE...`."""

import contextlib
import os
import signal
import sys
import zlib
from pathlib import Path

import numpy
import torch
from digits_mlp import load, objective
from mpi4py import MPI

import openhpo as hpo
from openhpo.training.memory import measured

BATCH = 32
HEAVY = 200_000_000  # bytes
FIXED = hpo.Space({"lr": hpo.Float((0.05, 0.5), log=True), "batch": BATCH, "trouble": ""})


def train(trial):
    """A small network on the digits: each rank has `batch` samples of each batch."""
    train_x, train_y, val_x, val_y = load(trial.device)
    train_x = train_x.double()
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)).double()
    parallel = trial.parallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial["lr"], momentum=0.9)
    trial.track(model=parallel, optimizer=optimizer)
    while True:
        optimizer.param_groups[0]["lr"] = trial["lr"]
        order = torch.as_tensor(trial.shard(trial.rng.permutation(len(train_x))[:640]))
        for number, rows in enumerate(order.split(trial["batch"])):
            trouble(trial, number)
            trial.backward(torch.nn.functional.cross_entropy(parallel(train_x[rows]), train_y[rows]), optimizer)
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(model(val_x.double()), val_y)
            accuracy = (model(val_x.double()).argmax(1) == val_y).double().mean()
        weights = b"".join(part.detach().numpy().tobytes() for part in model.parameters())
        alike = trial.average(zlib.crc32(weights)) == zlib.crc32(weights)
        metrics = {"val_accuracy": accuracy, "val_loss": loss, "fingerprint": zlib.crc32(weights), "alike": alike}
        yield {**metrics, "size": trial.size, "leads": trial.leader}


def trouble(trial, number):
    """What a configuration asks for, in the midst of its second step."""
    kind, _, member = trial["trouble"].partition(" ")
    if not kind or trial.step != 2 or number != 3 or str(trial.member) != member:
        return
    if kind == "raise":
        raise RuntimeError(f"on purpose, on member {trial.member}")
    if kind == "memory":
        raise MemoryError(f"on purpose, on member {trial.member}")
    if kind == "die":
        die()


def die():
    """Kill this process, once in a study; not rank 0, which coordinates."""
    with contextlib.suppress(FileExistsError):
        if MPI.COMM_WORLD.rank:
            Path(os.environ["MARKER"]).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)


def over_mpi(trial):
    """Without torch: a straight line fitted by gradients that the group's own communicator adds up, and all else it can do."""
    x = numpy.linspace(-1, 1, 60)
    weights = numpy.zeros(2)
    trial.track(weights=weights)
    operation, member = (trial[name] for name in ("operation", "member"))
    while True:
        if trial.step == 2 and trial.member == member and operation == "death":
            die()
        elif trial.step == (1 if operation == "forming" else 2) and trial.member == member:
            raise RuntimeError(f"on purpose, on member {member}, instead of {operation}")
        comm = trial.comm
        rows = trial.shard(trial.rng.permutation(60))
        table = numpy.stack([x[rows], numpy.ones(len(rows))], 1)
        own, gradient = table.T @ (table @ weights - 3 * x[rows] - 1) / 60, numpy.empty(2)
        if trial.step == 2 and member >= 0 and operation in OPERATIONS[1:]:
            waited_in(comm, operation)
        else:
            comm.Allreduce(own, gradient)
        weights -= trial["lr"] * gradient
        loss = float(((weights[0] * x + weights[1] - 3 * x - 1) ** 2).mean())
        right = trial.size == 1 or all(checked(comm))
        yield {"val_accuracy": -loss, "right": right, "size": comm.size, "total": comm.allreduce(trial.member + 1)}


def waited_in(comm, operation):
    """One of the operations in which the others are when a member raises."""
    numbers, table = numpy.ones(1000), numpy.empty((comm.size, 1000))
    {
        "barrier": comm.barrier,
        "bcast": lambda: [comm.bcast("text", root) for root in range(comm.size)],
        "scatter": lambda: [comm.scatter(["text"] * comm.size, root) for root in range(comm.size)],
        "gather": lambda: comm.gather("text"),
        "allgather": lambda: comm.allgather("text"),
        "allreduce": lambda: comm.allreduce(1.5),
        "Allreduce": lambda: comm.Allreduce(numbers, numbers.copy()),
        "Allgather": lambda: comm.Allgather(numbers, table),
    }[operation]()


def checked(comm):
    """Whether each operation gives what mpi4py promises."""
    rank, size = comm.rank, comm.size
    last = size - 1
    yield isinstance(comm, MPI.Intracomm)
    yield comm.bcast({"from": rank}, last) == {"from": last}
    yield comm.allgather("x" * rank) == ["x" * other for other in range(size)]
    yield comm.gather(rank, last) == (list(range(size)) if rank == last else None)
    yield comm.scatter([(other, "part") for other in range(size)] if rank == last else None, last) == (rank, "part")
    yield comm.allreduce(rank, MPI.MAX) == last
    yield comm.reduce([rank], root=last) == (list(range(size)) if rank == last else None)
    mine, all_of_them = numpy.full(5, float(rank)), numpy.repeat(numpy.arange(float(size)), 5)
    found = numpy.empty(5 * size)
    comm.Allgather(mine, found)
    yield numpy.array_equal(found, all_of_them)
    comm.Bcast(mine, last)
    yield (mine == last).all()
    comm.Scatter(all_of_them if rank == last else None, mine, last)
    yield (mine == rank).all()
    comm.Gather(mine, found if rank == last else None, last)
    yield numpy.array_equal(found, all_of_them)
    summed = numpy.empty(5)
    comm.Reduce(mine, summed if rank == last else None, MPI.SUM, last)
    yield rank != last or (summed == sum(range(size))).all()
    comm.Allreduce(MPI.IN_PLACE, mine)
    yield (mine == sum(range(size))).all()
    comm.Barrier()
    comm.barrier()
    copy = comm.Dup()
    yield copy.allreduce(1) == size
    copy.Free()


def heavy(trial):
    """In its second step one of three ranks takes some memory, and then lets it go."""
    while True:
        if trial.step == 2 and trial.member == trial["heavy"]:
            numpy.ones(HEAVY // 8)
        trial.average(0.0)  # as training does: nobody is far ahead of the others
        yield {"val_accuracy": trial["lr"], "own": measured("cpu")[0], "size": trial.size}


def returning(trial):
    """It ends by itself after two steps."""
    for _ in range(2):
        yield {"val_accuracy": trial["lr"], "size": trial.size}


def wider(values):
    return 2 if values["lr"] > 0.25 else 1


def troubled(kind):
    return hpo.Space({"lr": hpo.Float((0.05, 0.5), log=True), "batch": BATCH, "trouble": hpo.Categorical(["", kind])})


OPERATIONS = ["forming", "barrier", "bcast", "scatter", "gather", "allgather", "allreduce", "Allreduce", "Allgather"]
LINE = hpo.Space({"lr": 1.0, "operation": "", "member": -1})
TROUBLED_LINE = hpo.Space({"lr": 1.0, "operation": hpo.Categorical(OPERATIONS), "member": hpo.Integer((-1, 2))})
WAITING = [{"operation": name, "member": member} for member in (0, 1, -1) for name in OPERATIONS]
TURNS = [{"lr": 0.1 + number / 100, "size": 2 + number % 2} for number in range(8)]
GROWING = hpo.Space({"lr": 0.1, "batch": hpo.Steps([8, 16, 32], [2, 2]), "trouble": ""})
CASES = {  # training, space, engine, options
    "pairs": (train, FIXED, hpo.Full(3), {"trials": 4, "ranks_per_trial": 2}),
    "pairs again": (train, FIXED, hpo.Full(3), {"trials": 4, "ranks_per_trial": 2}),
    "doubled batch": (train, FIXED.fix({"batch": 2 * BATCH}), hpo.Full(3), {"trials": 4}),
    "five": (train, FIXED, hpo.Full(2), {"trials": 2, "ranks_per_trial": 5}),
    "some": (train, FIXED, hpo.Full(2), {"trials": 6, "ranks_per_trial": wider}),
    "halving": (train, FIXED, hpo.SuccessiveHalving(4, 1, 2), {"trials": 8, "ranks_per_trial": 2}),
    "doubling": (train, FIXED, hpo.ASHA(4, 1, 2, double_ranks=True), {"trials": 8}),
    "median": (train, FIXED, hpo.MedianStopping(6, grace=1, startup=2), {"trials": 8, "ranks_per_trial": 2}),
    "pbt": (train, FIXED, hpo.PopulationBased(5, 1), {"trials": 8, "ranks_per_trial": 2}),
    "growing": (train, GROWING, hpo.Full(6), {"trials": 1, "ranks_per_trial": lambda values: values["batch"] // 8}),
    "turns": (
        train,
        hpo.Space({"lr": hpo.Float((0.05, 0.5)), "batch": BATCH, "trouble": "", "size": hpo.Integer((2, 3))}),
        hpo.Full(1),
        {"trials": 8, "prior": TURNS, "ranks_per_trial": lambda values: values["size"]},
    ),
    "comm": (over_mpi, LINE, hpo.Full(30), {"trials": 1}),
    "comm of two": (over_mpi, LINE, hpo.Full(30), {"trials": 1, "ranks_per_trial": 2}),
    "comm of three": (over_mpi, LINE, hpo.Full(30), {"trials": 1, "ranks_per_trial": 3}),
    "die over MPI": (
        over_mpi,
        hpo.Space({"lr": hpo.Float((0.5, 1.0)), "operation": "death", "member": 1}),
        hpo.Full(3),
        {"trials": 12, "ranks_per_trial": 2},
    ),
    "comm raises": (
        over_mpi,
        TROUBLED_LINE,
        hpo.Full(3),
        {"trials": len(WAITING), "prior": WAITING, "ranks_per_trial": 3},
    ),
    "heavy": (
        heavy,
        hpo.Space({"lr": hpo.Float((0.05, 0.5)), "heavy": hpo.Categorical([0, 1, 2])}),
        hpo.SuccessiveHalving(3, 2, 2),
        {"trials": 3, "prior": [{"lr": 0.1, "heavy": member} for member in range(3)], "ranks_per_trial": 3},
    ),
    "returning": (returning, FIXED, hpo.Full(5), {"trials": 4, "ranks_per_trial": 2}),
    **{
        f"{kind} {member}": (train, troubled(f"{kind} {member}"), hpo.Full(3), {"trials": 6, "ranks_per_trial": 2, **more})
        for kind, more in (("raise", {}), ("die", {}))
        for member in (0, 1)
    },
    "memory 1": (train, troubled("memory 1"), hpo.Full(3), {"trials": 6, "ranks_per_trial": "auto"}),
    "memory 0": (train, troubled("memory 0"), hpo.Full(3), {"trials": 6, "ranks_per_trial": "auto"}),
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        function, space, engine, more = CASES[name]
        hpo.run(function, space, objective, engine=engine, study=folder / name, progress=False, seed=3, **more)
