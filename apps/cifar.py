"""CIFAR-10 and what stands in for it, and training on it, which resnet20_cifar and wideresnet_cifar share. No app of its own.

CIFAR-10 (Krizhevsky 2009) is read from its binary version, the folder cifar-10-batches-bin, which OPENHPO_CIFAR10 names.
Without it the images are scikit-learn's handwritten digits, or with `--set data=fashion` those of fashion_cnn: grey images in
three equal channels, with a black edge that makes them a multiple of 8 pixels high and wide.
"""

import functools
import os
from pathlib import Path
from typing import NamedTuple

import digits
import numpy
import torch
from torch import nn
from warmup import rate

import openhpo as hpo

FOLDER = "OPENHPO_CIFAR10"
BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]
IMAGE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, the green and the blue pixels, row by row
# What a space takes over: which data; for small runs the batches of a step, and the images of the validation set and of the
# test set that it is measured on: 0 for all.
SETTINGS = {"data": "cifar10" if FOLDER in os.environ else "digits", "batches": 0, "measured": 0}


class Part(NamedTuple):
    images: torch.Tensor  # uint8 [sample, channel, height, width]
    labels: torch.Tensor  # int64 [sample]


class Data(NamedTuple):
    train: Part
    val: Part  # 20 % of what there is to train on: for the search
    test: Part  # never selected by
    mean: torch.Tensor  # of the pixels to train on, [channel, 1, 1]
    std: torch.Tensor
    mirrored: bool  # whether an image in a mirror still shows what its label says


