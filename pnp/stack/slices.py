"""Run `pnp.solve` over the slices of a stack on Dask, for hours or days: resumable, with failures kept per slice."""

from __future__ import annotations

import inspect
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ..algorithms.protocols import Denoiser, Operator
from ..checks import short
from ..drivers.arguments import as_operator
from ..drivers.denoising import as_denoiser
from ..drivers.fingerprint import fingerprint
from ..drivers.result import Stop
from ..drivers.result_warning import ResultWarning
from ..drivers.solve import solve
from ..io import check_output
from ..io.lock import exclusive
from .cluster import engine, require
from .results_store import DONE, CannotWrite, Parts, Summary, free_folder
from .sources import SOURCES, DaskSource, FileSource, as_source, constant_or_source, content_hash
from .stack_result import StackResult
from .tasks import run_tasks
from .to_hdf5 import to_hdf5
from .worker import Job, failure_reason, image_like, solve_slice

RESERVED_ARGUMENTS = ("operator", "y", "denoiser", "callback", "checkpoint", "progress", "x0")
"""Arguments of `solve` that `solve_stack` sets itself."""


def solve_stack(
    operator: Operator | Callable[[int], Operator],
    y: Any,
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
    """Run `pnp.solve` on each slice of a stack, in processes of this machine or of a cluster.

    A slice that fails is reported, and the others continue. Called again with the same output and settings, it
    computes the open and failed slices only, whether the earlier run ended, was interrupted or was killed. A worker
    that dies is restarted and its slice retried; a slice that kills its worker again when it runs alone has failed.

    Start it under `if __name__ == "__main__":` in a script: worker processes import the script.

    Args:
        operator: an operator for all slices, or a function of the slice number k that returns one.
        y: measurements (n, C, ...), slices along the first axis: an HDF5 or Zarr path ("file::dataset" if the dataset
            is not `measurements`), which the workers read themselves; or a numpy array, tensor or Dask array. float64
            stays, everything else becomes float32.
        denoiser: D(x, sigma), as for `solve`.
        output: a Zarr group (`image` (n, C, H, W), NaN where a slice failed, with ledger, facts and reasons), or
            an .h5 file, which is written at the end from the group `output` + ".parts"; the group is removed unless
            slices failed. On a cluster, all workers need access to this folder.
        client: a `distributed.Client`. None: processes of this machine, with cores / n_workers threads each, but no
            more than OMP_NUM_THREADS or `torch.get_num_threads()` of the caller.
        n_workers: number of processes; None: one per core.
        noise_std: a number, an array for one slice, or (n, ...) as y, one entry per slice. None: `/noise_std` of
            the file in our HDF5 layout, else estimated slice by slice.
        device: where the workers compute; operator, denoiser and data are moved there.
        overwrite: restart a run that had other settings; replace an HDF5 file. With the same settings a run always
            resumes.
        progress: show a bar with the throughput on stderr.
        **options: passed to `solve`: algorithm, strength, schedule, bounds, data_term (or a function of k that returns
            one), max_iter, rtol.

    Returns:
        What was done, what failed and what looks wrong, see `StackResult`; one Python warning says which slices have
        warnings. Ctrl-C returns it, too; the next call resumes.

    Raises:
        ImportError: Dask or Zarr is not installed.
        ValueError, TypeError: an argument does not fit; the output holds a run with other settings, or another
            run is writing it.
        OSError: the output cannot be written any more; finished slices are kept.
    """
    require("solve_stack")
    start = time.perf_counter()
    _check_options(options)
    if not callable(operator) or hasattr(operator, "A"):
        as_operator(operator, "solve_stack")
    as_denoiser(denoiser, "solve_stack")
    y = as_source(y, "solve_stack", "y")
    if y.ndim < 3 or y.shape[0] == 0:
        raise ValueError(f"solve_stack: y must be (n, C, ...), n >= 1, got {tuple(y.shape)}; use y[:, None]")
    n = y.shape[0]
    if noise_std is None and isinstance(y, FileSource) and getattr(options.get("data_term"), "needs_noise_std", True):
        noise_std = y.sibling("noise_std")
    noise = constant_or_source(noise_std, n, y.ndim, "solve_stack", "noise_std")

    target, folder = _places(output, overwrite)
    settings = {name: fingerprint(value) for name, value in options.items()}
    settings |= {  # the names that folders of earlier runs hold
        "make_operator": fingerprint(operator),
        "denoiser": fingerprint(denoiser),
        "measurements": content_hash(y),
    }
    settings["noise_std"] = content_hash(noise) if isinstance(noise, SOURCES) else fingerprint(noise)
    with exclusive(folder, "solve_stack"):
        parts = Parts.resume(folder, settings, overwrite=overwrite, caller="solve_stack")
        if parts is not None and not (parts.ledger() != DONE).any():
            return _warned(_finished(parts, target, y, 0, start, overwrite))

        name = f"pnp-stack-{secrets.token_hex(4)}"
        reader = y if isinstance(y, FileSource) else None
        sent_noise = noise if isinstance(noise, SOURCES) and not isinstance(noise, FileSource) else None
        job_options = {**options, "noise_std": None if sent_noise is not None else noise}
        computed, stop = 0, None
        try:
            with engine(client, n_workers, "solve_stack") as (cluster, threads):
                job = Job(name, operator, denoiser, reader, job_options, threads=threads, device=device)
                cluster.register_plugin(job, name=name)
                try:
                    if parts is None:
                        shape = _image_shape(cluster, name, y)
                        parts = Parts.create(folder, n, shape, y.dtype, settings)
                    todo = [int(k) for k in np.flatnonzero(parts.ledger() != DONE)]

                    def submit(k: int) -> Any:
                        """Submit slice k, with the data that a worker cannot read itself."""
                        sent = (None if reader else y, sent_noise)
                        data = [None if s is None else _slice(cluster, s, k) for s in sent]
                        return cluster.submit(solve_slice, name, str(folder), k, *data, pure=False)

                    with _Bar(n, n - len(todo), progress) as bar:
                        for summary in _solved(cluster, submit, todo, parts):
                            computed += summary.facts is not None
                            bar.update(summary)
                finally:
                    if client is not None:
                        with suppress(Exception):  # a worker that is being restarted has none to remove
                            cluster.unregister_worker_plugin(name)
        except KeyboardInterrupt:  # while the workers start or stop, too
            stop = Stop.INTERRUPTED
        if stop is not None or parts is None:
            seconds = time.perf_counter() - start
            if parts is None:
                return StackResult(folder, n, 0, computed, {}, seconds, stop)
            return _warned(_result(parts, folder, computed, seconds, stop))
        return _warned(_finished(parts, target, y, computed, start, overwrite))


def _check_options(options: dict[str, Any]) -> None:
    """Refuse options that `solve` does not have or that `solve_stack` sets itself."""
    known = [name for name in inspect.signature(solve).parameters if name not in (*RESERVED_ARGUMENTS, "noise_std")]
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, 1)
            raise TypeError(
                f"solve_stack: {name!r:.40} is not an option of solve for stacks: {', '.join(known)}"
                + (f"; did you mean {close[0]}?" if close else "")
            )


