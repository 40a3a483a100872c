"""Large-batch training by LARS on scikit-learn's handwritten digits: 1,437 images in three batches. A step is one epoch.

The hyperparameters are those that MLPerf leaves open for ResNet-50, and so is the objective: the epoch at which a model is
first good enough. The learning rate decays to 0 over `epochs`, where training ends: fewer of them get there earlier, if at all.
"""

import functools

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import openhpo as hpo
from openhpo.training.optim import LARS

TARGET = 0.974
space = hpo.Space(
    {
        "epochs": hpo.Integer((10, 25)),
        "warmup": hpo.Integer((1, 8)),  # epochs
        "base_lr": hpo.Float((1.0, 40.0)),
        "weight_decay": hpo.Float((1e-5, 1e-2), log=True),
        "momentum": hpo.Float((0.7, 0.95)),
    }
)
objective = hpo.Minimize(hpo.first_step(f"val_accuracy >= {TARGET}"))
max_steps = 25


@functools.cache  # read once a rank, not once a trial
def load(device):
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images.reshape(-1, 1, 8, 8) / 16, labels, test_size=0.2, random_state=0, stratify=labels)
    train_x, val_x, train_y, val_y = (torch.as_tensor(part).to(device) for part in split)
    return train_x.float(), train_y, val_x.float(), val_y


def rate(trial, epochs):
    """The learning rate after so many epochs: a linear warm-up, then a parabola down to 0."""
    warmup = trial["warmup"]
    return trial["base_lr"] * min(epochs / warmup, ((trial["epochs"] - epochs) / (trial["epochs"] - warmup)) ** 2)


def train(trial):
    train_x, train_y, val_x, val_y = load(trial.device)
    model = nn.Sequential(
        *(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(48 * 4, 10)),
    ).to(trial.device)
    optimizer = LARS(model.parameters(), lr=0.0, momentum=trial["momentum"], weight_decay=trial["weight_decay"])
    trial.track(model=model, optimizer=optimizer)
    loss_of = nn.functional.cross_entropy

    while trial.step <= trial["epochs"]:
        model.train()
        batches = torch.as_tensor(trial.rng.permutation(len(train_x)), device=trial.device).split(479)
        for done, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = rate(trial, trial.step - 1 + (done + 0.5) / len(batches))
            with trial.autocast():
                loss = loss_of(model(train_x[batch]), train_y[batch])
            trial.backward(loss, optimizer)
        model.eval()
        with torch.no_grad(), trial.autocast():
            scores = model(val_x)
        accuracy = (scores.argmax(1) == val_y).float().mean()
        yield {"train_loss": loss, "val_loss": loss_of(scores, val_y), "val_accuracy": accuracy}
