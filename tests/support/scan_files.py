"""A raw scan whose truth is known in closed form: ellipses, counted with flats and darks, in a Data Exchange file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from radon_truth import Ellipse

N_ROWS, N_ANGLES, N_BINS = 3, 96, 64
PIXEL_MM = 0.02
CENTRE = 29.3
"""Axis of rotation in bins; the middle is 31.5."""
DEAD_BIN = 40
ANGLES = np.arange(N_ANGLES) * np.pi / N_ANGLES
PHOTONS, DARK = 2e4, 100.0


def ellipses(row: int) -> list[Ellipse]:
    """Return the object in a row: a disc of 0.9/mm with a dense and an empty part, which moves from row to row."""
    r = N_BINS * PIXEL_MM
    return [
        Ellipse(0.9, 0.38 * r, 0.32 * r, 0.0, 0.0, 0.3),
        Ellipse(1.2, 0.09 * r, 0.12 * r, (0.14 - 0.04 * row) * r, 0.05 * r, 0.0),
        Ellipse(-0.9, 0.1 * r, 0.08 * r, -0.13 * r, -0.06 * r, 0.5),
    ]


def truth(row: int) -> np.ndarray:
    """Return the attenuation (64, 64) in 1/mm."""
    return sum(e.image((N_BINS, N_BINS), PIXEL_MM) for e in ellipses(row))


def scan_file(
    path: Path, *, centre: float = CENTRE, pixel: bool = True, gain_error: float = 0.0, seed: int = 0
) -> Path:
    """Write the scan: counts (theta, y, x) with a dead bin, 5 flats and 5 darks, angles in degrees, pixels in um.

    gain_error: standard deviation of the bins' gain that is lost between flats and counts, relative.
    """
    rng = np.random.default_rng(seed)
    t = (np.arange(N_BINS) - centre) * PIXEL_MM
    sinograms = [sum(e.sinogram(ANGLES, t, PIXEL_MM) for e in ellipses(k)) for k in range(N_ROWS)]
    beam = PHOTONS * (1 + 0.1 * rng.random((N_ROWS, N_BINS)))
    beam[:, DEAD_BIN] = 0
    gain = 1 + gain_error * np.random.default_rng(seed + 1).standard_normal((N_ROWS, N_BINS))
    counts = rng.poisson(beam * gain * np.exp(-np.moveaxis(sinograms, 0, 1)) + DARK)
    with h5py.File(path, "w") as file:
        file["exchange/data"] = counts.astype(np.uint16)
        file["exchange/data_white"] = rng.poisson(np.broadcast_to(beam + DARK, (5, *beam.shape))).astype(np.uint16)
        file["exchange/data_dark"] = rng.poisson(np.full((5, *beam.shape), DARK)).astype(np.uint16)
        file["exchange/theta"] = np.rad2deg(ANGLES)
        file["exchange/theta"].attrs["units"] = "degrees"
        if pixel:
            size = "measurement/instrument/detector/actual_pixel_size_x"
            file[size] = PIXEL_MM * 1e3
            file[size].attrs["units"] = "um"
    return path
