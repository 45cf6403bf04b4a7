"""`pnp mass-map` on galaxies behind a lens in closed form: signs, calibration, units, files, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from command import run

import pnp.lensing
from denoisers import MLPatch
from pnp.cli.mass_map_options import CatalogueOptions, MassMapOptions, as_option

RESPONSE, CORE, EINSTEIN = 0.65, 3.0, 3.0  # arcmin


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    """Shapes around a softened isothermal lens at ra 150.2, dec 2.2, e2 of the other sign, e = R shear."""
    rng, n = np.random.default_rng(0), 4000
    ra, dec = 150 + 0.4 * rng.random(n), 2 + 0.4 * rng.random(n)
    x, y = -(ra - 150.2) * 60 * math.cos(math.radians(2.2)), (dec - 2.2) * 60
    t, phi = np.hypot(x, y), np.arctan2(y, x)
    shear = EINSTEIN * (np.hypot(t, CORE) - CORE) / t**2 - EINSTEIN / (2 * np.hypot(t, CORE))
    e1, e2 = -shear * np.cos(2 * phi), shear * np.sin(2 * phi)
    table = Table({"RA": ra, "DEC": dec, "RA_OTHER": ra, "e1": RESPONSE * e1, "e2": RESPONSE * e2})
    for name in ("e1", "e2"):
        table[name] += rng.normal(0, 0.03, n)
    table["R11"], table["R22"] = rng.normal(RESPONSE, 0.3, (2, n))
    table["zed"] = np.where(np.arange(n) < 50, 3.0, 1.0)
    path = tmp_path_factory.mktemp("galaxies") / "galaxies.fits"
    table.write(path)
    return path


BASE = ("--pixel-arcmin", 1, "--response", "R11,R22", "--weight", "none")


def test_the_lens_is_where_it_is_and_as_high_as_it_is(monkeypatch, capsys, galaxies, tmp_path):
    out, picture = tmp_path / "mass.fits", tmp_path / "mass.png"
    how = ("--method", "kaiser-squires", "--smoothing-sigma", 1, "--rotations", 12, "--figure", picture)
    assert run(monkeypatch, "mass-map", galaxies, "-o", out, *BASE, *how) == 0
    printed = capsys.readouterr()
    assert "e1 = e1" in printed.out and "(+1, -1) fits" in printed.out and "warning" not in printed.err
    assert picture.stat().st_size > 5000
    with fits.open(out) as parts:
        E, B, error, noise, snr, mask = (
            parts[name].data for name in ("KAPPA_E", "KAPPA_B", "ERROR", "NOISE", "SNR", "MASK")
        )
        row, column = np.unravel_index(E.argmax(), E.shape)
        ra, dec = WCS(parts["KAPPA_E"].header).wcs_pix2world(column, row, 0)
        assert parts[0].header["SIGN2"] == -1 and parts[0].header["RESPONSE"] == pytest.approx(RESPONSE, rel=0.03)
        assert parts[0].header["SMOOTHSD"] == pytest.approx(1)
        assert int(parts["COUNTS"].data.sum()) == 4000
    assert math.hypot(float(ra) - 150.2, float(dec) - 2.2) * 60 < 1.5
    # Kaiser-Squires does not measure the mean: the difference to the rim is compared.
    rim = E[[0, -1]].mean()
    want = EINSTEIN / 2 * (1 / CORE - 1 / math.hypot(12, CORE))
    assert float(E.max() - rim) == pytest.approx(want, rel=0.25)
    assert E.std() > 5 * B.std() and mask.mean() > 0.98
    # The noise of the map, twice: in closed form, and of turned shapes, which keep the lens' shear as scatter.
    assert 0.9 < np.median(noise) / np.median(error) < 4
    np.testing.assert_allclose(snr, E / noise, rtol=1e-5)


def test_fwhm_and_sigma_are_the_same_smoothing(monkeypatch, galaxies, tmp_path):
    maps = []
    for option, value in (("--smoothing-sigma", 1.2), ("--smoothing-fwhm", 1.2 * 2.3548200450309493)):
        out = tmp_path / f"{option}.fits"
        how = ("--method", "kaiser-squires", option, value, "--signs", "1,-1", "--reduced")
        assert run(monkeypatch, "mass-map", galaxies, "-o", out, *BASE, *how) == 0
        maps.append(fits.getdata(out, "KAPPA_E"))
    np.testing.assert_allclose(*maps, rtol=1e-5, atol=1e-7)


def test_the_learned_prior_and_a_cut_in_redshift(monkeypatch, capsys, galaxies, tmp_path):
    out = tmp_path / "mass.fits"
    how = ("--signs", "1,-1", "--z", "zed", "--z-max", 2, "--ra", "RA_OTHER")
    assert run(monkeypatch, "mass-map", galaxies, "-o", out, *BASE, *how) == 0
    printed = capsys.readouterr()
    assert "ra = RA_OTHER" in printed.out and "warning: convergence varies" in printed.err
    assert "--prior-scale" in printed.err or "train" in printed.err
    with fits.open(out) as parts:
        assert int(parts["COUNTS"].data.sum()) == 3950 and parts[0].header["METHOD"] == "mlpatch"
        assert (parts["ERROR"].data > 0).all()
    assert run(monkeypatch, "mass-map", galaxies, "-o", out, *BASE) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("calls", [1, 3])
def test_ctrl_c_keeps_the_map_so_far(monkeypatch, capsys, galaxies, tmp_path, calls):
    """The map of the last iteration is written, and the exit code says that it is not the end."""
    out, called, forward = tmp_path / "mass.fits", [0], MLPatch.forward

    def interrupted(self, *arguments, **options):
        called[0] += 1
        if called[0] > calls:
            raise KeyboardInterrupt
        return forward(self, *arguments, **options)

    monkeypatch.setattr(MLPatch, "forward", interrupted)
    assert run(monkeypatch, "mass-map", galaxies, "-o", out, *BASE, "--signs", "1,-1", "--rotations", 5) == 130
    assert "mass.fits: KAPPA_E" in capsys.readouterr().out
    with fits.open(out) as parts:
        assert np.isfinite(parts["KAPPA_E"].data).all() and parts["KAPPA_E"].data.std() > 0
        assert "NOISE" not in parts


def test_ctrl_c_in_the_error_leaves_no_file(monkeypatch, galaxies, tmp_path):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pnp.lensing, "wiener_std", interrupted)
    out = tmp_path / "mass.fits"
    assert run(monkeypatch, "mass-map", galaxies, "-o", out, *BASE, "--signs", "1,-1", "--method", "wiener") == 130
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (("--e1", "shape"), "'shape' for e1"),
        (("--ra", "RA_OTHER", "--unit", "turns"), "--unit"),
        (("--method", "glimpse"), "--method"),
        (("--smoothing-fwhm", 2), "kaiser-squires"),
        (("--method", "kaiser-squires"), "--smoothing-sigma"),
        (("--signs", "2,1"), "--signs"),
        (("--noise", "much"), "noise"),
        (("--survey", "lsst"), "survey"),
        (("--z-max", 1), "--z COLUMN"),
        (("--response", "R11,R22,R22"), "--response"),
        (("--figure", "mass.bmp"), "--figure"),
    ],
)
def test_bad_options_are_one_line(monkeypatch, capsys, galaxies, tmp_path, more, part):
    out = tmp_path / "mass.fits"
    assert run(monkeypatch, "mass-map", galaxies, "-o", out, *BASE, *more) == 2
    said = capsys.readouterr().err
    assert part in said and len(said) < 400 and said.count("\n") == 1 and not out.exists()


def test_calibration_that_is_not_used_is_a_warning_of_options(monkeypatch, capsys, galaxies, tmp_path):
    how = ("--pixel-arcmin", 2, "--method", "kaiser-squires", "--smoothing-fwhm", 0, "--signs", "1,1")
    assert run(monkeypatch, "mass-map", galaxies, "-o", tmp_path / "mass.fits", *how) == 0
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and "--response R11,R12,R21,R22" in said and "--response 1" in said


def test_options_are_the_arguments_of_the_reader():
    options = CatalogueOptions(
        unit="hourangle,deg", weight="none", m="-0.01", c1="c1", response="R11,0,0,R22", table="2", max_e=1.0
    )
    assert options.arguments() == {
        "max_e": 1.0,
        "m": -0.01,
        "c1": "c1",
        "weight": None,
        "unit": ("hourangle", "deg"),
        "table": 2,
        "response": (("R11", 0.0), (0.0, "R22")),
    }
    assert MassMapOptions(2.0, "kaiser-squires", smoothing_fwhm=4.0).smoothing_px() == pytest.approx(4 / 2.35482 / 2)
    said = "read_catalogue: name it, z='...', or weight=None; give unit=('hourangle', 'deg')"
    assert as_option(said) == "name it, --z COLUMN, or --weight none; give --unit hourangle,deg"


def test_a_field_that_is_nearly_empty_is_questioned(monkeypatch, capsys, tmp_path):
    rng = np.random.default_rng(0)
    minutes = {name: rng.uniform(-5, 5, 300) for name in ("ra", "dec")}  # read as degrees
    path = tmp_path / "flat.csv"
    Table({**minutes, "e1": rng.normal(0, 0.1, 300), "e2": rng.normal(0, 0.1, 300)}).write(path)
    how = ("-o", tmp_path / "m.fits", "--pixel-arcmin", 2, "--signs", "1,1", "--method", "kaiser-squires")
    assert run(monkeypatch, "mass-map", path, *how, "--smoothing-sigma", 2, "--overwrite", "--unit", "deg") == 0
    assert "--unit" in capsys.readouterr().err
    assert run(monkeypatch, "mass-map", path, *how, "--smoothing-sigma", 2, "--overwrite", "--unit", "arcmin") == 0
    assert "--unit" not in capsys.readouterr().err


def test_remedies_name_options(monkeypatch, capsys, galaxies, tmp_path):
    how = ("mass-map", galaxies, "-o", tmp_path / "m.fits", *BASE)
    assert run(monkeypatch, *how, "--unit", "furlong") == 2
    assert "--unit hourangle,deg" in capsys.readouterr().err
    assert run(monkeypatch, *how, "--survey", "kids-1000") == 2
    assert "--ra COLUMN" in capsys.readouterr().err
