"""Write a file whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROBE_BYTES = 2**20
"""Bytes written to learn why a disk refuses, where a library does not report it."""
_REFUSAL_ERRNOS = {
    getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "EACCES", "EPERM")
}
"""Error numbers by which systems refuse to write; other errors have other causes."""


class NotWritten(ValueError):
    """The system refuses to write a file: full disk, quota, missing folder. A file of that name is left as it was."""


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Return the path of a file to be written, or explain why it cannot be.

    Call it before a long computation, too.

    Raises:
        ValueError: the path is a folder, or exists (without overwrite).
        NotWritten: its folder is missing or not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"output {path} is a folder; give the name of a file in it")
    if path.exists() and not overwrite:
        raise ValueError(f"output {path} exists; choose another name or allow it to be overwritten (overwrite)")
    if not path.parent.is_dir():
        raise NotWritten(f"output {path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise NotWritten(f"output {path}: the folder {path.parent} is not writable; choose another one")
    return path


def _temporary_path(path: Path) -> Path:
    """Return a free hidden name in the same folder, so that a rename is atomic; see `lock.remove_stale_parts`."""
    # The suffix stays, since writers choose the format by it.
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")


@contextmanager
def atomic(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; rename it to `path` when the block succeeds.

    The bytes are on the disk before the name is. A block that fails leaves no temporary file, and whatever was at
    `path` stays as it was; so does, without overwrite, a file that appeared there in the meantime.

    Raises:
        ValueError: the path cannot be written (see `check_output`).
        NotWritten: the system refused while writing.
    """
    path = check_output(path, overwrite=overwrite)
    part = _temporary_path(path)
    try:
        yield part
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
        if overwrite or not _link(part, path):
            check_output(path, overwrite=overwrite)
            os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch and HDF5 raise the second one only
        if (reason := refusal(error, part)) is None:
            raise
        raise NotWritten(f"output {path} cannot be written: {reason}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_hdf5(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Any]:
    """Yield an h5py.File that appears at `path` when the block succeeds; as `atomic` in all else."""
    import h5py

    with atomic(path, overwrite=overwrite) as part:
        with _Sink(part) as sink:
            with h5py.File(sink, "w") as file:
                yield file
            if sink.refused is not None:
                raise sink.refused


class _Sink(io.FileIO):
    """File whose writes never fail: once the system refuses, the rest is dropped and the error is kept.

    HDF5 that cannot empty its caches to a full disk crashes the process when it closes the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+b")
        self.refused: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of the data, or none once something failed."""
        rest = memoryview(data).cast("B")
        n = len(rest)
        try:
            while self.refused is None and len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.refused = error
        return n

    def truncate(self, size: int | None = None) -> int:
        """Set the size, unless something failed."""
        try:
            if self.refused is None:
                return super().truncate(size)
        except OSError as error:
            self.refused = error
        return self.tell() if size is None else size


def refusal(error: Exception, part: Path) -> str | None:
    """Return the system's reason for not writing; None where the error has another cause."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno) if error.errno in _REFUSAL_ERRNOS else None
    try:  # NumPy, astropy and torch do not report the reason: write again to learn it
        with open(part, "ab") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refused:
        return os.strerror(refused.errno or 0)
    return " ".join(str(error).split())[:200] if isinstance(error, OSError) else None


def _link(part: Path, path: Path) -> bool:
    """Link the file to `path` unless that exists; False where the file system has no links."""
    try:
        os.link(part, path)
    except FileExistsError:
        check_output(path)
        raise
    except OSError:
        return False
    return True
