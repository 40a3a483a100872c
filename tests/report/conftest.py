"""Studies to look at."""

import math

import pytest

import openhpo as hpo

SPACE = hpo.Space(
    {
        "lr": hpo.Float((1e-4, 1.0), log=True),
        "width": hpo.Integer((8, 512), log=True),
        "optimizer": hpo.Categorical(["sgd", "adam"]),
        "momentum": hpo.Float((0.0, 0.99)),
        "batch": hpo.Categorical([16, 32, 64], ordered=True),
    },
    conditions={"momentum": "optimizer == 'sgd'"},
)


def train(trial):
    trial.track()
    base = abs(math.log10(trial["lr"] / 0.01)) + 0.2 * (trial["optimizer"] == "adam")
    if trial["lr"] > 0.5:
        raise RuntimeError("diverged <b>at once</b>")
    while True:
        loss = base + 1 / trial.step + 0.01 * trial.rng.standard_normal()
        yield {"val_loss": loss, "val_accuracy": 1 - loss / 8, "cost": trial["width"] / 512}


def run(folder, how=train, space=SPACE, objective=None, **more):
    options = {"engine": hpo.ASHA(9, 1, 3), "trials": 60, "progress": False, "app": "test", "study": folder, **more}
    return hpo.run(how, space, objective or hpo.Minimize("val_loss", require="cost <= 0.6"), **options)


@pytest.fixture(scope="session")
def asha(tmp_path_factory):
    return run(tmp_path_factory.mktemp("studies") / "asha")


@pytest.fixture(scope="session")
def population(tmp_path_factory):
    space = hpo.Space({"lr": hpo.Float((1e-4, 0.4), log=True), "width": 64, "optimizer": "sgd"})
    engine = hpo.PopulationBased(20, 4)
    return run(
        tmp_path_factory.mktemp("studies") / "pbt", space=space, engine=engine, trials=12, objective=hpo.Minimize("val_loss")
    )


@pytest.fixture(scope="session")
def replicated(tmp_path_factory):
    return run(tmp_path_factory.mktemp("studies") / "twice", engine=hpo.Full(3), trials=24, replicates=2)
