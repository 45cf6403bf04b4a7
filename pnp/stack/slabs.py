"""A parallel-beam stack as volumes: slabs of neighbouring slices, each solved at once, with a prior across its slices.

A stack that fits into memory is one slab. A larger one is cut into slabs of one size that overlap; of an overlap each
slab keeps the half that is farther from its end, since a prior across slices lacks neighbours there. Every slab is an
entry of `solve_stack`, so that runs resume, and failures stay where they are.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..drivers.fingerprint import fingerprint
from ..io.guards import usable_memory
from .results_store import CHOICE, DONE, FACTS, FAILED, FORMAT, Parts, Summary, settings_of_run
from .slices import _result, solve_stack
from .sources import FileSource, content_hash
from .stack_result import StackResult

HALO = 8
"""Slices at an end of a slab that its neighbour keeps.

On noisy cylinders of 40 x 16 x 16, cut in the middle, the outermost slice that is kept differs from that of the whole
by 0.3 % after TV, 0.06 % after MLPatch without training, and 0.08 % after a solve with TV; without a halo by 2.9, 2.8
and 1.3 %.
"""
_SHARE = 0.6
"""Share of the memory that slabs may take."""
_VOLUMES, _VIEWS = 40, 20
"""Volumes and sets of views, in float32, that a solve is reckoned to hold.

