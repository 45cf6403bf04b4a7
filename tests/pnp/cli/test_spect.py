"""SPECT on the command line: reconstruct, osem and convert."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from command import run
from spect_files import (
    ANGLES,
    RADII,
    SHAPE,
    VIEWS,
    VOXEL,
    camera_scan,
    items,
    parameters,
    same_operator,
    write_interfile,
    write_nm,
    write_scan,
)

from operators import SPECT, collimator_fwhm
from pnp import bsrem, osem
from pnp.cli.problem import build_operator, read_problem
from pnp.io import read_nifti, read_result, write_measurements, write_nifti
from pnp.spect import intrinsic_fwhm, lead_attenuation


@pytest.fixture
def scan() -> tuple[SPECT, np.ndarray, np.ndarray, np.ndarray]:
    return camera_scan()


@pytest.fixture
def file(tmp_path) -> Path:
    return write_scan(tmp_path / "scan.h5")


@pytest.mark.parametrize("command", ["reconstruct", "osem"])
def test_a_volume_comes_out_where_it_was(monkeypatch, scan, file, capsys, command):
    *_, truth = scan
    options = ("--denoiser", "tv", "--max-iter", 6) if command == "reconstruct" else ("--iterations", 4)
    assert run(monkeypatch, command, file, "-o", file.with_name("x.nii.gz"), *options) == 0
    out = capsys.readouterr().out
    said = "tv" if command == "reconstruct" else "4 iterations of 4 subsets of 2 or 3 views"
    assert said in out and "slices" not in out and "background from the file" in out
    x, size = read_nifti(file.with_name("x.nii.gz"))
    assert size == pytest.approx((VOXEL,) * 3) and nibabel.aff2axcodes(
        nibabel.load(file.with_name("x.nii.gz")).affine
    ) == ("L", "P", "S")
    assert x.shape == SHAPE and x.min() >= 0
    assert np.corrcoef(x.ravel(), truth.ravel())[0, 1] > 0.8
    # Scatter is explained by the background: without it, its counts would be the volume's.
    assert abs(x.sum() / truth.sum() - 1) < 0.05


def test_osem_is_osem_and_writes_everything(monkeypatch, scan, file):
    A, y, scatter, _ = scan
    output = file.with_name("x.h5")
    assert run(monkeypatch, "osem", file, "-o", output, "--subsets", 3, "--iterations", 2) == 0
    saved = read_result(output)
    np.testing.assert_allclose(saved.x, osem(A, y, n_subsets=3, background=scatter, max_iter=2).x, rtol=1e-4, atol=1e-3)
    assert (
        saved.attributes["n_subsets"] == 3 and saved.attributes["n_iter"] == 2 and len(saved.history["deviance"]) == 2
    )
    assert saved.parameters["fwhm"].shape == (VIEWS, SHAPE[1]) and saved.reference is not None
    assert run(monkeypatch, "osem", file, "-o", output, "--overwrite", "--subsets", 1, "--iterations", 1) == 0


def test_beta_is_bsrem(monkeypatch, capsys, scan, file):
    A, y, scatter, _ = scan
    options = ("--subsets", 3, "--iterations", 2, "--beta", 0.05)
    assert run(monkeypatch, "osem", file, "-o", file.with_name("x.h5"), *options) == 0
    assert "BSREM, beta 0.05, 2 iterations of 3 subsets" in capsys.readouterr().out
    saved = read_result(file.with_name("x.h5"))
    expected = bsrem(A, y, n_subsets=3, background=scatter, max_iter=2, beta=0.05).x
    np.testing.assert_allclose(saved.x, expected, rtol=1e-3, atol=1e-3)
    assert saved.attributes["beta"] == 0.05
    fails(monkeypatch, capsys, "beta", "osem", file, "-o", file.with_name("y.h5"), "--beta", -1)
    fails(monkeypatch, capsys, "--beta", "osem", file, "-o", file.with_name("y.h5"), *options, "--error-bars", 3)


def test_the_background_matters(monkeypatch, file):
    sums = []
    for k in range(2):
        if k:
            with h5py.File(file, "a") as f:
                del f["background"]
        assert run(monkeypatch, "osem", file, "-o", file.with_name(f"{k}.npy"), "--iterations", 2) == 0
        sums.append(np.load(file.with_name(f"{k}.npy")).sum())
    assert sums[1] > 1.2 * sums[0]


def test_counts_of_other_operators_with_a_background_are_poisson(monkeypatch, tmp_path, capsys):
    y = np.random.default_rng(0).poisson(53.0, (1, 1, 16, 16)).astype(np.float32)
    write_measurements(tmp_path / "y.h5", y, operator="mask", parameters={"mask": np.ones((16, 16))}, background=50.0)
    options = ("--denoiser", "tv", "--max-iter", 4)
    assert run(monkeypatch, "reconstruct", tmp_path / "y.h5", "-o", tmp_path / "x.h5", *options) == 0
    assert "Poisson noise, background from the file, tv;" in capsys.readouterr().out
    x = read_result(tmp_path / "x.h5").x
    assert x.min() >= 0 and x.mean() == pytest.approx(3, abs=1.5)


def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str, *arguments: Any) -> None:
    capsys.readouterr()
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert part in error and error.startswith("pnp: ") and len(error) < 400, error


def test_wrong_options_are_one_sentence(monkeypatch, scan, file, capsys):
    output = file.with_name("x.nii.gz")
    for part, *arguments in [
        ("NIfTI", "osem", file, "-o", file.with_name("x.png")),
        ("NIfTI", "reconstruct", file, "-o", file.with_name("x.tif")),
        ("n_subsets", "osem", file, "-o", output, "--subsets", 11),
        ("n_subsets", "osem", file, "-o", output, "--subsets", 0),
        ("max_iter", "osem", file, "-o", output, "--iterations", 0),
        (
            "noise_std",
            "reconstruct",
            file,
            "-o",
            output,
            "--noise-std",
            1,
            "--denoiser",
            "tv",
        ),
        ("'spect'", "reconstruct", file, "-o", output, "--operator", "radon"),
        ("no such file", "osem", file.with_name("absent.h5"), "-o", output),
    ]:
        fails(monkeypatch, capsys, part, *arguments)
    write_interfile(file.with_name("a.h00"), np.ones((4, 3, 6)))
    fails(
        monkeypatch,
        capsys,
        "pnp convert a.h00",
        "reconstruct",
        file.with_name("a.h00"),
        "-o",
        output,
    )
    write_measurements(
        file.with_name("two.h5"), np.concatenate([scan[1]] * 2), operator="spect", parameters=parameters()
    )
    for command in ("osem", "reconstruct"):
        fails(monkeypatch, capsys, "has 2", command, file.with_name("two.h5"), "-o", output)


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("measurements", lambda v: -v, ": y "),
        ("measurements", lambda v: v * math.nan, ": y "),
        ("measurements", lambda v: v[..., :-1], "y"),
        ("background", lambda v: -v, "background"),
        ("background", lambda v: v * math.nan, "background"),
        ("background", lambda v: v[:, :, :-1], "background"),
        ("operator/attenuation", lambda v: v[:, :-1], "attenuation"),
        ("operator/attenuation", lambda v: -v, "attenuation"),
        ("operator/attenuation", lambda v: v * math.nan, "attenuation"),
        ("operator/fwhm", lambda v: v[:, :-1], "fwhm"),
        ("operator/angles", lambda v: v[:0], ": angles "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [("osem", "--iterations", 1), ("reconstruct", "--denoiser", "tv", "--max-iter", 1)])
def test_spoiled_files_are_one_sentence(monkeypatch, file, capsys, name, change, part, command):
    with h5py.File(file, "a") as f:
        values, attributes = f[name][()], dict(f[name].attrs)
        del f[name]
        f[name] = change(values)
        f[name].attrs.update(attributes)
    fails(monkeypatch, capsys, part, *command, file, "-o", file.with_name("x.h5"))


# ------------------------------------------------------------------------------------------- convert


def nm(path: Path, y: np.ndarray, scatter: np.ndarray) -> Path:
    """The views as DICOM has them, between two windows of 10 keV that see the scatter alone; the peak's has 40."""
    frames = [(v[0, 0].transpose(0, 2, 1)[:, ::-1]) for v in (scatter / 4, y, scatter / 4)]
    windows = items(*(
        {"EnergyWindowRangeSequence": items({"EnergyWindowLowerLimit": a, "EnergyWindowUpperLimit": b})}
        for a, b in ((177, 187), (187, 227), (227, 237))
    ))  # fmt: skip
    return write_nm(
        path,
        np.rint(np.concatenate(frames)),
        EnergyWindowVector=np.repeat([1, 2, 3], VIEWS).tolist(),
        AngularViewVector=[*range(1, VIEWS + 1)] * 3,
        EnergyWindowInformationSequence=windows,
        # Ours go from the front to the left, DICOM's angle falls from 180.
        detector={"StartAngle": "180", "RadialPosition": RADII.tolist()},
        rotation={"StartAngle": "180", "AngularStep": "36", "RotationDirection": "CW"},
        PixelSpacing=["16", "16"],
    )


