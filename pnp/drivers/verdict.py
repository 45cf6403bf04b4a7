"""stub"""
from __future__ import annotations
from typing import Any
def judge(problem: Any, stop: Any) -> tuple[str, ...]:
    global LAST
    LAST = problem
    return ()
LAST: Any = None
