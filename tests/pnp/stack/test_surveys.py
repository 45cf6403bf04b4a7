"""Stacks of what surveys and clinics measure: gated SPECT, CT slices and lensing fields, on the command line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mosaics import Average, blur, scene
from spect_files import camera_scan, parameters
from stacks import command

from denoisers import TV
from operators import KaiserSquires, Radon
from pnp import Poisson, solve
from pnp.io import read_result, write_measurements
from pnp.lensing import LognormalKappa, survey_noise

pytest.importorskip("distributed", reason="the extra 'stack' is not installed")
zarr = pytest.importorskip("zarr", reason="the extra 'stack' is not installed")

from pnp.stack import solve_mosaic  # noqa: E402
from pnp.stack.cluster import engine  # noqa: E402


@pytest.fixture(scope="module")
def client():
    with engine(None, 1, "test") as (client, _):
        yield client


@pytest.fixture(scope="module")
def address(client):
    return client.scheduler.address


def run(file: Path, address: str, *options) -> np.ndarray:
    output = file.with_suffix(".result.h5")
    assert command(file, "-o", output, "--scheduler", address, "--denoiser", "tv", "--max-iter", 3, *options) == 0
    return np.asarray(read_result(output).x)


def test_gates_of_a_spect_scan(address, tmp_path):
    """Each gate has its counts and its background; z stays z."""
    A, y, background, _ = camera_scan()
    gates, grounds = np.concatenate([y, y[:, :, ::-1]]), np.concatenate([background, 2 * background])
    write_measurements(
        tmp_path / "y.h5", gates, operator="spect", parameters=parameters(), background=grounds, noise_std=None
    )
    found = run(tmp_path / "y.h5", address)
    for k in range(2):
        term = Poisson(background=torch.from_numpy(grounds[k : k + 1]))
        wanted = solve(A, gates[k : k + 1], TV(), data_term=term, bounds=(0, None), max_iter=3).x
        np.testing.assert_allclose(found[k : k + 1], wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()))


def test_slices_of_a_ct_scan(address, tmp_path):
    angles = torch.linspace(0, math.pi, 15)[:-1].numpy()
    A = Radon((16, 20), angles, n_detectors=27)
    x = torch.rand(2, 1, 16, 20, generator=torch.Generator().manual_seed(0))
    y = A.A(x).numpy()
    write_measurements(
        tmp_path / "y.h5", y, operator="radon", parameters={"shape": (16, 20), "angles": angles}, noise_std=0.1
    )
    found = run(tmp_path / "y.h5", address, "--bounds", "0,inf")
    wanted = [solve(A, y[k : k + 1], TV(), noise_std=0.1, bounds=(0, None), max_iter=3).x for k in range(2)]
    np.testing.assert_allclose(found, np.concatenate(wanted), rtol=1e-3, atol=1e-3)


def test_fields_of_a_lensing_survey_each_with_its_mask(address, tmp_path):
    A, g = KaiserSquires((24, 20)), torch.Generator().manual_seed(0)
    kappa = LognormalKappa((24, 20))(2, generator=g)
    std = torch.cat([survey_noise((24, 20), generator=g, holes=2, std=0.05) for _ in range(2)])
    y = A.A(kappa) + torch.where(std.isfinite(), std, 0) * torch.randn(2, 2, 24, 20, generator=g)
    y = torch.where(std.isfinite(), y, math.nan).numpy()
    write_measurements(
        tmp_path / "y.h5", y, operator="kaiser_squires", parameters={"shape": (24, 20)}, noise_std=std.numpy()
    )
    found = run(tmp_path / "y.h5", address)
    wanted = [solve(A, y[k : k + 1], TV(), noise_std=std[k : k + 1].numpy(), max_iter=3).x for k in range(2)]
    np.testing.assert_allclose(found, np.concatenate(wanted), rtol=1e-3, atol=1e-4)


def test_a_blurred_mosaic_on_workers_is_that_of_this_process(client, tmp_path):
    y = scene(130, 70)
    options = {"noise_std": 0.1, "tile": 64, "max_iter": 2}
    images = []
    for name, engine_ in (("here", None), ("there", client)):
        found = solve_mosaic(blur, y, Average(), output=tmp_path / f"{name}.zarr", client=engine_, **options)
        images.append(np.asarray(zarr.open(str(found.x), mode="r")[:]))
    np.testing.assert_allclose(*images, rtol=0, atol=1e-5)  # other numbers of threads, other rounding
