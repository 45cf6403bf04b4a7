"""What a worker does with a slice: read it, solve it, write it, and say how it went.

The job (operator, denoiser, settings) goes to every worker once, as a plugin, and to each that joins or is restarted
later; a task is then no more than a slice's number.
"""

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
from .sources import FileSource, floating

try:
    from distributed import WorkerPlugin
except ImportError:  # `engine.require` says so before anything here is used
    WorkerPlugin = object  # type: ignore[assignment,misc]


class Job(WorkerPlugin):  # type: ignore[misc]
    """One run of `solve_stack`, as its workers see it.

    Args:
        name: of the plugin, one for each run.
        make_operator: an operator, or a function of the slice's number that returns one.
        denoiser: D(x, sigma).
        measurements: a source that this process may read; None: the tasks bring their slices.
        options: of `solve`; a source stands for an entry a slice, and `data_term` may be a function of its number.
        threads: of torch; None: as they are.
        device: where to compute.
    """

    def __init__(
        self,
        name: str,
        make_operator: Any,
        denoiser: Any,
        measurements: FileSource | None,
        options: dict[str, Any],
        *,
        threads: int | None,
        device: str,
    ) -> None:
        self.name, self.make_operator, self.denoiser = name, make_operator, denoiser
        self.measurements, self.options, self.threads, self.device = measurements, options, threads, device

    def operator(self, k: int) -> Any:
        """Return the operator of slice k, on the job's device."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)  # of this process, which is the cluster's and not the caller's
        return self._there(self.make_operator if hasattr(self.make_operator, "A") else self.make_operator(k))

    def solve(self, k: int, y: Any, noise_std: Any) -> Result:
        """Reconstruct slice k; what a task brought goes before what is read here."""
        A = self.operator(k)
        y = self.measurements[k : k + 1] if y is None and self.measurements is not None else floating(np.asarray(y))
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
        return solve(A, torch.from_numpy(y).to(self.device), self._there(self.denoiser), **options)

    def _there(self, guest: Any) -> Any:
        return guest.to(self.device) if isinstance(guest, nn.Module) else guest


def solve_slice(name: str, folder: str, k: int, y: Any = None, noise_std: Any = None) -> None:
    """Solve slice k of the job of that name and write it, or why it cannot be solved.

    Dask runs a task again if its worker dies before the answer is fetched: nothing is done then but to look.

    Raises:
        CannotWrite: the run is then over, whichever slice it was.
    """
    job, parts, start = _job(name), Parts(folder), time.perf_counter()
    if parts.is_done(k):
        return
    try:
        result = job.solve(k, y, noise_std)
        if result.stop is Stop.DIVERGED:
            raise ValueError(str(result.stop))
        if result.stop is Stop.INTERRUPTED:
            raise RuntimeError("interrupted")
        if tuple(result.x.shape[1:]) != (shape := parts.array("image").shape[1:]):
            raise ValueError(
                f"the image must be {shape}, as those of the other slices, got {tuple(result.x.shape[1:])}"
            )
    except Exception as error:  # whatever the operator, the denoiser or the data bring about: the others go on
        parts.finish(Summary(k, None, because(error)))
        return
    facts = (result.n_iter, result.misfit, typical_noise_std(result.noise_std), time.perf_counter() - start)
    parts.finish(Summary(k, facts), result.x.cpu().numpy())


def because(error: BaseException) -> str:
    """Return an error as the reason why a slice failed."""
    return f"{type(error).__name__}: {short(error, 360)}"


def image_like(name: str, k: int, shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """Return the shape (C, H, W) of the image that the operator of slice k sees, from zeros of the data's shape."""
    job = _job(name)
    zeros = torch.zeros(1, *shape, dtype=getattr(torch, dtype), device=job.device)
    return tuple(job.operator(k).A_adjoint(zeros).shape[1:])


def _job(name: str) -> Job:
    from distributed import get_worker

    return get_worker().plugins[name]  # type: ignore[no-any-return]
