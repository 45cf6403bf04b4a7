"""Checkpoints: resume a long run after Ctrl-C, a kill or a full disk.

The file is safetensors: it holds numbers and text, never code. It is written whole or not at all. Its header holds
the settings of the run. They are compared as texts (`fingerprint`), and operators by what they measure of one image,
so that rounding on another machine does not count as another run. Training runs have files of their own
(`training.state`) and share `write_or_warn` and `io.lock.exclusive`.
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
N_SUMS = 64
"""Sums of measurements that identify an operator."""
SAME_OPERATOR_RTOL = 1e-3
"""Relative difference of two measurements of one image that rounding may cause, on any two machines."""


class Checkpoint:
    """A file in which `solve`, `mlem` and `osem` save their state, and from which they resume.

    Args:
        path: the file.
        minutes: time between writes; an iteration is always finished first.
        remove: whether the file is removed at the end of the run. Otherwise it then holds the answer, which the same
            call returns at once: for callers that still have to write the answer to a disk, which may be full.

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
    """The state of one run, as found in its checkpoint and as saved since. Without a checkpoint nothing is saved.

    Attributes:
        tensors: tensors by name, on the device of the image; empty for a new run.
        numbers: plain values of JSON by name.
        ended: the word given to `end`, if the run in the checkpoint had ended.
    """

    def __init__(self, checkpoint: Checkpoint | None, caller: str, header: dict[str, Any]) -> None:
        self.checkpoint, self.caller, self._header = checkpoint, caller, header
        self.tensors: dict[str, Tensor] = {}
        self.numbers: dict[str, Any] = {}
        self.ended: str | None = None
        self._written, self._is_written = time.monotonic(), True

    def keep(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Hold the state after an iteration, and write it if the last write is long enough ago."""
        if self.checkpoint is None:
            return
        self.tensors, self.numbers, self._is_written = tensors, numbers, False
        if time.monotonic() - self._written >= 60 * self.checkpoint.minutes:
            write_or_warn(self.write, self.caller)
            self._written = time.monotonic()

    def restart(self) -> None:
        """Forget the state so far; the file keeps its own until the next write."""
        self.tensors, self.numbers, self.ended, self._is_written = {}, {}, None, True

    def end(self, word: str, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Hold the last state and a word that says why it is the last; or remove the file."""
        if self.checkpoint is None:
            return
        if self.checkpoint.remove:
            with suppress(OSError):  # the answer matters more
                self.checkpoint.path.unlink()
            self._is_written = True
        elif tensors:
            self.tensors, self.numbers, self.ended, self._is_written = tensors, numbers, word, False

    def write(self) -> None:
        """Write the state that is held, unless that was done.

        Raises:
            NotWritten: the write failed; the file of before remains.
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
    """Yield the state of a run, and write the state it holds at the end, even if the block fails or is interrupted.

    Args:
        checkpoint: a `Checkpoint`, a path, or None.
        caller: what messages begin with, and what wrote the file.
        settings: returns what must be the same for a run to be resumed, by name.
        like: the image; the tensors of the file must have its shape and dtype, and are put on its device.
        measured: returns the operator's measurements of an image that the settings determine.

    Raises:
        ValueError: the file is not a checkpoint, belongs to a run with other settings, or is in use by another run.
    """
    if checkpoint is None:
        del like  # an image that the caller may no longer need
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
    """Write a checkpoint and return whether that worked; a failure is a warning, and the run continues."""
    try:
        write()
    except NotWritten as error:
        warnings.warn(f"{caller}: checkpoint: {error}; the one before is kept", stacklevel=2)
        return False
    return True


def _find(kept: RunState, path: Path, like: Tensor) -> None:
    """Read the file into `kept`, or say why this run cannot resume from it."""
    from safetensors import safe_open

    caller = kept.caller
    try:
        with safe_open(path, framework="pt") as file:
            held = json.loads((file.metadata() or {})[FORMAT])
            # A copy: the file's memory is not aligned as torch's kernels need it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
            if like.is_complex():
                tensors = {name: torch.view_as_complex(t) for name, t in tensors.items()}
        settings, numbers = dict(held["settings"]), dict(held["numbers"])
        found = torch.tensor(held["measured"], dtype=torch.float64)
        writer = str(held["caller"])
    except Exception as error:  # a file of another kind, or a damaged one, may raise anything
        what = f"{type(error).__name__}: {short(error, 100)}"
        raise ValueError(f"{caller}: {path} is not a checkpoint ({what}); choose another name, or remove it") from error
    name, remedy = f"{caller}: checkpoint {path.name:.60}", "resume with that, or remove the file to restart"
    if writer != caller:
        raise ValueError(f"{name} was written by {writer:.20}; {remedy}")
    if other := differences(settings, kept._header["settings"]):
        raise ValueError(f"{name} was written with other settings ({other:.180}); {remedy}")
    mine = torch.tensor(kept._header["measured"], dtype=torch.float64)
    if found.shape != mine.shape or not float((found - mine).norm()) <= SAME_OPERATOR_RTOL * float(mine.norm()):
        raise ValueError(f"{name} was written with another operator; {remedy}")
    for key, t in tensors.items():
        tensors[key] = t.to(like.device)
        if _layout(tensors[key]) != _layout(like) or not bool(tensors[key].isfinite().all()):
            raise ValueError(f"{name} is damaged ({key:.20}); remove the file to restart")
    kept.tensors, kept.numbers, kept.ended = tensors, numbers, held.get("ended")


def _layout(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"


def _signature(measured: Any) -> list[float]:
    """Return sums of the measurements with random signs: two differ in norm about as the measurements do."""
    generator, sums = torch.Generator().manual_seed(0), torch.zeros(N_SUMS, dtype=torch.float64)
    for part in [measured] if isinstance(measured, Tensor) else measured:
        flat = (torch.view_as_real(part) if part.is_complex() else part).detach().flatten()
        for piece in flat.split(N_SUMS * 2**14):
            signs = torch.randint(0, 2, piece.shape, generator=generator, dtype=torch.int8) * 2 - 1
            signed = piece.cpu().double() * signs
            sums += torch.nn.functional.pad(signed, (0, -len(signed) % N_SUMS)).reshape(-1, N_SUMS).sum(0)
    return [float(s) for s in sums]
