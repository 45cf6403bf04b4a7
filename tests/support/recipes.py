"""Recipes, run in this process, which has imported what takes seconds."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import pytest
from paths import ROOT

TALK = ROOT / "recipes" / "talk"


def run_talk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recipe: str, *arguments: Any, code: int = 0
) -> tuple[str, str]:
    """Run a recipe of the talk, which must end with this code; return what it writes to stdout and to stderr."""
    script = str(TALK / f"{recipe}.py")
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    ended: Any = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        ended = stop.code
    out, err = capsys.readouterr()
    assert ended == code, err
    return out, err
