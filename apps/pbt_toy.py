"""The toy of population based training (Jaderberg et al. 2017, figure 2): no training by either choice of h alone succeeds.

What is wanted is a large Q = 1.2 - (theta0^2 + theta1^2), but gradients are those of 1.2 - (h0 theta0^2 + h1 theta1^2). From
theta = [0.9, 0.9], h = [1, 0] or h = [0, 1] leaves one coordinate where it is, so that Q stays below 1.2 - 0.81 = 0.39.
"""

import numpy

import openhpo as hpo

space = hpo.Space({"h0": hpo.Float((0.0, 1.0)), "h1": hpo.Float((0.0, 1.0))})
objective = hpo.Maximize("q")
max_steps = 200
RATE = 0.01


def train(trial):
    theta = numpy.array([0.9, 0.9])
    trial.track(theta=theta)
    while True:
        h = numpy.array([trial["h0"], trial["h1"]])
        theta -= RATE * 2 * h * theta  # in place, as this array is what is tracked
        yield {"q": 1.2 - float(theta @ theta), "theta0": theta[0], "theta1": theta[1]}
