"""A torso for emission tomography: activity and attenuation of body, lungs, spine, liver, spleen, kidneys and lesions.

Ellipsoids in the manner of the XCAT phantom (Segars et al., Med. Phys. 37 (2010) 4902), sizes and places drawn around
those of an adult: liver 1.6 l, spleen 0.2 l, a kidney 0.16 l, lesions 2 to 20 ml, half of them or more in the liver.

Axes (x, y, z) are the patient's left, back and head, the field centred on the upper abdomen. A SPECT camera at angle 0,
on the side of low y, sees the breastbone.

Activity is relative to that of the body: concentrations chosen in the order that 177Lu-DOTATATE shows a day after
therapy, with spleen and kidneys above the liver and lesions above all ("dotatate"), or that of microspheres with 90Y,
which stay in the liver and, more of them, in its lesions ("microspheres"). Attenuation is that at 208 keV, 177Lu's line
for imaging: water's mu/rho there, 0.1351 cm^2/g, lies between the 0.1370 at 200 and 0.1186 at 300 keV of J. H. Hubbell
and S. M. Seltzer, NIST Standard Reference Database 126, in logarithms. Compton scattering dominates, so that soft
tissue and lung have 0.9908 and 0.9917 of it, in proportion to their electrons per gram (Z/A, table 2 there); densities
1.02 (muscle and fat), 1.06 (organs) and 0.26 g/cm^3 (lung with its air). Vertebrae, spongy bone and marrow in a thin
cortex, have 1.42 g/cm^3 and 0.132 cm^2/g; compact bone would have 0.0247 per mm, 1.8 times water.
"""

from __future__ import annotations

import math
import operator as op
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_MAX_LESIONS = 4
REGIONS = (
    "air", "body", "lungs", "spine", "liver", "spleen", "left kidney", "right kidney",
    *(f"lesion {i + 1}" for i in range(_MAX_LESIONS)),
)  # fmt: skip
"""Names of the labels 0, 1, ...; a torso may have fewer lesions."""

_UPTAKE_RANGES = {
    "dotatate": {
        "body": (0.8, 1.2), "lungs": (0.3, 0.6), "spine": (1.0, 2.0), "liver": (4.0, 8.0), "spleen": (12.0, 24.0),
        "left kidney": (14.0, 26.0), "lesion": (20.0, 60.0),
    },
    "microspheres": {
        "body": (0.8, 1.2), "lungs": (0.5, 3.0), "spine": (0.8, 1.2), "liver": (15.0, 40.0), "spleen": (0.8, 1.5),
        "left kidney": (0.8, 1.5), "lesion": (60.0, 200.0),
    },
}  # fmt: skip
"""Ranges of the activity concentration; that of the right kidney is within 10 % of the left one's."""
_ATTENUATION = {"air": 0.0, "body": 0.01365, "lungs": 0.00348, "spine": 0.0187}
"""Attenuation of regions, 1/mm at 208 keV."""
_ORGAN_ATTENUATION = 0.0142
"""Attenuation of all other organs, 1/mm."""

_MAX_WIDTH_MM = 372.0
"""Largest width of a torso, mm."""
_SAMPLES_PER_VOXEL = 2
"""Samples along each axis of a voxel."""
_N_WAVES = 16
"""Plane waves in a random field."""
_MAX_DISPLACEMENT_MM = 8.0
"""Largest displacement of a virtual patient's organs along each axis, mm."""
_TEXTURE_STD = 0.25
"""Standard deviation of the logarithm of a virtual patient's uptake within an organ."""


class Torso(NamedTuple):
    """Activity, attenuation and regions of a torso."""

    activity: Tensor
    """Activity per voxel (1, 1, nx, ny, nz), float32, relative to the body's."""
    attenuation: Tensor
    """Attenuation (nx, ny, nz), float32, in 1/mm at 208 keV."""
    labels: Tensor
    """Index into REGIONS of the region that fills most of a voxel (nx, ny, nz), uint8."""
    voxel_size_mm: float


