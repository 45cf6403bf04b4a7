"""Maps of shear in every format, and the documentation's page on lensing data."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from paths import ROOT
from reader_files import refused

from denoisers.mlpatch import ARCHITECTURES, MLPatch
from operators import KaiserSquires, KaiserSquiresEB
from pnp.lensing import LognormalKappa, survey_noise
from pnp.readers import ShearMap, read_shear_maps, write_shear_maps

SHAPE = (7, 9)
RNG = np.random.default_rng(1)
E1, E2 = RNG.standard_normal((2, *SHAPE))
STD = RNG.random(SHAPE) + 0.5
MASK = RNG.random(SHAPE) > 0.3


def write_maps(folder, suffix=".fits", dtype=">f4", **maps):
    """One file that holds maps by their names."""
    path = Path(folder) / f"maps{suffix}"
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, values in maps.items():
                file[f"shear/{name}"] = values.astype(dtype)
    else:
        parts = [fits.ImageHDU(values.astype(dtype), name=name) for name, values in maps.items()]
        fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(path, overwrite=True)
    return path


def check(m, mask=MASK, std=(STD, STD)):
    """The maps above, in this dtype."""
    assert m.shear.dtype == torch.float32 and m.shape == SHAPE
    np.testing.assert_array_equal(m.mask[0, 0], mask)
    np.testing.assert_allclose(m.shear[0], np.where(mask, [E1, E2], 0), rtol=1e-6)
    np.testing.assert_allclose(m.noise_std[0], np.where(mask, std, np.inf), rtol=1e-6)


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8"])
@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".h5"])
def test_maps_in_one_file_are_found_by_name(tmp_path, suffix, dtype):
    kappa = RNG.standard_normal(SHAPE)
    m = read_shear_maps(write_maps(tmp_path, suffix, dtype, E1=E1, e2=E2, std=STD, Mask=MASK * 1, kappa=kappa))
    check(m)
    np.testing.assert_allclose(m.kappa[0, 0], kappa, rtol=1e-6)
    assert m.pixel_arcmin is None and m.wcs is None and m.centre is None and m.counts is None
    y, noise_std = m.tensors()
    assert torch.equal(y, m.shear) and torch.equal(noise_std, m.noise_std)
    y += 1
    noise_std += 1
    check(m)
    assert m.operator().A_adjoint(y).shape == (1, 1, *SHAPE)


def test_maps_give_the_operator_of_their_convention(tmp_path):
    m = read_shear_maps(write_maps(tmp_path, e1=E1, e2=E2, std=STD), convention="conjugate")
    kappa = torch.from_numpy(RNG.standard_normal((1, 2, 12, 14))).float()
    want = KaiserSquiresEB((12, 14), convention="conjugate").A(kappa)
    torch.testing.assert_close(m.operator((12, 14), b_mode=True).A(kappa), want, rtol=0, atol=0)
    want = KaiserSquires((12, 14), convention="conjugate").A(kappa[:, :1])
    torch.testing.assert_close(m.operator((12, 14)).A(kappa[:, :1]), want, rtol=0, atol=0)


@pytest.mark.parametrize("suffix", [".fits", ".h5"])
def test_maps_may_be_named(tmp_path, suffix):
    path = write_maps(tmp_path, suffix, a=E1, b=E2, c=STD, d=2 * STD, e=MASK * 1, std1=E1, std2=E2)
    prefix = "shear/" if suffix == ".h5" else ""
    named = {k: f"{prefix}{v}" for k, v in {"e1": "a", "e2": "b", "mask": "e"}.items()}
    check(read_shear_maps(path, **named, noise_std=(f"{prefix}c", f"{prefix}d")), std=(STD, 2 * STD))
    check(read_shear_maps(**{k: f"{path}[{v}]" for k, v in named.items()}, noise_std=f"{path}[{prefix}c]"))


def test_a_file_for_each_map_and_zeros_outside_the_mask(tmp_path):
    """COSMOS's way: the standard deviation is 0 where the mask is."""
    for name, values in {"e1": E1, "e2": E2, "std1": STD * MASK, "std2": 2 * STD * MASK, "mask": MASK * 1.0}.items():
        fits.PrimaryHDU(values.astype(">f4")).writeto(tmp_path / f"{name}.fits")
    file = {name: str(tmp_path / f"{name}.fits") for name in ("e1", "e2", "std1", "std2", "mask")}
    m = read_shear_maps(
        e1=file["e1"],
        e2=file["e2"],
        noise_std=(file["std1"], file["std2"]),
        mask=file["mask"],
        pixel_arcmin=0.29,
    )
    check(m, std=(STD, 2 * STD))
    assert m.pixel_arcmin == 0.29
    message = refused(read_shear_maps, e1=file["e1"], e2=file["e2"], noise_std=file["std1"])
    assert "noise_std" in message and "give the mask=" in message


