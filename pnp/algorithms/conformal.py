"""Factors that give heuristic intervals their coverage: split conformal by pixel, by image and rank, and risk control.

Scores are (n, pixels): |error| over a heuristic standard deviation, of n independent images with known truth. The
factor lambda makes the intervals x +- lambda std cover:

    "pixel"     split conformal, pixel by pixel (Vovk et al. 2005; Lei et al. 2018): lambda_p is the ceil((n + 1) c)-th
                smallest score at pixel p. Each pixel is covered with a chance of at least c, over the n images and the
                next one together, at most 1/(n + 1) more.
    "field"     risk control (Bates, Angelopoulos, Lei, Malik and Jordan 2021, J. ACM 68, 43): the least scalar lambda
                whose upper confidence bound on the mean uncovered fraction of pixels is at most 1 - c: with a chance of
                1 - delta over the n images, an image is covered to c on average. The bound is that of
                Waudby-Smith and Ramdas (section 3.1.3 there).
    "value"     group-conditional split conformal (Mondrian; Vovk 2012, PMLR 25, 475) by reconstructed value: an image's
                pixels are grouped by their rank in the reconstruction, e.g. its highest 1 %, and each group g has a
                lambda_g. The score of an image in a group is the factor that covers c of its pixels there; lambda_g is
                the ceil((n + 1)(1 - delta))-th smallest score. With a chance of at least 1 - delta over the n images
                and the next one together, at most 1/(n + 1) more, c of an image's pixels in the group are covered.

All hold for any reconstruction and heuristic, but only for images like the n ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..checks import check_number, short

FORMS = ("pixel", "field", "value")
RANKS = (0.5, 0.9, 0.99)
"""Ends of the groups of an image's pixels by rank: the lower half, up to the highest tenth, up to the highest 1 %."""


def is_enough(n: int, c: float, form: str, delta: float) -> bool:
    """Return whether n images suffice to promise the target if all pixels are covered."""
    if form == "pixel":
        return n >= 1 and math.ceil((n + 1) * c) <= n
    if form == "value":
        return n >= 1 and math.ceil((n + 1) * (1 - delta)) <= n
    return n >= 1 and _upper_bound([0.0] * n, delta) <= 1 - c


def check_target(
    caller: str, coverage: Any, delta: Any, form: str, ranks: Any, forms: Sequence[str] = FORMS
) -> tuple[float, float]:
    """Return the checked coverage and delta; refuse a form that is not one of `forms`, and ranks that do not rise."""
    c = check_number("coverage", coverage, above=0, caller=caller)
    delta = check_number("delta", delta, above=0, caller=caller)
    for name, value in (("coverage", c), ("delta", delta)):
        if value >= 1:
            raise ValueError(f"{caller}: {name} must be below 1, got {value!r}")
    if form not in forms:
        raise ValueError(f"{caller}: form must be {', '.join(forms[:-1])} or {forms[-1]}, got {short(repr(form), 60)}")
    if not hasattr(ranks, "__len__") or not all(low < high for low, high in pairwise([0.0, *ranks, 1.0])):
        raise ValueError(f"{caller}: ranks must rise between 0 and 1, got {short(repr(ranks), 60)}")
    return c, delta


def rank_groups(maps: Tensor, ranks: Sequence[float]) -> Tensor:
    """Return the group of each pixel of maps (n, pixels) by its rank in its own map, 0 the lowest."""
    rank = maps.argsort(dim=1, stable=True).argsort(dim=1)
    ends = torch.tensor([round(r * maps.shape[1]) for r in ranks], device=maps.device)
    return torch.bucketize(rank, ends, right=True)


def fewest(c: float, form: str, delta: float, most: int = 10_000) -> int | None:
    """Return the least number of images that `is_enough`, None where that is above `most`.

    >>> fewest(0.9, "value", 0.1, 100), fewest(0.9, "value", 0.001, 100)
    (9, None)
    """
    low, high = 0, 1
    while not is_enough(high, c, form, delta):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle, c, form, delta) else (middle, high)
    return high


