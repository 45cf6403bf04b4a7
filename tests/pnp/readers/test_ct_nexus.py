"""NXtomo: frames by their keys, geometry, several entries, and links that are followed, broken or lead away."""

from __future__ import annotations

import math
import os

import h5py
import numpy as np
import pytest
from nexus_files import ANGLES, KEYS, angles_of, frames_of, group_of, write_entry, write_nxtomo
from reader_files import COUNTS, N_ANGLES, N_BINS, N_ROWS, refused

from pnp.readers import read_nxtomo, read_scan

VIEWS = np.moveaxis(COUNTS, 1, 0)
METRES = {"instrument/detector/x_pixel_size": (6.5e-6, "m"), "instrument/detector/distance": (0.5, "m")}


@pytest.mark.parametrize("rows", [None, slice(1, 2), slice(0, 3, 2)])
def test_keys_tell_views_flats_and_darks(tmp_path, rows):
    scan = read_scan(write_nxtomo(tmp_path / "a.nxs", lengths=METRES), rows=rows)
    picked = rows or slice(None)
    np.testing.assert_array_equal(scan.y, VIEWS[picked])
    np.testing.assert_allclose(scan.angles, np.deg2rad(ANGLES))
    np.testing.assert_array_equal(scan.flat[0, :, 0] - 60000, np.flatnonzero(KEYS == 1))
    np.testing.assert_array_equal(scan.dark[0, :, 0] - 10, np.flatnonzero(KEYS == 2))
    assert scan.kind == "counts" and scan.pixel_size_mm == scan.pitch_mm == pytest.approx(0.0065)
    np.testing.assert_array_equal(scan.times, np.flatnonzero(KEYS == 0))
    np.testing.assert_array_equal(scan.flat_times, [1, 2, len(KEYS) - 2])
    np.testing.assert_array_equal(scan.dark_times, [0, len(KEYS) - 1])


def test_the_control_key_knows_alignment(tmp_path):
    keys = np.append(KEYS, [-1, -1])
    theta = np.append(angles_of(), [0.0, 90.0])
    scan = read_nxtomo(write_nxtomo(tmp_path / "a.nxs", keys=keys, theta=theta, image_key_control=keys))
    np.testing.assert_array_equal(scan.y, VIEWS)
    assert len(scan.angles) == N_ANGLES


@pytest.mark.parametrize("units", ["deg", "Degrees", " degree", "°", "rad", "radians"])
def test_angles_in_any_unit(tmp_path, units):
    theta = angles_of() if units.strip().lower()[0] in "d°" else np.deg2rad(angles_of())
    scan = read_nxtomo(write_nxtomo(tmp_path / "a.nxs", theta=theta, units=units))
    np.testing.assert_allclose(scan.angles, np.deg2rad(ANGLES))


