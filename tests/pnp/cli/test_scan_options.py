"""Options of scans: what is refused, doubted and asked for names them, and none is a word of Python."""

from __future__ import annotations

import re

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
from command import run
from scan_files import ANGLES, CENTRE, N_BINS, PIXEL_MM, ellipses, truth

from pnp.cli.output import print_warning
from pnp.cli.reconstruct_scan import _places
from pnp.cli.scan_options import read_angles, with_options

pytest.importorskip("distributed", reason="the extra 'stack' is not installed")
pytest.importorskip("zarr", reason="the extra 'stack' is not installed")


QUICK = ("--denoiser", "tv", "--max-iter", "12")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--rows", "7"), "got 7"),
        (("--rows", "1:9"), "got 1:9"),
        (("--rows", "a:b"), "--rows"),
        (("--search", "30"), "--search"),
        (("--centre", "900"), "--centre"),
        (("--angles", "nowhere.txt"), "--angles"),
        (("--size", "0"), "--size"),
        (("--operator", "radon"), "--operator"),
        (("--checkpoint", "state"), "--checkpoint"),
        (("--workers", "2", "--scheduler", "tcp://x:1"), "--workers"),
        (("--report", "page.txt"), "--report"),
        (("--bounds", "1"), "--bounds"),
        (("--denoiser", "nothing"), "--denoiser"),
    ],
)
def test_wrong_options_are_one_sentence(options, named, scan, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "reconstruct", scan, "-o", tmp_path / "v.zarr", *options) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("pnp: ")]
    assert len(lines) == 1 and named in lines[0] and len(lines[0]) < 400, error
    assert not (tmp_path / "v.zarr").exists()


@pytest.mark.parametrize("kind", ["no angles", "no unit", "too few", "degrees as radians", "tiff", "tiff, too few"])
def test_angles_are_asked_for_in_degrees(kind, scan, tmp_path, monkeypatch, capsys):
    """Radians, which Python takes, are nowhere asked for by the command."""
    path, options = tmp_path / "scan.h5", ()
    path.write_bytes(scan.read_bytes())
    with h5py.File(path, "a") as file:
        theta = file["exchange/theta"]
        if kind == "no unit":
            del theta.attrs["units"]
        elif kind == "degrees as radians":
            theta.attrs["units"] = "rad"
        elif kind in ("no angles", "too few"):
            degrees = theta[:-3]
            del file["exchange/theta"]
            if kind == "too few":
                file["exchange/theta"] = degrees
                file["exchange/theta"].attrs["units"] = "deg"
    if kind.startswith("tiff"):
        path = tmp_path / "views"
        path.mkdir()
        for k in range(4):
            tifffile.imwrite(path / f"{k}.tif", np.ones((3, 8), np.uint16))
        options = ("--kind", "counts") if kind == "tiff" else ("--kind", "counts", "--angles", "0:90:3")
    assert run(monkeypatch, "reconstruct", path, "-o", tmp_path / "v.zarr", *options) == 2
    error = capsys.readouterr().err
    assert ("--angles deg" if kind in ("no unit", "degrees as radians") else "in degrees") in error, error
    assert "in radians" not in error and "deg2rad" not in error and "angles=" not in error, error


def test_radians_for_angles_are_doubted_and_an_axis_that_they_hide_is_told_with_its_file(
    scan, tmp_path, monkeypatch, capsys
):
    np.savetxt(tmp_path / "angles.txt", ANGLES)
    for given in (f"0:{ANGLES[-1]}:{len(ANGLES)}", tmp_path / "angles.txt"):
        run(monkeypatch, "reconstruct", scan, "-o", tmp_path / "v.zarr", "--rows", "0", "--angles", given)
        doubt, error = capsys.readouterr().err.splitlines()
        assert doubt.startswith("warning: --angles") and "radians" in doubt
        assert str(scan) in error and "radians" in error
    assert read_angles("0:180:181")[-1] == pytest.approx(np.pi) and not capsys.readouterr().err


