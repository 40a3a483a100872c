"""Three fully connected layers and plain SGD, on digits or Fashion-MNIST. A step is 100 iterations.

Pixels go from -1 to 1, and the hidden layers have as many neurons as the image has pixels, and 500 of 784 of that: the network
of MagmaDNN's example for MNIST. As MagmaDNN documents its cross entropy, the loss is summed over the batch; `reduction=mean`
averages it instead, and a learning rate there is worth 1/32 of the same one here: 0.05 there is 0.0016 here.
"""

import functools

import digits
import torch
from torch import nn

import openhpo as hpo

space = hpo.Space({"lr": hpo.Float((1e-5, 0.1), log=True), "batch": 32, "data": "digits", "reduction": "sum"})
objective = hpo.Maximize("val_accuracy")
max_steps = 60
ITERATIONS = 100  # of a step


@functools.cache  # once a rank, not once a trial
def load(data, device):
    if data == "fashion":
        import fashion_cnn

        train_x, train_y, val_x, val_y = fashion_cnn.load(device)
        return train_x.flatten(1) * 2 - 1, train_y, val_x.flatten(1) * 2 - 1, val_y
    train_x, train_y, val_x, val_y = digits.load(device)
    return train_x * 2 - 1, train_y, val_x * 2 - 1, val_y


def train(trial):
    train_x, train_y, val_x, val_y = load(trial["data"], trial.device)
    pixels = train_x.shape[1]
    second = pixels * 500 // 784
    model = nn.Sequential(
        *(nn.Linear(pixels, pixels), nn.ReLU(), nn.Linear(pixels, second), nn.ReLU(), nn.Linear(second, 10))
    ).to(trial.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial["lr"])
    trial.track(model=model, optimizer=optimizer)
    loss_of = nn.functional.cross_entropy
    scale = trial["batch"] if trial["reduction"] == "sum" else 1  # of the loss; what is reported is a mean in either case

    while True:
        optimizer.param_groups[0]["lr"] = trial["lr"]  # which a schedule changes from step to step
        wanted = ITERATIONS * trial["batch"]
        passes = -(-wanted // len(train_x))  # over the data, the last one in part
        order = torch.cat([torch.as_tensor(trial.rng.permutation(len(train_x))) for _ in range(passes)])[:wanted]
        for batch in order.to(trial.device).split(trial["batch"]):
            with trial.autocast():
                loss = loss_of(model(train_x[batch]), train_y[batch])
            trial.backward(loss * scale, optimizer)
        with torch.no_grad(), trial.autocast():
            scores = model(val_x)
        accuracy = (scores.argmax(1) == val_y).float().mean()
        yield {"train_loss": loss, "val_loss": loss_of(scores, val_y), "val_accuracy": accuracy}
