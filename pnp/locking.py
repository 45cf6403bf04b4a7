"""One run an output: a lock that dies with its process, and what killed runs left is swept away under it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["discard", "exclusive", "sweep"]

TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""How systems say that another process has the lock; anything else: this file system has no locks."""


@contextmanager
def exclusive(path: str | os.PathLike[str], caller: str) -> Iterator[None]:
    """Keep an output to this run until the block ends; the system frees it if the process dies, however it dies.

    The lock is on a hidden file beside the output. Where the file system has no locks there is none.

    Args:
        path: the output, a file or a folder, which need not exist.
        caller: what messages begin with.

    Raises:
        ValueError: another run has it.
    """
    path = Path(path)
    path = path.parent.resolve() / path.name
    lock = path.with_name(f".{path.name}.lock")
    try:
        handle = _taken(lock)
    except OSError as error:
        raise ValueError(f"{caller}: {path} cannot be locked: {os.strerror(error.errno or 0)}") from error
    if handle is None:
        raise ValueError(
            f"{caller}: another run ({_holder(lock)}) is writing {path}; wait for its end, or choose another name"
        )
    try:
        with suppress(OSError):  # a full disk; it is for messages only
            os.ftruncate(handle, 0)
            os.write(handle, f" process {os.getpid()} on {socket.gethostname()}".encode())
        sweep(path)
        yield
    finally:
        with suppress(OSError):  # Windows removes no open files
            lock.unlink()
        os.close(handle)


def sweep(path: Path) -> None:
    """Remove the temporary files and folders that killed runs left beside an output which is ours alone."""
    file = rf"\.{re.escape(path.stem)}\.[0-9a-f]{{8}}\.part{re.escape(path.suffix)}"
    folder = rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part"
    for left in path.parent.iterdir():
        if re.fullmatch(f"{file}|{folder}", left.name):
            _remove(left)


def discard(folder: Path) -> None:
    """Remove a folder, under another name first: half of it is never taken for the whole."""
    hidden = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.part")
    os.rename(folder, hidden)
    _remove(hidden)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _taken(lock: Path) -> int | None:
    """Return the handle of the locked file; None: another process has it."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _locked(handle):
                os.close(handle)
                return None
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle
        except FileNotFoundError:
            pass  # who had it removed the file between our opening and our locking it
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in TAKEN
    return True


def _holder(lock: Path) -> str:
    with suppress(OSError):
        return lock.read_text(errors="replace").strip()[:80] or "another process"
    return "another process"
