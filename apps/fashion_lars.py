"""Large-batch training by LARS on Fashion-MNIST: 50,000 images in twelve batches. A step is one epoch.

As digits_lars, which says why. The images are those of fashion_cnn; an epoch takes some four seconds on one core.
"""

import torch
from digits_lars import rate
from fashion_cnn import load
from torch import nn

import openhpo as hpo
from openhpo.training.optim import LARS

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
    train_x, train_y, val_x, val_y = load(trial.device)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 49, 10)),
    ).to(trial.device)
    optimizer = LARS(model.parameters(), lr=0.0, momentum=trial["momentum"], weight_decay=trial["weight_decay"])
    trial.track(model=model, optimizer=optimizer)
    loss_of = nn.functional.cross_entropy

    while trial.step <= trial["epochs"]:
        model.train()
        batches = torch.as_tensor(trial.rng.permutation(len(train_x)), device=trial.device).split(4167)
        for done, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = rate(trial, trial.step - 1 + (done + 0.5) / len(batches))
            with trial.autocast():
                loss = loss_of(model(train_x[batch]), train_y[batch])
            trial.backward(loss, optimizer)
        model.eval()
        with torch.no_grad(), trial.autocast():
            scores = torch.cat([model(part) for part in val_x.split(1000)])
        accuracy = (scores.argmax(1) == val_y).float().mean()
        yield {"train_loss": loss, "val_loss": loss_of(scores, val_y), "val_accuracy": accuracy}
