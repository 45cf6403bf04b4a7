"""Readers of scans: what they return, and one sentence for whatever is wrong with a file of any format."""

from __future__ import annotations

import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from reader_files import COUNTS, N_ANGLES, N_BINS, N_ROWS, RNG, SINOGRAM, refused, write_any, write_dx, write_htc

from operators import FanBeam, Radon
from pnp.readers import (
    read_dicom,
    read_dxchange,
    read_htc2022,
    read_htc2022_segmentation,
    read_scan,
    read_tiff_stack,
)

READERS = {
    ".mat": (read_htc2022, read_htc2022_segmentation),
    ".h5": (read_dxchange,),
    ".tif": (read_tiff_stack,),
    ".dcm": (read_dicom,),
}
EVERY = [(read, suffix) for suffix, readers in READERS.items() for read in readers]
WRITTEN = [(readers[0], suffix) for suffix, readers in READERS.items()]  # by write_any
# So that random bytes get past the first check of a format.
BEGINNINGS = {
    ".mat": b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM",
    ".h5": b"\x89HDF\r\n\x1a\n",
    ".tif": b"II*\x00\x08\x00\x00\x00",
    ".dcm": bytes(128) + b"DICM",
}


# ------------------------------------------------------------------------------------------- HTC2022


@pytest.mark.parametrize("variable", ["CtDataFull", "CtDataLimited"])
@pytest.mark.parametrize("compress", [False, True])
def test_htc_geometry_goes_into_the_fan_beam(tmp_path, variable, compress):
    scan = read_htc2022(write_htc(tmp_path / "a.mat", variable=variable, compress=compress))
    np.testing.assert_allclose(scan.y, SINOGRAM, rtol=1e-7)
    np.testing.assert_allclose(scan.angles, np.arange(N_ANGLES) * math.pi / 6)
    assert scan.kind == "line integrals" and scan.flat is None
    assert scan.facts["voltage"] == "45" and scan.facts["freeRayAtDetector"].tolist() == [[1, 128, 1, 128]]
    assert "cells" not in scan.facts
    A = scan.operator((8, 8))
    assert isinstance(A, FanBeam)
    assert (A.source_origin, A.origin_detector, A.pitch, A.pixel_size) == (400.0, 100.0, 0.2, 0.16)
    y, noise_std = scan.tensors()
    assert A.A(torch.ones(1, 1, 8, 8)).shape == y.shape == (1, 1, *SINOGRAM.shape) and noise_std is None


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"sinogram": SINOGRAM.T}, "transposed"),
        ({"sinogram": SINOGRAM[:, 1:]}, "numDetectorsPost"),
        ({"sinogram": SINOGRAM[1:]}, "angle"),
        ({"sinogram": np.where(SINOGRAM < SINOGRAM[0, 0], np.nan, SINOGRAM)}, "54"),
        ({"sinogram": SINOGRAM + 1j}, "complex"),
        ({"sinogram": np.full((2, 3), "a", object)}, "object"),
        ({"angles": "0:0.5:360"}, ": angles "),
        ({"angles": None}, "parameters"),
        ({"sinogram": np.ones((90, N_BINS)), "angles": np.deg2rad(np.arange(90) / 2)}, "radians"),
        ({"distanceUnit": "cm"}, "distanceUnit"),
        ({"effectivePixelSizePost": 160.0}, "one unit"),
        ({"distanceSourceDetector": 300.0}, "exchanged"),
        ({"pixelSizePost": 0.0}, "pixelSizePost"),
    ],
)
def test_htc_refuses(tmp_path, changes, part):
    assert part in refused(read_htc2022, write_htc(tmp_path / "a.mat", **changes))


def write_matlab_73(path, sinogram, **changes):
    """A struct as MATLAB 7.3 writes it: a group, with arrays' axes in reverse and text as character codes."""
    numbers = {"distanceSourceOrigin": 400.0, "distanceSourceDetector": 500.0, "pixelSizePost": 0.2}
    with h5py.File(path, "w", userblock_size=512) as f:
        f["Walnut/sinogram"] = sinogram.T
        f["Walnut/parameters/angles"] = (np.arange(N_ANGLES) * 30.0)[:, None]
        f["Walnut/parameters/distanceUnit"] = np.array([[ord("m")], [ord("m")]], "u2")
        f["Walnut/parameters/distanceUnit"].attrs["MATLAB_class"] = np.bytes_("char")
        for name, value in (numbers | changes).items():
            f[f"Walnut/parameters/{name}"] = [[value]]
        f.create_group("#refs#")
    with open(path, "r+b") as f:
        f.write(b"MATLAB 7.3 MAT-file, Platform: PCWIN64".ljust(124) + b"\x00\x02IM")
    return path


