"""A learning rate that warms up, which several apps share. No app of its own."""


def rate(trial, done, batches):
    """The learning rate of a step's batch number `done`, of so many: `lr`, constant or by a schedule, times the warm-up.

    The warm-up (Goyal et al. 2017, arXiv 1706.02677) is a straight line from 0 over the hyperparameter `warmup`, in steps;
    where that is 0, there is none.
    """
    lr, warmup = trial.at(done / batches)["lr"], trial["warmup"]
    return lr * min(1.0, (trial.step - 1 + (done + 1) / batches) / warmup) if warmup else lr
