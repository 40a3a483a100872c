"""A small residual network on scikit-learn's handwritten digits, with a batch that grows, and is divided among more ranks then.

The schedules are those of Table 1(b) of "Stage-based Hyper-parameter Optimization for Deep Learning" (Shin et al. 2019), an
eighth as large and a fifteenth as long; the rates are our choice. `batch` is what all ranks of a trial train on at once, so how
many they are changes the time that a trial takes, and its curve by no more than batch normalisation's view of fewer samples.
"""

import digits
import torch
from digits_resnet import Block
from torch import nn

import openhpo as hpo

growth = hpo.Categorical([1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0])
space = hpo.Space(
    {
        "batch": hpo.Exponential(16, growth, every=[hpo.Categorical([2, 4])] * 3),  # rounded to whole samples
        "lr": 0.05,
        "images": 384,  # an epoch, and at most as many of the 360 for validation; --set images=1437 for all
        "hold": 64,  # samples that a rank has room for
    }
)
objective = hpo.Minimize("val_loss")
max_steps = 14


def ranks_per_trial(values):
    """The smallest power of two of ranks that have room for the batch."""
    ranks = 1
    while ranks * values["hold"] < values["batch"]:
        ranks *= 2
    return ranks


def train(trial):
    train_x, train_y, val_x, val_y = digits.load(trial.device, (1, 8, 8))
    val_x, val_y = val_x[: trial["images"]], val_y[: trial["images"]]
    first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    model = nn.Sequential(first, Block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).to(trial.device)
    parallel = trial.parallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial["lr"], momentum=0.9)
    trial.track(model=model, optimizer=optimizer)
    loss_of = nn.functional.cross_entropy

    while True:
        model.train()
        each = max(1, round(trial["batch"] / trial.size))  # of this rank
        order = torch.as_tensor(trial.shard(trial.rng.permutation(len(train_x))[: trial["images"]]), device=trial.device)
        for rows in order.split(each):
            trial.backward(loss_of(parallel(train_x[rows]), train_y[rows]), optimizer)
        model.eval()
        with torch.no_grad():
            scores = model(val_x)
        accuracy = (scores.argmax(1) == val_y).float().mean()
        yield {"val_loss": loss_of(scores, val_y), "val_accuracy": accuracy, "batch": each * trial.size, "ranks": trial.size}
