"""A small convolutional network on Fashion-MNIST: 60,000 images of 28 x 28 pixels. A step is one pass over a tenth of them.

The images are those of Debian's package dataset-fashion-mnist, or of the folder that FASHION_MNIST names.
"""

import functools
import gzip
import os
from pathlib import Path

import numpy
import torch
from torch import nn

import openhpo as hpo

space = hpo.Space(
    {
        "lr": hpo.Float((1e-3, 0.5), log=True),
        "momentum": hpo.Float((0.5, 0.95)),
        "weight_decay": hpo.Float((1e-6, 1e-2), log=True),
        "channels": hpo.Integer((8, 32), log=True),
        "batch": hpo.Categorical([64, 128, 256], ordered=True),
    }
)
objective = hpo.Maximize("val_accuracy")
max_steps = 20
FOLDER = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))


def read_idx(name):
    """An IDX file, plain or gzipped: 2 zero bytes, a type, the number of dimensions, each dimension as 4 bytes, the data."""
    for path, opener in ((FOLDER / f"{name}.gz", gzip.open), (FOLDER / name, open)):
        if path.exists():
            with opener(path, "rb") as file:
                data = file.read()
            shape = numpy.frombuffer(data, ">u4", data[3], 4)
            return numpy.frombuffer(data, numpy.uint8, offset=4 + 4 * data[3]).reshape(shape).copy()
    raise hpo.UserError(
        f"Fashion-MNIST is not in {FOLDER}: {name}.gz is missing. Install Debian's package dataset-fashion-mnist, "
        "or set FASHION_MNIST to a folder with its IDX files."
    )


@functools.cache  # read once a rank, not once a trial
def load(device):
    images = torch.as_tensor(read_idx("train-images-idx3-ubyte"), device=device)[:, None] / 255
    labels = torch.as_tensor(read_idx("train-labels-idx1-ubyte"), device=device).long()
    return images[:50_000], labels[:50_000], images[50_000:], labels[50_000:]  # the test set is for the very end


def train(trial):
    train_x, train_y, val_x, val_y = load(trial.device)
    channels = trial["channels"]
    model = nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(2 * channels * 49, 10)),
    ).to(trial.device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=trial["lr"], momentum=trial["momentum"], weight_decay=trial["weight_decay"]
    )
    trial.track(model=model, optimizer=optimizer)

    while True:
        for group in optimizer.param_groups:
            group["lr"] = trial["lr"]  # which may change from step to step
        order = torch.as_tensor(trial.rng.permutation(len(train_x))[: len(train_x) // 10], device=trial.device)
        for batch in order.split(trial["batch"]):
            with trial.autocast():
                loss = nn.functional.cross_entropy(model(train_x[batch]), train_y[batch])
            trial.backward(loss, optimizer)
        with torch.no_grad(), trial.autocast():
            scores = torch.cat([model(part) for part in val_x.split(1000)])
        accuracy = (scores.argmax(1) == val_y).float().mean()
        yield {"train_loss": loss, "val_loss": nn.functional.cross_entropy(scores, val_y), "val_accuracy": accuracy}
