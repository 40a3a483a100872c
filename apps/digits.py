"""Handwritten digits: 1,797 images of 8 x 8 pixels, those of scikit-learn, which is not imported: that takes as long as torch.

digits.npz holds them with scikit-learn's split of four to one, stratified, with random_state 0. They are the test set of
"Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0).
"""

import functools
from pathlib import Path

import numpy
import torch


@functools.cache
def read():
    """Images [1797, 64] of 0 to 16, labels, and the numbers of those to train on and of those to validate on."""
    with numpy.load(Path(__file__).with_suffix(".npz")) as file:
        return file["images"], file["labels"], file["train"], file["val"]


@functools.cache  # once a rank, not once a trial
def load(device, shape=(64,)):
    """To train on, and to validate on: images of a shape, each pixel from 0 to 1, and labels."""
    images, labels, *parts = read()
    found = []
    for part in parts:
        pixels = torch.as_tensor(images[part], dtype=torch.float32) / 16
        found += [pixels.reshape(-1, *shape).to(device), torch.as_tensor(labels[part], dtype=torch.int64).to(device)]
    return tuple(found)
