"""Stacks on a small cluster: equal to a plain loop, and what happens to slices, workers and runs that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from mosaics import network, picture
from paths import SUPPORT
from stacks import OPTIONS, SHAPE, Average, command, data, fails, masks, without_ledger

from denoisers import TV
from operators import Mask, Radon
from pnp import LeastSquares, Poisson, solve
from pnp.io import read_result, write_measurements

pytest.importorskip("distributed", reason="the extra 'stack' is not installed")
zarr = pytest.importorskip("zarr", reason="the extra 'stack' is not installed")

from pnp.drivers.fingerprint import fingerprint  # noqa: E402
from pnp.stack import denoise_mosaic, solve_stack  # noqa: E402
from pnp.stack.cluster import cores, engine, exit_at_sigterm, threads_per_process  # noqa: E402

# Noise in place of images: their misfits are rightly warned of, which is not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::pnp.drivers.result_warning.ResultWarning")


def blocks_interrupts() -> tuple[int, bool]:
    return os.getpid(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def loop(y: np.ndarray, **options) -> np.ndarray:
    return np.concatenate([solve(masks(k), y[k : k + 1], Average(), **options).x for k in range(len(y))])


def images(output) -> np.ndarray:
    return np.asarray(zarr.open_group(str(output), mode="r")["image"][:])


def begun(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "begun").read_text().split()]


@pytest.fixture(scope="module")
def client():
    """Two workers that the tests of this file share and kill."""
    with engine(None, 2, "tests") as (client, _):
        yield client


@pytest.mark.parametrize("source", ["hdf5", "named", "zarr", "numpy", "dask"])
def test_a_stack_is_a_loop(source, client, tmp_path):
    import dask.array as da

    y = data()
    if source == "hdf5":
        measurements = tmp_path / "y.h5"
        write_measurements(measurements, y, operator="mask", parameters={"mask": np.ones(SHAPE)})
    elif source == "named":
        with h5py.File(tmp_path / "y.h5", "w") as file:
            file["raw/views"] = y.astype(">f4")
        measurements = f"{tmp_path / 'y.h5'}::raw/views"
    elif source == "zarr":
        measurements = tmp_path / "y.zarr"
        zarr.open_array(str(measurements), mode="w", shape=y.shape, chunks=(4, 1, 8, 8), dtype=y.dtype)[:] = y
    else:
        measurements = y if source == "numpy" else da.from_array(y, chunks=(4, 1, 5, 5))
    result = solve_stack(masks, measurements, Average(), output=tmp_path / "x.zarr", client=client, **OPTIONS)
    np.testing.assert_array_equal(images(result.output), loop(y, **OPTIONS))
    assert (result.n, result.done, result.computed, result.failed) == (6, 6, 6, {})
    group = zarr.open_group(str(result.output), mode="r")
    assert list(group["ledger"][:]) == [1] * 6
    facts = dict(zip(group.attrs["facts"], np.asarray(group["facts"][:]).T, strict=True))
    assert list(facts["n_iter"]) == [4] * 6 and (facts["seconds"] > 0).all()
    assert facts["misfit"][2] == pytest.approx(solve(masks(2), y[2:3], Average(), **OPTIONS).misfit, rel=1e-6)


def test_each_slice_has_its_noise_data_term_and_operator(client, tmp_path):
    y, std = data(3), np.float32([0.05, 0.1, 0.2]).reshape(3, 1, 1, 1) * np.ones((1, 1, *SHAPE), np.float32)
    options = {"max_iter": 3, "bounds": (0, None)}
    terms = {0: LeastSquares(rtol=1e-4), 1: LeastSquares(), 2: LeastSquares(max_iter=3)}
    write_measurements(tmp_path / "y.h5", y, operator="mask", parameters={"mask": np.ones(SHAPE)}, noise_std=std)
    result = solve_stack(
        masks, tmp_path / "y.h5", Average(), output=tmp_path / "a.zarr", client=client, data_term=terms.get, **options
    )
    again = solve_stack(
        masks, y, Average(), output=tmp_path / "b.zarr", client=client, data_term=terms.get, noise_std=std, **options
    )
    found = [solve(masks(k), y[k : k + 1], Average(), noise_std=std[k : k + 1], **options).x for k in range(3)]
    np.testing.assert_array_equal(images(result.output), np.concatenate(found))
    np.testing.assert_array_equal(images(again.output), np.concatenate(found))
    counts = np.floor(20 * y)
    result = solve_stack(
        masks(0), counts, Average(), output=tmp_path / "c.zarr", client=client, data_term=Poisson(), **options
    )
    one = solve(masks(0), counts[1:2], Average(), data_term=Poisson(), **options).x
    np.testing.assert_array_equal(images(result.output)[1:2], one)


def test_slices_choose_their_own_strength(client, tmp_path):
    A = Radon((16, 16), torch.arange(60) * (np.pi / 60))
    x = torch.zeros(2, 1, 16, 16)
    x[:, :, 4:10, 5:12] = 1.0
    y = (A.A(x) + 0.1 * torch.randn(2, 1, 60, A.n_detectors, generator=torch.Generator().manual_seed(0))).numpy()
    options = {"noise_std": 0.1, "strength": "auto"}
    result = solve_stack(A, y, TV(), output=tmp_path / "x.h5", client=client, **options)
    alone = [solve(A, y[k : k + 1], TV(), **options) for k in range(2)]
    np.testing.assert_array_equal(read_result(result.output).x, np.concatenate([one.x for one in alone]))
    assert all("views" in one.strength_source for one in alone)
    assert result.choices == {k: tuple(one.candidates[0]) for k, one in enumerate(alone)}
    assert "chosen for 2 slices" in result.choice
    with h5py.File(result.output) as file:
        assert list(file["slices/strength"]) == [one.strength for one in alone]
        assert list(file["slices/prediction_error"]) == [one.prediction_error[0] for one in alone]


def test_hdf5_is_written_whole_at_the_end(client, tmp_path):
    y = data(3)
    write_measurements(tmp_path / "y.h5", y, operator="mask", parameters={"mask": np.ones(SHAPE)})
    output = tmp_path / "x.h5"
    result = solve_stack(masks, tmp_path / "y.h5", Average(), output=output, client=client, **OPTIONS)
    saved = read_result(result.output)
    np.testing.assert_array_equal(saved.x, loop(y, **OPTIONS))
    assert saved.operator == "mask" and saved.attributes["format"] == "pnp result"
    assert saved.attributes["slices"] == "3 of 3"
    with h5py.File(output) as file:
        assert list(file["slices/n_iter"]) == [4, 4, 4]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.h5", "y.h5"]
    with pytest.raises(ValueError, match="exists"):
        solve_stack(masks, tmp_path / "y.h5", Average(), output=output, client=client, **OPTIONS)


def test_a_slice_that_fails_says_why_and_is_tried_again(client, tmp_path):
    y = data()
    y[4, 0, 3, 3] = np.nan
    (tmp_path / "deed2").write_text("fail")
    make = partial(masks, folder=str(tmp_path))
    result = solve_stack(make, y, Average(), output=tmp_path / "x.zarr", client=client, **OPTIONS)
    assert (result.done, result.computed) == (4, 4)
    assert result.failed[2] == "ValueError: no such slice 2"
    assert result.failed[4].startswith("ValueError: solve: y must be finite, got NaN or infinity in 1 of 120")
    x = images(result.output)
    assert np.isnan(x[[2, 4]]).all() and np.isfinite(x[[0, 1, 3, 5]]).all()
    assert list(zarr.open_group(str(result.output), mode="r")["ledger"][:]) == [1, 1, 2, 1, 2, 1]

    (tmp_path / "deed2").unlink()
    (tmp_path / "begun").unlink()
    again = solve_stack(make, y, Average(), output=tmp_path / "x.zarr", client=client, **OPTIONS)
    assert (again.done, again.computed, list(again.failed)) == (5, 1, [4])
    assert set(begun(tmp_path)) == {2, 4}
    np.testing.assert_array_equal(images(again.output)[2], loop(y[:3], **OPTIONS)[2])


def test_hdf5_with_failures_keeps_the_parts(client, tmp_path):
    (tmp_path / "deed1").write_text("fail once")
    make = partial(masks, folder=str(tmp_path))
    output = tmp_path / "x.h5"
    result = solve_stack(make, data(3), Average(), output=output, client=client, **OPTIONS)
    assert np.isnan(read_result(output).x[1]).all() and list(result.failed) == [1]
    result = solve_stack(make, data(3), Average(), output=output, client=client, overwrite=True, **OPTIONS)
    assert (result.computed, result.failed) == (1, {})
    np.testing.assert_array_equal(read_result(output).x, loop(data(3), **OPTIONS))
    assert not (tmp_path / "x.h5.parts").exists()


def test_a_dask_array_that_cannot_be_computed_fails_by_slice(client, tmp_path):
    import dask.array as da

    y = da.from_array(np.arange(1.0, 5.0).reshape(4, 1, 1, 1) * np.ones((1, 1, *SHAPE)), chunks=(1, 1, *SHAPE))
    result = solve_stack(masks, y.map_blocks(fails), Average(), output=tmp_path / "x.zarr", client=client, **OPTIONS)
    assert result.done == 3 and result.failed == {1: "ArithmeticError: no such block"}
    assert images(result.output).dtype == np.float64


def test_a_run_that_cannot_write_ends(client, tmp_path):
    make = partial(without_ledger, folder=str(tmp_path))
    with pytest.raises(OSError, match="written"):
        solve_stack(make, data(3), Average(), output=tmp_path / "x.zarr", client=client, **OPTIONS)


def test_workers_that_die_are_survived_and_the_slice_that_kills_them_is_found(client, tmp_path):
    (tmp_path / "deed1").write_text("kill once")
    (tmp_path / "deed3").write_text("kill")
    make = partial(masks, folder=str(tmp_path))
    result = solve_stack(make, data(), Average(), output=tmp_path / "x.zarr", client=client, **OPTIONS)
    assert result.failed == {3: "its worker died each time, from lack of memory or a crash in compiled code"}
    alive = [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(images(result.output)[alive], loop(data(), **OPTIONS)[alive])


def test_a_finished_run_is_not_run_again_and_other_settings_are_refused(client, tmp_path):
    run = partial(solve_stack, partial(masks, folder=str(tmp_path)), output=tmp_path / "x.zarr", client=client)
    run(data(3), Average(), **OPTIONS)
    assert run(data(3), Average(), **OPTIONS).computed == 0 and sorted(begun(tmp_path)[-3:]) == [0, 1, 2]
    n_begun = len(begun(tmp_path))
    for y, denoiser, options, message in [
        (data(3), Average(), OPTIONS | {"max_iter": 5}, "max_iter (was|differs)"),
        (data(3), Average(0.4), OPTIONS, "denoiser (was|differs)"),
        (data(3), Average(), OPTIONS | {"bounds": (0, 1)}, "bounds (was|differs)"),
        (data(3) + 1, Average(), OPTIONS, "measurements (was|differs)"),
        (data(3), Average(), {"max_iter": 4, "noise_std": data(3)}, "noise_std (was|differs)"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            run(y, denoiser, **options)
        assert len(str(caught.value)) < 400 + len(str(tmp_path))
    assert len(begun(tmp_path)) == n_begun
    assert run(data(3), Average(0.4), overwrite=True, **OPTIONS).computed == 3


SCRIPT = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, {support!r})
from stacks import OPTIONS, Average, data, masks
from pnp import Stop
from pnp.stack import solve_stack

if __name__ == "__main__":
    folder = Path({folder!r})
    make = partial(masks, folder=str(folder))
    result = solve_stack(make, data(8), Average(), output=folder / "x.h5", n_workers=1, **OPTIONS)
    print(result.done, result.computed, result.stop is Stop.INTERRUPTED)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_resumes(how, client, tmp_path):
    for k in range(8):
        (tmp_path / f"deed{k}").write_text("slow")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(support=str(SUPPORT), folder=str(tmp_path)))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen([sys.executable, str(script)], start_new_session=True, **pipes)
    try:
        ledger, deadline = tmp_path / "x.h5.parts" / "ledger", time.monotonic() + 240
        while time.monotonic() < deadline:
            if ledger.exists() and (np.asarray(zarr.open_array(str(ledger), mode="r")[:]) == 1).sum() >= 2:
                break
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.05)
        if how == signal.SIGINT:
            os.killpg(run.pid, how)  # as a terminal does: the workers get it, too
        else:
            run.kill()
        out, err = run.communicate(timeout=60)  # until the workers have gone, too
        if how == signal.SIGINT:
            assert run.returncode == 0 and out.split()[2] == "True", err
            assert "Traceback" not in err and "leaked" not in err, err
    finally:
        run.kill()
    before = np.asarray(zarr.open_array(str(ledger), mode="r")[:])
    assert 2 <= (before == 1).sum() < 8 and not (tmp_path / "x.h5").exists()
    (tmp_path / "begun").unlink()
    result = solve_stack(
        partial(masks, folder=str(tmp_path)), data(8), Average(), output=tmp_path / "x.h5", client=client, **OPTIONS
    )
    assert result.computed == 8 - (before == 1).sum() and result.stop is None
    # The first slice is asked once for the image's shape, by a new run only.
    assert sorted(begun(tmp_path)) == list(np.flatnonzero(before != 1))
    np.testing.assert_array_equal(read_result(tmp_path / "x.h5").x, loop(data(8), **OPTIONS))


def test_threads_stay_within_the_cores_and_what_the_caller_allows(monkeypatch):
    monkeypatch.setattr("pnp.stack.cluster.cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_per_process(n) for n in (1, 2, 4, 16)] == [6, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")  # a list is of nested loops, the first entry of the outer ones
    assert [threads_per_process(n) for n in (1, 2, 4)] == [3, 3, 2]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads_per_process(1) == 1


def test_ctrl_c_of_the_terminal_does_not_reach_the_workers(client):
    """Neither the first ones nor those that take the place of workers that died."""
    killed = client.submit(os.getpid, pure=False).result()
    os.kill(killed, signal.SIGKILL)
    found, deadline = {killed: False}, time.monotonic() + 60
    while killed in found or len(found) < 2:
        assert time.monotonic() < deadline
        with suppress(OSError):  # of the connection to the one that was killed
            found = dict(client.run(blocks_interrupts).values())
        time.sleep(0.05)
    assert list(found.values()) == [True, True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # in the caller it is as before


def test_sigterm_leaves_by_way_of_the_workers_and_other_handlers_stay() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with pytest.raises(SystemExit) as left, exit_at_sigterm():
            signal.raise_signal(signal.SIGTERM)
        assert left.value.code == 143 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with exit_at_sigterm():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_threads_are_shared_out_and_the_callers_stay(tmp_path):
    before, environment = torch.get_num_threads(), dict(os.environ)
    with engine(None, 1, "tests") as (client, threads):
        assert 1 <= threads <= min(cores(), before)
        assert client.submit(os.environ.get, "OMP_NUM_THREADS").result() == str(threads)
    assert torch.get_num_threads() == before and dict(os.environ) == environment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_itr": 3}, "max_iter"),
        ({"progres": True}, "'progres'"),
        ({"callback": print}, "callback"),
        ({"y": np.zeros((3, 4))}, "solve_stack: y "),
        ({"y": "none.h5"}, "none.h5"),
        ({"y": [1, 2]}, "solve_stack: y "),
        ({"y": np.zeros((2, 1, 4), complex)}, "real numbers"),
        ({"operator": 3}, "got int"),
        ({"denoiser": 3}, "denoiser"),
        ({"noise_std": np.ones((2, 1, *SHAPE))}, "noise_std"),
        ({"client": "tcp://"}, ": client "),
        ({"client": None, "n_workers": 0}, "n_workers"),
        ({"output": "nowhere/x.zarr"}, "nowhere"),
        ({"output": "."}, "no stack"),
    ],
)
def test_bad_input_is_explained(change, message, client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"operator": masks, "y": data(3), "denoiser": Average(), "output": "x.zarr"}
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        solve_stack(**({**arguments, "client": client} | change))
    assert len(str(caught.value)) < 400 and list(tmp_path.iterdir()) == []


def test_measurements_that_do_not_fit_are_refused_before_anything_is_written(client, tmp_path):
    with pytest.raises(ValueError, match=r"operator.*slice 2"):
        solve_stack(masks, data(3)[..., 1:], Average(), output=tmp_path / "x.zarr", client=client)
    assert list(tmp_path.iterdir()) == []


def test_a_mosaic_on_workers_is_the_whole_image(client, tmp_path):
    model, x = network(), picture(90, 71)
    zarr.open_array(str(tmp_path / "x.zarr"), mode="w", shape=x.shape, chunks=(40, 40), dtype=x.dtype)[:] = x
    found = denoise_mosaic(tmp_path / "x.zarr", model, 0.1, output=tmp_path / "z.zarr", tile=24, client=client)
    whole = model(torch.from_numpy(x)[None, None], 0.1)[0, 0]
    np.testing.assert_allclose(zarr.open_array(str(found), mode="r")[:], whole, atol=2e-6)


def test_settings_are_the_same_in_another_process_and_change_with_the_weights():
    held = fingerprint({"D": Average(), "A": masks(0), "terms": [LeastSquares()], "f": masks, "bounds": (0, None)})
    code = (
        f"import sys; sys.path.insert(0, {str(SUPPORT)!r}); from stacks import *; "
        "from pnp import LeastSquares; from pnp.drivers.fingerprint import fingerprint; "
        "settings = {'bounds': (0, None), 'D': Average(), 'A': masks(0), 'terms': [LeastSquares()], 'f': masks}; "
        "print(fingerprint(settings))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == held and " at 0x" not in held
    assert fingerprint(Average()) != fingerprint(Average(0.4)) and fingerprint(masks(0)) != fingerprint(masks(1))


# ---------------------------------------------------------------- the command line


def test_the_command_runs_on_a_cluster_and_resumes(client, tmp_path, capsys):
    y, address = data(3), client.scheduler.address
    mask = masks(0).mask.numpy()
    write_measurements(tmp_path / "y.h5", y, operator="mask", parameters={"mask": mask}, noise_std=0.05)
    arguments = [
        tmp_path / "y.h5",
        "-o",
        tmp_path / "x.h5",
        "--scheduler",
        address,
        "--denoiser",
        "tv",
        "--max-iter",
        2,
    ]
    assert command(*arguments, "--bounds", "0,1") == 0
    out, err = capsys.readouterr()
    assert "x.h5: 3 of 3 slices, 3 in this run" in out and "slice" in err
    found = [solve(masks(0), y[k : k + 1], TV(), noise_std=0.05, max_iter=2, bounds=(0, 1)).x for k in range(3)]
    np.testing.assert_allclose(read_result(tmp_path / "x.h5").x, np.concatenate(found), atol=1e-6)

    counts, background = np.floor(50 * data(2)), np.float32([1, 2]).reshape(2, 1, 1, 1) * np.ones((1, 1, *SHAPE), "f4")
    counts[1, 0, 0, 0] = -1
    parameters = {"mask": np.ones(SHAPE)}
    write_measurements(tmp_path / "n.h5", counts, operator="mask", parameters=parameters, background=background)
    arguments = [
        tmp_path / "n.h5",
        "-o",
        tmp_path / "x.zarr",
        "--scheduler",
        address,
        "--denoiser",
        "tv",
        "--max-iter",
        2,
    ]
    assert command(*arguments) == 1
    out, err = capsys.readouterr()
    assert "1 of 2 slices" in out and "slice 1 failed: ValueError: Poisson: y " in err
    one = solve(Mask(np.ones(SHAPE)), counts[:1], TV(), data_term=Poisson(background=1.0), bounds=(0, None), max_iter=2)
    np.testing.assert_allclose(images(tmp_path / "x.zarr")[:1], one.x, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["y.h5", "-o", "x.tif"], "x.tif"),
        (["y.h5", "-o", "x.zarr", "--workers", "2", "--scheduler", "tcp://a:1"], "--scheduler"),
        (["none.h5", "-o", "x.zarr"], "none.h5"),
        (["y.h5", "-o", "x.zarr", "--operator", "blur"], "'mask'"),
        (["y.h5", "-o", "x.zarr", "--denoiser", "bm3d"], "name"),
    ],
)
def test_the_command_explains_bad_input(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_measurements("y.h5", data(2), operator="mask", parameters={"mask": np.ones(SHAPE)})
    with pytest.raises(ValueError, match=message):
        command(*arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["y.h5"]
