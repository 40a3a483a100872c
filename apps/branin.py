"""The Branin function with a made-up learning curve: no training, for trying things out.

Its minimum is 0.397887, at (-pi, 12.275), (pi, 2.275) and (9.42478, 2.475).
"""

import math

import openhpo as hpo

space = hpo.Space({"x": hpo.Float((-5.0, 10.0)), "y": hpo.Float((0.0, 15.0))})
objective = hpo.Minimize("loss")
max_steps = 20


def train(trial):
    x, y = trial["x"], trial["y"]
    value = (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2
    value += 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10
    trial.track()  # nothing is learnt, so there is no state but the step
    while True:
        # what is left to learn shrinks from step to step, with some noise
        rest = 20.0 / trial.step * (1 + 0.1 * trial.rng.standard_normal())
        yield {"loss": value + rest * (trial.step < max_steps), "rest": rest}