@pytest.mark.parametrize("dtype", [">f4", "<f8"])
def test_maps_of_numpy(tmp_path, dtype):
    for name, values in {"e1": E1, "e2": E2, "std": STD, "mask": MASK * 1}.items():
        np.save(tmp_path / f"{name}.npy", values.astype(dtype))
    files = {name: str(tmp_path / f"{name}.npy") for name in ("e1", "e2", "mask")}
    m = read_shear_maps(**files, noise_std=str(tmp_path / "std.npy"), pixel_arcmin=0.5)
    check(m)
    assert m.pixel_arcmin == 0.5 and m.wcs is None
    np.save(tmp_path / "e1.npy", np.array([{}], dtype=object))
    assert "e1.npy" in refused(read_shear_maps, **files, noise_std=1.0)


def test_noise_may_be_weights_or_a_number(tmp_path):
    path = write_maps(tmp_path, e1=E1, e2=E2, weight=MASK / STD**2)
    check(read_shear_maps(path))
    check(read_shear_maps(path, noise_std=0.2), mask=np.ones(SHAPE, bool), std=np.full((2, *SHAPE), 0.2))
    path = write_maps(tmp_path, e1=E1, e2=E2, w1=MASK / STD**2, w2=0.25 * MASK / STD**2)
    check(read_shear_maps(path), std=(STD, 2 * STD))


def test_pixels_without_a_value_are_counted(tmp_path):
    hole = np.where(np.arange(9) == 4, np.nan, E1)
    m = read_shear_maps(write_maps(tmp_path, e1=hole, e2=E2, std=STD, mask=MASK * 1))
    check(m, mask=MASK & (np.arange(9) != 4))
    assert m.facts["dropped"] == {"pixels without shear or noise": int(MASK[:, 4].sum())}
    assert "pixels without shear or noise" in repr(m)


def on_the_sky(folder, **cards):
    """The maps with world coordinates of these cards, in every extension."""
    path = write_maps(folder, E1=E1, E2=E2, STD=STD)
    with fits.open(path, mode="update") as parts:
        for part in parts[1:]:
            part.header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=150.0, CRVAL2=2.0, **cards)
    return path


@pytest.mark.parametrize(
    "cards",
    [
        {"CDELT1": -0.6 / 60, "CDELT2": 0.3 / 60},
        {"CD1_1": -0.01, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0102},
    ],
)
def test_pixels_that_are_not_square_are_refused(tmp_path, cards):
    """Their Kaiser-Squires kernel is another: on square ones the mass is wrong, with a third as much B as E."""
    path = on_the_sky(tmp_path, **cards)
    said = refused(read_shear_maps, path)
    assert "square" in said and "0.6 x" in said
    assert read_shear_maps(path, pixel_arcmin=0.3).pixel_arcmin == 0.3  # where the WCS is known to be wrong


def test_square_pixels_may_be_turned(tmp_path):
    c, s = 0.005 * np.cos(0.4), 0.005 * np.sin(0.4)
    m = read_shear_maps(on_the_sky(tmp_path, CD1_1=-c, CD1_2=s, CD2_1=s, CD2_2=c * 1.004))
    assert m.pixel_arcmin == pytest.approx(0.3, rel=0.005)


def test_maps_are_written_and_read_back(tmp_path):
    g = torch.Generator().manual_seed(0)
    std = survey_noise((24, 20), generator=g, holes=2)
    mask = std.isfinite()
    kappa = LognormalKappa((24, 20))(1, generator=g)
    shear = torch.where(mask, KaiserSquires((24, 20)).A(kappa), torch.zeros(()))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150.0, 2.0], [10.5, 12.5], [-0.005, 0.005]
    m = ShearMap(
        shear,
        std,
        mask[:, :1],
        kappa=kappa,
        counts=mask[:, :1].long(),
        wcs=wcs,
        convention="conjugate",
        pixel_arcmin=0.3,
    )
    write_shear_maps(tmp_path / "a.fits", m)
    same = read_shear_maps(tmp_path / "a.fits")
    for name in ("shear", "noise_std", "mask", "kappa"):
        assert torch.equal(getattr(same, name), getattr(m, name)), name
    assert same.convention == "conjugate" and same.pixel_arcmin == pytest.approx(0.3)
    assert same.centre == pytest.approx((150.0, 2.0))
    assert "exists" in refused(write_shear_maps, tmp_path / "a.fits", m)


