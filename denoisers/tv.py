"""Total variation: D(x, sigma) = argmin_z 1/2 ||z - x||^2 + weight sigma TV(z), isotropic.

Chambolle's dual algorithm (J. Math. Imaging Vision 20, 2004), as in scikit-image's `denoise_tv_chambolle`. It
is scale-equivariant: TV()(a x, a sigma) = a TV()(x, sigma).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import check_image, check_sigma


class TV:
    """Total-variation denoiser; channels are denoised one by one.

    Args:
        weight: weight of the total variation in units of sigma. 1 is near the best for photographs.
        max_iter: iterations at most.
        rtol: stop when the energy falls by less than this part of its first fall.
    """

    def __init__(self, weight: float = 1.0, *, max_iter: int = 100, rtol: float = 1e-4) -> None:
        if not weight > 0:
            raise ValueError(f"TV: weight must be positive, got {weight}")
        self.weight, self.max_iter, self.rtol = weight, max_iter, rtol

    def __repr__(self) -> str:
        return f"TV({self.weight}, max_iter={self.max_iter}, rtol={self.rtol})"

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W) on the CPU with noise of standard deviation sigma, in units of x.

        Raises:
            TypeError, ValueError: x or sigma is not as described, or x is not on the CPU.
        """
        from skimage.restoration import denoise_tv_chambolle

        check_image("TV", x)
        if x.device.type != "cpu":
            raise ValueError(f"TV: x must be on the CPU, got {x.device}; use denoiser=MLPatch there, or x.cpu()")
        out = torch.empty_like(x)
        for i, s in enumerate(check_sigma("TV", sigma, x).tolist()):
            for c in range(x.shape[1]):
                image = x[i, c].detach().numpy()
                if s > 0:
                    image = denoise_tv_chambolle(image, self.weight * s, eps=self.rtol, max_num_iter=self.max_iter)
                out[i, c] = torch.from_numpy(image)
        return out