def test_from_a_dicom_file_to_a_volume(monkeypatch, scan, tmp_path, capsys):
    A, y, scatter, truth = scan
    nm(tmp_path / "a.dcm", y, scatter)
    write_nifti(tmp_path / "mu.nii.gz", 10 * A.attenuation.numpy(), VOXEL)
    options = ("--photopeak", 2, "--scatter", "1,3", "--collimator", "2.94,40.64,1.04,3.8")
    mu = ("--attenuation", tmp_path / "mu.nii.gz")
    fails(
        monkeypatch,
        capsys,
        "--attenuation-unit",
        "convert",
        tmp_path / "a.dcm",
        "-o",
        tmp_path / "y.h5",
        *options,
        *mu,
    )
    options = (*options, *mu, "--attenuation-unit", "1/cm")
    assert run(monkeypatch, "convert", tmp_path / "a.dcm", "-o", tmp_path / "y.h5", *options) == 0
    assert (
        "with attenuation and scatter of 177-187 keV and 227-237 keV (peak 187-227 keV) and the resp"
        in capsys.readouterr().out
    )
    data = read_problem(tmp_path / "y.h5")
    np.testing.assert_array_equal(data.y, y)
    np.testing.assert_allclose(data.background, scatter, rtol=0.1)  # rounded to whole counts in the narrow windows
    assert same_operator(build_operator("spect", data.parameters), A)
    assert run(monkeypatch, "osem", tmp_path / "y.h5", "-o", tmp_path / "x.nii.gz", "--iterations", 4) == 0
    x, _ = read_nifti(tmp_path / "x.nii.gz")
    assert np.corrcoef(x.ravel(), truth.ravel())[0, 1] > 0.8


