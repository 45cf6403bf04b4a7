"""Whole messages, of one call for each way of saying what is wrong: argument, expected, got, remedy.

Other tests ask for the argument's name alone, so that a sentence is rewritten here and in the code, nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from command import run
from toys import Diagonal, smooth

from denoisers import MLPatch
from operators import SPECT, Blur, ConeBeam, FanBeam, KaiserSquires, Radon
from pnp import Poisson, mlem, solve
from pnp.ct import line_integrals
from pnp.lensing import map_mass
from pnp.metrics import psnr
from pnp.phantoms import torso
from pnp.readers import read_catalogue

Y = torch.ones(1, 1, 6, 7)
ONE = Diagonal(torch.ones(1, 1))


def solved(
    operator: object = ONE, y: object = Y, denoiser: object = smooth, noise_std: object = 0.1, **options: object
):
    return lambda: solve(operator, y, denoiser, noise_std=noise_std, **options)  # type: ignore[arg-type]


MESSAGES: dict[str, Callable[[], object]] = {
    "solve: noise_std must be positive, got 0; it is a standard deviation in units of y, infinity marks a measurement "
    "without information": solved(noise_std=0.0),
    "solve: y must be finite, got NaN or infinity in 42 of 42 measurements; set noise_std to infinity there to leave "
    "them out, or use torch.nan_to_num(y) where the operator drops them": solved(y=Y * math.nan),
    "solve: y must be float32 or float64, got torch.int32; use y.float()": solved(y=Y.int()),
    "solve: bounds must be (low, high) with low < high, got (1, 0)": solved(bounds=(1, 0)),
    "solve: max_iter must be an integer >= 1, got 0": solved(max_iter=0),
    "solve: x0 must have the image shape (1, 1, 6, 7), as A_adjoint(y) has, got (1, 6, 7)": solved(x0=Y[0]),
    "solve: schedule must be a Schedule, a sequence of noise levels or a function k -> sigma_k, got 'linear'": solved(
        schedule="linear"
    ),
    "solve: denoiser must keep the shape (1, 1, 6, 7), got (1, 1, 6, 6); check its channels, or pad and crop inside "
    "it": solved(denoiser=lambda x, sigma: x[..., 1:]),
    "solve: operator must be an instance, got the class Diagonal; call it first": solved(operator=Diagonal),
    "solve: noise_std must be None with Poisson, which takes the noise from the counts, got 0.1": solved(
        data_term=Poisson()
    ),
    "mlem: y must be >= 0, got a minimum of -1; do not subtract the background, pass it as background": (
        lambda: mlem(ONE, -Y)
    ),
    "Radon.A: x must be (B, C, 8, 6), got (8, 6); use x[None, None, ...]": (
        lambda: Radon((8, 6), [0.0, 1.0]).A(torch.zeros(8, 6))
    ),
    "Radon: angles must be a non-empty 1-D array of radians, got shape (0,)": lambda: Radon((8, 6), []),
    "FanBeam: source_origin must exceed half the image's diagonal, 5.657, or the source would pass through its corners"
    ", got 5.0; give both in one unit, or make the image smaller": (
        lambda: FanBeam((8, 8), [0.0], source_origin=5.0, origin_detector=1.0)
    ),
    "Blur: kernel must fit in the image (8, 8), got (3, 9); crop the kernel": lambda: Blur(torch.ones(3, 9), (8, 8)),
    "KaiserSquires: convention must be one of lenspack, conjugate, transposed, got 'ks'": (
        lambda: KaiserSquires((8, 8), convention="ks")
    ),
    "ConeBeam: source_origin must exceed half the slices' diagonal, 5.657, or the source would pass through the volume"
    ", got 5; give both in one unit, or make the volume smaller": (
        lambda: ConeBeam((4, 8, 8), [0.0], source_origin=5.0, origin_detector=1.0)
    ),
    "SPECT: attenuation must be (4, 4, 3), as the volume is, got (4, 4, 4); resample it to the volume's voxels": (
        lambda: SPECT((4, 4, 3), [0.0], voxel_size=4.8, attenuation=torch.zeros(4, 4, 4))
    ),
    "MLPatch: patch must be odd and at least the spacing (2), got 4": lambda: MLPatch(patch=4),
    "MLPatch.from_pretrained: name_or_path must be one of ['color', 'convergence', 'gray', 'gray-open', 'volume'] or "
    "the path of a .safetensors file, got 'photographs'": lambda: MLPatch.from_pretrained("photographs"),
    "line_integrals: give exactly one of flat, as measured, and i0, the counts of the open beam": (
        lambda: line_integrals(torch.full((4, 9), 50.0))
    ),
    "map_mass: y must be (B, 2, H, W), got (2, 7, 9); use y[None]": (lambda: map_mass(torch.zeros(2, 7, 9), 0.1)),
    "psnr: data_range must be positive, got 0; 1.0 for images in [0, 1]": (
        lambda: psnr(np.zeros(4), np.ones(4), data_range=0)
    ),
    "torso: shape and voxel_size_mm must be positive, got (64, 64, 40) and -1.0": lambda: torso(voxel_size_mm=-1.0),
    "galaxies.parquet: there is no such file; check the name": lambda: read_catalogue("galaxies.parquet"),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_the_whole_message(message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        MESSAGES[message]()
    assert str(caught.value) == message
    assert len(message) < 400 and "\n" not in message


def test_the_whole_warning() -> None:
    with pytest.warns(UserWarning) as caught:
        Radon((8, 8), np.arange(180.0))
    (warning,) = caught
    assert str(warning.message) == (
        "Radon: angles span 179 radians, more than two turns; if they are degrees, use np.deg2rad"
    )


def test_the_whole_line_of_the_command(monkeypatch, capsys, tmp_path) -> None:
    assert run(monkeypatch, "reconstruct", tmp_path / "y.h5", "-o", tmp_path / "x.h5", "--bounds", "1") == 2
    assert capsys.readouterr().err == "pnp: --bounds must be low,high, e.g. 0,1 or 0,inf, got '1'\n"
