"""The copies of a bootstrap on Dask, with the machinery of stacks."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import torch

from ..stack.cluster import engine
from ..stack.tasks import Shared, run_tasks, shared
from .copies import Outcome, Simulation, Task


class Job(Shared):
    """Where copies are simulated and solved for, as a Dask worker plugin."""

    def __init__(self, name: str, threads: int | None, world: Simulation) -> None:
        super().__init__(name, threads)
        self.world = world


def outcomes_of_workers(world: Simulation, todo: list[Task], client: Any, n_workers: int | None) -> Generator[Outcome]:
    """Yield the outcomes of tasks as they finish.

    Processes of our own have one thread each: sums over an image depend on the number of threads in their last bits.

    Raises:
        RuntimeError: a task killed its worker each time.
    """
    from distributed import KilledWorker

    def submit(k: int) -> Any:
        return cluster.submit(run_task, name, *todo[k], pure=False)

    name = f"pnp-bootstrap-{secrets.token_hex(4)}"
    with engine(client, n_workers, "bootstrap") as (cluster, threads):
        cluster.register_plugin(Job(name, None if threads is None else 1, world), name=name)
        try:
            for k, future, error in run_tasks(cluster, submit, range(len(todo)), "bootstrap"):
                if isinstance(error, KilledWorker):
                    raise RuntimeError(
                        f"bootstrap: the worker of {todo[k].kind} {todo[k].i} died each time, from lack of memory or a "
                        "crash in compiled code; the checkpoint, if there is one, has the others: use fewer n_workers"
                    ) from error
                if error is not None:
                    raise error
                yield future.result()
        finally:
            if client is not None:
                with suppress(Exception):  # a worker that is being restarted has none to remove
                    cluster.unregister_worker_plugin(name)


@torch.no_grad()
def run_task(name: str, kind: str, i: int) -> Outcome:
    """Work on a task of the named bootstrap."""
    job = shared(name)
    job.set_threads()
    outcome: Outcome = job.world.run(Task(kind, i))
    return outcome
