"""Reduced shear: the shapes of galaxies measure not gamma but g = gamma/(1 - kappa).

An estimate of kappa turns it back into shear and its noise (Seitz and Schneider 1995, A&A 297, 287),

    gamma = g (1 - kappa),    noise_std of gamma = (1 - kappa) noise_std of g,

and the map made of that shear is the next estimate. An iteration multiplies the error by about kappa,
so that one or two suffice. This holds where kappa < 1 and |g| < 1, outside the critical curves of strong lenses. A
sheet of mass is not measured: g stays the same when 1 - kappa and gamma are multiplied by one constant.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

_KAPPA_MAX = 0.9
"""Upper limit of convergence in corrections: at 1 the reduced shear diverges, beyond it changes sign."""


def shear_to_reduced(shear: Tensor, kappa: Tensor) -> Tensor:
    """Return the reduced shear g = gamma/(1 - kappa), (B, 2, H, W).

    Args:
        shear: gamma (B, 2, H, W).
        kappa: convergence (B, 1, H, W), below 1 everywhere.
    """
    if not bool((kappa < 1).all()):
        raise ValueError(
            f"shear_to_reduced: kappa must be below 1, got {float(kappa.max()):.4g}; inside critical curves galaxies "
            "measure 1/g*, not g"
        )
    return shear / (1 - kappa)


def reduced_to_shear(reduced: Tensor, noise_std: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor]:
    """Return shear gamma = g (1 - kappa) and its noise, given an estimate of kappa, limited to 0.9.

    Args:
        reduced: g (B, 2, H, W).
        noise_std: its noise, broadcasts against g; infinity stays infinity.
        kappa: convergence (B, 1, H, W).
    """
    factor = 1 - kappa.clamp(max=_KAPPA_MAX)
    return reduced * factor, noise_std * factor


def undo_reduction(
    reconstruct: Callable[[Tensor, Tensor], Tensor],
    reduced: Tensor,
    noise_std: Tensor,
    *,
    max_corrections: int = 4,
    rtol: float = 0.01,
    more: Callable[[], bool] = lambda: True,
) -> tuple[Tensor, list[float]]:
    """Map mass from reduced shear by a method for shear, and return the maps and the changes by each correction.

    Args:
        reconstruct: (y, noise_std) -> maps (B, C, H, W), the convergence in channel 0.
        reduced: g (B, 2, H, W); used as shear the first time.
        noise_std: its noise, broadcasts against g; infinity where not observed.
        max_corrections: largest number of maps after the first.
        rtol: stop when kappa changes by at most this fraction of its norm.
        more: called before each correction; false stops.

    Returns:
        The last maps, and the relative change of kappa by each correction.
    """
    maps = reconstruct(reduced, noise_std)
    changes: list[float] = []
    for _ in range(max_corrections):
        if not more():
            break
        kappa = maps[:, :1]
        maps = reconstruct(*reduced_to_shear(reduced, noise_std, kappa))
        size, change = (float(torch.linalg.vector_norm(k)) for k in (maps[:, :1], maps[:, :1] - kappa))
        changes.append(change / size if size > 0 else 0.0)
        if change <= rtol * size:
            break
    highest = float(maps[:, :1].max())
    if highest > _KAPPA_MAX:
        warnings.warn(
            f"undo_reduction: convergence reaches {highest:.3g}; beyond {_KAPPA_MAX}, towards the critical curves of a "
            "strong lens, reduced shear does not determine it",
            stacklevel=2,
        )
    return maps, changes
