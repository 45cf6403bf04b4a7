"""Data Exchange as TomoScan, dxfile and tomopy write it: units, angles, sizes and frames in their places."""

from __future__ import annotations

import math
import warnings

import h5py
import numpy as np
import pytest
from nexus_files import angles_of, frames_of, write_nxtomo
from reader_files import COUNTS, N_ANGLES, N_BINS, N_ROWS, refused, write_dx

from pnp.readers import read_dxchange, read_scan

THETA = np.arange(N_ANGLES) * 30.0
ROTATION, OBJECTIVE = "process/acquisition/rotation", "measurement/instrument/detection_system/objective"
DETECTOR = "measurement/instrument/detector"


def write(path, numbers=None, **changes):
    """A Data Exchange file, and further numbers in it: name to value, or to value and unit."""
    write_dx(path, **changes)
    with h5py.File(path, "a") as file:
        for name, value in (numbers or {}).items():
            file[name], unit = value if isinstance(value, tuple) else (value, None)
            if unit is not None:
                file[name].attrs["units"] = unit
    return path


@pytest.mark.parametrize(
    "units", ["deg", "Degrees", "degree ", "°", "DEG", "[deg]", b"degrees", "rad", "Radian", "arcmin"]
)
def test_angles_in_any_spelling(tmp_path, units):
    name = units.decode() if isinstance(units, bytes) else units
    per_degree = math.pi / 180 if name.lower().startswith("rad") else 60.0 if name == "arcmin" else 1.0
    scan = read_dxchange(write(tmp_path / "a.h5", theta=THETA * per_degree, units=units))
    np.testing.assert_allclose(scan.angles, np.deg2rad(THETA), rtol=1e-12)


@pytest.mark.parametrize("units", [None, "", "turns", "m", "x" * 300])
def test_a_unit_of_angles_is_never_guessed(tmp_path, units):
    assert "angles=" in refused(read_scan, write(tmp_path / "a.h5", units=units))


def test_the_caller_states_the_unit(tmp_path):
    path = write(tmp_path / "a.h5", units=None)
    np.testing.assert_allclose(read_scan(path, angles="deg").angles, np.deg2rad(THETA))
    assert "angles=" in refused(read_scan, path, angles="rad")  # 24 turns
    assert "angles" in refused(read_scan, path, angles="degrees, I think")


@pytest.mark.parametrize(("label", "true", "factor"), [("rad", "deg", math.pi / 180), ("deg", "rad", 1.0)])
def test_the_caller_is_right_where_the_label_is_wrong(tmp_path, label, true, factor):
    theta = THETA if true == "deg" else np.deg2rad(THETA)
    nexus = write_nxtomo(tmp_path / "a.nxs", theta=angles_of(angles=theta), units=label)
    for path in (write(tmp_path / "a.h5", theta=theta, units=label), nexus):
        with pytest.warns(UserWarning, match=f"{label}.*angles='{true}'"):
            scan = read_scan(path, angles=true)
        np.testing.assert_allclose(scan.angles, factor * theta)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_scan(path, angles=np.deg2rad(THETA))  # no label matters to given angles
    assert "angles='deg'" in refused(read_scan, write(tmp_path / "b.h5", theta=30 * THETA, units="rad"))


@pytest.mark.parametrize(
    ("units", "mm"),
    [("um", 6.9e-4), ("µm", 6.9e-4), ("μm", 6.9e-4), ("Microns", 6.9e-4), ("micrometers ", 6.9e-4), ("micron", 6.9e-4),
     ("Micrometres", 6.9e-4), ("mm", 0.69), ("MM", 0.69), ("m", 690), ("nm", 6.9e-7), ("angstroms", 6.9e-8),
     ("um/pixel", 6.9e-4)],
)  # fmt: skip
@pytest.mark.parametrize("name", [f"{OBJECTIVE}/resolution", f"{DETECTOR}/actual_pixel_size_x"])
def test_sizes_in_any_spelling(tmp_path, units, mm, name):
    scan = read_dxchange(write(tmp_path / "a.h5", {name: (0.69, units)}))
    assert scan.pixel_size_mm == scan.pitch_mm == pytest.approx(mm, rel=1e-9)


@pytest.mark.parametrize("units", [None, "", "pixels", "deg", "1/m"])
def test_a_unit_of_sizes_is_never_guessed(tmp_path, units):
    path = write(tmp_path / "a.h5", {f"{DETECTOR}/actual_pixel_size_x": (0.69, units)})
    assert "pixel_size_mm=" in refused(read_scan, path)
    assert read_scan(path, pixel_size_mm=0.00069).pitch_mm == 0.00069
    assert "pixel_size_mm" in refused(read_dxchange, path, pixel_size_mm=math.nan)


