"""Maps in FITS files: what is written is read, by us and by astropy, and what is wrong is one sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.wcs import WCS
from reader_files import refused

from pnp.io import read_fits_maps, write_fits_maps

SHAPE = (4, 6)
E = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
MASK = E > 0


def a_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150.0, 2.0], [3.5, 2.5], [-0.01, 0.01]
    return wcs


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"maps{suffix}"
    maps = {"KAPPA_E": E, "kappa_b": -E[0, 0].double(), "ERROR": E[0, 0].numpy().astype(">f4"), "MASK": MASK}
    write_fits_maps(path, maps, wcs=a_wcs(), units={"ERROR": "arcmin"}, header={"SURVEY": "toy", "NOISE": 0.2})
    read, wcs = read_fits_maps(path)
    assert list(read) == ["KAPPA_E", "KAPPA_B", "ERROR", "MASK"]
    assert [m.dtype for m in read.values()] == [np.float32, np.float64, np.float32, np.uint8]
    assert all(m.dtype.isnative and m.flags.c_contiguous and m.flags.writeable for m in read.values())
    np.testing.assert_array_equal(read["KAPPA_E"], E[0, 0].numpy())
    np.testing.assert_array_equal(read["KAPPA_B"], -E[0, 0].double().numpy())
    np.testing.assert_array_equal(read["MASK"], MASK[0, 0].numpy())
    np.testing.assert_allclose(wcs.wcs_pix2world(0, 0, 0), a_wcs().wcs_pix2world(0, 0, 0), rtol=1e-12)
    with fits.open(path) as parts:
        parts.verify("exception")
        assert (parts[0].header["SURVEY"], parts[0].header["NOISE"]) == ("toy", 0.2)
        assert [part.header["BUNIT"] for part in parts[1:]] == ["", "", "arcmin", ""]
        assert all(WCS(part.header).has_celestial for part in parts[1:])


def test_north_is_up_and_east_to_the_left(tmp_path):
    write_fits_maps(tmp_path / "a.fits", {"KAPPA_E": E}, wcs=a_wcs())
    _, wcs = read_fits_maps(tmp_path / "a.fits")
    (ra, dec), (ra_right, _), (_, dec_up) = (wcs.wcs_pix2world(x, y, 0) for x, y in ((0, 0), (1, 0), (0, 1)))
    assert ra_right < ra and dec_up > dec


def test_a_file_without_a_place_on_the_sky_has_none(tmp_path):
    write_fits_maps(tmp_path / "a.fits", {"KAPPA_E": E})
    assert read_fits_maps(tmp_path / "a.fits")[1] is None


def test_nothing_is_overwritten_or_half_written(tmp_path):
    path = tmp_path / "a.fits"
    write_fits_maps(path, {"A": E})
    before = path.read_bytes()
    assert "exists" in refused(write_fits_maps, path, {"A": -E})
    assert "one shape" in refused(write_fits_maps, path, {"A": E, "B": E[..., :-1]}, overwrite=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    write_fits_maps(path, {"A": -E}, overwrite=True)
    np.testing.assert_array_equal(read_fits_maps(path)[0]["A"], -E[0, 0].numpy())


@pytest.mark.parametrize(
    ("maps", "others", "part"),
    [
        ({}, {}, "at least one"),
        ({"A": E, "a": E}, {}, "different"),
        ({"": E}, {}, "68"),
        ({"K\u00b2": E}, {}, "68"),
        ({"A": torch.ones(2, 1, 4, 4)}, {}, "(H, W)"),
        ({"A": np.ones(3)}, {}, "(H, W)"),
        ({"A": E}, {"units": {"B": "deg"}}, ": units "),
        ({"A": E}, {"header": {"KEYWORDTOOLONG": 1}}, "header"),
        ({"A": E}, {"header": {"KEY": float("nan")}}, "header"),
    ],
)
def test_what_fits_has_no_place_for_is_refused(tmp_path, maps, others, part):
    assert part in refused(write_fits_maps, tmp_path / "a.fits", maps, **others)
    assert not list(tmp_path.iterdir())


def test_complex_maps_and_other_suffixes_are_refused(tmp_path):
    with pytest.raises(TypeError, match=": A "):
        write_fits_maps(tmp_path / "a.fits", {"A": np.ones(SHAPE, np.complex64)})
    assert ".fits" in refused(write_fits_maps, tmp_path / "a.png", {"A": E})


def test_broken_files_are_one_sentence(tmp_path):
    path = tmp_path / "a.fits"
    assert "no such file" in refused(read_fits_maps, path)
    write_fits_maps(path, {"A": torch.ones(100, 100)})
    whole = path.read_bytes()
    for cut in (0, 100, 4000, len(whole) - 5000):
        path.write_bytes(whole[:cut])
        assert str(path) in refused(read_fits_maps, path)
    path.write_bytes(b"SIMPLE  =" + bytes(3000))
    assert "truncated or damaged?" in refused(read_fits_maps, path)
    fits.PrimaryHDU().writeto(path, overwrite=True)
    assert "image" in refused(read_fits_maps, path)
