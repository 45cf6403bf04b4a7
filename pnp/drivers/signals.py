"""Signals that wait until what is being done is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def collected() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of acting on them; a second one acts as it did before.

    Only a program's main thread may do that; elsewhere signals are left alone.
    """
    caught: list[int] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, action in before.items():
            signal.signal(number, signal.SIG_DFL if action is None else action)

    def remember(number: int, _: object) -> None:
        caught.append(number)
        restore()

    if threading.current_thread() is threading.main_thread():
        before.update({number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)})
    try:
        yield caught
    finally:
        restore()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Finish the block before Ctrl-C or SIGTERM acts."""
    with collected() as caught:
        yield
    for number in caught:
        signal.raise_signal(number)