def test_the_pixel_of_the_camera_is_not_that_of_the_sample(tmp_path):
    camera = {f"{DETECTOR}/pixel_size": (3.45, "microns")}
    alone = read_dxchange(write(tmp_path / "a.h5", camera))
    assert alone.pixel_size_mm is None and alone.facts["camera_pixel_size_mm"] == pytest.approx(0.00345)
    magnified = read_dxchange(write(tmp_path / "b.h5", camera | {f"{OBJECTIVE}/magnification": "5x"}))
    assert magnified.pixel_size_mm == pytest.approx(0.00069)
    tomoscan = read_dxchange(write(tmp_path / "c.h5", camera | {f"{OBJECTIVE}/resolution": ([0.69], "microns")}))
    assert tomoscan.pixel_size_mm == pytest.approx(0.00069)
    unset = read_dxchange(write(tmp_path / "d.h5", {f"{OBJECTIVE}/resolution": (0.0, "microns")}))
    assert unset.pixel_size_mm is None
    two = {f"{OBJECTIVE}/resolution": (0.69, "um"), f"{DETECTOR}/actual_pixel_size_x": (3.45, "um")}
    assert "pixel_size_mm=" in refused(read_dxchange, write(tmp_path / "e.h5", two))


@pytest.mark.parametrize("prefix", ["rotation_", ""])
def test_a_first_angle_and_a_step(tmp_path, prefix):
    steps = {f"{ROTATION}/{prefix}start": (-10.0, "degrees"), f"{ROTATION}/{prefix}step": (0.25, "degrees")}
    steps[f"{ROTATION}/num_angles"] = 1500
    scan = read_dxchange(write(tmp_path / "a.h5", steps, theta=False))
    np.testing.assert_allclose(scan.angles, np.deg2rad(-10 + 0.25 * np.arange(N_ANGLES)))
    bare = {name: value[0] if isinstance(value, tuple) else value for name, value in steps.items()}
    path = write(tmp_path / "b.h5", bare, theta=False)
    assert "angles=" in refused(read_dxchange, path)
    np.testing.assert_allclose(read_scan(path, angles="deg").angles, scan.angles)
    assert "angles=" in refused(read_dxchange, write(tmp_path / "c.h5", theta=False))


def test_scans_that_were_stopped_early(tmp_path):
    path = write(tmp_path / "a.h5", theta=np.arange(20) * 9.0)
    with pytest.warns(UserWarning, match="angles="):
        scan = read_dxchange(path)
    np.testing.assert_allclose(scan.angles, np.deg2rad(np.arange(N_ANGLES) * 9.0))
    transposed = write(tmp_path / "b.h5", theta=np.arange(N_BINS) * 20.0)
    assert "transposed" in refused(read_dxchange, transposed)
    assert "angles=" in refused(read_dxchange, write(tmp_path / "c.h5", theta=np.arange(4.0)))


def frame_numbers(path, kinds, ids):
    where = {"p": "/exchange/data", "w": "/exchange/data_white", "d": "/exchange/data_dark"}
    with h5py.File(path, "a") as file:
        file["defaults/HDF5FrameLocation"] = np.array([where[kind].encode() for kind in kinds], "S256")
        file["defaults/NDArrayUniqueId"] = np.asarray(ids, np.int32)
    return path


def test_frames_know_their_places(tmp_path):
    """Flats before and after, and two views that the camera lost."""
    frames = {"data_white": COUNTS[:3], "data_dark": COUNTS[:1]}
    kinds, ids = "dww" + "pppppp" + "w", [1, 1, 2, 10, 11, 13, 14, 15, 17, 20]
    steps = {f"{ROTATION}/rotation_start": (0.0, "deg"), f"{ROTATION}/rotation_step": (10.0, "deg")}
    scan = read_dxchange(frame_numbers(write(tmp_path / "a.h5", steps, theta=False, **frames), kinds, ids))
    np.testing.assert_allclose(scan.angles, np.deg2rad([0, 10, 30, 40, 50, 70]))
    np.testing.assert_array_equal(scan.times, np.arange(3, 9))
    np.testing.assert_array_equal(scan.flat_times, [1, 2, 9])
    np.testing.assert_array_equal(scan.dark_times, [0])
    longer = frame_numbers(write(tmp_path / "b.h5", theta=np.arange(8) * 10.0 + 5, **frames), kinds, ids)
    with pytest.warns(UserWarning, match="missing"):
        assert np.rad2deg(read_dxchange(longer).angles) == pytest.approx([5, 15, 35, 45, 55, 75])
    ready = frame_numbers(write(tmp_path / "c.h5", **frames), kinds, ids)  # TomoScan leaves their angles out itself
    np.testing.assert_allclose(read_dxchange(ready).angles, np.deg2rad(THETA))
    other = frame_numbers(write(tmp_path / "d.h5", **frames), kinds[1:-2], ids[1:-2])
    assert read_dxchange(other).times is None


