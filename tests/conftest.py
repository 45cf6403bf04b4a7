"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from paths import ROOT

# Imported by the tests; without this its files are searched for doctests.
collect_ignore = ["support"]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The development data: the path in PNP_DATA, else ../shared/data beside the repository."""
    beside = ROOT.parent / "shared" / "data"
    path = Path(os.environ.get("PNP_DATA", beside))
    if not path.is_dir():
        pytest.skip("no development data: neither ../shared/data nor a folder in PNP_DATA")
    return path


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Let children be interrupted: a shell ignores SIGINT for what it runs in the background, and they inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
