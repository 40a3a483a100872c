"""An app whose hyperparameters follow schedules that begin alike, for studies that share a tree."""

import numpy

import openhpo as hpo

LR = hpo.Exponential(hpo.Categorical([0.5, 0.2]), hpo.Categorical([0.2, 0.1]), [hpo.Categorical([4, 6])] * 2)
space = hpo.Space({"lr": LR, "momentum": hpo.Categorical([0.9, 0.5])})
objective = hpo.Minimize("loss")
max_steps = 20
data = "made up"


def train(trial):
    w = numpy.ones(3)
    trial.track(w=w)
    while True:
        w -= 0.1 * trial["lr"] * trial["momentum"] * (w + 0.1 * trial.rng.random(3))
        yield {"loss": float(abs(w).sum()), "gain": -float(w.sum()), "weights": float(w @ numpy.arange(3))}
