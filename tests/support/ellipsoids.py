"""Ellipsoids, their rasters, and their cone-beam views in closed form."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from operators import ConeBeam

Array = NDArray[np.float64]


class Ellipsoid(NamedTuple):
    """Density, centre and half-axes along X, Y and Z (Y points up in a slice), and rotation about Z."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    phi: float = 0.0
    density: float = 1.0

    def scaled(self, s: float) -> Ellipsoid:
        """Return the same with half-axes times s."""
        a, b, c = self.half
        return self._replace(half=(s * a, s * b, s * c))

    def _unit(self) -> Array:
        """Return the matrix that makes it a unit sphere."""
        cos, sin = math.cos(self.phi), math.sin(self.phi)
        return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) / np.array(self.half)[:, None]

    def raster(self, op: ConeBeam, fine: int = 4) -> Tensor:
        """Return its volume (1, 1, D, H, W), averaged over fine^3 samples a voxel."""
        z, y, x = (
            (np.arange(n * fine) - (n * fine - 1) / 2) * (size / fine)
            for n, size in zip(op.shape, op.voxel_size, strict=True)
        )
        M, (x0, y0, z0) = self._unit(), self.centre
        x, y, z = x - x0, (-y - y0)[:, None], (z - z0)[:, None, None]
        inside = (M[0, 0] * x + M[0, 1] * y) ** 2 + (M[1, 0] * x + M[1, 1] * y) ** 2 + (M[2, 2] * z) ** 2 < 1
        depth, height, width = op.shape
        mean = inside.reshape(depth, fine, height, fine, width, fine).mean((1, 3, 5))
        return torch.from_numpy(self.density * mean)[None, None]

    def inside(self, op: ConeBeam, s: float) -> Tensor:
        """Return which voxels (1, 1, D, H, W) lie wholly inside the ellipsoid scaled by s."""
        return self._replace(density=1.0).scaled(s).raster(op, 2) == 1

    def outside(self, op: ConeBeam, s: float) -> Tensor:
        """Return which voxels (1, 1, D, H, W) lie wholly outside the ellipsoid scaled by s."""
        return self._replace(density=1.0).scaled(s).raster(op, 2) == 0


def _turned(roll: float, tilt: float, slant: float) -> Array:
    """Return the rotation of (u, v, d): tilt from v to d first, then slant from u to d, then roll from u to v."""

    def plane(i: int, j: int, angle: float) -> Array:
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[j, i], turn[i, j] = math.sin(angle), -math.sin(angle)
        return turn

    return plane(0, 1, roll) @ plane(0, 2, slant) @ plane(1, 2, tilt)


def cone_views(op: ConeBeam, *ellipsoids: Ellipsoid, fine: int = 3) -> Tensor:
    """Return the line integrals (1, 1, n_angles, rows, columns), averaged over fine^2 rays a bin."""
    views = []
    rows, columns = (
        (np.arange(n * fine) - (n * fine - 1) / 2) * (pitch / fine)
        for n, pitch in zip(op.detector_shape, op.pitch, strict=True)
    )
    parts = [getattr(op, name).detach().double().expand_as(op.angles).numpy() for name in op.TENSORS]
    for angle, source_origin, origin_detector, offset, row_offset, shift, *turns in zip(*parts, strict=True):
        across = np.array([math.cos(angle), math.sin(angle), 0.0])
        towards = np.array([-math.sin(angle), math.cos(angle), 0.0])
        source = -source_origin * towards + np.array([0, 0, shift])
        length = source_origin + origin_detector
        local = np.array(np.broadcast_arrays(columns, rows[:, None], 0.0))
        if op.curved:
            gamma = (local[0] + offset) / length
            points = np.array([length * np.sin(gamma), local[1] + row_offset, length * np.cos(gamma)])
        else:
            middle = np.array([offset, row_offset, length])
            points = middle[:, None, None] + np.tensordot(_turned(*turns), local, 1)
        rays = np.tensordot(points, np.array([across, [0, 0, 1.0], towards]), (0, 0))
        rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        total = np.zeros(rays.shape[:2])
        for ellipsoid in ellipsoids:
            M = ellipsoid._unit()
            start, step = M @ (source - np.array(ellipsoid.centre)), rays @ M.T
            a, b, c = (step**2).sum(-1), step @ start, start @ start - 1
            total += ellipsoid.density * 2 * np.sqrt(np.clip(b * b - a * c, 0, None)) / a
        n, m = op.detector_shape
        views.append(total.reshape(n, fine, m, fine).mean((1, 3)))
    return torch.from_numpy(np.stack(views))[None, None]
