"""Scans of known ellipses: line integrals, axis, operator and units, in memory and in a file, whole and by rows."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from scan_files import ANGLES, CENTRE, DEAD_BIN, N_ANGLES, N_BINS, N_ROWS, PIXEL_MM, ellipses, scan_file, truth

from operators import FanBeam, Radon
from pnp.ct import line_integrals
from pnp.ct import prepare_scan as prepare
from pnp.drivers.fingerprint import fingerprint
from pnp.readers import CtScan, read_scan


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return scan_file(tmp_path_factory.mktemp("scan") / "scan.h5")


@pytest.fixture(scope="module")
def prepared(path):
    return prepare(read_scan(path))


def test_line_integrals_are_those_of_the_ellipses_up_to_their_noise(prepared):
    t = (np.arange(N_BINS) - CENTRE) * PIXEL_MM
    exact = np.stack([sum(e.sinogram(ANGLES, t, PIXEL_MM) for e in ellipses(k)) for k in range(N_ROWS)])[:, None]
    assert prepared.y.shape == prepared.noise_std.shape == (N_ROWS, 1, N_ANGLES, N_BINS)
    seen = np.isfinite(prepared.noise_std)
    assert not seen[..., DEAD_BIN].any() and seen.mean() > 0.97
    pulls = ((prepared.y - exact) / prepared.noise_std)[seen]
    assert abs(pulls.std() - 1) < 0.05


def test_axis_units_and_operator(prepared):
    assert prepared.centre == pytest.approx([CENTRE] * N_ROWS, abs=0.1)
    assert prepared.unit == "1/mm" and prepared.pixel_size == pytest.approx(PIXEL_MM)
    assert prepared.voxel_size_mm == pytest.approx((PIXEL_MM,) * 3) and prepared.rows == range(N_ROWS)
    A = prepared.operator
    assert isinstance(A, Radon) and A.shape == (N_BINS, N_BINS)
    y = torch.from_numpy(prepared.y[1:2])
    image, wanted = A.fbp(y, window="hann")[0, 0].numpy(), truth(1)
    flat = wanted == np.float64(0.9)
    assert image[flat].mean() == pytest.approx(0.9, rel=0.02)
    # The same views from the true image, per mm.
    projected = A.A(torch.from_numpy(wanted)[None, None].float())
    assert float((projected - y).abs().max()) < 0.1


def test_steps_say_what_was_found(prepared):
    text = " ".join(prepared.steps)
    for part in ("3 of 3 detector rows", "5 flats and 5 darks", "3 of 192", "bin 29.", "1/mm"):
        assert part in text, (part, text)


@pytest.mark.parametrize("block_bytes", [1, 2**30])
def test_a_file_holds_what_memory_does(path, prepared, block_bytes, tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules["pnp.ct.scan_rows"], "_BLOCK_BYTES", block_bytes)
    kept = prepare(partial(read_scan, path), working_file=tmp_path / "work.h5")
    with h5py.File(kept.y) as file:
        np.testing.assert_array_equal(file["measurements"], prepared.y)
        np.testing.assert_array_equal(file["noise_std"], prepared.noise_std)
    assert kept.noise_std == f"{kept.y}::noise_std" and kept.steps == prepared.steps
    assert repr(kept.operator) == repr(prepared.operator)


def test_rows_are_read_alone_and_a_finished_file_is_used_again(path, tmp_path):
    asked = []

    def read(rows=None):
        asked.append(rows)
        return read_scan(path, rows=rows)

    first = prepare(read, rows=slice(1, 3), working_file=tmp_path / "work.h5")
    assert all(part is not None and (part.start, part.stop) != (0, 3) for part in asked) and first.rows == range(1, 3)
    before, n = (tmp_path / "work.h5").stat().st_mtime_ns, len(asked)
    again = prepare(read, rows=slice(1, 3), working_file=tmp_path / "work.h5")
    assert (tmp_path / "work.h5").stat().st_mtime_ns == before and len(asked) - n < n
    assert again.steps == first.steps and repr(again.operator) == repr(first.operator)
    other = prepare(read, rows=slice(0, 2), working_file=tmp_path / "work.h5")
    assert (tmp_path / "work.h5").stat().st_mtime_ns != before and other.rows == range(2)


@pytest.mark.parametrize("drift", [0.0, 2.0])
def test_a_tilted_axis_is_found_in_every_row(drift):
    """Twenty rows; three of them are air, which shows no axis."""
    rng, rows = np.random.default_rng(3), np.arange(20)
    axes = 30.0 + drift * rows / 19
    y = np.empty((20, N_ANGLES, N_BINS))
    for k in rows:
        t = (np.arange(N_BINS) - axes[k]) * PIXEL_MM
        y[k] = 0 if k in (0, 7, 19) else sum(e.sinogram(ANGLES, t, PIXEL_MM) for e in ellipses(k % 5))
    y += 0.01 * rng.standard_normal(y.shape)
    prepared = prepare(CtScan(y=y, angles=ANGLES, kind="line integrals", pitch_mm=PIXEL_MM))
    assert prepared.centre == pytest.approx(axes, abs=0.1)
    assert (len(set(prepared.centre)) == 1) == (drift == 0) and ("tilted" in prepared.steps[2]) == (drift > 0)
    assert hasattr(prepared.operator, "A") == (drift == 0)


def test_zingers_and_starved_rays_are_counted(tmp_path):
    scan = read_scan(scan_file(tmp_path / "scan.h5"))
    y = scan.y.copy()
    y[1, 20, 30] = 60000
    y[2, 50, 20:22] = 0
    text = " ".join(prepare(replace(scan, y=y)).steps)
    assert "1 of 18432 (0.0054 %) rays are zingers" in text and "rays have no counts" in text


def test_axes_that_differ_by_row_make_an_operator_for_each(path):
    prepared = prepare(read_scan(path), centre=[29.0, 29.5, 30.0])
    offsets = [float(prepared.operator(k).offset) for k in range(N_ROWS)]
    assert offsets == pytest.approx([PIXEL_MM * (31.5 - c) for c in (29.0, 29.5, 30.0)])
    # Workers get a copy, and a run resumes with the same operators only.
    copy = pickle.loads(pickle.dumps(prepared.operator))
    assert fingerprint(copy) == fingerprint(prepared.operator) and repr(copy(2)) == repr(prepared.operator(2))
    assert fingerprint(prepare(read_scan(path), centre=[29.0, 29.5, 30.1]).operator) != fingerprint(copy)


def test_a_scan_without_lengths_has_no_millimetres(path):
    scan = replace(read_scan(path), pitch_mm=None, pixel_size_mm=None)
    prepared = prepare(scan, centre=CENTRE)
    assert (prepared.unit, prepared.pixel_size, prepared.voxel_size_mm) == ("1/pixel", 1.0, None)
    assert "states no length" in " ".join(prepared.steps)


def test_line_integrals_pass_with_an_unknown_noise(prepared):
    scan = CtScan(y=prepared.y[0, 0], angles=ANGLES, kind="line integrals", pitch_mm=PIXEL_MM)
    one = prepare(scan)
    np.testing.assert_array_equal(one.y, prepared.y[:1])
    assert one.noise_std is None and one.centre == pytest.approx([CENTRE], abs=0.1)


def test_an_axis_far_off_the_middle_enlarges_the_image():
    """Half acquisition over a full turn: the image is what the farther end sees."""
    angles, t = np.arange(180) * 2 * np.pi / 180, np.arange(64) - 12.0
    y = sum(e.scaled(1.4 / PIXEL_MM).sinogram(angles, t, 1.0) for e in ellipses(0)) / 50
    prepared = prepare(CtScan(y=y, angles=angles, kind="line integrals"), search=(8, 16))
    assert prepared.centre == pytest.approx([12.0], abs=0.1) and prepared.operator.shape == (104, 104)


def test_an_image_holds_what_the_detector_truncates(tmp_path):
    """The middle 40 of 64 bins see a part of the object; a file that is used again has the same image."""
    t = (np.arange(40) - 19.5) * PIXEL_MM
    y = sum(e.sinogram(ANGLES, t, PIXEL_MM) for e in ellipses(0))
    scan = CtScan(y=y, angles=ANGLES, kind="line integrals", pitch_mm=PIXEL_MM)
    with pytest.warns(UserWarning, match="beyond"):
        prepared = prepare(scan, centre=19.5, working_file=tmp_path / "work.h5")
    assert 48 <= prepared.operator.shape[0] <= 72
    with pytest.warns(UserWarning, match="beyond"):
        again = prepare(scan, centre=19.5, working_file=tmp_path / "work.h5")
    assert again.operator.shape == prepared.operator.shape


def fan(n_rows=1, n_angles=90, span=2 * np.pi, shift=0.0):
    """Return a scan by a fan beam, 0.1 mm a bin at the detector, whose axis is `shift` bins off the middle."""
    angles = np.arange(n_angles) * span / n_angles
    u = (np.arange(96) - 47.5 - shift) * 0.1
    sinogram = sum(e.scaled(4.0).fan_sinogram(angles, u, 0.1, 40.0, 60.0) for e in ellipses(0))
    lengths = {"source_origin_mm": 40.0, "origin_detector_mm": 20.0, "pitch_mm": 0.1}
    return CtScan(y=np.repeat(sinogram[None], n_rows, 0), angles=angles, kind="line integrals", **lengths)


def test_a_fan_beam_has_its_axis_from_opposite_rays():
    prepared = prepare(fan(shift=1.5))
    assert isinstance(prepared.operator, FanBeam) and prepared.unit == "1/mm"
    assert prepared.centre == pytest.approx([49.0], abs=0.1)
    assert prepared.pixel_size == pytest.approx(0.1 * 40 / 60)
    short = fan(span=np.pi / 2)
    assert prepare(short).centre == [47.5]
    assert prepare(replace(short, facts={"offset_mm": 0.3})).centre == pytest.approx([44.5])


def test_an_image_of_other_pixels_covers_the_same_field():
    prepared = prepare(fan(), pixel_size=2 * 0.1 * 40 / 60, centre=47.5)
    assert prepared.operator.shape == (48, 48) and prepare(fan(), size=50, centre=47.5).operator.shape == (50, 50)


def test_rows_of_a_cone_beam_far_from_its_plane_are_refused():
    scan = fan(n_rows=40)  # half the detector is 3.2 mm at the axis, the source 40 mm away: 12.5 rows
    with pytest.raises(ValueError, match="rows") as caught:
        prepare(scan, centre=47.5)
    assert "7..32" in str(caught.value) and len(str(caught.value)) < 400
    assert prepare(scan, rows=slice(7, 33), centre=47.5).rows == range(7, 33)
    lower = replace(scan, facts={"middle_row": 25.0})
    assert prepare(lower, rows=slice(13, 38), centre=47.5).rows == range(13, 38)


def test_rows_in_memory_keep_their_place_on_the_detector():
    facts = {"rows": (2000, 2041, 2), "middle_row": 1024.0}
    scan = replace(fan(n_rows=21), facts=facts)
    for one in (scan, scan.row(3)):
        with pytest.raises(ValueError, match=r"rows must be within 1012\.\.1036"):
            prepare(one, centre=47.5)
    near = prepare(replace(scan, facts=facts | {"middle_row": 2020.0}), rows=slice(4, 17, 4), centre=47.5)
    assert near.rows == range(2008, 2034, 8) and near.voxel_size_mm[0] == pytest.approx(8 * 0.1 * 40 / 60)


def test_the_noise_of_fractions_of_full_scale_is_fitted_row_by_row():
    rng, n = np.random.default_rng(0), 64
    through = np.exp(-2 * np.sqrt(np.clip(1 - ((np.arange(n) - 31.5) / 26) ** 2, 0, None)))
    counts = rng.poisson(np.tile(1e4 * through, (2, N_ANGLES, 1))) / 1e4
    scan = CtScan(y=counts, angles=ANGLES, kind="counts", flat=np.ones((2, 1, n)))
    prepared = prepare(scan, centre=31.5)
    for k in range(2):
        np.testing.assert_array_equal(prepared.noise_std[k, 0], line_integrals(scan.row(k)).noise_std)


def test_warnings_of_rows_come_once_with_their_rows(path, monkeypatch):
    import sys

    module = sys.modules["pnp.ct.prepare_scan"]
    convert, seen = module._converted, []

    def converted(scan, i0, gain):
        seen.append(1)
        if len(seen) in (4, 6):  # rows 0 and 2; the first three calls are for the axis
            warnings.warn(f"{len(seen)} flats are odd", UserWarning, stacklevel=2)
        return convert(scan, i0, gain)

    monkeypatch.setattr(module, "_converted", converted)
    with pytest.warns(UserWarning) as caught:
        prepare(read_scan(path))
    assert [str(w.message) for w in caught] == ["prepare_scan: rows 0, 2: 4 flats are odd"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rows", {"rows": slice(2, 9)}),
        ("rows", {"rows": 1}),
        ("centre", {"centre": [29.0, 30.0]}),
        ("centre", {"centre": 500.0}),
        ("centre", {"centre": float("nan")}),
        ("size", {"size": 0}),
        ("pixel_size", {"pixel_size": -1.0}),
        ("search", {"search": (40, 20)}),
        ("i0", {"i0": -5.0}),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(path, name, options):
    with pytest.raises((ValueError, TypeError), match=name) as caught:
        prepare(read_scan(path), **options)
    assert len(str(caught.value)) < 400


def test_a_file_that_holds_something_else_is_not_touched(path, tmp_path):
    for name, content in (("text.h5", b"mine"), ("scan.h5", path.read_bytes())):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="working_file"):
            prepare(read_scan(path), working_file=tmp_path / name)
        assert (tmp_path / name).read_bytes() == content


def test_a_scan_must_be_a_scan():
    with pytest.raises(TypeError, match="scan"):
        prepare(SimpleNamespace(y=1))


def test_warnings_are_kept_with_the_file(path, tmp_path):
    scan = read_scan(path)
    scan.flat[1, 2] *= 0.01
    for _ in range(2):
        with pytest.warns(UserWarning, match="row 1: .*flat") as caught:
            prepared = prepare(scan, working_file=tmp_path / "work.h5")
        assert [str(w.message) for w in caught] == [f"prepare_scan: {sentence}" for sentence in prepared.warnings]
        assert caught[0].filename == __file__


def test_warnings_of_the_reader_come_once(path, tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules["pnp.ct.scan_rows"], "_BLOCK_BYTES", 1)

    def read(rows=None):
        warnings.warn("a view is missing", UserWarning, stacklevel=2)
        return read_scan(path, rows=rows)

    for _ in range(2):
        with pytest.warns(UserWarning) as caught:
            prepared = prepare(read, working_file=tmp_path / "work.h5")
        assert [str(w.message) for w in caught] == ["prepare_scan: a view is missing"]
        assert prepared.warnings == ("a view is missing",)


def test_an_error_comes_with_the_warnings_before_it(path):
    scan = read_scan(path)
    scan.flat[0, 2] *= 0.01
    scan.y[2] *= 3
    with pytest.warns(UserWarning, match="flat"), pytest.raises(ValueError, match="row 2"):
        prepare(scan)


DEAD = {
    "no counts": {"y": 0},
    "no beam": {"y": 0, "flat": 0},
    "nothing": {"y": 0, "flat": 0, "dark": 0},
    "a constant": {"y": 117, "flat": 117, "dark": 117},
}


@pytest.mark.parametrize("what", DEAD)
@pytest.mark.parametrize("k", range(N_ROWS))
def test_a_dead_row_gets_no_weight_and_the_others_stay_the_same(path, prepared, k, what, tmp_path):
    scan = read_scan(path)
    for name, value in DEAD[what].items():
        getattr(scan, name)[k] = value
    working = tmp_path / "work.h5"
    for _ in range(2):  # the second time from the file
        with pytest.warns(UserWarning, match=f"row {k}: .*measured nothing"):
            found = prepare(scan, centre=float(prepared.centre[0]), working_file=working)
        assert found.unmeasured == (k,)
        assert any(f"1 of {N_ROWS} rows measured nothing and were given no weight: {k}." in s for s in found.steps)
    with h5py.File(working) as file:
        y, noise_std = file["measurements"][:], file["noise_std"][:]
    assert (y[k] == 0).all() and np.isinf(noise_std[k]).all()
    others = [row for row in range(N_ROWS) if row != k]
    assert np.isfinite(noise_std[others]).mean() > 0.97
    np.testing.assert_array_equal(y[others], prepared.y[others])
    assert prepare(replace(scan, y=scan.y[others], flat=scan.flat[others], dark=scan.dark[others])).unmeasured == ()


def test_the_axis_is_found_beside_a_dead_row(path, prepared):
    scan = read_scan(path)
    scan.y[1] = 0
    with pytest.warns(UserWarning, match="row 1"):
        assert prepare(scan).centre == pytest.approx(prepared.centre, abs=0.1)


def test_a_scan_without_any_counts_is_refused(path):
    scan = read_scan(path)
    with pytest.raises(ValueError, match="row 0: "):
        prepare(replace(scan, y=0 * scan.y))
    with pytest.raises(ValueError, match="no ray has counts"):
        prepare(replace(scan, y=0 * scan.y), rows=slice(1, 2))


def transmissions():
    """Transmissions of the ellipses with noise of 0.005, in a scan that takes them for counts."""
    t = (np.arange(N_BINS) - CENTRE) * PIXEL_MM
    exact = np.stack([sum(e.sinogram(ANGLES, t, PIXEL_MM) for e in ellipses(k)) for k in range(N_ROWS)])
    values = np.exp(-exact) + 0.005 * np.random.default_rng(0).standard_normal(exact.shape)
    return CtScan(values, ANGLES, "counts", pitch_mm=PIXEL_MM)


@pytest.mark.parametrize("n_flats", [0, 1, 3])
def test_a_beam_of_one_makes_transmissions_of_fractions(n_flats):
    """By i0, one averaged flat, or copies of it with darks of 0: the noise is fitted alike."""
    scan = transmissions()
    wanted = prepare(replace(scan, kind="transmissions"))
    assert 0.8 * 0.005 < np.median(wanted.noise_std * np.exp(-wanted.y)) < 1.2 * 0.005
    if n_flats:
        flat = np.ones((N_ROWS, n_flats, N_BINS))
        found = prepare(replace(scan, flat=flat, dark=None if n_flats == 1 else 0 * flat))
    else:
        found = prepare(scan, i0=1.0)
    np.testing.assert_array_equal(found.y, wanted.y)
    np.testing.assert_array_equal(found.noise_std, wanted.noise_std)
    assert found.steps[1] == wanted.steps[1] and "of 0.0049 where" in wanted.steps[1]


def test_scans_without_flats_are_asked_what_they_hold():
    scan = transmissions()
    with pytest.raises(ValueError, match=r"transmissions.*kind='transmissions'.*i0=") as fractions:
        prepare(scan)
    with pytest.raises(ValueError, match=r"i0=.*kind='line integrals'") as counts:
        prepare(replace(scan, y=(1e4 * scan.y).round()))
    assert max(len(str(error.value)) for error in (fractions, counts)) < 400


def test_the_dark_is_subtracted_from_counts_and_from_the_given_beam(path):
    scan = read_scan(path)
    found = prepare(replace(scan, flat=None), i0=21000, centre=CENTRE)
    dark = scan.dark.mean(-2, keepdims=True)
    seen = np.isfinite(found.noise_std[:, 0])
    seen[..., DEAD_BIN] = False
    wanted = np.log((21000 - dark) / np.maximum(scan.y - dark, 1))
    np.testing.assert_allclose(found.y[:, 0][seen], wanted[seen], atol=1e-3)
    assert "5 darks" in found.steps[0]
