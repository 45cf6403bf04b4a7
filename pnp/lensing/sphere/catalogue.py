"""From a catalogue of galaxies to shear on the sphere: means in HEALPix pixels, their noise, and the galaxies' counts.

Means, noise and calibration are those of `pnp.lensing.map_catalogue`. Components on the axes of the sky, north and east
at each galaxy, are those of the pixel: nothing is turned, and the field may be of any size. Right ascension is the
longitude of the grid, declination its latitude.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from operators.lensing.harmonics import check_nside

from ...readers.shear_catalogue import ShearCatalogue, read_catalogue
from ...readers.shear_map import check_signs
from ..bin_catalogue import bin_shapes
from .pixels import pixels_of
from .shear import SphereShear, check_sphere_convention


def map_catalogue(
    catalogue: ShearCatalogue | str | os.PathLike[str],
    nside: int,
    *,
    signs: tuple[int, int] = (1, 1),
    swap: bool = False,
    convention: str = "lenspack",
    noise: Literal["scatter", "weights"] | float = "scatter",
    dtype: torch.dtype = torch.float32,
) -> SphereShear:
    """Return the mean shear of a catalogue's galaxies in the pixels of a HEALPix grid.

    Args:
        catalogue: galaxies, or a file for `read_catalogue`.
        nside: resolution of the grid: 512 has pixels of 6.9 arcmin, 1024 of 3.4; a few galaxies per pixel are enough.
        signs: factors of e1 and e2, each 1 or -1, applied first. `score_conventions` finds them on a plane map of a
            part of the field, and its `options` are arguments of this function.
        swap: exchange e1 and e2 before that.
        convention: the `operators.KaiserSquiresSphere` convention that the signed components follow.
        noise: as in `pnp.lensing.map_catalogue`.
        dtype: dtype of the maps.

    Raises:
        ImportError: ducc0 is not installed.
        ValueError: an argument has no valid value, all galaxies fall into one pixel, or they have no scatter.
    """
    galaxies = catalogue if isinstance(catalogue, ShearCatalogue) else read_catalogue(catalogue)
    nside = check_nside("map_catalogue", nside)
    check_sphere_convention("map_catalogue", convention)
    check_signs("map_catalogue", signs)
    index, n_pix = pixels_of(nside, galaxies.ra, galaxies.dec).astype(np.int64), 12 * nside**2
    if np.ptp(index) == 0:
        raise ValueError(
            f"map_catalogue: all {len(index)} galaxies fall into one pixel of nside {nside}, expected several; take a "
            "larger nside"
        )
    everywhere = np.ones(len(index), dtype=bool)
    binned = bin_shapes(galaxies, everywhere, index, n_pix, signs=signs, swap=swap, noise=noise)

    def tensor(values: Any) -> Tensor:
        return torch.from_numpy(values.reshape(1, -1, n_pix)).to(dtype)

    return SphereShear(
        shear=tensor(binned.shear),
        noise_std=tensor(binned.noise_std),
        mask=torch.from_numpy((binned.counts > 0).reshape(1, 1, n_pix)),
        counts=torch.from_numpy(binned.counts.reshape(1, 1, n_pix)),
        kappa=None if binned.kappa is None else tensor(binned.kappa),
        convention=convention,
        signs=(int(signs[0]), int(signs[1])),
        swap=bool(swap),
        sigma_e=binned.sigma_e,
        facts=binned.facts,
        path=galaxies.path,
    )
