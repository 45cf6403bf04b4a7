"""Dask on the processes of this machine, or on a given cluster.

A slice is solved by one process. On this machine each process gets cores / processes threads of torch and BLAS, so
that there are as many threads as cores; with more, they wait for each other (measured in docs/stacks.md). It gets no
more than the caller allows itself, by OMP_NUM_THREADS or `torch.set_num_threads`: other programs may need the cores. On
a given cluster the threads are set where its workers start.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from ..checks import check_number

WORKER_VARIABLES = (
    "PYTHONHASHSEED",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MALLOC_TRIM_THRESHOLD_",
    "__DASK_PARENT_PID",
)
"""Variables that Dask sets in the caller's environment for its workers; they are restored afterwards."""
ALLOWED_FAILURES = 1
"""Worker deaths that a task survives; after one more Dask gives it up."""
START_TIMEOUT_S = 300
"""Time limit for the first worker to appear, in seconds."""
CLOSE_TIMEOUT_S = 60
"""Time limit for all workers to stop, in seconds."""


def require(caller: str) -> None:
    """Check that Dask and Zarr are installed.

    Raises:
        ImportError: one of them is not installed.
    """
    missing = [name for name in ("dask", "distributed", "zarr") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{caller} needs {' and '.join(missing)}: pip install 'pnp-local[stack]'")


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_process(processes: int) -> int:
    """Return the number of threads of each of some processes: their share of the cores, within the caller's limits."""
    import torch

    limits = [cores() // processes, torch.get_num_threads()]
    stated = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if stated.isdecimal():  # torch read it at its start; it may have been set since
        limits.append(int(stated))
    return max(1, min(limits))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: the terminal sends it to all, and the caller alone is to stop.

    A thread inherits the blocked signals of the one that starts it, and so does a process: those of the cluster's
    thread, which starts the workers, and again those that died. A Ctrl-C meanwhile is delivered after the block.
    """
    from multiprocessing import resource_tracker

    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock the signal in the cluster's thread
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def exit_at_sigterm() -> Iterator[None]:
    """Leave the block by SystemExit at SIGTERM, as job schedulers send it, so that the workers are stopped first.

    Without it Python ends at once, and complains of the semaphores that it shares with them. A second SIGTERM does
    that. Handlers of the caller stay, and threads have none.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, _: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _close(client: Any, cluster: Any) -> None:
    # What Ctrl-C cut off, a broadcast to the workers say, would print its traceback.
    cluster.loop.asyncio_loop.set_exception_handler(lambda *_: None)
    with suppress(TimeoutError):  # on a busy machine; the work is done, remaining processes are killed
        client.close()
        cluster.close(timeout=CLOSE_TIMEOUT_S)


def check_engine(client: Any, n_workers: int | None, caller: str) -> None:
    """Check a client, or a number of processes, as `engine` takes them.

    Raises:
        ValueError: both are given, or the number is below 1.
        TypeError: client is something else.
        ImportError: Dask or Zarr is not installed.
    """
    require(caller)
    from distributed import Client

    if n_workers is not None:
        check_number("n_workers", n_workers, above=1, integer=True, or_equal=True, caller=caller)
    if client is None:
        return
    if not isinstance(client, Client):
        raise TypeError(f"{caller}: client must be a distributed.Client, got {type(client).__name__}")
    if n_workers is not None:
        raise ValueError(
            f"{caller}: n_workers must be None with a client, whose cluster has its own workers; leave it out"
        )


@contextmanager
def engine(client: Any, n_workers: int | None, caller: str) -> Iterator[tuple[Any, int | None]]:
    """Yield a client and the number of threads for each of its processes; None: the cluster sets them.

    Args:
        client: a `distributed.Client`, which stays open; None: a cluster on this machine until the block ends.
        n_workers: number of processes; None: one per core.
        caller: prefix of messages.

    Raises:
        ValueError: the client has no workers; or as `check_engine`.
    """
    check_engine(client, n_workers, caller)
    import dask
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    if client is not None:
        try:
            client.wait_for_workers(1, timeout=START_TIMEOUT_S)
        except TimeoutError:
            raise ValueError(f"{caller}: client has had no workers for {START_TIMEOUT_S} s; start some") from None
        yield client, None
        return
    processes = cores() if n_workers is None else int(n_workers)
    threads = threads_per_process(processes)
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    before = {name: os.environ.get(name) for name in WORKER_VARIABLES}
    try:
        os.environ.update(limits)  # existing values would override `env`
        settings = {
            "distributed.nanny.pre-spawn-environ": {},
            "distributed.comm.timeouts.connect": "60s",
            "distributed.worker.profile.enabled": False,  # it wakes a hundred times per second
        }
        with exit_at_sigterm(), ExitStack() as opened:
            with dask.config.set(settings), _interrupts_blocked():
                cluster = LocalCluster(
                    n_workers=processes,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=MEMORY_LIMIT // processes,
                    dashboard_address=":0",  # any free port, for several runs on one machine
                    silence_logs=logging.CRITICAL,  # deaths and restarts are reported slice by slice
                    scheduler_kwargs={"allowed_failures": ALLOWED_FAILURES},
                    env=limits,
                )
                own = Client(cluster, set_as_default=False)
                opened.callback(_close, own, cluster)
            yield own, threads
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
