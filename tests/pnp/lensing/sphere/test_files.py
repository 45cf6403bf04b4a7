"""HEALPix files: what healpy and healsparse write, and what they read of ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from astropy.io import fits
from reader_files import refused

from pnp.lensing.sphere import is_healpix, read_healpix, read_shear, write_healpix

healpy = pytest.importorskip("healpy", reason="healpy is not installed")
pytest.importorskip("ducc0", reason="ducc0 is not installed")


@pytest.fixture
def sky() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 12 * 16**2))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("nside", [4, 32])
def test_whole_skies_of_healpy(tmp_path, nested: bool, nside: int) -> None:
    """From nside 32 on healpy writes rows of 1024 pixels."""
    maps = np.random.default_rng(1).standard_normal((2, 12 * nside**2))
    written = healpy.reorder(maps, r2n=True) if nested else maps
    names = ["E1", "E2"]
    healpy.write_map(tmp_path / "a.fits", written, nest=nested, column_names=names, dtype=np.float64, coord="C")
    found, header = read_healpix(tmp_path / "a.fits")
    assert list(found) == names and header["NSIDE"] == nside
    assert all(np.array_equal(found[n], m) for n, m in zip(names, maps, strict=True))


@pytest.mark.parametrize("nested", [False, True])
def test_partial_skies_of_healpy(tmp_path, sky: np.ndarray, nested: bool) -> None:
    maps = np.where(np.arange(3072) % 5 == 0, sky, healpy.UNSEEN)
    written = healpy.reorder(maps, r2n=True) if nested else maps
    healpy.write_map(tmp_path / "a.fits.gz", written, nest=nested, partial=True, dtype=np.float32)
    found, header = read_healpix(tmp_path / "a.fits.gz")
    assert header["INDXSCHM"].strip() == "EXPLICIT"
    for values, expected in zip(found.values(), maps, strict=True):
        assert np.array_equal(np.isnan(values), expected == healpy.UNSEEN)
        assert np.allclose(values[::5], expected[::5], rtol=1e-6)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("partial", [False, True])
def test_healpy_reads_what_is_written(tmp_path, sky: np.ndarray, nested: bool, partial: bool) -> None:
    seen = sky[1] > 0
    kappa = torch.from_numpy(np.where(seen, sky[0], np.nan)).float()[None, None]
    write_healpix(
        tmp_path / "a.fits",
        {"kappa_e": kappa, "counts": seen.astype(int)},
        mask=seen if partial else None,
        nested=nested,
        header={"METHOD": "wiener"},
    )
    found, header = healpy.read_map(tmp_path / "a.fits", field=(0, 1), h=True, dtype=np.float64)
    assert ("METHOD", "wiener") in header and is_healpix(tmp_path / "a.fits")
    assert np.allclose(found[0], np.where(seen, sky[0].astype(np.float32), healpy.UNSEEN))
    ours, _ = read_healpix(tmp_path / "a.fits")
    assert np.array_equal(np.isnan(ours["KAPPA_E"]), ~seen)
    assert np.array_equal(ours["KAPPA_E"][seen], kappa[0, 0].double().numpy()[seen])
    with pytest.raises((ValueError, OSError), match="overwrite"):
        write_healpix(tmp_path / "a.fits", {"kappa": sky[0]})


def test_healsparse_maps(tmp_path, sky: np.ndarray) -> None:
    healsparse = pytest.importorskip("healsparse", reason="healsparse is not installed")
    m = healsparse.HealSparseMap.make_empty(2, 16, np.float64)
    pixels = np.arange(100, 400)  # nested
    m[pixels] = sky[0][:300]
    m.write(str(tmp_path / "a.hsp"))
    found, _ = read_healpix(tmp_path / "a.hsp")
    (values,) = found.values()
    assert np.isfinite(values).sum() == 300 and is_healpix(tmp_path / "a.hsp")
    assert np.allclose(values[healpy.nest2ring(16, pixels)], sky[0][:300])
    (coarse,) = read_healpix(tmp_path / "a.hsp", nside=8)[0].values()
    assert len(coarse) == 768


def test_shear_with_noise_and_its_convention(tmp_path, sky: np.ndarray) -> None:
    weight = np.where(np.arange(3072) < 2000, 400.0, 0.0)
    write_healpix(
        tmp_path / "a.fits", {"gamma1": sky[0], "gamma2": sky[1], "weight": weight}, header={"POLCCONV": "IAU"}
    )
    m = read_shear(tmp_path / "a.fits", dtype=torch.float64)
    assert m.convention == "iau" and int(m.mask.sum()) == 2000 and m.nside == 16
    assert np.array_equal(m.shear[0, :, :2000], sky[:, :2000]) and not bool(m.shear[..., 2000:].any())
    assert float(m.noise_std[0, 0, 0]) == pytest.approx(0.05) and bool(m.noise_std[..., 2000:].isinf().all())
    assert read_shear(tmp_path / "a.fits", noise_std=0.2, convention="lenspack").convention == "lenspack"
    healpy.write_map(tmp_path / "q.fits", [sky[0], *sky], dtype=np.float64)  # TEMPERATURE, Q_POLARISATION, ...
    assert read_shear(tmp_path / "q.fits", noise_std=0.1).convention == "healpix"
    assert np.allclose(read_shear(tmp_path / "q.fits", noise_std=0.1, dtype=torch.float64).shear[0], sky)


def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, sky: np.ndarray) -> None:
    path = tmp_path / "a.fits"

    def written(change) -> None:
        write_healpix(path, {"e1": sky[0], "e2": sky[1]}, overwrite=True)
        with fits.open(path, mode="update") as parts:
            change(parts[1].header)

    for key, value, word in [
        ("ORDERING", "SPIRAL", "ORDERING"),
        ("NSIDE", 32, "NSIDE"),
        ("INDXSCHM", "EXPLICIT", "PIXEL"),
    ]:
        written(lambda header, key=key, value=value: header.update({key: value}))
        assert word in refused(lambda: read_healpix(path))
    written(lambda header: None)
    assert "noise" in refused(lambda: read_shear(path))
    assert "e1" in refused(lambda: read_shear(path, e1="q", noise_std=0.1))
    fits.writeto(tmp_path / "plane.fits", sky)
    assert "PIXTYPE" in refused(lambda: read_healpix(tmp_path / "plane.fits"))
    assert not is_healpix(tmp_path / "plane.fits") and not is_healpix(tmp_path / "none.fits")
    assert "nside" in refused(lambda: write_healpix(tmp_path / "b.fits", {"x": np.zeros(13)}))
    assert "path" in refused(lambda: write_healpix(tmp_path / "b.txt", {"x": np.zeros(12)}))
    assert "header" in refused(
        lambda: write_healpix(tmp_path / "b.fits", {"x": np.zeros(12)}, header={"TOOLONGNAME": 1})
    )
