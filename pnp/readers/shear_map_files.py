"""Shear maps as surveys and simulations publish them: e1, e2, their noise, a mask; one file or several.

Maps are FITS images, HDF5 datasets or NumPy arrays of any byte order, named like "e1.fits", "maps.fits[E1]",
"maps.fits[2]", "maps.h5[shear/e1]" or "e1.npy". Pixels without a value, without a finite noise or outside the mask are
not observed: there shear is 0, noise_std infinite and the mask False, as `pnp.solve` expects.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..checks import check_number
from ..io.fits import celestial_wcs, contents, image, images_in, native, open_fits, refuse_healpix, write_fits_maps
from ..io.guards import check_file, check_real, reading
from ..io.hdf5_safe import listed, numbers, open_hdf5
from .shear_map import ShearMap, check_convention

_MAP_NAMES: Mapping[str, tuple[str, ...]] = {
    "e1": ("e1", "g1", "gamma1", "shear1"),
    "e2": ("e2", "g2", "gamma2", "shear2"),
    "noise_std": ("noise_std", "std", "sigma"),
    "weight": ("weight", "w", "wht", "ivar"),
    "mask": ("mask",),
    "kappa": ("kappa", "convergence"),
}
_Part = str | tuple[str, str] | float | None
_SQUARE = 0.01
"""Largest relative difference of the two sides of a pixel."""


def read_shear_maps(
    path: str | os.PathLike[str] | None = None,
    *,
    e1: str = "auto",
    e2: str = "auto",
    noise_std: _Part = "auto",
    weight: _Part = "auto",
    mask: str | None = "auto",
    kappa: str | None = "auto",
    pixel_arcmin: float | None = None,
    convention: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> ShearMap:
    """Read maps of shear, (H, W) each, with their noise and mask.

    Give one file, whose parts are found by their names (e1, e2, noise_std or std1 and std2, weight, mask, kappa) or
    named by the arguments; or no path, and a file for every map.

    Args:
        path: FITS or HDF5 file that holds all maps; None: the maps name their files.
        e1: first component: extension or dataset of `path`, or a file: "e1.fits", "maps.fits[E1]", "maps.h5[e1]".
        e2: second component.
        noise_std: standard deviation of both components, or of each (a pair); a number: the same in all pixels.
        weight: in place of noise_std: inverse variance of both components, or of each; 0 where not observed.
        mask: observed where not 0; None: wherever there are shear and noise.
        kappa: true convergence, of simulations.
        pixel_arcmin: side of a pixel in arcminutes; None: from the file's world coordinates, if it has them, whose
            pixels must then be square.
        convention: the `operators.KaiserSquires` convention that the maps follow; None: what `write_shear_maps` noted
            in the file, otherwise "lenspack".
        dtype: of the result.

    Raises:
        ValueError: a file or a map is missing, damaged or of another shape; noise is missing, negative, or 0 where
            observed; the mask and the shear have no pixel in common; pixels are not square.
    """
    given = {"e1": e1, "e2": e2, "noise_std": noise_std, "weight": weight, "mask": mask, "kappa": kappa}
    where = "read_shear_maps" if path is None else str(path)
    if convention is not None:
        check_convention("read_shear_maps", convention)
    sources = _sources(where, path, given)
    parts: dict[str, list[npt.NDArray[np.float64]]] = {}
    header = None
    for name, places in sources.items():
        loaded = [_load(place) for place in places]
        parts[name] = [array for array, _ in loaded]
        header = loaded[0][1] if name == "e1" else header
    shapes = {name: array.shape for name, arrays in parts.items() for array in arrays}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{where}: maps must be of one shape, got {str(shapes)[1:-1]:.200}; cut them alike")
    shear = np.stack([parts["e1"][0], parts["e2"][0]])
    wanted = np.nan_to_num(parts["mask"][0]) != 0 if "mask" in parts else np.ones(shear.shape[1:], dtype=bool)
    observed = np.asarray(wanted & np.isfinite(shear).all(0))
    if not observed.any():
        raise ValueError(f"{where}: the mask is 0 wherever there is shear; is it 1 where not observed? use 1 - mask")
    std = _noise(where, parts, noise_std, observed)
    observed = np.asarray(observed & np.isfinite(std).all(0))
    if not observed.any():
        raise ValueError(
            f"{where}: no pixel has shear, noise and mask; see where noise_std is finite or weight above 0"
        )
    unseen = int(np.count_nonzero(wanted & ~observed))
    wcs = None
    if header is not None:
        with reading(where, "FITS"):
            wcs = celestial_wcs(header)
            side = header.get("PIXARCMN")
            noted = str(header.get("SHEARCON", "lenspack"))
        if pixel_arcmin is None and wcs is not None:
            side = _pixel_arcmin(where, wcs)
        if pixel_arcmin is None and side is not None:
            pixel_arcmin = _positive(where, side)
        if convention is None:
            check_convention(where, noted)
            convention = noted

    def tensor(array: npt.NDArray[Any], blank: float) -> Tensor:
        filled = np.where(observed, array, blank)
        return torch.from_numpy(filled).to(dtype).reshape(1, -1, *filled.shape[-2:])

    return ShearMap(
        shear=tensor(shear, 0.0),
        noise_std=tensor(std, math.inf),
        mask=torch.from_numpy(observed)[None, None],
        kappa=torch.from_numpy(parts["kappa"][0]).to(dtype)[None, None] if "kappa" in parts else None,
        pixel_arcmin=pixel_arcmin,
        wcs=wcs,
        convention=convention or "lenspack",
        facts={"dropped": {"pixels without shear or noise": unseen}} if unseen else {},
        path=where if path is not None else str(e1),
    )


def write_shear_maps(path: str | os.PathLike[str], shear_map: ShearMap, *, overwrite: bool = False) -> None:
    """Write a FITS file that `read_shear_maps(path)` reads: E1, E2, STD1, STD2, MASK, and COUNTS and KAPPA if known."""
    m = shear_map
    maps = {"E1": m.shear[0, 0], "E2": m.shear[0, 1], "STD1": m.noise_std[0, 0], "STD2": m.noise_std[0, 1]}
    maps |= {"MASK": m.mask} | {n.upper(): v for n in ("counts", "kappa") if (v := getattr(m, n)) is not None}
    header: dict[str, str | float] = {"SHEARCON": m.convention}
    if m.pixel_arcmin is not None:
        header["PIXARCMN"] = m.pixel_arcmin
    write_fits_maps(path, maps, wcs=m.wcs, header=header, overwrite=overwrite)


# ------------------------------------------------------------------------------------------- parts of files


def _sources(where: str, path: str | os.PathLike[str] | None, given: dict[str, _Part]) -> dict[str, list[str]]:
    """Return where each map is, "file" or "file[part]": one place, or one per component."""
    held = [] if path is None else _parts(path)

    def place(name: str, part: str) -> str | None:
        if path is None:
            return None if part == "auto" else part
        if part != "auto":
            return f"{path}[{part}]"
        found = [p for p in held if p.rpartition("/")[2].lower() in names(name)]
        if len(found) > 1:
            raise ValueError(f"{where}: {name} may be any of {', '.join(found):.160}; name one, {name}={found[0]!r}")
        return f"{path}[{found[0]}]" if found else None

    def names(name: str) -> tuple[str, ...]:
        stem, component = (name[:-1], name[-1]) if name[-1] in "12" and name not in _MAP_NAMES else (name, "")
        return tuple(f"{alias}{component}" for alias in _MAP_NAMES[stem])

    sources: dict[str, list[str]] = {}
    for name, part in given.items():
        pair = part if isinstance(part, tuple) else (part,)
        found = [p for one in pair if isinstance(one, str) and (p := place(name, one)) is not None]
        if not found and part == "auto" and name in ("noise_std", "weight") and path is not None:
            both = [place(f"{name}{k}", "auto") for k in "12"]
            found = [p for p in both if p is not None]
            if len(found) == 1:
                raise ValueError(
                    f"{where}: there is {found[0]:.80} only; {name} needs both components, or one for both"
                )
        if found:
            sources[name] = found
    rivals = [name for name in ("noise_std", "weight") if given[name] not in ("auto", None)]
    if len(rivals) == 1:  # the one that is given counts, not what else the file holds
        sources.pop("weight" if rivals == ["noise_std"] else "noise_std", None)
    missing = [name for name in ("e1", "e2") if name not in sources]
    if missing:
        holds = f"; it holds {', '.join(held):.160}" if held else ""
        raise ValueError(f"{where}: no map is known to be {missing[0]}; name it, {missing[0]}='...'{holds}")
    if len(rivals) == 2 or {"noise_std", "weight"} <= set(sources):
        raise ValueError(f"{where}: noise_std and weight are given or found, expected one; leave one out, weight=None")
    return sources


def _parts(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of the maps in a file."""
    if str(path).lower().endswith((".h5", ".hdf5")):
        found: list[str] = []
        with open_hdf5(path) as file:
            file.visititems(lambda name, node: found.append(name) if isinstance(node, h5py.Dataset) else None)
        return found
    with open_fits(path) as parts:
        refuse_healpix(str(path), parts)
        return [str(part.name or k) for k, part in enumerate(parts) if part.is_image and part.header.get("NAXIS")]


