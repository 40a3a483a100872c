"""A small residual network on scikit-learn's handwritten digits, with a learning rate that decays in steps.

A step is one epoch: `images` of the 1,437 for training, drawn anew each time, and at most as many of the 360 for validation.
The schedules are those of Table 1(a) of "Stage-based Hyper-parameter Optimization for Deep Learning" (Shin et al. 2019), a grid
of 108 that have much in common.
"""

import zlib

import digits
import torch
from torch import nn

import openhpo as hpo

decays = [hpo.Categorical([40, 60, 80])] * 3  # epochs, each counted from the decay before
space = hpo.Space(
    {
        "lr": hpo.Exponential(initial=hpo.Categorical([0.5, 0.2]), factor=hpo.Categorical([0.2, 0.1]), every=decays),
        "images": 384,  # an epoch; --set images=1437 for all
    }
)
objective = hpo.Maximize("val_accuracy")
max_steps = 200


class Block(nn.Module):
    """Two convolutions, and a way around them (He et al. 2016)."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.around = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        return torch.relu(self.body(x) + self.around(x))


def fingerprint(model):
    """CRC-32 of all weights: trainings that agree in it at every step have gone the same way, bit for bit."""
    return zlib.crc32(b"".join(tensor.cpu().numpy().tobytes() for tensor in model.state_dict().values()))


def train(trial):
    train_x, train_y, val_x, val_y = digits.load(trial.device, (1, 8, 8))
    val_x, val_y = val_x[: trial["images"]], val_y[: trial["images"]]
    first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    blocks = nn.Sequential(Block(8, 8), Block(8, 16, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(first, blocks, nn.Linear(16, 10)).to(trial.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial["lr"], momentum=0.9, weight_decay=1e-4)
    trial.track(model=model, optimizer=optimizer)
    loss_of = nn.functional.cross_entropy

    while True:
        optimizer.param_groups[0]["lr"] = trial["lr"]  # which changes from step to step
        model.train()
        order = torch.as_tensor(trial.rng.permutation(len(train_x))[: trial["images"]], device=trial.device)
        for batch in order.split(128):
            with trial.autocast():
                loss = loss_of(model(train_x[batch]), train_y[batch])
            trial.backward(loss, optimizer)
        model.eval()
        with torch.no_grad(), trial.autocast():
            scores = model(val_x)
        accuracy = (scores.argmax(1) == val_y).float().mean()
        metrics = {"train_loss": loss, "val_loss": loss_of(scores, val_y), "val_accuracy": accuracy}
        yield {**metrics, "fingerprint": fingerprint(model)}
