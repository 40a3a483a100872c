"""Every method on real MPI ranks: run by test_methods_on_mpi.py under mpiexec, as `methods_on_mpi.py FOLDER`."""

import sys
import zlib
from pathlib import Path

import torch
from digits_mlp import load, objective

import openhpo as hpo

SPACE = hpo.Space(
    {
        "lr": hpo.Exponential(
            hpo.Categorical([0.5, 0.2]), hpo.Categorical([0.5, 0.1]), [hpo.Categorical([2, 3]), hpo.Categorical([2, 4])]
        ),
        "momentum": 0.9,
    }
)


def train(trial):
    """A linear model on the digits, and a fingerprint of its weights."""
    train_x, train_y, val_x, val_y = load(trial.device)
    model = torch.nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial["lr"], momentum=trial["momentum"])
    trial.track(model=model, optimizer=optimizer)
    while True:
        optimizer.param_groups[0].update(lr=trial["lr"], momentum=trial["momentum"])
        for batch in torch.as_tensor(trial.rng.permutation(len(train_x))[:300]).split(60):
            trial.backward(torch.nn.functional.cross_entropy(model(train_x[batch]), train_y[batch]), optimizer)
        with torch.no_grad():
            accuracy = (model(val_x).argmax(1) == val_y).float().mean()
        weights = b"".join(part.detach().numpy().tobytes() for part in model.parameters())
        yield {"val_accuracy": accuracy, "fingerprint": zlib.crc32(weights)}


FREE = hpo.Space({"lr": hpo.Float((0.01, 1.0), log=True), "momentum": hpo.Float((0.0, 0.99))})
METHODS = {
    "merged": (SPACE, hpo.Full(8), {"sampler": hpo.Grid()}),
    "alone": (SPACE, hpo.Full(8), {"sampler": hpo.Grid(), "merge": False}),
    "halving": (FREE, hpo.SuccessiveHalving(8, 1, 2), {"trials": 12}),
    "asha": (FREE, hpo.ASHA(8, 1, 2), {"trials": 12, "sampler": hpo.Sobol()}),
    "hyperband": (FREE, hpo.Hyperband(9, 1, 3), {}),
    "bohb": (FREE, hpo.Hyperband(9, 1, 3, select_brackets=True), {"sampler": hpo.TPE(startup=4)}),
    "replicates": (FREE, hpo.SuccessiveHalving(4, 1, 2), {"trials": 4, "replicates": 2}),
    "refine": (FREE, hpo.Full(2), {"trials": 8, "sampler": hpo.Refinement(hpo.TPE(startup=2), 4, 2)}),  # asked in a thread
    "matching": (FREE, hpo.LearningCurveMatching(8, accumulation=4), {"trials": 12}),
    "median": (FREE, hpo.MedianStopping(8, grace=2, startup=3), {"trials": 12}),
    "pbt": (FREE, hpo.PopulationBased(8, 2), {"trials": 8}),
    "spilled": (FREE, hpo.ASHA(8, 1, 2), {"trials": 12, "state_memory": 0}),
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, (space, engine, more) in METHODS.items():
        hpo.run(train, space, objective, engine=engine, study=folder / name, progress=False, seed=3, **more)
