"""A denoiser of images on the sphere: a local denoiser sees small patches, which are nearly flat.

    z(p) = sum_k w_k(p) z_k(p) / sum_k w_k(p),   z_k = D(x on the grid of patch k; sigma_g),
    w_k = cos^2(pi rho/2R) of the angle rho < R from the centre of patch k

A patch is a square grid in the equal-area projection about its centre (Lambert), which keeps the density of noise. Its
pixels have the side pi/lmax, so that their Nyquist frequency is lmax, and x is evaluated there by its spherical
harmonics: exact up to lmax, where interpolation between pixels would smooth the noise and correlate it. White noise of
standard deviation sigma in HEALPix pixels has the power sigma^2 4 pi/n_pix, which on the grid is that of

    sigma_g = sigma (4 pi/n_pix)^(1/2) lmax/pi   (0.65 sigma for lmax = 2 nside),

white but for the corners of the grid's Fourier square, beyond lmax, where it is 0. The answers are smooth and are taken
back to the pixels by cubic interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from operators.lensing.harmonics import Harmonics, check_nside

from ...algorithms.protocols import Denoiser
from ...checks import check_number
from ...drivers.denoising import as_denoiser
from .pixels import directions, disc, pixel_side

_Array = npt.NDArray[Any]

_RADIUS = 1.2
"""Radius R of a window in sides of the coarse pixels whose centres are those of the patches; at 0.88 they all meet."""
_POINTS = 4_000_000
"""Number of points that are evaluated at once."""


class TangentPatches(nn.Module):
    """Denoise maps (B, 1, n_pix) of the sphere with a denoiser of images.

    Args:
        denoiser: D(x, sigma) on images (B, 1, H, W), local: it should see hardly further than the margin.
        nside: resolution of the maps, 8 or more.
        lmax: highest multipole that is kept, which sets the side of a patch's pixels, pi/lmax; None: 2 nside.
        mask: (n_pix,), true where the map is wanted; None: everywhere. Patches whose windows lie outside are not
            computed: there z is 0.
        margin_px: pixels of a patch beyond its window, on each side, which the denoiser sees.
        batch_size: patches that are denoised at once.

    Raises:
        ImportError: ducc0 is not installed.
        ValueError: an argument has no valid value.
    """

    takes_sigma_per_image = takes_any_dtype = True  # as what `as_denoiser` returns

    def __init__(
        self,
        denoiser: Denoiser,
        nside: int,
        *,
        lmax: int | None = None,
        mask: Any = None,
        margin_px: int = 24,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        self.denoiser = as_denoiser(denoiser, "TangentPatches")
        self.nside = check_nside("TangentPatches", nside)
        if self.nside < 8:
            raise ValueError(f"TangentPatches: nside must be at least 8, got {nside}; patches would not be flat")
        lmax = 2 * self.nside if lmax is None else lmax
        lmax = check_number("lmax", lmax, above=self.nside // 2, integer=True, caller="TangentPatches")
        if lmax >= 3 * self.nside:
            raise ValueError(f"TangentPatches: lmax must be below 3 nside = {3 * self.nside}, got {lmax}")
        self.harmonics = Harmonics(self.nside, int(lmax))
        for name, value, least in (("margin_px", margin_px, 0), ("batch_size", batch_size, 1)):
            check_number(name, value, above=least, or_equal=True, integer=True, caller="TangentPatches")
        self.batch_size = int(batch_size)
        self.spacing = math.pi / lmax
        self.noise_factor = pixel_side(self.nside) / self.spacing
        """sigma_g/sigma."""
        coarse = max(self.nside // 64, min(4, self.nside // 8))
        self.radius = _RADIUS * pixel_side(coarse)
        self.half_side = math.ceil(2 * math.sin(self.radius / 2) / self.spacing) + int(margin_px)
        self.centres = directions(coarse)
        if mask is not None:
            seen = _as_mask(mask, self.harmonics.n_pix)
            self.centres = self.centres[[bool(seen[disc(self.nside, c, self.radius)].any()) for c in self.centres]]
        low, high = getattr(self.denoiser, "sigma_range", (0.0, math.inf))
        self.sigma_range = (low / self.noise_factor, high / self.noise_factor)

    def __repr__(self) -> str:
        side, patches = 2 * self.half_side + 1, len(self.centres)
        return (
            f"TangentPatches({self.denoiser!r}, {self.nside}, lmax={self.harmonics.lmax}: {patches} patches of "
            f"{side} x {side} pixels)"
        )

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, 1, n_pix); sigma, in units of x, of white noise in its pixels, a number or (B,)."""
        n_pix = self.harmonics.n_pix
        if x.ndim != 3 or x.shape[1:] != (1, n_pix):
            raise ValueError(f"TangentPatches: x must be (B, 1, {n_pix}) for nside {self.nside}, got {tuple(x.shape)}")
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1).expand(len(x)) * self.noise_factor
        c = self._coefficients(x)
        total, weight = torch.zeros_like(x), torch.zeros(n_pix, dtype=x.dtype, device=x.device)
        side = 2 * self.half_side + 1
        for centres in self._chunks(max(self.batch_size, _POINTS // side**2)):
            points = np.concatenate([self._points(centre) for centre in centres])
            patches = self.harmonics.at(c, points).reshape(len(x), len(centres), side, side)
            for start in range(0, len(centres), self.batch_size):
                part = patches[:, start : start + self.batch_size]
                s = levels.repeat_interleave(part.shape[1])
                z = self.denoiser(part.reshape(-1, 1, side, side), s).reshape(part.shape)
                for zk, centre in zip(torch.split(z, 1, dim=1), centres[start:], strict=False):
                    pixels, place, w = self._window(centre, x)
                    place = place.expand(len(x), -1, -1, -1)
                    values = grid_sample(zk, place, mode="bicubic", align_corners=True)
                    total = total.index_add(2, pixels, w * values[:, :, 0])
                    weight = weight.index_add(0, pixels, w)
        return torch.where(weight > 0, total / torch.where(weight > 0, weight, 1), 0)

    def _chunks(self, n: int) -> Iterator[_Array]:
        for start in range(0, len(self.centres), n):
            yield self.centres[start : start + n]

    def _coefficients(self, x: Tensor) -> Tensor:
        """Return the harmonic coefficients of maps, with one refinement: right to 1e-3 at lmax = 2 nside."""
        w = 4 * math.pi / self.harmonics.n_pix
        c = w * self.harmonics.adjoint(x)
        return 2 * c - w * self.harmonics.adjoint(self.harmonics.synthesis(c))

    def _points(self, centre: _Array) -> npt.NDArray[np.float64]:
        """Return colatitude and longitude (n, 2) of the grid of a patch, rows to the north, columns to the east."""
        at = np.arange(-self.half_side, self.half_side + 1) * self.spacing
        u, v = (t.ravel() for t in np.meshgrid(at, at))
        r = np.minimum(np.hypot(u, v), 2.0)  # 2 sin(rho/2); the opposite pole at 2
        scale = np.sqrt(1 - (r / 2) ** 2)  # sin(rho)/r
        east, north = _frame(centre)
        p = np.outer(scale * u, east) + np.outer(scale * v, north) + np.outer(1 - r**2 / 2, centre)
        theta = np.arctan2(np.hypot(p[:, 0], p[:, 1]), p[:, 2])
        return np.stack([theta, np.arctan2(p[:, 1], p[:, 0]) % (2 * math.pi)], axis=-1)

    def _window(self, centre: _Array, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pixels (n,) of a patch's window, their places (1, 1, n, 2) for `grid_sample`, and weights (n,)."""
        pixels = disc(self.nside, centre, self.radius)
        p = directions(self.nside, pixels)
        along = p @ centre
        scale = np.sqrt(2 / (1 + along)) / (self.half_side * self.spacing)
        place = np.stack([scale * (p @ axis) for axis in _frame(centre)], axis=-1)
        w = np.cos(np.arccos(np.clip(along, -1, 1)) * math.pi / (2 * self.radius)) ** 2
        tensors = torch.from_numpy(place)[None, None].to(like), torch.from_numpy(w).to(like)
        return torch.from_numpy(pixels).to(like.device), *tensors


def _frame(centre: _Array) -> tuple[_Array, _Array]:
    """Return unit vectors to the east and to the north of a direction; a centre of a pixel is never a pole."""
    east = np.array([-centre[1], centre[0], 0.0]) / math.hypot(centre[0], centre[1])
    return east, np.cross(centre, east)


def _as_mask(mask: Any, n_pix: int) -> npt.NDArray[np.bool_]:
    values = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if values.size != n_pix or not (values != 0).any():
        raise ValueError(
            f"TangentPatches: mask must hold {n_pix} pixels, some of them true, got {tuple(values.shape)} with "
            f"{int((values != 0).sum())} true"
        )
    return np.asarray(values.reshape(-1) != 0)
