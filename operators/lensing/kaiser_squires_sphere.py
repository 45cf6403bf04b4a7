"""Weak lensing on the whole sky: from convergence to shear and back (Kaiser and Squires on the sphere).

    gamma_E,lm = D_l kappa_lm,  gamma_B,lm = 0,  D_l = ((l + 2)(l - 1)/(l (l + 1)))^(1/2)

(Wallis et al. 2022, MNRAS 509, 4480, equation 19), with D_0 = D_1 = 0: monopole and dipole cause no shear and are not
measured. Maps are HEALPix maps in ring order. E and B are those of healpy's `map2alm_spin`; mass has E > 0, that is
tangential shear around it. Signs depend on the axes, at each galaxy, that gamma1 and gamma2 are measured against:

    convention     gamma1 > 0 along    gamma2 > 0 along     Q, U of healpy
    "lenspack"     east-west           north-west           -Q,  U    columns to the west, rows up
    "conjugate"    east-west           north-east           -Q, -U    right ascension to the right
    "transposed"   north-south         north-west            Q,  U
    "healpix"      north-south         north-west            Q,  U    healpy's own, COSMO in POLCCONV
    "iau"          north-south         north-east            Q, -U    IAU in POLCCONV

The first three are those of `KaiserSquires` on a small map of the sky with north up and east to the left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import LinearOperator, check_images
from ..sizes import Sizes
from .harmonics import Harmonics, check_nside

SPHERE_SIGNS = {"lenspack": (-1, 1), "conjugate": (-1, -1), "transposed": (1, 1), "healpix": (1, 1), "iau": (1, -1)}
"""Signs of (gamma1, gamma2) in each convention, relative to healpy's (Q, U)."""


