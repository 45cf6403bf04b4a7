"""Write a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic", "check_output"]


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Return the path of a file to be written, or explain why it cannot be.

    Worth calling before a long computation, too.

    Raises:
        ValueError: the path is a folder, exists (without overwrite), or its folder is missing or not
            writable.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"output {path} is a folder; give the name of a file in it")
    if path.exists() and not overwrite:
        raise ValueError(f"output {path} exists; choose another name or allow it to be overwritten (overwrite)")
    if not path.parent.is_dir():
        raise ValueError(f"output {path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"output {path}: the folder {path.parent} is not writable; choose another one")
    return path


@contextmanager
def atomic(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; rename it to `path` when the block succeeds.

    The bytes are on the disk before the name is. A block that fails leaves no temporary file, and whatever was at
    `path` stays as it was; so does, without overwrite, a file that appeared there in the meantime.

    Raises:
        ValueError: the path cannot be written (see `check_output`), or the system refused while writing.
    """
    path = check_output(path, overwrite=overwrite)
    # In the same folder, so that the rename is atomic; with the same suffix, since writers choose by it.
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield part
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
        if overwrite or not _linked(part, path):
            check_output(path, overwrite=overwrite)
            os.replace(part, path)
    except OSError as error:
        raise ValueError(f"output {path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _linked(part: Path, path: Path) -> bool:
    """Give the file its second name unless that is taken; False where the file system has no links."""
    try:
        os.link(part, path)
    except FileExistsError:
        check_output(path)
        raise
    except OSError:
        return False
    return True