def test_a_missing_unit_is_asked_for(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", units=None)
    assert "angles=" in refused(read_nxtomo, path)
    np.testing.assert_allclose(read_scan(path, angles="deg").angles, np.deg2rad(ANGLES))
    np.testing.assert_allclose(read_nxtomo(path, angles=np.arange(N_ANGLES) / 2).angles, np.arange(N_ANGLES) / 2)
    np.testing.assert_allclose(read_nxtomo(path, angles=np.deg2rad(angles_of())).angles, np.deg2rad(ANGLES))
    bare = write_nxtomo(tmp_path / "b.nxs", lengths={"instrument/detector/x_pixel_size": (0.0065, None)})
    assert "pixel_size_mm=" in refused(read_nxtomo, bare)
    assert read_nxtomo(bare, pixel_size_mm=0.0065).pixel_size_mm == 0.0065


def test_a_cone_beam_is_a_fan_and_a_far_source_is_not(tmp_path):
    lab = {
        "instrument/detector/x_pixel_size": (200.0, "um"),
        "instrument/detector/distance": (300.0, "mm"),
        "instrument/source/distance": (-0.1, "m"),
    }
    path = write_nxtomo(tmp_path / "a.nxs", data=np.tile(frames_of(), (1, 1, 60)), lengths=lab)
    scan = read_nxtomo(path)
    assert scan.source_origin_mm == pytest.approx(100) and scan.origin_detector_mm == pytest.approx(300)
    assert scan.pitch_mm == pytest.approx(0.2) and scan.pixel_size_mm == pytest.approx(0.05)
    last = read_nxtomo(path, rows=slice(-1, None))
    assert last.detector_rows() == range(len(scan.y))[-1:] and last.facts["middle_row"] == (len(scan.y) - 1) / 2
    given = read_nxtomo(path, pixel_size_mm=0.05)
    assert given.pitch_mm == pytest.approx(0.2) and given.pixel_size_mm == pytest.approx(0.05)
    far = read_nxtomo(write_nxtomo(tmp_path / "b.nxs", lengths=METRES | {"instrument/source/distance": (-145.0, "m")}))
    assert far.source_origin_mm is None and far.pitch_mm == pytest.approx(0.0065)
    assert far.facts["source_distance_mm"] == pytest.approx(145000)
    bare = lab | {"instrument/source/distance": (-0.1, None)}
    with pytest.warns(UserWarning, match="source"):
        assert read_nxtomo(write_nxtomo(tmp_path / "c.nxs", lengths=bare)).source_origin_mm is None


def test_the_size_on_the_sample_is_that_of_a_pixel(tmp_path):
    lengths = {"instrument/detector/x_pixel_size": (6.5e-6, "m"), "sample/x_pixel_size": (0.65, "micron")}
    assert read_nxtomo(write_nxtomo(tmp_path / "a.nxs", lengths=lengths)).pixel_size_mm == pytest.approx(0.00065)


@pytest.mark.parametrize("name", ["entry0000", "entry1/tomo_entry"])
def test_entries_of_esrf_and_diamond(tmp_path, name):
    scan = read_scan(write_nxtomo(tmp_path / "a.nxs", name))
    np.testing.assert_array_equal(scan.y, VIEWS)
    assert scan.facts["entry"] == name


def test_one_of_several_entries(tmp_path):
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        for k in range(3):
            write_entry(file, f"entry{k:04d}", theta=angles_of() + k)
    said = refused(read_scan, tmp_path / "a.nxs")
    assert "entry=" in said and "entry0002" in said
    scan = read_scan(tmp_path / "a.nxs", entry="entry0002")
    np.testing.assert_allclose(scan.angles, np.deg2rad(ANGLES + 2))
    assert "entry" in refused(read_scan, tmp_path / "a.nxs", entry="entry0009")


def test_the_first_version_has_a_detector_for_each_kind(tmp_path):
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        entry = group_of(file, "entry", "NXentry")
        instrument = group_of(entry, "instrument", "NXinstrument")
        for name, frames in (("sample", COUNTS), ("bright_field", COUNTS[:2]), ("dark_field", COUNTS[:1])):
            group_of(instrument, name, "NXdetector")["data"] = frames
        instrument["sample/sequence_number"] = np.arange(N_ANGLES) + 5
        instrument["bright_field/sequence_number"] = [1, 20]
        entry["sample/rotation_angle"] = ANGLES
        entry["sample/rotation_angle"].attrs["units"] = "degrees"
    scan = read_scan(tmp_path / "a.nxs")
    np.testing.assert_array_equal(scan.y, VIEWS)
    np.testing.assert_array_equal(scan.flat, VIEWS[:, :2])
    np.testing.assert_array_equal(scan.times, np.arange(N_ANGLES) + 5)
    np.testing.assert_array_equal(scan.flat_times, [1, 20])
    assert scan.dark_times is None
    assert scan.dark.shape == (N_ROWS, 1, N_BINS)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"keys": KEYS[1:], "data": frames_of(), "theta": angles_of()}, "key"),
        ({"keys": np.where(KEYS == 0, 1, KEYS), "data": frames_of()[:, :, :], "theta": angles_of()}, "projections"),
        ({"theta": angles_of()[2:]}, "angles="),
        ({"theta": np.full(len(KEYS), np.nan)}, "NaN"),
        ({"data": frames_of()[0]}, "key"),
        ({"data": frames_of().astype(complex)}, "complex"),
        ({"data": "frames"}, "real numbers"),
    ],
)
def test_nxtomo_refuses(tmp_path, changes, part):
    assert part in refused(read_nxtomo, write_nxtomo(tmp_path / "a.nxs", **changes))


def test_files_without_a_scan_say_what_they_hold(tmp_path):
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        group_of(file, "entry", "NXentry")["title"] = "diffraction"
    assert "'entry'" in refused(read_scan, tmp_path / "a.nxs")
    with pytest.raises(TypeError, match="rows"):
        read_nxtomo(write_nxtomo(tmp_path / "b.nxs"), rows=0)


# ------------------------------------------------------------------------------------------- links


