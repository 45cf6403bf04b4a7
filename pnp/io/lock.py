"""Lock an output against a second process; the lock ends with its process.

Under the lock, temporary files and folders that killed runs left are removed.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

_MAX_ATTEMPTS = 100
"""Attempts to lock a file that other processes may remove in between."""


@contextmanager
def exclusive(path: str | os.PathLike[str], caller: str) -> Iterator[None]:
    """Lock an output until the block ends; the system releases the lock however the process dies.

    A hidden file beside the output is locked, unless the file system has no locks.

    Args:
        path: the output, a file or a folder, which need not exist.
        caller: beginning of messages.

    Raises:
        ValueError: another run holds the lock.
    """
    path = Path(path)
    path = path.parent.resolve() / path.name
    lock = path.with_name(f".{path.name}.lock")
    try:
        handle, holds = _acquired(lock)
    except OSError as error:
        raise ValueError(
            f"{caller}: {path} cannot be locked: {os.strerror(error.errno or 0)}; if no run is writing it, remove "
            f"{lock.name}"
        ) from error
    if handle is None:
        raise ValueError(
            f"{caller}: another run ({_holder(lock)}) is writing {path}; wait for its end, or choose another name"
        )
    try:
        with suppress(OSError):  # a full disk; it is for messages only
            os.ftruncate(handle, 0)
            os.write(handle, f" process {os.getpid()} on {socket.gethostname()}".encode())
        if holds:  # without locks another run may be writing
            remove_stale_parts(path)
        yield
    finally:
        if sys.platform == "win32":  # where open files cannot be removed
            os.close(handle)
        with suppress(OSError):
            lock.unlink()
        if sys.platform != "win32":
            os.close(handle)


def part_path(path: Path) -> Path:
    """Return an unused hidden name beside a folder, for a temporary one; see `remove_stale_parts`."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")


def remove_stale_parts(path: Path) -> None:
    """Remove temporary files and folders of killed runs beside an output; call it with the lock held."""
    file = rf"\.{re.escape(path.stem)}\.[0-9a-f]{{8}}\.part{re.escape(path.suffix)}"
    folder = rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part"
    for left in path.parent.iterdir():
        if re.fullmatch(f"{file}|{folder}", left.name):
            _remove(left)


def remove_renamed(folder: Path) -> None:
    """Rename a folder, then remove it, so that a half-removed folder is never taken for a whole one."""
    part = part_path(folder)
    os.rename(folder, part)
    _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _acquired(lock: Path) -> tuple[int | None, bool]:
    """Return the handle of the lock's file, None if another process has it, and whether there are locks at all."""
    for _ in range(_MAX_ATTEMPTS):
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked = _try_lock(handle)
            if locked is False:
                os.close(handle)
                return None, True
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle, locked is True
        except FileNotFoundError:
            pass  # its holder removed the file after we opened it and before we locked it
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
    return None, True


def _try_lock(handle: int) -> bool | None:
    """Lock a file; False: another process has it; None: there are no locks here."""
    try:
        return lock_descriptor(handle, blocking=False)
    except OSError:
        return None


def _holder(lock: Path) -> str:
    with suppress(OSError), open(lock, "rb") as file:
        file.seek(1)  # on Windows no other process can read the first byte, which is the locked one
        return file.read(80).decode(errors="replace").strip() or "another process"
    return "another process"
