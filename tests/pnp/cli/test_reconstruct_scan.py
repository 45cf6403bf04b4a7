"""From the file of a scan to a volume in physical units: formats, resuming, options and refusals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
from command import run
from paths import ROOT
from scan_files import ANGLES, CENTRE, N_BINS, N_ROWS, PIXEL_MM, ellipses, scan_file, truth

from denoisers import TV
from pnp import LeastSquares
from pnp.ct import prepare_scan
from pnp.io import read_measurements, read_result
from pnp.readers import read_scan

pytest.importorskip("distributed", reason="the extra 'stack' is not installed")
zarr = pytest.importorskip("zarr", reason="the extra 'stack' is not installed")

from pnp.stack import solve_stack, write_volume  # noqa: E402

QUICK = ("--denoiser", "tv", "--max-iter", "12")

ON_ONE_CORE = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pnp.cli import main
main()
"""
"""The command on one core: its one worker has one thread, and slices end one after the other."""


def check(images):
    """Images (n_rows, H, W) are the ellipses, in 1/mm."""
    for k, image in enumerate(images):
        wanted = truth(k)
        inside = wanted == 0.9
        assert image[inside].mean() == pytest.approx(0.9, rel=0.01)
        assert np.sqrt(np.mean((image - wanted) ** 2)) < 0.07


@pytest.mark.parametrize("name", ["volume.zarr", "volume.nii.gz", "volume.h5", "volume.tif", "slices"])
def test_a_scan_becomes_a_volume_with_its_pixel_size(name, scan, scheduler, tmp_path, monkeypatch, capsys):
    output = tmp_path / name
    assert run(monkeypatch, "reconstruct", scan, "-o", output, *QUICK, *scheduler) == 0
    said = capsys.readouterr()
    assert "3 of 3 detector rows" in said.out and "bin 29." in said.out
    (misfit,) = re.findall(r"misfit ([\d.]+)", said.out)
    assert 0.85 < float(misfit) < 1.15
    assert "warning" not in said.err and "3 of 3 slices" in said.out
    if name.endswith(".zarr"):
        group = zarr.open_group(str(output), mode="r")
        check(np.asarray(group["image"])[:, 0])
        assert group.attrs["voxel_size_mm"] == pytest.approx([PIXEL_MM] * 3) and group.attrs["units"] == "1/mm"
        assert any("bad" in step for step in group.attrs["steps"])
    elif name.endswith(".nii.gz"):
        image = nibabel.load(output)
        assert image.header.get_zooms() == pytest.approx([PIXEL_MM] * 3)
        assert image.header.get_xyzt_units()[0] == "mm"
        check(np.asarray(image.dataobj).transpose(2, 1, 0))  # (x, y, z) to (z, y, x)
    elif name.endswith(".h5"):
        result = read_result(output)
        check(result.x[:, 0])
        assert result.parameters["pixel_size"] == pytest.approx(PIXEL_MM) and result.operator == "radon"
        with h5py.File(output) as file:
            assert file["image"].attrs["voxel_size_mm"] == pytest.approx([PIXEL_MM] * 3)
            assert file["image"].attrs["units"] == "1/mm"
    else:
        files = sorted(output.iterdir()) if output.is_dir() else [output]
        assert len(files) == (N_ROWS if output.is_dir() else 1)
        with tifffile.TiffFile(files[0]) as tiff:
            tags = tiff.pages[0].tags
            assert tiff.imagej_metadata["unit"] == "mm" and tiff.imagej_metadata["spacing"] == pytest.approx(PIXEL_MM)
            for tag in ("XResolution", "YResolution"):
                per_mm, one = tags[tag].value
                assert per_mm / one == pytest.approx(1 / PIXEL_MM, rel=1e-6)
        check([page for file in files for page in tifffile.imread(file).reshape(-1, N_BINS, N_BINS)])
    page = (tmp_path / f"{name}.html").read_text()
    assert "Verdict" in page and "Nothing looked wrong" in page and "The axis of rotation is at bin 29." in page
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {name, f"{name}.html"}


