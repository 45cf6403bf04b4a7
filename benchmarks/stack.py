"""Stacks and mosaics on Dask: overhead, speed-up by workers, threads, and memory.

Claims: 64 slices of 512x512 CT through `solve_stack` on one worker take at most 5 % more than a plain loop over `solve`
with as many threads, not counting the start of the workers; a second core nearly doubles the speed; as many threads as
cores in all are faster than as many in each worker, the libraries' default. A solve in a thread that is not the main
one takes at most 5 % more than in the main thread, where the main thread has not computed, as in a worker: GNU's OpenMP
gives each thread that computes a team of its own, and while all teams, idle ones included, have more threads than there
are cores, their threads sleep between loops instead of waiting. A mosaic of 16384x16384 is denoised in under 2 GB, the
sum of the proportional resident sizes of all processes, sampled while they run.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from denoising import mlpatch
from radon import problem
from report import Row, main
from timing import Spread, fresh_process, seconds

from operators import Radon
from pnp import solve
from pnp.io import write_measurements
from pnp.stack import denoise_mosaic, solve_stack
from pnp.stack.cluster import cores, engine

SNR_DB = 40.0
MAX_ITER = 3
SAMPLING_INTERVAL_S = 0.1
LIMIT_S = 3600.0
ROUNDS = 5
LOOP_SIZE = 100_000
"""Entries of a sum that torch spreads over its threads; more than 32768."""


# ---------------------------------------------------------------- a stack


def scan(folder: Path, name: str, n: int, size: int, n_angles: int) -> tuple[Radon, Path, float]:
    """Write a stack of sinograms, one image under n draws of the noise; return operator, path and noise."""
    radon, x = problem(size, n_angles, math.ceil(math.sqrt(2) * size))
    with torch.no_grad():
        y = radon.A(x).expand(n, -1, -1, -1)
    noise_std = float(y.square().mean().sqrt()) * 10 ** (-SNR_DB / 20)
    y = y + noise_std * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    path = folder / name
    write_measurements(path, y, operator="radon", parameters={"shape": radon.shape, "angles": radon.angles})
    return radon, path, noise_std


def loop(radon: Radon, path: Path, noise_std: float, model: Any, n: int) -> None:
    """Solve slice by slice in a plain loop."""
    import h5py

    with h5py.File(path) as file, h5py.File(path.with_name("loop.h5"), "w") as done:
        for k in range(n):
            y = torch.from_numpy(file["measurements"][k : k + 1])
            done[str(k)] = solve(radon, y, model, noise_std=noise_std, max_iter=MAX_ITER).x.numpy()


@contextmanager
def workers(n: int, threads: int) -> Iterator[tuple[Any, float]]:
    """Yield a client with n warm workers with this many threads each, and the seconds it took to start them."""
    start = time.perf_counter()
    with engine(None, n, "benchmark") as (client, _):
        # In the thread that runs the tasks, since OpenMP keeps the number per thread.
        list(client.gather([client.submit(set_threads, threads, workers=[w], pure=False) for w in client.nthreads()]))
        yield client, time.perf_counter() - start


def set_threads(n: int) -> int:
    torch.set_num_threads(n)
    return torch.get_num_threads()


def stack(quick: bool) -> Iterator[Row]:
    """Yield the times of a plain loop and of workers."""
    n, size, n_angles = (4, 32, 10) if quick else (64, 512, 60)
    model, _ = mlpatch()
    every = cores()
    what = f"{n} slices CT {size}x{size}, {n_angles} views, {MAX_ITER} iterations"
    times: dict[tuple[int, int], Spread] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        radon, path, noise_std = scan(folder, "scan.h5", n, size, n_angles)
        few = scan(folder, "few.h5", 2 * every, size, n_angles)[1]
        before = torch.get_num_threads()
        for threads in dict.fromkeys((every, 1)):
            torch.set_num_threads(threads)
            loop(radon, path, noise_std, model, 1)  # plans, kernel
            path.with_name("loop.h5").unlink()
            times[0, threads] = Spread((seconds(partial(loop, radon, path, noise_std, model, n)),))
            path.with_name("loop.h5").unlink()
            yield Row(what, f"plain loop, {threads} threads", times[0, threads])
        torch.set_num_threads(before)
        for n_workers, threads in dict.fromkeys(((1, every), (1, 1), (every, 1), (every, every))):
            with workers(n_workers, threads) as (client, start):
                run = partial(solve_stack, radon, denoiser=model, client=client, noise_std=noise_std, max_iter=MAX_ITER)
                # A few slices per worker first, to make plans and kernel and send the job.
                run(y=few, output=folder / "few.zarr", overwrite=True)
                shutil.rmtree(folder / "few.zarr")
                whole = partial(run, y=path, output=folder / f"x{n_workers}-{threads}.zarr")
                times[n_workers, threads] = Spread((seconds(whole),))
            who = f"{n_workers} workers x {threads} threads"
            yield Row(what, who, times[n_workers, threads])
            if (n_workers, threads) in ((1, every), (every, 1)):
                yield Row("start of the workers", who, Spread((start,)))
    one = times[1, every] / times[0, every]
    yield Row("time over that of a plain loop", f"1 worker x {every} threads", None, ratio=one, target=("<=", 1.05))
    if every > 1:
        yield Row("speed-up by workers", f"{every} x 1 over 1 x 1", None, ratio=times[1, 1] / times[every, 1])
        yield Row("workers, or threads", f"1 x {every} over {every} x 1", None, ratio=times[1, every] / times[every, 1])
        both = times[every, every] / times[every, 1]
        yield Row("too many threads", f"{every} x {every} over {every} x 1", None, ratio=both, target=(">=", 1.0))


# ---------------------------------------------------------------- a thread


PLACES = ("main thread", "another thread", "another, main computed", "task of a worker")
"""Where a solve runs; in the third the main thread has solved before and waits."""


def threads(quick: bool) -> Iterator[Row]:
    """Yield the times of a solve and of a parallel loop, in the main thread and in others; fresh processes in turns."""
    size, n_angles, rounds = (32, 10, 1) if quick else (512, 60, ROUNDS)
    taken: dict[str, list[dict[str, float]]] = {place: [] for place in PLACES}
    for _ in range(rounds):
        for place in PLACES:
            found = fresh_process(__file__, "--thread", place, str(size), str(n_angles), limit_s=LIMIT_S)
            if isinstance(found, str):
                yield Row(f"solve in: {place}", place, None, note=found)
                return
            taken[place].append(found)
    for name, what in (("solve", f"CT {size}x{size}, {MAX_ITER} iterations"), ("loop", "one parallel loop")):
        times = {place: Spread(tuple(row[name] for row in rows)) for place, rows in taken.items()}
        for place in PLACES:
            sleeps = Spread(tuple(row[f"{name} sleeps"] for row in taken[place])).median
            target = ("<=", 1.05) if name == "solve" and place in (PLACES[1], PLACES[3]) else None
            note = f"threads slept {sleeps:.3g} times"
            yield Row(what, place, times[place], ratio=times[place] / times[PLACES[0]], target=target, note=note)


def thread_job(place: str, size: int, n_angles: int) -> dict[str, float]:
    """Return seconds of a solve and of a parallel loop, and how often threads went to sleep in each."""
    if place == PLACES[3]:
        with engine(None, 1, "benchmark") as (client, n_threads):
            client.submit(set_threads, n_threads, pure=False).result()
            return client.submit(in_this_thread, size, n_angles, pure=False).result()  # type: ignore[no-any-return]
    if place == PLACES[0]:
        return in_this_thread(size, n_angles)
    if place == PLACES[2]:
        in_this_thread(size, n_angles)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(in_this_thread, size, n_angles).result()


def in_this_thread(size: int, n_angles: int) -> dict[str, float]:
    """Return what `thread_job` does, measured in the calling thread, which makes the data too."""
    radon, x = problem(size, n_angles, math.ceil(math.sqrt(2) * size))
    with torch.no_grad():
        y = radon.A(x)
    model, a = mlpatch()[0], torch.ones(LOOP_SIZE)
    noise_std = float(y.square().mean().sqrt()) * 10 ** (-SNR_DB / 20)
    calls = {"solve": (partial(solve, radon, y, model, noise_std=noise_std, max_iter=MAX_ITER), 3)}
    calls |= {"loop": (partial(torch.add, a, a, out=torch.empty_like(a)), 2000)}
    found = {}
    for name, (call, repeats) in calls.items():
        call()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        found[name] = Spread(tuple(seconds(call) for _ in range(repeats))).median
        found[f"{name} sleeps"] = (resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before) / repeats
    return found


# ---------------------------------------------------------------- a mosaic


def mosaic(quick: bool) -> Iterator[Row]:
    """Yield time and memory of a mosaic, in one process and with workers."""
    size, tile = (96, 48) if quick else (16384, 2048)
    for n_workers in (0, cores()):
        result = fresh_process(__file__, "--mosaic", str(size), str(tile), str(n_workers), limit_s=LIMIT_S)
        who = "one process" if n_workers == 0 else f"{n_workers} workers and the caller"
        what = f"denoising {size}x{size}, tiles of {tile}"
        if isinstance(result, str):
            yield Row(what, who, None, note=result)
            continue
        yield Row(what, who, Spread((result["seconds"],)))
        yield Row(f"memory, {what}", who, Spread((result["bytes"],)), "B", target=("<=", 2e9))


def mosaic_job(size: int, tile: int, n_workers: int) -> dict[str, float]:
    """Denoise white noise on a ramp, from Zarr to Zarr; return seconds and the peak memory of all processes."""
    import zarr

    model, _ = mlpatch()
    with tempfile.TemporaryDirectory() as name:
        source, generator = Path(name) / "x.zarr", torch.Generator().manual_seed(0)
        x = zarr.open_array(str(source), mode="w", shape=(size, size), chunks=(tile, tile), dtype="float32")
        for r in range(0, size, tile):
            rows = torch.linspace(0, 1, size) + 0.1 * torch.randn(min(tile, size - r), size, generator=generator)
            x[r : r + tile] = rows.numpy()
            del rows
        run = partial(denoise_mosaic, source, model, 0.1, output=Path(name) / "z.zarr", tile=tile)
        with peak() as highest:
            if n_workers == 0:
                taken = seconds(run)
            else:
                with engine(None, n_workers, "benchmark") as (client, threads):
                    addresses = list(client.nthreads())
                    client.gather([client.submit(set_threads, threads, workers=[w], pure=False) for w in addresses])
                    taken = seconds(partial(run, client=client))
        z = zarr.open_array(str(Path(name) / "z.zarr"), mode="r")
        error = float(np.std(z[:tile, :tile] - np.linspace(0, 1, size, dtype="float32")[:tile]))
        if not error < 0.05:
            raise ValueError(f"noise of 0.1 became {error:.3g}: the image is not denoised")
    return {"seconds": taken, "bytes": highest[0]}


@contextmanager
def peak() -> Iterator[list[int]]:
    """Yield a list that holds, after the block, the peak memory of this process and its descendants in bytes."""
    highest, finished = [0], threading.Event()

    def watch() -> None:
        while not finished.wait(SAMPLING_INTERVAL_S):
            highest[0] = max(highest[0], sum(map(proportional_bytes, family(os.getpid()))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield highest
    finally:
        finished.set()
        watcher.join()


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(member for child in children for member in family(child))]


def proportional_bytes(pid: int) -> int:
    """Return the proportional resident size of a process in bytes, 0 if it has ended."""
    try:
        return int(re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1]) * 1024  # type: ignore[index]
    except (OSError, TypeError):
        return 0


if __name__ == "__main__":
    if "--thread" in sys.argv:
        print(json.dumps(thread_job(sys.argv[2], *map(int, sys.argv[3:]))))
    elif "--mosaic" in sys.argv:
        print(json.dumps(mosaic_job(*map(int, sys.argv[2:]))))
    else:
        main("Stacks and mosaics on Dask", {"stack": stack, "threads": threads, "mosaic": mosaic})
