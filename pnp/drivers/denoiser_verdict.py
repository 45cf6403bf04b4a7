"""Does the denoiser denoise? What it did to its own input says so, without a truth and without another call.

An iteration holds the input v of the denoiser, its answer z and the level sigma it was told of. A denoiser answers with
an image of the same mean. It takes away a part of v: <v - z, v> >= ||v - z||^2 for a proximal map (Moreau 1965),
and so in the mean where it is the expectation of the image given v (Miyasawa 1961). And it changes v where that is as
rough as noise of level sigma. Weak denoisers that know nothing of sigma, such as a Gaussian filter, do all three. Only
the first iteration, whose level is the highest, and the last one are looked at, and of their pixels those within the
bounds. A network that is told of a tenth of the noise is not told apart from a weak denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..algorithms.batch import images
from ..algorithms.iterations import State

UPPER_QUARTILE = 1.1503494
"""Of |r| for white noise r of variance 1."""
MIN_PIXELS = 100
"""Fewer pixels say nothing."""
UNCHANGED_FIRST, UNCHANGED = 0.02, 0.03
"""Changes, in sigma, at the first and at the last level below which an answer is its input. The weakest denoisers that
were tried change it by 0.036 at the first, and by 0 at the last where the image is rougher than sigma."""
ROUGH = 0.3
"""Roughness of v, in sigma, from which there is something to remove."""
ADDED, MIN_CHANGE, MAX_ERROR = 0.2, 0.1, 0.05
"""<v - z, v> / ||v - z||^2 below which v - z is no part of v, where v - z is so large, and the standard error at most
the last; a median filter has 0.29 on texture."""
SHIFTED_FIRST, SHIFT_SHARE_FIRST, SHIFT_SHARE = 0.3, 0.4, 0.3
"""Change of the mean, in sigma, that no denoiser makes at the first level; and as a share of all change, there and at
the last level. A median filter reaches a share of 0.14."""
FAR, LEAST_SLOPE, MOST_SLOPE = 3.0, 0.1, 1.3
"""Change, in sigma, that is no noise; and slopes of z on v, between which those of denoisers are then."""


class Answer(NamedTuple):
    """What a denoiser did to one image v, over the pixels within the bounds.

    Attributes:
        n: number of these pixels.
        change: root mean square of v - z, in sigma.
        shift: mean of v - z, in sigma.
        contrast: standard deviation of v, in sigma.
        slope: of the straight line of z on v, 1 where the contrast is kept.
    """

    n: int
    change: float
    shift: float
    contrast: float
    slope: float

    @property
    def removed(self) -> tuple[float, float]:
        """<v - z, v> / ||v - z||^2 without the means, and its standard error where v - z is white and no part of v."""
        energy = self.change**2 - self.shift**2
        if not energy > 0:
            return math.inf, 0.0
        return (1 - self.slope) * self.contrast**2 / energy, self.contrast / (energy * self.n) ** 0.5


def answers(state: State, algorithm: str, bounds: tuple[float | None, float | None]) -> list[Answer]:
    """Return what the denoiser did in an iteration, for each image."""
    sigmas = torch.as_tensor(state.sigma).flatten().tolist()
    sigmas = sigmas * len(state.z) if len(sigmas) == 1 else sigmas
    pairs = zip(images(input_of(state, algorithm)), images(state.z), sigmas, strict=True)
    return [_answer(_real(v), _real(z), sigma, bounds) for v, z, sigma in pairs]


def input_of(state: State, algorithm: str) -> Tensor:
    """Return v of z = D(v, sigma)."""
    return state.x if algorithm == "hqs" else state.z + state.u


def _answer(v: Tensor, z: Tensor, sigma: float, bounds: tuple[float | None, float | None]) -> Answer:
    inside = torch.ones_like(z, dtype=torch.bool)
    if bounds[0] is not None:
        inside &= z > bounds[0]
    if bounds[1] is not None:
        inside &= z < bounds[1]
    n = int(inside.sum())
    if n == 0 or not sigma > 0:
        return Answer(0, math.nan, math.nan, math.nan, math.nan)
    v, u = v[inside] / sigma, (v - z)[inside] / sigma
    shift, centred = float(u.mean()), v - v.mean()
    contrast = float(centred.square().mean().sqrt())
    slope = 1 - float((centred * u).mean()) / contrast**2 if contrast > 0 else 1.0
    return Answer(n, float(u.square().mean().sqrt()), shift, contrast, slope)


def _real(x: Tensor) -> Tensor:
    """Return an image (1, C, ...) as real channels."""
    return torch.view_as_real(x).movedim(-1, 1).flatten(1, 2) if x.is_complex() else x


def denoiser_faults(
    first: Sequence[Answer] | None,
    state: State | None,
    finished: Sequence[int],
    algorithm: str,
    bounds: tuple[float | None, float | None],
) -> list[str]:
    """Return what is wrong with the denoiser, at most one sentence.

    Args:
        first: what it did in the first iteration; None: not known.
        state: the last iteration.
        finished: for each image the iteration that brought its convergence, 0 before: its z is held from then on.
        algorithm, bounds: of the solve.
    """
    if first is None or state is None:
        return []
    last = answers(state, algorithm, bounds)
    v = input_of(state, algorithm)
    sigmas = torch.as_tensor(state.sigma).flatten().expand(len(v)).tolist()
    for b, (start, end) in enumerate(zip(first, last, strict=True)):
        if min(start.n, end.n) < MIN_PIXELS:
            if (said := _on_a_bound(end, _real(v[b]), sigmas[b])) is not None:
                return [said]
            continue
        end = end if finished[b] in (0, state.k) else start
        said = _other_values(start, end) or _added(start) or _unchanged(start, end, v[b], sigmas[b])
        if said is not None:
            return [said]
    return []


def _other_values(first: Answer, last: Answer) -> str | None:
    """Say that the answer has other values than the input, where it does."""
    moved = abs(first.shift) > max(SHIFTED_FIRST, SHIFT_SHARE_FIRST * first.change)
    apart = abs(last.shift) > SHIFT_SHARE * last.change or not LEAST_SLOPE < last.slope < MOST_SLOPE
    if not (moved or (last.change > FAR and apart)):
        return None
    shift = max((first.shift, last.shift), key=abs)
    what = f"moves the mean of its input by {abs(shift):.2g} times the noise level that it is told"
    if abs(shift) < SHIFTED_FIRST:
        what = f"scales the contrast of its input by {last.slope:.2g}"
    return (
        f"the denoiser {what}, which no denoiser does: it is made for another value range or wants sigma in other "
        "units, or returns the noise; wrap it in denoisers.Rescaled, e.g. with sigma_scale=255, or return x minus the "
        "noise"
    )


def _on_a_bound(last: Answer, v: Tensor, sigma: float) -> str | None:
    """Say that the answer lies on a bound everywhere, where the input is an image."""
    if last.n > 0 or v.numel() < MIN_PIXELS or not sigma > 0 or not float(v.std(correction=0)) > FAR * sigma:
        return None
    low, high = (float(f"{value:.2g}") for value in (v.min(), v.max()))
    return (
        "the denoiser answers with values on or beyond the bounds alone, where its input is an image with values from "
        f"{low:g} to {high:g}: it is made for another value range; wrap it in denoisers.Rescaled, e.g. "
        "Rescaled(D, low, high, made_for=(0, 255)) with low and high of your image"
    )


def _added(first: Answer) -> str | None:
    """Say that what the denoiser changed is no part of its input, where that is so."""
    removed, error = first.removed
    if first.change < MIN_CHANGE or error > MAX_ERROR or not removed < ADDED:
        return None
    return (
        f"the denoiser does not denoise: it changes its input by {first.change:.2g} times the noise level that it is "
        "told, and the change is no part of the input, as of a network without its weights, in training mode, or that "
        "draws at random; test it on an image with known noise, D(x + sigma n, sigma)"
    )


def _unchanged(first: Answer, last: Answer, v: Tensor, sigma: float) -> str | None:
    """Say that the answer is the input, where that is so."""
    if not (first.change < UNCHANGED_FIRST and last.change < UNCHANGED):
        return None
    if not roughness(v) > ROUGH * UPPER_QUARTILE * math.sqrt(6) * sigma:
        return None
    what = f"changes its input by {last.change:.1g} times the noise level that it is told" if last.change else ""
    return (
        f"the denoiser does not denoise: it {what or 'returns its input'}; sigma is in units of x, and a network that "
        "wants it in 0-255 needs denoisers.Rescaled(D, 0, 1, sigma_scale=255); test it on an image with known noise, "
        "D(x + sigma n, sigma)"
    )


def in_training(denoiser: object) -> list[str]:
    """Say that a network is in training mode, where batch normalisation or dropout make its answers depend on that."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    layers = denoiser.modules() if isinstance(denoiser, nn.Module) else ()
    if not any(isinstance(layer, kinds) and layer.training for layer in layers):
        return []
    return ["the denoiser is in training mode, in which batch normalisation and dropout are not at rest: call .eval()"]


def roughness(image: Tensor) -> float:
    """Return the upper quartile of the second differences of an image (C, ...), NaN of fewer than three pixels."""
    along = [image.unfold(axis, 3, 1) for axis in range(1, image.ndim) if image.shape[axis] > 2]
    sizes = [(t[..., 0] - 2 * t[..., 1] + t[..., 2]).abs().flatten() for t in along]
    if not sizes:
        return math.nan
    values = torch.cat(sizes)
    return float(values.kthvalue(max(1, (3 * len(values)) // 4)).values)