def test_rings_are_noise_unless_they_are_not_wanted(scheduler, tmp_path, monkeypatch):
    """Bins whose gain is wrong by 1 % after the flats."""
    scan = scan_file(tmp_path / "scan.h5", gain_error=0.01)
    errors = {}
    for option in ("--rings", "--no-rings"):
        output = tmp_path / f"{option[2:]}.nii"
        command = ("reconstruct", scan, "-o", output, "--rows", "1", "--denoiser", "tv", "--max-iter", "40")
        assert run(monkeypatch, *command, option, *scheduler) == 0
        image = np.asarray(nibabel.load(output).dataobj)[:, :, 0].T
        errors[option] = np.sqrt(np.mean((image - truth(1)) ** 2))
    assert errors["--rings"] < 0.9 * errors["--no-rings"]


def test_a_finished_run_says_so(scan, scheduler, tmp_path, monkeypatch, capsys):
    command = ("reconstruct", scan, "-o", tmp_path / "v.zarr", "--rows", "1", *QUICK, *scheduler)
    assert run(monkeypatch, *command) == 0
    before = (tmp_path / "v.zarr.html").stat().st_mtime_ns
    capsys.readouterr()
    assert run(monkeypatch, *command) == 0
    assert "finished already" in capsys.readouterr().out
    assert (tmp_path / "v.zarr.html").stat().st_mtime_ns == before
    # Other settings are another run.
    assert run(monkeypatch, *command, "--strength", "2", "--no-drift") == 2
    error = capsys.readouterr().err
    assert "v.zarr" in error and "--strength was 1.0, is 2.0" in error and "--drift differ" in error
    assert "--overwrite" in error and "overwrite=" not in error and "LeastSquares" not in error
    assert run(monkeypatch, *command, "--strength", "2", "--overwrite") == 0


def test_a_killed_run_resumes(scan, scheduler, tmp_path, monkeypatch, capsys):
    output, log = tmp_path / "v.nii.gz", tmp_path / "log"
    command = [sys.executable, "-c", ON_ONE_CORE, "reconstruct", scan, "-o", output, "--workers", "1", *QUICK]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(log, "w") as stderr:
        first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=stderr, start_new_session=True)
        ledger = tmp_path / "v.nii.gz.parts" / "ledger"
        until = time.monotonic() + 120
        while first.poll() is None and time.monotonic() < until:
            if ledger.exists() and zarr.open_array(str(ledger), mode="r")[:].any():
                break
            time.sleep(0.02)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    done = int((zarr.open_array(str(ledger), mode="r")[:] == 1).sum())
    assert done >= 1 and not output.exists(), log.read_text()
    prepared = tmp_path / "v.nii.gz.prepared.h5"
    assert read_measurements(prepared).y.shape == (N_ROWS, 1, len(ANGLES), N_BINS)
    assert run(monkeypatch, "reconstruct", scan, "-o", output, *QUICK, *scheduler) == 0
    assert f"3 of 3 slices, {N_ROWS - done} in this run" in capsys.readouterr().out
    check(np.asarray(nibabel.load(output).dataobj).transpose(2, 1, 0))
    assert not prepared.exists() and not ledger.exists()


def test_ctrl_c_leaves_a_run_that_resumes(scan, scheduler, tmp_path, monkeypatch, capsys):
    from pnp.stack import slices

    command = ("reconstruct", scan, "-o", tmp_path / "v.tif", *QUICK, *scheduler)
    update = slices._Bar.update

    def interrupting(self, summary):
        update(self, summary)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(slices._Bar, "update", interrupting)
        assert run(patched, *command) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert not (tmp_path / "v.tif").exists() and (tmp_path / "v.tif.prepared.h5").exists()
    assert run(monkeypatch, *command) == 0
    check(tifffile.imread(tmp_path / "v.tif"))


