"""Where to compute: one device, or one for each of the processes that torchrun started.

Everything here also works in a single process, where it does nothing. Plain numbers and random states travel by
gloo, in the processors' memory, so that no GPU is ever waited for.
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
        device: cpu (gloo), or cuda without a number (NCCL; the card is the process's LOCAL_RANK).

    Raises:
        ValueError: a card is named by its number, or there are more processes than cards.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield device
        return
    backend = "gloo"
    if device.type == "cuda":
        local, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if device.index is not None:
            raise ValueError(f"--device must be cuda or cpu with torchrun, got {device}; each process takes its card")
        if local >= cards:
            raise ValueError(
                f"torchrun: processes must be at most the GPUs, got {cards} here; use --nproc-per-node={cards}"
            )
        device, backend = torch.device("cuda", local), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    yield device
    # Not after an error: the others may be waiting in a reduction, and this would wait for them.
    dist.barrier()  # a process that is torn down while another still talks to it brings that one down
    dist.destroy_process_group()


def rank() -> int:
    """Number of this process; 0 writes the files."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def largest(values: list[float]) -> list[float]:
    """Return the largest of each value over the processes: what all of them then agree on."""
    if size() == 1:
        return values
    agreed = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return [float(v) for v in agreed]


def gather(x: Tensor) -> list[Tensor]:
    """Return a tensor (on the CPU, of one shape) of every process, in the order of their ranks."""
    if size() == 1:
        return [x]
    every = [torch.empty_like(x) for _ in range(size())]
    dist.all_gather(every, x)
    return every
