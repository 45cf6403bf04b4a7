"""Measured point spread functions (PSFs): counts of a camera become a kernel that is centred and sums to 1.

A measured PSF is p = pedestal + F q(. - c) + noise: an offset of the camera or a background, the brightness F of the
bead or star, its place c, and q, which sums to 1. As a kernel it would blur by all of them: F scales x, c moves x, and
the pedestal of n pixels takes the share n pedestal/(n pedestal + F) of x's brightness. So

    pedestal    the median of the outermost pixels; their scatter is 1.0484 times the median absolute difference of
                neighbours along the border
    c           the centroid; where there is noise, within a disc that holds all that stands out from it
    q           (p - pedestal)/F, 0 beyond that disc, moved to (h // 2, w // 2) by whole pixels and for the rest by
                the phase of its Fourier transform

A volume of a bead, (d, h, w), has a shell for its border and a ball for the disc; all else is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from .base import as_buffer

_Array = NDArray[np.float64]
_CALLER = "Blur.from_psf"
_CROP = "crop it around one bead or star"

SMALLEST = 5
"""Pixels along an edge, at least: the border must lie beside the peak."""
SIGNIFICANT = 5.0
"""A value so many times the scatter above the pedestal is not noise; one in two million is, by chance."""
RING = 3.0
"""The mean of a ring so many times its standard error above the pedestal is not noise."""
SECOND_PEAK = (0.25, 0.1)
"""Values above these shares of the peak belong to it only where pixels as bright connect the two."""
NEGATIVE = 0.1
"""Lobes below the background of this share of the peak are ringing, of a PSF that was interpolated."""
FAINT = 0.02
"""Share of a hot pixel that the true peak may have."""
OTHER_LIGHT = 0.05
"""Share of the light above that level that may lie apart from the peak."""
CUT = 0.05
"""A border above this share of the peak cuts the PSF off."""
FALLOFF = 0.01
"""Share of the light that the pedestal may take from wings that still fall at the border."""
COUNTS = 1e3
"""A kernel with this sum and measurements that are at most UNIT are in different units."""
UNIT = 2.0
"""Largest value of an image in [0, 1] with noise."""
DEPTHS = (8, 10, 12, 14, 15, 16)
"""Bits of cameras' pixels: 2^bits - 1 is the largest value."""


@dataclass(frozen=True)
class PsfReport:
    """What `Blur.from_psf` did to a measured PSF.

    Attributes:
        pedestal: what was subtracted, in units of the PSF.
        pedestal_std: the noise of one pixel of the background, from the differences of neighbours along the border.
        shift_px: (down, right) in pixels, of volumes (deeper, down, right), by which the PSF was moved so that its
            centroid is the kernel's centre.
        sum: what the PSF summed to above its pedestal; the kernel sums to 1.
        radius_px: radius of the disc about the centroid beyond which the kernel is 0; infinite without noise.
        reaches_background: False where the border still holds light of the PSF, so that the pedestal is too high.
    """

    pedestal: float
    pedestal_std: float
    shift_px: tuple[float, ...]
    sum: float
    radius_px: float
    reaches_background: bool

    def __str__(self) -> str:
        shift = ", ".join(f"{round(s, 2) + 0.0:+.2f}" for s in self.shift_px)  # no minus before zero
        kept = "" if self.radius_px == math.inf else f", set to 0 beyond {self.radius_px:.1f} px"
        warning = "" if self.reaches_background else f"; {self.concern()}"
        return (
            f"PSF: pedestal {self.pedestal:.4g} (scatter {self.pedestal_std:.2g}) subtracted, moved by ({shift}) px, "
            f"divided by its sum {self.sum:.5g}{kept}{warning}"
        )

    def concern(self) -> str:
        """Return the sentence for a border that does not reach the background."""
        return (
            "The PSF's border still holds light of the PSF, which was subtracted as pedestal: give a larger cut-out, "
            "or the background as Blur.from_psf(..., pedestal=...)"
        )