Of 192 and 384 slices of 128 x 128, by the growth of the resident peak: 39 volumes with TV, 31 without a denoiser, and
17 sets of views, in one iteration of ADMM with Gaussian noise.
"""


@dataclass(frozen=True)
class Slabs:
    """Slabs of equal size that cover n slices.

    Attributes:
        n: slices of the stack.
        size: slices of a slab.
        halo: slices that are not kept at an end that is not the stack's.

    >>> slabs = Slabs(20, 10, 2)
    >>> [(slabs.rows(k), slabs.kept(k)) for k in range(len(slabs))]
    [(slice(0, 10, None), slice(0, 8, None)), (slice(6, 16, None), slice(8, 14, None)), \
(slice(10, 20, None), slice(14, 20, None))]
    """

    n: int
    size: int
    halo: int

    def __post_init__(self) -> None:
        if self.size < self.n and self.size <= 2 * self.halo:
            raise ValueError(f"slabs of {self.size} slices must have more than {2 * self.halo}, their overlaps")

    def __len__(self) -> int:
        return 1 if self.size >= self.n else 1 + math.ceil((self.n - self.size) / self._step)

    @property
    def _step(self) -> int:
        return self.size - 2 * self.halo

    def rows(self, k: int) -> slice:
        """Return the slices of slab k."""
        first = min(k * self._step, self.n - self.size) if len(self) > 1 else 0
        return slice(first, min(first + self.size, self.n))

    def kept(self, k: int) -> slice:
        """Return those that are kept: slabs cover every slice once."""
        first = 0 if k == 0 else k * self._step + self.halo
        return slice(first, self.n if k == len(self) - 1 else (k + 1) * self._step + self.halo)


def plan(n: int, slice_shape: tuple[int, ...], views_shape: tuple[int, ...], n_workers: int) -> Slabs:
    """Return the largest slabs that fit into memory.

    Args:
        n: slices.
        slice_shape: (H, W).
        views_shape: (n_angles, n_detectors) of a slice.
        n_workers: slabs that are solved at a time.

    Raises:
        ValueError: memory holds no slab with its overlaps.
    """
    needed, memory = _needed(slice_shape, views_shape), _SHARE * usable_memory() / n_workers
    held = n if memory == math.inf else int(memory / needed)
    least, gib = min(n, 3 * HALO), 2**30
    if held < least:
        raise ValueError(
            f"a volume of slices of {slice_shape[0]} x {slice_shape[1]} takes {needed * least / gib:.3g} GiB in "
            f"slabs of {least} slices, and memory has {memory / gib:.3g} for each; leave "
            "--volume out, or take fewer workers"
        )
    if held >= n:
        return Slabs(n, n, 0)
    number = math.ceil((n - 2 * HALO) / (held - 2 * HALO))  # of nearly the same size
    return Slabs(n, min(held, math.ceil((n - 2 * HALO) / number) + 2 * HALO), HALO)


def _needed(slice_shape: tuple[int, ...], views_shape: tuple[int, ...]) -> int:
    """Return the bytes that a slice of a slab takes, see `plan`."""
    return 4 * (_VOLUMES * math.prod(slice_shape) + _VIEWS * math.prod(views_shape))


def number_at_a_time(slabs: Slabs, slice_shape: tuple[int, ...], views_shape: tuple[int, ...]) -> int:
    """Return how many slabs fit into memory together, at least 1; arguments as of `plan`."""
    memory = _SHARE * usable_memory() / (slabs.size * _needed(slice_shape, views_shape))
    return max(1, int(min(memory, len(slabs))))


def resumed_plan(output: str | os.PathLike[str], n: int) -> Slabs | None:
    """Return the plan of an unfinished run: with other workers or less memory than before, its slabs stay.

    Args:
        output: as of `solve_slabs`.
        n: slices of the stack; a run of another number is none to resume.
    """
    working = _working(Path(output).resolve())
    if settings_of_run(working, FORMAT) is None:
        return None
    n_slabs, _, size = Parts(working).array("image").shape[:3]
    halo = HALO if n_slabs > 1 else 0
    if size > n or (size < n and size <= 2 * halo) or len(Slabs(n, size, halo)) != n_slabs:
        return None
    return Slabs(n, size, halo)


def _working(folder: Path) -> Path:
    """Return the Zarr group of the slabs, beside that of the slices."""
    return folder.with_name(folder.name + ".slabs")


class SlabSource(FileSource):
    """Views (n_slabs, 1, n_angles, size, n_detectors) of a file of sinograms (n, 1, n_angles, n_detectors).

    Args:
        path, caller: as of `FileSource`.
        slabs: which slices belong to which slab.
    """

    def __init__(self, path: str | os.PathLike[str], caller: str, slabs: Slabs) -> None:
        super().__init__(path, caller)
        if self.ndim != 4 or self.shape[0] not in (1, slabs.n) or self.shape[1] != 1:
            raise ValueError(
                f"{path}: '{self.dataset}' must be ({slabs.n}, 1, n_angles, n_detectors), got {self.shape}"
            )
        self._slabs, self._alike = slabs, self.shape[0] != slabs.n
        self.shape = (len(slabs), 1, self.shape[2], slabs.size, self.shape[3])
        self.ndim = 5

    def __getitem__(self, part: Any) -> np.ndarray[Any, Any]:
        """Read slabs, a slice of them."""
        read = [super(SlabSource, self).__getitem__(self._rows(k)) for k in range(*part.indices(len(self._slabs)))]
        slabs = [np.broadcast_to(v, (self.shape[3], *v.shape[1:])) for v in read]
        return np.ascontiguousarray(np.stack([v[:, 0].swapaxes(0, 1)[None] for v in slabs]))

    def _rows(self, k: int) -> slice:
        return slice(0, 1) if self._alike else self._slabs.rows(k)

    def sibling(self, name: str) -> Any:
        """Return another dataset of the file, as a number or slabs of it; None if there is none."""
        found = super().sibling(name)
        return SlabSource(f"{self.path}::{name}", self.path.name, self._slabs) if hasattr(found, "shape") else found


class SlabOperators:
    """The operator of slab k.

    Args:
        operator: of the slices, or a function of the slice number that returns one.
        volume_of: takes the operators of neighbouring slices, and returns that of their volume.
        slabs: which slices belong to which slab.
    """

    def __init__(self, operator: Any, volume_of: Callable[[list[Any]], Any], slabs: Slabs) -> None:
        self._operator, self._volume_of, self._slabs = operator, volume_of, slabs

    def __call__(self, k: int) -> Any:
        """Return the operator of slab k."""
        rows = self._slabs.rows(k)
        one = self._operator
        return self._volume_of([one if hasattr(one, "A") else one(d) for d in range(rows.start, rows.stop)])


def solve_slabs(
    operator: Any,
    y: str | os.PathLike[str],
    denoiser: Any,
    *,
    volume_of: Callable[[list[Any]], Any],
    output: str | os.PathLike[str],
    slabs: Slabs,
    noise_std: Any = None,
    client: Any = None,
    n_workers: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> StackResult:
    """Run `solve_stack` on slabs of a stack, and write the slices that they keep as its run on slices would.

    Args:
        operator: of the slices, or a function of the slice number that returns one.
        y: path of sinograms (n, 1, n_angles, n_detectors).
        denoiser: D(x, sigma) of volumes (B, 1, D, H, W).
        volume_of: takes the operators of neighbouring slices, and returns that of their volume.
        output: the Zarr group of the slices; that of the slabs, output + ".slabs", is removed once they are finished.
        slabs: how the stack is cut.
        noise_std: a number, or the path of noise levels like y; None: those of the file, or estimated slab by slab.
        client, n_workers, device, overwrite, progress, options: as of `solve_stack`.
    """
    folder = Path(output).resolve()
    working = _working(folder)
    views = SlabSource(y, "solve_slabs", slabs)
    noise = SlabSource(noise_std, "solve_slabs", slabs) if isinstance(noise_std, (str, os.PathLike)) else noise_std
    settings = {name: fingerprint(value) for name, value in options.items()}
    # The plan is not a setting: a finished run stays one whatever the workers, `resumed_plan` has that of the others.
    settings |= {"operator": fingerprint(operator), "denoiser": fingerprint(denoiser)}
    settings |= {"measurements": content_hash(FileSource(y, "solve_slabs"))}
    files = isinstance(noise_std, (str, os.PathLike))
    settings["noise_std"] = content_hash(FileSource(noise_std, "solve_slabs")) if files else fingerprint(noise_std)
    parts = Parts.resume(folder, settings, overwrite=overwrite, caller="solve_slabs")
    if parts is not None and not (parts.ledger() != DONE).any():
        if settings_of_run(working, FORMAT) is not None:  # the run was killed before it removed them
            shutil.rmtree(working)
        return _result(parts, folder, 0, 0.0, None)
    result = solve_stack(
        SlabOperators(operator, volume_of, slabs),
        views,
        denoiser,
        output=working,
        client=client,
        n_workers=n_workers,
        noise_std=noise,
        device=device,
        overwrite=overwrite,
        progress=progress,
        **options,
    )
    if not working.exists():  # Ctrl-C before anything was solved
        return replace(result, output=folder, n=slabs.n)
    found = Parts(working)
    if parts is None:
        image = found.array("image")
        parts = Parts.create(folder, slabs.n, (1, *image.shape[-2:]), image.dtype, settings)
    computed = _spread(found, parts, slabs)
    if result.stop is None and not result.failed:
        shutil.rmtree(working)
    return _result(parts, folder, computed, result.seconds, result.stop)


def _spread(found: Parts, parts: Parts, slabs: Slabs) -> int:
    """Copy the slices that slabs keep, with what is known of their slab; return how many were new."""
    ledger, reasons, warnings, choices = found.ledger(), found.reasons(), found.warnings(), found.choices()
    facts, rejected, done = np.asarray(found.array("facts")[:]), found.n_rejected(), parts.ledger() == DONE
    new = 0
    for k, state in enumerate(ledger):
        kept, first = slabs.kept(k), slabs.rows(k).start
        fresh = [d for d in range(kept.start, kept.stop) if not done[d]]
        if state == FAILED:
            for d in fresh:
                parts.finish(Summary(d, None, reasons[k]))
        if state != DONE or not fresh:
            continue
        images = np.asarray(found.array("image")[k])
        for d in fresh:
            own = d == kept.start  # what concerns the slab is told once
            choice = choices.get(k)
            parts.finish(
                Summary(
                    d,
                    tuple(facts[k][: len(FACTS)]),
                    warnings=warnings.get(k, ()) if own else (),
                    n_rejected=int(rejected[k]) if own else 0,
                    choice=None if choice is None else tuple(choice[: len(CHOICE)]),  # type: ignore[arg-type]
                ),
                images[None, :, d - first],
            )
            new += 1
    return new
