"""Counts to line integrals: the noise against repeated draws, gain, dead pixels, rings, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, seeded
from torch import Tensor
from toys import Matrix, smooth

from pnp import solve
from pnp.ct import LineIntegrals, find_bad_pixels, line_integrals, simulate_counts
from pnp.readers import CtScan

GAIN, DARK, READ_OUT = 4.0, 100.0, 12.0  # counts a photon; counts; counts
BINS = 400


def detector(photons: Tensor, seed: int) -> Tensor:
    """What a detector with gain, offset and read-out noise gives for expected photons."""
    g = seeded(seed)
    drawn = GAIN * torch.poisson(photons, generator=g) + DARK
    return drawn + READ_OUT * torch.randn(photons.shape, generator=g, dtype=photons.dtype)


BEAM = 2000 * (1 + 0.3 * torch.linspace(-1, 1, BINS, dtype=F64) ** 2)


def test_the_noise_is_that_of_repeated_draws() -> None:
    lines = torch.linspace(0, 4, BINS, dtype=F64)
    n, n_flats, n_darks = 3000, 5, 4
    counts = detector((BEAM * torch.exp(-lines)).expand(n, 1, BINS), 0)
    # Every draw has flats and darks of its own, so that their noise is part of what is seen.
    flat = detector(BEAM.expand(n, n_flats, BINS), 1)
    dark = detector(torch.zeros(n, n_darks, BINS, dtype=F64), 2)
    record = line_integrals(counts, flat, dark, bad_pixels=torch.zeros(BINS, dtype=torch.bool))
    assert record.photons_per_count == pytest.approx(1 / GAIN, rel=0.01)
    assert record.electronic_std == pytest.approx(READ_OUT, rel=0.01)
    seen, predicted = record.y.std(0)[0], record.noise_std.square().mean(0).sqrt()[0]
    photons = BEAM * torch.exp(-lines)
    enough = photons > 100  # at fewer, the delta method is no longer exact
    assert enough.sum() > 250
    assert bool(((seen / predicted)[enough] - 1).abs().max() < 0.1)  # 3000 draws: 1.3 % each
    assert float((seen / predicted)[enough].mean()) == pytest.approx(1, abs=0.01)
    assert bool(((record.y.mean(0)[0] - lines)[enough]).abs().max() < 0.01)
    # Without flats, darks and gain it is 1/counts.
    plain = line_integrals(counts[:1] - DARK, i0=GAIN * 2000.0, photons_per_count=1 / GAIN)
    assert torch.allclose(plain.noise_std, ((counts[:1] - DARK) / GAIN) ** -0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_noise_the_line_integrals_are_exact(dtype: torch.dtype) -> None:
    lines = torch.linspace(0, 5, BINS, dtype=dtype).expand(2, 3, 7, BINS)
    record = line_integrals(1e5 * torch.exp(-lines) + 10, torch.full((BINS,), 100010.0), torch.full((4, BINS), 10.0))
    assert record.y.dtype == record.noise_std.dtype == dtype and record.y.shape == lines.shape
    assert torch.allclose(record.y, lines, atol=1e-4 if dtype == torch.float32 else 1e-12)
    assert record.n_bad == 0 and record.electronic_std == 0 and record.photons_per_count == 1


def test_a_drifting_beam_is_not_taken_for_noise() -> None:
    drift = torch.linspace(0.95, 1.05, 40, dtype=F64)[:, None]
    record = line_integrals(
        detector(BEAM.expand(3, BINS), 3), detector(drift * BEAM, 4), detector(torch.zeros(40, BINS, dtype=F64), 5)
    )
    assert record.photons_per_count == pytest.approx(1 / GAIN, rel=0.05)


def test_integers_and_arrays_of_any_byte_order() -> None:
    counts = np.arange(1, 25).reshape(2, 3, 4)
    records = [
        line_integrals(counts.astype(kind), i0=30.0) for kind in ("uint16", ">u2", "int64", ">f4", "float32", "float64")
    ]
    assert [r.y.dtype.name for r in records] == ["float32"] * 5 + ["float64"]
    for r in records:
        assert isinstance(r.y, np.ndarray) and np.allclose(r.y, -np.log(counts / 30), atol=1e-6)


def test_starved_rays_say_nothing_and_are_counted() -> None:
    counts = torch.tensor([[50.0, 0.0, -3.0, 2.0, 100.0]])
    record = line_integrals(counts, i0=100.0)
    assert (record.n_bad, record.n_starved) == (2, 2)
    assert record.noise_std.isinf().tolist() == [[False, True, True, False, False]]
    assert record.y[0, 1] == record.y[0, 2] == record.y.max() == pytest.approx(math.log(200))  # half a photon
    with pytest.raises(ValueError, match="2 other rays"):
        line_integrals(counts, i0=100.0, bad="raise")


def test_solve_takes_the_record() -> None:
    lines = torch.full((1, 1, 42), 0.5, dtype=F64)
    lines[..., 31] = 3.0
    counts = simulate_counts(lines, 1e6, generator=seeded(1))
    counts[..., 7] = 0
    record: LineIntegrals = line_integrals(counts, i0=1e6)
    assert record.y[0, 0, 7] == record.y.max() > 2.9  # filled, and of no weight
    found = solve(Matrix(torch.eye(42, dtype=F64)), record.y, smooth, noise_std=record.noise_std)
    assert abs(float(found.x.flatten()[7]) - 0.5) < 0.1


def test_defective_pixels_are_found_and_bridged() -> None:
    flat = detector(BEAM.expand(20, BINS), 6)
    dark = detector(torch.zeros(20, BINS, dtype=F64), 7)
    truth = torch.zeros(BINS, dtype=torch.bool)
    truth[[0, 50, 51, 200, 300, BINS - 1]] = True
    flat[:, 0], flat[:, 50:52], flat[:, -1] = DARK, 0.6 * flat[:, 50:52], 2 * flat[:, -1]  # dead, dim, hot
    dark[:, 200], flat[:, 200] = dark[:, 200] + 2000, flat[:, 200] + 2000  # leaks in the dark
    flat[:, 300], dark[:, 300] = 0, 0
    assert torch.equal(find_bad_pixels(flat, dark), truth)
    assert np.array_equal(find_bad_pixels(flat.numpy(), dark.numpy()), truth.numpy())
    lines = torch.linspace(0, 2, BINS, dtype=F64).expand(30, BINS)
    counts = detector(BEAM * torch.exp(-lines), 8)
    counts[:, truth] = 1e9
    record = line_integrals(counts, flat, dark)
    assert torch.equal(record.bad_pixels, truth) and record.n_bad == 30 * 6 and record.n_starved == 0
    assert torch.equal(record.noise_std.isinf(), truth.expand(30, BINS))
    assert (record.y - lines)[:, truth].abs().max() < 0.2
    # Nothing is found where nothing is wrong, at any curvature of the beam and gain of the pixels within 4 %.
    uneven = 1 + 0.04 * (2 * torch.rand(BINS, generator=seeded(9), dtype=F64) - 1)
    assert not find_bad_pixels(detector(BEAM * uneven, 10), dark.mean(0).clamp(max=110, min=90)).any()


def test_rows_have_flats_of_their_own() -> None:
    beam = torch.stack([BEAM, 3 * BEAM])
    lines = torch.full((2, 6, BINS), 0.7, dtype=F64)
    record = line_integrals((beam[:, None] * torch.exp(-lines)), beam[:, None], bad="raise")
    assert torch.allclose(record.y, lines)
    with pytest.raises(ValueError, match=": flat "):
        line_integrals(torch.ones(6, 2, BINS), beam[:, None].expand(2, 3, BINS)[None].expand(4, 2, 3, BINS))


FLAT = torch.full((9,), 100.0)
COUNTS = torch.full((4, 9), 50.0)


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ({}, "flat"),
        ({"flat": FLAT, "i0": 9.0}, "flat"),
        ({"flat": 0 * FLAT}, "zero everywhere"),
        ({"flat": FLAT, "dark": 2 * FLAT}, "dark"),
        ({"flat": FLAT * torch.nan}, ": flat "),
        ({"flat": FLAT[:5]}, ": flat "),
        ({"flat": FLAT, "dark": FLAT[:5]}, ": dark "),
        ({"flat": FLAT, "dark": 0.9 * FLAT}, "no ray"),
        ({"flat": FLAT.expand(3, 9)}, "gain"),
        ({"i0": -1.0}, ": i0 "),
        ({"i0": 9.0, "bad": "drop"}, ": bad "),
        ({"i0": 9.0, "bad_pixels": [1, 2]}, "boolean"),
        ({"i0": 9.0, "bad_pixels": [True] * 9}, "no ray"),
        ({"i0": 9.0, "photons_per_count": 0.0}, "photons_per_count"),
    ],
)
def test_what_cannot_be_is_said(args: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part) as caught:
        line_integrals(COUNTS, **args)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("counts", "error", "part"),
    [
        (0 * COUNTS, ValueError, "no ray"),
        (COUNTS[0], ValueError, "n_angles, n_detectors"),
        (COUNTS * torch.inf, ValueError, "finite"),
        (COUNTS > 0, TypeError, "real numbers"),
        (np.array([["a"]]), TypeError, "numbers"),
    ],
)
def test_counts_that_cannot_be(counts: Any, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=part):
        line_integrals(counts, i0=100.0)


def test_simulated_counts_are_poisson_and_seeded() -> None:
    lines = torch.tensor([0.0, 1.0, 3.0], dtype=F64).expand(40_000, 3)
    drawn = simulate_counts(lines, 1000.0, background=5.0, generator=seeded(0))
    expected = 1000 * torch.exp(-lines[0]) + 5
    assert torch.allclose(drawn.mean(0), expected, rtol=0.005)
    assert torch.allclose(drawn.var(0), expected, rtol=0.03)
    assert torch.equal(drawn, simulate_counts(lines, 1000.0, background=5.0, generator=seeded(0)))
    assert not torch.equal(drawn, simulate_counts(lines, 1000.0, background=5.0, generator=seeded(1)))
    assert isinstance(simulate_counts(lines.numpy(), 10.0, generator=seeded(0)), np.ndarray)
    with pytest.raises(ValueError, match="i0"):
        simulate_counts(lines, -1.0, generator=seeded(0))
    with pytest.raises(ValueError, match="background"):
        simulate_counts(lines, 1.0, background=torch.ones(2), generator=seeded(0))


def test_the_logarithm_of_hardly_any_photons_is_bounded() -> None:
    """Read-out noise leaves 0.02 counts of a ray: its logarithm would be an attenuation of its own."""
    flat, dark = 100 + 2000 * torch.ones(40, 8), 100 + 12 * torch.randn(40, 8, generator=seeded(0))
    counts = torch.full((3, 8), 600.0)
    counts[1, 4] = dark.mean(0)[4] + 0.02
    with pytest.warns(UserWarning, match="1 of 24 rays"):
        record = line_integrals(counts, flat, dark, photons_per_count=0.25, zingers="keep")
    assert record.electronic_std == pytest.approx(12, rel=0.2) and (record.n_starved, record.n_clamped) == (0, 1)
    assert float(record.y.max()) == pytest.approx(math.log(2000 / (record.electronic_std / 2)), rel=0.01)


def test_a_scan_of_rows_brings_its_fields_frame_by_frame() -> None:
    """Row 0 sees 100 counts of open beam, row 1 sees 300; both let half of them pass."""
    beam = torch.tensor([100.0, 300.0])
    flat = torch.poisson(beam[:, None, None].expand(2, 50, BINS), generator=seeded(0))
    scan = CtScan(
        y=(beam / 2)[:, None, None].expand(2, 7, BINS).numpy(), angles=np.arange(7.0), kind="counts", flat=flat
    )
    record = line_integrals(scan)
    assert np.allclose(record.y, math.log(2), atol=0.06)
    assert record.photons_per_count == pytest.approx(1, rel=0.1)
    np.testing.assert_array_equal(line_integrals(scan.row(1)).y, line_integrals(scan.row(1).y, scan.row(1).flat).y)
    with pytest.raises(ValueError, match="flat"):
        line_integrals(scan.y, flat[:, 0])
    with pytest.raises(ValueError, match="line integrals"):
        line_integrals(CtScan(y=np.ones((7, 5)), angles=np.arange(7.0), kind="line integrals"))


def test_counts_and_beam_of_different_units_are_noticed() -> None:
    with pytest.raises(ValueError, match="open beam"):
        line_integrals(torch.full((20, 10), 5000.0), i0=100.0)
    with pytest.warns(UserWarning, match="2e-05"):
        line_integrals(torch.full((20, 10), 2.0), i0=1e5)
