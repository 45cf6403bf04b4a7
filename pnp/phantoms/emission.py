"""Simulated SPECT scans of a torso: counts of two isotopes, with attenuation, collimator, scatter and noise.

    counts ~ Poisson(A x + r),    r = scatter fraction x (A x, blurred over the detector)

A is computed on voxels half as large as those of the reconstruction. The isotopes are simple models, not Monte Carlo:
177Lu at 208 keV with a medium-energy collimator is sharp and has little scatter; bremsstrahlung of 90Y, counted from
105 to 195 keV with a high-energy collimator, has fewer counts, much scatter, and broad tails of photons of up to
2.3 MeV that pass the septa (Z. Li, Y. K. Dewaraja and J. A. Fessler, arXiv 2301.09710, study the two). Holes are those
of data sheets (medium and high energy, low penetration), lead's attenuation is NIST's at the energy; shares and widths
of scatter and penetration, and counts, are our choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d

from ..algorithms.protocols import Operator
from .torso import torso

_FWHM_PER_STD = math.sqrt(8 * math.log(2))
"""FWHM of a Gaussian over its standard deviation."""
_REFINEMENT = 2
"""Voxels of the simulation per voxel of the truth, along each axis."""


@dataclass(frozen=True)
class Isotope:
    """Isotope and camera of a simulated scan; lengths in mm."""

    uptake: str
    """Uptake, see `torso`."""
    collimator: Mapping[str, float]
    """Holes and intrinsic FWHM: hole_diameter, hole_length, septal_attenuation, intrinsic of `collimator_fwhm`."""
    penetration: tuple[float, float] | None
    """Share of the counts that passed the septa, and the FWHM of their positions."""
    attenuation: float
    """Attenuation of tissue, relative to that at 208 keV."""
    scatter: float
    """Scattered counts over unscattered ones."""
    scatter_fwhm_mm: float
    counts: float
    """Expected unscattered counts in all views of a torso."""
    radius_mm: float = 230.0
    """Radius of the circular orbit: from the axis to the collimator's face."""

    @property
    def camera_options(self) -> dict[str, Any]:
        """Arguments of `operators.spect_camera` and `camera_response`."""
        return {"radius": self.radius_mm, "collimator": self.collimator, "penetration": self.penetration}


ISOTOPES = {
    "lu177": Isotope(
        "dotatate",
        {"hole_diameter": 2.94, "hole_length": 40.64, "septal_attenuation": 1.04, "intrinsic": 3.8},
        None,
        attenuation=1.0,
        scatter=0.25,
        scatter_fwhm_mm=80.0,
        counts=5e6,
    ),
    "y90": Isotope(
        "microspheres",
        {"hole_diameter": 4.0, "hole_length": 59.7, "septal_attenuation": 2.29, "intrinsic": 3.8},
        (0.35, 120.0),
        attenuation=0.1505 / 0.1351,
        scatter=0.8,
        scatter_fwhm_mm=100.0,
        counts=2e6,
    ),
}
"""Isotopes by name."""


class EmissionScan(NamedTuple):
    """A simulated scan and its truth."""

    operator: Operator
    """Operator A on the voxels of the truth."""
    y: Tensor
    """(1, 1, n_views, nx, nz): counts, float32."""
    background: Tensor
    """r, expected scatter, as windows beside the photopeak would give it."""
    truth: Tensor
    """x (1, 1, nx, ny, nz): expected counts of a voxel in each view if nothing was absorbed."""
    labels: Tensor
    """Regions (nx, ny, nz), see `Torso`."""


def emission_scan(
    isotope: Isotope,
    make_operator: Callable[[Tensor, float], Operator],
    shape: tuple[int, int, int] = (64, 64, 40),
    *,
    voxel_size_mm: float = 6.4,
    seed: int = 0,
    virtual: bool = False,
    device: torch.device | str = "cpu",
) -> EmissionScan:
    """Simulate a SPECT scan of a random torso.

    Args:
        isotope: one of ISOTOPES, or your own.
        make_operator: (mu, size) -> the projector, on `device`, for an attenuation map mu (nx, ny, nz) in 1/mm, on the
            CPU, with voxels of size mm; `operators.spect_camera` makes one.
        shape: (nx, ny, nz) voxels.
        voxel_size_mm: side of a voxel in mm.
        seed: at least 0; draws the patient and, in a stream of its own, the noise.
        virtual: as in `torso`.
        device: device of the result; patient and noise are drawn on the CPU.
    """
    if seed < 0:
        raise ValueError(f"emission_scan: seed must be at least 0, got {seed}")
    fine_shape = (_REFINEMENT * shape[0], _REFINEMENT * shape[1], _REFINEMENT * shape[2])
    found = [
        torso(
            size,
            voxel_size_mm=voxel,
            generator=torch.Generator().manual_seed(seed),
            uptake=isotope.uptake,
            virtual=virtual,
        )
        for size, voxel in ((shape, voxel_size_mm), (fine_shape, voxel_size_mm / _REFINEMENT))
    ]
    fine_mu = isotope.attenuation * found[1].attenuation
    fine = make_operator(fine_mu, voxel_size_mm / _REFINEMENT).A(found[1].activity.to(device))
    views = _REFINEMENT**2 * avg_pool2d(fine[0], _REFINEMENT)[None]
    # To six digits, whatever the order in which threads have summed.
    scale = float(f"{isotope.counts / float(views.double().sum()):.6g}")
    truth = _REFINEMENT**3 * scale * avg_pool3d(found[1].activity, _REFINEMENT).to(device)
    primary = (scale * views).cpu()
    blur = isotope.scatter_fwhm_mm / _FWHM_PER_STD / voxel_size_mm
    wide = torch.from_numpy(gaussian_filter(primary.numpy(), (0, 0, 0, blur, blur), mode="constant"))
    background = isotope.scatter * wide
    noise = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, 1)).generate_state(1)[0]))
    y = torch.poisson(primary + background, generator=noise)
    operator = make_operator(avg_pool3d(fine_mu[None, None], _REFINEMENT)[0, 0], voxel_size_mm)
    return EmissionScan(operator, y.to(device), background.to(device), truth, found[0].labels)
