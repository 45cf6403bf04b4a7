"""Where a run of hours goes on after Ctrl-C, a kill or a full disk: what the next iteration reads, in one file.

The file is safetensors, so that it holds numbers and text and never code, and is written whole or not at all. What
the run was begun with stands in its header; settings are compared as texts (`settings.described`), operators by what
they measure of one image, so that rounding on another machine is no other run. Trainings, which know far more state,
have files of their own (`training_run`) and share `write_or_warn` and `locking.exclusive`.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import check_number, short
from ..io.atomic import NotWritten, atomic, check_output
from ..io.lock import exclusive
from .fingerprint import differences, fingerprint

FORMAT = "pnp checkpoint 1"
SUMS = 64
SAME = 1e-3
"""Relative difference of two measurements of one image that is rounding, on whatever machine."""


class Checkpoint:
    """A file that `solve`, `mlem` and `osem` keep their state in, and go on from where it exists.

    Args:
        path: the file.
        minutes: between writings; an iteration is always finished first.
        remove: whether the file goes when the run has come to its end. Otherwise it then holds the answer, which the
            same call gives at once: for callers that write the answer to a disk first, which may be full.

    Raises:
        ValueError: the path is a folder, or in one that is missing or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, minutes: float = 3.0, remove: bool = True) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"checkpoint must be a path or a pnp.Checkpoint, got {type(path).__name__}")
        self.path = check_output(path, overwrite=True)
        self.minutes = check_number("minutes", minutes, above=0, or_equal=True, caller="Checkpoint")
        self.remove = remove

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, minutes={self.minutes!r}, remove={self.remove!r})"


