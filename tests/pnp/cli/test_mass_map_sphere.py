"""`pnp mass-map` on the sphere: an octant of galaxies behind a lens, HEALPix files in and out, and what is refused."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from command import run

from pnp.lensing.sphere import read_healpix, write_healpix

healpy = pytest.importorskip("healpy", reason="healpy is not installed")
pytest.importorskip("ducc0", reason="ducc0 is not installed")

RA0, DEC0 = 40.0, 35.0


@pytest.fixture(scope="module")
def octant(tmp_path_factory):
    """Galaxies over an octant, tangential shapes of a wide lens, e1 along the parallels, e2 of the other sign."""
    rng, n = np.random.default_rng(0), 40_000
    ra, dec = 90 * rng.random(n), np.degrees(np.arcsin(rng.random(n)))
    a, d, a0, d0 = (np.radians(v) for v in (ra, dec, RA0, DEC0))
    rho = np.arccos(np.sin(d) * math.sin(d0) + np.cos(d) * math.cos(d0) * np.cos(a - a0))
    bearing = np.arctan2(
        np.sin(a0 - a) * math.cos(d0), np.cos(d) * math.sin(d0) - np.sin(d) * math.cos(d0) * np.cos(a0 - a)
    )
    size = 0.3 * rho**2 / (rho**2 + 0.05**2) * np.exp(-rho / 0.2)
    # Along the bearing from north to east a radial shape has -cos 2b on the axis west: tangential has the other sign.
    e1, e2 = size * np.cos(2 * bearing), size * np.sin(2 * bearing)
    table = Table({"ra": ra, "dec": dec, "e1": e1 + rng.normal(0, 0.1, n), "e2": -e2 + rng.normal(0, 0.1, n)})
    path = tmp_path_factory.mktemp("octant") / "octant.fits"
    table.write(path)
    return path


HOW = ("--nside", 32, "--signs", "1,-1")


@pytest.mark.parametrize(
    "method", [("--method", "wiener"), ("--method", "kaiser-squires", "--smoothing-fwhm", 300, "--reduced")]
)
def test_the_lens_of_an_octant_is_where_it_is(monkeypatch, capsys, octant, tmp_path, method):
    out = tmp_path / "sky.fits"
    assert run(monkeypatch, "mass-map", octant, "-o", out, *HOW, *method) == 0
    assert "nside 32" in capsys.readouterr().out
    maps, header = read_healpix(out)
    assert list(maps) == ["KAPPA_E", "KAPPA_B", "COUNTS"] and header["METHOD"] == method[1]
    E, B = maps["KAPPA_E"], maps["KAPPA_B"]
    top = healpy.pix2ang(32, int(np.nanargmax(E)), lonlat=True)
    assert math.hypot((top[0] - RA0) * math.cos(math.radians(DEC0)), top[1] - DEC0) < 4
    assert np.nanmax(E) > 3 * np.nanstd(B) and np.nansum(maps["COUNTS"]) == 40_000
    assert 0.1 < np.isfinite(E).mean() < 0.15
    assert healpy.read_map(out, dtype=np.float64).shape == (12 * 32**2,)


def test_mlpatch_runs_on_patches_and_says_that_its_pixels_are_others(monkeypatch, capsys, octant, tmp_path):
    out = tmp_path / "sky.fits"
    assert run(monkeypatch, "mass-map", octant, "-o", out, "--nside", 16, "--signs", "1,-1") == 0
    said = capsys.readouterr().err
    assert "warning" in said and "--method wiener" in said
    assert np.isfinite(read_healpix(out)[0]["KAPPA_B"]).any()


def test_healpix_files_are_mapped_in_their_convention(monkeypatch, capsys, octant, tmp_path):
    """The same shear in healpy's signs: the same mass."""
    first, shear, second = (tmp_path / name for name in ("a.fits", "shear.fits", "b.fits"))
    assert run(monkeypatch, "mass-map", octant, "-o", first, *HOW, "--method", "wiener") == 0
    from pnp.lensing.sphere import map_catalogue

    m = map_catalogue(octant, 32, signs=(1, -1))
    y, std = m.tensors()
    maps = {"Q": -y[:, 0], "U": y[:, 1], "noise_std": std[:, 0]}
    write_healpix(
        shear, {name: v[None] for name, v in maps.items()}, mask=m.mask, nested=True, header={"POLCCONV": "COSMO"}
    )
    assert run(monkeypatch, "mass-map", shear, "-o", second, "--method", "wiener") == 0
    E, again = (read_healpix(path)[0]["KAPPA_E"] for path in (first, second))
    assert np.nanstd(E - again) < 0.02 * np.nanstd(E)
    assert run(monkeypatch, "mass-map", shear, "-o", tmp_path / "c.fits", "--nside", 16, "--method", "wiener") == 2
    assert "--nside" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ((), "--nside"),
        (("--pixel-arcmin", 60), "--nside"),
        (("--nside", 30), "nside"),
        (("--nside", 16, "--rotations", 3), "--rotations"),
        (("--nside", 16, "--pixel-arcmin", 3), "--pixel-arcmin"),
        (("--nside", 16, "--method", "kaiser-squires"), "--smoothing"),
    ],
)
def test_what_does_not_go_together_is_refused(monkeypatch, capsys, octant, tmp_path, more, part):
    out = tmp_path / "sky.fits"
    whole = tmp_path / "whole.fits"
    with fits.open(octant) as parts:
        table = Table(parts[1].data)
    table["dec"][::2] *= -1
    table["ra"][::3] += 180
    table.write(whole)
    assert run(monkeypatch, "mass-map", whole, "-o", out, *more) == 2
    said = capsys.readouterr().err
    assert part in said and said.count("\n") == 1 and len(said) < 400 and not out.exists()


def test_without_ducc0_the_extra_is_named(monkeypatch, capsys, octant, tmp_path):
    monkeypatch.setitem(sys.modules, "ducc0", None)
    from pnp.lensing.sphere import pixels

    pixels.grid.cache_clear()
    assert run(monkeypatch, "mass-map", octant, "-o", tmp_path / "sky.fits", "--nside", 16) == 2
    assert "pnp-local[sphere]" in capsys.readouterr().err
