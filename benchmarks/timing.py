"""Measurements of the benchmarks: interleaved rounds, medians with ranges, peak memory of a fresh process.

Competitors are timed in turns (A B A B ...), so that a slow phase of the machine affects all, and ratios are taken
round by round. A call shorter than MIN_TURN_SECONDS is repeated within its turn.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from pnp.installation import version

Key = TypeVar("Key", bound=Hashable)

MIN_TURN_SECONDS = 0.05
"""Minimum duration of a turn, so that a clock tick or context switch is below one per cent of it."""


@dataclass(frozen=True)
class Spread:
    """Values of one quantity over the rounds: seconds, bytes, ratios."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the values."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """Smallest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """Largest value."""
        return max(self.values)

    def map(self, f: Callable[[float], float]) -> Spread:
        """Return f of every value."""
        return Spread(tuple(f(v) for v in self.values))

    def _paired(self, other: Spread) -> Iterable[tuple[float, float]]:
        """Pair the rounds; if their numbers differ, pair with the median of the other."""
        if len(self.values) == len(other.values):
            return zip(self.values, other.values, strict=True)
        return ((v, other.median) for v in self.values)

    def __truediv__(self, other: Spread) -> Spread:
        return Spread(tuple(a / b for a, b in self._paired(other)))

    def __sub__(self, other: Spread) -> Spread:
        return Spread(tuple(a - b for a, b in self._paired(other)))

    def __add__(self, other: Spread) -> Spread:
        return Spread(tuple(a + b for a, b in self._paired(other)))


def interleaved(calls: Mapping[Key, Callable[[], Any]], *, rounds: int, warm_up: int = 1) -> dict[Key, Spread]:
    """Time the calls in turns and return the seconds per call.

    Args:
        calls: functions without arguments, by name or another key.
        rounds: number of turns of each function.
        warm_up: calls of each function before the first turn (plans, caches, thread pools); at least 1.
    """
    repeats: dict[Key, int] = {}
    for name, call in calls.items():
        for _ in range(warm_up):
            once = seconds(call)
        repeats[name] = max(1, math.ceil(MIN_TURN_SECONDS / max(once, 1e-9)))
    taken: dict[Key, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(seconds(call, repeats[name]))
    return {name: Spread(tuple(t)) for name, t in taken.items()}


def seconds(call: Callable[[], Any], repeats: int = 1) -> float:
    """Return the seconds of one call, averaged over consecutive repeats."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


# ---------------------------------------------------------------- memory


def peak_growth(call: Callable[[], Any]) -> int:
    """Return the peak rise of this process's resident memory during one call, in bytes.

    Use it in a fresh process in which inputs and models are loaded and nothing has been called: memory that the
    allocator keeps from earlier calls would hide the rise.
    """
    try:
        # Linux: reset the peak to the current size, since the imports' own peak would hide ours.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    before = _high_water()
    call()
    return _high_water() - before


def _high_water() -> int:
    """Return the peak resident size of this process in bytes."""
    try:
        # ru_maxrss of a child starts at the peak of its parent (it survives exec); VmHWM does not.
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    except (OSError, TypeError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fresh_process(script: str, *arguments: str, limit_s: float) -> dict[str, Any] | str:
    """Run a benchmark script in a fresh process; return the JSON of its last line, or the reason of its failure."""
    command = [sys.executable, script, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s"
    if done.returncode < 0:
        return f"killed by signal {-done.returncode} (memory?)"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["failed without a message"])[-1]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


# ---------------------------------------------------------------- peers and machine


def peer(module: str, extra: str = "bench") -> Any:
    """Import an optional peer, or return None and print which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        print(f"{module} is not installed, and its rows are left out; to add them: pip install -e '.[{extra}]'")
        return None


def machine() -> dict[str, Any]:
    """Return the facts of the machine that times depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": cores,
        "torch threads": torch.get_num_threads(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16 instructions": any(f in _cpu_flags() for f in ("avx512_bf16", "amx_bf16", "bf16")),
        "load before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }
    for name in ("torch", "numpy", "finufft", "deepinv", "astra-toolbox"):
        facts[name] = version(name)
    return facts


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", _cpu_info())
    return found[1] if found else platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    found = re.search(r"(?:flags|Features)\s*:\s*(.+)", _cpu_info())
    return set(found[1].split()) if found else set()
