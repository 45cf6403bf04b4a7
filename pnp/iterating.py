"""What iterations show and ask while they run: a progress bar, and a callback's answer."""

from __future__ import annotations

from typing import Any

__all__ = ["is_true", "progress_bar"]


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