def _load(place: str) -> tuple[npt.NDArray[np.float64], Any]:
    """Return the map at "file" or "file[part]", and its FITS header: the file's first one, updated by its own."""
    file, bracket, part = place.partition("[") if place.endswith("]") and not Path(place).exists() else (place, "", "")
    part, header = part.removesuffix("]"), None
    if file.lower().endswith((".h5", ".hdf5")):
        with open_hdf5(file) as parts:
            dataset = parts.get(part) if bracket else None
            if not isinstance(dataset, h5py.Dataset):
                raise ValueError(
                    f"{file} has no dataset {part!r:.40}, it holds {listed(parts)}; name it, '{file}[...]'"
                )
            check_real(place, dataset.dtype)
            array = numbers(file, dataset)
    elif file.lower().endswith(".npy"):
        with reading(check_file(file), "NumPy"):
            array = np.load(file, allow_pickle=False)
        check_real(place, array.dtype)
    else:
        with open_fits(file) as parts:
            refuse_healpix(file, parts)
            found = [
                p
                for k, p in images_in(parts).items()
                if not bracket or str(k) == part or p.name.lower() == part.lower()
            ]
            if len(found) != 1:
                raise ValueError(
                    f"{file} must hold one map{f' {part!r:.40}' if bracket else ''}, got {len(found)}; name it, "
                    f"'file.fits[NAME]'; it holds {contents(parts):.160}"
                )
            array, header = image(file, found[0]), parts[0].header.copy()
            header.update(found[0].header)
    while array.ndim > 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 2 or array.size < 2:
        raise ValueError(f"{place} must be a map (H, W), got {array.shape}; store each component on its own")
    with np.errstate(invalid="ignore"):  # NaN of any kind stays NaN
        return native(array).astype(np.float64), header


