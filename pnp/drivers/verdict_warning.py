"""Silence the Python warning of a solver whose result is printed with its warnings: a user should read them once."""

from __future__ import annotations

import warnings

VERDICT_WARNING = r"(solve|solve_stack|solve_mosaic|mlem|osem): (?!checkpoint)"
"""Beginning of the Python warning that repeats `Result.warnings`; failed checkpoints are another matter."""


def ignore_verdict_warnings() -> None:
    """Ignore the Python warnings that repeat `Result.warnings`, until the surrounding `catch_warnings` ends."""
    warnings.filterwarnings("ignore", VERDICT_WARNING, UserWarning)
