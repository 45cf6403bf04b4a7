"""The engine: Dask on the processes of this machine, or on a cluster of yours.

A slice is solved by one process. On this machine each process gets cores / processes threads of torch and of BLAS,
so that together they are as many as the cores: more wait for each other (docs/stacks.md has the measurement). On a
cluster of yours the threads are yours to set.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..checks import check_number

LEAKS = ("PYTHONHASHSEED", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")
"""What Dask writes to the caller's environment for its workers to inherit."""
DEATHS = 1
"""Worker deaths a task may be near to; with one more it is given up."""
START_S = 300
"""Seconds to wait for the first worker."""
CLOSE_S = 60
"""Seconds to wait for all to stop."""


def require(caller: str) -> None:
    """Explain in one sentence what is missing, if Dask or Zarr is.

    Raises:
        ImportError: one of them is not installed.
    """
    missing = [name for name in ("dask", "distributed", "zarr") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{caller} needs {' and '.join(missing)}: pip install 'pnp-local[stack]'")


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def engine(client: Any, n_workers: int | None, caller: str) -> Iterator[tuple[Any, int | None]]:
    """Yield a client, and the threads each of its processes shall use; None: they are set where the cluster is.

    Args:
        client: a `distributed.Client`, which stays open; None: a cluster on this machine until the block ends.
        n_workers: its processes; None: one a core.
        caller: what messages begin with.

    Raises:
        ValueError: the client has no workers.
        TypeError: client is something else.
    """
    import dask
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    if client is not None:
        if not isinstance(client, Client):
            raise TypeError(f"{caller}: client must be a distributed.Client, got {type(client).__name__}")
        if n_workers is not None:
            raise ValueError(f"{caller}: n_workers is for a cluster of our own; a client's workers are its cluster's")
        try:
            client.wait_for_workers(1, timeout=START_S)
        except TimeoutError:
            raise ValueError(f"{caller}: the client has had no workers for {START_S} s; start some") from None
        yield client, None
        return
    processes = cores() if n_workers is None else n_workers
    processes = check_number("n_workers", processes, above=1, integer=True, or_equal=True, caller=caller)
    threads = max(1, cores() // processes)
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    before = {name: os.environ.get(name) for name in LEAKS}
    try:
        os.environ.update(limits)  # what is there already would be stronger than `env`
        settings = {
            "distributed.nanny.pre-spawn-environ": {},
            "distributed.comm.timeouts.connect": "60s",
            "distributed.worker.profile.enabled": False,  # it wakes a hundred times a second, beside busy threads
        }
        with dask.config.set(settings):
            cluster = LocalCluster(
                n_workers=processes,
                threads_per_worker=1,
                processes=True,
                memory_limit=MEMORY_LIMIT // processes,
                dashboard_address=":0",  # any free port: two runs on one machine do not meet
                silence_logs=logging.CRITICAL,  # deaths and restarts are reported slice by slice
                scheduler_kwargs={"allowed_failures": DEATHS},
                env=limits,
            )
        own = Client(cluster, set_as_default=False)
        try:
            yield own, threads
        finally:
            with suppress(TimeoutError):  # on a busy machine; the work is done, and what is left is killed
                own.close()
                cluster.close(timeout=CLOSE_S)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
