"""A small network on scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels. A step is one epoch."""

import torch
from digits import load
from torch import nn

import openhpo as hpo

space = hpo.Space(
    {
        "lr": hpo.Float((1e-3, 1.0), log=True),
        "momentum": hpo.Float((0.0, 0.95)),
        "width": hpo.Integer((16, 128), log=True),
        "batch": hpo.Categorical([32, 64, 128], ordered=True),
        "activation": hpo.Categorical(["relu", "tanh"]),
    }
)
objective = hpo.Maximize("val_accuracy")
max_steps = 20


def train(trial):
    train_x, train_y, val_x, val_y = load(trial.device)
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[trial["activation"]]
    model = nn.Sequential(nn.Linear(64, trial["width"]), activation(), nn.Linear(trial["width"], 10)).to(trial.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial["lr"], momentum=trial["momentum"])
    trial.track(model=model, optimizer=optimizer)
    loss_of = nn.functional.cross_entropy

    while True:
        optimizer.param_groups[0].update(lr=trial["lr"], momentum=trial["momentum"])  # which may change from step to step
        order = torch.as_tensor(trial.rng.permutation(len(train_x)), device=trial.device)
        for batch in order.split(trial["batch"]):
            with trial.autocast():
                loss = loss_of(model(train_x[batch]), train_y[batch])
            trial.backward(loss, optimizer)
        with torch.no_grad(), trial.autocast():
            scores = model(val_x)
        accuracy = (scores.argmax(1) == val_y).float().mean()
        yield {"train_loss": loss, "val_loss": loss_of(scores, val_y), "val_accuracy": accuracy}
