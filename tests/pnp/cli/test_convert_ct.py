"""`pnp convert` of a raw CT scan: line integrals, noise, axis, and the filters on the way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from command import run
from numpy.typing import NDArray
from radon_truth import Ellipse, half_turn
from reader_files import write_dx

from pnp.ct import (
    correct_beam_hardening,
    find_centre,
    line_integrals,
    paganin_filter,
    prepare_scan,
    remove_stripes,
)
from pnp.io import read_measurements
from pnp.readers import read_dxchange

VIEWS, ROWS, BINS, I0, DARK, CENTRE, PIXEL_MM = 90, 6, 80, 20000, 100, 37.0, 0.5
OBJECT = [Ellipse(0.02, 24, 16, 3, -4, 0.4), Ellipse(-0.02, 5, 5, 8, -2, 0)]
HARDENING = (1.0, 0.06)


def truth() -> NDArray[np.float64]:
    """Line integrals (n_angles, n_detectors), without hardening."""
    found: NDArray[np.float64] = 3 * np.sum(
        [e.sinogram(half_turn(VIEWS), np.arange(BINS) - CENTRE, 1.0) for e in OBJECT], 0
    )
    return found


def hardened(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of y_c = y + c y^2."""
    c = HARDENING[1]
    return (np.sqrt(1 + 4 * c * y) - 1) / (2 * c)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A Data Exchange file of counts, of which a bin is off by 3 %."""
    rng = np.random.default_rng(0)
    expected = I0 * np.exp(-hardened(truth()))
    expected[:, 30] *= 0.97
    data = rng.poisson(np.repeat(expected[:, None], ROWS, 1)) + DARK
    white = rng.poisson(np.full((20, ROWS, BINS), I0)) + DARK
    theta = np.degrees(half_turn(VIEWS))
    path: Path = write_dx(
        tmp_path / "scan.h5", data=data.astype(np.uint16), theta=theta, data_white=white.astype(np.uint16),
        data_dark=np.full((3, ROWS, BINS), DARK, np.uint16),
    )  # fmt: skip
    return path


def converted(monkeypatch: pytest.MonkeyPatch, scan: Path, *options: Any) -> Any:
    output = scan.with_name("y.h5")
    assert run(monkeypatch, "convert", scan, "-o", output, "--overwrite", *options) == 0
    return read_measurements(output)


def test_line_integrals_noise_and_axis(
    monkeypatch: pytest.MonkeyPatch, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = converted(monkeypatch, scan, "--rows", "1:4", "--pixel-size", PIXEL_MM)
    said = capsys.readouterr().out
    assert f"3 rows of {VIEWS} views of {BINS} bins" in said and "axis of rotation is at bin 37" in said
    assert data.operator == "radon" and data.y.shape == data.noise_std.shape == (3, 1, VIEWS, BINS)
    record = line_integrals(read_dxchange(scan, rows=slice(1, 4)))
    np.testing.assert_array_equal(data.y[:, 0], record.y)
    np.testing.assert_allclose(data.noise_std[:, 0], record.noise_std, rtol=0.05)
    prepared = prepare_scan(read_dxchange(scan, rows=slice(1, 4), pixel_size_mm=PIXEL_MM))
    np.testing.assert_array_equal(data.noise_std, prepared.noise_std)
    assert data.parameters["offset"] == float(prepared.operator.offset)
    assert data.parameters["offset"] == pytest.approx(PIXEL_MM * ((BINS - 1) / 2 - CENTRE), abs=0.2 * PIXEL_MM)
    assert data.parameters["pixel_size"] == data.parameters["pitch"] == PIXEL_MM
    np.testing.assert_allclose(data.parameters["angles"], half_turn(VIEWS))
    data = converted(monkeypatch, scan, "--centre", 36.5, "--rows", "0:1")
    assert data.parameters["offset"] == pytest.approx(3.0) and "as given" in capsys.readouterr().out
    volume = scan.with_name("x.h5")
    arguments = ("reconstruct", scan.with_name("y.h5"), "-o", volume, "--denoiser", "tv", "--max-iter", 2)
    assert run(monkeypatch, *arguments) == 0


def test_beam_hardening_fitted_and_given(
    monkeypatch: pytest.MonkeyPatch, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = converted(monkeypatch, scan, "--beam-hardening", "fit")
    assert "hardening was corrected by 1," in capsys.readouterr().out
    seen = np.delete(np.arange(BINS), 30)
    wanted = truth()
    assert np.abs(data.y.mean((0, 1)) - wanted)[:, seen].mean() < 0.04 * wanted.max()
    given = ",".join(map(str, HARDENING))
    data = converted(monkeypatch, scan, "--beam-hardening", given)
    plain = line_integrals(read_dxchange(scan))
    y, noise_std = correct_beam_hardening(plain.y, plain.noise_std, coefficients=HARDENING)
    np.testing.assert_allclose(data.y[:, 0], y, rtol=1e-6)
    np.testing.assert_allclose(data.noise_std[:, 0], noise_std, rtol=0.05)
    assert np.abs(data.y.mean((0, 1)) - wanted)[:, seen].mean() < 0.005 * wanted.max()


def test_a_fit_of_beam_hardening_in_doubt_is_refused(
    monkeypatch: pytest.MonkeyPatch, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The object reaches beyond the detector."""
    with h5py.File(scan, "a") as file:
        for name in ("data", "data_white", "data_dark"):
            frames = file[f"exchange/{name}"][..., 18:56]
            del file[f"exchange/{name}"]
            file[f"exchange/{name}"] = frames
    output = scan.with_name("y.h5")
    assert run(monkeypatch, "convert", scan, "-o", output, "--centre", CENTRE - 18, "--beam-hardening", "fit") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("pnp: --beam-hardening") and len(said) < 400 and not output.exists()


