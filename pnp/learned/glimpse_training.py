"""Train GLIMPSE on pairs of images and their measurements: a few patches of every image in a batch.

    minimise  E | G(y; q) - x(q) |^2 / s^2,    y = A x + n,    q the pixels of random patches

The measurements are given without noise, so that no operator is needed here. Fresh noise is drawn in every step; its
level is relative to each measurement.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from ..metrics import psnr
from ..training.state import Task, like
from .glimpse import Glimpse


def add_noise(y: Tensor, noise_db: float, *, generator: torch.Generator) -> Tensor:
    """Return y (B, ...) plus white noise `noise_db` decibels below each measurement's root mean square."""
    level = y.square().flatten(1).mean(1).sqrt() * 10 ** (-noise_db / 20)
    return y + level.reshape(-1, *[1] * (y.ndim - 1)) * torch.randn(y.shape, generator=generator, dtype=y.dtype)


def mean_psnr(reconstruct: Callable[[Tensor], Tensor], y: Tensor, x: Tensor) -> float:
    """Return the mean PSNR in dB over images x (B, 1, H, W) and measurements y; data range: each image's maximum."""
    with torch.no_grad():
        found = [reconstruct(one[None])[0] for one in y]
    return sum(psnr(z.to(t), t, data_range=float(t.max())) for z, t in zip(found, x, strict=True)) / len(x)


class PatchTask(Task):
    """Training task: patches of random images, and measurements of the whole images.

    Args:
        model: the network to train; its shape is that of the images.
        images: (n, 1, H, W), on the CPU.
        y: (n, 1, n_angles, n_detectors), their measurements without noise.
        noise_db: level of the noise, in decibels below a measurement's root mean square; infinity: no noise.
        patch: side of the patches in pixels; 1: single points, as in the original.
        patches: number of patches of an image in a step.

    Raises:
        ValueError: the sizes of model, images and measurements differ, or the patch is larger than the images.
    """

    def __init__(
        self,
        model: Glimpse,
        images: Tensor,
        y: Tensor,
        *,
        noise_db: float = 40.0,
        patch: int = 32,
        patches: int = 1,
    ) -> None:
        n, views = len(images), (len(model.angles), model.n_detectors)
        if n == 0 or images.shape != (n, 1, *model.shape):
            raise ValueError(
                f"PatchTask: images must be (n, 1, {model.shape[0]}, {model.shape[1]}), got {tuple(images.shape)}"
            )
        if y.shape != (n, 1, *views):
            raise ValueError(f"PatchTask: y must be {(n, 1, *views)}, got {tuple(y.shape)}")
        if not 1 <= patch <= min(model.shape) or patches < 1:
            raise ValueError(
                f"PatchTask: patch must be 1 to {min(model.shape)} pixels, patches 1 or more, got {patch} and {patches}"
            )
        if not noise_db > 0:
            raise ValueError(f"PatchTask: noise_db must be above 0, e.g. 40, got {noise_db}")
        checksum = zlib.crc32(images.contiguous().numpy().tobytes())
        settings = {
            "noise_db": noise_db,
            "patch": patch,
            "patches": patches,
            "images": f"{n} of checksum {checksum:08x}",
        }
        super().__init__("train_glimpse", model, settings, "patch setting")
        self.images, self.y, self.noise_db, self.patch, self.patches = images, y, noise_db, patch, patches

    def draw(self, batch: int, *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw y (batch, 1, n_angles, n_detectors), values (batch, patches, patch, patch) and corners."""
        which = torch.randint(len(self.images), (batch,), generator=generator)
        height, width = self.images.shape[2:]
        row = torch.randint(height - self.patch + 1, (batch, self.patches), generator=generator)
        col = torch.randint(width - self.patch + 1, (batch, self.patches), generator=generator)
        steps = torch.arange(self.patch)
        image = which[:, None, None, None]
        x = self.images[image, 0, row[..., None, None] + steps[:, None], col[..., None, None] + steps]
        y = self.y[which]
        if self.noise_db < float("inf"):
            y = add_noise(y, self.noise_db, generator=generator)
        corners = torch.stack([col - (width - 1) / 2, (height - 1) / 2 - row], -1) * self.model.pixel_size
        return y, x, corners

    def forward(self, y: Tensor, x: Tensor, corners: Tensor) -> Tensor:
        """Return 100 times the mean square error over s^2, so that gradients do not depend on the unit of x."""
        views = self.model.prepare(y)
        error: Tensor = self.model.patches(views, corners, self.patch, self.patch) - x
        loss: Tensor = 100 * (error / views.scale.detach()[:, None, None, None]).square().mean()
        return loss


def held_out_psnr(y: Tensor, x: Tensor) -> Callable[[torch.nn.Module], float]:
    """Return a function of a model: its mean PSNR on images x and measurements y, computed on the model's device."""
    return lambda model: mean_psnr(lambda one: model(one.to(like(model).device)).cpu(), y, x)
