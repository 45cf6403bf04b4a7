"""The folder of a run: a Zarr group of finished slices with a ledger.

    image    (n, C, H, W)  one slice per chunk; NaN where there is none
    ledger   (n,)          0 open, 1 done, 2 failed; written after the data
    facts    (n, 4)        n_iter, misfit, noise_std, seconds
    reasons  (n, 400)      why a slice failed, UTF-8
    warnings (n, 2000)     what looks wrong in a finished slice, a sentence a line, UTF-8
    n_rejected (n,)        number of its measurements that were taken for outliers
    choices  (n, 4)        what strength="auto" chose, see CHOICE; else NaN

Each chunk is a file that one process writes atomically. No locks are needed, and a run killed at any moment leaves a
folder from which the next one resumes. Works with Zarr 2 and 3.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..io.lock import part_path, remove_renamed

OPEN, DONE, FAILED = 0, 1, 2
FORMAT = "pnp stack"
FACTS = ("n_iter", "misfit", "noise_std", "seconds")
CHOICE = ("strength", "chosen_n_iter", "prediction_error", "prediction_error_std")
"""What strength="auto" chose for a slice: the columns of `choices`, named as in /slices of a file."""
REASON_BYTES = 400
"""Length of a reason in bytes, as stored."""
_SHORT_VALUE = 16
"""Length of a setting's text up to which a message has it."""
WARNING_BYTES = 2000
"""Length of a slice's warnings in bytes, as stored."""


class Summary(NamedTuple):
    """Outcome of a slice: its facts, warnings and the strength that was chosen, or the reason why it failed."""

    k: int
    facts: tuple[float, float, float, float] | None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    n_rejected: int = 0
    choice: tuple[float, float, float, float] | None = None


class CannotWrite(OSError):
    """The folder cannot be written, so the whole run has failed, not one slice."""


def settings_of_run(folder: Path, form: str) -> dict[str, str] | None:
    """Return the settings of the run in a folder; None if it holds no run of this format."""
    import zarr

    try:
        held = dict(zarr.open_group(str(folder), mode="r").attrs)
    except (OSError, ValueError, KeyError):  # what Zarr 2 and 3 raise where there is no group
        return None
    return dict(held["settings"]) if held.get("format") == form else None


