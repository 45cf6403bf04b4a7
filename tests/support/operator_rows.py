"""One small instance of every kind of operator, for the contract and for what must hold of all operators."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from arrays import F64, rand
from combined_operators import PLAIN, SCALED
from torch import Tensor

from operators import (
    SPECT,
    Blur,
    ConeBeam,
    Downsample,
    FanBeam,
    Identity,
    KaiserSquires,
    KaiserSquiresEB,
    KaiserSquiresSphere,
    LinearOperator,
    Mask,
    ParallelBeam,
    Radon,
    gaussian_kernel,
)


@dataclass(frozen=True)
class Row:
    """An operator on a tiny grid, and the number of channels its images have in the checks."""

    make: Callable[[], LinearOperator]
    channels: int = 1
    plain: bool = False
    """There is neither a closed form nor a preconditioner: none pays."""


def mask(*shape: int) -> Tensor:
    return rand(*shape, seed=1) > 0


def angles(n: int) -> Tensor:
    return torch.linspace(0.1, 3.0, n, dtype=F64)


def psf(*shape: int) -> Tensor:
    kernels = rand(*shape, seed=9).abs()
    return kernels / kernels.sum((-2, -1), keepdim=True)


ROWS = {
    "mask-bool": Row(lambda: Mask(mask(5, 6)), 3),
    "mask-weights": Row(lambda: Mask(rand(1, 6, 5).abs()), 2),
    "mask-per-channel": Row(lambda: Mask(mask(3, 4, 5)), 3),
    "blur-circular-odd": Row(lambda: Blur(rand(3, 5), (7, 5))),
    "blur-circular-even": Row(lambda: Blur(rand(2, 4), (6, 8)), 2),
    "blur-reflect-odd": Row(lambda: Blur(rand(5, 3), (5, 8), boundary="reflect"), 2),
    "blur-reflect-even": Row(lambda: Blur(rand(4, 2), (7, 6), boundary="reflect")),
    "blur-reflect-mirrored": Row(lambda: Blur(gaussian_kernel(0.4, dtype=F64)[:, 1:-1], (6, 7), "reflect"), 2),
    "blur-valid-odd": Row(lambda: Blur(rand(3, 5), (7, 6), boundary="valid")),
    "blur-valid-even": Row(lambda: Blur(rand(2, 4), (5, 8), boundary="valid"), 3),
    "mask-volume": Row(lambda: Mask(mask(3, 4, 5), dimensions=3), 2),
    "mask-volume-per-channel": Row(lambda: Mask(rand(2, 3, 4, 5).abs(), dimensions=3), 2),
    "blur-volume-circular": Row(lambda: Blur(rand(2, 3, 5), (4, 6, 5)), 2),
    "blur-volume-reflect": Row(lambda: Blur(rand(3, 2, 4), (5, 6, 7), "reflect")),
    "blur-volume-mirrored": Row(lambda: Blur(gaussian_kernel((0.6, 0.4, 0.3), dtype=F64)[1:-1], (5, 5, 6), "reflect")),
    "blur-volume-valid": Row(lambda: Blur(rand(2, 3, 1), (4, 5, 6), "valid")),
    "identity-volume": Row(lambda: Identity((3, 4, 5)), 2),
    "kaiser-squires-odd": Row(lambda: KaiserSquires((7, 5))),
    "kaiser-squires-even": Row(lambda: KaiserSquires((6, 8), convention="conjugate")),
    "kaiser-squires-mixed": Row(lambda: KaiserSquires((6, 5), convention="transposed")),
    "kaiser-squires-eb-odd": Row(lambda: KaiserSquiresEB((7, 5)), 2),
    "kaiser-squires-eb-mixed": Row(lambda: KaiserSquiresEB((6, 5), convention="conjugate"), 2),
    "fan-beam-odd": Row(lambda: FanBeam((7, 7), angles(5), source_origin=9.0, origin_detector=4.0)),
    "fan-beam-even": Row(
        lambda: FanBeam((6, 8), angles(4), source_origin=30.0, origin_detector=0.0, pitch=1.7, pixel_size=2.0), 2
    ),
    "fan-beam-narrow": Row(
        lambda: FanBeam((8, 7), angles(6), source_origin=8.0, origin_detector=8.0, n_detectors=5, offset=1.3), 3
    ),
    "cone-beam-circle": Row(lambda: ConeBeam((4, 6, 5), angles(4), source_origin=9.0, origin_detector=4.0, pitch=1.2)),
    "cone-beam-helix": Row(
        lambda: ConeBeam(
            (5, 4, 6),
            angles(5),
            source_origin=angles(5) + 20,
            origin_detector=8.0,
            detector_shape=(4, 7),
            pitch=(1.7, 1.1),
            voxel_size=(1.5, 0.9, 1.2),
            offset=0.8,
            row_offset=-0.3,
            shift=torch.linspace(-2, 2, 5),
        ),
    ),
    "parallel-beam": Row(lambda: ParallelBeam((3, 6, 5), angles(5), pitch=1.2, voxel_size=(2.0, 1.5, 1.5))),
    "parallel-beam-rows": Row(
        lambda: ParallelBeam((4, 6, 5), angles(7), n_detectors=5, offset=torch.tensor([0.5, -0.2, 0.0, 1.1])),
    ),
    "radon-odd": Row(lambda: Radon((7, 7), angles(6))),
    "radon-even": Row(lambda: Radon((6, 8), angles(5), pitch=0.8, pixel_size=2.0), 2),
    "radon-narrow": Row(lambda: Radon((8, 7), angles(9), n_detectors=5, offset=1.3), 3),
    "spect-square": Row(
        lambda: SPECT(
            (4, 4, 3), angles(5), voxel_size=4.8, attenuation=0.02 * rand(4, 4, 3).abs(), fwhm=rand(5, 4).abs()
        ),
        plain=True,
    ),
    "spect-rectangular": Row(
        lambda: SPECT((3, 5, 4), angles(4), voxel_size=(4.8, 2.0), psf=psf(5, 3, 5)),
        plain=True,
    ),
    "identity": Row(lambda: Identity((5, 6)), 3),
    "downsample-mean": Row(lambda: Downsample((6, 9), 3), 2),
    "downsample-kernel-odd": Row(lambda: Downsample((6, 8), 2, rand(3, 5)), 2),
    "downsample-kernel-even": Row(lambda: Downsample((8, 4), 4, rand(4, 2))),
    "downsample-kernel-reflect": Row(lambda: Downsample((6, 9), 3, rand(4, 3), boundary="reflect"), 2),
}
SPHERE = {
    "kaiser-squires-sphere": Row(lambda: KaiserSquiresSphere(2), plain=True),
    "kaiser-squires-sphere-all": Row(
        lambda: KaiserSquiresSphere(2, lmax=5, n_refine=0, convention="conjugate"), plain=True
    ),
}
if importlib.util.find_spec("ducc0") is not None:
    ROWS |= SPHERE
ROWS |= {name: Row(make, channels) for name, (make, channels) in SCALED.items()}
ROWS |= {name: Row(make, channels, plain=True) for name, (make, channels) in PLAIN.items()}


def images(op: LinearOperator, row: Row, batch: int = 2, seed: int = 2, dtype: torch.dtype = F64) -> Tensor:
    return rand(batch, row.channels, *op.shape, seed=seed, dtype=dtype)
