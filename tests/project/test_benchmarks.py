"""The benchmarks' own instruments, and each script at tiny sizes."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest
from paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def timing(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location("timing", BENCHMARKS / "timing.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "timing", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def report(timing, monkeypatch):
    spec = importlib.util.spec_from_file_location("report", BENCHMARKS / "report.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "report", module)
    spec.loader.exec_module(module)
    return module


def test_rounds_are_interleaved_after_the_warm_up(timing, monkeypatch):
    monkeypatch.setattr(timing, "MIN_TURN_SECONDS", 0.0)
    order = []
    found = timing.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warm_up=2)
    assert "".join(order) == "aabb" + "ababab"
    assert {name: len(s.values) for name, s in found.items()} == {"a": 3, "b": 3}


def test_short_calls_are_repeated_and_averaged(timing, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(timing, "MIN_TURN_SECONDS", 4.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    calls = []
    # Every turn lasts one tick of this clock: the warm-up's single call takes 1 s, a turn of four calls 1/4 s each.
    found = timing.interleaved({"a": lambda: calls.append(1)}, rounds=2)
    assert len(calls) == 1 + 2 * 4
    assert found["a"].values == (0.25, 0.25)


def test_ratios_are_taken_round_by_round(timing):
    slow, fast = timing.Spread((10.0, 40.0, 90.0)), timing.Spread((1.0, 2.0, 3.0))
    ratio = slow / fast
    assert (ratio.low, ratio.median, ratio.high) == (10.0, 20.0, 30.0)
    assert (timing.Spread((8.0,)) / fast).values == (4.0,)


def test_peak_growth_sees_what_was_freed_again(timing):
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import timing\n"
    code += "def call():\n    import numpy as np\n    np.ones(100_000_000, np.uint8)\nprint(timing.peak_growth(call))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 95e6 < int(done.stdout) < 140e6


def test_targets_judge_the_median(timing, report):
    spread = timing.Spread((9.0, 11.0, 12.0))
    assert report.Row("A", "peer", spread, ratio=spread, target=(">=", 10.0)).met is True
    assert report.Row("A", "peer", spread, ratio=spread, target=(">=", 11.5)).met is False
    assert report.Row("A", "peer", spread, "B", target=("<=", 11.5)).met is True
    assert report.Row("A", "peer", None, target=("<=", 1.0)).met is None
    assert report.Row("A", "peer", spread, ratio=spread, target=(">=", 11.5)).cells()[4] == ">= 11.5: MISSED"


def test_a_failing_process_is_reported_not_raised(timing, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("import sys, time\nif 'slow' in sys.argv: time.sleep(60)\nraise ValueError('no such model')")
    assert timing.fresh_process(str(script), limit_s=60) == "ValueError: no such model"
    assert timing.fresh_process(str(script), "slow", limit_s=0.5) == "stopped after 0 s"


@pytest.mark.parametrize(
    ("script", "peers"),
    [
        ("radon", {"ours", "deepinv"}),
        ("fan_beam", {"ours", "no preconditioner"}),
        ("cone_beam", {"ours", "ours, 1 thread", "rotated planes", "rays, 16 a bin"}),
        ("denoising", {"MLPatch", "DRUNet", "DnCNN"}),
        ("ct_solve", {"deepinv DPIR"}),
        ("faster_solves", {"24 iterations, rho = 1", "12 over-relaxed", "today"}),
        ("spect", {"ours", "plain autograd"}),
        ("verdict", {"right level", "level x 0.2", "level x 5"}),
        ("outliers", {"FBP", "all kept", "default", "robust", "marked by hand"}),
        ("rings", {"FBP, no filter", "solve, no filter"}),
        ("truncation", {"FBP, beyond the detector 0", "FBP", "solve, TV", "solve, MLPatch"}),
        ("held_out", {"default", "auto", "best of the grid"}),
        ("error_bars", {"parametric", "equivariant, bare", "equivariant, factor", "default"}),
        ("stack", {f"{os.cpu_count()} workers and the caller", "another thread", "task of a worker"}),
    ],
)
def test_script_runs_at_tiny_sizes(script, peers, tmp_path):
    command = [sys.executable, str(BENCHMARKS / "run_all.py"), "--quick", "--only", script, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((tmp_path / "benchmarks.json").read_text())
    who = {row["who"] for row in record["rows"]}
    if importlib.util.find_spec("astra"):
        projectors = {"radon": ("linear", "strip"), "fan_beam": ("line_fanflat", "strip_fanflat")}
        peers = peers | {f"ASTRA {name}" for name in projectors.get(script, ())}
    assert peers <= who
    for row in record["rows"]:
        values = [v for key in ("value", "ratio") if row[key] for v in row[key]["values"]]
        assert values and all(map(math.isfinite, values)), row
        # One iteration is a difference of two times, which at this size is noise.
        if row["unit"] == "s" and row["value"] and not row["what"].startswith("CG iteration"):
            assert min(row["value"]["values"]) > 0, row
    assert record["title"] in (tmp_path / "benchmarks.md").read_text()
