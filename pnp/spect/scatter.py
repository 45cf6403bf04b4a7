"""Estimate the scatter in a photopeak window from the counts of windows beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

from ..checks import check_number

_T = TypeVar("_T")


def triple_energy_window(lower: _T, upper: _T | None, widths_kev: Sequence[float]) -> _T:
    """Return the scattered counts in a photopeak window, estimated from narrow windows on both sides of it.

    The scatter's spectrum is taken for a straight line under the peak, so that its area is a trapezoid,

        (lower / w_lower + upper / w_upper) w_peak / 2,

    K. Ogawa, Y. Harata, T. Ichihara, A. Kubo and S. Hashimoto, IEEE Trans. Med. Imaging 10 (1991) 408. The
    estimate is as noisy as its few counts: smooth it before use as a background, e.g. with a Gaussian of a few bins.

    Args:
        lower: counts below the peak, an array or tensor of any shape.
        upper: counts above the peak, likewise; None: there are none, and the trapezoid is a triangle.
        widths_kev: (w_lower, w_peak, w_upper) in keV, or (w_lower, w_peak) without upper.

    Raises:
        ValueError, TypeError: shapes differ, counts are negative or not finite, or a width is not positive.

    >>> import numpy as np
    >>> triple_energy_window(np.array([6.0]), np.array([2.0]), (4.0, 28.0, 4.0))
    array([28.])
    """
    caller, sides = "triple_energy_window", [lower] if upper is None else [lower, upper]
    if len(widths_kev) != len(sides) + 1:
        raise ValueError(
            f"{caller}: widths_kev must be (lower, photopeak, upper) in keV, or (lower, photopeak) where upper is "
            f"None, got {len(widths_kev)} of them"
        )
    width = [check_number("widths_kev", w, above=0, caller=caller) for w in widths_kev]
    for name, counts in zip(("lower", "upper"), sides, strict=False):
        values: Any = counts
        if not bool((values >= 0).all() and (values < float("inf")).all()):
            raise ValueError(f"{caller}: {name} must be counts >= 0 and finite, got negative ones, NaN or infinity")
    shapes = [tuple(counts.shape) for counts in sides]  # type: ignore[attr-defined]
    if len(set(shapes)) > 1:
        raise ValueError(f"{caller}: lower and upper must have one shape, got {shapes[0]} and {shapes[1]}")
    below, above = cast(Any, lower) / width[0], 0 if upper is None else cast(Any, upper) / width[2]
    return cast(_T, (below + above) * (width[1] / 2))