def _solved(client: Any, submit: Callable[[int], Any], todo: list[int], parts: Parts) -> Iterator[Summary]:
    """Yield the summaries of all slices as they finish; a slice that kills its worker each time has failed."""
    from distributed import KilledWorker

    def is_done(k: int) -> bool:
        """Ask the disk, which decides: a task's result is lost with its worker."""
        with _must_write(k):
            return parts.is_done(k)

    for k, _, error in run_tasks(client, submit, todo, "solve_stack", is_done):
        with _must_write(k):
            if isinstance(error, CannotWrite):
                raise error
            if error is not None and not parts.is_done(k):
                died = "its worker died each time, from lack of memory or a crash in compiled code"
                # Other errors are of a Dask array's own tasks.
                reason = died if isinstance(error, KilledWorker) else failure_reason(error)
                parts.finish(Summary(k, None, reason))
            summary = parts.summary(k)
        yield summary


@contextmanager
def _must_write(k: int) -> Iterator[None]:
    """End the run where slice k cannot be written."""
    try:
        yield
    except CannotWrite as why:
        raise OSError(
            f"solve_stack: slice {k} could not be written: {short(why)}; finished slices are kept: "
            "fix the cause and call solve_stack again"
        ) from why


def _slice(client: Any, source: Any, k: int) -> Any:
    """Return slice k of a source in memory, or a future of it for a Dask array."""
    return client.compute(source.array[k : k + 1]) if isinstance(source, DaskSource) else source[k : k + 1]


def _image_shape(client: Any, name: str, y: Any) -> tuple[int, ...]:
    """Return the image shape that the operator acts on, found by a worker from the first slice that works."""
    n = y.shape[0]
    for k in (0, n // 2, n - 1):
        future = client.submit(image_like, name, k, tuple(y.shape[1:]), str(y.dtype), pure=False)
        error = future.exception()
        if error is None:
            return tuple(future.result())
    raise ValueError(
        f"solve_stack: y {tuple(y.shape)} does not fit operator, or it fails: slice {k}: {short(error)}; "
        "a slice must have the shape of operator.A(x), (1, C, ...)"
    ) from error


def _places(output: str | os.PathLike[str], overwrite: bool) -> tuple[Path | None, Path]:
    """Return the HDF5 file, or None, and the folder of the run."""
    path = Path(output).resolve()
    if path.suffix.lower() in (".h5", ".hdf5"):
        return check_output(path, overwrite=overwrite), path.with_name(path.name + ".parts")
    if not path.exists():
        free_folder(path, "solve_stack")
    return None, path


def _finished(parts: Parts, target: Path | None, y: Any, computed: int, start: float, overwrite: bool) -> StackResult:
    """Return the result of a run that is over, written to the HDF5 file if there is one."""
    result = _result(parts, parts.folder if target is None else target, computed, 0.0, None)
    if target is not None:
        to_hdf5(parts, target, y, remove=not result.failed, overwrite=overwrite)
    return replace(result, seconds=time.perf_counter() - start)


def _result(parts: Parts, output: Path, computed: int, seconds: float, stop: Stop | None) -> StackResult:
    ledger = parts.ledger()
    return StackResult(
        output,
        len(ledger),
        int((ledger == DONE).sum()),
        computed,
        parts.reasons(),
        seconds,
        stop,
        misfits=parts.misfits(),
        warnings=parts.warnings(),
        n_rejected=int(parts.n_rejected().sum()),
        choices=parts.choices(),
    )


def _warned(result: StackResult) -> StackResult:
    """Raise one Python warning where slices have warnings."""
    if result.warnings:
        warnings.warn(f"solve_stack: {result.verdict}; see its warnings", ResultWarning, stacklevel=3)
    return result


class _Bar:
    """Progress bar of slices on stderr, with the number of failures."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        from tqdm.auto import tqdm

        self.failed = 0
        self.bar = tqdm(total=total, initial=done, desc="stack", unit="slice", disable=not shown, smoothing=0.1)

    def __enter__(self) -> _Bar:
        return self

    def update(self, summary: Summary) -> None:
        """Count a slice."""
        self.failed += summary.facts is None
        if self.failed:
            self.bar.set_postfix_str(f"{self.failed} failed", refresh=False)
        self.bar.update()

    def __exit__(self, *_: object) -> None:
        self.bar.close()
