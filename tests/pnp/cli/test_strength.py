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
    shown = capsys.readouterr().out
    assert "views" in shown and "prediction error" in shown
    saved = read_result(tmp_path / "x.h5")
    assert saved.attributes["strength"] == saved.candidates[0][0][0] > 0
    assert "views" in saved.attributes["strength_source"] and len(saved.candidates[0]) >= 2


def test_each_image_of_a_batch_keeps_what_was_tried_and_has_its_chart(monkeypatch, tmp_path, capsys):
    parameters = {"shape": (24, 24), "angles": torch.arange(24) * (torch.pi / 24)}
    ramp = torch.linspace(0, 1, 24).expand(24, 24)
    x = torch.stack([(ramp > 0.4).float(), ramp * ramp.T])[:, None]
    y = OPERATORS["radon"](**parameters).A(x)
    write_measurements(tmp_path / "y.h5", y, operator="radon", parameters=parameters)
    options = ("--denoiser", "tv", "--noise-std", 0.05, "--strength", "auto", "-o", tmp_path / "x.h5")
    assert run(monkeypatch, "reconstruct", tmp_path / "y.h5", *options) == 0
    saved = read_result(tmp_path / "x.h5")
    assert len(saved.candidates) == 2 and min(map(len, saved.candidates)) >= 2
    assert saved.attributes["strength"] == tuple(tried[0][0] for tried in saved.candidates)
    assert run(monkeypatch, "report", tmp_path / "x.h5", "-o", tmp_path / "x.html") == 0
    assert "prediction error of what was tried, image 2 of 2" in (tmp_path / "x.html").read_text()
    capsys.readouterr()


def test_a_default_that_was_taken_is_kept_with_its_reason(monkeypatch, tmp_path, capsys):
    write_measurements(tmp_path / "y.h5", torch.rand(1, 1, 24, 24), operator="identity", parameters={"shape": (24, 24)})
    options = ("--denoiser", "tv", "--noise-std", 0.1, "--strength", "auto", "-o", tmp_path / "x.h5")
    assert run(monkeypatch, "reconstruct", tmp_path / "y.h5", *options) == 0
    assert "the default" in capsys.readouterr().out
    saved = read_result(tmp_path / "x.h5")
    assert saved.attributes["strength"] == 1 and "the default" in saved.attributes["strength_source"]
    assert saved.candidates == ()
