"""A convolutional autoencoder of fields that solve a partial differential equation. A step is one pass over them.

The fields are snapshots of decaying flows that decaying_flow computes in some seconds, or with `--set data=flow.npz` those of a
file: its array `fields` of shape [sample, channel, height, width], float32, in which height and width are multiples of 8. They
are split in order, 64 % to train on, 16 % to select by and 20 % to test, so that snapshots of one flow stay together. Losses
are mean squared errors in units of the variance of what is trained on: 1 is what the mean field would have.
"""

import functools
import itertools
import zipfile
import zlib

import numpy
import torch
from decaying_flow import snapshots
from torch import nn
from warmup import rate

import openhpo as hpo

ARRAY = "fields"
HALVINGS = 3  # stages of the encoder, each of which halves height and width
filters = hpo.Integer((8, 32), log=True)
space = hpo.Space(
    {
        "lr": hpo.Float((1e-4, 1e-2), log=True),
        "weight_decay": hpo.Float((1e-6, 1e-2), log=True),
        "beta1": hpo.Float((0.8, 0.98)),
        "beta2": hpo.Float((0.9, 0.999)),
        "warmup": hpo.Integer((0, 3)),  # steps
        "filters1": filters,
        "filters2": filters,
        "filters3": filters,
        "latent": hpo.Integer((16, 128), log=True),
        "batch": 32,
        "data": "generated",
        "batches": 0,  # of a step; 0 for all
    }
)
objective = hpo.Minimize("val_loss")
max_steps = 30


def read(path):
    """The fields of a file."""
    try:
        with open(path, "rb") as file, numpy.load(file) as arrays:
            fields = arrays[ARRAY]
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise hpo.UserError(f"data={path} has to be a .npz file with an array {ARRAY!r}: {error}") from None
    if fields.ndim != 4 or len(fields) < 5 or fields.dtype != numpy.float32:
        raise hpo.UserError(
            f"{ARRAY} in {path} has to be float32 of shape [sample, channel, height, width], of 5 samples at least, "
            f"and it is {fields.dtype} of shape {list(fields.shape)}"
        )
    if any(size % 2**HALVINGS or not size for size in fields.shape[2:]):
        raise hpo.UserError(f"fields have to be a multiple of 8 high and wide, and those in {path} are {fields.shape[2:]}")
    if not numpy.isfinite(fields).all():
        raise hpo.UserError(f"{ARRAY} in {path} has values that are not finite")
    return fields


@functools.cache  # once a rank, not once a trial
def load(data, device):
    """Fields to train on, to select by and to test, each channel with a mean of 0 and a variance of 1 in the first of them."""
    fields = torch.as_tensor(snapshots() if data == "generated" else read(data), device=device)
    train, rest = (64 * len(fields)) // 100, (80 * len(fields)) // 100
    std, mean = torch.std_mean(fields[:train], (0, 2, 3), keepdim=True)
    return ((fields - mean) / torch.where(std > 0, std, 1)).tensor_split((train, rest))


class Autoencoder(nn.Module):
    def __init__(self, channels, height, width, filters, latent):
        super().__init__()
        widths = [channels, *filters]
        inner = (filters[-1], height >> len(filters), width >> len(filters))
        size = inner[0] * inner[1] * inner[2]
        down = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.GELU())]
        widths.reverse()
        up = [layer for a, b in itertools.pairwise(widths) for layer in (nn.GELU(), nn.ConvTranspose2d(a, b, 4, 2, 1))]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(size, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, size), nn.Unflatten(1, inner), *up)

    def forward(self, x):
        return self.decoder(self.encoder(x))


def measure(trial, model, fields):
    with torch.no_grad(), trial.autocast():
        found = torch.cat([model(some) for some in fields.split(500)])
    return nn.functional.mse_loss(found.float(), fields)


def train(trial):
    fields, val, test = load(trial["data"], trial.device)
    widths = [trial[f"filters{stage}"] for stage in range(1, HALVINGS + 1)]
    model = Autoencoder(*fields.shape[1:], widths, trial["latent"]).to(trial.device)
    parallel = trial.parallel(model)  # the model itself where one rank trains
    optimizer = torch.optim.AdamW(model.parameters(), lr=trial["lr"])
    trial.track(model=model, optimizer=optimizer)

    while True:
        # both may change from step to step
        optimizer.param_groups[0].update(betas=(trial["beta1"], trial["beta2"]), weight_decay=trial["weight_decay"])
        order = torch.as_tensor(trial.shard(trial.rng.permutation(len(fields))))
        batches = order[: trial["batches"] * trial["batch"] or None].to(trial.device).split(trial["batch"])
        for done, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = rate(trial, done, len(batches))
            with trial.autocast():
                found = parallel(fields[batch])
            loss = nn.functional.mse_loss(found.float(), fields[batch])
            trial.backward(loss, optimizer)
        yield {"train_loss": loss, "val_loss": measure(trial, model, val), "test_loss": measure(trial, model, test)}
