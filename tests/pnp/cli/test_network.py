"""`pnp osem --network`: unrolled EM on scans like those that it has learned from, and what is said of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command import run
from safetensors.torch import load_file, save_file
from spect_files import VIEWS, VOXEL, camera_scan, write_scan

from pnp.io import read_result
from pnp.learned import UnrolledEM
from pnp.learned.domain import Domain, domain_of, domain_of_scans

LIKE = Domain("", (VOXEL, VOXEL), (VIEWS, VIEWS), (1e6, 1e6))


def weights(path: Path, domain: Domain | None) -> tuple[Path, UnrolledEM]:
    """Networks whose last layers are not 0."""
    torch.manual_seed(0)
    model = UnrolledEM(n_outer=2, features=4)
    for prior in model.priors:
        torch.nn.init.normal_(prior.network[-1].weight, std=0.01)
    model.save(path, about={} if domain is None else domain.header())
    return path, model


def test_the_network_is_that_of_python(monkeypatch, capsys, tmp_path):
    scan, (file, model) = write_scan(tmp_path / "y.h5"), weights(tmp_path / "w.safetensors", LIKE)
    assert run(monkeypatch, "osem", scan, "-o", tmp_path / "x.h5", "--network", file) == 0
    said = capsys.readouterr()
    assert "unrolled EM" in said.out and "warning" not in said.err
    A, y, scatter, _ = camera_scan()
    expected = model(A, y, scatter)
    saved = read_result(tmp_path / "x.h5")
    np.testing.assert_allclose(saved.x, expected, rtol=1e-3, atol=1e-3 * expected.max())
    assert saved.attributes["network"] == str(file) and 0.5 < saved.attributes["misfit"] < 10


def test_scans_of_another_kind_are_refused_or_named(monkeypatch, capsys, tmp_path):
    scan = write_scan(tmp_path / "y.h5")
    output = ("-o", tmp_path / "x.nii", "--overwrite")
    assert run(monkeypatch, "osem", scan, *output, "--network", "lu177") == 2
    assert "6.4 mm, this scan has 16 mm" in capsys.readouterr().err.splitlines()[-1]
    file, _ = weights(tmp_path / "w.safetensors", None)
    assert run(monkeypatch, "osem", scan, *output, "--network", file) == 0
    assert "do not say from which scans" in capsys.readouterr().err
    other, _ = weights(tmp_path / "o.safetensors", Domain("90Y", (VOXEL, VOXEL), (60, 60), (5e6, 6e6)))
    assert run(monkeypatch, "osem", scan, *output, "--network", other, "--calibration", 9, "--view-seconds", 20,
               "--isotope", "Lu-177") == 0  # fmt: skip
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: the network")]
    assert [word in line for word, line in zip(("counts", "views", "90Y"), lines, strict=True)] == [True] * 3
    for option, value in (("--subsets", 2), ("--iterations", 3), ("--beta", 0.1), ("--error-bars", 3)):
        assert run(monkeypatch, "osem", scan, *output, "--network", other, option, value) == 2
        assert option in capsys.readouterr().err.splitlines()[-1]


def test_the_domain_is_kept_in_the_file_of_weights(tmp_path):
    domain = Domain("177Lu", (4.0, 6.4), (30, 60), (1e5, 5e6))
    path, _ = weights(tmp_path / "w.safetensors", domain)
    assert domain_of(path) == domain and domain_of("lu177").isotope == "177Lu"
    assert domain.check(5.0, 60, 2e5, "^177^Lutetium") == [] and len(domain.check(6.9, 200, 1e4, "")) == 4
    with pytest.raises(ValueError, match="voxels"):
        domain.check(3.0, 60, 1e6, "lu177")
    A, y, scatter, truth = camera_scan()
    from pnp.learned import make_scan

    scan = make_scan(UnrolledEM(start_iter=1), A, *(torch.from_numpy(a).float() for a in (y, scatter, truth)))
    found = domain_of_scans([scan], "lu177")
    assert (found.isotope, found.voxel_mm, found.views) == ("177Lu", (VOXEL, VOXEL), (VIEWS, VIEWS))
    assert found.counts[0] == pytest.approx(1e6, rel=0.01)
    save_file(load_file(path), tmp_path / "bad.safetensors", metadata={"domain": '{"isotope": 1, "voxel_mm": [0, 1]}'})
    with pytest.raises(ValueError, match="domain"):
        domain_of(tmp_path / "bad.safetensors")
