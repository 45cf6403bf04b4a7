"""A small cone-beam scan of blocks, and its file in the HDF5 layout."""

from __future__ import annotations

import math

import numpy as np
import torch

from operators import ConeBeam
from pnp.io import write_measurements

SHAPE, VOXEL, PITCH, ROWS_COLUMNS = (8, 10, 12), (1.2, 1.0, 0.8), (1.5, 1.25), (13, 21)
N_VIEWS = 8
GEOMETRY = {
    "shape": SHAPE,
    "angles": np.arange(N_VIEWS) * (2 * math.pi / N_VIEWS),
    "source_origin": 80.0,
    "origin_detector": 40.0,
    "detector_shape": ROWS_COLUMNS,
    "pitch": PITCH,
    "voxel_size": VOXEL,
    "offset": 0.4,
    "shift": np.linspace(-0.6, 0.6, N_VIEWS),
}


def blocks() -> torch.Tensor:
    """Return a volume (1, 1, 8, 10, 12), 1/mm, that no flip or exchange of axes leaves as it is."""
    x = torch.zeros(1, 1, *SHAPE)
    x[..., 1:7, 2:8, 2:10] = 0.02
    x[..., 1:3, 2:4, 3:9] = 0.05
    x[..., 5, 6, 8] = 0.1
    return x


def write_cone(path, *, length_units="mm", noise_std=0.002, **changes):
    """Write the scan of the blocks; changes are of the operator's parameters."""
    generator = torch.Generator().manual_seed(0)
    clean = ConeBeam(**GEOMETRY).A(blocks())
    y = clean + noise_std * torch.randn(clean.shape, generator=generator)
    write_measurements(
        path,
        y.numpy(),
        operator="cone_beam",
        parameters=GEOMETRY | changes,
        noise_std=noise_std,
        reference=blocks().numpy(),
        length_units=length_units,
    )
    return path
