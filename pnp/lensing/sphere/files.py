"""HEALPix maps in files: FITS as healpy writes it, whole or partial, ring or nested, and healsparse's.

A binary table holds one map a column, in rows of one or more pixels (Gorski et al. 2005; section "FITS file format" of
the HEALPix documentation). ORDERING says RING or NESTED; INDXSCHM = EXPLICIT with a column PIXEL is a partial sky.
Pixels without a value are -1.6375e30 in files and NaN here. POLCCONV says COSMO, healpy's own signs, or IAU.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...io.atomic import atomic
from ...io.fits import contents, open_fits
from ...io.guards import check_file, check_memory, check_real, reading
from .pixels import to_nested, to_ring
from .shear import SphereShear, check_n_pix, check_sphere_convention

_Array = npt.NDArray[Any]

UNSEEN = -1.6375e30
"""Value of a pixel without one, in HEALPix files."""
_SHEAR_NAMES: Mapping[str, tuple[str, ...]] = {
    "e1": ("e1", "g1", "gamma1", "shear1", "q_polarisation", "q"),
    "e2": ("e2", "g2", "gamma2", "shear2", "u_polarisation", "u"),
    "noise_std": ("noise_std", "std", "sigma"),
    "weight": ("weight", "w", "ivar"),
    "mask": ("mask",),
    "kappa": ("kappa", "convergence"),
}


def read_healpix(
    path: str | os.PathLike[str], *, nside: int | None = None
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, Any]]:
    """Read every map of a HEALPix file: name to (n_pix,) in ring order, NaN where there is no value, and the header.

    Args:
        path: .fits (also .gz) of healpy, or .hsp, .hs or .fits of healsparse, with the package healsparse.
        nside: resolution that a map of healsparse is averaged to; None: its own.

    Raises:
        ValueError: the file is missing, damaged or holds no HEALPix map.
    """
    check_file(path)
    with open_fits(path) as parts:
        headers = [part.header for part in parts]
        if any(str(h.get("PIXTYPE", "")).strip().upper() == "HEALSPARSE" for h in headers):
            return _read_healsparse(path, nside), {}
        found = [part for part in parts if str(part.header.get("PIXTYPE", "")).strip().upper() == "HEALPIX"]
        maps: dict[str, npt.NDArray[np.float64]] = {}
        if not found:
            raise ValueError(f"{path} must hold a HEALPix map (PIXTYPE), it holds {contents(parts):.160}")
        for part in found:
            for name, values in _columns(str(path), part).items():
                maps[name if name not in maps else f"{name}_{len(maps)}"] = values
        header = {k: v for k, v in found[0].header.items() if isinstance(v, str | int | float | bool)}
        return maps, header


def write_healpix(
    path: str | os.PathLike[str],
    maps: Mapping[str, npt.ArrayLike | Tensor],
    *,
    mask: npt.ArrayLike | Tensor | None = None,
    nested: bool = False,
    header: Mapping[str, str | int | float | bool] | None = None,
    overwrite: bool = False,
) -> None:
    """Write maps of the sphere as one HEALPix table, whole or not at all.

    Args:
        path: the file, .fits, or .fits.gz to compress it.
        maps: name to map (n_pix,) or (1, 1, n_pix) in ring order; NaN where there is no value.
        mask: (n_pix,) true where the maps are kept: the file is a partial sky (INDXSCHM EXPLICIT). None: all pixels.
        nested: write nested order.
        header: keywords of at most 8 characters.
        overwrite: replace a file of that name.

    Raises:
        TypeError: a map is not of real numbers.
        ValueError: maps differ in size or have no HEALPix size, or the path cannot be written.
    """
    from astropy.io import fits

    if not str(path).lower().endswith((".fits", ".fit", ".fits.gz")):
        raise ValueError(f"write_healpix: path must end in .fits, .fit or .fits.gz, got {path}; rename it")
    values = {name: _flat(name, v) for name, v in maps.items()}
    sizes = {len(v) for v in values.values()}
    if len(sizes) != 1:
        raise ValueError(f"write_healpix: maps must be at least one and of one size, got {sorted(sizes)}")
    n_pix = sizes.pop()
    nside = check_n_pix("write_healpix", n_pix)
    kept = np.arange(n_pix)
    if mask is not None:
        seen = _flat("mask", mask)
        if len(seen) != n_pix or not seen.any():
            raise ValueError(f"write_healpix: mask must hold {n_pix} pixels, some of them true, got {len(seen)}")
        kept = np.flatnonzero(to_nested(seen) if nested else seen)
    columns = [] if mask is None else [fits.Column("PIXEL", "K", array=kept)]
    for name, array in values.items():
        ordered = (to_nested(array) if nested else array)[kept]
        if ordered.dtype.kind == "f":
            ordered = np.where(np.isfinite(ordered), ordered, UNSEEN).astype(ordered.dtype)
        code = {"f4": "E", "f8": "D", "i4": "J", "i8": "K", "u1": "B"}[ordered.dtype.str[1:]]
        columns.append(fits.Column(str(name).upper(), code, array=ordered))
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update(
        PIXTYPE="HEALPIX",
        ORDERING="NESTED" if nested else "RING",
        NSIDE=nside,
        FIRSTPIX=0,
        LASTPIX=n_pix - 1,
        COORDSYS="C",
        INDXSCHM="IMPLICIT" if mask is None else "EXPLICIT",
        OBJECT="FULLSKY" if mask is None else "PARTIAL",
        BAD_DATA=UNSEEN,
    )
    for key, value in (header or {}).items():
        if len(key) > 8 or not key.isascii():
            raise ValueError(f"write_healpix: header has no place for {key!r:.40}; keywords have 8 characters")
        table.header[key] = value
    with atomic(path, overwrite=overwrite) as file:
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(file)


def read_shear(
    path: str | os.PathLike[str],
    *,
    e1: str = "auto",
    e2: str = "auto",
    noise_std: str | float | None = "auto",
    convention: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> SphereShear:
    """Read shear and its noise from the columns of a HEALPix file.

    Args:
        path: the file; columns are found by their names (e1 or gamma1 or Q_POLARISATION ..., noise_std, weight: inverse
            variance, mask, kappa) or named.
        e1: column of the first component.
        e2: column of the second component.
        noise_std: column of the standard deviation of both components, or a number; "auto": noise_std or weight.
        convention: the `operators.KaiserSquiresSphere` convention that the maps follow; None: what the file says
            (SHEARCON, or POLCCONV: COSMO is "healpix", IAU "iau"), else "healpix".
        dtype: of the result.

    Raises:
        ValueError: a column is missing, or the noise is not known.
    """
    maps, header = read_healpix(path)
    where, names = str(path), {name.lower(): name for name in maps}

    def column(kind: str, given: str = "auto") -> npt.NDArray[np.float64] | None:
        wanted = _SHEAR_NAMES[kind] if given == "auto" else (given.lower(),)
        name = next((names[w] for w in wanted if w in names), None)
        if name is None and (given != "auto" or kind in ("e1", "e2")):
            raise ValueError(
                f"{where} must hold {kind}, it holds {', '.join(maps):.160}; name its column, {kind}='...'"
            )
        return None if name is None else maps[name]

    shear = np.stack([v for v in (column("e1", e1), column("e2", e2)) if v is not None])
    std, weight = None, None
    if isinstance(noise_std, str):
        std = column("noise_std", noise_std)
        weight = column("weight") if std is None else None
    elif noise_std is not None:
        std = np.full(shear.shape[1:], float(noise_std))
    if weight is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            std = np.where(weight > 0, weight, np.nan) ** -0.5
    if std is None:
        raise ValueError(f"{where}: the noise is not known; give noise_std=, a column or a number such as 0.02")
    seen = np.isfinite(shear).all(0) & np.isfinite(std) & (std > 0)
    if (mask := column("mask")) is not None:
        seen &= np.nan_to_num(mask) != 0
    if convention is None:
        noted = {"COSMO": "healpix", "IAU": "iau"}.get(str(header.get("POLCCONV", "COSMO")).strip().upper(), "healpix")
        convention = str(header.get("SHEARCON", noted))
    check_sphere_convention(where, convention)
    kappa = column("kappa")

    def tensor(values: _Array, blank: float) -> Tensor:
        filled = np.where(seen, values, blank)
        return torch.from_numpy(np.atleast_2d(filled)[None]).to(dtype)

    return SphereShear(
        shear=tensor(shear, 0.0),
        noise_std=tensor(np.broadcast_to(std, shear.shape), math.inf),
        mask=torch.from_numpy(seen[None, None]),
        kappa=None if kappa is None else torch.from_numpy(np.nan_to_num(kappa)[None, None]).to(dtype),
        convention=convention,
        path=where,
    )


def is_healpix(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is FITS and holds a HEALPix or healsparse map."""
    if (
        not str(path).lower().endswith((".fits", ".fit", ".fits.gz", ".fit.gz", ".hs", ".hsp"))
        or not Path(path).is_file()
    ):
        return False
    with open_fits(path) as parts:
        return any(str(p.header.get("PIXTYPE", "")).strip().upper() in ("HEALPIX", "HEALSPARSE") for p in parts)


