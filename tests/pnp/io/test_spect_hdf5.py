"""SPECT in the HDF5 layout: units, collimators and backgrounds, from this package's files and from others."""

from __future__ import annotations

import math
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from paths import ROOT
from reader_files import refused
from spect_files import (
    ANGLES,
    COLLIMATOR,
    RADII,
    SHAPE,
    VIEWS,
    VOXEL,
    camera_scan,
    parameters,
    same_operator,
    write_scan,
)

from operators import SPECT, collimator_fwhm
from pnp.cli.problem import build_operator, read_problem
from pnp.io import read_measurements, read_result, write_measurements, write_result


@pytest.fixture
def scan() -> tuple[SPECT, np.ndarray, np.ndarray, np.ndarray]:
    return camera_scan()


@pytest.fixture
def file(tmp_path) -> Path:
    return write_scan(tmp_path / "scan.h5")


def test_round_trip(scan, file):
    A, y, scatter, truth = scan
    data = read_measurements(file)
    np.testing.assert_array_equal(data.y, y)
    np.testing.assert_array_equal(data.background, scatter)
    np.testing.assert_array_equal(data.reference, truth)
    assert data.units == "counts" and data.operator == "spect" and data.collimator == {}
    assert same_operator(build_operator(data.operator, data.parameters), A)
    with h5py.File(file) as f:
        units = {name: f[f"operator/{name}"].attrs["units"] for name in f["operator"]}
    assert units == {"angles": "rad", "attenuation": "1/mm", "fwhm": "mm", "voxel_size": "mm"}


@pytest.mark.parametrize("radius", [230.0, RADII])
def test_collimator_and_orbit_instead_of_a_response(scan, tmp_path, radius):
    _, y, _, _ = scan
    given = {name: value for name, value in parameters().items() if name != "fwhm"} | {"voxel_size": (VOXEL, VOXEL)}
    sheet = {"radius": radius, **COLLIMATOR}
    write_measurements(tmp_path / "y.h5", y, operator="spect", parameters=given, background=2.5, collimator=sheet)
    data = read_measurements(tmp_path / "y.h5")
    assert data.background == 2.5 and set(data.collimator) == set(sheet) and "fwhm" not in data.parameters
    for name, value in sheet.items():
        np.testing.assert_array_equal(data.collimator[name], value)
    found = read_problem(tmp_path / "y.h5").parameters["fwhm"]
    expected = collimator_fwhm(SHAPE[1], voxel_size=VOXEL, **sheet)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.shape == ((VIEWS, SHAPE[1]) if np.ndim(radius) else SHAPE[1:2])


def test_psf_and_no_response_round_trip(tmp_path):
    psf = np.full((SHAPE[1], 3, 3), 1 / 9)
    geometry = {"shape": SHAPE, "angles": ANGLES, "voxel_size": (VOXEL, 8.0)}
    y = np.ones((1, 1, VIEWS, SHAPE[0], SHAPE[2]), np.float32)
    for more in ({"psf": psf}, {}, {"interpolation": "bilinear", "fwhm": 12.0}):
        write_measurements(tmp_path / "y.h5", y, operator="spect", parameters=geometry | more, overwrite=True)
        data = read_problem(tmp_path / "y.h5")
        assert data.background is None and data.parameters["voxel_size"] == (VOXEL, 8.0)
        assert same_operator(build_operator("spect", data.parameters), SPECT(**geometry, **more))


