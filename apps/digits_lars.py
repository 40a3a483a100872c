"""Large-batch training by LARS on scikit-learn's handwritten digits: 1,437 images in three batches. A step is one epoch.

The hyperparameters are those that MLPerf leaves open for ResNet-50, and so is the objective: the epoch at which a model is
first good enough. The learning rate decays to 0 over `epochs`, where training ends: fewer of them get there earlier, if at all.
"""

import digits
from large_batch import train_large_batches
from torch import nn

import openhpo as hpo

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


def train(trial):
    model = nn.Sequential(
        *(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(48 * 4, 10)),
    ).to(trial.device)
    yield from train_large_batches(trial, model, digits.load(trial.device, (1, 8, 8)), 479)
