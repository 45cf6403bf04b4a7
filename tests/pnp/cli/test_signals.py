"""Ctrl-C during a reconstruction and while its result is written: what was computed is kept."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from arrays import uniform
from command import run

from pnp import io
from pnp.io import read_result, write_measurements, write_result


def measured(path, n: int):
    """Noise behind a mask that hides nothing."""
    mask = np.ones((n, n), bool)
    write_measurements(path, uniform(1, 1, n, n).float(), operator="mask", parameters={"mask": mask}, noise_std=0.01)
    return path


def test_ctrl_c_keeps_the_last_iterate(tmp_path):
    # So large that some twenty iterations take seconds: the signal comes before the last on any machine.
    big, output = measured(tmp_path / "y.h5", 1024), tmp_path / "x.h5"
    command = [sys.executable, "-m", "pnp.cli", "reconstruct", str(big), "-o", str(output), "--denoiser", "tv"]
    process = subprocess.Popen(
        [*command, "--max-iter", "100000"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    seen, start = "", time.monotonic()
    while "residuals" not in seen and time.monotonic() - start < 120:  # an iteration has been finished
        seen += process.stderr.read(64)
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=120)
    assert process.returncode == 130, seen + rest
    saved = read_result(output)
    assert saved.attributes["n_iter"] >= 1 and "Interrupted" in saved.attributes["stop"]
    assert np.isfinite(saved.x).all() and "Interrupted" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_waits_until_the_result_is_written_and_a_second_does_not(monkeypatch, tmp_path, capsys, number, times):
    def write(*arguments, **options):
        for _ in range(times):
            signal.raise_signal(number)
        write_result(*arguments, **options)

    def end(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(io, "write_result", write)
    before, output = signal.signal(signal.SIGTERM, end), tmp_path / "x.h5"
    try:
        code = run(monkeypatch, "reconstruct", measured(tmp_path / "y.h5", 16), "-o", output, "--denoiser", "tv")
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 130 and ("iterations" in capsys.readouterr().out) == output.exists() == (times == 1)
