"""kill -9, with real processes: what was finished stays, nothing half-written has a final name, and runs resume."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run
from safetensors.torch import load_file
from toys import image

from operators import SPECT, Radon
from pnp.io import lock, read_result, write_image, write_measurements, write_result
from pnp.io.lock import exclusive
from pnp.training.state import load_checkpoint

PATIENCE_S = 200.0


class Command:
    """A `pnp` command, or a script, in a process of its own, on as many threads as this one; killed at last."""

    def __init__(self, *arguments: object, script: str | None = None) -> None:
        what = ["-m", "pnp.cli"] if script is None else ["-c", script]
        threads = {name: str(torch.get_num_threads()) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, *what, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **threads},
            start_new_session=True,
        )

    def __enter__(self) -> Command:
        return self

    def wait_for(self, event: Callable[[], bool], seconds: float = 0.0) -> None:
        """Wait until something is seen on the disk, and a little longer."""
        start = time.monotonic()
        while not event():
            assert self.process.poll() is None, self.process.stderr.read().decode()[-2000:]
            assert time.monotonic() - start < PATIENCE_S, "nothing came"
            time.sleep(0.002)
        time.sleep(seconds)

    def freeze(self) -> None:
        """Let it go no further, and keep what it has."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """Kill it, and whatever it started."""
        assert self.process.poll() is None, "it ended before it was killed"
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=60)

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self.process.stderr.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def sinogram(tmp_path):
    """Measurements of a disc, 40 views: the x-update is by conjugate gradients, which start at the last x."""
    A = Radon((96, 96), torch.arange(40, dtype=torch.float64) * (torch.pi / 40))
    x = torch.nn.functional.pad(image(), (28, 28, 32, 32)).float()
    y = A.A(x)
    y = y + 0.1 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "y.h5"
    write_measurements(path, y, operator="radon", parameters={"shape": A.shape, "angles": A.angles}, noise_std=0.1)
    return path


@pytest.mark.parametrize("seconds", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
def test_a_reconstruction_goes_on_to_the_same_bits(sinogram, seconds, monkeypatch, capsys):
    folder = sinogram.parent
    output, kept = folder / "x.h5", folder / "c"
    command = ("reconstruct", sinogram, "--denoiser", "tv", "--max-iter", 40)
    keep = ("-o", output, "--checkpoint", kept, "--checkpoint-minutes", 0)
    with Command(*command, *keep) as process:
        process.wait_for(kept.exists, seconds)
        process.freeze()
        assert run(monkeypatch, *command, *keep) == 2  # two at once
        assert f"another run (process {process.process.pid} on " in capsys.readouterr().err.splitlines()[-1]
        process.kill()
    assert kept.exists() and not output.exists()
    (folder / ".c.0123abcd.part").write_text("half a checkpoint")
    assert run(monkeypatch, *command, *keep) == 0
    assert names(folder) == ["x.h5", "y.h5"]
    assert run(monkeypatch, *command, "-o", folder / "whole.h5") == 0
    whole, resumed = read_result(folder / "whole.h5"), read_result(output)
    np.testing.assert_array_equal(whole.x, resumed.x)
    for name, values in whole.history.items():
        np.testing.assert_array_equal(values, resumed.history[name])
    assert whole.attributes["n_iter"] == resumed.attributes["n_iter"]


def test_a_checkpoint_is_not_the_output(sinogram, monkeypatch, capsys):
    output = sinogram.with_name("x.h5")
    assert run(monkeypatch, "reconstruct", sinogram, "-o", output, "--checkpoint", output) == 2
    assert "--checkpoint" in capsys.readouterr().err and names(sinogram.parent) == ["y.h5"]


@pytest.mark.slow
def test_ctrl_c_writes_the_checkpoint_and_not_the_output(sinogram):
    kept, output = sinogram.with_name("c"), sinogram.with_name("x.h5")
    command = ("reconstruct", sinogram, "--max-iter", 10000, "--noise-std", 1e-4)  # by MLPatch, for seconds
    with Command(*command, "-o", output, "--checkpoint", kept) as process:
        seen = b""
        while b"residuals" not in seen and process.process.poll() is None:  # an iteration has been finished
            seen += process.process.stderr.read1(64)
        process.process.send_signal(signal.SIGINT)
        _, err = process.process.communicate(timeout=100)
    assert process.process.returncode == 130 and b"the same command resumes" in err, (seen, err)
    assert names(sinogram.parent) == ["c", "y.h5"]


TRAIN_SPECT = ("train", "spect", "--size", 16, "--slices", 4, "--views", 6, "--scans", 2, "--features", 2)


@pytest.mark.parametrize(
    "mode", [pytest.param("end-to-end", marks=pytest.mark.slow), pytest.param("sequential", marks=pytest.mark.slow)]
)
def test_a_training_for_spect_goes_on_to_the_same_weights(mode, tmp_path, monkeypatch, capsys):
    output, kept = tmp_path / "w.safetensors", tmp_path / "w.safetensors.checkpoint"
    command = (*TRAIN_SPECT, "--steps", 60, "--mode", mode, "--device", "cpu", "--checkpoint-minutes", 0)
    with Command(*command, "-o", output) as process:
        process.wait_for(kept.exists, 0.1)
        process.freeze()
        assert run(monkeypatch, *command, "-o", output, "--resume") == 2
        assert "another run" in capsys.readouterr().err.splitlines()[-1]
        process.kill()
    assert not output.exists() and 0 < load_checkpoint(kept)["step"]
    assert run(monkeypatch, *command, "-o", output, "--resume") == 0
    assert run(monkeypatch, *command, "-o", tmp_path / "whole.safetensors") == 0
    a, b = load_file(output), load_file(tmp_path / "whole.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.slow
def test_a_training_of_a_denoiser_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    data = tmp_path / "photographs"
    data.mkdir()
    for k in range(3):
        write_image(data / f"{k}.png", torch.rand(3, 66, 70, generator=torch.Generator().manual_seed(k)))
    output, kept = tmp_path / "w.safetensors", tmp_path / "w.safetensors.checkpoint"
    command = ("train", "denoiser", "--data", data, "--crop", 64, "--batch", 1, "--steps", 6, "--device", "cpu")
    keep = ("--checkpoint-minutes", 0, "--validate-minutes", 100)
    with Command(*command, *keep, "-o", output) as process:
        process.wait_for(kept.exists)
        process.kill()
    assert not output.exists() and 0 < load_checkpoint(kept)["step"] < 6
    assert run(monkeypatch, *command, *keep, "-o", output, "--resume") == 0
    assert run(monkeypatch, *command, *keep, "-o", tmp_path / "whole.safetensors") == 0
    a, b = load_file(output), load_file(tmp_path / "whole.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.slow
def test_osem_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    angles = torch.arange(12, dtype=torch.float64) * (torch.pi / 6)
    parameters = {"shape": (24, 24, 8), "angles": angles, "voxel_size": 4.0}
    A = SPECT(**parameters)
    x = torch.zeros(1, 1, 24, 24, 8)
    x[..., 8:16, 6:14, 2:6] = 20
    y = torch.poisson(A.A(x).clamp(min=0), generator=torch.Generator().manual_seed(0))
    write_measurements(tmp_path / "y.h5", y, operator="spect", parameters=parameters, units="counts")
    command = ("osem", tmp_path / "y.h5", "--subsets", 4, "--iterations", 300)
    keep = ("-o", tmp_path / "x.npy", "--checkpoint", tmp_path / "c", "--checkpoint-minutes", 0)
    with Command(*command, *keep) as process:
        process.wait_for((tmp_path / "c").exists, 0.1)
        process.kill()
    assert not (tmp_path / "x.npy").exists()
    assert run(monkeypatch, *command, *keep) == 0
    assert run(monkeypatch, *command, "-o", tmp_path / "whole.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.load(tmp_path / "whole.npy"))
    assert names(tmp_path) == ["whole.npy", "x.npy", "y.h5"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_a_stack_computes_nothing_twice(suffix, tmp_path, monkeypatch, capsys):
    pytest.importorskip("distributed", reason="the extra 'stack' is not installed")
    zarr = pytest.importorskip("zarr", reason="the extra 'stack' is not installed")
    mask = torch.rand(96, 96, generator=torch.Generator().manual_seed(0)) < 0.6
    y = mask * torch.rand(12, 1, 96, 96, generator=torch.Generator().manual_seed(1))
    write_measurements(tmp_path / "y.h5", y, operator="mask", parameters={"mask": mask}, noise_std=0.1)
    output = tmp_path / f"x.{suffix}"
    parts = output if suffix == "zarr" else tmp_path / "x.h5.parts"
    command = ("reconstruct-stack", tmp_path / "y.h5", "-o", output, "--denoiser", "tv", "--workers", 1)

    def done() -> list[int]:
        try:
            return [int(k) for k in np.flatnonzero(zarr.open_array(str(parts / "ledger"), mode="r")[:] == 1)]
        except (OSError, KeyError, ValueError):
            return []

    def chunks() -> dict[str, int]:
        return {str(f): f.stat().st_mtime_ns for f in (parts / "image").rglob("*") if f.is_file()}

    with Command(*command) as process:
        process.wait_for(lambda: len(done()) >= 2)
        process.freeze()
        assert run(monkeypatch, *command) == 2
        assert "another run" in capsys.readouterr().err.splitlines()[-1]
        process.kill()
    first, before = done(), chunks()
    assert 2 <= len(first) < 12 and (suffix == "zarr" or not output.exists())
    ends = tuple(f"/{k}{dot}0{dot}0{dot}0" for k in first for dot in "/.")  # Zarr 3's names and Zarr 2's
    finished = {name: t for name, t in before.items() if name.endswith(ends)}
    assert len(finished) == len(first)
    script = f"""if True:
        import os, sys
        sys.argv = ["pnp"] + {list(map(str, command))!r}
        from pnp.cli import main
        if __name__ == "__main__":
            main()
    """
    again = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert again.returncode == 0, again.stderr
    assert f"12 of 12 slices, {12 - len(first)} in this run" in again.stdout
    if suffix == "zarr":
        now = chunks()
        assert {name: now[name] for name in finished} == finished
        found = zarr.open_array(str(output / "image"), mode="r")[:]
    else:
        found = read_result(output).x
    whole = ("-o", tmp_path / "whole.zarr", "--denoiser", "tv", "--workers", 1)
    subprocess.run(
        [sys.executable, "-m", "pnp.cli", "reconstruct-stack", tmp_path / "y.h5", *map(str, whole)],
        check=True, capture_output=True, timeout=PATIENCE_S,
    )  # fmt: skip
    np.testing.assert_array_equal(found, zarr.open_array(str(tmp_path / "whole.zarr" / "image"), mode="r")[:])
    assert not [name for name in names(tmp_path) if name.startswith(".") or name.endswith("parts")]


WRITE = """if True:
    import sys
    from pathlib import Path
    import numpy as np
    from pnp.io import SavedResult, read_result, write_result
    from pnp.report import write_report
    folder = Path(sys.argv[1])
    result = read_result(folder / "x.h5")
    k = 0
    while True:
        k += 1
        write_report(folder / "report.html", result, title=f"number {k}", overwrite=True)
        write_result(folder / "again.h5", result.x + k, overwrite=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_reports_and_results_are_whole_or_not_there(seed, tmp_path, monkeypatch):
    x = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    write_result(tmp_path / "x.h5", x, operator="mask")
    with Command(tmp_path, script=WRITE) as process:
        seconds = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
        process.wait_for(lambda: any(".part" in name for name in names(tmp_path)), seconds)
        process.kill()
    page, again = tmp_path / "report.html", tmp_path / "again.h5"
    if page.exists():
        assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    if again.exists():
        change = read_result(again).x - x.numpy()
        assert change.min() > 0.9 and np.ptp(change) < 1e-4
    assert run(monkeypatch, "report", tmp_path / "x.h5", "-o", page, "--overwrite") == 0
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")


HOLD = """if True:
    import runpy, sys, time
    from pathlib import Path
    with runpy.run_path(sys.argv[2])["exclusive"](sys.argv[1], "first"):  # alone: the package takes seconds to import
        Path(sys.argv[1] + ".held").touch()
        time.sleep(600)
"""


def test_a_lock_dies_with_its_process(tmp_path):
    output = tmp_path / "x"
    with Command(output, lock.__file__, script=HOLD) as process:
        process.wait_for((tmp_path / "x.held").exists)
        with pytest.raises(ValueError, match=rf"second: another run .*{process.process.pid} "):
            with exclusive(output, "second"):
                pass
        process.kill()
    assert ".x.lock" in names(tmp_path)  # left, and nobody's
    with exclusive(output, "third"):
        with pytest.raises(ValueError, match="fourth: another run"), exclusive(output, "fourth"):
            pass
    assert names(tmp_path) == ["x.held"]


def test_without_locks_a_run_is_not_refused_and_sweeps_nothing(tmp_path, monkeypatch):
    """A file system without locks: another run may be at work there."""

    def lock_descriptor(handle, blocking):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "lock_descriptor", lock_descriptor)
    (tmp_path / ".x.0123abcd.part").touch()
    with exclusive(tmp_path / "x", "first"), exclusive(tmp_path / "x", "second"):
        assert ".x.0123abcd.part" in names(tmp_path)
    assert names(tmp_path) == [".x.0123abcd.part"]


def test_a_lock_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / ".x.lock").mkdir()
    with pytest.raises(ValueError, match=r"test: .*x cannot be locked: .*\.x\.lock"), exclusive(tmp_path / "x", "test"):
        pass


def test_only_what_killed_runs_of_this_output_left_is_swept(tmp_path):
    left = (".x.0123abcd.part.h5", ".x.h5.0123abcd.part", ".x.h5.lock")
    kept = (
        ".y.0123abcd.part.h5",
        ".x.0123abcd.part.npy",
        ".x.0123.part.h5",
        "x.h5.part",
        ".xx.0123abcd.part.h5",
        "x.h5",
    )
    for name in (*left, *kept):
        (tmp_path / name).touch()
    (tmp_path / ".x.h5.89abcdef.part" / "inside").mkdir(parents=True)
    with exclusive(tmp_path / "x.h5", "test"):
        assert names(tmp_path) == sorted((*kept, ".x.h5.lock"))
    assert names(tmp_path) == sorted(kept)
