"""Tasks of a worker: read a slice, solve it, write it, and record the outcome."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from ..algorithms.noise_estimate import typical_noise_std
from ..checks import short
from ..drivers.result import Result, Stop
from ..drivers.solve import solve
from .results_store import Parts, Summary
from .sources import FileSource, as_floating
from .tasks import Shared, shared


class Job(Shared):
    """One run of `solve_stack` as a Dask worker plugin.

    Args:
        name: name of the plugin, unique to the run.
        operator: an operator, or a function of the slice number that returns one.
        denoiser: D(x, sigma).
        y: a source that this process can read; None: the tasks carry their slices.
        options: options of `solve`; a source holds one entry per slice, and `data_term` may be a function of k.
        threads: number of torch threads in processes of our own; None: unchanged.
        device: where to compute.
    """

    def __init__(
        self,
        name: str,
        operator: Any,
        denoiser: Any,
        y: FileSource | None,
        options: dict[str, Any],
        *,
        threads: int | None,
        device: str,
    ) -> None:
        super().__init__(name, threads)
        self._operator, self.denoiser, self.y, self.options, self.device = operator, denoiser, y, options, device

    def operator(self, k: int) -> Any:
        """Return the operator of slice k, on the job's device."""
        self.set_threads()
        return self._on_device(self._operator if hasattr(self._operator, "A") else self._operator(k))

    def solve(self, k: int, y: Any, noise_std: Any) -> Result:
        """Reconstruct slice k; data sent with the task take precedence over the file."""
        A = self.operator(k)
        y = self.y[k : k + 1] if y is None and self.y is not None else as_floating(np.asarray(y))
        options = dict(self.options)
        if noise_std is not None:
            options["noise_std"] = np.asarray(noise_std)
        elif isinstance(options.get("noise_std"), FileSource):
            options["noise_std"] = options["noise_std"][k : k + 1]
        if isinstance(options.get("noise_std"), np.ndarray):
            options["noise_std"] = torch.from_numpy(options["noise_std"].astype(y.dtype)).to(self.device)
        term = options.get("data_term")
        if term is not None and not hasattr(term, "bind"):
            options["data_term"] = term(k)
        return solve(A, torch.from_numpy(y).to(self.device), self._on_device(self.denoiser), **options)

    def _on_device(self, obj: Any) -> Any:
        return obj.to(self.device) if isinstance(obj, nn.Module) else obj


def solve_slice(name: str, folder: str, k: int, y: Any = None, noise_std: Any = None) -> None:
    """Solve slice k of the named job and write the image, or the reason why it failed.

    Dask repeats a task whose worker dies before the result is fetched; a slice that is done is then not solved again.

    Raises:
        CannotWrite: the folder cannot be written, which ends the whole run.
    """
    job, parts, start = shared(name), Parts(folder), time.perf_counter()
    if parts.is_done(k):
        return
    try:
        result = job.solve(k, y, noise_std)
        if result.stop is Stop.DIVERGED:
            raise ValueError(" ".join((str(result.stop), *result.warnings)))
        if result.stop is Stop.INTERRUPTED:
            raise RuntimeError("interrupted")
        if tuple(result.x.shape[1:]) != (shape := parts.array("image").shape[1:]):
            raise ValueError(f"the image must be {shape} as for the other slices, got {tuple(result.x.shape[1:])}")
    except Exception as error:  # from operator, denoiser or data; the other slices continue
        parts.finish(Summary(k, None, failure_reason(error)))
        return
    facts = (result.n_iter, result.misfit, typical_noise_std(result.noise_std), time.perf_counter() - start)
    choice = tuple(result.candidates[0]) if result.candidates else None  # a slice is one image
    summary = Summary(k, facts, warnings=result.warnings, n_rejected=result.n_rejected, choice=choice)
    parts.finish(summary, result.x.cpu().numpy())


def failure_reason(error: BaseException) -> str:
    """Return the reason why a slice failed, from its error."""
    return f"{type(error).__name__}: {short(error, 360)}"


def image_like(name: str, k: int, shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """Return the image shape (C, H, W) of the operator of slice k, from A_adjoint of zeros of y's shape."""
    job = shared(name)
    zeros = torch.zeros(1, *shape, dtype=getattr(torch, dtype), device=job.device)
    return tuple(job.operator(k).A_adjoint(zeros).shape[1:])