def test_matlab_7_3(tmp_path):
    scan = read_htc2022(write_matlab_73(tmp_path / "a.mat", SINOGRAM, numDetectorsPost=float(N_BINS)))
    np.testing.assert_allclose(scan.y, SINOGRAM, rtol=1e-7)
    assert scan.facts["distanceUnit"] == "mm" and scan.pixel_size_mm == pytest.approx(0.16)
    cone = np.moveaxis(COUNTS, (0, 1, 2), (1, 2, 0))  # bins, angles, rows
    for rows in (None, slice(1, 2)):
        scan = read_scan(write_matlab_73(tmp_path / "b.mat", cone, projectionCols=float(N_BINS)), rows=rows)
        np.testing.assert_array_equal(scan.y, np.moveaxis(COUNTS, 1, 0)[rows or slice(None)])
    with h5py.File(tmp_path / "c.mat", "w", userblock_size=512) as f:
        f["m"] = SINOGRAM
    with open(tmp_path / "c.mat", "r+b") as f:
        f.write(b"MATLAB 7.3 MAT-file, Platform: PCWIN64")
    assert "holds m" in refused(read_htc2022, tmp_path / "c.mat")
    assert "-v7" in refused(read_htc2022_segmentation, tmp_path / "c.mat")


def test_fips_structs_of_any_name(tmp_path):
    cone = np.moveaxis(COUNTS, (0, 1, 2), (1, 2, 0)).astype(float)
    path = write_htc(tmp_path / "a.mat", sinogram=cone, variable="Lotus", numDetectorsPost=None, projectionCols=9.0)
    for rows in (None, slice(0, 2)):
        scan = read_scan(path, rows=rows)
        np.testing.assert_array_equal(scan.y, np.moveaxis(COUNTS, 1, 0)[rows or slice(None)])
    old = {"pixelSizePost": None, "effectivePixelSizePost": None, "pixelSize": 0.05, "binningPost": 4.0}
    scan = read_scan(write_htc(tmp_path / "b.mat", variable="Walnut", **old))
    assert scan.pitch_mm == pytest.approx(0.2) and scan.pixel_size_mm == pytest.approx(0.16)
    assert "pixelSizePost" in refused(read_scan, write_htc(tmp_path / "c.mat", pixelSizePost=None))
    scipy.io.savemat(tmp_path / "d.mat", {"A": np.ones((4, 4)), "m": SINOGRAM})
    said = refused(read_scan, tmp_path / "d.mat")
    assert "A, m" in said and "CtScan" in said


def test_htc_segmentation(tmp_path):
    truth = RNG.random((512, 512)) < 0.3
    scipy.io.savemat(tmp_path / "a.mat", {"reconFullFbpSeg": truth.astype(np.uint8)}, do_compression=True)
    mask = read_htc2022_segmentation(tmp_path / "a.mat")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, truth)
    for name, values, part in (
        ("reconFullFbpSeg", truth[:, :500].astype(float), "(512, 500)"),
        ("reconFullFbpSeg", truth * 0.5, "0.0 to 0.5"),
        ("reconFullFbp", truth * 1.0, "Seg"),
        ("reconFullFbpSeg", np.where(truth, np.inf, 0), "NaN"),
    ):
        scipy.io.savemat(tmp_path / "b.mat", {name: values})
        assert part in refused(read_htc2022_segmentation, tmp_path / "b.mat")


# ------------------------------------------------------------------------------------------- Data Exchange


