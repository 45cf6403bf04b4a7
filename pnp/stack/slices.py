"""`solve_stack`: `pnp.solve` for every slice of a stack, on Dask, with what a run of hours or days needs."""

from __future__ import annotations

import inspect
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ..algorithms.protocols import Denoiser, Operator
from ..checks import short
from ..drivers.arguments import as_denoiser, as_operator
from ..drivers.fingerprint import fingerprint
from ..drivers.solve import solve
from ..io import check_output
from ..io.lock import exclusive
from .cluster import engine, require
from .results_store import DONE, CannotWrite, Parts, Summary, free_folder
from .sources import SOURCES, DaskSource, FileSource, as_source, constant_or_source, content
from .to_hdf5 import to_hdf5
from .worker import Job, because, image_like, solve_slice

IN_FLIGHT = 2
"""Slices a thread of the workers: one is solved, one waits; memory is bounded by them."""
OURS = ("operator", "y", "denoiser", "callback", "checkpoint", "progress", "x0")
"""Arguments of `solve` that are not options here."""


@dataclass(frozen=True)
class StackResult:
    """What `solve_stack` returns; the images are in `output`.

    Attributes:
        output: the Zarr group or HDF5 file; with `interrupted`, the folder from which the next run goes on.
        n: number of slices.
        done: slices that are finished, in this run and in those before.
        computed: slices that this run finished.
        failed: why the others were given up, by the number of the slice.
        seconds: that this run took, the start of its workers included.
        interrupted: whether it was stopped by Ctrl-C.
    """

    output: Path
    n: int
    done: int
    computed: int
    failed: dict[int, str] = field(repr=False)
    seconds: float
    interrupted: bool = False