def test_from_simind_with_its_collimator_and_a_ct(monkeypatch, scan, tmp_path, capsys):
    A, y, _, _ = scan
    frames = y[0, 0].transpose(0, 2, 1)[:, ::-1]
    sizes = {"[1] := 4.800": "[1] := 16", "[2] := 5.000": "[2] := 16"}
    write_interfile(tmp_path / "a.h00", frames, direction="CW", replace=sizes)
    mu = A.attenuation.numpy()
    write_nifti(tmp_path / "ct.nii", np.where(mu > 0, 0.0, -1000.0), VOXEL)
    arguments = ("convert", tmp_path / "a.h00", "-o", tmp_path / "y.h5", "--attenuation", tmp_path / "ct.nii")
    # The header has the photon's energy.
    assert run(monkeypatch, *arguments, "--attenuation-unit", "HU", "--overwrite") == 0
    of_header = read_problem(tmp_path / "y.h5").parameters["attenuation"]
    for values, unit, said in (
        (mu, ("HU", "--energy", 208), "--attenuation-unit"),
        (mu / 10, ("1/mm",), "--attenuation-unit"),
    ):
        write_nifti(tmp_path / "mu.nii", values, VOXEL, overwrite=True)
        maps = (*arguments[:-1], tmp_path / "mu.nii", "--overwrite")
        fails(monkeypatch, capsys, said, *maps, "--attenuation-unit", *unit)
    assert run(monkeypatch, *arguments, "--attenuation-unit", "HU", "--energy", 208, "--overwrite") == 0
    data = read_problem(tmp_path / "y.h5")
    np.testing.assert_array_equal(data.parameters["attenuation"], of_header)
    np.testing.assert_array_equal(data.y, y)
    assert data.parameters["angles"] == pytest.approx(ANGLES.numpy())  # clockwise from the feet: to the left first
    np.testing.assert_allclose(np.unique(data.parameters["attenuation"]), [0, 0.0135], rtol=2e-3)
    sheet = {"hole_diameter": 2.94, "hole_length": 40.64, "septal_attenuation": lead_attenuation(208.0)}
    sheet["intrinsic"] = intrinsic_fwhm(3.8, 208.0)
    expected = collimator_fwhm(24, 230.0, voxel_size=VOXEL, **sheet)
    np.testing.assert_allclose(data.parameters["fwhm"], expected.expand(VIEWS, -1), rtol=1e-6)


