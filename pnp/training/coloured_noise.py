"""Noise of many colours, as the errors between the steps of a solver have.

A denoiser D(x, sigma) learns from white noise. What a solver gives it is not white: streaks of few views, aliasing
behind a mask, noise that an inverse filter amplified or a blur smoothed, more of it in one place than in another. A
network that never saw such noise keeps it as structure. One example is

    n = s (c h * w1 + sqrt(1 - c^2) w2),   mean n^2 = 1,   |h^(k)| = |k|^a d(k / |k|) exp(-(k / b)^2 / 2)

with white noise w1, w2; a power a of the frequency; d, a few directions that are stronger, as with few views; a blur
of width b; and s, which is uneven over the image. sigma remains the standard deviation over the whole crop.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_POWERS = (-1.5, 1.0)
_CUTOFFS = (0.04, 0.35)
"""Widths of the blurs' transfer functions in cycles per pixel."""
_MOST_DIRECTIONS = 60


def colour(noise: Tensor, part: float, *, generator: torch.Generator) -> Tensor:
    """Return white noise (B, C, ...) of unit variance with this part of its images coloured, each in its own way."""
    chosen = torch.rand(len(noise), generator=generator) < part
    return torch.stack([_coloured(n, generator) if c else n for n, c in zip(noise, chosen.tolist(), strict=True)])


def _coloured(white: Tensor, generator: torch.Generator) -> Tensor:
    """Return an image or volume of noise (C, ...) whose mean square is 1: filtered, uneven, or both."""
    filtered, uneven = (torch.rand(2, generator=generator) < torch.tensor([0.75, 0.35])).tolist()
    n = white
    if filtered:
        size = tuple(white.shape[1:])
        h = _spectrum(size, generator)
        axes = tuple(range(1, white.ndim))
        n = _unit(torch.fft.irfftn(torch.fft.rfftn(white, dim=axes) * h, s=size, dim=axes))
        c = _uniform(0.4, 1, generator)
        n = c * n + math.sqrt(1 - c * c) * torch.randn(white.shape, generator=generator)
    if uneven or not filtered:
        n = n * _scale(tuple(white.shape[1:]), generator)
    return _unit(n)


def _spectrum(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return |h^| at the frequencies of `rfftn`."""
    grids = [torch.fft.fftfreq(n) for n in size[:-1]] + [torch.fft.rfftfreq(size[-1])]
    k = torch.stack(torch.meshgrid(*grids, indexing="ij"), -1)
    radius = k.norm(dim=-1)
    radius[(0,) * len(size)] = 1 / max(size)
    h: Tensor = radius ** _uniform(*_POWERS, generator)
    directed, blurred = (torch.rand(2, generator=generator) < 0.4).tolist()
    if directed:
        h *= _uniform(0.05, 0.4, generator) + _directions(k / radius[..., None], generator)
    if blurred:
        h *= torch.exp(-0.5 * (radius / _log_uniform(*_CUTOFFS, generator)) ** 2)
    return h


def _directions(unit: Tensor, generator: torch.Generator) -> Tensor:
    """Return the sum of bumps about random directions; or, as views have in space, about the planes across them."""
    dimensions = unit.shape[-1]
    m = round(_log_uniform(2, _MOST_DIRECTIONS, generator))
    width = _uniform(0.3, 2, generator) / m ** (1 / (dimensions - 1))
    axes = torch.randn(m, dimensions, generator=generator)
    flat, planes = (torch.rand(2, generator=generator) < 0.5).tolist()
    if flat and dimensions > 2:  # all about one of the axes, as the views of an orbit
        axes[:, int(_uniform(0, dimensions, generator))] *= 0.1
    total = torch.zeros(unit.shape[:-1])
    for axis in axes / axes.norm(dim=1, keepdim=True):
        cosine = (unit @ axis).square()
        total += torch.exp(-0.5 * (cosine if planes else 1 - cosine) / width**2)
    return total


def _scale(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return a random factor of the noise at every pixel: high at scattered pixels, or slowly changing."""
    if torch.rand((), generator=generator) < 0.4:
        rough = (torch.rand(size, generator=generator) < _uniform(0.1, 0.8, generator)).float()
    else:
        coarse = torch.rand((1, 1, *[int(_uniform(2, 9, generator))] * len(size)), generator=generator)
        rough = F.interpolate(coarse, size=size, mode="bilinear" if len(size) == 2 else "trilinear")[0, 0].square()
    return _uniform(0.05, 0.7, generator) + rough


def _unit(n: Tensor) -> Tensor:
    """Scale noise to a mean square of 1."""
    return n / n.square().mean().sqrt()


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    return math.exp(_uniform(math.log(low), math.log(high), generator))
