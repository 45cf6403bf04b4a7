"""Textures and drawings for synthetic images: fractal noise, waves, tiles, strokes and text-like lines."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from ..phantoms.tubes import tube_coverage

Floats = NDArray[np.float32]

_N_GLYPHS = 24
"""Different characters of a text."""


def unit(x: NDArray[np.floating]) -> Floats:
    """Return x with mean 0 and variance 1."""
    centred = x - x.mean()
    y: Floats = (centred / max(float(centred.std()), 1e-6)).astype(np.float32)
    return y


def fractal(n: int, slope: float, rng: np.random.Generator, *, aspect: float = 1.0, longest: float = 1.0) -> Floats:
    """Return Gaussian noise (n, n), periodic, of unit variance, whose amplitude falls as frequency^-slope.

    Args:
        n: pixels on a side.
        slope: 0 is white, 1 falls like photographs.
        rng: draws the noise and its direction.
        aspect: ratio of the scales across and along that direction; 1 is isotropic.
        longest: largest scale, as a part of the width; the spectrum is flat beyond.
    """
    fy, fx = fft.fftfreq(n, 1 / n)[:, None], fft.rfftfreq(n, 1 / n)
    if aspect != 1:
        turn = rng.uniform(0, math.pi)
        c, s = math.cos(turn), math.sin(turn)
        fx, fy = (c * fx + s * fy) * aspect, (c * fy - s * fx) / aspect
    power = (fx * fx + fy * fy + 1 / longest**2).astype(np.float32) ** np.float32(-slope / 2)
    noise = fft.rfft2(rng.standard_normal((n, n), np.float32)) * power
    noise[0, 0] = 0
    return unit(fft.irfft2(noise, (n, n)))


def log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    """Draw a number whose logarithm is uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def reshaped(x: Floats, kind: float, bounds: tuple[float, float, float], rng: np.random.Generator) -> Floats:
    """Return x of unit variance as it is, as ridges, peaks or plateaus, by where kind lies among rising bounds."""
    plain, ridges, peaks = bounds
    if kind < plain:
        return x
    if kind < ridges:
        return unit(-np.abs(x))
    if kind < peaks:
        return unit(np.exp(rng.uniform(0.3, 0.9) * x))
    return unit(np.tanh(rng.uniform(1.5, 6) * (x - rng.uniform(-0.8, 0.8))))


def rough(n: int, rng: np.random.Generator, *, steepest: float = 2.0) -> Floats:
    """Return fractal noise of random slope, direction and histogram: clouds, grain, wood, ridges, foam."""
    aspect = 1.0 if rng.random() < 0.6 else math.exp(rng.uniform(0.3, 1.6))
    longest = math.exp(rng.uniform(math.log(0.03), 0))
    x = fractal(n, rng.uniform(0.5, steepest), rng, aspect=aspect, longest=longest)
    return reshaped(x, rng.random(), (0.5, 0.65, 0.8), rng)


def waves(n: int, rng: np.random.Generator) -> Floats:
    """Return an oriented grating of random period and profile, more or less bent: cloth, sand, blinds, fur."""
    period = math.exp(rng.uniform(math.log(2.6), math.log(24)))
    turn = rng.uniform(0, math.pi)
    t = np.arange(n, dtype=np.float32)
    phase = (math.cos(turn) / period * t)[:, None] + (math.sin(turn) / period * t)
    if rng.random() < 0.8:
        phase = phase + rng.uniform(0, 1.5) * n / 256 * fractal(n, rng.uniform(2, 3), rng)
    x = np.sin((2 * math.pi * phase).astype(np.float32))
    if period > 5 and rng.random() < 0.5:
        x = np.tanh(rng.uniform(1, 0.4 * period) * (x - rng.uniform(-0.7, 0.7)))
    if rng.random() < 0.5:  # fades here and there
        x = x * (0.5 + 0.5 * np.tanh(2 * fractal(n, 2.0, rng)))
    return unit(x)


def tiles(n: int, rng: np.random.Generator) -> Floats:
    """Return rows of tiles, each of its own grey, with or without joints: masonry, windows, boards, checks."""
    m = 2 * n
    width, height = (math.exp(rng.uniform(math.log(8), math.log(160))) for _ in range(2))
    turn = rng.choice([0.0, rng.uniform(-0.2, 0.2), rng.uniform(0, math.pi)])
    t = np.arange(m, dtype=np.float32)
    c, s = math.cos(turn), math.sin(turn)
    u, v = c * t + s * t[:, None], c * t[:, None] - s * t
    if rng.random() < 0.5:  # seen at an angle
        far = 1 + rng.uniform(0, 0.7) / m * (math.cos(3 * turn) * t + math.sin(3 * turn) * t[:, None])
        u, v = u / far, v / far
    v = v / np.float32(height)
    row = np.floor(v)
    u = u / np.float32(width) + np.float32(rng.choice([0.0, 0.5])) * row
    column = np.floor(u)
    greys = rng.standard_normal(4096).astype(np.float32) * np.float32(rng.choice([0.2, 1.0]))
    if rng.random() < 0.2:
        greys = np.where(np.arange(4096) % 2, 1, -1).astype(np.float32) + 0.1 * greys
    x = greys[(column.astype(np.int64) + 37 * row.astype(np.int64)) % 4096]
    joint = rng.uniform(1, 5)
    if rng.random() < 0.7:
        x[((u - column) * width < joint) | ((v - row) * height < joint)] = rng.choice([-1.5, 1.5])
    return unit(halve(x))


