"""Training with LARS in large batches, which digits_lars and fashion_lars share. No app of its own."""

import torch
from torch import nn

from openhpo.training.optim import LARS


def rate(trial, epochs):
    """The learning rate after so many epochs: a linear warm-up, half of the training at most, then a parabola down to 0."""
    warmup = min(trial["warmup"], trial["epochs"] / 2)
    return trial["base_lr"] * min(epochs / warmup, ((trial["epochs"] - epochs) / (trial["epochs"] - warmup)) ** 2)


def train_large_batches(trial, model, data, batch_size):
    """Train a model for as many epochs as the trial says; a step is one epoch."""
    train_x, train_y, val_x, val_y = data
    optimizer = LARS(model.parameters(), lr=0.0, momentum=trial["momentum"], weight_decay=trial["weight_decay"])
    trial.track(model=model, optimizer=optimizer)
    loss_of = nn.functional.cross_entropy

    while trial.step <= trial["epochs"]:
        model.train()
        batches = torch.as_tensor(trial.rng.permutation(len(train_x)), device=trial.device).split(batch_size)
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
