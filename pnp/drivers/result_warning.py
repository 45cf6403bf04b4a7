"""The Python warning that repeats `Result.warnings`, and how to silence it where they are printed anyway."""

from __future__ import annotations

import warnings
from collections.abc import Sequence


class ResultWarning(UserWarning):
    """Something looks wrong in a result, which has the same sentences in its `warnings`."""


def warn_of(caller: str, sentences: Sequence[str], stacklevel: int = 4) -> None:
    """Raise one warning of all sentences, none where there is none, for the caller of a function without gradients."""
    if sentences:
        warnings.warn(f"{caller}: " + "; ".join(sentences), ResultWarning, stacklevel=stacklevel)


def ignore_result_warnings() -> None:
    """Ignore every `ResultWarning`, until the surrounding `catch_warnings` ends; other warnings are shown."""
    warnings.simplefilter("ignore", ResultWarning)