def test_a_value_in_place_of_flats(tmp_path):
    values = {
        f"process/acquisition/{name}_fields/{name}_field_value": v for name, v in (("flat", 1000), ("dark", 96.5))
    }
    scan = read_scan(write(tmp_path / "a.h5", values), rows=slice(0, 2))
    assert scan.flat.shape == scan.dark.shape == (2, 1, N_BINS)
    assert (scan.flat == 1000).all() and (scan.dark == 96.5).all()
    assert scan.facts["flat_field_value"] == 1000
    zeros = read_scan(write(tmp_path / "b.h5", values, data_white=np.zeros((1, N_ROWS, N_BINS))))
    assert (zeros.flat == 1000).all()
    measured = read_scan(write(tmp_path / "c.h5", values, data_white=COUNTS[:2]))
    assert measured.flat.shape == (N_ROWS, 2, N_BINS) and "flat_field_value" not in measured.facts
    assert read_scan(write(tmp_path / "d.h5")).flat is None


def test_half_acquisition_keeps_its_turn(tmp_path):
    scan = read_dxchange(write(tmp_path / "a.h5", theta=np.linspace(0, 360, N_ANGLES)))
    assert scan.angles[-1] == pytest.approx(2 * math.pi)


def test_radians_that_are_called_degrees(tmp_path):
    theta = np.linspace(0, math.pi, 400)
    path = write(tmp_path / "a.h5", theta=theta, data=np.ones((400, 2, 3), np.uint16))
    with pytest.warns(UserWarning, match="angles="):
        read_dxchange(path)


def test_templates_that_name_the_first_axis_only(tmp_path):
    with h5py.File(write(tmp_path / "a.h5"), "a") as file:
        file["exchange/data"].attrs["axes"] = "theta"
    np.testing.assert_array_equal(read_dxchange(tmp_path / "a.h5").y, np.moveaxis(COUNTS, 1, 0))


def test_links_within_the_folder(tmp_path):
    write(tmp_path / "a.h5", data_white=COUNTS[:2])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for name in ("data", "theta"):
            file[f"exchange/{name}"] = h5py.ExternalLink("a.h5", f"/exchange/{name}")
        file["exchange/data_white"] = h5py.ExternalLink("flats.h5", "/exchange/data_white")
        file["process/notes"] = h5py.ExternalLink("/etc/passwd", "/")
    scan = read_scan(tmp_path / "b.h5")
    np.testing.assert_array_equal(scan.y, np.moveaxis(COUNTS, 1, 0))
    assert scan.flat is None and scan.facts["files"] == ["a.h5"]


def test_rows_in_the_place_of_bins_are_told(tmp_path):
    """(views, bins, rows): a detector of two bins is none."""
    turned = COUNTS[:, :2].swapaxes(1, 2)
    for path in (
        write(tmp_path / "a.h5", data=turned, axes=None, data_white=turned),
        write_nxtomo(tmp_path / "a.nxs", data=frames_of(counts=turned)),
    ):
        message = refused(read_scan, path)
        assert str(path) in message and "transposed" in message and str(N_BINS) in message
    right = write(tmp_path / "b.h5", data=turned, axes=None)
    with h5py.File(right, "a") as file:
        file["exchange/data"].attrs["axes"] = "theta:x:y"
    assert read_scan(right).y.shape == (2, N_ANGLES, N_BINS)


@pytest.mark.parametrize("kind", ["transmissions", "line integrals"])
def test_values_that_were_divided_by_the_beam_already(tmp_path, kind):
    """Their flats and darks were used; subtracted again, a dark would change them."""
    values = np.random.default_rng(0).random(COUNTS.shape).astype(np.float32)
    path = write(tmp_path / "a.h5", data=values, data_white=COUNTS, data_dark=COUNTS)
    for scan in (read_scan(path, kind=kind), read_dxchange(path, kind=kind, rows=slice(1, 2))):
        assert scan.kind == kind and scan.flat is None and scan.dark is None
    np.testing.assert_array_equal(scan.y[0], values[:, 1])
    frames = np.random.default_rng(0).random(frames_of().shape).astype(np.float32)
    scan = read_scan(write_nxtomo(tmp_path / "a.nxs", data=frames), kind=kind)
    assert scan.kind == kind and scan.flat is None and scan.dark is None and len(scan.angles) == N_ANGLES
    assert "kind" in refused(read_scan, path, kind="photons")
