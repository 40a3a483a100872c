"""Large-batch training by LARS on Fashion-MNIST: 50,000 images in twelve batches. A step is one epoch.

As digits_lars, which says why. The images are those of fashion_cnn; an epoch takes some four seconds on one core.
"""

from fashion_cnn import load
from large_batch import train_large_batches
from torch import nn

import openhpo as hpo

TARGET = 0.855
space = hpo.Space(
    {
        "epochs": hpo.Integer((6, 16)),
        "warmup": hpo.Integer((1, 5)),  # epochs
        "base_lr": hpo.Float((1.0, 25.0)),
        "weight_decay": hpo.Float((1e-5, 1e-2), log=True),
        "momentum": hpo.Float((0.7, 0.95)),
    }
)
objective = hpo.Minimize(hpo.first_step(f"val_accuracy >= {TARGET}"))
max_steps = 16


def train(trial):
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 49, 10)),
    ).to(trial.device)
    yield from train_large_batches(trial, model, load(trial.device), 4167)