def kernel_from_psf(
    psf: Tensor | NDArray[Any], shape: tuple[int, ...], pedestal: float | None
) -> tuple[Tensor, PsfReport]:
    """Return the kernel of a measured PSF, and what was done; arguments and errors are those of `Blur.from_psf`."""
    tensor, raw = _as_image(psf, len(shape))
    _check_size(raw, shape)
    border = _ring(raw, 0)
    level = float(np.median(border)) if pedestal is None else pedestal
    scatter = 1.4826 / math.sqrt(2) * float(np.median(np.abs(np.diff(border))))  # neighbours, but for a few
    p = raw - level
    peak = float(p.max())
    _check_peak(p, peak, scatter, raw)
    reaches = pedestal is not None or _reaches_background(p, scatter, peak)
    centre, radius = _centroid(p, scatter)
    p = np.where(_distance(p.shape, centre) <= radius, p, 0.0)
    total = float(p.sum())
    shift = tuple(n // 2 - c for n, c in zip(p.shape, centre, strict=True))
    kernel = _move(p / total, shift)
    report = PsfReport(level, scatter, shift, total, radius, reaches)
    dtype = tensor.dtype if tensor.dtype in (torch.float32, torch.float64) else torch.get_default_dtype()
    return torch.tensor((kernel / kernel.sum()).tolist(), dtype=dtype, device=tensor.device), report


def _as_image(psf: Any, dimensions: int) -> tuple[Tensor, _Array]:
    """Return the PSF (h, w) or (d, h, w) as given and in float64, or raise with what is wrong."""
    if isinstance(psf, np.ma.MaskedArray) and np.ma.getmaskarray(psf).any():
        raise TypeError(f"{_CALLER}: psf must be a plain array, got a masked one; fill it, e.g. from neighbours")
    tensor = as_buffer(_CALLER, "psf", psf).detach()
    if tensor.is_complex():
        raise TypeError(f"{_CALLER}: psf must be real, got {tensor.dtype}; use the intensity, psf.abs() ** 2")
    sizes = tuple(tensor.shape)
    if tensor.ndim == dimensions + 2 and sizes[:2] == (1, 1):
        tensor = tensor[0, 0]
    if tensor.ndim != dimensions or min(tensor.shape) < SMALLEST:
        axes = "(height, width)" if dimensions == 2 else "(depth, height, width)"
        raise ValueError(
            f"{_CALLER}: psf must be {axes}, at least {SMALLEST} pixels each, got {sizes}; give the image of one bead "
            "or star with background around it"
        )
    cpu = tensor.cpu()  # NumPy has no bfloat16, and Apple's GPUs have no float64
    image = (cpu.float() if cpu.dtype == torch.bfloat16 else cpu).numpy().astype(np.float64)
    if not np.isfinite(image).all():
        raise ValueError(
            f"{_CALLER}: psf must be finite, got NaN or infinity; replace them, e.g. by neighbours' median"
        )
    return tensor, image


def _check_size(p: _Array, shape: tuple[int, ...]) -> None:
    """Refuse a PSF larger than the image, with the cut that fits."""
    if all(n <= size for n, size in zip(p.shape, shape, strict=True)):
        return
    at = np.unravel_index(int(p.argmax()), p.shape)
    cuts = []
    for n, size, i in zip(p.shape, shape, at, strict=True):
        first = min(max(int(i) - size // 2, 0), max(n - size, 0))
        cuts.append(f"{first}:{min(first + size, n)}")
    raise ValueError(
        f"{_CALLER}: psf must fit in the image {shape}, got {p.shape}; crop it around its peak, "
        f"psf[..., {', '.join(cuts)}]"
    )


def _check_peak(p: _Array, peak: float, scatter: float, raw: _Array) -> None:
    """Refuse what is not one positive peak on a background, or is saturated."""
    lowest = float(p.min())
    if lowest < -max(NEGATIVE * peak, 8 * scatter):
        raise ValueError(
            f"{_CALLER}: psf must not be negative, got {lowest:.3g} below its border for a peak of {peak:.3g} above; "
            "invert it if it is dark on bright, give a larger cut-out if its border is not the background"
        )
    if not peak > max(8 * scatter, 1e-6 * float(np.abs(raw).max())):
        raise ValueError(
            f"{_CALLER}: psf must have a peak that stands out from its border, got {peak:.3g} above it with a scatter "
            f"of {scatter:.3g}; average more frames, or {_CROP} with background around it"
        )
    if n := _n_saturated(raw, scatter):
        raise ValueError(
            f"{_CALLER}: psf must not be saturated, got {n} pixels at its largest value {raw.max():g}; measure it "
            "with a shorter exposure or a fainter source; a computed kernel goes to Blur(kernel)"
        )
    # A component of a pixel or two below fainter light is a hot pixel.
    for share, smallest in (*((share, math.inf) for share in SECOND_PEAK), (FAINT, 2)):
        labels, n = ndimage.label(p > max(share * peak, 8 * scatter), np.ones((3,) * p.ndim))
        own = labels == labels.flat[p.argmax()]
        light = float(p[labels > 0].sum())
        if own.sum() <= smallest and light - float(p[own].sum()) > OTHER_LIGHT * light:
            raise ValueError(
                f"{_CALLER}: psf must be one peak, got {n} separate ones above {share:.0%} of the largest; {_CROP}, "
                "replace hot pixels by their neighbours' median, average more frames, or use Blur(kernel) for a kernel "
                "of several peaks"
            )


def _n_saturated(raw: _Array, scatter: float) -> int:
    """Return the pixels of a flat top at a camera's largest value, 0 where there is none.

    Four or fewer equal maxima, eight of a volume, of an image that equals its mirror images are a computed PSF centred
    between pixels.
    """
    top = float(raw.max())
    n = int((raw == top).sum())
    mirrored = all(np.array_equal(raw, np.flip(raw, axis)) for axis in range(raw.ndim))
    if n < 2 or (n <= 2**raw.ndim and mirrored):
        return 0
    if (raw == np.round(raw)).all():
        # Five equal counts at the top of noise of three or more are a full well, or were clipped.
        return n if top in [2.0**bits - 1 for bits in DEPTHS] or (n >= 5 and scatter >= 3) else 0
    # Numbers with fractions and noise: three equal ones were clipped.
    return n if n >= 3 and not mirrored and scatter > 1e-6 * top else 0


def _centroid(p: _Array, scatter: float) -> tuple[tuple[float, ...], float]:
    """Return the centroid, (row, column) or (slice, row, column), and the radius of the disc that was counted.

    That is all, without noise. A disc about the centroid is not biased by noise, as the pixels above a threshold would
    be. It holds the pixels that stand out and are connected to the peak, and grows by rings of a pixel while their mean
    stands out.
    """
    centre = ndimage.center_of_mass(p)
    if scatter <= 1e-7 * p.max():
        return tuple(map(float, centre)), math.inf
    labels, _ = ndimage.label(p > SIGNIFICANT * scatter, np.ones((3,) * p.ndim))
    light = labels == labels.flat[p.argmax()]
    centre = ndimage.center_of_mass(np.where(light, p, 0.0))
    for _ in range(10):
        distance = _distance(p.shape, centre)
        radius = float(distance[light].max()) + 1
        while (ring := p[(distance > radius) & (distance <= radius + 1)]).size and (
            ring.mean() > RING * scatter / ring.size**0.5
        ):
            radius += 1
        centre = ndimage.center_of_mass(np.where(distance <= radius, p, 0.0))
    return tuple(map(float, centre)), radius


def _distance(shape: tuple[int, ...], centre: tuple[float, ...]) -> _Array:
    offsets = np.ix_(*(np.arange(n) - c for n, c in zip(shape, centre, strict=True)))
    distance: _Array = np.hypot(*offsets[-2:])
    return np.hypot(offsets[0], distance) if len(shape) == 3 else distance


def _move(q: _Array, shift: tuple[float, ...]) -> _Array:
    """Return q moved by (down, right) or (deeper, down, right) pixels: zeros move in, parts of one by Fourier."""
    whole = [round(s) for s in shift]
    out = np.zeros_like(q)
    to, of = ([slice(max(s, 0), n + min(s, 0)) for s, n in zip(sign, q.shape, strict=True)] for sign in _both(whole))
    out[tuple(to)] = q[tuple(of)]
    rest = [s - w for s, w in zip(shift, whole, strict=True)]
    if max(map(abs, rest)) < 1e-6:
        return out
    moved: _Array = np.fft.ifftn(ndimage.fourier_shift(np.fft.fftn(out), rest)).real
    return moved


def _both(shift: list[int]) -> tuple[list[int], list[int]]:
    return shift, [-s for s in shift]


def _ring(p: _Array, depth: int) -> _Array:
    """Return the pixels at a depth of whole pixels from the border: the edges of an image, the faces of a volume."""
    inner = p[tuple(slice(depth, n - depth) for n in p.shape)]
    if p.ndim == 3:
        edges = [_ring(plane, 0) for plane in inner[1:-1]]
        return np.concatenate([inner[0].ravel(), inner[-1].ravel(), *edges])
    return np.concatenate([inner[0], inner[-1], inner[1:-1, 0], inner[1:-1, -1]])


def _reaches_background(p: _Array, scatter: float, peak: float) -> bool:
    """Whether the border of p, pedestal subtracted, holds no light: nothing bright, no fall from the ring inside it."""
    outer, inner = _ring(p, 0), _ring(p, 1)
    if float(outer.max()) > max(CUT * peak, 8 * scatter):
        return False
    fall = float(np.median(inner) - np.median(outer))
    noise = 1.2533 * scatter * (1 / len(inner) + 1 / len(outer)) ** 0.5  # of the difference of two medians
    return fall <= 4 * noise or fall * p.size <= FALLOFF * float(p.sum())


def kernel_concerns(kernel: Tensor, y: Tensor) -> list[str]:
    """Return sentences about a kernel that looks like a measured PSF used as it is; arguments as `Blur.concerns`.

    Nothing is said of kernels that people use rightly: gradients, boxes, motion off the centre, gains of counts.
    """
    k = kernel.detach().cpu().float().numpy().astype(np.float64)
    total, found = float(k.sum()), []
    if float(k.min()) < 0:
        return []
    if total >= COUNTS and float(y.detach().abs().max()) <= UNIT:
        found.append(
            f"Blur: the kernel sums to {total:.4g}, y is at most {UNIT:g}, so that x is about y/{total:.4g}; if the "
            "kernel is a PSF in counts, use Blur.from_psf or kernel/kernel.sum()"
        )
    if min(k.shape) >= SMALLEST + 2:
        border, top = _ring(k, 0), np.sort(k, axis=None)[-2:]
        low, level, high = np.quantile(border, (0.05, 0.5, 0.95))
        is_flat = level > 0 and high - low <= 0.2 * level
        is_peak = top[1] >= 5 * level and top[0] - level >= 0.2 * (top[1] - level)  # wider than one pixel
        if is_flat and is_peak and level * k.size >= 0.1 * total:
            found.append(
                f"Blur: the kernel's border is flat at {level:.3g}, {level * k.size / total:.0%} of its sum, as a "
                "camera's pedestal is; use Blur.from_psf, which subtracts it"
            )
    return found