@pytest.mark.parametrize("axes", ["theta:y:x", "y:theta:x", "x:y:theta", ""])
@pytest.mark.parametrize("rows", [None, slice(1, 2), slice(-2, None), slice(0, 3, 2)])
def test_dxchange_rows_in_any_order_of_axes(tmp_path, axes, rows):
    white = RNG.integers(0, 65535, (100, N_ROWS, N_BINS), dtype=np.uint16)
    path = write_dx(tmp_path / "a.h5", axes=axes, data_white=white, data_dark=white[:1])
    scan = read_dxchange(path, rows=rows)
    picked = rows or slice(None)
    np.testing.assert_array_equal(scan.y, np.moveaxis(COUNTS, 1, 0)[picked])
    np.testing.assert_array_equal(scan.flat, np.moveaxis(white, 1, 0)[picked])
    np.testing.assert_array_equal(scan.dark[:, 0], white[0][picked])
    np.testing.assert_allclose(scan.angles, np.arange(N_ANGLES) * math.pi / 6)
    assert scan.kind == "counts"
    A, (y, _) = scan.operator((8, 8)), replace(scan, kind="line integrals").tensors()
    assert isinstance(A, Radon)
    assert A.A(torch.ones(len(scan.y), 1, 8, 8)).shape == y.shape == (len(scan.y), 1, N_ANGLES, N_BINS)
    np.testing.assert_array_equal(y[:, 0], scan.y)


def test_dxchange_of_one_row_without_fields(tmp_path):
    path = write_dx(tmp_path / "a.h5", axes="", data=COUNTS[:, 0], units="rad", theta=np.linspace(0, 3, N_ANGLES))
    with h5py.File(path, "r+") as f:
        f["measurement/instrument/detector/actual_pixel_size_x"] = 1.2
        f["measurement/instrument/detector/actual_pixel_size_x"].attrs["units"] = "um"
        f["exchange/data_white"] = COUNTS[0, 0]
    scan = read_dxchange(path)
    assert scan.y.shape == (N_ANGLES, N_BINS) and scan.dark is None
    np.testing.assert_array_equal(scan.flat, COUNTS[:1, 0])
    np.testing.assert_allclose([scan.pixel_size_mm, scan.geometry()["pitch"], scan.angles[-1]], [0.0012, 0.0012, 3])


def test_dxchange_takes_the_callers_angles(tmp_path):
    angles = np.linspace(0, 3, N_ANGLES)
    scan = read_dxchange(write_dx(tmp_path / "a.h5", theta=False), angles=angles)
    np.testing.assert_array_equal(scan.angles, angles)
    assert "5 angles" in refused(read_dxchange, tmp_path / "a.h5", angles=angles[1:])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"theta": False}, "exchange/theta"),
        ({"units": None}, "units"),
        ({"units": "turns"}, "got 'turns'"),
        ({"units": "radians"}, "degrees"),
        ({"theta": np.arange(4.0)}, "4 angles"),
        ({"data": np.moveaxis(COUNTS, 0, 1), "axes": ""}, "transposed"),
        ({"theta": np.full(N_ANGLES, math.nan)}, "got 6 NaN"),
        ({"theta": np.full(N_ANGLES, "0", object)}, "object"),
        ({"data": COUNTS.astype(complex)}, "complex"),
        ({"data": np.full(COUNTS.shape, math.inf)}, "162"),
        ({"data_white": np.ones((2, N_ROWS + 1, N_BINS))}, "pixels"),
        ({"data_dark": np.full((2, N_ROWS, N_BINS), math.nan)}, ": dark "),
        ({"data": np.ones(5), "axes": ""}, "(5,)"),
    ],
)
def test_dxchange_refuses(tmp_path, changes, part):
    assert part in refused(read_dxchange, write_dx(tmp_path / "a.h5", **changes))


@pytest.mark.parametrize("rows", [slice(0, 4), slice(3, None), slice(2, 1), slice(None, None, -1), slice(-4, None)])
def test_dxchange_leaves_out_no_row_silently(tmp_path, rows):
    assert ": rows " in refused(read_dxchange, write_dx(tmp_path / "a.h5"), rows=rows)