@pytest.mark.parametrize(
    ("maps", "arguments", "part"),
    [
        ({"e1": E1, "std": STD}, {}, "e2"),
        ({"e1": E1, "g1": E1, "e2": E2, "std": STD}, {}, "E1, G1"),
        ({"e1": E1, "e2": E2}, {}, "noise_std= or weight="),
        ({"e1": E1, "e2": E2, "std1": STD}, {}, "noise_std"),
        ({"e1": E1, "e2": E2, "std": STD, "weight": STD}, {}, "leave one out"),
        ({"e1": E1, "e2": E2[:, :5], "std": STD}, {}, ": maps "),
        ({"e1": E1, "e2": E2, "std": -STD}, {}, "noise_std"),
        ({"e1": E1, "e2": E2, "std": STD, "mask": 0 * E1}, {}, "mask"),
        ({"e1": E1, "e2": E2, "std": STD * np.nan}, {}, "no pixel"),
        ({"e1": np.stack([E1, E2]), "e2": E2, "std": STD}, {}, "(2, 7, 9)"),
        ({"e1": E1, "e2": E2, "std": STD}, {"e1": "nobody"}, "'nobody'"),
        ({"e1": E1, "e2": E2, "std": STD}, {"noise_std": -1.0}, "noise_std"),
        ({"e1": E1, "e2": E2, "std": STD}, {"convention": "iau"}, "convention"),
    ],
)
def test_wrong_maps_are_refused(tmp_path, maps, arguments, part):
    assert part in refused(read_shear_maps, write_maps(tmp_path, **maps), **arguments)


@pytest.mark.parametrize("suffix", [".fits", ".h5"])
def test_damaged_maps_are_one_sentence(tmp_path, suffix):
    path = write_maps(tmp_path, suffix, e1=E1, e2=E2, std=STD)
    whole = path.read_bytes()
    for cut in (0, 100, len(whole) // 2):
        path.write_bytes(whole[:cut])
        assert str(path) in refused(read_shear_maps, path)
    assert "e1" in refused(read_shear_maps)
    assert "no such file" in refused(read_shear_maps, tmp_path / f"b{suffix}")
    assert "no such file" in refused(read_shear_maps, e1="b.fits", e2="b.fits", noise_std=0.1)


def test_cosmos(data_dir):
    folder = data_dir / "lensing"
    m = read_shear_maps(
        e1=str(folder / "cosmos_full_e1_0.29arcmin360.fits"),
        e2=str(folder / "cosmos_full_e2_0.29arcmin360.fits"),
        noise_std=(str(folder / "std1.fits"), str(folder / "std2.fits")),
        mask=str(folder / "cosmos_full_mask_0.29arcmin360.fits"),
        pixel_arcmin=0.29,
    )
    assert m.shape == (360, 360) and float(m.mask.float().mean()) == pytest.approx(0.534, abs=0.001)
    assert 0.1 < float(m.noise_std[m.mask.expand(-1, 2, -1, -1)].median()) < 0.2 and not m.facts


# ------------------------------------------------------------------------------------------- the documentation


def test_the_page_runs(tmp_path, monkeypatch):
    """Every block of the page, in order, on files like those that it names."""
    page = ROOT / "docs" / "bring_your_data_lensing.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 4
    rng = np.random.default_rng(2)
    n = 20_000
    x, y = 0.6 * (rng.random((2, n)) - 0.5)
    ellipticity = 0.25 * rng.standard_normal((2, n)).clip(-2, 2)
    common = {
        "dec": 2 + y,
        "e1": ellipticity[0],
        "e2": ellipticity[1],
        "weight": rng.random(n),
        "z_b": 2 * rng.random(n),
    }
    write = {"galaxies.fits": {"ra": 150 + x}, "galaxies.csv": {"RA_hours": (150 + x) / 15}}
    for name, more in write.items():
        bias = {"m": np.full(n, -0.01)} if name.endswith("csv") else {}  # named by the page where it is there
        Table({**more, **common, **bias}).write(tmp_path / name)
    for name, values in {"e1": E1, "e2": E2, "std1": STD, "std2": STD, "mask": MASK * 1.0}.items():
        fits.PrimaryHDU(values).writeto(tmp_path / f"{name}.fits")
    write_maps(tmp_path, E1=E1, E2=E2, STD=STD, MASK=MASK * 1)
    monkeypatch.chdir(tmp_path)
    small = MLPatch(**ARCHITECTURES["convergence"] | {"features": 4, "hidden": 4})  # untrained: seconds, not minutes
    monkeypatch.setattr(MLPatch, "from_pretrained", lambda name_or_path: small.requires_grad_(False))
    shutil.copy(tmp_path / "galaxies.fits", tmp_path / "survey.fits")
    names: dict[str, object] = {}
    for block in blocks:
        if "pnp.lensing.sphere" in block:
            pytest.importorskip("ducc0", reason="ducc0 is not installed")
            block = block.replace("512", "32")  # pixels of degrees: seconds, not minutes
        exec(compile(block, str(page), "exec"), names)
    assert (tmp_path / "mass.fits").is_file() and (tmp_path / "shear.fits").is_file()
