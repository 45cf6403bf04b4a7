"""What iterations show and ask while they run: a progress bar, and a callback's answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

__all__ = ["counted", "is_true", "progress_bar"]

T = TypeVar("T")


def is_true(answer: Any) -> bool:
    """Whether a callback asked to stop; an array of several truth values asks for nothing."""
    try:
        return bool(answer)
    except (RuntimeError, TypeError, ValueError):
        return False


def progress_bar(caller: str, total: int) -> Any:
    """Return a bar of so many iterations, on stderr."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=caller, unit="it")


def counted(items: Sequence[T], caller: str, progress: bool, *, unit: str = "it") -> Iterable[T]:
    """Return the items, behind a bar on stderr where progress is asked for."""
    if not progress:
        return items
    from tqdm.auto import tqdm

    bar: Iterable[T] = tqdm(items, desc=caller, unit=unit)
    return bar
