"""The folder of a run: a Zarr group that holds what is finished, and a ledger of it.

    image    (n, C, H, W)  a slice a chunk; NaN where there is none
    ledger   (n,)          0 open, 1 done, 2 failed: written after the data
    facts    (n, 4)        n_iter, misfit, noise_std, seconds
    reasons  (n, 400)      why a slice failed, UTF-8

Each chunk is a file that only one process writes, and appears whole: nothing needs a lock, and a run that is killed
at any moment leaves a folder from which the next one goes on. Zarr 2 and 3 alike.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..drivers.fingerprint import differences
from ..io.lock import part_path, remove_renamed

OPEN, DONE, FAILED = 0, 1, 2
FORMAT = "pnp stack"
FACTS = ("n_iter", "misfit", "noise_std", "seconds")
LONGEST = 400
"""Bytes of a reason."""


class Summary(NamedTuple):
    """What a worker says of a slice: its facts, or the reason why it failed."""

    k: int
    facts: tuple[float, float, float, float] | None
    reason: str = ""


class CannotWrite(OSError):
    """The folder cannot be written: not one slice has failed, but the run."""


class Parts:
    """The folder of a run that exists.

    Args:
        folder: its absolute path, on a disk that all workers see.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @staticmethod
    def create(folder: Path, n: int, shape: tuple[int, ...], dtype: Any, settings: dict[str, str]) -> Parts:
        """Make the folder under another name and rename it: it is there whole, with its settings, or not at all.

        Args:
            folder: its path.
            n: number of slices.
            shape: of an image, (C, H, W).
            dtype: of the images.
            settings: see `settings.described`.
        """
        import zarr

        part = part_path(folder)
        try:
            group = zarr.open_group(str(part), mode="w")
            new_array(part / "image", (n, *shape), (1, *shape), dtype, np.nan)
            new_array(part / "ledger", (n,), (1,), "uint8", OPEN)
            new_array(part / "facts", (n, len(FACTS)), (1, len(FACTS)), "float64", np.nan)
            new_array(part / "reasons", (n, LONGEST), (1, LONGEST), "uint8", 0)
            group.attrs.update({"format": FORMAT, "format_version": 1, "facts": list(FACTS), "settings": settings})
            os.rename(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return Parts(folder)

    @staticmethod
    def resume(folder: Path, settings: dict[str, str], *, overwrite: bool, caller: str) -> Parts | None:
        """Return the run in a folder if there is one with these settings; None: there is nothing, or no longer.

        Raises:
            ValueError: the folder holds something else, or a run with other settings and may not be overwritten.
        """
        import zarr

        if not folder.exists():
            return None
        try:
            held = dict(zarr.open_group(str(folder), mode="r").attrs)
        except (OSError, ValueError, KeyError):  # what Zarr 2 and 3 raise where there is no group
            held = {}
        if held.get("format") != FORMAT:
            raise ValueError(f"{caller}: output {folder} exists and holds no stack; choose another name")
        if other := differences(held["settings"], settings):
            if not overwrite:
                raise ValueError(
                    f"{caller}: output {folder} holds a run with other settings ({other:.200}); "
                    "choose another name, or overwrite=True to begin anew"
                )
            remove_renamed(folder)
            return None
        return Parts(folder)

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
        """Read what is known of slice k, which is done or failed; raises as `is_done`."""
        if self.is_done(k):
            n_iter, misfit, noise_std, seconds = map(float, self._entry("facts", k))
            return Summary(k, (n_iter, misfit, noise_std, seconds))
        return Summary(k, None, _text(self._entry("reasons", k)))

    def _entry(self, name: str, k: int) -> Any:
        try:
            return self.array(name)[k]
        except Exception as error:  # OSError, and what Zarr makes of it
            raise CannotWrite(f"{type(error).__name__}: {error}") from error

    def finish(self, summary: Summary, image: Any = None) -> None:
        """Write a slice (1, C, H, W), or why there is none, and then its line of the ledger.

        Raises:
            CannotWrite: a full disk, a folder that is gone.
        """
        try:
            self._finish(summary, image)
        except Exception as error:  # OSError, and what Zarr makes of it
            raise CannotWrite(f"{type(error).__name__}: {error}") from error

    def _finish(self, summary: Summary, image: Any) -> None:
        k = summary.k
        if summary.facts is None:
            text = np.frombuffer(summary.reason.encode()[:LONGEST].ljust(LONGEST, b"\0"), np.uint8)
            self.array("reasons", "r+")[k : k + 1] = text[None]
        else:
            self.array("image", "r+")[k : k + 1] = image
            self.array("facts", "r+")[k : k + 1] = np.array([summary.facts])
        self.array("ledger", "r+")[k : k + 1] = np.array([FAILED if summary.facts is None else DONE], np.uint8)

    def reasons(self) -> dict[int, str]:
        """Return why slices failed, by their number."""
        failed, texts = np.flatnonzero(self.ledger() == FAILED), self.array("reasons")
        return {int(k): _text(texts[int(k)]) for k in failed}


def _text(line: Any) -> str:
    return bytes(line).rstrip(b"\0").decode(errors="replace")


def new_array(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any, fill: Any) -> Any:
    """Create a Zarr array in a folder of its own."""
    import zarr

    return zarr.open_array(str(path), mode="w", shape=shape, chunks=chunks, dtype=dtype, fill_value=fill)


def free_folder(path: str | os.PathLike[str], caller: str, *, overwrite: bool = False) -> Path:
    """Return the absolute path of a folder that may be made, or explain why it cannot be.

    Raises:
        ValueError: it exists (without overwrite, or is not Zarr), or its parent is missing or not writable.
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