def read_batch(path):
    """A file of CIFAR-10's binary version: images and labels."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise hpo.UserError(
            f"{FOLDER} has to name the folder cifar-10-batches-bin with {BATCHES[0]} to test_batch.bin: {error}"
        ) from None
    if not content or len(content) % RECORD:
        raise hpo.UserError(f"{path} is damaged: {len(content)} bytes are no multiple of {RECORD}. Unpack CIFAR-10 again.")
    records = numpy.frombuffer(content, numpy.uint8).reshape(-1, RECORD)
    if records[:, 0].max() > 9:
        raise hpo.UserError(f"{path} has labels above 9, and is no part of CIFAR-10's binary version")
    return records[:, 1:].reshape(-1, *IMAGE), records[:, 0]


def read_cifar10():
    """What there is to train on and the test set."""
    if FOLDER not in os.environ:
        raise hpo.UserError(f"for data=cifar10 set {FOLDER} to the folder cifar-10-batches-bin, or take --set data=digits")
    folder = Path(os.environ[FOLDER])
    images, labels = zip(*(read_batch(folder / name) for name in BATCHES), strict=True)
    return (numpy.concatenate(images), numpy.concatenate(labels)), read_batch(folder / "test_batch.bin")


def read_fashion():
    from fashion_cnn import read_idx

    return tuple((read_idx(f"{name}-images-idx3-ubyte"), read_idx(f"{name}-labels-idx1-ubyte")) for name in ("train", "t10k"))


def read_digits():
    images, labels, *_ = digits.read()
    images = (images.reshape(-1, 8, 8) * (255 / 16)).astype(numpy.uint8)
    known, test = split(len(labels))
    return (images[known], labels[known]), (images[test], labels[test])


READERS = {"cifar10": read_cifar10, "fashion": read_fashion, "digits": read_digits}


def split(count):
    """The numbers of all samples in two parts of 80 and 20 %, always the same ones."""
    order = numpy.random.default_rng(0).permutation(count)
    return order[count // 5 :], order[: count // 5]


def part(images, labels, device):
    """Samples on a device, three channels each, a multiple of 8 pixels high and wide."""
    images = torch.tensor(images)
    if images.dim() == 3:
        images = images[:, None].expand(-1, 3, -1, -1)
    spare = [-size % 8 for size in (images.shape[3], images.shape[2])]
    edges = [edge for size in spare for edge in (size // 2, size - size // 2)]
    return Part(nn.functional.pad(images, edges).contiguous().to(device), torch.tensor(labels).long().to(device))


@functools.cache  # read once a rank, not once a trial
def load(data, device):
    if data not in READERS:
        raise hpo.UserError(f"there is no data={data}; there are {', '.join(READERS)}")
    known, test = READERS[data]()
    train, val = (part(known[0][rows], known[1][rows], device) for rows in split(len(known[1])))
    std, mean = torch.std_mean(train.images / 255, (0, 2, 3), keepdim=True)
    return Data(train, val, part(*test, device), mean, std, mirrored=data != "digits")


def augment(images, shifts, mirror):
    """Each image moved within an edge of black, and those mirrored for which `mirror` is true (He et al. 2016, section 4.2).

    Args:
        images: [sample, channel, height, width].
        shifts: How far down and to the right the image is cut out of its edge: [sample, 2], up to twice the edge's width.
        mirror: [sample].
    """
    count, channels, height, width = images.shape
    edge = edge_of(images)
    numbers, planes, rows, columns = (torch.arange(size, device=images.device) for size in (count, channels, height, width))
    rows = shifts[:, :1] + rows  # [sample, row]
    columns = shifts[:, 1:] + torch.where(mirror[:, None], width - 1 - columns, columns)
    padded = nn.functional.pad(images, [edge] * 4)
    return padded[numbers[:, None, None, None], planes[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def edge_of(images):
    """An eighth of an image, as the 4 pixels of He et al. are."""
    return images.shape[-1] // 8


def measure(trial, model, data, samples):
    """Loss and accuracy, with the statistics of batch normalisation that training has gathered."""
    images, labels = (tensor[: trial["measured"] or None] for tensor in samples)
    model.eval()
    with torch.no_grad(), trial.autocast():
        scores = torch.cat([model((some / 255 - data.mean) / data.std) for some in images.split(1000)])
    return nn.functional.cross_entropy(scores.float(), labels), (scores.argmax(1) == labels).float().mean()


def train_on_images(trial, make_model, *, nesterov=False):
    """Train a network on images by SGD; a step is one pass over them, or over so many batches of them.

    Args:
        make_model: Makes the network, for images of three channels and ten classes.
        nesterov: Which kind of momentum.
    """
    data = load(trial["data"], trial.device)
    images, labels = data.train
    model = make_model().to(trial.device)
    parallel = trial.parallel(model)  # the model itself where one rank trains
    optimizer = torch.optim.SGD(model.parameters(), lr=trial["lr"], momentum=trial["momentum"], nesterov=nesterov)
    trial.track(model=model, optimizer=optimizer)

    while True:
        # all of these may change from step to step
        optimizer.param_groups[0].update(momentum=trial["momentum"], weight_decay=trial["weight_decay"])
        size = max(1, round(trial["batch"]))
        order = torch.as_tensor(trial.shard(trial.rng.permutation(len(labels))))
        # drawn for every sample, so that how one is augmented does not depend on who trains on it
        shifts = torch.as_tensor(trial.rng.integers(2 * edge_of(images) + 1, size=(len(labels), 2)), device=trial.device)
        mirror = torch.as_tensor(trial.rng.random(len(labels)) < 0.5 * data.mirrored, device=trial.device)
        batches = order[: trial["batches"] * size or None].to(trial.device).split(size)
        model.train()
        for done, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = rate(trial, done, len(batches))
            inputs = (augment(images[batch], shifts[batch], mirror[batch]) / 255 - data.mean) / data.std
            with trial.autocast():
                loss = nn.functional.cross_entropy(parallel(inputs), labels[batch])
            trial.backward(loss, optimizer)
        found = {"train_loss": loss}
        for name, samples in (("val", data.val), ("test", data.test)):
            found[f"{name}_loss"], found[f"{name}_accuracy"] = measure(trial, model, data, samples)
        yield found
