"""ResNet-20 on CIFAR-10, or on other images where that is absent: cifar.py says which. A step is one pass over them.

The network is that of "Deep Residual Learning for Image Recognition" (He et al. 2016, section 4.2): a convolution, three stages
of three blocks with 16, 32 and 64 filters, and 0.27 million parameters.
`--set batches=4` makes a step of four batches, `--set measured=500` measures on fewer images, so that runs are short.
"""

import itertools

import torch
from cifar import SETTINGS, train_on_images
from torch import nn

import openhpo as hpo

space = hpo.Space(
    {
        "lr": hpo.Float((1e-2, 1.0), log=True),
        "momentum": hpo.Float((0.7, 0.98)),
        "weight_decay": hpo.Float((1e-5, 1e-2), log=True),
        "warmup": hpo.Integer((0, 5)),  # steps
        "batch": hpo.Categorical([64, 128, 256], ordered=True),
        **SETTINGS,
    }
)
objective = hpo.Maximize("val_accuracy")
max_steps = 200


class Block(nn.Module):
    """Two convolutions, and a way around them without parameters: new channels begin as zeros (option A of the paper)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.stride = outputs // inputs
        self.new = (outputs - inputs) // 2  # channels on either side
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)),
        )

    def forward(self, x):
        around = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new, self.new))
        return torch.relu(self.body(x) + around)


def resnet20():
    widths = [16, *(16,) * 3, *(32,) * 3, *(64,) * 3]  # before the blocks, and after each
    blocks = [Block(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)]
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # He et al. 2015
    return model


def train(trial):
    yield from train_on_images(trial, resnet20)
