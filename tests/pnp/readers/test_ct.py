"""Readers of scans: what they return, and one sentence for whatever is wrong with a file of any format."""

from __future__ import annotations

import math
import warnings
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
from pnp.ct import line_integrals
from pnp.readers import (
    CtScan,
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


# ------------------------------------------------------------------------------------------- the record


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


# ------------------------------------------------------------------------------------------- times


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
