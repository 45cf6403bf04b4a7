"""Radon transforms known in closed form, and small helpers of the Radon tests."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators import FanBeam, Radon

Array = NDArray[np.float64]


class Ellipse(NamedTuple):
    """Density, half axes, centre (y up) and rotation; lengths in the unit of pixel_size."""

    density: float
    a: float
    b: float
    x0: float
    y0: float
    phi: float

    def scaled(self, s: float) -> Ellipse:
        return Ellipse(self.density, s * self.a, s * self.b, s * self.x0, s * self.y0, self.phi)

    def image(self, shape: tuple[int, int], pixel_size: float = 1.0, fine: int = 8) -> Array:
        """Return its raster, area-averaged over fine x fine samples a pixel."""
        height, width = shape
        x = (np.arange(width * fine) - (width * fine - 1) / 2) * pixel_size / fine - self.x0
        y = ((height * fine - 1) / 2 - np.arange(height * fine))[:, None] * pixel_size / fine - self.y0
        u, v = x * np.cos(self.phi) + y * np.sin(self.phi), y * np.cos(self.phi) - x * np.sin(self.phi)
        inside = (u / self.a) ** 2 + (v / self.b) ** 2 < 1
        return self.density * inside.reshape(height, fine, width, fine).mean((1, 3))

    def sinogram(self, angles: Array, t: Array, pitch: float) -> Array:
        """Return the averages of its line integrals over bins centred on t."""
        s = np.hypot(self.a * np.cos(angles - self.phi), self.b * np.sin(angles - self.phi))[:, None]
        centre = (self.x0 * np.cos(angles) + self.y0 * np.sin(angles))[:, None]

        def integral(edge: Array) -> Array:
            v = np.clip((edge - centre) / s, -1, 1)
            return self.density * self.a * self.b * (v * np.sqrt(1 - v * v) + np.arcsin(v))  # type: ignore[no-any-return]

        return (integral(t + pitch / 2) - integral(t - pitch / 2)) / pitch

    def fan_sinogram(self, angles: Array, u: Array, pitch: float, source_origin: float, length: float) -> Array:
        """Return the averages of its line integrals over bins centred on u of a flat detector, by quadrature."""
        nodes, weights = np.polynomial.legendre.leggauss(32)
        gamma = np.arctan((u[:, None] + pitch / 2 * nodes) / length)
        phi, t = angles[:, None, None] - gamma, source_origin * np.sin(gamma)
        s2 = (self.a * np.cos(phi - self.phi)) ** 2 + (self.b * np.sin(phi - self.phi)) ** 2
        tau = t - self.x0 * np.cos(phi) - self.y0 * np.sin(phi)
        line = 2 * self.density * self.a * self.b * np.sqrt(np.clip(s2 - tau**2, 0, None)) / s2
        return line @ (weights / 2)  # type: ignore[no-any-return]


SHEPP_LOGAN = [
    Ellipse(1.0, 0.69, 0.92, 0, 0, 0),
    Ellipse(-0.8, 0.6624, 0.874, 0, -0.0184, 0),
    Ellipse(-0.2, 0.11, 0.31, 0.22, 0, -math.pi / 10),
    Ellipse(-0.2, 0.16, 0.41, -0.22, 0, math.pi / 10),
    Ellipse(0.1, 0.21, 0.25, 0, 0.35, 0),
    Ellipse(0.1, 0.046, 0.046, 0, 0.1, 0),
    Ellipse(0.1, 0.046, 0.046, 0, -0.1, 0),
    Ellipse(0.1, 0.046, 0.023, -0.08, -0.605, 0),
    Ellipse(0.1, 0.023, 0.023, 0, -0.606, 0),
    Ellipse(0.1, 0.023, 0.046, 0.06, -0.605, 0),
]


def shepp_logan(n: int) -> Tensor:
    return tensor(np.sum([e.scaled(n / 2).image((n, n)) for e in SHEPP_LOGAN], axis=0))


def tensor(a: Array) -> Tensor:
    return torch.as_tensor(a)[None, None]


def bins(op: Radon | FanBeam) -> Array:
    return float(op.offset.detach()) + op.pitch * (np.arange(op.n_detectors) - (op.n_detectors - 1) / 2)


def truth(op: Radon | FanBeam, *ellipses: Ellipse) -> Tensor:
    """Return the sinogram of ellipses in closed form."""
    angles, u = op.angles.detach().numpy(), bins(op)
    if isinstance(op, Radon):
        return tensor(np.sum([e.sinogram(angles, u, op.pitch) for e in ellipses], 0))
    length = op.source_origin + op.origin_detector
    return tensor(np.sum([e.fan_sinogram(angles, u, op.pitch, op.source_origin, length) for e in ellipses], 0))


def half_turn(n: int) -> Array:
    return np.arange(n) * np.pi / n


def some_angles(n: int) -> Array:
    return np.random.default_rng(0).uniform(-1, 7, n)


def turn(n: int, degrees: float = 360.0) -> Array:
    return np.arange(n) * (math.radians(degrees) / n)
