"""Shapes and fields for synthetic volumes: dead leaves in space, fractal noise, sponges, drilled bodies.

Source: A. B. Lee, D. Mumford and J. Huang, Occlusion models for natural images, IJCV 41, 2001, for leaves in the plane.
In space a picture without a scale of its own has radii of density r^-4.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import map_coordinates

from .dead_leaves import power_law_radii
from .textures import reshaped, unit

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

_MAX_LEAVES = 30000
_CHUNK = 2**17
"""Samples that are tested against leaves at a time."""
_ELLIPSOID, _BOX, _CYLINDER = range(3)


class Leaves(NamedTuple):
    """A volume of leaves: which one is in front where, and where they are."""

    labels: Integers
    """Number of the leaf (n, n, n); 0 where there is none."""
    centre: Floats
    """Centre of each leaf in samples (count + 1, 3), the ground first."""
    radius: Floats
    """Radius of the sphere around each leaf in samples; half the side of the volume for the ground."""


class _Bodies(NamedTuple):
    """Leaves before they fall: u = (x - centre) @ frame, inside where |u| < 1 in the norm of the kind."""

    centre: NDArray[np.float64]
    radius: NDArray[np.float64]
    frame: NDArray[np.float64]
    """(count, 3, 3): a leaf's axes as columns, over its half axes."""
    kind: NDArray[np.intp]


