"""A disk that is full: one sentence that says so, what had the name before untouched, nothing half-written left.

Twice: a limit on the size of files (EFBIG), anywhere; and a small file system (ENOSPC), as root on Linux.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command import run
from torch import nn
from toys import smooth

from pnp.drivers.checkpoint import Checkpoint, RunState
from pnp.io import SavedResult, read_result, write_fits_maps, write_image, write_measurements, write_nifti, write_result
from pnp.io.atomic import NotWritten, atomic_hdf5
from pnp.learned import UnrolledEM
from pnp.plots import save_panels
from pnp.report import write_report
from pnp.training import NoiseLevels, TrainingOptions
from pnp.training.denoiser import DenoisingTask, train_denoiser
from pnp.training.state import Run, load_checkpoint

resource = pytest.importorskip("resource", reason="limits on the size of files are Unix's")

ROOM = 100_000
"""Bytes a file may have; all that is written here is larger."""
DISK = 2**22
"""Bytes of the small file system."""
X = np.random.default_rng(0).random((1, 1, 300, 400)).astype("float32")


@contextmanager
def limited(room: int = ROOM) -> Iterator[None]:
    """Refuse, in this process and those it starts, to let a file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["limit", "disk"])
def full(request, tmp_path):
    """A folder in which little can be written, a context in which that is so, and what the system then says."""
    if request.param == "limit":
        yield SimpleNamespace(folder=tmp_path, now=limited, says=os.strerror(errno.EFBIG))
        return
    folder = tmp_path / "disk"
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")

    @contextmanager
    def now() -> Iterator[None]:
        ballast = folder / "ballast"
        with open(ballast, "wb") as file:
            file.write(bytes(shutil.disk_usage(folder).free - ROOM))
        yield
        ballast.unlink()

    yield SimpleNamespace(folder=folder, now=now, says=os.strerror(errno.ENOSPC))
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Wide(nn.Module):
    """A denoiser whose weights are larger than the room there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 199, padding=99)

    def forward(self, x, sigma):
        return x - 1e-3 * self.layer(x)


def sampler(batch: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(batch, 1, 8, 8, generator=generator)


def training_checkpoint(path: Path) -> None:
    options = TrainingOptions(1, batch=1, optimizer="adamw")
    Run(DenoisingTask(Wide(), sampler, NoiseLevels(0.1, 0.2), options), options).save(path)


def solve_checkpoint(path: Path) -> None:
    kept = RunState(Checkpoint(path), "solve", {})
    kept.keep({"x": torch.from_numpy(X)}, {})
    kept.write()


def many_small(path: Path) -> None:
    """HDF5 keeps small datasets to itself until the file is closed."""
    with atomic_hdf5(path, overwrite=True) as file:
        for k in range(400):
            file[f"a{k}"] = X[0, 0, 0]


RESULT = SavedResult(X, "mask", {}, None, {}, None, {})
OVER = {"overwrite": True}
WRITERS = {
    "x.png": lambda path: write_image(path, X[0, 0], bits=16, **OVER),
    "x.tif": lambda path: write_image(path, X[0, 0], **OVER),
    "x.npy": lambda path: write_image(path, X[0, 0], **OVER),
    "x.fits": lambda path: write_image(path, X[0, 0], **OVER),
    "maps.fits": lambda path: write_fits_maps(path, {"E": X[0, 0]}, **OVER),
    "x.nii.gz": lambda path: write_nifti(path, X[0], voxel_size_mm=1.0, **OVER),
    "x.nii": lambda path: write_nifti(path, X[0], voxel_size_mm=1.0, **OVER),
    "result.h5": lambda path: write_result(path, X, operator="mask", parameters={"mask": X[0, 0]}, **OVER),
    "y.h5": lambda path: write_measurements(path, X, operator="mask", parameters={"mask": X[0, 0]}, **OVER),
    "many.h5": many_small,
    "figure.png": lambda path: save_panels(path, {"x": X[0, 0]}, **OVER),
    "report.html": lambda path: write_report(path, RESULT, **OVER),
    "w.safetensors": lambda path: UnrolledEM(n_outer=3, features=64).save(path),
    "w.checkpoint": training_checkpoint,
    "solve.checkpoint": solve_checkpoint,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_what_was_there_stays(name, full):
    path = full.folder / name
    path.write_text("precious")
    with full.now(), pytest.raises(NotWritten) as caught:
        WRITERS[name](path)
    said = str(caught.value)
    assert str(path) in said and full.says in said and "\n" not in said and len(said) < 400
    assert path.read_text() == "precious" and list(full.folder.iterdir()) == [path]
    WRITERS[name](path)
    assert path.stat().st_size > ROOM  # with room, the same call writes, and it was too large


@pytest.fixture
def refusing(monkeypatch):
    """A switch: while it is on, nothing reaches the disk (ENOSPC), as `atomic` asks for it to."""
    switch = SimpleNamespace(on=False)

    def fsync(handle, fsync=os.fsync):
        if switch.on:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return switch


def trained(path: Path, steps: int, draw=sampler, **options) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))
    denoiser = nn.Module()
    denoiser.net, denoiser.forward = model, lambda x, sigma: x - model(x)
    levels, budget = NoiseLevels(0.1, 0.2), TrainingOptions(steps, batch=2, warmup=1)
    return train_denoiser(denoiser, draw, levels, budget, checkpoint=path, progress=False, **options)


def test_a_training_goes_on_while_the_disk_is_full(tmp_path, refusing):
    path, kept = tmp_path / "c", []

    def draw(batch, generator):
        """While steps 3, 4 and 5 are taken and were to be kept, the disk is full."""
        if path.exists():
            kept.append(load_checkpoint(path)["step"])
        draw.calls += 1
        refusing.on = 3 <= draw.calls <= 5
        return sampler(batch, generator=generator)

    draw.calls = 0
    with pytest.warns(UserWarning, match="checkpoint: .*No space left") as warned:
        net = trained(path, 8, draw, checkpoint_minutes=0)
    assert len(warned) == 3 and kept == [1, 2, 2, 2, 2, 6, 7]
    assert [p.name for p in tmp_path.iterdir()] == ["c"] and load_checkpoint(path)["step"] == 8
    whole = trained(tmp_path / "d", 8)
    assert all(map(torch.equal, net.state_dict().values(), whole.state_dict().values()))


def test_a_training_that_cannot_be_kept_at_its_end_says_so_and_leaves_the_checkpoint_before(tmp_path, refusing):
    path = tmp_path / "c"
    trained(path, 2)
    before = path.read_bytes()
    refusing.on = True
    with pytest.raises(NotWritten, match="No space left"):
        trained(path, 5, resume=True)
    assert path.read_bytes() == before
    refusing.on = False
    net, whole = trained(path, 5, resume=True), trained(tmp_path / "d", 5)
    assert all(map(torch.equal, net.state_dict().values(), whole.state_dict().values()))


def run_and_say(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    """Run the command; return its exit code and the last line on stderr."""
    capsys.readouterr()
    code = run(monkeypatch, *arguments)
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return code, (err.strip().splitlines() or [""])[-1]


def test_a_finished_solve_survives_that_its_output_cannot_be_written(tmp_path, monkeypatch, capsys, refusing):
    y, x, kept = tmp_path / "y.h5", tmp_path / "x.h5", tmp_path / "c"
    parameters = {"mask": X[0, 0, :32, :40] > 0.3}
    write_measurements(y, X[..., :32, :40], operator="mask", parameters=parameters, noise_std=0.1)
    command = ("reconstruct", y, "--denoiser", "tv", "--max-iter", 5)
    assert run_and_say(monkeypatch, capsys, *command, "-o", tmp_path / "whole.h5")[0] == 0

    commands = sys.modules["pnp.cli.reconstruct"]  # the package exports the command by the same name

    def save(*arguments, save=commands.save):
        refusing.on = True
        return save(*arguments)

    monkeypatch.setattr(commands, "save", save)
    code, said = run_and_say(monkeypatch, capsys, *command, "-o", x, "--checkpoint", kept)
    assert (code, said) == (2, f"pnp: output {x} cannot be written: No space left on device")
    assert not x.exists() and kept.exists()
    refusing.on = False
    monkeypatch.undo()
    monkeypatch.setattr(
        "pnp.algorithms.least_squares.LeastSquaresStep.__call__", None
    )  # no iteration is computed again
    assert run_and_say(monkeypatch, capsys, *command, "-o", x, "--checkpoint", kept)[0] == 0
    first, second = read_result(tmp_path / "whole.h5"), read_result(x)
    np.testing.assert_array_equal(first.x, second.x)
    assert first.attributes["stop"] == second.attributes["stop"] and second.attributes["n_iter"] == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole.h5", "x.h5", "y.h5"]


def test_commands_say_in_one_sentence_that_the_disk_is_full(full, tmp_path, monkeypatch, capsys):
    result, image = tmp_path / "result.h5", tmp_path / "y.npy"
    write_result(result, X, operator="mask")
    write_image(image, X[0, 0])
    for name, command in (("r.html", ("report", result)), ("x.npy", ("denoise", image, "--sigma", 0.1))):
        path = full.folder / name
        with full.now():
            code, said = run_and_say(monkeypatch, capsys, *command, "-o", path)
        assert code == 2 and said == f"pnp: output {path} cannot be written: {full.says}"
        assert not path.exists()


@pytest.fixture
def stack():
    pytest.importorskip("distributed", reason="the extra 'stack' is not installed")
    pytest.importorskip("zarr", reason="the extra 'stack' is not installed")

    from pnp.stack import results_store

    return results_store


def test_a_slice_that_cannot_be_written_is_open_and_the_others_stay(stack, full):
    folder = full.folder / "x.zarr"
    parts = stack.Parts.create(folder, 3, X.shape[1:], X.dtype, {})
    parts.finish(stack.Summary(0, (1.0, 1.0, 1.0, 1.0)), X)
    with full.now(), pytest.raises(stack.CannotWrite, match=full.says):
        parts.finish(stack.Summary(1, (1.0, 1.0, 1.0, 1.0)), X + 1)
    assert list(parts.ledger()) == [stack.DONE, stack.OPEN, stack.OPEN]
    np.testing.assert_array_equal(parts.array("image")[0:1], X)
    parts.finish(stack.Summary(1, (1.0, 1.0, 1.0, 1.0)), X + 1)
    np.testing.assert_array_equal(parts.array("image")[1:2], X + 1)


def test_the_file_of_a_stack_is_whole_or_the_slices_stay(stack, full):
    from pnp.stack.to_hdf5 import to_hdf5

    parts, path = stack.Parts.create(full.folder / "x.parts", 2, X.shape[1:], X.dtype, {}), full.folder / "x.h5"
    for k in range(2):
        parts.finish(stack.Summary(k, (1.0, 1.0, 1.0, 1.0)), X + k)
    (full.folder / ".x.0123abcd.part.h5").write_text("what a killed run left")
    with full.now(), pytest.raises(NotWritten, match=full.says):
        to_hdf5(parts, path, X, remove=True, overwrite=False)
    assert [p.name for p in full.folder.iterdir()] == ["x.parts"] and (parts.ledger() == stack.DONE).all()
    to_hdf5(parts, path, X, remove=True, overwrite=False)
    np.testing.assert_array_equal(read_result(path).x, np.concatenate([X, X + 1]))
    assert [p.name for p in full.folder.iterdir()] == ["x.h5"]


def test_a_mosaic_is_whole_or_not_there(stack, full):
    from pnp.stack import denoise_mosaic

    path = full.folder / "z.zarr"
    denoise_mosaic(X[0], smooth, 0.1, output=path, halo=8, tile=200)
    before = sorted(p.relative_to(path) for p in path.rglob("*"))
    with full.now(), pytest.raises(OSError, match=rf"denoise_mosaic: output .*{full.says}"):
        denoise_mosaic(2 * X[0], smooth, 0.1, output=path, halo=8, tile=200, overwrite=True)
    assert sorted(p.relative_to(path) for p in path.rglob("*")) == before
    assert [p.name for p in full.folder.iterdir()] == ["z.zarr"]