def torso(
    shape: tuple[int, int, int] = (64, 64, 40),
    *,
    voxel_size_mm: float = 6.4,
    generator: torch.Generator | None = None,
    uptake: str = "dotatate",
    virtual: bool = False,
) -> Torso:
    """Return a random torso; the same generator gives the same patient at every resolution.

    Args:
        shape: (nx, ny, nz) voxels; the grid must be at least 372 mm wide in x and y, so that any torso can turn in it.
        voxel_size_mm: side of a voxel in mm.
        generator: draws the patient; None: one seeded with 0.
        uptake: "dotatate" or "microspheres", where the activity is.
        virtual: a second family of patients without ellipsoids: organs bent and dented by up to 8 mm, uptake that
            varies by a quarter within them, and lesions that are cold inside.

    Raises:
        ValueError: the grid is too small for a torso, or uptake is unknown.

    >>> patient = torso((32, 32, 20), voxel_size_mm=12.8)
    >>> patient.activity.shape, round(region_means(patient.attenuation, patient.labels)["body"], 3)
    (torch.Size([1, 1, 32, 32, 20]), 0.014)
    """
    try:
        nx, ny, nz = (op.index(n) for n in shape)
        size = float(voxel_size_mm)
    except (TypeError, ValueError):
        raise TypeError(
            f"torso: shape must be three integers (nx, ny, nz) and voxel_size_mm a number, got {shape!r} and "
            f"{voxel_size_mm!r}"
        ) from None
    if min(nx, ny, nz) < 1 or not 0 < size < math.inf:
        raise ValueError(f"torso: shape and voxel_size_mm must be positive, got {(nx, ny, nz)} and {voxel_size_mm!r}")
    if min(nx, ny) * size < _MAX_WIDTH_MM:
        raise ValueError(
            f"torso: the grid must be at least {_MAX_WIDTH_MM:g} mm wide in x and y, got {nx * size:g} x "
            f"{ny * size:g} mm; use more or larger voxels"
        )
    if uptake not in _UPTAKE_RANGES:
        raise ValueError(f"torso: uptake must be one of {', '.join(_UPTAKE_RANGES)}, got {uptake!r}")
    g = torch.Generator().manual_seed(0) if generator is None else generator
    return _Patient((nx, ny, nz), size, g, uptake, virtual).draw()


