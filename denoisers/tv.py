"""Total variation: D(x, sigma) = argmin_z E(z) = 1/2 ||z - x||^2 + lambda sum_i |(grad z)_i|, lambda = weight sigma.

The gradient is forward differences, zero across the last row and the last column; |.| is its length in a pixel
(isotropic). Volumes have differences along their three axes, in voxels whatever their sides. By duality

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
    """Total-variation denoiser of images or volumes, on any device; channels are denoised one by one.

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

    takes_sigma_per_image = takes_volumes = True

    def __init__(self, weight: float = 0.9, *, max_iter: int = 100, rtol: float = 1e-3) -> None:
        self.weight = check_positive("TV", "weight", weight)
        self.max_iter = int(check_positive("TV", "max_iter", max_iter, integer=True))
        self.rtol = check_positive("TV", "rtol", rtol)

    def __repr__(self) -> str:
        return f"TV({self.weight}, max_iter={self.max_iter}, rtol={self.rtol})"

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W) or (B, C, D, H, W) with noise of standard deviation sigma, in units of x.

        Args:
            x: images or volumes, real; half precision is computed in float32.
            sigma: a scalar, or one value per image; an image whose sigma is 0 is returned unchanged.

        Raises:
            TypeError, ValueError: x or sigma is not as described.
        """
        check_image("TV", x, dimensions=3 if isinstance(x, Tensor) and x.ndim == 5 else 2)
        sigmas = check_sigma("TV", sigma, x)
        dtype = torch.promote_types(x.dtype, torch.float32)
        planes = x.flatten(0, 1).to(dtype, copy=True)
        weight = self.weight * sigmas.to(dtype).repeat_interleave(x.shape[1])
        # No pixel changes by more than 5 lambda: below the rounding of x there is nothing to do. False where x is NaN.
        noisy = weight > torch.finfo(dtype).eps / 8 * planes.abs().flatten(1).amax(1)
        if bool(noisy.any()):
            planes[noisy] = _minimiser(planes[noisy], weight[noisy], self.max_iter, self.rtol)
        return planes.to(x.dtype).view_as(x)


def _minimiser(x: Tensor, weight: Tensor, max_iter: int, rtol: float) -> Tensor:
    """Return z for images x (N, H, W) or volumes (N, D, H, W) and their lambdas (N,), above 0."""
    weight = weight.reshape(-1, *(1,) * (x.ndim - 1))
    z, left = x.clone(), torch.arange(len(x), device=x.device)
    data = x / weight  # so that lambda is 1
    p = q = x.new_zeros(len(x), x.ndim - 1, *x.shape[1:])
    bound = 4 * (x.ndim - 1)  # above the square of the gradient's norm
    t = 1.0
    for k in range(1, max_iter + 1):
        before, p = p, q + _gradient(data - _adjoint(q)) / bound
        p = p / _length(p).clamp(min=1)
        t, last = (1 + math.sqrt(1 + 4 * t**2)) / 2, t
        q = p + (last - 1) / t * (p - before)
        if k % _CHECK_EVERY and k < max_iter:
            continue
        change = _adjoint(p)
        z[left] = x[left] - weight[left] * change
        g = _gradient(data - change)
        variation = _sum(_length(g))
        gap = variation - _sum(p * g)
        energy = _sum(change.square()) / 2 + variation
        keep = (gap > rtol * energy).nonzero()[:, 0]
        if len(keep) == 0:
            break
        if len(keep) < len(left):
            left, data, p, q = (v[keep] for v in (left, data, p, q))
    return z


def _sum(v: Tensor) -> Tensor:
    """Return the sum over all axes but the first."""
    return v.sum(tuple(range(1, v.ndim)))


def _gradient(z: Tensor) -> Tensor:
    """Return the forward differences (N, d, ...) of z (N, ...) along its d axes, 0 at their ends."""
    axes = range(1, z.ndim)
    return torch.stack([pad(z.diff(dim=a), (0, 0) * (z.ndim - 1 - a) + (0, 1)) for a in axes], 1)


def _adjoint(p: Tensor) -> Tensor:
    """Return the adjoint of `_gradient`, minus the divergence of fields p (N, d, ...)."""
    ends = [(0, 0) * (p.shape[1] - a) + (1, 1) for a in range(1, p.shape[1] + 1)]
    parts = [
        pad(v.narrow(a, 0, v.shape[a] - 1), end).diff(dim=a)
        for a, (v, end) in enumerate(zip(p.unbind(1), ends, strict=True), 1)
    ]
    return -sum(parts[1:], parts[0])


def _length(p: Tensor) -> Tensor:
    """Return the length (N, 1, ...) of fields p (N, d, ...) in each pixel."""
    length = torch.hypot(p[:, :1], p[:, 1:2])
    return length if p.shape[1] == 2 else torch.hypot(length, p[:, 2:])