def _noise(
    where: str, parts: dict[str, list[npt.NDArray[np.float64]]], number: _Part, observed: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the standard deviation (2, H, W), infinity where there is no information."""
    if number is not None and not isinstance(number, str | tuple):
        std = check_number("noise_std", number, above=0, caller="read_shear_maps")
        name, values = "noise_std", np.full((2, *observed.shape), float(std))
    elif "noise_std" in parts:
        name, values = "noise_std", np.stack(np.broadcast_arrays(*parts["noise_std"] * (3 - len(parts["noise_std"]))))
    elif "weight" in parts:
        name, values = "weight", np.stack(np.broadcast_arrays(*parts["weight"] * (3 - len(parts["weight"]))))
    else:
        raise ValueError(
            f"{where}: the noise is not known; give noise_std= or weight=, a map or a pair of maps, or noise_std=0.2, "
            "a number for all pixels"
        )
    bad = observed & ((values < 0) | ((values == 0) & (name == "noise_std"))).any(0)
    if bad.any():
        least = f"{values[:, bad].min():.4g}"
        raise ValueError(
            f"{where}: {name} must be positive where observed, got {least} in {int(bad.sum())} of "
            f"{int(observed.sum())} pixels; take them out of the mask, or give the mask= if there is one"
        )
    if name == "noise_std":
        return np.where(np.isfinite(values), values, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, values**-0.5, np.inf)


def _positive(where: str, side: Any) -> float:
    """Return the side of a pixel that a header states."""
    if isinstance(side, bool) or not isinstance(side, int | float) or not 0 < side < math.inf:
        raise ValueError(f"{where}: a pixel's side must be positive, got PIXARCMN or WCS {side!r:.40}; correct it")
    return float(side)


def _pixel_arcmin(where: str, wcs: Any) -> float:
    """Return the side of a pixel in arcminutes; pixels must be square."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    sides = 60 * proj_plane_pixel_scales(wcs.celestial)
    if not abs(sides[0] - sides[1]) <= _SQUARE * max(sides):
        raise ValueError(
            f"{where}: pixels must be square, got {sides[0]:.4g} x {sides[1]:.4g} arcmin by its WCS; bin the catalogue "
            "in square pixels (map_catalogue), regrid the maps, or give pixel_arcmin= if the WCS is wrong"
        )
    return float(np.sqrt(np.prod(sides)))
