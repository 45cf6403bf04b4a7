"""Total variation: D(x, sigma) = argmin_z E(z) = 1/2 ||z - x||^2 + lambda sum_i |(grad z)_i|, lambda = weight sigma.

The gradient is forward differences, zero across the last row and the last column; |.| is its length in a pixel
(isotropic). By duality

    z = x - lambda grad^T p,    p = argmin_p ||x - lambda grad^T p||^2  subject to |p_i| <= 1,

and p is found by projected gradients with Nesterov's acceleration: the fast gradient projection of A. Beck and
M. Teboulle, "Fast gradient-based algorithms for constrained total variation image denoising and deblurring problems",
IEEE Trans. Image Process. 18(11), 2419-2434, 2009. The minimum is that of A. Chambolle's algorithm (J. Math. Imaging
Vision 20, 89-97, 2004), which scikit-image's `denoise_tv_chambolle` is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from .base import check_image, check_positive, check_sigma

_CHECK_EVERY = 5  # iterations: the duality gap costs about as much as one


class TV:
    """Total-variation denoiser, on any device; channels are denoised one by one.

    Unit-free: TV()(a x, a sigma) = a TV()(x, sigma) for a > 0. No gradient passes through it.

    Args:
        weight: lambda in units of sigma; 0.9 is near the best for photographs.
        max_iter: largest number of iterations.
        rtol: a channel's iterations stop when its duality gap is at most rtol E(z); then
            ||z - minimiser||^2 <= 2 rtol E(z).

    Raises:
        TypeError: weight or rtol is not a number; max_iter is not an integer.
        ValueError: weight or rtol is not positive and finite; max_iter is below 1.
    """

    takes_sigma_per_image = True

    def __init__(self, weight: float = 0.9, *, max_iter: int = 100, rtol: float = 1e-3) -> None:
        self.weight = check_positive("TV", "weight", weight)
        self.max_iter = int(check_positive("TV", "max_iter", max_iter, integer=True))
        self.rtol = check_positive("TV", "rtol", rtol)

    def __repr__(self) -> str:
        return f"TV({self.weight}, max_iter={self.max_iter}, rtol={self.rtol})"

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W) with noise of standard deviation sigma, in units of x.

        Args:
            x: images, real; half precision is computed in float32.
            sigma: a scalar, or one value per image; an image whose sigma is 0 is returned unchanged.

        Raises:
            TypeError, ValueError: x or sigma is not as described.
        """
        check_image("TV", x)
        sigmas = check_sigma("TV", sigma, x)
        dtype = torch.promote_types(x.dtype, torch.float32)
        planes = x.flatten(0, 1).to(dtype, copy=True)
        weight = self.weight * sigmas.to(dtype).repeat_interleave(x.shape[1])
        # No pixel changes by more than 4 lambda: below the rounding of x there is nothing to do. False where x is NaN.
        noisy = weight > torch.finfo(dtype).eps / 8 * planes.abs().amax((1, 2))
        if bool(noisy.any()):
            planes[noisy] = _minimiser(planes[noisy], weight[noisy], self.max_iter, self.rtol)
        return planes.to(x.dtype).view_as(x)


def _minimiser(x: Tensor, weight: Tensor, max_iter: int, rtol: float) -> Tensor:
    """Return z for images x (N, H, W) and their lambdas (N,), above 0."""
    weight = weight[:, None, None]
    z, left = x.clone(), torch.arange(len(x), device=x.device)
    data = x / weight  # so that lambda is 1
    p = q = x.new_zeros(len(x), 2, *x.shape[1:])
    t = 1.0
    for k in range(1, max_iter + 1):
        before, p = p, q + _gradient(data - _adjoint(q)) / 8  # 8: above the square of the gradient's norm
        p = p / _length(p).clamp(min=1)
        t, last = (1 + math.sqrt(1 + 4 * t**2)) / 2, t
        q = p + (last - 1) / t * (p - before)
        if k % _CHECK_EVERY and k < max_iter:
            continue
        change = _adjoint(p)
        z[left] = x[left] - weight[left] * change
        g = _gradient(data - change)
        variation = _length(g).sum((1, 2, 3))
        gap = variation - (p * g).sum((1, 2, 3))
        energy = change.square().sum((1, 2)) / 2 + variation
        keep = (gap > rtol * energy).nonzero()[:, 0]
        if len(keep) == 0:
            break
        if len(keep) < len(left):
            left, data, p, q = (v[keep] for v in (left, data, p, q))
    return z


def _gradient(z: Tensor) -> Tensor:
    """Return the forward differences (N, 2, H, W) of images (N, H, W), along columns and along rows."""
    return torch.stack([pad(z.diff(dim=1), (0, 0, 0, 1)), pad(z.diff(dim=2), (0, 1))], 1)


def _adjoint(p: Tensor) -> Tensor:
    """Return the adjoint of `_gradient`, minus the divergence of fields p (N, 2, H, W)."""
    down, right = p[:, 0, :-1], p[:, 1, :, :-1]
    return -pad(down, (0, 0, 1, 1)).diff(dim=1) - pad(right, (1, 1)).diff(dim=2)


def _length(p: Tensor) -> Tensor:
    """Return the length (N, 1, H, W) of fields p in each pixel."""
    return torch.hypot(p[:, :1], p[:, 1:])