def dead_leaves(
    n: int,
    smallest: float,
    largest: float,
    rng: np.random.Generator,
    *,
    exponent: float = 4.0,
    cover: float = 2.5,
    shapes: tuple[float, float, float] = (0.5, 0.3, 0.2),
    thinnest: float = 0.25,
    aligned: bool = False,
) -> Leaves:
    """Let ellipsoids, boxes and cylinders of power-law sizes fall into n^3 samples, each in front of those before it.

    Args:
        n: samples on a side.
        smallest, largest: limits of the radii in samples.
        rng: draws them.
        exponent: of the density of radii, r^-exponent.
        cover: volume of all leaves' circumscribed spheres over that of the picture; at most 30000 leaves are drawn.
        shapes: shares of ellipsoids, boxes and cylinders.
        thinnest: least ratio of a leaf's half axes to its largest one.
        aligned: whether the leaves' axes are those of the volume.
    """
    radius = power_law_radii(n, smallest, largest, rng, exponent=exponent, cover=cover, dimensions=3, most=_MAX_LEAVES)
    count = len(radius)
    kind = rng.choice(3, count, p=shapes)
    # Half axes over the radius of the sphere around the leaf.
    axes = np.exp(rng.uniform(math.log(thinnest), 0, (count, 3)))
    axes[(kind == _ELLIPSOID) & (rng.random(count) < 0.4)] = 1.0
    axes[kind == _CYLINDER, 1] = axes[kind == _CYLINDER, 0]
    corner = np.where(
        kind == _BOX, np.linalg.norm(axes, axis=1), np.where(kind == _CYLINDER, np.hypot(*axes[:, 1:].T), axes.max(1))
    )
    axes *= (radius / corner)[:, None]
    turns = np.broadcast_to(np.eye(3), (count, 3, 3)) if aligned else _rotations(count, rng)
    frame = turns / axes[:, None, :]
    if aligned:  # a cylinder along any of the three axes
        order = np.argsort(rng.random((count, 3)), 1)
        frame = np.take_along_axis(frame, order[:, :, None], 1)
    bodies = _Bodies(rng.uniform(-radius, n + radius, (3, count)).T, radius, frame, kind)

    labels = np.zeros(n**3, np.int32)
    # Classes of a quarter of an octave: all cubes of a class are as large as its largest leaf.
    size = np.ceil(4 * np.log2(np.maximum(radius, 1.0))).astype(int)
    for level in np.unique(size):
        reach = math.ceil(2 ** (level / 4)) + 1
        per = max(1, _CHUNK // (2 * reach + 1) ** 3)
        for shape in (_ELLIPSOID, _BOX, _CYLINDER):
            which = np.flatnonzero((size == level) & (kind == shape))
            for part in np.split(which, range(per, len(which), per)) if len(which) else ():
                _fall(labels, n, reach, part, bodies)
    return Leaves(
        labels.reshape(n, n, n),
        np.concatenate([np.full((1, 3), n / 2), bodies.centre]).astype(np.float32),
        np.concatenate([[n / 2], radius]).astype(np.float32),
    )


def _rotations(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return rotations (count, 3, 3), uniformly distributed, from random quaternions."""
    w, x, y, z = (q := rng.standard_normal((4, count))) / np.linalg.norm(q, axis=0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


def _fall(labels: Integers, n: int, reach: int, part: NDArray[np.intp], bodies: _Bodies) -> None:
    """Write the numbers of some leaves of one shape where they are in front."""
    corner = np.floor(bodies.centre[part]).astype(np.int32)
    if len(part) == 1:  # a large one: only the part of its cube within the volume
        at = [np.arange(max(0, c - reach), min(n, c + reach + 1), dtype=np.int32)[None] for c in corner[0]]
    else:
        cube = np.arange(-reach, reach + 1, dtype=np.int32)
        at = [corner[:, axis, None] + cube for axis in range(3)]
    u = []
    for k in range(3):
        terms = []
        for axis in range(3):
            along = (at[axis] + 0.5 - bodies.centre[part, axis, None]) * bodies.frame[part, axis, k, None]
            # Points outside the volume are never inside a leaf.
            terms.append(along.astype(np.float32))
        u.append((terms[0][:, :, None] + terms[1][:, None])[..., None] + terms[2][:, None, None])
    shape = bodies.kind[part[0]]
    if shape == _ELLIPSOID:
        seen = u[0] * u[0] + u[1] * u[1] + u[2] * u[2] < 1
    elif shape == _BOX:
        seen = np.maximum(np.maximum(np.abs(u[0]), np.abs(u[1])), np.abs(u[2])) < 1
    else:
        seen = (u[0] * u[0] + u[1] * u[1] < 1) & (np.abs(u[2]) < 1)
    if len(part) > 1:
        z, y, x = ((a >= 0) & (a < n) for a in at)
        seen &= (z[:, :, None] & y[:, None])[..., None] & x[:, None, None]
    index = ((at[0] * n)[:, :, None] + at[1][:, None])[..., None] * n + at[2][:, None, None]
    where = index[seen]
    number = np.repeat((part + 1).astype(np.int32), np.count_nonzero(seen, (1, 2, 3)))
    # Leaves are in order, and of several values for one place the last one is kept.
    ahead = number > labels[where]
    labels[where[ahead]] = number[ahead]


def noise(
    n: int,
    rng: np.random.Generator,
    *,
    slope: float = 1.5,
    longest: float = 1.0,
    shortest: float = 0.0,
    stretch: float = 1.0,
) -> Floats:
    """Return Gaussian noise (n, n, n), periodic, of unit variance, whose amplitude falls as frequency^-slope.

    Args:
        n: voxels on a side.
        rng: draws it.
        slope: 0 is white; 1.5 has as much power in every octave.
        longest: largest scale, as a part of the side; the spectrum is flat beyond, or empty if there is a shortest one.
        shortest: smallest scale, as a part of the side, above 0: only the band between remains.
        stretch: ratio of the scales along the first axis and across it.
    """
    f = fft.fftfreq(n, 1 / n).astype(np.float32)
    power = (f[:, None, None] * stretch) ** 2 + f[:, None] ** 2 + fft.rfftfreq(n, 1 / n).astype(np.float32) ** 2
    gain = (power + np.float32(1 / longest**2)) ** np.float32(-slope / 2)
    if shortest > 0:
        gain *= np.exp(-power * np.float32(shortest**2 / 2)) * (power > 1 / longest**2)
    spectrum = fft.rfftn(rng.standard_normal((n, n, n), np.float32)) * gain
    spectrum[0, 0, 0] = 0
    return unit(fft.irfftn(spectrum, (n, n, n)))


def texture(n: int, rng: np.random.Generator) -> Floats:
    """Return a texture of unit variance: clouds, grain, ridges, fibres, layers."""
    kind = rng.random()
    if kind < 0.15:
        return layers(n, rng)
    stretch = 1.0 if rng.random() < 0.6 else math.exp(rng.uniform(0.3, 1.8) * rng.choice([-1, 1]))
    x = noise(n, rng, slope=rng.uniform(0.6, 2.4), longest=math.exp(rng.uniform(math.log(0.04), 0)), stretch=stretch)
    return reshaped(x, kind, (0.6, 0.7, 0.8), rng)


def layers(n: int, rng: np.random.Generator) -> Floats:
    """Return bent layers of random period and direction: rings of wood, sediments, laminates, muscle."""
    period = math.exp(rng.uniform(math.log(3), math.log(24)))
    normal = rng.standard_normal(3)
    z, y, x = (np.arange(n, dtype=np.float32) * np.float32(c / np.linalg.norm(normal) / period) for c in normal)
    phase = z[:, None, None] + y[:, None] + x
    if rng.random() < 0.8:
        phase = phase + np.float32(rng.uniform(0, 1.2) * n / 96) * noise(n, rng, slope=rng.uniform(2.5, 3.5))
    wave = np.sin(np.float32(2 * math.pi) * phase)
    if period > 5 and rng.random() < 0.5:
        wave = np.tanh(rng.uniform(1, 0.4 * period) * (wave - rng.uniform(-0.7, 0.7)))
    return unit(wave)


def coverage(field: Floats) -> Floats:
    """Return the part of each voxel where a smooth field is positive, from its value and its slope there."""
    steep = np.sqrt(sum(np.square(g) for g in np.gradient(field))) + np.float32(1e-6)
    part: Floats = np.clip(0.5 + field / steep, 0, 1).astype(np.float32)
    return part


def sponge(n: int, rng: np.random.Generator) -> Floats:
    """Return the part of each voxel that trabeculae, foam or grains fill: noise of one scale, cut at a level.

    Bars and plates lie where the noise is near zero, grains and pores where it is high.
    """
    size = math.exp(rng.uniform(math.log(5), math.log(28))) / n
    stretch = 1.0 if rng.random() < 0.6 else math.exp(rng.uniform(-1.0, 1.0))
    x = noise(n, rng, slope=rng.uniform(0, 1), longest=2.5 * size, shortest=0.5 * size, stretch=stretch)
    if rng.random() < 0.35:  # plates
        return coverage(np.float32(rng.uniform(0.12, 0.5)) - np.abs(x))
    if rng.random() < 0.5:  # rods: where two fields are near zero
        other = noise(n, rng, slope=rng.uniform(0, 1), longest=2.5 * size, shortest=0.5 * size, stretch=stretch)
        return coverage(np.float32(rng.uniform(0.3, 0.8)) - np.hypot(x, other))
    return coverage(x - np.float32(rng.uniform(-0.8, 1.2)))


def drilled(n: int, rng: np.random.Generator) -> Floats:
    """Return the part of each voxel filled by a disc, a cube or space itself with holes along one axis, or with rods.

    Holes lie on a grid or at random, all of one size or of several.
    """
    t = np.arange(n, dtype=np.float32) - (n - 1) / 2
    turn = rng.uniform(0, 2 * math.pi)
    tilt = rng.normal(0, 0.15, 2) * (rng.random() < 0.5)
    z, y, x = t[:, None, None], t[:, None], t
    u = np.float32(math.cos(turn)) * x + np.float32(math.sin(turn)) * y + np.float32(tilt[0]) * z
    v = np.float32(math.cos(turn)) * y - np.float32(math.sin(turn)) * x + np.float32(tilt[1]) * z
    pitch = math.exp(rng.uniform(math.log(6), math.log(40)))
    radius = pitch * rng.uniform(0.12, 0.46)
    if rng.random() < 0.6:  # a grid
        holes = np.hypot(u - pitch * np.rint(u / pitch), v - pitch * np.rint(v / pitch)) - np.float32(radius)
    else:
        count = int(min(60, 0.5 * (1.5 * n / pitch) ** 2)) + 1
        radii = np.maximum(1.0, radius * np.exp(rng.normal(0, 0.4, count)))
        places = rng.uniform(-0.75 * n, 0.75 * n, (count, 2))
        plane = np.full((2 * n, 2 * n), np.inf, np.float32)
        s = np.arange(2 * n, dtype=np.float32) - n
        for (a, b), r in zip(places, radii, strict=True):
            np.minimum(plane, np.hypot(s - np.float32(a), (s - np.float32(b))[:, None]) - np.float32(r), out=plane)
        at = [np.broadcast_to(w + n, (n, n, n)).reshape(-1) for w in (v, u)]
        holes = map_coordinates(plane, at, order=1, mode="nearest").reshape(n, n, n)
    body = np.full((1, 1, 1), np.float32(n))
    kind = rng.random()
    half, thick = n * rng.uniform(0.25, 0.5), n * rng.uniform(0.1, 0.6)
    if kind < 0.4:
        body = np.minimum(half - np.hypot(u, v), thick - np.abs(z))
    elif kind < 0.6:
        body = np.minimum(np.minimum(half - np.abs(u), half - np.abs(v)), thick - np.abs(z))
    outside = -holes if rng.random() < 0.3 else holes
    part: Floats = np.clip(0.5 + np.minimum(outside, body), 0, 1).astype(np.float32)
    return part
