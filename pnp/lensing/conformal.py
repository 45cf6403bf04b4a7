"""Factors that give heuristic intervals their coverage: split conformal by pixel or by sky, and risk control.

`error_maps` describes the forms. Scores are (n, pixels): |error| over the heuristic, of n independent simulations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def check_size(n: int, c: float, form: str, delta: float) -> None:
    """Check that n skies suffice to promise the target if all pixels are covered."""
    if form == "pixel":
        enough = n >= 1 and math.ceil((n + 1) * c) <= n
    elif form == "value":
        enough = n >= 1 and math.ceil((n + 1) * (1 - delta)) <= n
    else:
        enough = n >= 1 and _upper_bound([0.0] * n, delta) <= 1 - c
    if not enough:
        confidence = "" if form == "pixel" else f" at delta {delta:g}"
        raise ValueError(
            f"calibrate_error: simulated must leave more skies to calibrate coverage {c:g}{confidence} in the {form} "
            f"form, got {max(n, 0)}; simulate more, or lower coverage"
        )


def conformal_factor(scores: Tensor, c: float) -> Tensor:
    """Return the ceil((n + 1) c)-th smallest score (n, pixels) of each pixel."""
    return scores.kthvalue(math.ceil((len(scores) + 1) * c), dim=0).values


def sky_factor(scores: Tensor, members: Tensor, c: float, delta: float) -> Tensor:
    """Return the ceil((n + 1)(1 - delta))-th smallest of the factors that cover c of each sky's member pixels.

    Args:
        scores: (n, pixels).
        members: (n, pixels), true for the pixels of the group, at least one in each sky.
        c: part of the pixels to cover.
        delta: chance that a smaller part of a sky is covered.
    """
    each = [s[m] for s, m in zip(scores, members, strict=True)]
    factors = torch.stack([s.kthvalue(math.ceil(c * len(s))).values for s in each])
    return factors.kthvalue(math.ceil((len(factors) + 1) * (1 - delta))).values


def risk_controlling_factor(scores: Tensor, c: float, delta: float) -> Tensor:
    """Return the least lambda, to 1 in 1000, above which all bounds on the mean uncovered fraction are <= 1 - c."""

    def controlled(factor: float) -> bool:
        return _upper_bound((scores > factor).double().mean(1).tolist(), delta) <= 1 - c

    # Downwards and not by bisection: the bets depend on the losses, so the bound may not be monotone.
    factor = float(scores.max())  # with the largest score everything is covered
    for ratio in (0.98, 0.999):
        while controlled(factor * ratio):
            factor *= ratio
    return scores.new_tensor(factor)


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
