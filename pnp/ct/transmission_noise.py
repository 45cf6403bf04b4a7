"""The noise of transmissions whose photons are not known, from the transmissions themselves.

    var(T) = a T + b,    1/a the photons of the open beam, sqrt(b) the read-out noise over the open beam.

Second differences along views and bins, with the kernel (1, -2, 1) x (1, -2, 1), cancel what is locally linear along
either, offsets of bins and of views among it, and have 36 times the variance of the noise (Immerkaer, Computer Vision
and Image Understanding 64 (1996) 300); those along bins alone have 6 times. The smaller of the medians of their
squares, in classes of like T, are fitted by the a and b with the smallest sum of absolute logarithmic deviations: edges
of the object in some of the classes change little.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arrays import STD_PER_MAD
from .flat_field import Photons

_PER_CLASS, _MAX_CLASSES = 200, 30
"""Fewest samples of a class of like transmissions, and the most classes."""
_MIN_DIFFERENCES = 9
"""Fewest second differences that say anything of the noise."""
_MIN_STD = 1e-4
"""Smallest noise over the open beam: 10^8 photons. Data without noise would have infinite weight."""


def transmission_noise(t: Tensor, blind: Tensor) -> Photons:
    """Return a and b of var(T) = a T + b.

    Args:
        t: transmissions (..., n_angles, n_detectors).
        blind: boolean, of the shape of t: samples to leave out.

    Raises:
        ValueError: too few neighbours are measured.
    """
    values = torch.where(blind, torch.nan, t).double()
    along = [axis for axis in (-2, -1) if values.shape[axis] >= 3]
    level, both, one = values, values, values
    for axis in along:
        n = values.shape[axis] - 2
        both = both.diff(n=2, dim=axis)
        one = one.diff(n=2, dim=axis) if axis == along[-1] else one.narrow(axis, 1, n)
        level = (level.narrow(axis, 0, n) + level.narrow(axis, 1, n) + level.narrow(axis, 2, n)) / 3
    whole = both.isfinite()
    if not along or int(whole.sum()) < _MIN_DIFFERENCES:
        raise ValueError(
            f"line_integrals: the noise of transmissions {tuple(t.shape)} cannot be estimated from so few neighbours; "
            "pass photons_per_count, the photons of the open beam, or counts"
        )
    level, order = level[whole].clamp(min=0).sort()
    # Either is too large where the object varies from sample to sample: the smaller counts.
    squares = torch.stack([both[whole][order].square() / 6 ** len(along), one[whole][order].square() / 6])
    n_classes = max(1, min(_MAX_CLASSES, len(level) // _PER_CLASS))
    classes = zip(level.chunk(n_classes), squares.chunk(n_classes, -1), strict=True)
    pairs = [(float(x.median()), float(v.median(-1).values.min()) * STD_PER_MAD**2) for x, v in classes]
    x = torch.tensor([p[0] for p in pairs], dtype=torch.float64)
    v = torch.tensor([p[1] for p in pairs], dtype=torch.float64).clamp(min=_MIN_STD**2 * 1e-3)
    # The share of b in the variance of the open beam, on a grid; the sum of both is then a median.
    shares = torch.cat([torch.zeros(1), torch.logspace(-6, 0, 61)]).double()[:, None]
    shapes = ((1 - shares) * x + shares).clamp(min=1e-12)
    logs = v.log() - shapes.log()
    total = logs.median(1, keepdim=True).values
    best = int((logs - total).abs().sum(1).argmin())
    variance, share = max(float(total[best].exp()), _MIN_STD**2), float(shares[best])
    return Photons(max((1 - share) * variance, _MIN_STD**2), share * variance)
