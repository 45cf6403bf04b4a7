"""Numbered tasks on a Dask cluster, for stacks and for the copies of a bootstrap.

What all tasks share is sent to every worker once, as a plugin, also to those that join or restart later; a task is then
only a number.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..drivers.result_warning import ignore_result_warnings

try:
    from distributed import WorkerPlugin
except ImportError:  # `cluster.require` raises before anything here is used
    WorkerPlugin = object  # type: ignore[assignment,misc]

TASKS_PER_THREAD = 2
"""Tasks in flight per worker thread: one is worked on, one waits. This bounds the memory."""


class Shared(WorkerPlugin):  # type: ignore[misc]
    """What the tasks of one run share, as a Dask worker plugin.

    Args:
        name: name of the plugin, unique to the run.
        threads: number of torch threads in processes of our own; None: unchanged.
    """

    def __init__(self, name: str, threads: int | None) -> None:
        self.name, self.threads = name, threads

    def setup(self, worker: Any = None) -> None:
        """Silence the Python warnings of `solve`: the caller keeps them, and sums them up."""
        ignore_result_warnings()
        if self.threads is not None:
            from tqdm import tqdm

            # The default lock, among processes, is left behind by a worker that Ctrl-C ends in the middle of a task.
            tqdm.set_lock(threading.RLock())

    def set_threads(self) -> None:
        """Set the threads of this process, which is the cluster's and not the caller's."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)


def shared(name: str) -> Any:
    """Return the plugin of this name, in a task."""
    from distributed import get_worker

    return get_worker().plugins[name]


def never(k: int) -> bool:
    """Return that a task that lost its worker has to be done once more."""
    return False


def run_tasks(
    client: Any,
    submit: Callable[[int], Any],
    todo: Iterable[int],
    caller: str,
    is_done: Callable[[int], bool] = never,
) -> Iterator[tuple[int, Any, BaseException | None]]:
    """Yield number, future and error of all tasks as they finish, with a bounded number of them in flight.

    When a worker dies, any task sent to it may be the cause, not only the one that it worked on. Tasks that lost two
    workers are retried at the end, one at a time; the error of one that then kills its worker is a `KilledWorker`.

    Args:
        client: a `distributed.Client`.
        submit: submits task k and returns its future.
        todo: the numbers of the tasks.
        caller: prefix of messages.
        is_done: whether task k has left its outcome on the disk, although its worker died.

    Raises:
        OSError: the scheduler is gone.
    """
    from distributed import KilledWorker

    def limit() -> int:
        return TASKS_PER_THREAD * max(1, sum(map(int, client.nthreads().values())))  # workers come and go

    suspects: list[int] = []
    for k, future, error in _flight(client, submit, deque(todo), limit, caller):
        if isinstance(error, KilledWorker) and not is_done(k):
            suspects.append(k)
        else:
            yield k, future, error
    yield from _flight(client, submit, deque(suspects), lambda: 1, caller)


def _flight(
    client: Any, submit: Callable[[int], Any], queue: deque[int], limit: Callable[[], int], caller: str
) -> Iterator[tuple[int, Any, BaseException | None]]:
    """Yield number, future and error of the tasks in the queue."""
    from distributed import as_completed

    in_flight: dict[Any, int] = {}
    completed = as_completed(loop=client.loop)
    try:
        while queue or in_flight:
            room = limit() - len(in_flight)
            for _ in range(min(room, len(queue))):
                k = queue.popleft()
                future = submit(k)
                in_flight[future] = k
                completed.add(future)
            future = next(completed)
            k = in_flight.pop(future)
            if future.status == "cancelled":
                raise OSError(f"{caller}: the scheduler is gone; what is finished is kept: call {caller} again")
            yield k, future, future.exception() if future.status == "error" else None
    finally:
        if in_flight:
            client.cancel(list(in_flight))