@pytest.mark.parametrize("name", ["v.zarr", "v.tif"])
@pytest.mark.parametrize("step", ["write_page", "_write"])
def test_a_run_stopped_at_its_end_resumes(name, step, scan, scheduler, tmp_path, monkeypatch, capsys):
    from pnp.cli import reconstruct_scan

    command = ("reconstruct", scan, "-o", tmp_path / name, "--rows", "0", *QUICK, *scheduler)
    done = getattr(reconstruct_scan, step)

    def stopped(*arguments, **options):
        done(*arguments, **options)
        raise OSError("the power is gone")

    with monkeypatch.context() as patched:
        patched.setattr(reconstruct_scan, step, stopped)
        assert run(patched, *command) == 2
    capsys.readouterr()
    assert run(monkeypatch, *command) == 0
    assert "1 of 1 slices, 0 in this run" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.html"}


@pytest.mark.parametrize("centre", [None, [CENTRE, CENTRE, CENTRE + 1e-3]])
def test_the_same_in_python(centre, scan, scheduler, tmp_path):
    from distributed import Client

    prepared = prepare_scan(read_scan(scan), centre=centre)
    options = {"noise_std": prepared.noise_std, "bounds": (0, None), "data_term": LeastSquares(bin_std="estimate")}
    with Client(scheduler[1], set_as_default=False) as client:
        output = tmp_path / "v.zarr"
        result = solve_stack(prepared.operator, prepared.y, TV(), output=output, client=client, max_iter=12, **options)
    write_volume(result.output, tmp_path / "v.nii", voxel_size_mm=prepared.voxel_size_mm)
    image = nibabel.load(tmp_path / "v.nii")
    assert image.header.get_zooms() == pytest.approx([PIXEL_MM] * 3)
    check(np.asarray(image.dataobj).transpose(2, 1, 0))


def test_a_row_with_its_own_options(scan, scheduler, tmp_path, monkeypatch, capsys):
    options = ("--rows", "1:2", "--centre", "29.4", "--size", "48", "--noise-std", "0.02", "--robust")
    page = tmp_path / "page.html"
    command = ("reconstruct", scan, "-o", tmp_path / "row.nii", *options, "--bounds", "0,1", "--report", page)
    assert run(monkeypatch, *command, *QUICK, *scheduler) == 0
    assert "bin 29.40 (middle: 31.5), as given" in capsys.readouterr().out
    image = np.asarray(nibabel.load(tmp_path / "row.nii").dataobj)
    assert image.shape == (48, 48, 1) and image.min() >= 0 and image.max() <= 1 and page.exists()


