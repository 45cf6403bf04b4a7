"""Conformal calibration of error bars on images of one's own, where the truth is known.

The scores |x_j - truth_j| / std_j of n images, each with its own error bars, give one factor lambda, or one for each
group of pixels of like rank, so that x +- lambda std covers the truth of images like these. `algorithms.conformal` says
what is promised, and cites its sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algorithms.conformal import RANKS, check_target, factors, fewest, is_enough, rank_groups
from ..checks import broadcasts, short
from .record import Bootstrap

FORMS = ("field", "value")
"""The forms of `algorithms.conformal` that images of no common frame can have: no factor for each pixel."""


@dataclass(frozen=True)
class Calibration:
    """Factors that `calibrate` found for error bars; the intervals are x +- factor std.

    Attributes:
        factor: lambda: 0-dim for "field", (n_groups,) for "value". It multiplies `Bootstrap.std`; 1.645 would be that
            of a normal distribution, for a coverage of 90 %.
        form: "field" or "value".
        target: the coverage that was asked for.
        delta: chance that the calibration ("field"), or an image ("value"), misses the target.
        ranks: ends of the groups of pixels by reconstructed value, lowest first.
        n: number of images.
    """

    factor: Tensor
    form: str
    target: float
    delta: float
    ranks: tuple[float, ...]
    n: int

    def half_width(self, bars: Bootstrap, mask: Any = None) -> Any:
        """Return lambda std of each pixel, (B, C, H, W), as large as |x - truth| may be.

        Args:
            bars: error bars of an image like those of the calibration, computed alike.
            mask: pixels that are ranked among each other, as in `calibrate`; others take the factor of like values.
        """
        x, std = torch.as_tensor(bars.x), torch.as_tensor(bars.std)
        factor = self.factor.to(std)
        if self.form == "value":
            counted = _counted(mask, x, "Calibration.half_width")
            factor = torch.stack(
                [_factor_map(image, m, factor, self.ranks) for image, m in zip(x, counted, strict=True)]
            )
        width = factor * std
        return width if isinstance(bars.x, Tensor) else width.cpu().numpy()

    def interval(self, bars: Bootstrap, mask: Any = None) -> tuple[Any, Any]:
        """Return x less and plus `half_width`."""
        width = self.half_width(bars, mask)
        return bars.x - width, bars.x + width

    def covered(self, bars: Bootstrap, truth: Any, mask: Any = None) -> float:
        """Return the fraction of pixels, of a mask where one is given, whose truth lies in `interval`."""
        x = torch.as_tensor(bars.x)
        error = (x - _truth(truth, x, "Calibration.covered")).abs()
        inside = error <= torch.as_tensor(self.half_width(bars, mask))
        return float(inside[_counted(mask, x, "Calibration.covered")].double().mean())


def calibrate(
    images: Iterable[tuple[Bootstrap, Any]],
    *,
    coverage: float = 0.9,
    form: str = "field",
    delta: float = 0.1,
    ranks: Sequence[float] = RANKS,
    mask: Any = None,
) -> Calibration:
    """Calibrate error bars on images whose truth is known.

    Images and their error bars must be like the ones to come: the same kind of object, operator, noise and settings.

    Args:
        images: pairs of error bars and the true image, of x's shape; a batch counts as its images. All have the same
            number of pixels.
        coverage: part c of the pixels to cover, in (0, 1).
        form: "field": one factor; with a chance of 1 - delta over the calibration, images are covered to c on average.
            "value": a factor for each group of pixels of like rank in x, such as the highest 1 %; with a chance of
            1 - delta, c of the next image's pixels in each group are covered.
        delta: see form.
        ranks: ends of the groups by reconstructed value, rising in (0, 1).
        mask: bool, broadcasting to x: the pixels that count. None: all.

    Raises:
        ValueError, TypeError: an argument does not fit, or there are too few images: "value" needs (1 - delta)/delta.

    >>> from types import SimpleNamespace
    >>> generator = torch.Generator().manual_seed(0)
    >>> def pair():
    ...     bars = SimpleNamespace(x=torch.zeros(1, 1, 20, 20), std=torch.ones(1, 1, 20, 20))
    ...     return bars, 2 * torch.randn(1, 1, 20, 20, generator=generator)  # errors twice as large as std
    >>> found = calibrate([pair() for _ in range(60)], form="value", ranks=(), delta=0.5)
    >>> round(float(found.factor), 1)  # 2 x 1.645
    3.3
    """
    c, delta = check_target("calibrate", coverage, delta, form, ranks, FORMS)
    rows = [row for pair in images for row in _scores(*_pair(pair), mask)]
    sizes = {len(score) for score, _ in rows}
    if len(sizes) > 1:
        raise ValueError(f"calibrate: images must have one number of pixels that count, got {sorted(sizes)}")
    if not is_enough(len(rows), c, form, delta):
        least = fewest(c, form, delta)
        needed = "more than 10000" if least is None else f"{least} or more"
        raise ValueError(
            f"calibrate: images must be {needed} for coverage {c:g} at delta {delta:g} in the {form} form, got "
            f"{len(rows)}; use more, a larger delta, or a lower coverage in the field form"
        )
    scores, maps = (torch.stack(values) for values in zip(*rows, strict=True))
    group = rank_groups(maps, ranks)
    if form == "value" and len(set(group[0].tolist())) <= len(ranks):
        raise ValueError(f"calibrate: ranks must leave pixels in every group, got {short(repr(ranks), 60)}")
    factor = factors(scores, group, len(ranks) + 1, c, form, delta)
    return Calibration(factor, form, c, delta, tuple(ranks), len(rows))


def _pair(pair: Any) -> tuple[Any, Any]:
    """Return error bars and truth, in this order."""
    if isinstance(pair, (tuple, list)) and len(pair) == 2 and hasattr(pair[0], "std") and hasattr(pair[0], "x"):
        return pair[0], pair[1]
    got = short(repr([type(one).__name__ for one in pair] if isinstance(pair, (tuple, list)) else type(pair)), 60)
    raise TypeError(f"calibrate: images must be pairs (error bars, truth), as [(bars, truth), ...], got {got}")


def _scores(bars: Bootstrap, truth: Any, mask: Any) -> list[tuple[Tensor, Tensor]]:
    """Return |x - truth| / std and x of each image of a batch, where they count, in float64."""
    if not hasattr(bars, "x") or not hasattr(bars, "std"):
        raise TypeError(f"calibrate: images must be pairs (error bars, truth), got {type(bars).__name__} first")
    x, std = (torch.as_tensor(value).cpu() for value in (bars.x, bars.std))
    if x.is_complex():
        raise TypeError("calibrate: images must be real, got complex ones")
    error = (x.double() - _truth(truth, x, "calibrate").double()).abs()
    score = torch.where(error > 0, error / std.double(), 0)  # where x is exact, as in air, std may be 0
    counted = _counted(mask, x, "calibrate")
    if not bool(error[counted].isfinite().all()):
        raise ValueError("calibrate: x and truth must be finite where they count, got NaN or infinity; use a mask")
    if not bool(score[counted].isfinite().all()):
        raise ValueError("calibrate: std must be positive where x differs from the truth, got 0; use a mask")
    return [(s[m], image[m].double()) for s, image, m in zip(score, x, counted, strict=True)]


def _truth(truth: Any, x: Tensor, caller: str) -> Tensor:
    found = torch.as_tensor(truth).to(x.device)
    if found.shape != x.shape:
        raise ValueError(f"{caller}: truth must be {tuple(x.shape)} as x, got {tuple(found.shape)}")
    return found


def _counted(mask: Any, x: Tensor, caller: str) -> Tensor:
    """Return the pixels that count, bool of the shape of x."""
    if mask is None:
        return torch.ones_like(x, dtype=torch.bool)
    given = torch.as_tensor(mask).to(x.device)
    if not broadcasts(tuple(given.shape), tuple(x.shape)):
        raise ValueError(f"{caller}: mask must broadcast to x {tuple(x.shape)}, got {tuple(given.shape)}")
    counted = (given != 0).expand(x.shape)
    if not bool(counted.flatten(1).any(1).all()):
        raise ValueError(f"{caller}: mask must be true somewhere in each image")
    return counted


def _factor_map(x: Tensor, counted: Tensor, factor: Tensor, ranks: Sequence[float]) -> Tensor:
    """Return the factor of each pixel of an image (C, H, W); outside the mask that of the next value within."""
    inside = x[counted]
    ordered, order = inside.sort(stable=True)
    group = rank_groups(inside[None], ranks)[0]
    nearest = torch.searchsorted(ordered, x.contiguous()).clamp(max=len(ordered) - 1)
    out = factor[group[order][nearest]]
    out[counted] = factor[group]
    return out
