"""Cone beams in the HDF5 layout: round trips, units of lengths, files of others."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from cone_files import GEOMETRY, N_VIEWS, SHAPE, VOXEL, blocks, write_cone
from reader_files import refused

from operators import ConeBeam
from pnp.cli.problem import build_operator, check_sizes, read_problem
from pnp.io import read_measurements, read_result, write_measurements, write_result


def same(parameters, A):
    other = build_operator("cone_beam", parameters)
    parts = all(torch.equal(getattr(other, name), getattr(A, name)) for name in ConeBeam.TENSORS)
    return parts and other.shape == A.shape and all(getattr(other, name) == getattr(A, name) for name in ConeBeam.SIZES)


@pytest.mark.parametrize("units", ["mm", ""])
def test_round_trip(tmp_path, units):
    data = read_measurements(write_cone(tmp_path / "scan.h5", length_units=units))
    assert data.operator == "cone_beam" and data.length_units == units
    assert same(data.parameters, ConeBeam(**GEOMETRY))
    write_result(
        tmp_path / "x.h5", blocks(), operator="cone_beam", parameters=data.parameters, length_units=data.length_units
    )
    saved = read_result(tmp_path / "x.h5")
    assert saved.length_units == units and same(saved.parameters, ConeBeam(**GEOMETRY))


def test_lengths_in_other_units_are_read_in_mm(tmp_path):
    path = write_cone(tmp_path / "scan.h5", length_units="cm")
    data = read_measurements(path)
    tens = {
        name: 10 * np.asarray(GEOMETRY[name])
        for name in ("source_origin", "origin_detector", "pitch", "voxel_size", "offset", "shift")
    }
    assert data.length_units == "mm" and data.parameters["pitch"] == pytest.approx((15.0, 12.5))
    assert same(data.parameters, ConeBeam(**GEOMETRY | tens | {n: tuple(tens[n]) for n in ("pitch", "voxel_size")}))


@pytest.mark.parametrize(("units", "mm"), [("cm", 10.0), ("m", 1000.0)])
def test_sizes_left_out_and_the_reference_are_in_the_unit_too(tmp_path, units, mm):
    """y = A x holds in mm as it did in the file's unit: y has no unit, x is per length."""
    A = ConeBeam((4, 6, 6), [0.0, 1.0], source_origin=20.0, origin_detector=10.0)
    x = torch.rand(1, 1, 4, 6, 6, dtype=torch.float64)
    parameters = {"shape": A.shape, "angles": A.angles, "source_origin": 20.0, "origin_detector": 10.0}
    write_measurements(
        tmp_path / "y.h5",
        A.A(x),
        operator="cone_beam",
        parameters=parameters,
        reference=x,
        length_units=units,
    )
    data = read_measurements(tmp_path / "y.h5")
    read = build_operator("cone_beam", data.parameters)
    assert read.voxel_size == (mm,) * 3 and read.pitch == (mm,) * 2
    torch.testing.assert_close(read.A(torch.from_numpy(data.reference)), torch.from_numpy(data.y))


def test_a_unit_of_length_needs_a_cone_beam_and_results_are_in_mm(tmp_path):
    with pytest.raises(ValueError, match="length_units"):
        write_measurements(
            tmp_path / "y.h5", np.zeros((1, 1, 2, 9)), operator="radon", parameters={}, length_units="mm"
        )
    with pytest.raises(ValueError, match="length_units"):
        write_result(tmp_path / "x.h5", blocks(), operator="cone_beam", parameters=GEOMETRY, length_units="cm")
    assert not list(tmp_path.iterdir())


def test_a_length_in_another_unit_than_the_others_is_refused(tmp_path):
    path = write_cone(tmp_path / "scan.h5", length_units="mm")
    with h5py.File(path, "a") as f:
        f["operator/shift"].attrs["units"] = "mm"
    assert read_measurements(path).length_units == "mm"
    with h5py.File(path, "a") as f:
        f["operator/shift"].attrs["units"] = "cm"
    assert "length_units" in refused(read_measurements, path)
    with h5py.File(path, "a") as f:
        del f["operator"].attrs["length_units"]
    assert "length_units" in refused(read_measurements, path)


def test_files_of_others(tmp_path):
    """Tuples as datasets, whole numbers as floats, angles in degrees."""
    with h5py.File(tmp_path / "scan.h5", "w") as f:
        f["measurements"] = np.zeros((1, 1, N_VIEWS, 13, 21), np.float32)
        g = f.create_group("operator")
        g.attrs["name"], g.attrs["length_units"] = "cone_beam", np.bytes_("m")
        g.attrs["shape"] = np.array(SHAPE, float)
        g.attrs["source_origin"], g.attrs["origin_detector"] = 0.08, 0.04
        g["detector_shape"], g["pitch"], g["voxel_size"] = (
            np.array([13.0, 21.0]),
            [0.0015, 0.00125],
            np.array(VOXEL) / 1e3,
        )
        g["angles"] = np.arange(N_VIEWS) * 45.0
        g["angles"].attrs["units"] = "deg"
    A = build_operator("cone_beam", read_problem(tmp_path / "scan.h5").parameters)
    assert (
        A.voxel_size == pytest.approx(VOXEL) and A.pitch == pytest.approx((1.5, 1.25)) and A.detector_shape == (13, 21)
    )
    assert float(A.source_origin) == pytest.approx(80) and float(A.angles[2]) == pytest.approx(np.pi / 2)


def test_units_that_are_none(tmp_path):
    path = write_cone(tmp_path / "scan.h5")
    with h5py.File(path, "a") as f:
        f["operator"].attrs["length_units"] = "inch"
    assert "length_units" in refused(read_measurements, path)
    with pytest.raises(ValueError, match="length_units"):
        write_cone(tmp_path / "other.h5", length_units="inch")


@pytest.mark.parametrize(
    ("y", "changes", "part"),
    [
        ((1, 1, N_VIEWS, 13, 20), {}, "detector_shape"),
        ((1, 1, N_VIEWS, 13, 20), {"detector_shape": None}, "detector_shape"),
        ((1, 1, N_VIEWS - 1, 13, 21), {}, "angles"),
        ((1, N_VIEWS, 13, 21), {}, "(B, 1, n_angles, rows, columns)"),
        ((1, 2, N_VIEWS, 13, 21), {}, "(B, 1, n_angles, rows, columns)"),
    ],
)
def test_sizes_are_checked(tmp_path, y, changes, part):
    write_measurements(
        tmp_path / "y.h5", np.zeros(y, np.float32), operator="cone_beam", parameters=GEOMETRY | changes, overwrite=True
    )
    data = read_problem(tmp_path / "y.h5")
    message = refused(check_sizes, build_operator("cone_beam", data.parameters), data, tmp_path / "y.h5")
    assert part in message