def test_convert_refuses(monkeypatch, scan, tmp_path, capsys):
    _, y, scatter, _ = scan
    dicom, output = nm(tmp_path / "a.dcm", y, scatter), tmp_path / "y.h5"
    write_nifti(tmp_path / "other.nii", np.zeros(SHAPE), 8.0)
    write_nifti(tmp_path / "mu.nii", np.full(SHAPE, 0.01), VOXEL)
    peak = ("--photopeak", 2)
    for part, *options in [
        ("--photopeak: 1: 177-187 keV",),
        ("--photopeak", "--photopeak", 4),
        ("--scatter", *peak, "--scatter", "1,2,3"),
        ("--scatter", *peak, "--scatter", "0,3"),
        ("energy", *peak, "--scatter", "3,1"),
        ("--attenuation-unit", *peak, "--attenuation", tmp_path / "other.nii"),
        ("--energy", *peak, "--attenuation", tmp_path / "mu.nii", "--attenuation-unit", "HU"),
        ("--attenuation-unit", *peak, "--attenuation", tmp_path / "mu.nii", "--attenuation-unit", "m"),
        ("no such file", *peak, "--attenuation", tmp_path / "absent.nii"),
        ("--collimator", *peak, "--collimator", "2.94"),
        ("--collimator", *peak, "--collimator", "wide,2"),
        ("--zero", *peak, "--zero", "top"),
        ("rotation", *peak, "--rotation", 2),
    ]:  # fmt: skip
        fails(monkeypatch, capsys, part, "convert", dicom, "-o", output, *options)
    assert not output.exists()
    fails(monkeypatch, capsys, ".h5", "convert", dicom, "-o", tmp_path / "y.nii", *peak)
    fails(monkeypatch, capsys, "no such file", "convert", tmp_path / "absent.dcm", "-o", output)
    (tmp_path / "text").write_text("no header")
    fails(monkeypatch, capsys, "DICOM", "convert", tmp_path / "text", "-o", output)
    write_interfile(tmp_path / "a.h00", np.ones((4, 3, 6)), replace={"Radius := 23.0\n": ""})
    fails(monkeypatch, capsys, "--radius", "convert", tmp_path / "a.h00", "-o", output)
    assert run(monkeypatch, "convert", tmp_path / "a.h00", "-o", output, "--radius", 200) == 0


@pytest.mark.parametrize("command", ["osem", "convert", "reconstruct"])
def test_help_has_examples(monkeypatch, capsys, command):
    assert run(monkeypatch, command, "--help") == 0
    assert f"pnp {command}" in capsys.readouterr().out


def test_options_that_would_be_ignored_are_refused(monkeypatch, scan, tmp_path, capsys):
    A, y, _, _ = scan
    write_interfile(tmp_path / "a.h00", y[0, 0].transpose(0, 2, 1)[:, ::-1], direction="CW")
    mu = A.attenuation.numpy()
    write_nifti(tmp_path / "mu.nii", mu, VOXEL)
    command = ("convert", tmp_path / "a.h00", "-o", tmp_path / "y.h5")
    fails(monkeypatch, capsys, "give --attenuation as well", *command, "--energy", 208)
    fails(monkeypatch, capsys, "give --attenuation as well", *command, "--attenuation-unit", "1/cm")
    fails(monkeypatch, capsys, "--rotation", *command, "--rotation", 1)
    maps = (*command, "--attenuation")
    fails(monkeypatch, capsys, "--energy", *maps, tmp_path / "mu.nii", "--energy", 208)


@pytest.mark.parametrize("command", ["osem", "reconstruct"])
def test_attenuation_outside_the_cylinder_is_a_line_of_warning(monkeypatch, capsys, tmp_path, command):
    square = np.full((6, 6, 3), 0.0135)
    given = {"shape": (6, 6, 3), "angles": np.arange(4) * math.pi / 2, "voxel_size": 4.8, "attenuation": square}
    y = np.random.default_rng(0).poisson(9.0, (1, 1, 4, 6, 3)).astype(np.float32)
    write_measurements(tmp_path / "y.h5", y, operator="spect", parameters=given)
    options = ("--iterations", 1) if command == "osem" else ("--denoiser", "tv", "--max-iter", 1)
    assert run(monkeypatch, command, tmp_path / "y.h5", "-o", tmp_path / "x.nii", *options) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("warning: SPECT: 11 % of the attenuation") for line in lines), lines
