"""`pnp reconstruct --strength auto`: what it prints and what it keeps."""

from __future__ import annotations

import torch
from command import run

from operators import OPERATORS
from pnp.io import read_result, write_measurements


def test_strength_auto_says_what_it_chose(monkeypatch, tmp_path, capsys):
    parameters = {"shape": (32, 32), "angles": torch.arange(30) * (torch.pi / 30)}
    disc = (torch.linspace(-1, 1, 32)[:, None] ** 2 + torch.linspace(-1, 1, 32) ** 2 < 0.5).float()[None, None]
    y = OPERATORS["radon"](**parameters).A(disc)
    write_measurements(tmp_path / "y.h5", y, operator="radon", parameters=parameters)
    options = ("--denoiser", "tv", "--noise-std", 0.05, "--strength", "auto", "-o", tmp_path / "x.h5")
    assert run(monkeypatch, "reconstruct", tmp_path / "y.h5", *options) == 0
    assert "held out in blocks, prediction error" in capsys.readouterr().out
    kept = read_result(tmp_path / "x.h5").attributes
    assert kept["strength"] > 0 and "in blocks" in kept["strength_source"] and "iterations" in kept["candidates"]