def test_transmissions_in_hdf5_are_named_by_an_option(scheduler, tmp_path, monkeypatch, capsys):
    t = (np.arange(N_BINS) - CENTRE) * PIXEL_MM
    values = np.exp(-sum(e.sinogram(ANGLES, t, PIXEL_MM) for e in ellipses(0)))
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["exchange/data"] = values[:, None] + 0.005 * np.random.default_rng(0).standard_normal(
            (len(ANGLES), 1, N_BINS)
        )
        file["exchange/theta"] = np.rad2deg(ANGLES)
        file["exchange/theta"].attrs["units"] = "deg"
    command = ("reconstruct", path, "-o", tmp_path / "v.nii", "--pixel-size", PIXEL_MM, *QUICK, *scheduler)
    assert run(monkeypatch, *command) == 2
    error = capsys.readouterr().err
    assert "--kind 'transmissions'" in error and "--i0" in error and "i0=" not in error and str(path) in error
    assert run(monkeypatch, *command, "--kind", "transmissions") == 0
    image = np.asarray(nibabel.load(tmp_path / "v.nii").dataobj)[:, :, 0].T
    assert np.sqrt(np.mean((image - truth(0)) ** 2)) < 0.07


def test_pages_of_other_formats_do_not_meet_and_what_exists_names_its_options(scan, tmp_path, monkeypatch, capsys):
    for name in ("v.zarr", "v.nii.gz", "v.tif", "v"):
        assert _places(tmp_path / name, None, False)[1] == tmp_path / f"{name}.html"
    (tmp_path / "v.zarr.html").touch()
    assert run(monkeypatch, "reconstruct", scan, "-o", tmp_path / "v.zarr") == 2
    error = capsys.readouterr().err
    assert "v.zarr.html" in error and "--report" in error and "--overwrite" in error
    for name in ("there.h5", "there.nii"):
        (tmp_path / name).touch()
        assert run(monkeypatch, "reconstruct", scan, "-o", tmp_path / name) == 2
        error = capsys.readouterr().err
        assert "--overwrite" in error and "(overwrite)" not in error


@pytest.mark.parametrize(
    ("python", "typed"),
    [
        ("rows must be upwards, got slice(3, None, 2)", "got 3::2"),
        ("the image is (118, 118) for 64 bins, to hold it; crop_to_view gives the field of view", "64 x 64 pixels"),
        ("no axis found in search, 3 to 5; give search=(low, high), in bins", "--search low,high"),
        ("angles span 20 radians, more than two turns; if they are degrees, use np.deg2rad", "check --angles"),
        ("a length without its unit; give pixel_size_mm=", "give --pixel-size"),
        ("if the listed ones are right, give angles=np.deg2rad(listed - 180)", "text file of listed - 180"),
    ],
)
def test_messages_of_python_name_options(python, typed):
    message = with_options(python)
    assert typed in message and not re.search("slice|crop_to_view|search=|size=|radians|deg2rad|angles=", message)


def test_the_remedies_of_the_verdict_can_be_typed(capsys):
    print_warning("the beam drifts; use data_term=LeastSquares(view_std='estimate')")
    print_warning("x is not converged; raise max_iter")
    error = capsys.readouterr().err
    assert "use --drift" in error and "--max-iter" in error


def test_a_drifting_beam_is_noise(scan, scheduler, tmp_path, monkeypatch, capsys):
    """Of a scan whose flats are of its start: the beam falls by 10 % from the first view to the last."""
    path = tmp_path / "scan.h5"
    path.write_bytes(scan.read_bytes())
    with h5py.File(path, "a") as file:
        beam = np.linspace(1, 0.9, len(ANGLES))[:, None, None]
        file["exchange/data"][:] = np.round(100 + (file["exchange/data"][:] - 100.0) * beam)
    errors = {}
    for option in ("--drift", "--no-drift"):
        output = tmp_path / f"{option[2:]}.nii"
        command = ("reconstruct", path, "-o", output, "--rows", "1", "--denoiser", "tv", "--max-iter", "40")
        assert run(monkeypatch, *command, option, *scheduler) == 0
        said = capsys.readouterr().out
        assert "rings" in said and ("drifts" in said) == (option == "--drift")
        errors[option] = np.sqrt(np.mean((np.asarray(nibabel.load(output).dataobj)[:, :, 0].T - truth(1)) ** 2))
    assert "drifts" in (tmp_path / "drift.nii.html").read_text()
    assert errors["--drift"] < 0.9 * errors["--no-drift"], errors


def test_convert_says_which_command_has_the_option(scan, tmp_path, monkeypatch, capsys):
    path = tmp_path / "scan.h5"
    path.write_bytes(scan.read_bytes())
    with h5py.File(path, "a") as file:
        del file["exchange/theta"].attrs["units"]
    assert run(monkeypatch, "convert", path, "-o", tmp_path / "y.h5") == 2
    error = capsys.readouterr().err
    assert "--angles" in error and "pnp reconstruct" in error and len(error) < 400