class KaiserSquiresSphere(LinearOperator):
    """Map convergence kappa (B, 1, n_pix) to shear (gamma1, gamma2) (B, 2, n_pix) on the HEALPix sphere, ring order.

    A = Y_2 D Y_0^+: harmonic coefficients of kappa, times D_l, as a map of spin 2. Y_0^+ is the quadrature with
    `n_refine` refinements, a + Y_0^+ (kappa - Y_0 a), as healpy's `map2alm(iter=n_refine)`; with lmax = 2 nside each
    leaves an eighth of the error of the worst mode. What kappa has beyond lmax causes no shear.

    Args:
        nside: resolution of the grid, a power of two; n_pix = 12 nside^2.
        lmax: highest multipole, 2 to 3 nside - 1; None: 2 nside, beyond which the grid hardly determines a field.
        n_refine: number of refinements; A takes the time of 3 + 2 n_refine transforms of spin 0. With 0 the shear of a
            field with power up to lmax is right to half a percent, with 3 to 1e-5, with 8 to 1e-9.
        convention: a row of the module's table.

    Raises:
        ImportError: ducc0 is not installed.
        ValueError: an argument has no valid value.
    """

    response: Tensor
    """(lmax + 1,), float64: D_l."""
    y_is_sampled = False

    def __init__(self, nside: int, *, lmax: int | None = None, n_refine: int = 3, convention: str = "lenspack") -> None:
        super().__init__()
        self.nside = check_nside("KaiserSquiresSphere", nside)
        self.lmax = _integer("lmax", 2 * self.nside if lmax is None else lmax, 2, 3 * self.nside - 1)
        self.n_refine = _integer("n_refine", n_refine, 0, 100)
        if convention not in SPHERE_SIGNS:
            choices = ", ".join(SPHERE_SIGNS)
            raise ValueError(f"KaiserSquiresSphere: convention must be one of {choices}, got {convention!r:.40}")
        self.convention = convention
        self.harmonics = Harmonics(self.nside, self.lmax)
        self.shape = (self.harmonics.n_pix,)  # of one axis
        ell = torch.arange(self.lmax + 1, dtype=torch.float64)
        D = ((ell + 2) * (ell - 1) / (ell * (ell + 1)).clamp(min=1)).clamp(min=0).sqrt()
        self.register_buffer("response", torch.where(ell > 1, D, 0), persistent=False)

    @property
    def n_pix(self) -> int:
        """Number of pixels."""
        return self.harmonics.n_pix

    @property
    def x_shape(self) -> Sizes:
        """Sizes (1, n_pix) of a map."""
        return (1, self.n_pix)

    @property
    def y_shape(self) -> Sizes:
        """Sizes (2, n_pix) of a map's shear."""
        return (2, self.n_pix)

    def A(self, x: Tensor, /) -> Tensor:
        """Return the shear (B, 2, n_pix) of convergence maps x (B, 1, n_pix)."""
        self._check("A", "x", x, 1)
        return self.shear_of(self._refined(self._quadrature(x)))

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the exact adjoint to shear y (B, 2, n_pix); return maps (B, 1, n_pix)."""
        self._check("A_adjoint", "y", y, 2)
        return (4 * torch.pi / self.n_pix) * self.harmonics.synthesis(self._refined(self.adjoint_of_shear(y)))

    def inverse(self, y: Tensor, /, *, rtol: float | None = None) -> Tensor:
        """Return the Kaiser-Squires map (B, 1, n_pix) of shear y (B, 2, n_pix): its E mode, without l = 0 and 1.

        The coefficients of y are those of the band-limited field that fits it best, found by conjugate gradients; shear
        of a band-limited kappa gives kappa back.

        Args:
            y: shear, 0 where not observed.
            rtol: residual, relative to the right-hand side, at which they stop; None: 1e-10, of float32 1e-6.
        """
        return self.inverse_eb(y, rtol=rtol)[:, :1]

    def inverse_eb(self, y: Tensor, /, *, rtol: float | None = None) -> Tensor:
        """Return the E and B maps (B, 2, n_pix) of shear y (B, 2, n_pix); arguments as those of `inverse`.

        Lensing makes E modes only; B modes are signs of noise, masks and systematic errors.
        """
        self._check("inverse_eb", "y", y, 2)
        c = self._fit(self._turned(y), rtol)
        D = self.harmonics.per_multipole(self.response).to(y)
        c = torch.where(D > 0, c / torch.where(D > 0, D, 1), 0)
        return torch.cat([self.harmonics.synthesis(c[:, k : k + 1]) for k in (0, 1)], dim=1)

    def shear_of(self, c: Tensor) -> Tensor:
        """Return the shear (B, 2, n_pix) of convergence with harmonic coefficients c (B, 1, n_coefficients)."""
        E = self.harmonics.per_multipole(self.response).to(c) * c
        return self._turned(self.harmonics.synthesis(torch.cat([E, torch.zeros_like(E)], dim=1), spin=2))

    def adjoint_of_shear(self, y: Tensor) -> Tensor:
        """Return the coefficients (B, 1, n_coefficients) by the transpose of `shear_of`."""
        E = self.harmonics.adjoint(self._turned(y), spin=2)[:, :1]
        return self.harmonics.per_multipole(self.response).to(y) * E

    def extra_repr(self) -> str:
        """Describe the constructor's arguments."""
        return f"{self.nside}, lmax={self.lmax}, n_refine={self.n_refine}, convention={self.convention!r}"

    def _quadrature(self, x: Tensor) -> Tensor:
        return (4 * torch.pi / self.n_pix) * self.harmonics.adjoint(x)

    def _refined(self, c: Tensor) -> Tensor:
        """Return sum_k (1 - N)^k c, k <= n_refine, with N the product of synthesis and quadrature: symmetric."""
        a = c
        for _ in range(self.n_refine):
            a = c + a - self._quadrature(self.harmonics.synthesis(a))
        return a

    def _turned(self, y: Tensor) -> Tensor:
        """Exchange healpy's (Q, U) and this convention's (gamma1, gamma2)."""
        return y * y.new_tensor(SPHERE_SIGNS[self.convention])[:, None]

    @torch.no_grad()
    def _fit(self, y: Tensor, rtol: float | None) -> Tensor:
        """Return the coefficients of spin 2 that fit maps (Q, U) best, by conjugate gradients."""
        rtol = (1e-6 if y.dtype == torch.float32 else 1e-10) if rtol is None else rtol
        w = 4 * torch.pi / self.n_pix
        b = w * self.harmonics.adjoint(y, spin=2)
        c, r, p = b * 0, b, b
        rr = stop = b.square().sum((1, 2), keepdim=True)
        for _ in range(100):
            if bool((rr <= rtol**2 * stop).all()):
                break
            Np = w * self.harmonics.adjoint(self.harmonics.synthesis(p, spin=2), spin=2)
            step = torch.where(rr > 0, rr / (p * Np).sum((1, 2), keepdim=True).clamp(min=1e-300), 0)
            c, r = c + step * p, r - step * Np
            before, rr = rr, r.square().sum((1, 2), keepdim=True)
            p = r + torch.where(before > 0, rr / before.clamp(min=1e-300), 0) * p
        return c

    def _check(self, method: str, name: str, x: Tensor, channels: int) -> None:
        check_images(f"KaiserSquiresSphere.{method}", name, x, (channels, self.n_pix), like=self.response)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    number = int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else low - 1
    if not low <= number <= high:
        raise ValueError(f"KaiserSquiresSphere: {name} must be an integer from {low} to {high}, got {value!r:.40}")
    return number
