"""A shear map: shear measured on a grid, its noise, its place on the sky and its sign convention."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from operators import KaiserSquires, KaiserSquiresEB
from operators.lensing.kaiser_squires import SIGNS


@dataclass(frozen=True, eq=False)
class ShearMap:
    """Shear on a grid, its noise and its place on the sky.

    Axes are (1, C, H, W), row 0 the lowest (show with origin="lower").

    Attributes:
        shear: (1, 2, H, W), no unit: mean shear (gamma1, gamma2) of each pixel, 0 where not observed.
        noise_std: (1, 2, H, W): its standard deviation, per component; infinity where not observed.
        mask: (1, 1, H, W), bool: observed.
        counts: (1, 1, H, W): galaxies in each pixel; None where only maps are known.
        kappa: (1, 1, H, W): true convergence, in simulations; None: not known.
        pixel_arcmin: side of a pixel in arcminutes; None: not known.
        wcs: astropy.wcs.WCS of the pixels; None: not known.
        convention: the `operators.KaiserSquires` convention that the components follow.
        signs: factors, 1 or -1, by which the file's components were multiplied to follow it.
        swap: whether the components were exchanged before that.
        sigma_e: dispersion of one galaxy's two components; None where only maps are known.
        facts: further facts: rows or pixels left out, columns, bias.
        path: the file, for messages.

    Raises:
        TypeError: values are not floating-point tensors.
        ValueError: shapes differ, values are not finite where observed, nothing is observed, or an unknown convention.
    """

    shear: Tensor = field(repr=False)
    noise_std: Tensor = field(repr=False)
    mask: Tensor = field(repr=False)
    counts: Tensor | None = field(default=None, repr=False)
    kappa: Tensor | None = field(default=None, repr=False)
    pixel_arcmin: float | None = None
    wcs: Any = field(default=None, repr=False)
    convention: str = "lenspack"
    signs: tuple[int, int] = (1, 1)
    swap: bool = False
    sigma_e: tuple[float, float] | None = None
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    path: str = ""

    def __post_init__(self) -> None:
        where = self.path or "ShearMap"
        check_convention(where, self.convention)
        check_shear_parts(where, self, "H, W")

    def __repr__(self) -> str:
        height, width = self.shape
        seen = f"{100 * float(self.mask.double().mean()):.0f} % observed"
        side = "pixels of unknown size" if self.pixel_arcmin is None else f"pixels of {self.pixel_arcmin:.4g} arcmin"
        noise = self.noise_std.masked_select(self.mask & self.noise_std.isfinite())
        parts = [
            f"{height} x {width} {side}",
            seen,
            f"noise_std about {float(noise.median()):.3g}" if len(noise) else "",
        ]
        if self.counts is not None:
            parts.append(f"{int(self.counts.sum())} galaxies")
        if dropped := self.facts.get("dropped"):
            parts.append("left out: " + ", ".join(f"{n} {reason}" for reason, n in dropped.items()))
        how = f"convention={self.convention!r}, signs={self.signs}" + ", swap=True" * self.swap
        return f"ShearMap({', '.join(filter(None, parts))}; {how})"

    @property
    def shape(self) -> tuple[int, int]:
        """Sizes (H, W) in pixels."""
        return int(self.shear.shape[-2]), int(self.shear.shape[-1])

    @property
    def centre(self) -> tuple[float, float] | None:
        """Right ascension and declination of the grid's middle in degrees; None where unknown."""
        if self.wcs is None:
            return None
        height, width = self.shape
        ra, dec = self.wcs.wcs_pix2world((width - 1) / 2, (height - 1) / 2, 0)
        return float(ra), float(dec)

    def tensors(self, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """Return what `solve` and `map_mass` take: copies of y and noise_std, (1, 2, H, W) each."""
        return self.shear.to(device, copy=True), self.noise_std.to(device, copy=True)

    def operator(
        self, shape: tuple[int, int] | None = None, *, b_mode: bool = False
    ) -> KaiserSquires | KaiserSquiresEB:
        """Return the operator from convergence to shear, in the map's convention; also a make_operator for `map_mass`.

        Args:
            shape: (H, W) in pixels; None: the map's. A padded map has a larger one.
            b_mode: `KaiserSquiresEB`, from images (B, 2, H, W) of E and B modes.
        """
        make_operator = KaiserSquiresEB if b_mode else KaiserSquires
        return make_operator(self.shape if shape is None else shape, convention=self.convention)

    def with_signs(self, s1: int, s2: int, *, swap: bool = False) -> ShearMap:
        """Return the map with (gamma1, gamma2) exchanged, where `swap`, then multiplied by (s1, s2), each 1 or -1.

        Use it where the file's components follow other signs than stated; the mass that they imply changes.
        """
        check_signs("ShearMap.with_signs", (s1, s2))
        order = [1, 0] if swap else [0, 1]
        return replace(
            self,
            shear=_times(self.shear[:, order], (s1, s2)),
            noise_std=self.noise_std[:, order],
            signs=(self.signs[order[0]] * s1, self.signs[order[1]] * s2),
            swap=self.swap != swap,
            sigma_e=self.sigma_e[::-1] if swap and self.sigma_e is not None else self.sigma_e,
        )

    def in_convention(self, convention: str) -> ShearMap:
        """Return the same shear of the same mass, written in another convention of `operators.KaiserSquires`."""
        check_convention("ShearMap.in_convention", convention)
        old, new = SIGNS[self.convention], SIGNS[convention]
        s1, s2 = old[0] * new[0], old[1] * new[1]
        signs = self.signs[0] * s1, self.signs[1] * s2
        return replace(self, shear=_times(self.shear, (s1, s2)), signs=signs, convention=convention)


def check_shear_parts(where: str, shear_map: Any, axes: str) -> None:
    """Refuse tensors of a map of shear that do not fit each other; `axes` names its pixels' axes.

    Args:
        where: start of messages.
        shear_map: has shear, noise_std, mask, counts and kappa.
        axes: of its pixels, such as "H, W".
    """
    for name in ("shear", "noise_std"):
        if not (isinstance(t := getattr(shear_map, name), Tensor) and t.dtype.is_floating_point):
            got = t.dtype if isinstance(t, Tensor) else type(t).__name__
            raise TypeError(f"{where}: {name} must be a floating-point tensor, got {got}; use torch.as_tensor")
    shear, noise_std, mask = shear_map.shear, shear_map.noise_std, shear_map.mask
    sizes = tuple(shear.shape[2:])
    for name, channels in {"shear": 2, "noise_std": 2, "mask": 1, "counts": 1, "kappa": 1}.items():
        t = getattr(shear_map, name)
        fits = t is None or (t.shape == (1, channels, *sizes) and len(sizes) == len(axes.split(", ")) and t.numel() > 0)
        if not fits:
            raise ValueError(
                f"{where}: {name} must be (1, {channels}, {axes}) like shear {tuple(shear.shape)}, got {tuple(t.shape)}"
            )
    if mask.dtype != torch.bool:
        raise TypeError(f"{where}: mask must be bool, got {mask.dtype}; use mask > 0")
    noise = noise_std.masked_select(mask)
    if not (bool(mask.any()) and bool(shear.isfinite().all()) and bool((noise > 0).all())):
        raise ValueError(
            f"{where}: shear must be finite and noise_std positive in a mask that is not empty, got {int(mask.sum())} "
            f"observed pixels, {int((~shear.isfinite()).sum())} values not finite, {int((~(noise > 0)).sum())} without "
            "noise"
        )


def check_convention(caller: str, convention: object) -> None:
    """Refuse a convention that is not known."""
    if convention not in SIGNS:
        raise ValueError(f"{caller}: convention must be one of {', '.join(SIGNS)}, got {convention!r:.40}")


def check_signs(caller: str, signs: object) -> None:
    """Refuse anything but a pair of numbers that are 1 or -1."""
    if not (isinstance(signs, tuple | list) and len(signs) == 2 and all(s in (1, -1) for s in signs)):
        raise ValueError(f"{caller}: signs must be two numbers, each 1 or -1, got {signs!r:.40}")


def _times(shear: Tensor, signs: tuple[int, int]) -> Tensor:
    return shear * torch.tensor(signs, dtype=shear.dtype, device=shear.device)[:, None, None]
