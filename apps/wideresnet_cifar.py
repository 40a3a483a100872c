"""A wide residual network on CIFAR-10, or on other images where that is absent: cifar.py says which. A step is one pass.

The network is that of "Wide Residual Networks" (Zagoruyko and Komodakis 2016), 16 layers deep and four times as wide; `--set
depth=10 --set width=1` is the smallest. The batch grows as in Table 1(b) of "Stage-based Hyper-parameter Optimization for Deep
Learning" (Shin et al. 2019): 128 at first, and after three times 30 or 60 epochs so many times more; the rates are our choice.
"""

import itertools

from cifar import SETTINGS, train_on_images
from torch import nn

import openhpo as hpo

growth = hpo.Categorical([1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0])
space = hpo.Space(
    {
        "lr": hpo.Float((1e-2, 1.0), log=True),
        "momentum": hpo.Float((0.7, 0.98)),
        "weight_decay": hpo.Float((1e-5, 1e-2), log=True),
        "warmup": hpo.Integer((0, 5)),  # steps
        "batch": hpo.Exponential(128, growth, every=[hpo.Categorical([30, 60])] * 3),  # rounded to whole samples
        "depth": 16,
        "width": 4,
        **SETTINGS,
    }
)
objective = hpo.Maximize("val_accuracy")
max_steps = 216


class Block(nn.Module):
    """Normalisation and activation before each of two convolutions, and a way around both."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        self.around = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x):
        active = self.first(x)
        return self.body(active) + (x if self.around is None else self.around(active))


def wide_resnet(depth, width):
    count, rest = divmod(depth - 4, 6)  # blocks of a stage, of two convolutions each
    if count < 1 or rest or width < 1:
        raise hpo.UserError(
            f"a wide residual network has a depth of 10, 16, 22, ... and a width of 1 or more, not {depth}-{width}"
        )
    filters = [16, 16 * width, 32 * width, 64 * width]
    blocks = [
        Block(outputs if number else inputs, outputs, 1 if number else stride)
        for (inputs, outputs), stride in zip(itertools.pairwise(filters), (1, 2, 2), strict=True)
        for number in range(count)
    ]
    last = [nn.BatchNorm2d(filters[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters[-1], 10)]
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), *blocks, *last)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # He et al. 2015
    return model


def train(trial):
    yield from train_on_images(trial, lambda: wide_resnet(trial["depth"], trial["width"]), nesterov=True)