class Parts:
    """An existing folder of a run.

    Args:
        folder: absolute path, on a disk that all workers can access.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @staticmethod
    def create(folder: Path, n: int, shape: tuple[int, ...], dtype: Any, settings: dict[str, str]) -> Parts:
        """Make the folder with its settings, atomically.

        Args:
            folder: path of the folder.
            n: number of slices.
            shape: shape of an image, (C, H, W).
            dtype: dtype of the images.
            settings: fingerprints by name, see `drivers.fingerprint`.
        """
        import zarr

        part = part_path(folder)
        try:
            group = zarr.open_group(str(part), mode="w")
            new_array(part / "image", (n, *shape), (1, *shape), dtype, np.nan)
            new_array(part / "ledger", (n,), (1,), "uint8", OPEN)
            new_array(part / "facts", (n, len(FACTS)), (1, len(FACTS)), "float64", np.nan)
            new_array(part / "reasons", (n, REASON_BYTES), (1, REASON_BYTES), "uint8", 0)
            _add_warnings(part, n)
            new_array(part / "choices", (n, len(CHOICE)), (1, len(CHOICE)), "float64", np.nan)
            group.attrs.update({"format": FORMAT, "format_version": 1, "facts": list(FACTS), "settings": settings})
            os.rename(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return Parts(folder)

    @staticmethod
    def resume(folder: Path, settings: dict[str, str], *, overwrite: bool, caller: str) -> Parts | None:
        """Return the run in a folder if it has these settings; None if the folder is missing or was removed.

        Raises:
            ValueError: the folder holds something else, or a run with other settings and overwrite is False.
        """
        if not folder.exists():
            return None
        held = settings_of_run(folder, FORMAT)
        if held is None:
            raise ValueError(f"{caller}: output {folder} exists and holds no stack; choose another name")
        if held != settings:
            if not overwrite:
                changed = changed_settings(held, settings)
                raise ValueError(
                    f"{caller}: output {folder} holds a run with other settings ({changed}); "
                    "choose another name, or overwrite=True to restart"
                )
            remove_renamed(folder)
            return None
        parts = Parts(folder)
        ledger = parts.ledger()
        if (ledger != DONE).any() and not (folder / "n_rejected").exists():  # a run of an earlier version
            _add_warnings(folder, len(ledger))
        return parts

    def array(self, name: str, mode: str = "r") -> Any:
        """Open one of the arrays."""
        import zarr

        return zarr.open_array(str(self.folder / name), mode=mode)

    def ledger(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Read the ledger."""
        return np.asarray(self.array("ledger")[:])

    def is_done(self, k: int) -> bool:
        """Return whether slice k is finished.

        Raises:
            CannotWrite: the folder is gone, or cannot be read.
        """
        return bool(self._entry("ledger", k) == DONE)

    def summary(self, k: int) -> Summary:
        """Read the outcome of slice k, which is done or failed; raises as `is_done`."""
        if self.is_done(k):
            n_iter, misfit, noise_std, seconds = map(float, self._entry("facts", k))
            return Summary(k, (n_iter, misfit, noise_std, seconds))
        return Summary(k, None, _text(self._entry("reasons", k)))

    def _entry(self, name: str, k: int) -> Any:
        try:
            return self.array(name)[k]
        except Exception as error:  # OSError, or what Zarr raises instead
            raise CannotWrite(f"{type(error).__name__}: {error}") from error

    def finish(self, summary: Summary, image: Any = None) -> None:
        """Write a slice (1, C, H, W), or the reason why it failed, and then its entry in the ledger.

        Raises:
            CannotWrite: the disk is full, or the folder is gone.
        """
        try:
            self._finish(summary, image)
        except Exception as error:  # OSError, or what Zarr raises instead
            raise CannotWrite(f"{type(error).__name__}: {error}") from error

    def _finish(self, summary: Summary, image: Any) -> None:
        k = summary.k
        if summary.facts is None:
            self.array("reasons", "r+")[k : k + 1] = _bytes(summary.reason, REASON_BYTES)
        else:
            self.array("image", "r+")[k : k + 1] = image
            self.array("facts", "r+")[k : k + 1] = np.array([summary.facts])
            if summary.warnings:
                lines = "\n".join(" ".join(sentence.split()) for sentence in summary.warnings)
                self.array("warnings", "r+")[k : k + 1] = _bytes(lines, WARNING_BYTES)
            if summary.n_rejected:
                self.array("n_rejected", "r+")[k : k + 1] = np.array([summary.n_rejected])
            if summary.choice is not None and (self.folder / "choices").exists():  # not in runs of earlier versions
                self.array("choices", "r+")[k : k + 1] = np.array([summary.choice])
        self.array("ledger", "r+")[k : k + 1] = np.array([FAILED if summary.facts is None else DONE], np.uint8)

    def reasons(self) -> dict[int, str]:
        """Return why slices failed, by slice number."""
        failed, texts = np.flatnonzero(self.ledger() == FAILED), self.array("reasons")
        return {int(k): _text(texts[int(k)]) for k in failed}

    def warnings(self) -> dict[int, tuple[str, ...]]:
        """Return what looks wrong in finished slices, by slice number, without the slices that have no warnings."""
        if not (self.folder / "warnings").exists():
            return {}
        texts = np.asarray(self.array("warnings")[:])
        found = np.flatnonzero(texts.any(axis=1) & (self.ledger() == DONE))
        return {int(k): tuple(_text(texts[k]).split("\n")) for k in found}

    def n_rejected(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the number of measurements of each slice that were taken for outliers."""
        done = self.ledger() == DONE
        if not (self.folder / "n_rejected").exists():
            return np.zeros(len(done), np.int64)
        return np.where(done, np.asarray(self.array("n_rejected")[:]), 0)

    def choices(self) -> dict[int, tuple[float, ...]]:
        """Return what strength="auto" chose for finished slices, by slice number, see CHOICE."""
        if not (self.folder / "choices").exists():
            return {}
        rows = np.asarray(self.array("choices")[:])
        found = np.flatnonzero(np.isfinite(rows[:, 0]) & (self.ledger() == DONE))
        return {int(k): tuple(map(float, rows[k])) for k in found}

    def misfits(self) -> dict[int, float]:
        """Return the misfits of finished slices, by slice number."""
        values = np.asarray(self.array("facts")[:])[:, FACTS.index("misfit")]
        return {int(k): float(values[k]) for k in np.flatnonzero(self.ledger() == DONE)}


def changed_settings(old: dict[str, str], new: dict[str, str]) -> str:
    """Return which settings differ, for a message: short ones with their values, others by name alone.

    >>> changed_settings({"max_iter": "8", "data_term": "LeastSquares " + 90 * "x"}, {"max_iter": "10"})
    'max_iter was 8, is 10; data_term differs'
    """
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    values = {name: (old.get(name, "not given"), new.get(name, "not given")) for name in changed}
    short = [name for name in changed if max(map(len, values[name])) <= _SHORT_VALUE]
    parts = [f"{name} was {values[name][0]}, is {values[name][1]}" for name in short]
    if long := [name for name in changed if name not in short]:
        parts.append(f"{' and '.join(long)} differ{'s' if len(long) == 1 else ''}")
    return "; ".join(parts)


def _add_warnings(folder: Path, n: int) -> None:
    """Create the arrays that say what looks wrong."""
    new_array(folder / "warnings", (n, WARNING_BYTES), (1, WARNING_BYTES), "uint8", 0)
    new_array(folder / "n_rejected", (n,), (1,), "int64", 0)


def _bytes(text: str, length: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a row of text as stored."""
    return np.frombuffer(text.encode()[:length].ljust(length, b"\0"), np.uint8)[None]


def _text(line: Any) -> str:
    return bytes(line).rstrip(b"\0").decode(errors="replace")


def new_array(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any, fill: Any) -> Any:
    """Create a Zarr array at a path."""
    import zarr

    return zarr.open_array(str(path), mode="w", shape=shape, chunks=chunks, dtype=dtype, fill_value=fill)


def free_folder(path: str | os.PathLike[str], caller: str, *, overwrite: bool = False) -> Path:
    """Return the absolute path of a folder that can be created.

    Raises:
        ValueError: it exists (and overwrite is False, or it is not Zarr), or its parent is missing or not writable.
    """
    folder = Path(path).resolve()
    if folder.exists():
        ours = folder.is_dir() and any((folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))
        if not (overwrite and ours):
            remedy = "choose another name" + (" or allow it to be overwritten (overwrite)" if ours else "")
            raise ValueError(f"{caller}: output {folder} exists; {remedy}")
    if not folder.parent.is_dir() or not os.access(folder.parent, os.W_OK):
        raise ValueError(f"{caller}: output {folder}: the folder {folder.parent} does not exist or is not writable")
    return folder