def halve(x: Floats) -> Floats:
    """Average blocks of 2 x 2."""
    y: Floats = 0.25 * (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2])
    return y


def strokes(n: int, rng: np.random.Generator) -> Floats:
    """Return the coverage (n, n) of bent or straight strokes in one direction or in all: hair, grass, twigs, masts."""
    count, parts = int(math.exp(rng.uniform(0.7, 4.6))), 14
    straight = rng.random() < 0.35
    # Length of a part; the width of the picture is 2.
    length = math.exp(rng.uniform(math.log(0.01), math.log(0.15 if straight else 0.06)))
    start = rng.uniform(-1.2, 1.2, (count, 1, 2))
    heading = rng.uniform(0, 2 * math.pi) + rng.choice([0.02, 0.15, 0.5, 3.0]) * rng.standard_normal((count, 1))
    heading = np.repeat(heading, parts, 1)
    if not straight:
        heading += rng.normal(0, 0.6 / parts, (count, 1)) * np.arange(parts)
        heading += 0.15 * rng.random() * rng.standard_normal((count, parts)).cumsum(1)
    steps = length * rng.uniform(0.5, 1.5, (count, 1, 1)) * np.stack([np.cos(heading), np.sin(heading)], -1)
    points = np.concatenate([start, start + steps.cumsum(1)], 1)
    thick = 2 / n * math.exp(rng.uniform(math.log(0.4), math.log(3))) * rng.uniform(0.5, 1.5, (count, 1))
    radius = thick * np.linspace(1, rng.uniform(0.2, 1), parts + 1)
    return _drawn(n, points, radius)


def text(n: int, rng: np.random.Generator) -> Floats:
    """Return the coverage (n, n) of lines of text-like characters, which consist of straight and bent strokes."""
    parts = 8
    height = math.exp(rng.uniform(math.log(9), math.log(48))) * 2 / n
    # Characters in a box of 0.6 x 1: a stem, a bar or an arc for each of three strokes.
    pen = np.linspace(0, 1, parts + 1)
    glyphs = np.empty((_N_GLYPHS, 3, parts + 1, 2))
    for glyph in glyphs.reshape(-1, parts + 1, 2):
        a, b = rng.integers(0, 3, (2, 2)) * (0.3, 0.5)
        bend = rng.choice([0.0, 0.0, 0.3, -0.3]) * np.sin(math.pi * pen)
        along = b - a if np.any(a != b) else np.array([0.0, 1.0]) - 2 * a * (0, 1)
        glyph[:] = a + pen[:, None] * along + bend[:, None] * np.array([-along[1], along[0]])
    rows, columns = int(2.4 / (1.6 * height)) + 1, int(2.4 / (0.85 * height)) + 1
    line, place = np.mgrid[:rows, :columns]
    kept = (rng.random((rows, columns)) < 0.85) & (place < columns * rng.uniform(0.4, 1, (rows, 1)))
    line, place = line[kept], place[kept]
    which = rng.integers(0, _N_GLYPHS, len(line))
    corner = np.stack([0.85 * place, 1.6 * line], -1)[:, None, None] * height - 1.2
    points = (corner + glyphs[which] * height).reshape(-1, parts + 1, 2)
    if rng.random() < 0.4:
        turn = rng.normal(0, 0.3)
        points = points @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    points = points[(np.abs(points) < 1.1).all((1, 2))] * (1, -1)
    radius = np.full(points.shape[:2], height * rng.uniform(0.03, 0.09))
    return _drawn(n, points, radius)


def _drawn(n: int, points: NDArray[np.float64], radius: NDArray[np.float64]) -> Floats:
    """Return the coverage (n, n) of polygonal strokes through points (n_strokes, n_points, 2), y up, in [-1, 1]."""
    flat = [
        torch.from_numpy(np.pad(p.reshape(-1, 2), ((0, 0), (0, 1))).astype(np.float32))
        for p in (points[:, :-1], points[:, 1:])
    ]
    radii = [torch.from_numpy(r.reshape(-1).astype(np.float32)) for r in (radius[:, :-1], radius[:, 1:])]
    covered: Floats = tube_coverage(n, *flat, *radii).numpy()
    return covered
