"""Devices: one, or one for each of the processes that torchrun started.

All functions work in a single process too, where they do nothing. Numbers and random states are exchanged by gloo in
the processors' memory, so that no process waits for a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the processes of torchrun and yield this one's device; started otherwise, yield `device` itself.

    Args:
        device: cpu (gloo), or cuda without a number (NCCL; the GPU is the process's LOCAL_RANK).

    Raises:
        ValueError: a GPU is named by its number, or there are more processes than GPUs.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield device
        return
    backend = "gloo"
    if device.type == "cuda":
        local, n_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if device.index is not None:
            raise ValueError(f"--device must be cuda or cpu with torchrun, got {device}; each process has its own GPU")
        if local >= n_gpus:
            raise ValueError(
                f"torchrun: processes must be at most the GPUs, got {n_gpus} here; use --nproc-per-node={n_gpus}"
            )
        device, backend = torch.device("cuda", local), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    yield device
    # Not after an error: the others may be waiting in a reduction, and this would wait for them.
    dist.barrier()  # a process that ends while another still communicates with it makes that one fail
    dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process; number 0 writes the files."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def largest(values: list[float]) -> list[float]:
    """Return the largest of each value over the processes, the same in all of them."""
    if size() == 1:
        return values
    agreed = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return [float(v) for v in agreed]


def gather(x: Tensor) -> list[Tensor]:
    """Return the tensors x of all processes, on the CPU and of one shape, in the order of their ranks."""
    if size() == 1:
        return [x]
    every = [torch.empty_like(x) for _ in range(size())]
    dist.all_gather(every, x)
    return every