def _columns(where: str, part: Any) -> dict[str, npt.NDArray[np.float64]]:
    """Return the maps of a HEALPix table in ring order."""
    if not hasattr(part, "columns"):
        raise ValueError(f"{where}: a HEALPix map must be a table, got {type(part).__name__}")
    header = part.header
    order = str(header.get("ORDERING", "")).strip().upper()
    if order not in ("RING", "NESTED", "NEST"):
        raise ValueError(
            f"{where}: ORDERING must be RING or NESTED, got {order!r:.20}; the order of pixels is not known"
        )
    names = {str(name).lower(): str(name) for name in part.columns.names}
    pixels = None
    explicit = str(header.get("INDXSCHM", "")).strip().upper() == "EXPLICIT"
    if explicit:
        key = next((names[k] for k in ("pixel", "pix", "ipix") if k in names), None)
        if key is None:
            raise ValueError(f"{where}: a partial sky must have a column PIXEL, it has {', '.join(names):.160}")
        pixels = np.asarray(part.data[key]).ravel().astype(np.int64)
    nside, maps = header.get("NSIDE"), {}
    for name in part.columns.names:
        if explicit and name == key:
            continue
        check_real(f"{where}: {name}", np.asarray(part.data[name]).dtype)
        values = np.asarray(part.data[name]).ravel().astype(np.float64)
        if not isinstance(nside, int):
            nside = math.isqrt(len(values) // 12)
        n_pix = 12 * nside**2
        check_n_pix(where, n_pix)
        check_memory(where, (n_pix,), "read a map of a smaller nside")
        if pixels is not None:
            if len(pixels) != len(values) or (len(pixels) and not 0 <= pixels.min() <= pixels.max() < n_pix):
                raise ValueError(
                    f"{where}: PIXEL must lie in 0 to {n_pix - 1} with one value each; fetch the file again"
                )
            whole = np.full(n_pix, np.nan)
            whole[pixels] = values
            values = whole
        if len(values) != n_pix:
            raise ValueError(f"{where}: {name} must hold {n_pix} pixels for NSIDE {nside}, got {len(values)}")
        values = np.where(values < 0.999 * UNSEEN, np.nan, values)
        maps[str(name)] = values if order == "RING" else to_ring(values)
    return maps


def _read_healsparse(path: str | os.PathLike[str], nside: int | None) -> dict[str, npt.NDArray[np.float64]]:
    try:
        import healsparse
    except ImportError:
        raise ValueError(
            f"{path}: maps of healsparse need healsparse, which is not installed; pip install 'pnp-local[sphere]'"
        ) from None
    with reading(path, "healsparse"):
        sparse = healsparse.HealSparseMap.read(str(path))
        target = sparse.nside_sparse if nside is None else nside
        check_memory(str(path), (12 * target**2,), "give nside=, of a coarser grid")
        names = sparse.dtype.names or ("MAP",)
        maps = {}
        for name in names:
            one = sparse[name] if sparse.dtype.names else sparse
            if one.dtype == np.bool_ or one.is_integer_map:
                one = one.astype(np.float64)
            values = np.asarray(one.generate_healpix_map(nside=target, nest=True), dtype=np.float64)
            maps[str(name)] = to_ring(np.where(values < 0.999 * UNSEEN, np.nan, values))
    return maps


def _flat(name: str, values: npt.ArrayLike | Tensor) -> _Array:
    """Return a map (n_pix,) in native order."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"write_healpix: {name} must hold real numbers, got {array.dtype}; convert it")
    if array.size == 0 or any(n > 1 for n in array.shape[:-1]):
        raise ValueError(f"write_healpix: {name} must be one map (n_pix,) or (1, 1, n_pix), got {array.shape}")
    array = array.reshape(-1)
    if array.dtype.kind == "f":
        return array.astype(np.float32 if array.dtype.itemsize <= 4 else np.float64)
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    return array.astype(np.int32 if array.dtype.itemsize <= 2 or array.dtype == np.int32 else np.int64)
