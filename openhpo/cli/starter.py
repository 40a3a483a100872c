"""Fits a line to points by gradient descent. Change `space` and `train` to search your own training."""

import numpy

import openhpo as hpo

# What may be tried. There are also hpo.Integer((1, 8)), conditions={"momentum": "optimizer == 'sgd'"}, and schedules.
space = hpo.Space(
    {
        "lr": hpo.Float((1e-3, 1.0), log=True),
        "momentum": hpo.Float((0.0, 0.99)),
        "batch": hpo.Categorical([8, 32, 128]),
    }
)

# What counts: the name of one of the metrics that `train` yields. There is also hpo.Maximize("val_accuracy", require="...").
objective = hpo.Minimize("val_loss")

# How long a trial trains, unless its method stops it earlier; a step is one `yield`.
max_steps = 20


class Line:
    """A model. Anything with `state_dict` and `load_state_dict` can pause and go on, as torch's modules and optimisers do."""

    def __init__(self):
        self.weights = numpy.zeros(2)
        self.velocity = numpy.zeros(2)

    def state_dict(self):
        return {"weights": self.weights, "velocity": self.velocity}

    def load_state_dict(self, state):
        self.weights, self.velocity = state["weights"].copy(), state["velocity"].copy()


def train(trial):
    # Set up: data and model. The same for all trials, so that they are compared fairly.
    draw = numpy.random.default_rng(0)
    x = draw.uniform(-1, 1, 1200)
    points = numpy.stack([x, numpy.ones_like(x)], axis=1)
    y = 3 * x - 1 + 0.3 * draw.standard_normal(1200)
    model = Line()
    trial.track(model=model)  # from here on the trial may be paused, moved to another rank, or continued tomorrow

    # Train: one `yield` of metrics a step, for ever. The method decides when to stop calling.
    while True:
        order = trial.rng.permutation(1000)  # of the trial's own generator, so that a continued trial repeats nothing
        for start in range(0, 1000, trial["batch"]):
            batch = order[start : start + trial["batch"]]
            gradient = 2 * points[batch].T @ (points[batch] @ model.weights - y[batch]) / len(batch)
            model.velocity = trial["momentum"] * model.velocity - trial["lr"] * gradient
            model.weights = model.weights + model.velocity
        errors = points @ model.weights - y
        yield {"train_loss": float((errors[:1000] ** 2).mean()), "val_loss": float((errors[1000:] ** 2).mean())}
