"""Stein's unbiased risk estimate of a solve, for measurements y = A x + n that determine their own pixels.

With u = W^(1/2) y, whose noise is white of variance 1, and m(u) = W^(1/2) A x of the x that is solved for from y,

    E mean |m(u) - W^(1/2) A x*|^2 + 1 = E mean [|m(u) - u|^2 + 2 diag(dm/du)]

is the error of predicting a second y with other noise: 1 from its noise alone, and more by what x gets wrong, as of
measurements that were held out (C. Stein, Annals of Statistics 9, 1135, 1981). The sum of the diagonal is found along
one probe b of random signs, E b (dm/du) b, by a difference (S. Ramani, T. Blu, M. Unser, IEEE Trans. Image Process. 17,
1540, 2008): a second solve, of y + STEP b / W^(1/2).

Where a mask leaves pixels out, y says nothing of their error in this way; measurements that are held out do. With
f = measurements / pixels, f times the former and 1 - f times the latter estimate the error of all pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..algorithms.batch import images
from ..algorithms.least_squares import LeastSquaresStep

STEP = 0.1
"""Length of the step along the probe, in noise levels."""
SEED = 1
"""Of the probe; that of what is held out is another one."""


class Probe:
    """A data term whose measurements are moved by a small step, and the risk that two solves show.

    Args:
        whole: the data term with all measurements.
        train: the data term that is solved for, without what is held out.
        counted: the measurements that count, a mask like y.
        hidden: those of them that are held out; possibly none.

    Attributes:
        term: the data term of the second solve.
        shares: weights of the measurements in the mean over those that count, of which those that are held out stand
            for the pixels that are not measured, and all others for the measured ones.
    """

    def __init__(self, whole: LeastSquaresStep, train: LeastSquaresStep, counted: Tensor, hidden: Tensor) -> None:
        self._whole = whole
        # All images of a batch have the probe that one would have alone.
        signs = torch.randint(0, 2, counted.shape[1:], generator=torch.Generator().manual_seed(SEED)).to(counted.device)
        self._signs = torch.where(counted & ~hidden, 2 * signs - 1, 0).to(whole.y.dtype)
        self.shares = _shares(whole.back_projection, counted, hidden)
        std = torch.where(whole.weights > 0, whole.weights, torch.inf) ** -0.5
        self.term = train.with_measurements(train.y + STEP * std * self._signs)

    def squares(self, x: Tensor, moved: Tensor) -> Tensor:
        """Return for each measurement its part of the risk of x.

        Args:
            x, moved: the images that are solved for from the measurements, and from those that are moved.
        """
        residuals = self._whole.residuals(x)[0]
        change: Any = self._whole.weights.sqrt() * (self._whole.operator.A(moved) - self._whole.operator.A(x))
        found: Tensor = residuals.square() + 2 / STEP * self._signs * change
        return found


def _shares(image: Tensor, counted: Tensor, hidden: Tensor) -> Tensor:
    """Return the `shares` of a probe, on the CPU: their mean over the measurements of an image that count is 1."""
    shares = torch.zeros(counted.shape, dtype=torch.float64)
    n_pixels = image[0].numel()
    for b, (one, held) in enumerate(zip(images(counted.cpu()), images(hidden.cpu()), strict=True)):
        n, n_held = int(one.sum()), int(held.sum())
        measured = min(1.0, n / n_pixels) if n_held else 1.0
        shares[b] = torch.where(held, (1 - measured) * n / max(1, n_held), measured * n / max(1, n - n_held))[0]
    return shares
