"""`CtScan`: axes, views, rows, wider bins, times, and the operator of its geometry."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from reader_files import N_ANGLES, N_BINS, N_ROWS, refused

from operators import FanBeam, Radon
from pnp.ct import line_integrals
from pnp.readers import (
    CtScan,
)


def a_scan(**changes):
    y = np.arange(N_ROWS * N_ANGLES * N_BINS).reshape(N_ROWS, N_ANGLES, N_BINS)
    fields = {"y": y, "angles": np.arange(N_ANGLES) * 0.5, "kind": "counts", "flat": y[:, 0]} | changes
    return CtScan(**fields)


def test_scan_of_counts_names_what_converts_them():
    said = refused(a_scan().tensors)
    assert "kind" in said and "pnp.ct.line_integrals(scan)" in said and "Transmission" in said


def test_the_image_of_a_truncated_scan_holds_the_object():
    """A disc of 40 mm on a detector of 24 mm, with bins of 0.5 mm; and one of 20 mm."""
    angles, t = np.arange(60) * (np.pi / 60), (np.arange(48) - 23.5) * 0.5

    def disc(radius, **changes):
        y = np.tile(2 * np.sqrt(np.clip(radius**2 - t**2, 0, None)), (60, 1))
        return CtScan(y=y, angles=angles, kind="line integrals", pitch_mm=0.5, **changes)

    assert disc(10).geometry()["shape"] == (48, 48)
    with pytest.warns(UserWarning, match="crop_to_view"):
        A = disc(20).operator()
    assert A.shape == (84, 84)  # 80 pixels and 5 %
    x = A.fbp(disc(20).tensors()[0])
    view = disc(20).crop_to_view(x)
    assert view.shape == (1, 1, 48, 48) and abs(float(view[..., 12:36, 12:36].mean()) - 1) < 0.01
    assert disc(20).crop_to_view(x.numpy(), pixel_size=1.0).shape == (1, 1, 24, 24)
    assert disc(20).geometry((50, 50))["shape"] == (50, 50)
    assert disc(20, flat=np.ones(48)).row(0).geometry((48, 48))["n_detectors"] == 48
    counts = CtScan(y=disc(20).y, angles=angles, kind="counts")
    assert counts.geometry()["shape"] == (48, 48)
    # The source stays outside.
    with pytest.warns(UserWarning, match="crop_to_view"):
        fan = disc(20, source_origin_mm=22.0, origin_detector_mm=0.0).operator()
    assert 48 < fan.shape[0] <= 58


def test_tensors_are_copies():
    y = np.ones((N_ANGLES, N_BINS), np.float32)
    y.flags.writeable = False
    scan = a_scan(y=y, kind="line integrals", flat=None)
    record = line_integrals(a_scan(y=100 * y, flat=200 * y[0]))
    record.y.flags.writeable = False
    as_torch = line_integrals(torch.full((N_ANGLES, N_BINS), 100.0), i0=200.0)
    for taken_from in (scan, record, as_torch):
        before = taken_from.y.tolist()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            taken = taken_from.tensors()
        for t in taken:
            if t is not None:
                t += 1
        assert taken_from.y.tolist() == before


def test_scan_gives_rows_and_views():
    scan = a_scan()
    assert scan.y.dtype == np.float32 and scan.angles.dtype == np.float64
    row = scan.row(2)
    np.testing.assert_array_equal(row.y, scan.y[2])
    np.testing.assert_array_equal(row.flat, scan.flat[2])
    assert scan.flat.shape == (N_ROWS, 1, N_BINS)
    assert row.dark is None and row.row(0) is row
    for which in (slice(1, 4), [1, 2, 3], np.array([0, 1, 1, 1, 0, 0], bool)):
        some = scan.subset(which)
        np.testing.assert_array_equal(some.y, scan.y[:, 1:4])
        np.testing.assert_array_equal(some.angles, scan.angles[1:4])
        assert some.flat is not None and some.row(0).y.shape == (3, N_BINS)


def test_scan_with_wider_bins():
    scan = a_scan(source_origin_mm=400.0, origin_detector_mm=150.0, pitch_mm=0.2, pixel_size_mm=0.1)
    wide = scan.binned(N_BINS)
    np.testing.assert_allclose(wide.y[..., 0], scan.y.sum(-1), rtol=1e-6)  # counts
    np.testing.assert_allclose(wide.flat[..., 0], scan.flat.sum(-1), rtol=1e-6)
    integrals = a_scan(kind="line integrals").binned(N_BINS)
    np.testing.assert_allclose(integrals.y[..., 0], scan.y.mean(-1), rtol=1e-6)
    assert wide.geometry()["pitch"] == pytest.approx(0.2 * N_BINS) and wide.geometry()["n_detectors"] == 1
    assert wide.pixel_size_mm == pytest.approx(0.1 * N_BINS)
    np.testing.assert_array_equal(scan.binned(1).y, scan.y)
    for n in (0, N_BINS + 1, 1.5, True):
        with pytest.raises(ValueError, match=": n "):
            scan.binned(n)


def test_scan_gives_the_operator_of_its_geometry():
    """Without lengths a bin is the unit; with them a pixel is a bin, scaled to the axis of a fan."""
    bins = a_scan().operator()
    assert isinstance(bins, Radon) and bins.shape == (N_BINS, N_BINS)
    assert (bins.pitch, bins.pixel_size, float(bins.offset)) == (1, 1, 0)
    parallel = a_scan(pitch_mm=0.2).operator((8, 6), offset=0.3)
    assert (parallel.shape, parallel.pitch, parallel.pixel_size) == ((8, 6), 0.2, 0.2)
    assert float(parallel.offset) == pytest.approx(0.3)
    fan = a_scan(source_origin_mm=300.0, origin_detector_mm=100.0, pitch_mm=0.2)
    assert isinstance(fan.operator(), FanBeam) and fan.operator().pixel_size == pytest.approx(0.15)
    assert fan.operator(pixel_size=0.4).pixel_size == 0.4
    again = FanBeam(**fan.geometry((8, 8)))
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.A(x), fan.operator((8, 8)).A(x), rtol=0, atol=0)


def test_scan_notices_degrees():
    with pytest.warns(UserWarning, match="angles .*deg2rad"):
        a_scan(angles=np.arange(N_ANGLES) * 30.0)


@pytest.mark.parametrize(
    "which", [slice(4, 4), [], [N_ANGLES], [[0, 1]], np.zeros(N_ANGLES, bool), [True], slice(0, N_ANGLES + 1)]
)
def test_scan_refuses_to_keep_no_view(which):
    assert "which" in refused(a_scan().subset, which)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"y": np.ones((N_BINS, N_ANGLES)), "flat": None}, "transposed"),
        ({"y": np.ones((N_ANGLES, N_ROWS, N_BINS)), "flat": None}, "np.moveaxis"),
        ({"y": np.ones((4, N_BINS)), "flat": None}, "angle"),
        ({"y": np.ones(N_BINS), "flat": None}, "(n_angles, n_detectors)"),
        ({"y": np.full((N_ANGLES, 2), np.nan), "flat": None}, "12 NaN"),
        ({"y": np.ones((N_ANGLES, 2), complex), "flat": None}, "complex128"),
        ({"y": np.full((N_ANGLES, 2), {}, object), "flat": None}, "object"),
        ({"y": np.full((N_ANGLES, 2), 1e300), "flat": None}, "float32's range"),
        ({"angles": np.full(N_ANGLES, math.inf)}, ": angles "),
        ({"angles": np.zeros((2, 3))}, ": angles "),
        ({"kind": "photons"}, ": kind "),
        ({"dark": np.ones(N_BINS)}, ": dark "),
        ({"source_origin_mm": 1.0}, "fan beam"),
        ({"path": "a.mat", "kind": ""}, "a.mat: kind"),
    ],
)
def test_scan_refuses(changes, part):
    assert part in refused(a_scan, **changes)


def test_scan_has_no_fourth_row():
    assert ": k " in refused(a_scan().row, 3)


def test_times_follow_views_rows_and_bins():
    flat = np.ones((N_ROWS, 3, N_BINS))
    scan = a_scan(times=np.arange(N_ANGLES) + 3, flat=flat, flat_times=[0, 1, 90], dark=flat, dark_times=(1, 2, 3))
    assert scan.times.dtype == scan.flat_times.dtype == scan.dark_times.dtype == np.float64
    assert scan.subset(slice(1, 4)).times.tolist() == [4, 5, 6]
    assert scan.subset([2, 0]).times.tolist() == [5, 3] and scan.subset([2, 0]).flat_times.tolist() == [0, 1, 90]
    for other in (scan.row(1), scan.binned(N_BINS)):
        assert other.times.tolist() == scan.times.tolist() and other.flat_times.tolist() == [0, 1, 90]


def test_times_that_do_not_match_are_refused():
    for changes, part in (
        ({"times": [1.0]}, "times"),
        ({"times": [np.nan] * N_ANGLES}, "times"),
        ({"times": range(N_ANGLES), "flat_times": [1, 2]}, "flat_times"),
        ({"times": range(N_ANGLES), "dark_times": [1]}, "dark_times"),
        ({"flat_times": [1]}, "flat_times"),
    ):
        with pytest.raises(ValueError, match=part) as caught:
            a_scan(**changes)
        assert len(str(caught.value)) < 400