def factors(scores: Tensor, group: Tensor, n_groups: int, c: float, form: str, delta: float) -> Tensor:
    """Return lambda: (pixels,) for "pixel", 0-dim for "field", (n_groups,) for "value".

    Args:
        scores: (n, pixels).
        group: (n, pixels), the group of each pixel, see `rank_groups`.
        n_groups: number of groups.
        c: coverage, the part of the pixels to cover.
        form: one of `FORMS`.
        delta: chance that the calibration, or an image, misses the target.
    """
    if form == "value":
        return torch.stack([image_factor(scores, group == g, c, delta) for g in range(n_groups)])
    if form == "pixel":
        return conformal_factor(scores, c)
    return risk_controlling_factor(scores, c, delta)


def conformal_factor(scores: Tensor, c: float) -> Tensor:
    """Return the ceil((n + 1) c)-th smallest score (n, pixels) of each pixel."""
    return scores.kthvalue(math.ceil((len(scores) + 1) * c), dim=0).values


def image_factor(scores: Tensor, members: Tensor, c: float, delta: float) -> Tensor:
    """Return the ceil((n + 1)(1 - delta))-th smallest of the factors that cover c of each image's member pixels.

    Args:
        scores: (n, pixels).
        members: (n, pixels), true for the pixels of the group, at least one in each image.
        c: part of the pixels to cover.
        delta: chance that a smaller part of an image is covered.
    """
    each = [s[m] for s, m in zip(scores, members, strict=True)]
    factors = torch.stack([s.kthvalue(math.ceil(c * len(s))).values for s in each])
    return factors.kthvalue(math.ceil((len(factors) + 1) * (1 - delta))).values


def risk_controlling_factor(scores: Tensor, c: float, delta: float) -> Tensor:
    """Return the least lambda, to 1 in 1000, above which all bounds on the mean uncovered fraction are <= 1 - c.

    It is 0 where enough scores are 0, of pixels without an error.
    """

    def controlled(factor: float) -> bool:
        return _upper_bound((scores > factor).double().mean(1).tolist(), delta) <= 1 - c

    # Downwards and not by bisection: the bets depend on the losses, so the bound may not be monotone.
    factor = float(scores.max())  # with the largest score everything is covered
    least = float(torch.where(scores > 0, scores, math.inf).min())  # below it nothing changes
    for ratio in (0.98, 0.999):
        while factor >= least and controlled(factor * ratio):
            factor *= ratio
    return scores.new_tensor(factor if factor >= least else 0.0)


def _upper_bound(losses: Sequence[float], delta: float) -> float:
    """Return the 1 - delta upper confidence bound on the mean of independent losses in [0, 1].

    Waudby-Smith and Ramdas: betting nu_i against a mean of R, the capital prod_i (1 - nu_i (L_i - R)) exceeds 1/delta
    at any time with a chance of at most delta if R is the mean. The bound is the least R at which it does.
    """
    # Predictable bets from the running mean and variance, each with half a pseudo-loss of 1/2.
    variance, total, squares, bets = 0.25, 0.5, 0.25, []
    for i, value in enumerate(losses, 1):
        bets.append(min(1.0, math.sqrt(2 * math.log(1 / delta) / (len(losses) * variance))))
        total += value
        squares += (value - total / (1 + i)) ** 2
        variance = squares / (1 + i)

    def broken(R: float) -> bool:
        capital = 0.0  # its logarithm
        for bet, value in zip(bets, losses, strict=True):
            factor = 1 - bet * (value - R)
            capital += math.log(factor) if factor > 0 else -math.inf
            if capital > -math.log(delta):
                return True
        return False

    low, high = 0.0, 1.0
    if not broken(high):
        return 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if broken(middle) else (middle, high)
    return high