def move_data(folder, target, where):
    """An NXtomo file whose frames are in another file, reached by `where`: a link, or a function that makes one."""
    with h5py.File(target, "w") as other:
        other["frames"] = frames_of()
    with h5py.File(write_nxtomo(folder / "a.nxs"), "a") as file:
        detector = file["entry/instrument/detector"]
        del detector["data"]
        if callable(where):
            where(detector)
        else:
            detector["data"] = where
    return folder / "a.nxs"


def virtual(name):
    def make(detector):
        layout = h5py.VirtualLayout((len(KEYS), N_ROWS, N_BINS), "u2")
        layout[:] = h5py.VirtualSource(name, "frames", layout.shape)
        detector.create_virtual_dataset("data", layout)

    return make


def test_links_that_nobody_needs_may_point_nowhere(tmp_path):
    with h5py.File(write_nxtomo(tmp_path / "a.nxs"), "a") as file:
        file["entry/gone"] = h5py.SoftLink("/entry/nowhere")
        file["entry/away"] = h5py.ExternalLink("/etc/passwd", "/")
        file["entry/instrument/raw"] = h5py.ExternalLink("deleted.h5", "/entry")
        file["circle"] = h5py.SoftLink("/circle")
        file["entry/data"] = h5py.SoftLink("/entry/instrument/detector")
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nxs").y, VIEWS)


@pytest.mark.parametrize("way", ["external", "virtual"])
@pytest.mark.parametrize("name", ["frames.h5", "raw/scan0001/frames.h5"])
def test_files_in_the_folder_are_read(tmp_path, way, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    where = h5py.ExternalLink(name, "/frames") if way == "external" else virtual(name)
    scan = read_scan(move_data(tmp_path, tmp_path / name, where), rows=slice(0, 2))
    np.testing.assert_array_equal(scan.y, VIEWS[:2])
    assert scan.facts["files"] == [name]


@pytest.mark.parametrize("way", ["external", "virtual"])
@pytest.mark.parametrize("kind", ["parent", "absolute", "symbolic", "device"])
def test_files_elsewhere_are_not_read(tmp_path, way, kind):
    (tmp_path / "in").mkdir()
    name = {"parent": "../frames.h5", "absolute": str(tmp_path / "in" / "frames.h5"), "symbolic": "link.h5"}.get(kind)
    target = tmp_path / "in" / "frames.h5" if kind == "absolute" else tmp_path / "frames.h5"
    if kind == "symbolic":
        os.symlink(target, tmp_path / "in" / "link.h5")
    if kind == "device":
        os.mkfifo(tmp_path / "in" / "pipe.h5")
        name = "pipe.h5"
    where = h5py.ExternalLink(name, "/frames") if way == "external" else virtual(name)
    assert "other files" in refused(read_scan, move_data(tmp_path / "in", target, where))


def test_a_source_that_leads_on_is_followed_no_farther(tmp_path):
    """The file beside is safe; what it links to is not."""
    (tmp_path / "in").mkdir()
    path = move_data(tmp_path / "in", tmp_path / "frames.h5", virtual("step.h5"))
    with h5py.File(tmp_path / "in" / "step.h5", "w") as file:
        file["frames"] = h5py.ExternalLink("../frames.h5", "/frames")
    assert "other files" in refused(read_scan, path)


def test_values_that_are_not_there_are_no_zeros(tmp_path):
    for where in (virtual("deleted.h5"), h5py.ExternalLink("deleted.h5", "/frames")):
        said = refused(read_scan, move_data(tmp_path, tmp_path / "unused.h5", where))
        assert "deleted.h5" in said and "not there" in said


def test_circles_of_files_end(tmp_path):
    path = move_data(tmp_path, tmp_path / "unused.h5", h5py.ExternalLink("b.h5", "/frames"))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["frames"] = h5py.ExternalLink("a.nxs", "/entry/instrument/detector/data")
    refused(read_scan, path)


def test_raw_bytes_of_other_files_are_not_read(tmp_path):
    with h5py.File(write_nxtomo(tmp_path / "a.nxs"), "a") as file:
        detector = file["entry/instrument/detector"]
        del detector["data"]
        detector.create_dataset("data", (len(KEYS), 2, 3), "u1", external=[("a.nxs", 0, h5py.h5f.UNLIMITED)])
    assert "other files" in refused(read_scan, tmp_path / "a.nxs")


def test_angles_near_two_turns_need_no_guess(tmp_path):
    theta = angles_of(angles=np.linspace(0, 2 * math.pi, N_ANGLES))
    assert read_nxtomo(write_nxtomo(tmp_path / "a.nxs", theta=theta, units="rad")).angles[-1] == 2 * math.pi
