"""The Python warning that repeats `Result.warnings`, and how to silence it where they are printed anyway."""

from __future__ import annotations

import warnings


class ResultWarning(UserWarning):
    """Something looks wrong in a result, which has the same sentences in its `warnings`."""


def ignore_result_warnings() -> None:
    """Ignore every `ResultWarning`, until the surrounding `catch_warnings` ends; other warnings are shown."""
    warnings.simplefilter("ignore", ResultWarning)
