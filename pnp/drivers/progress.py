"""Progress bars on stderr, and the answer of a callback."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def wants_stop(answer: Any) -> bool:
    """Whether a callback asked to stop; an array of several truth values asks for nothing."""
    try:
        return bool(answer)
    except (RuntimeError, TypeError, ValueError):
        return False


def progress_bar(caller: str, total: int) -> Any:
    """Return a bar of so many iterations, on stderr."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=caller, unit="it")


def with_progress(items: Sequence[T], caller: str, progress: bool, *, unit: str = "it") -> Iterable[T]:
    """Return the items, with a bar on stderr where progress is asked for."""
    if not progress:
        return items
    from tqdm.auto import tqdm

    bar: Iterable[T] = tqdm(items, desc=caller, unit=unit)
    return bar
