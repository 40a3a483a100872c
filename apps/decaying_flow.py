"""A small data set for autoencoder_pde: snapshots of two-dimensional flows that decay. No app of its own.

The equation is that of the vorticity w of an incompressible fluid on a periodic square of side 2 pi,

    dw/dt + u dw/dx + v dw/dy = viscosity * (d2w/dx2 + d2w/dy2),   w = dv/dx - du/dy,   du/dx + dv/dy = 0,

from random initial conditions, as in "The emergence of isolated coherent vortices in turbulent flow" (McWilliams 1984, Journal
of Fluid Mechanics 146); these here are smaller, and begin with another spectrum. It is solved in Fourier space: derivatives are
products with wave numbers, the product of velocity and gradient is taken in space, and the third of the wave numbers that it
would falsify is left out (Orszag 1971, Journal of the Atmospheric Sciences 28). Time goes by the classical Runge-Kutta method
of fourth order, with the viscous term integrated exactly (Canuto et al., "Spectral Methods in Fluid Dynamics", 1988). Without
viscosity that keeps energy and enstrophy but for the error of the steps in time; with it both decay.
"""

import numpy
from scipy import fft


class Square:
    """The periodic square with so many points a side, and fields on it of shape [..., y, x]; in Fourier space [..., ky, kx]."""

    def __init__(self, points):
        self.points = points
        self.kx = numpy.arange(points // 2 + 1.0)
        self.ky = fft.fftfreq(points, 1 / points)[:, None]
        self.squares = self.kx**2 + self.ky**2
        self.inverse = 1 / numpy.where(self.squares, self.squares, 1) * (self.squares > 0)  # the mean flow is 0
        self.kept = numpy.maximum(self.kx, abs(self.ky)) < points / 3

    def forward(self, field):
        return fft.rfft2(field)

    def backward(self, modes):
        return fft.irfft2(modes, (self.points, self.points))

    def velocity(self, modes):
        """Both components of the velocity, in space, of a vorticity in Fourier space."""
        stream = modes * self.inverse
        return self.backward(1j * self.ky * stream), self.backward(-1j * self.kx * stream)

    def advection(self, modes):
        """What the flow itself does to its vorticity, in Fourier space, a unit of time."""
        u, v = self.velocity(modes)
        dx, dy = self.backward(1j * self.kx * modes), self.backward(1j * self.ky * modes)
        return -self.forward(u * dx + v * dy) * self.kept


def random_vorticity(square, flows, rng):
    """Vorticities in Fourier space, of shape [flow, ky, kx]: wave numbers around 2, and a mean square velocity of 1."""
    noise = square.forward(rng.standard_normal((flows, square.points, square.points)))
    modes = noise * square.squares * numpy.exp(-square.squares / 4) * square.kept
    u, v = square.velocity(modes)
    return modes / numpy.sqrt((u**2 + v**2).mean((1, 2), keepdims=True))


def advance(square, modes, viscosity, dt):
    """The vorticity in Fourier space a step in time later."""
    half = numpy.exp(-viscosity * square.squares * dt / 2)  # what the viscosity leaves after half of the step
    first = square.advection(modes)
    second = square.advection(half * (modes + dt / 2 * first))
    third = square.advection(half * modes + dt / 2 * second)
    last = square.advection(half**2 * modes + dt * half * third)
    return half**2 * modes + dt / 6 * (half**2 * first + 2 * half * (second + third) + last)


def snapshots(flows=200, times=4, points=32, viscosity=5e-3, dt=0.025, every=10, seed=0):
    """Velocities of flows that decay, each at several times one after the other.

    Args:
        flows: How many, each from an initial condition of its own.
        times: Snapshots of a flow.
        points: A side of the square.
        viscosity: In units of the velocity at the beginning and of the square's side over 2 pi.
        dt: A step in time, in the same units; the velocity times it has to be well below the distance of two points.
        every: Steps between two snapshots, and before the first one.
        seed: Of the initial conditions.

    Returns:
        float32 [flow * times, 2, y, x]: both components of the velocity, flow by flow.
    """
    square = Square(points)
    modes = random_vorticity(square, flows, numpy.random.default_rng(seed))
    found = []
    for _ in range(times):
        for _ in range(every):
            modes = advance(square, modes, viscosity, dt)
        found.append(numpy.stack(square.velocity(modes), 1))
    return numpy.stack(found, 1).reshape(-1, 2, points, points).astype(numpy.float32)
