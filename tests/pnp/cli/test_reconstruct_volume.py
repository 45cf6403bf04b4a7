"""--volume: the slices of a parallel beam with a prior across them, as one volume or in slabs."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
import zarr
from arrays import rel
from command import run
from random_networks import SMALL
from scan_files import N_ROWS, scan_file

from denoisers import TV, MLPatch
from operators import FanBeam, ParallelBeam, Radon
from pnp import solve
from pnp.io import guards, read_result, write_measurements
from pnp.stack import slabs as slabs_module
from pnp.stack.slabs import Slabs, number_at_a_time, plan, resumed_plan, solve_slabs

ANGLES = np.arange(12) * np.pi / 12
QUICK = ("--denoiser", "tv", "--max-iter", "3", "--noise-std", "0.05")


def rods(n: int) -> torch.Tensor:
    """Return slices (n, 1, 12, 12) that hardly change along the stack."""
    row = torch.arange(12.0) - 5.5
    disc = ((row**2 + row[:, None] ** 2) < 20).float()
    return torch.stack([disc + 0.3 * torch.roll(disc, d // 4, 1) for d in range(n)])[:, None]


@pytest.fixture
def stack(tmp_path):
    y = Radon((12, 12), ANGLES).A(rods(7))
    y = y + 0.05 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "stack.h5"
    write_measurements(path, y.numpy(), operator="radon", parameters={"shape": (12, 12), "angles": ANGLES})
    return path, y


def test_a_stack_is_solved_as_the_volume_that_it_is(stack, scheduler, tmp_path, monkeypatch, capsys):
    path, y = stack
    out = tmp_path / "x.h5"
    assert run(monkeypatch, "reconstruct-stack", path, "-o", out, *QUICK, "--volume", *scheduler) == 0
    assert "7 of 7 slices" in capsys.readouterr().out
    A = ParallelBeam((7, 12, 12), ANGLES)
    want = solve(A, y[:, 0].transpose(0, 1)[None, None], TV(), noise_std=0.05, max_iter=3).x
    saved = read_result(out)
    assert saved.x.shape == (7, 1, 12, 12) and rel(saved.x[:, 0], want[0, 0].numpy()) < 1e-6
    assert not list(tmp_path.glob("*.slabs")) and not list(tmp_path.glob("*.parts"))


def test_slabs_cover_every_slice_and_their_seams_are_faint(stack, scheduler, tmp_path, monkeypatch, capsys):
    path, y = stack
    monkeypatch.setattr("pnp.stack.slabs.plan", lambda n, *_: Slabs(n, 5, 2))
    out = tmp_path / "x.zarr"
    assert run(monkeypatch, "reconstruct-stack", path, "-o", out, *QUICK, "--volume", *scheduler) == 0
    assert "3 slabs of 5 slices" in capsys.readouterr().out
    A = ParallelBeam((7, 12, 12), ANGLES)
    want = solve(A, y[:, 0].transpose(0, 1)[None, None], TV(), noise_std=0.05, max_iter=3).x
    assert rel(np.asarray(zarr.open_array(str(out / "image"))[:, 0]), want[0, 0].numpy()) < 0.03


@pytest.mark.parametrize(("n", "size", "halo"), [(20, 10, 2), (7, 7, 0), (7, 5, 2), (100, 33, 8), (31, 30, 8)])
def test_every_slice_is_kept_once_away_from_the_ends(n, size, halo):
    slabs = Slabs(n, size, halo)
    kept = [d for k in range(len(slabs)) for d in range(n)[slabs.kept(k)]]
    assert kept == list(range(n))
    for k in range(len(slabs)):
        rows, mine = slabs.rows(k), slabs.kept(k)
        assert rows.stop - rows.start == size and 0 <= rows.start and rows.stop <= n
        assert mine.start - rows.start >= halo or rows.start == 0
        assert rows.stop - mine.stop >= halo or rows.stop == n


def test_slabs_fit_into_memory_or_are_refused(monkeypatch):
    assert len(plan(100, (512, 512), (180, 512), 1)) >= 1
    needed = 4 * (slabs_module._VOLUMES * 64 * 64 + slabs_module._VIEWS * 30 * 64)
    monkeypatch.setattr(guards, "_memory", lambda: 40 * needed / slabs_module._SHARE)
    slabs = plan(100, (64, 64), (30, 64), 1)
    assert slabs.size <= 40 and len(slabs) == 4
    with pytest.raises(ValueError, match="--volume") as error:
        plan(100, (64, 64), (30, 64), 2)
    assert len(str(error.value)) < 400


def in_slabs(stack, out, workers=1, **options):
    """Solve the stack in the slabs that two workers leave memory for, or in those of the run that is resumed."""
    slabs = resumed_plan(out, 7) or Slabs(7, {1: 7, 2: 5}[workers], {1: 0, 2: 2}[workers])
    volume_of = ParallelBeam.from_slices
    options = {"noise_std": 0.05, "max_iter": 2, "n_workers": workers} | options
    return slabs, solve_slabs(
        Radon((12, 12), ANGLES), stack, TV(), volume_of=volume_of, output=out, slabs=slabs, **options
    )


def test_a_run_resumes_with_other_workers(stack, client, tmp_path, monkeypatch):
    path, _ = stack
    monkeypatch.setattr(slabs_module, "HALO", 2)
    two = {"workers": 2, "client": client, "n_workers": None}
    _, whole = in_slabs(path, tmp_path / "whole.zarr", **two)

    def killed(*_):
        raise SystemExit  # the slabs are solved, the slices not yet written

    with monkeypatch.context() as broken:
        broken.setattr(slabs_module, "_spread", killed)
        with pytest.raises(SystemExit):
            in_slabs(path, tmp_path / "x.zarr", **two)
    assert (tmp_path / "x.zarr.slabs").exists()
    slabs, result = in_slabs(path, tmp_path / "x.zarr", **two | {"workers": 1})
    assert slabs == Slabs(7, 5, 2) and result.done == 7
    images = [zarr.open_array(str(folder / "image"))[:] for folder in (whole.output, result.output)]
    assert np.array_equal(*images)
    assert not (tmp_path / "x.zarr.slabs").exists()
    _, again = in_slabs(path, tmp_path / "x.zarr", **two | {"workers": 1})  # finished, whatever the plan
    assert again.computed == 0 and again.done == 7


def test_slabs_that_a_killed_run_left_are_removed(stack, client, tmp_path, monkeypatch):
    path, _ = stack
    monkeypatch.setattr(slabs_module, "HALO", 2)
    options = {"workers": 2, "client": client, "n_workers": None}
    with monkeypatch.context() as broken:
        broken.setattr(slabs_module.shutil, "rmtree", lambda *_, **__: None)
        in_slabs(path, tmp_path / "x.zarr", **options)
    assert (tmp_path / "x.zarr.slabs").exists()
    in_slabs(path, tmp_path / "x.zarr", **options)
    assert not (tmp_path / "x.zarr.slabs").exists()


def test_a_plan_is_of_a_run_of_as_many_slices(stack, client, tmp_path, monkeypatch):
    path, _ = stack
    monkeypatch.setattr(slabs_module, "HALO", 2)
    with monkeypatch.context() as broken:
        broken.setattr(slabs_module.shutil, "rmtree", lambda *_, **__: None)
        in_slabs(path, tmp_path / "x.zarr", workers=2, client=client, n_workers=None)
    assert resumed_plan(tmp_path / "x.zarr", 7) == Slabs(7, 5, 2)
    assert resumed_plan(tmp_path / "x.zarr", 30) is None and resumed_plan(tmp_path / "x.zarr", 4) is None
    assert resumed_plan(tmp_path / "none.zarr", 7) is None


def test_slabs_of_an_earlier_run_are_solved_as_many_at_a_time_as_fit(monkeypatch):
    needed = 4 * (slabs_module._VOLUMES * 64 * 64 + slabs_module._VIEWS * 30 * 64)
    monkeypatch.setattr(guards, "_memory", lambda: 85 * needed / slabs_module._SHARE)
    assert [number_at_a_time(Slabs(100, n, 8), (64, 64), (30, 64)) for n in (20, 40, 84, 99)] == [4, 2, 1, 1]


def test_a_scan_is_a_volume_with_the_axis_of_each_row(scheduler, tmp_path, monkeypatch, capsys):
    scan, out = scan_file(tmp_path / "scan.h5"), tmp_path / "x.nii.gz"
    command = ("reconstruct", scan, "-o", out, "--denoiser", "tv", "--max-iter", "3", "--volume", *scheduler)
    assert run(monkeypatch, *command) == 0
    said = capsys.readouterr().out
    assert "prior across slices" in said and f"{N_ROWS} of {N_ROWS} slices" in said and out.exists()
    assert not list(tmp_path.glob("*.slabs")) and (tmp_path / "x.nii.gz.html").exists()


def test_a_denoiser_of_volumes_implies_a_volume(stack, scheduler, tmp_path, monkeypatch, capsys):
    path, _ = stack
    weights = tmp_path / "volume.safetensors"
    torch.manual_seed(0)
    MLPatch(**SMALL, dimensions=3).save(weights)
    options = ("--denoiser", f"mlpatch:{weights}", "--max-iter", "1", "--noise-std", "0.05", *scheduler)
    assert run(monkeypatch, "reconstruct-stack", path, "-o", tmp_path / "x.zarr", *options) == 0
    capsys.readouterr()
    assert run(monkeypatch, "reconstruct", path, "-o", tmp_path / "x.h5", *options[:4]) == 2
    assert "--volume" in capsys.readouterr().err


def test_what_is_no_volume_is_refused(tmp_path, monkeypatch, capsys):
    A = FanBeam((12, 12), ANGLES, source_origin=60.0, origin_detector=0.0)
    parameters = {"shape": (12, 12), "angles": ANGLES, "source_origin": 60.0, "origin_detector": 0.0}
    path = tmp_path / "fan.h5"
    write_measurements(path, A.A(rods(3)).numpy(), operator="fan_beam", parameters=parameters)
    assert run(monkeypatch, "reconstruct-stack", path, "-o", tmp_path / "x.zarr", "--volume") == 2
    assert "radon" in capsys.readouterr().err


def test_parallel_beams_are_files_results_and_pages(tmp_path, monkeypatch, capsys):
    parameters = {"shape": (4, 12, 12), "angles": ANGLES, "voxel_size": (2.0, 1.0, 1.0), "offset": np.zeros(4)}
    A = ParallelBeam(**parameters)
    path, out, page = tmp_path / "y.h5", tmp_path / "x.h5", tmp_path / "x.html"
    y = A.A(rods(4).transpose(0, 1)[None])
    write_measurements(path, y.numpy(), operator="parallel_beam", parameters=parameters, length_units="mm")
    assert run(monkeypatch, "reconstruct", path, "-o", out, *QUICK, "--rings") == 0
    saved = read_result(out)
    assert saved.x.shape == (1, 1, 4, 12, 12) and saved.length_units == "mm"
    assert run(monkeypatch, "reconstruct", path, "-o", tmp_path / "x.nii", *QUICK) == 0
    assert run(monkeypatch, "report", out, "-o", page, "--measurements", path) == 0
    assert json.dumps([1.0, 1.0, 2.0]) in page.read_text(encoding="utf-8").replace("[1,", "[1.0,") or page.exists()
    with h5py.File(path, "r+") as file:
        file["operator"].attrs["shape"] = (5, 12, 12)
        del file["operator/offset"]
    capsys.readouterr()
    assert run(monkeypatch, "reconstruct", path, "-o", tmp_path / "z.h5", *QUICK) == 2
    assert "shape[0]" in capsys.readouterr().err
