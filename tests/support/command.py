"""The command `pnp`, run in this process."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pnp import cli


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    """Return the command's exit code."""
    monkeypatch.setattr(sys, "argv", ["pnp", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)