def region_means(x: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the mean of a volume in every region of a torso that it has, air left out.

    Recovery is the ratio of a reconstruction's to the true activity's, over the same voxels.

    Args:
        x: (..., nx, ny, nz).
        labels: (nx, ny, nz), as `Torso.labels`.

    Raises:
        ValueError: shapes differ, or labels are not those of a torso.
    """
    if x.shape[-3:] != labels.shape:
        want = ", ".join(map(str, ("...", *labels.shape)))
        raise ValueError(f"region_means: x must be ({want}), like labels, got {tuple(x.shape)}")
    present = np.unique(labels.cpu().numpy()).tolist()
    if present[0] < 0 or present[-1] >= len(REGIONS):
        raise ValueError(
            f"region_means: labels must be 0 to {len(REGIONS) - 1}, got {present[0]} to {present[-1]}; use Torso.labels"
        )
    return {REGIONS[i]: float(x[..., labels == i].double().mean()) for i in present if i > 0}


class _Patient:
    """Labels painted on samples finer than voxels, and what they stand for; lengths in mm."""

    def __init__(
        self, shape: tuple[int, int, int], voxel: float, generator: torch.Generator, uptake: str, virtual: bool
    ) -> None:
        self.shape, self.voxel, self.g, self.uptake, self.virtual = shape, voxel, generator, uptake, virtual
        self.t = [
            (torch.arange(_SAMPLES_PER_VOXEL * n) - (_SAMPLES_PER_VOXEL * n - 1) / 2) * (voxel / _SAMPLES_PER_VOXEL)
            for n in shape
        ]
        self.labels = torch.zeros([len(t) for t in self.t], dtype=torch.uint8)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.g))

    def paint(
        self, name: str, centre: tuple[float, ...], half: tuple[float, ...], power: float = 2.0, turn: float = 0.0
    ) -> None:
        """Label |u/a|^p + |v/b|^p + |w/c|^p < 1, u and v turned about z; only its surroundings are visited."""
        reach = [math.hypot(half[0], half[1])] * 2 + [half[2]]
        box = []
        for t, c, r in zip(self.t, centre, reach, strict=True):
            inside = ((t - c).abs() <= r).nonzero().flatten()
            if not len(inside):
                return
            box.append(slice(int(inside[0]), int(inside[-1]) + 1))
        x, y, z = (t[b] - c for t, b, c in zip(self.t, box, centre, strict=True))
        cos, sin = math.cos(turn), math.sin(turn)
        u, v = cos * x[:, None] + sin * y, cos * y - sin * x[:, None]
        plane = (u / half[0]).abs() ** power + (v / half[1]).abs() ** power
        where = plane[..., None] + (z / half[2]).abs() ** power < 1
        part = self.labels[tuple(box)]
        part[where] = REGIONS.index(name)

    def organ(
        self, name: str, centre: tuple[float, ...], half: tuple[float, ...], turn: float = 0.0
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Paint an ellipsoid moved and resized at random, in proportion to the body; return its centre and axes."""
        around, growth = self.scale, self.uniform(0.94, 1.06)
        c = tuple(s * x + self.uniform(-5, 5) for x, s in zip(centre, around, strict=True))
        a = tuple(s * x * growth * self.uniform(0.95, 1.05) for x, s in zip(half, around, strict=True))
        self.paint(name, c, a, turn=turn + self.uniform(-0.1, 0.1))
        return c, a

    def draw(self) -> Torso:
        self.draw_trunk()
        liver = self.draw_organs()
        self.draw_lesions(liver)
        if self.virtual:
            self.bend()
        return self.measure()

    def draw_trunk(self) -> None:
        """Draw body, lungs and spine; the lungs' domes end at the diaphragm."""
        half = (self.uniform(150, _MAX_WIDTH_MM / 2), self.uniform(105, 130))
        self.scale = (half[0] / 168, half[1] / 118, self.uniform(0.93, 1.07))
        # Without end along z, and a little more square than an ellipse.
        self.paint("body", (0, 0, 0), (*half, math.inf), power=2.3)
        for side in (-1, 1):
            self.organ("lungs", (side * 78, -8, 160), (58, 78, 120))
        ratio = (self.scale[0] + self.scale[1]) / 2
        self.paint("spine", (0, 62 * self.scale[1], 0), (21 * ratio, 19 * ratio, math.inf))
        self.paint("spine", (0, 88 * self.scale[1], 0), (7 * ratio, 16 * ratio, math.inf))  # spinous process

    def draw_organs(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Draw the liver, of two lobes, spleen and kidneys; return centre and axes of the liver's right lobe."""
        self.organ("liver", (-20, -48, 42), (75, 42, 38), turn=0.2)
        liver = self.organ("liver", (-82, -10, 32), (62, 78, 72))
        self.organ("spleen", (104, 38, 48), (28, 38, 48), turn=-0.5)
        for side, name in ((-1, "right"), (1, "left")):
            self.organ(f"{name} kidney", (side * 60, 52, -42 + 6 * side), (28, 26, 54), turn=0.4 * side)
        return liver

    def draw_lesions(self, liver: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        """Draw one to four spheres of 8 to 17 mm radius, most in the liver the others in front of the spine, apart."""
        (n, placed) = int(self.uniform(1, _MAX_LESIONS + 1)), list[tuple[list[float], float]]()
        for i in range(n):
            radius = self.uniform(8, 17)
            for _ in range(50):
                direction = torch.nn.functional.normalize(torch.randn(3, generator=self.g), dim=0).tolist()
                depth = self.uniform(0, 1) ** (1 / 3)
                if i % 2 == 0 or n == 1:
                    centre = [c + (a - radius) * depth * d for c, a, d in zip(*liver, direction, strict=True)]
                else:
                    middle, axes = (20 * self.scale[0], -15 * self.scale[1], -45), (60, 45, 40)
                    centre = [m + a * depth * d for m, a, d in zip(middle, axes, direction, strict=True)]
                if all(math.dist(centre, other) > radius + r + 15 for other, r in placed):
                    self.paint(f"lesion {i + 1}", tuple(centre), (radius,) * 3)
                    placed.append((centre, radius))
                    break
        self.placed = placed

    def wave(self, x: Tensor, y: Tensor, z: Tensor, shortest: float) -> Tensor:
        """Return a random field of variance 1 at points (mm), a sum of plane waves no shorter than `shortest` (mm)."""
        total = 0 * x + 0 * y + 0 * z
        for _ in range(_N_WAVES):
            direction = torch.nn.functional.normalize(torch.randn(3, generator=self.g), dim=0)
            k = (direction * (2 * math.pi / (shortest * self.uniform(1, 3)))).tolist()
            # By the addition theorems, so that no cosine is taken of a whole grid.
            a, b, c = k[0] * x + self.uniform(0, 2 * math.pi), k[1] * y, k[2] * z
            plane_cos, plane_sin = a.cos() * b.cos() - a.sin() * b.sin(), a.sin() * b.cos() + a.cos() * b.sin()
            total += plane_cos * c.cos() - plane_sin * c.sin()
        return total.mul_((2 / _N_WAVES) ** 0.5)

    def bend(self) -> None:
        """Displace the labels inside the body by a random field; the skin stays, so that the grid holds the body."""
        x, y, z = self.t[0][:, None, None], self.t[1][:, None], self.t[2]
        inside = self.labels > 0
        spacing = self.voxel / _SAMPLES_PER_VOXEL
        index, self.shift = [], list[Tensor]()
        for n, axis in zip(self.labels.shape, range(3), strict=True):
            shift = (self.wave(x, y, z, 60.0) * (_MAX_DISPLACEMENT_MM / 2)).clamp(
                -_MAX_DISPLACEMENT_MM, _MAX_DISPLACEMENT_MM
            )
            voxels = shift.view([m for size in self.shape for m in (size, _SAMPLES_PER_VOXEL)])
            self.shift.append(voxels.mean((1, 3, 5)))
            steps = torch.arange(n).reshape([-1 if i == axis else 1 for i in range(3)])
            index.append((steps + torch.round(shift / spacing).long()).clamp(0, n - 1))
        moved = self.labels[index[0], index[1], index[2]]
        self.labels = torch.where(inside & (moved > 0), moved, self.labels)

    def texture(self) -> Tensor:
        """Return factors of the uptake on voxels: lognormal with a standard deviation of a quarter, and cold cores."""
        x, y, z = (t.view(-1, _SAMPLES_PER_VOXEL).mean(1) for t in self.t)
        x, y = x[:, None, None], y[:, None]
        factor = torch.exp(_TEXTURE_STD * self.wave(x, y, z, 25.0) - _TEXTURE_STD**2 / 2)
        for centre, radius in self.placed:
            core = self.uniform(0, 0.6) * radius  # a cold core of up to a fifth of the volume
            moved = zip((x, y, z), self.shift, centre, strict=True)  # where the labels were taken from
            distance = torch.stack([(t + shift - c).square() for t, shift, c in moved]).sum(0).sqrt()
            factor = factor * (1 - 0.9 * torch.sigmoid((core - distance) / 1.5))
        return factor

    def measure(self) -> Torso:
        """Give every label its activity and attenuation, and average the samples of each voxel."""
        ranges = _UPTAKE_RANGES[self.uptake]
        activity = {"air": 0.0} | {name: self.uniform(*limits) for name, limits in ranges.items() if name != "lesion"}
        activity["right kidney"] = activity["left kidney"] * self.uniform(0.9, 1.1)
        for name in REGIONS[-_MAX_LESIONS:]:
            activity[name] = self.uniform(*ranges["lesion"])
        nx, ny, nz = self.shape
        a, mu, most = (torch.zeros(self.shape) for _ in range(3))
        labels = torch.zeros(self.shape, dtype=torch.uint8)
        samples = self.labels.view(nx, _SAMPLES_PER_VOXEL, ny, _SAMPLES_PER_VOXEL, nz, _SAMPLES_PER_VOXEL)
        for i, name in enumerate(REGIONS):
            share = (samples == i).float().mean((1, 3, 5))
            a += activity[name] * share
            mu += _ATTENUATION.get(name, _ORGAN_ATTENUATION) * share
            labels[share > most] = i
            most = torch.maximum(most, share)
        if self.virtual:
            a *= self.texture()
        return Torso(a[None, None], mu, labels, self.voxel)