def solve_stack(
    make_operator: Operator | Callable[[int], Operator],
    measurements: Any,
    denoiser: Denoiser,
    *,
    output: str | os.PathLike[str],
    client: Any = None,
    n_workers: int | None = None,
    noise_std: Any = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> StackResult:
    """Run `pnp.solve` over the slices of a stack, each by itself, in processes of this machine or of a cluster.

    A slice that fails is reported and the others go on. Called again with the same output and settings it computes
    what is open or failed and nothing twice, whether the run before ended, was interrupted or was killed. A worker
    that dies is restarted and its slice tried again; a slice that takes two workers with it, alone, has failed.

    Start it under `if __name__ == "__main__":` in a script: worker processes import the script.

    Args:
        make_operator: an operator for all slices, or a function of the slice's number k that returns one.
        measurements: (n, C, ...), slices along the first axis: an HDF5 or Zarr path ("file::dataset" where it is not
            `measurements`), which the workers read themselves; or a numpy array, tensor or Dask array. float64
            stays, everything else becomes float32.
        denoiser: D(x, sigma), as for `solve`.
        output: a Zarr group (`image` (n, C, H, W), NaN where a slice failed, with ledger, facts and reasons), or a
            file .h5: the group is then `output` + ".parts", becomes the file at the end and is removed, unless
            slices failed. On a cluster, all workers see this folder.
        client: a `distributed.Client`. None: processes of this machine, with cores / n_workers threads each.
        n_workers: how many; None: one a core.
        noise_std: a number, an array for one slice, or (n, ...) as measurements, an entry a slice. None:
            `/noise_std` of measurements in our HDF5 layout, else estimated slice by slice.
        device: where the workers compute; operator, denoiser and data are moved there.
        overwrite: begin anew where a run with other settings is; replace an HDF5 file. With the same settings a run
            always goes on.
        progress: show a bar on stderr, with the throughput.
        **options: of `solve`: algorithm, strength, schedule, bounds, data_term (or a function of k that returns
            one), max_iter, rtol.

    Returns:
        What was done and what failed, see `StackResult`. Ctrl-C returns, too; the next call goes on.

    Raises:
        ImportError: Dask or Zarr is not installed.
        ValueError, TypeError: an argument does not fit; the output holds a run with other settings, or is being
            written by another run.
        OSError: the output cannot be written any more; what is finished stays.
    """
    require("solve_stack")
    start = time.perf_counter()
    known = [name for name in inspect.signature(solve).parameters if name not in (*OURS, "noise_std")]
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, 1)
            raise TypeError(
                f"solve_stack: {name!r:.40} is no option of solve for stacks: {', '.join(known)}"
                + (f"; did you mean {close[0]}?" if close else "")
            )
    if not callable(make_operator) or hasattr(make_operator, "A"):
        as_operator(make_operator, "solve_stack")
    as_denoiser(denoiser, "solve_stack")
    y = as_source(measurements, "solve_stack")
    if y.ndim < 3 or y.shape[0] == 0:
        raise ValueError(f"solve_stack: measurements must be (n, C, ...), n >= 1, got {tuple(y.shape)}; use y[:, None]")
    n = y.shape[0]
    if noise_std is None and isinstance(y, FileSource) and getattr(options.get("data_term"), "needs_noise_std", True):
        noise_std = y.beside("noise_std")
    noise = constant_or_source(noise_std, n, y.ndim, "solve_stack", "noise_std")

    target, folder = _places(output, overwrite)
    settings = {name: fingerprint(value) for name, value in options.items()}
    settings |= {
        "make_operator": fingerprint(make_operator),
        "denoiser": fingerprint(denoiser),
        "measurements": content(y),
    }
    settings["noise_std"] = content(noise) if isinstance(noise, SOURCES) else fingerprint(noise)
    with exclusive(folder, "solve_stack"):
        parts = Parts.resume(folder, settings, overwrite=overwrite, caller="solve_stack")
        if parts is not None and not (parts.ledger() != DONE).any():
            return _finished(parts, target, y, n, 0, start, overwrite)

        name = f"pnp-stack-{secrets.token_hex(4)}"
        reader = y if isinstance(y, FileSource) else None
        brought = noise if isinstance(noise, SOURCES) and not isinstance(noise, FileSource) else None
        job_options = {**options, "noise_std": None if brought is not None else noise}
        computed, interrupted = 0, False
        with engine(client, n_workers, "solve_stack") as (cluster, threads):
            job = Job(name, make_operator, denoiser, reader, job_options, threads=threads, device=device)
            cluster.register_plugin(job, name=name)
            try:
                if parts is None:
                    shape = _image_shape(cluster, name, y)
                    parts = Parts.create(folder, n, shape, y.dtype, settings)
                todo = [int(k) for k in np.flatnonzero(parts.ledger() != DONE)]

                def submit(k: int) -> Any:
                    """Send a slice's number, and the data that a worker cannot read for itself."""
                    data = [None if s is None else _slice(cluster, s, k) for s in (None if reader else y, brought)]
                    return cluster.submit(solve_slice, name, str(folder), k, *data, pure=False)

                with _bar(n, n - len(todo), progress) as bar:
                    for summary in _solved(cluster, submit, todo, parts):
                        computed += summary.facts is not None
                        bar.update(summary)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                if client is not None:
                    with suppress(Exception):  # a worker that is being restarted has none to remove
                        cluster.unregister_worker_plugin(name)
        if interrupted or parts is None:
            done = 0 if parts is None else int((parts.ledger() == DONE).sum())
            reasons = {} if parts is None else parts.reasons()
            return StackResult(folder, n, done, computed, reasons, time.perf_counter() - start, interrupted=True)
        return _finished(parts, target, y, n, computed, start, overwrite)


def _solved(client: Any, submit: Callable[[int], Any], todo: list[int], parts: Parts) -> Iterator[Summary]:
    """Yield the summaries of all slices as they come, with a bounded number of them in flight.

    Where a worker dies, the slices that waited for it are under suspicion as well as the one it was solving. Those
    that two deaths hit are tried again at the end, one at a time: who then kills a worker has failed.
    """
    suspects: list[int] = []
    guilty: list[int] = []

    def limit() -> int:
        return IN_FLIGHT * max(1, sum(map(int, client.nthreads().values())))  # workers come and go

    yield from _flight(client, submit, deque(todo), limit, suspects, parts)
    yield from _flight(client, submit, deque(suspects), lambda: 1, guilty, parts)
    for k in guilty:
        summary = Summary(k, None, "its worker died each time, from lack of memory or a crash in compiled code")
        parts.finish(summary)
        yield summary


