"""An app whose steps take as long as is said, and compute next to nothing, so that many ranks do not fight for few cores."""

import time

import numpy

import openhpo as hpo

space = hpo.Space({"x": hpo.Float((0.0, 1.0))})
objective = hpo.Minimize("loss")
max_steps = 10


def lasting(seconds):
    """Training whose steps take so long."""

    def train(trial):
        w = numpy.zeros(1000)
        trial.track(w=w)
        while True:
            time.sleep(seconds)
            w += trial["x"] * trial.rng.random(1000)
            yield {"loss": float(w.sum())}

    return train


def together(seconds):
    """The same on several ranks: each draws a part of the numbers, and all have to add their means up."""

    def train(trial):
        w = numpy.zeros(1)
        trial.track(w=w)
        while True:
            time.sleep(seconds)
            part = trial.shard(trial.rng.random(12))
            w += trial["x"] * trial.average(float(part.mean()))
            yield {"loss": float(w.sum()), "size": trial.size}

    return train
