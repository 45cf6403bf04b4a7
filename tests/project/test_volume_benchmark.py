"""The volumes that `benchmarks/volume_denoising.py` judges on, and its table."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from paths import ROOT

from denoisers import MLPatch


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("volume_denoising", ROOT / "benchmarks" / "volume_denoising.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_volumes_are_in_range_and_vary_along_every_axis(benchmark):
    for name, make in benchmark.VOLUMES.items():
        x = make(20)
        if name == "mni" and x is None:  # nilearn is optional
            continue
        assert x.shape == (20, 20, 20) and x.dtype == np.float32, name
        assert x.min() >= 0 and x.max() <= 1, name
        assert all(np.abs(np.diff(x, axis=axis)).max() > 0.01 for axis in range(3)), name


def test_shepp_and_logans_head_has_its_greys(benchmark):
    x = benchmark.shepp_logan(40)
    assert x[0, 0, 0] == 0 and x[20, 20, 20] == pytest.approx(0.2, abs=1e-6)
    assert x[20, 20, 16] == pytest.approx(0.0, abs=1e-6)  # in the left ventricle
    assert x.max() == pytest.approx(1, abs=0.2)  # the skull


def test_thicker_voxels_are_means(benchmark):
    x = np.arange(24.0, dtype=np.float32).reshape(6, 2, 2)
    np.testing.assert_allclose(benchmark.thicker(x, 3.0), x.reshape(2, 3, 2, 2).mean(1))


def test_the_table_has_every_peer(benchmark, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    MLPatch(dimensions=3, taps=3, features=4, hidden=4, dilations=(1,)).save(tmp_path / "w.safetensors")
    options = (
        "--weights",
        str(tmp_path / "w.safetensors"),
        "--size",
        "12",
        "--sigmas",
        "25",
        "--only",
        "gyroid",
        "cells",
    )
    monkeypatch.setattr(sys, "argv", ["volume_denoising.py", *options, "--anisotropy", "2"])
    benchmark.main()
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[:1] == [""] and {"volume", "gray, slices", "gray, three axes"} < set(rows)
    assert sum(row.startswith("TV") for row in rows) == 1