def test_angles_without_a_unit_are_asked_for(scan, scheduler, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "scan.h5"
    copy.write_bytes(scan.read_bytes())
    with h5py.File(copy, "a") as file:
        del file["exchange/theta"].attrs["units"]
    command = ("reconstruct", copy, "-o", tmp_path / "v.nii", "--rows", "0", *QUICK, *scheduler)
    assert run(monkeypatch, *command) == 2
    assert "--angles deg" in capsys.readouterr().err
    assert run(monkeypatch, *command, "--angles", "deg") == 0


def test_tiff_projections_with_angles_flats_and_darks(scan, scheduler, tmp_path, monkeypatch, capsys):
    with h5py.File(scan) as file:
        for name, folder in (("data", "views"), ("data_white", "flats"), ("data_dark", "darks")):
            (tmp_path / folder).mkdir()
            for k, frame in enumerate(file[f"exchange/{name}"][:]):
                tifffile.imwrite(tmp_path / folder / f"{k:04d}.tif", frame)
    step = 180 / len(ANGLES)
    frames = ("--flat", tmp_path / "flats", "--dark", tmp_path / "darks", "--rows", "0")
    command = ("reconstruct", tmp_path / "views", "-o", tmp_path / "v.zarr", *frames, *QUICK, *scheduler)
    assert run(monkeypatch, *command) == 2
    assert "--angles" in capsys.readouterr().err
    angles = ("--angles", f"0:{180 - step}:{len(ANGLES)}")
    hidden = (tmp_path / "views" / "0050.tif").rename(tmp_path / "0050.tif")
    assert run(monkeypatch, *command, *angles) == 2
    assert "without 50" in capsys.readouterr().err  # why the angles are too many
    hidden.rename(tmp_path / "views" / "0050.tif")
    assert run(monkeypatch, *command, *angles, "--pixel-size", PIXEL_MM) == 0
    group = zarr.open_group(str(tmp_path / "v.zarr"), mode="r")
    check(np.asarray(group["image"])[:, 0])
    assert run(monkeypatch, *command, *angles, "--pixel-size", PIXEL_MM) == 0
    assert "finished already" in capsys.readouterr().out
    first = tmp_path / "views" / "0000.tif"
    tifffile.imwrite(first, tifffile.imread(first) + 1)  # another scan under the same names is another run
    assert run(monkeypatch, *command, *angles, "--pixel-size", PIXEL_MM) == 2
    np.savetxt(tmp_path / "angles.txt", np.rad2deg(ANGLES))
    again = ("reconstruct", tmp_path / "views", "-o", tmp_path / "w.zarr", *frames, *QUICK, *scheduler)
    assert run(monkeypatch, *again, "--angles", tmp_path / "angles.txt") == 0
    group = zarr.open_group(str(tmp_path / "w.zarr"), mode="r")
    assert group.attrs["units"] == "1/pixel" and "voxel_size_mm" not in group.attrs
    check(np.asarray(group["image"])[:, 0] / PIXEL_MM)
    np.savetxt(tmp_path / "angles.txt", np.rad2deg(ANGLES) + 1)
    capsys.readouterr()
    assert run(monkeypatch, *again, "--angles", tmp_path / "angles.txt") == 2


def test_the_page_says_what_looked_wrong_before_the_solver(scan, scheduler, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "scan.h5"
    copy.write_bytes(scan.read_bytes())
    with h5py.File(copy, "a") as file:
        file["exchange/data_white"][2] = 100  # a closed shutter
    assert run(monkeypatch, "reconstruct", copy, "-o", tmp_path / "v.nii", "--rows", "0", *QUICK, *scheduler) == 0
    assert "flat (2)" in capsys.readouterr().err and "flat (2)" in (tmp_path / "v.nii.html").read_text()


def test_slices_that_fail_are_named_and_the_others_are_kept(scan, scheduler, tmp_path, monkeypatch, capsys):
    from pnp.ct import prepare_scan as prepared_in_file

    def with_a_hole(*arguments, **options):
        found = prepared_in_file(*arguments, **options)
        with h5py.File(found.y, "a") as file:
            file["measurements"][1, 0, 3, 5] = np.nan
        return found

    command = ("reconstruct", scan, "-o", tmp_path / "v.nii", *QUICK, *scheduler)
    with monkeypatch.context() as patched:
        patched.setattr("pnp.ct.prepare_scan", with_a_hole)
        assert run(patched, *command) == 1
    said = capsys.readouterr()
    assert "2 of 3 slices" in said.out and "slice 1 failed: " in said.err
    assert "warning: Slices 1 (detector rows 1) are NaN in the volume" in said.err
    names = {"v.nii", "v.nii.html"}
    assert {path.name for path in tmp_path.iterdir()} == names | {"v.nii.parts", "v.nii.prepared.h5"}
    images = np.asarray(nibabel.load(tmp_path / "v.nii").dataobj).transpose(2, 1, 0)
    assert np.isnan(images[1]).all() and np.isfinite(images[[0, 2]]).all()
    page = (tmp_path / "v.nii.html").read_text()
    assert "the same command tries them again" in page and "those of detector rows 0, 2" in page
    # Without the prepared file, the line integrals are found again.
    (tmp_path / "v.nii.prepared.h5").unlink()
    assert run(monkeypatch, *command, "--overwrite") == 0
    assert {path.name for path in tmp_path.iterdir()} == names
    assert np.isfinite(np.asarray(nibabel.load(tmp_path / "v.nii").dataobj)).all()


@pytest.mark.parametrize("name", ["v.png", "v.fits", "missing/v.zarr", "missing/v.nii", "there.h5", "holds_others"])
def test_outputs_that_cannot_be_are_refused_at_once(name, scan, tmp_path, monkeypatch, capsys):
    (tmp_path / "there.h5").write_text("mine")
    (tmp_path / "holds_others").mkdir()
    (tmp_path / "holds_others" / "mine.txt").touch()
    assert run(monkeypatch, "reconstruct", scan, "-o", tmp_path / name) == 2
    said = capsys.readouterr()
    assert "output" in said.err and len(said.err.splitlines()) == 1 and not said.out


def test_rings_are_for_line_integrals(tmp_path, monkeypatch, capsys):
    from pnp.io import write_measurements

    y, sinogram = tmp_path / "y.h5", tmp_path / "sinogram.h5"
    write_measurements(y, np.ones((1, 1, 4, 4), np.float32), operator="identity", parameters={})
    for command in ("reconstruct", "reconstruct-stack"):
        assert run(monkeypatch, command, y, "-o", tmp_path / "x.h5", "--rings") == 2
        assert "--rings" in capsys.readouterr().err
    t = (np.arange(N_BINS) - 31.5) * PIXEL_MM
    clean = sum(e.sinogram(ANGLES, t, PIXEL_MM) for e in ellipses(0))
    spoiled = (clean + 0.03 * np.random.default_rng(0).standard_normal(N_BINS))[None, None].astype(np.float32)
    parameters = {"shape": (N_BINS, N_BINS), "angles": ANGLES, "n_detectors": N_BINS, "pitch": PIXEL_MM}
    parameters["pixel_size"] = PIXEL_MM
    write_measurements(sinogram, spoiled, operator="radon", parameters=parameters, noise_std=0.003)
    errors = []
    for option in ("--rings", "--no-rings"):
        output = tmp_path / f"{option[2:]}.h5"
        assert run(monkeypatch, "reconstruct", sinogram, "-o", output, "--denoiser", "tv", option) == 0
        errors.append(np.sqrt(np.mean((read_result(output).x[0, 0] - truth(0)) ** 2)))
    assert errors[0] < 0.8 * errors[1]


def test_options_of_scans_are_refused_for_measurements(tmp_path, monkeypatch, capsys):
    from pnp.io import write_measurements

    y = tmp_path / "y.h5"
    write_measurements(y, np.ones((1, 1, 4, 4), np.float32), operator="identity", parameters={})
    assert run(monkeypatch, "reconstruct", y, "-o", tmp_path / "x.h5", "--rows", "1") == 2
    assert re.search("--rows .*raw CT scans", capsys.readouterr().err)
    assert run(monkeypatch, "reconstruct", y, "-o", tmp_path / "x.h5", "--volume") == 2
    assert "reconstruct-stack" in capsys.readouterr().err


@pytest.fixture(scope="module")
def with_dead_row(scan, tmp_path_factory):
    """The scan with a middle row that measures nothing."""
    path = tmp_path_factory.mktemp("dead") / "scan.h5"
    path.write_bytes(scan.read_bytes())
    with h5py.File(path, "r+") as file:
        for name in ("data", "data_white", "data_dark"):
            values = file[f"exchange/{name}"][:]
            values[:, 1] = 0
            file[f"exchange/{name}"][:] = values
    return path


@pytest.mark.parametrize("name", ["v.zarr", "slices"])
def test_a_dead_row_is_nan_in_a_finished_volume(name, with_dead_row, scheduler, tmp_path, monkeypatch, capsys):
    output = tmp_path / name
    command = ("reconstruct", with_dead_row, "-o", output, *QUICK, *scheduler)
    assert run(monkeypatch, *command) == 0
    said = capsys.readouterr()
    assert "warning: row 1: " in said.err and "Slices 1 (detector rows 1) are NaN" in said.err
    assert "2 of 3 slices" in said.out and "slice 1 failed" not in said.err
    if name == "v.zarr":
        images = np.asarray(zarr.open_group(str(output), mode="r")["image"])[:, 0]
    else:
        images = np.stack([tifffile.imread(file) for file in sorted(output.iterdir())])
    assert np.isnan(images[1]).all()
    for k in (0, 2):
        assert images[k][truth(k) == 0.9].mean() == pytest.approx(0.9, rel=0.01)
    page = (tmp_path / f"{name}.html").read_text()
    assert "are NaN in the volume" in page and "those of detector rows 0, 2" in page
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.html"}
    if name == "v.zarr":
        assert run(monkeypatch, *command) == 0
        assert "finished already, 2 slices" in capsys.readouterr().out