def test_a_file_written_by_h5py_alone_in_other_units(scan, tmp_path):
    """Centimetres and degrees, big-endian, as another language would write it."""
    A, y, scatter, _ = scan
    with h5py.File(tmp_path / "y.h5", "w") as f:
        f["measurements"] = y.astype(">f4")
        f["background"] = scatter.astype(">f4")
        g = f.create_group("operator")
        g.attrs["name"], g.attrs["shape"] = b"spect", np.array(SHAPE, dtype=float)
        for name, values, unit in (
            ("angles", np.arange(VIEWS) * 36.0, "deg"),
            ("voxel_size", 1.6, "cm"),
            ("attenuation", A.attenuation.numpy() * 10, "1/cm"),
        ):
            g[name] = values
            g[name].attrs["units"] = unit
        c = g.create_group("collimator")
        for name, value, unit in (
            ("radius", RADII / 10, "cm"), ("hole_diameter", 0.294, b"cm"), ("hole_length", 40.64, "mm"),
            ("septal_attenuation", 10.4, "1/cm"), ("intrinsic", 3.8, "mm"),
        ):  # fmt: skip
            c[name] = value
            c[name].attrs["units"] = unit
    data = read_problem(tmp_path / "y.h5")
    assert data.parameters["shape"] == SHAPE and data.parameters["voxel_size"] == pytest.approx(16.0)
    assert same_operator(build_operator("spect", data.parameters), A)
    np.testing.assert_array_equal(data.background, scatter)


def test_the_layouts_page_writes_a_file_that_is_read(scan, tmp_path, monkeypatch):
    page = ROOT / "docs" / "hdf5_layout.md"
    (block,) = (
        b for b in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) if "spect" in b
    )
    names = {"h5py": h5py, "np": np, "mu": np.full((64, 64, 40), 0.01)}
    names |= {"counts": np.ones((60, 64, 40)), "scatter": np.full((60, 64, 40), 0.5)}
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(page), "exec"), names)
    data = read_problem(tmp_path / "scan.h5")
    A = build_operator(data.operator, data.parameters)
    assert (
        A.shape == (64, 64, 40)
        and A.angles[-1] == pytest.approx(math.radians(354))
        and data.background.shape == data.y.shape
    )
    expected = collimator_fwhm(64, 230.0, voxel_size=6.4, **COLLIMATOR)
    np.testing.assert_allclose(data.parameters["fwhm"], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("path", "units", "part"),
    [
        ("angles", None, "/operator/angles"),
        ("voxel_size", "inch", "/operator/voxel_size"),
        ("attenuation", "1/inch", "'1/inch'"),
        ("attenuation", None, "got none"),
        ("fwhm", None, "/operator/fwhm"),
    ],
)
def test_units_are_asked_for(file, path, units, part):
    with h5py.File(file, "a") as f:
        del f[f"operator/{path}"].attrs["units"]
        if units is not None:
            f[f"operator/{path}"].attrs["units"] = units
    assert part in refused(read_measurements, file)


def test_a_length_without_a_place_for_its_unit_is_explained(file):
    with h5py.File(file, "a") as f:
        del f["operator/voxel_size"]
        f["operator"].attrs["voxel_size"] = 16.0
    assert "voxel_size" in refused(read_measurements, file)


def test_a_nameless_file_has_units_too(file):
    with h5py.File(file, "a") as f:
        del f["operator"].attrs["name"]
        f["operator/voxel_size"][()] = 1.6
        f["operator/voxel_size"].attrs["units"] = "cm"
    assert read_measurements(file, operator="spect").parameters["voxel_size"] == pytest.approx(16.0)


def test_collimators_that_do_not_fit_are_explained(scan, tmp_path):
    _, y, _, _ = scan
    good = {name: value for name, value in parameters().items() if name != "fwhm"}
    for change, sheet, part in [
        ({"fwhm": 12.0}, {"radius": 230.0, **COLLIMATOR}, "fwhm, psf"),
        ({}, {"radius": 230.0, "hole_diameter": 3.0}, "/operator/collimator"),
        ({}, {"radius": -1.0, **COLLIMATOR}, "radius"),
        ({"shape": None}, {"radius": 1.0, **COLLIMATOR}, "'shape'"),
    ]:
        options = {"parameters": good | change, "collimator": sheet, "overwrite": True}
        write_measurements(tmp_path / "y.h5", y, operator="spect", **options)
        assert part in refused(read_problem, tmp_path / "y.h5")


def test_results_keep_their_units(tmp_path, scan):
    write_result(tmp_path / "x.h5", scan[3], operator="spect", parameters=parameters())
    found = read_result(tmp_path / "x.h5").parameters
    assert found["voxel_size"] == VOXEL and found["attenuation"].shape == SHAPE