def test_dxchange_says_what_it_holds_and_what_does_not_fit(tmp_path):
    with pytest.raises(TypeError, match="slice"):
        read_dxchange(write_dx(tmp_path / "a.h5"), rows=1)
    with h5py.File(tmp_path / "b.h5", "w") as f:
        f["entry/data"] = COUNTS
    assert "'exchange'" in refused(read_dxchange, tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as f:  # nothing is written for a chunk without values
        f.create_dataset("exchange/data", (2, 2**30, 2**20), "u2", chunks=(1, 1, 1024))
        f["exchange/theta"] = [0.0, 1.0]
        f["exchange/theta"].attrs["units"] = "rad"
    assert "rows=slice" in refused(read_dxchange, tmp_path / "c.h5")
    assert read_dxchange(tmp_path / "c.h5", rows=slice(0, 1)).y.shape == (1, 2, 2**20)


# ------------------------------------------------------------------------------------------- whatever is wrong


@pytest.mark.parametrize(("read", "suffix"), EVERY)
def test_files_that_are_not_there_or_something_else(tmp_path, read, suffix):
    assert "no such file" in refused(read, tmp_path / f"absent{suffix}")
    (tmp_path / "folder").mkdir()
    message = refused(read, tmp_path / "folder")
    assert "is a folder" in message or "holds no" in message
    for k, content in enumerate((b"", b"\x80\x04cos\nsystem\n", np.arange(300).tobytes())):
        (tmp_path / f"{k}{suffix}").write_bytes(content)
        assert f"{k}{suffix}" in refused(read, tmp_path / f"{k}{suffix}")


@pytest.mark.parametrize(("read", "suffix"), WRITTEN)
def test_truncated_files_are_refused_wherever_they_end(tmp_path, read, suffix):
    whole = write_any(tmp_path / f"whole{suffix}").read_bytes()
    read(tmp_path / f"whole{suffix}")
    for size in np.linspace(1, len(whole) - 10, 40).astype(int):
        (tmp_path / f"part{suffix}").write_bytes(whole[:size])
        refused(read, tmp_path / f"part{suffix}")


@pytest.mark.parametrize(("read", "suffix"), EVERY)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=400), begins=st.booleans())
def test_random_bytes_are_refused(tmp_path, read, suffix, noise, begins):
    (tmp_path / f"x{suffix}").write_bytes(BEGINNINGS[suffix] * begins + noise)
    refused(read, tmp_path / f"x{suffix}")


@pytest.mark.parametrize(("read", "suffix"), WRITTEN)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
@example(place=0.703125, value=10)  # a line break in the name of DICOM's colour space
@example(place=0.23236743356544845, value=65)  # a larger exponent of an angle in HDF5: a warning is right
@pytest.mark.filterwarnings("ignore:.*angles span:UserWarning")
def test_a_wrong_byte_is_refused_or_harmless(tmp_path, read, suffix, place, value):
    content = bytearray(write_any(tmp_path / f"x{suffix}").read_bytes())
    content[int(place * len(content))] = value
    (tmp_path / f"x{suffix}").write_bytes(content)
    try:
        read(tmp_path / f"x{suffix}")
    except ValueError as error:
        assert len(str(error)) < 400 and "\n" not in str(error)


# ------------------------------------------------------------------------------------------- measured data


def test_the_measured_disc_is_where_its_segmentation_is(data_dir):
    folder = data_dir / "ct" / "htc2022"
    scan = read_htc2022(folder / "htc2022_ta_full.mat")
    truth = torch.from_numpy(read_htc2022_segmentation(folder / "htc2022_ta_full_recon_fbp_seg.mat"))
    assert scan.y.shape == (721, 560) and scan.facts["voltage"] == "45"
    np.testing.assert_allclose(np.diff(scan.angles), math.radians(0.5), rtol=1e-9)
    few = scan.subset(slice(0, 720, 4))
    A = few.operator((128, 128), pixel_size=4 * few.pixel_size_mm)
    image = A.fbp(few.tensors()[0], window="hann")[0, 0]
    coarse = truth.float().reshape(128, 4, 128, 4).mean(dim=(1, 3))
    correlation = torch.corrcoef(torch.stack([image.flatten(), coarse.flatten()]))[0, 1]
    assert correlation > 0.95


def test_the_measured_tooth_transmits_light(data_dir):
    scan = read_dxchange(data_dir / "ct" / "tooth.h5")
    assert scan.y.shape == (2, 181, 640) and scan.flat.shape == scan.dark.shape == (2, 10, 640)
    assert 178 < math.degrees(scan.angles[-1]) < 180
    transmission = (scan.y - scan.dark.mean(1, keepdims=True)) / (scan.flat - scan.dark).mean(1, keepdims=True)
    assert abs(np.median(transmission[..., -20:]) - 1) < 0.05 and 0 < transmission.min() < 0.5
    row = read_dxchange(data_dir / "ct" / "tooth.h5", rows=slice(1, 2))
    np.testing.assert_array_equal(row.row(0).y, scan.row(1).y)