def _flight(
    client: Any,
    submit: Callable[[int], Any],
    queue: deque[int],
    limit: Callable[[], int],
    fallen: list[int],
    parts: Parts,
) -> Iterator[Summary]:
    from distributed import KilledWorker, as_completed

    flying: dict[Any, int] = {}
    landed = as_completed(loop=client.loop)
    try:
        while queue or flying:
            room = limit() - len(flying)
            for _ in range(min(room, len(queue))):
                k = queue.popleft()
                future = submit(k)
                flying[future] = k
                landed.add(future)
            future = next(landed)
            k = flying.pop(future)
            if future.status == "cancelled":
                raise OSError("solve_stack: the scheduler is gone; what is finished stays: call solve_stack again")
            error = future.exception() if future.status == "error" else None
            try:
                if isinstance(error, CannotWrite):
                    raise error
                # What counts is on the disk: an answer dies with the worker that gave it.
                if error is not None and not parts.is_done(k):
                    if isinstance(error, KilledWorker):
                        fallen.append(k)
                        continue
                    parts.finish(Summary(k, None, because(error)))  # what a Dask array's own tasks bring about
                summary = parts.summary(k)
            except CannotWrite as why:
                raise OSError(
                    f"solve_stack: slice {k} could not be written: {short(why)}; what is finished stays: mend it "
                    "and call solve_stack again"
                ) from why
            yield summary
    finally:
        if flying:
            client.cancel(list(flying))


def _slice(client: Any, source: Any, k: int) -> Any:
    """Return slice k of a source in memory, or the future of a Dask array's."""
    return client.compute(source.array[k : k + 1]) if isinstance(source, DaskSource) else source[k : k + 1]


def _image_shape(client: Any, name: str, y: Any) -> tuple[int, ...]:
    """Ask workers what image the operator sees, of the middle and the last slice if it fails for the first."""
    n = y.shape[0]
    for k in (0, n // 2, n - 1):
        future = client.submit(image_like, name, k, tuple(y.shape[1:]), str(y.dtype), pure=False)
        error = future.exception()
        if error is None:
            return tuple(future.result())
    raise ValueError(
        f"solve_stack: measurements {tuple(y.shape)} do not fit make_operator, or it fails: slice {k}: {short(error)}; "
        "a slice must look like operator.A(x), (1, C, ...)"
    ) from error


def _places(output: str | os.PathLike[str], overwrite: bool) -> tuple[Path | None, Path]:
    """Return the HDF5 file, if it is one, and the folder of the parts."""
    path = Path(output).resolve()
    if path.suffix.lower() in (".h5", ".hdf5"):
        return check_output(path, overwrite=overwrite), path.with_name(path.name + ".parts")
    if not path.exists():
        free_folder(path, "solve_stack")
    return None, path


def _finished(
    parts: Parts, target: Path | None, y: Any, n: int, computed: int, start: float, overwrite: bool
) -> StackResult:
    failed = parts.reasons()
    if target is not None:
        to_hdf5(parts, target, y, remove=not failed, overwrite=overwrite)
    done, output = n - len(failed), parts.folder if target is None else target
    return StackResult(output, n, done, computed, failed, time.perf_counter() - start)


class _bar:
    """A bar of slices on stderr, which says how many failed."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        from tqdm.auto import tqdm

        self.failed = 0
        self.bar = tqdm(total=total, initial=done, desc="stack", unit="slice", disable=not shown, smoothing=0.1)

    def __enter__(self) -> _bar:
        return self

    def update(self, summary: Summary) -> None:
        """Count a slice."""
        self.failed += summary.facts is None
        if self.failed:
            self.bar.set_postfix_str(f"{self.failed} failed", refresh=False)
        self.bar.update()

    def __exit__(self, *_: object) -> None:
        self.bar.close()
