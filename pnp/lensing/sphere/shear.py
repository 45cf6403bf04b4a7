"""Shear on the sphere, its noise, and its sign convention."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from operators import KaiserSquiresSphere
from operators.lensing.harmonics import check_nside
from operators.lensing.kaiser_squires_sphere import SPHERE_SIGNS

from ...checks import broadcasts
from ...drivers.arguments import as_weights
from ...readers.shear_map import check_shear_parts, check_signs
from .pixels import pixel_side


@dataclass(frozen=True, eq=False)
class SphereShear:
    """Shear in the pixels of a HEALPix grid, ring order, equatorial coordinates.

    Attributes:
        shear: (1, 2, n_pix), no unit: mean shear (gamma1, gamma2) of each pixel, 0 where not observed.
        noise_std: (1, 2, n_pix): its standard deviation, per component; infinity where not observed.
        mask: (1, 1, n_pix), bool: observed.
        counts: (1, 1, n_pix): galaxies in each pixel; None where only maps are known.
        kappa: (1, 1, n_pix): true convergence, in simulations; None: not known.
        convention: the `operators.KaiserSquiresSphere` convention that the components follow.
        signs: factors, 1 or -1, by which the file's components were multiplied to follow it.
        swap: whether the components were exchanged before that.
        sigma_e: dispersion of one galaxy's two components; None where only maps are known.
        facts: further facts: rows left out, columns, response.
        path: the file, for messages.

    Raises:
        TypeError: values are not floating-point tensors, or the mask is not bool.
        ValueError: shapes differ, values are not finite where observed, nothing is observed, or an unknown convention.
    """

    shear: Tensor = field(repr=False)
    noise_std: Tensor = field(repr=False)
    mask: Tensor = field(repr=False)
    counts: Tensor | None = field(default=None, repr=False)
    kappa: Tensor | None = field(default=None, repr=False)
    convention: str = "lenspack"
    signs: tuple[int, int] = (1, 1)
    swap: bool = False
    sigma_e: tuple[float, float] | None = None
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    path: str = ""

    def __post_init__(self) -> None:
        where = self.path or "SphereShear"
        check_sphere_convention(where, self.convention)
        check_shear_parts(where, self, "n_pix")
        check_n_pix(where, int(self.shear.shape[-1]))

    def __repr__(self) -> str:
        area = float(self.mask.double().mean()) * 4 * math.pi * math.degrees(1) ** 2
        side = 60 * math.degrees(pixel_side(self.nside))
        noise = self.noise_std.masked_select(self.mask & self.noise_std.isfinite())
        parts = [f"nside {self.nside}, pixels of {side:.3g} arcmin", f"{area:.0f} deg^2 observed"]
        parts += [f"noise_std about {float(noise.median()):.3g}"] if len(noise) else []
        if self.counts is not None:
            parts.append(f"{int(self.counts.sum())} galaxies")
        if dropped := self.facts.get("dropped"):
            parts.append("left out: " + ", ".join(f"{n} {reason}" for reason, n in dropped.items()))
        how = f"convention={self.convention!r}, signs={self.signs}" + ", swap=True" * self.swap
        return f"SphereShear({', '.join(parts)}; {how})"

    @property
    def nside(self) -> int:
        """Resolution of the grid."""
        return math.isqrt(int(self.shear.shape[-1]) // 12)

    def tensors(self, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """Return what `solve` and `map_mass` take: copies of y and noise_std, (1, 2, n_pix) each."""
        return self.shear.to(device, copy=True), self.noise_std.to(device, copy=True)

    def operator(self, *, lmax: int | None = None, n_refine: int = 1) -> KaiserSquiresSphere:
        """Return the operator from convergence to shear, in the map's convention.

        Args:
            lmax: highest multipole; None: 2 nside.
            n_refine: refinements of its quadrature; one is right to 1e-3, far below the noise of any survey.
        """
        return KaiserSquiresSphere(self.nside, lmax=lmax, n_refine=n_refine, convention=self.convention)

    def with_signs(self, s1: int, s2: int, *, swap: bool = False) -> SphereShear:
        """Return the map with (gamma1, gamma2) exchanged, where `swap`, then multiplied by (s1, s2), each 1 or -1."""
        check_signs("SphereShear.with_signs", (s1, s2))
        order = [1, 0] if swap else [0, 1]
        return replace(
            self,
            shear=self.shear[:, order] * self.shear.new_tensor([s1, s2])[:, None],
            noise_std=self.noise_std[:, order],
            signs=(self.signs[order[0]] * s1, self.signs[order[1]] * s2),
            swap=self.swap != swap,
            sigma_e=self.sigma_e[::-1] if swap and self.sigma_e is not None else self.sigma_e,
        )


def check_sphere_convention(caller: str, convention: object) -> None:
    """Refuse a convention that is not known."""
    if convention not in SPHERE_SIGNS:
        raise ValueError(f"{caller}: convention must be one of {', '.join(SPHERE_SIGNS)}, got {convention!r:.40}")


def check_n_pix(caller: str, n_pix: int) -> int:
    """Return nside of a map of 12 nside^2 pixels, or refuse it."""
    nside = math.isqrt(max(n_pix, 0) // 12)
    if n_pix <= 0 or 12 * nside**2 != n_pix:
        raise ValueError(f"{caller}: a map must have 12 nside^2 pixels, nside a power of two, got {n_pix}")
    return check_nside(caller, nside)


def check_sphere_shear(caller: str, operator: KaiserSquiresSphere, y: Tensor, noise_std: Tensor) -> Tensor:
    """Return the weights 1/noise_std^2, in y's dtype, 0 where not observed; y must be finite where they are not 0."""
    for name, value in (("y", y), ("noise_std", noise_std)):
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            raise TypeError(f"{caller}: {name} must be a floating torch.Tensor, got {type(value).__name__:.40}")
    if not isinstance(operator, KaiserSquiresSphere):
        raise TypeError(f"{caller}: operator must be a KaiserSquiresSphere, got {type(operator).__name__:.40}")
    if y.ndim != 3 or y.shape[1:] != operator.y_shape:
        raise ValueError(f"{caller}: y must be (B, 2, {operator.n_pix}), got {tuple(y.shape)}")
    if not broadcasts(tuple(noise_std.shape), tuple(y.shape)):
        raise ValueError(f"{caller}: noise_std must broadcast to y {tuple(y.shape)}, got {tuple(noise_std.shape)}")
    weights = as_weights(noise_std, y, caller=caller)
    if bool((~y.isfinite() & (weights > 0)).any()):
        raise ValueError(f"{caller}: y must be finite where noise_std is; set noise_std to infinity elsewhere")
    return weights


def rotated(y: Tensor) -> Tensor:
    """Return shear (B, 2, n_pix) with every shape turned by 45 degrees: its E mode is B of y, up to the sign."""
    return torch.stack([y[:, 1], -y[:, 0]], dim=1)
