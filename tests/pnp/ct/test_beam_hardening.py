"""Beam hardening: polychromatic scans of homogeneous objects become flat, monochromatic ones stay as they are."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from arrays import seeded
from numpy.typing import NDArray
from radon_truth import Ellipse, half_turn
from scipy.ndimage import distance_transform_edt

from operators import FanBeam, Radon
from pnp.ct import correct_beam_hardening, fit_beam_hardening

Array = NDArray[np.float64]

N, VIEWS, FINE = 128, 160, 4
ENERGY = np.array([20.0, 30, 40, 50, 60, 80, 100])  # keV
# J. H. Hubbell and S. M. Seltzer, NIST Standard Reference Database 126, tables 3 (Al) and 4 (water): cm^2/g; times
# the density in g/cm^3, in 1/mm.
ATTENUATION = {
    "water": np.array([0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707]) * 1.000 / 10,
    "aluminium": np.array([3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704]) * 2.699 / 10,
    "monochromatic": np.full(7, 0.02),
}
# A tube of 100 kV with some filter; a detector that adds up energy.
SPECTRUM = np.array([0.02, 0.20, 0.30, 0.25, 0.15, 0.06, 0.02]) * ENERGY
SPECTRUM = SPECTRUM / SPECTRUM.sum()

OBJECTS = {
    "cylinder": [Ellipse(1, 45, 45, 8, -5, 0)],
    "ellipse": [Ellipse(1, 55, 25, -6, 4, 0.5)],
    "holes": [
        Ellipse(1, 50, 42, 4, 3, 0.3),
        Ellipse(-1, 8, 8, 17, 9, 0),
        Ellipse(-1, 12, 6, -18, -7, 0.8),
        Ellipse(-1, 5, 5, 2, -22, 0),
    ],
}


def measured(lengths: Array, material: str, mm: float) -> torch.Tensor:
    """Line integrals of lengths in pixels of mm; lengths are samples within bins, whose intensities average."""
    intensity = sum(s * np.exp(-mu * mm * lengths) for s, mu in zip(SPECTRUM, ATTENUATION[material], strict=True))
    assert isinstance(intensity, np.ndarray)
    return torch.from_numpy(-np.log(intensity.reshape(len(lengths), N, FINE).mean(-1)))[None, None]


def scan(name: str, material: str, mm: float) -> tuple[Radon, torch.Tensor]:
    angles = half_turn(VIEWS)
    t = (np.arange(N * FINE) - (N * FINE - 1) / 2) / FINE
    lengths = np.sum([e.sinogram(angles, t, 1 / FINE) for e in OBJECTS[name]], 0)
    return Radon((N, N), angles, n_detectors=N), measured(lengths.clip(0), material, mm)


def cupping(x: torch.Tensor, name: str) -> float:
    """Largest less smallest mean over shells of one depth below the surface, over the mean."""
    depth = distance_transform_edt(np.sum([e.image((N, N)) for e in OBJECTS[name]], 0) > 0.999)
    edges = np.linspace(3, depth.max(), 6)
    means = [float(x[0, 0].numpy()[(depth >= a) & (depth <= b)].mean()) for a, b in itertools.pairwise(edges)]
    return float((max(means) - min(means)) / np.mean(means))


@pytest.mark.parametrize(("material", "mm"), [("water", 1.5), ("aluminium", 0.6)])
@pytest.mark.parametrize("name", list(OBJECTS))
def test_cupping_is_removed_without_a_truth(name: str, material: str, mm: float) -> None:
    A, y = scan(name, material, mm)
    before = cupping(A.fbp(y), name)
    coefficients = fit_beam_hardening(y, A)
    corrected, noise_std = correct_beam_hardening(y, coefficients=coefficients)
    x = A.fbp(corrected)
    assert before > 0.015 and cupping(x, name) < 0.005, (before, cupping(x, name), coefficients)
    assert coefficients[0] == 1 and noise_std is None
    # Thin objects keep their attenuation: the level is that of the unfiltered spectrum.
    mu = float(SPECTRUM @ ATTENUATION[material]) * mm
    inside = distance_transform_edt(np.sum([e.image((N, N)) for e in OBJECTS[name]], 0) > 0.999) > 3
    assert float(x[0, 0].numpy()[inside].mean()) == pytest.approx(mu, rel=0.1)


@pytest.mark.parametrize("name", list(OBJECTS))
def test_monochromatic_data_stay_as_they_are(name: str) -> None:
    A, y = scan(name, "monochromatic", 1.5)
    for noise in (0.0, 0.03):
        noisy = y + noise * torch.randn(y.shape, generator=seeded(0), dtype=y.dtype)
        coefficients = fit_beam_hardening(noisy, A)
        corrected, _ = correct_beam_hardening(y, coefficients=coefficients)
        assert float((corrected - y).abs().max()) < 0.02 * float(y.max()), coefficients
        assert cupping(A.fbp(corrected), name) < 0.01


def test_noise_does_not_bias_the_coefficients() -> None:
    A, y = scan("cylinder", "water", 1.5)
    counts = torch.poisson(1500 * torch.exp(-y), generator=seeded(0)).clamp(min=0.5)
    coefficients = fit_beam_hardening(-(counts / 1500).log(), A)
    corrected, _ = correct_beam_hardening(y, coefficients=coefficients)
    assert cupping(A.fbp(corrected), "cylinder") < 0.01


def test_several_rows_share_their_coefficients() -> None:
    A, a = scan("ellipse", "water", 1.5)
    _, b = scan("holes", "water", 1.5)
    rows = torch.cat([a, b])[:, 0]  # (n_rows, n_angles, n_detectors)
    coefficients = fit_beam_hardening(rows.numpy(), A)
    for y, name in ((a, "ellipse"), (b, "holes")):
        assert cupping(A.fbp(correct_beam_hardening(y, coefficients=coefficients)[0]), name) < 0.005


def test_a_fan_beam_over_a_turn() -> None:
    angles = 2 * half_turn(VIEWS)
    A = FanBeam((N, N), angles, source_origin=400.0, origin_detector=200.0, n_detectors=N, pitch=1.6)
    u = 1.6 * (np.arange(N * FINE) - (N * FINE - 1) / 2) / FINE
    lengths = np.sum([e.fan_sinogram(angles, u, 1.6 / FINE, 400.0, 600.0) for e in OBJECTS["holes"]], 0)
    y = measured(lengths, "aluminium", 0.6)
    before, coefficients = cupping(A.fbp(y), "holes"), fit_beam_hardening(y, A)
    assert before > 0.05
    assert cupping(A.fbp(correct_beam_hardening(y, coefficients=coefficients)[0]), "holes") < 0.007


def test_the_noise_follows_the_derivative() -> None:
    y = torch.linspace(0, 4, 50, dtype=torch.float64).expand(2000, 1, 50)
    noise = 0.01 * torch.randn(y.shape, generator=seeded(1), dtype=torch.float64)
    c = (1.1, 0.05, -0.002)
    seen = correct_beam_hardening(y + noise, coefficients=c)[0].std(0)[0]
    _, predicted = correct_beam_hardening(y[:1].numpy(), 0.01, coefficients=c)
    np.testing.assert_allclose(predicted[0, 0], seen, rtol=0.06)  # 2000 draws: 1.6 %
    _, std = correct_beam_hardening(y[0], torch.full((1, 50), math.inf), coefficients=c)
    assert bool(std.isinf().all())


def test_refused_and_warned_of() -> None:
    y = torch.linspace(0, 4, 50)[None]
    for bad in ((), (0.0, 1.0), (1.0, math.nan), (1,) * 7, (1.0, -0.2)):
        with pytest.raises(ValueError, match="coefficients"):
            correct_beam_hardening(y, coefficients=bad)
    with pytest.raises(TypeError, match="coefficients"):
        correct_beam_hardening(y, coefficients=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise_std"):
        correct_beam_hardening(y, torch.ones(3), coefficients=(1,))
    A, y = scan("ellipse", "water", 1.5)
    for degree in (1, 7):
        with pytest.raises(ValueError, match="degree"):
            fit_beam_hardening(y, A, degree=degree)
    with pytest.raises(ValueError, match="y must be"):
        fit_beam_hardening(y[..., 1:], A)
    with pytest.raises(TypeError, match="operator"):
        fit_beam_hardening(y, "radon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        fit_beam_hardening(-y, A)
    # A second material.
    dense = torch.from_numpy(Ellipse(0.02, 12, 12, 10, 5, 0).sinogram(half_turn(VIEWS), np.arange(N) - 63.5, 1.0))
    with pytest.warns(UserWarning, match="one material"):
        fit_beam_hardening(y + dense, A)
    wide = Radon((N, N), half_turn(VIEWS), n_detectors=104)
    with pytest.warns(UserWarning, match="one material"), pytest.warns(UserWarning, match="truncated"):
        fit_beam_hardening(y[..., 12:116], wide)
