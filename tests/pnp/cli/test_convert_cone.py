"""pnp convert --cone: all rows of a Nikon scan in one file, for the operator cone_beam."""

from __future__ import annotations

import numpy as np
import pytest
from command import run
from cone_points import CLOSE, shadows
from nikon_files import PITCH, write_points

from pnp.cli.problem import build_operator, check_sizes, read_problem


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """A spot in the middle of voxel (30, 30, 49) of 40 x 80 x 80 of 0.4 mm: x right, y along the first beam, z up."""
    path = tmp_path_factory.mktemp("nikon") / "rod.xtekct"
    return write_points(path, [(0.4 * (49 - 39.5), 0.4 * (39.5 - 30), 0.4 * (30 - 19.5))], 30, 80, 0.8)


def test_from_a_scan_to_a_file_for_cone_beam(monkeypatch, scanned, tmp_path, capsys):
    """The axis is given a bin beside the middle: the spot is seen a bin farther."""
    path = tmp_path / "scan.h5"
    assert run(monkeypatch, "convert", scanned, "-o", path, "--cone", "--centre", 38.5) == 0
    out = capsys.readouterr().out
    assert "4 views of 30 rows and 80 bins, for a volume of 40 x 80 x 80 voxels" in out
    assert "Detector row 14" in out and "1 of 1 detector row" not in out and "A slice has" not in out
    data = read_problem(path)
    assert data.operator == "cone_beam" and data.length_units == "mm" and data.noise_std.shape == data.y.shape
    A = build_operator(data.operator, data.parameters)
    check_sizes(A, data, path)
    assert float(A.offset) == pytest.approx(PITCH) and A.voxel_size == pytest.approx((0.4,) * 3)
    rows, columns = (np.arange(n) for n in data.y.shape[-2:])
    y = np.where(data.y > 0.1, data.y, 0)[0, 0]
    spots = np.stack([y.sum(2) @ rows, y.sum(1) @ columns], -1) / y.sum((1, 2))[:, None]
    np.testing.assert_allclose(shadows(A, [(30, 30, 49)], around=2)[0], spots - [0, 1], atol=2 * CLOSE)


def test_options_that_do_not_fit(monkeypatch, scanned, tmp_path, capsys):
    path = tmp_path / "scan.h5"
    for options, part in (
        (("--rings", "all"), "--rings"),
        (("--beam-hardening", "fit"), "--beam-hardening"),
        (("--rows", "0:9:2"), "rows"),
    ):
        assert run(monkeypatch, "convert", scanned, "-o", path, "--cone", *options) == 2
        assert part in capsys.readouterr().err and not path.exists()
    spect = tmp_path / "views.h00"
    spect.write_text("!INTERFILE :=\n")
    assert run(monkeypatch, "convert", spect, "-o", path, "--cone") == 2
    assert "--cone" in capsys.readouterr().err