def test_an_image_holds_what_half_an_acquisition_sees(monkeypatch: pytest.MonkeyPatch, scan: Path) -> None:
    data = converted(monkeypatch, scan, "--centre", 20)
    assert data.parameters["shape"] == (120, 120)  # the far end, 59.5 bins, on both sides


def test_a_tilted_axis_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.arange(20)
    views = [sum(e.sinogram(half_turn(VIEWS), np.arange(BINS) - CENTRE - 0.2 * k, 1.0) for e in OBJECT) for k in rows]
    counts = np.random.default_rng(0).poisson(I0 * np.exp(-3 * np.stack(views, 1)))
    scan = write_dx(
        tmp_path / "scan.h5", data=counts.astype(np.uint16), theta=np.degrees(half_turn(VIEWS)),
        data_white=np.full((1, len(rows), BINS), I0, np.uint16),
    )  # fmt: skip
    data = converted(monkeypatch, scan)
    assert data.parameters["offset"] == pytest.approx((BINS - 1) / 2 - CENTRE - 2, abs=0.3)
    assert "tilted" in capsys.readouterr().err


def test_views_in_any_order_are_filtered_in_that_of_their_angles(monkeypatch: pytest.MonkeyPatch, scan: Path) -> None:
    pytest.importorskip("algotom")
    straight = converted(monkeypatch, scan, "--rings", "sorting", "--rows", "0:2", "--centre", CENTRE)
    order = np.random.default_rng(0).permutation(VIEWS)
    with h5py.File(scan, "a") as file:
        for name in ("data", "theta"):
            file[f"exchange/{name}"][:] = file[f"exchange/{name}"][:][order]
    mixed = converted(monkeypatch, scan, "--rings", "sorting", "--rows", "0:2", "--centre", CENTRE)
    np.testing.assert_allclose(mixed.y, straight.y[:, :, order], atol=1e-6)


def test_rings(monkeypatch: pytest.MonkeyPatch, scan: Path) -> None:
    pytest.importorskip("algotom")
    data = converted(monkeypatch, scan, "--rings", "sorting", "--rows", "0:2")
    plain = line_integrals(read_dxchange(scan, rows=slice(0, 2)))
    np.testing.assert_array_equal(data.y[:, 0], remove_stripes(plain.y, "sorting"))
    np.testing.assert_allclose(data.noise_std[:, 0], plain.noise_std, rtol=0.05)


def test_paganin(monkeypatch: pytest.MonkeyPatch, scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--paganin", 20000, "--distance", 4000, "--energy", 20)
    data = converted(monkeypatch, scan, *settings, "--pixel-size", 0.5)
    plain = line_integrals(read_dxchange(scan)).y
    want = paganin_filter(
        np.exp(-np.moveaxis(plain, 0, 1)), pixel_size_mm=0.5, distance_mm=4000, energy_kev=20, delta_beta=20000
    )
    np.testing.assert_allclose(data.y[:, 0], np.moveaxis(want, 1, 0), atol=1e-5)
    assert data.noise_std is None and data.y[:, 0, 0].std() < plain[:, 0].std()
    with h5py.File(scan, "a") as file:
        file["measurement/instrument/detector/actual_pixel_size_x"] = 0.5e-3
    assert run(monkeypatch, "convert", scan, "-o", scan.with_name("z.h5"), *settings) == 2
    assert "--pixel-size" in capsys.readouterr().err  # no unit
    with h5py.File(scan, "a") as file:
        file["measurement/instrument/detector/actual_pixel_size_x"].attrs["units"] = "m"
    np.testing.assert_array_equal(converted(monkeypatch, scan, *settings).y, data.y)
    assert find_centre(data.y, half_turn(VIEWS)) == pytest.approx(CENTRE, abs=0.5)


def test_refused(monkeypatch: pytest.MonkeyPatch, scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paganin = ("--paganin", 1000, "--distance", 10)
    header = scan.with_name("a.h00")
    header.write_text("!INTERFILE :=\n")
    converted(monkeypatch, scan)
    converted_already = scan.with_name("y.h5")
    picture = scan.with_name("a.tif")
    picture.write_bytes(b"II*\0" + bytes(100))
    for path, part, *options in [
        (scan, "--rows", "--rows", "a:b"),
        (scan, "rows", "--rows", "1:100"),
        (scan, "--beam-hardening", "--beam-hardening", "linear"),
        (scan, "--energy", *paganin),
        (scan, "--paganin", "--distance", 10),
        (scan, "--pixel-size", *paganin, "--energy", 20),
        (scan, "--rows", *paganin, "--energy", 20, "--pixel-size", 1, "--rows", "0:1"),
        (scan, "--centre", "--centre", 1000),
        (scan, "method", "--rings", "none"),
        (scan, "SPECT", "--photopeak", 1),
        (header, "--rings", "--rings", "all"),
        (picture, "angles"),
        (converted_already, "pnp reconstruct"),
    ]:
        assert run(monkeypatch, "convert", path, "-o", scan.with_name("z.h5"), *options) == 2
        assert part in (said := capsys.readouterr().err) and len(said) < 400, said
    assert not scan.with_name("z.h5").exists()
    with h5py.File(scan, "a") as file:
        del file["exchange/data_white"]
    assert run(monkeypatch, "convert", scan, "-o", scan.with_name("z.h5")) == 2
    assert "flats" in capsys.readouterr().err


def test_the_message_where_algotom_is_absent(
    monkeypatch: pytest.MonkeyPatch, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "algotom.prep.removal", None)
    assert run(monkeypatch, "convert", scan, "-o", scan.with_name("z.h5"), "--rings", "all") == 2
    assert "algotom" in capsys.readouterr().err