class RunState:
    """The state of one run: what was found of it, and what is kept. Without a checkpoint it keeps nothing.

    Attributes:
        tensors: what was found, by name, on the device of the image; empty where the run begins.
        numbers: what was found beside it: JSON's plain values.
        ended: the word `end` was given, where the run found had ended.
    """

    def __init__(self, checkpoint: Checkpoint | None, caller: str, header: dict[str, Any]) -> None:
        self.checkpoint, self.caller, self._header = checkpoint, caller, header
        self.tensors: dict[str, Tensor] = {}
        self.numbers: dict[str, Any] = {}
        self.ended: str | None = None
        self._written, self._is_written = time.monotonic(), True

    def keep(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Remember the state after an iteration, and write it if it is time to."""
        if self.checkpoint is None:
            return
        self.tensors, self.numbers, self._is_written = tensors, numbers, False
        if time.monotonic() - self._written >= 60 * self.checkpoint.minutes:
            write_or_warn(self.write, self.caller)
            self._written = time.monotonic()

    def end(self, word: str, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Remember the last state, and that the run has come to its end, in one word; or remove the file."""
        if self.checkpoint is None:
            return
        if self.checkpoint.remove:
            with suppress(OSError):  # the answer goes before
                self.checkpoint.path.unlink()
            self._is_written = True
        elif tensors:
            self.tensors, self.numbers, self.ended, self._is_written = tensors, numbers, word, False

    def write(self) -> None:
        """Write the last state that was kept, unless it is written.

        Raises:
            NotWritten: the disk refuses; what was written before is there still.
        """
        if self.checkpoint is None or self._is_written:
            return
        from safetensors.torch import save

        held = {name: (torch.view_as_real(t) if t.is_complex() else t).cpu() for name, t in self.tensors.items()}
        header = self._header | {"numbers": self.numbers, "ended": self.ended}
        data = save({k: t.contiguous().clone() for k, t in held.items()}, {FORMAT: json.dumps(header)})
        with atomic(self.checkpoint.path, overwrite=True) as part:
            part.write_bytes(data)
        self._is_written = True


@contextmanager
def checkpointed(
    checkpoint: Any, caller: str, settings: Callable[[], dict[str, Any]], like: Tensor, measured: Callable[[], Any]
) -> Iterator[RunState]:
    """Yield what is known of a run, and write what it has kept if the block fails or is interrupted.

    Args:
        checkpoint: a `Checkpoint`, a path, or None.
        caller: what messages begin with, and what wrote the file.
        settings: returns what must be the same for a run to be resumed, by name.
        like: the image, whose shape, dtype and device the tensors found must have.
        measured: returns what the operator makes of an image that the settings determine.

    Raises:
        ValueError: the file is no checkpoint, or of a run with other settings; another run has it now.
    """
    if checkpoint is None:
        del like  # an image of which the caller may have no more need
        yield RunState(None, caller, {})
        return
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    header = {
        "caller": caller,
        "settings": {name: fingerprint(value) for name, value in settings().items()} | {"image": _layout(like)},
        "measured": _signature(measured()),
    }
    with exclusive(checkpoint.path, caller):
        kept = RunState(checkpoint, caller, header)
        if checkpoint.path.exists():
            _find(kept, checkpoint.path, like)
        del like
        try:
            yield kept
        except BaseException:
            write_or_warn(kept.write, caller)
            raise
        write_or_warn(kept.write, caller)


def write_or_warn(write: Callable[[], None], caller: str) -> bool:
    """Write a checkpoint; a disk that refuses ends no run of hours, which goes on and tries again the next time."""
    try:
        write()
    except NotWritten as error:
        warnings.warn(f"{caller}: checkpoint: {error}; the one before is kept", stacklevel=2)
        return False
    return True


def _find(kept: RunState, path: Path, like: Tensor) -> None:
    """Read what there is into `kept`, or say why this run cannot go on from it."""
    from safetensors import safe_open

    caller = kept.caller
    try:
        with safe_open(path, framework="pt") as file:
            held = json.loads((file.metadata() or {})[FORMAT])
            # In memory of our own: the file's is not aligned as torch's kernels want it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
            if like.is_complex():
                tensors = {name: torch.view_as_complex(t) for name, t in tensors.items()}
        settings, numbers = dict(held["settings"]), dict(held["numbers"])
        found = torch.tensor(held["measured"], dtype=torch.float64)
        of = str(held["caller"])
    except Exception as error:  # whatever a file of another kind, or a damaged one, brings about
        what = f"{type(error).__name__}: {short(error, 100)}"
        raise ValueError(f"{caller}: {path} is no checkpoint ({what}); choose another name, or remove it") from error
    name, remedy = f"{caller}: checkpoint {path.name:.60}", "go on with that, or remove the file to begin anew"
    if of != caller:
        raise ValueError(f"{name} was begun by {of:.20}; {remedy}")
    if other := differences(settings, kept._header["settings"]):
        raise ValueError(f"{name} was begun with other settings ({other:.180}); {remedy}")
    mine = torch.tensor(kept._header["measured"], dtype=torch.float64)
    if found.shape != mine.shape or not float((found - mine).norm()) <= SAME * float(mine.norm()):
        raise ValueError(f"{name} was begun with another operator; {remedy}")
    for key, t in tensors.items():
        tensors[key] = t.to(like.device)
        if _layout(tensors[key]) != _layout(like) or not bool(tensors[key].isfinite().all()):
            raise ValueError(f"{name} is damaged ({key:.20}); remove the file to begin anew")
    kept.tensors, kept.numbers, kept.ended = tensors, numbers, held.get("ended")


def _layout(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"


def _signature(measured: Any) -> list[float]:
    """Return sums of measurements with random signs: their difference has about the norm of the measurements'."""
    generator, sums = torch.Generator().manual_seed(0), torch.zeros(SUMS, dtype=torch.float64)
    for part in [measured] if isinstance(measured, Tensor) else measured:
        flat = (torch.view_as_real(part) if part.is_complex() else part).detach().flatten()
        for piece in flat.split(SUMS * 2**14):
            signs = torch.randint(0, 2, piece.shape, generator=generator, dtype=torch.int8) * 2 - 1
            signed = piece.cpu().double() * signs
            sums += torch.nn.functional.pad(signed, (0, -len(signed) % SUMS)).reshape(-1, SUMS).sum(0)
    return [float(s) for s in sums]
