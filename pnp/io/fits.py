"""Maps in FITS files, with world coordinates, as the tools of astronomy read them.

One image extension per map, with its name (EXTNAME), its unit (BUNIT, empty: none) and the same world coordinates.
Row 0 is the lowest, as FITS has it: show arrays with origin="lower", and with a standard WCS north is up, east to
the left. Files are big-endian and are read into this machine's order.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .atomic import atomic
from .guards import check_claim, check_file, check_memory, quiet, reading, unpack_limit

_GZIP_MAGIC = b"\x1f\x8b"
"""First bytes of a gzip file."""
_BLOCK_BYTES, _CARD_BYTES = 2880, 80
"""Bytes of a FITS block and of a header card."""
_COUNT_CARD = re.compile(r"(?:HIERARCH\s+)?(Z?NAXIS|TFIELDS|WCSAXES.?|[AB]P?_ORDER)\s*=\s*([^\s/]+)", re.IGNORECASE)
_SIZE_CARD = re.compile(r"SIMPLE|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS")
"""Cards that say where the next header begins (sections 4.4.1 and 6)."""
_MAX_COUNT = 999
"""Largest number of axes or of columns that the standard allows (sections 4.4.1 and 7.3.1)."""


def write_fits_maps(
    path: str | os.PathLike[str],
    maps: Mapping[str, npt.ArrayLike | Tensor],
    *,
    wcs: Any = None,
    units: Mapping[str, str] | None = None,
    header: Mapping[str, str | int | float | bool] | None = None,
    overwrite: bool = False,
) -> None:
    """Write maps of one field, whole or not at all.

    Args:
        path: the file, .fits, or .fits.gz to compress it.
        maps: name to map (H, W) or (1, 1, H, W), e.g. KAPPA_E, KAPPA_B, ERROR, MASK. Floats keep their precision,
            booleans become 0 and 1 (8 bits).
        wcs: astropy.wcs.WCS of the pixels, e.g. of a `ShearMap`; None: no place on the sky.
        units: name to unit, as FITS spells it ("arcmin"); a map without one is dimensionless, as convergence and shear.
        header: keywords of the first header, of at most 8 characters.
        overwrite: replace a file of that name.

    Raises:
        TypeError: a map is not of real numbers.
        ValueError: maps differ in shape, a name or keyword is not one of FITS, or the path cannot be written.
    """
    from astropy.io import fits

    if not str(path).lower().endswith((".fits", ".fit", ".fits.gz")):
        raise ValueError(f"write_fits_maps: path must end in .fits, .fit or .fits.gz, got {path}; rename it")
    planes = {_name(name): _plane(name, values) for name, values in maps.items()}
    if not planes or len(planes) < len(maps) or len({plane.shape for plane in planes.values()}) > 1:
        shapes = ", ".join(f"{name} {np.shape(values)}" for name, values in maps.items()) or "nothing"
        raise ValueError(
            f"write_fits_maps: maps must be at least one, of different names and one shape, got {shapes:.200}"
        )
    place = None if wcs is None else wcs.to_header()
    parts: list[Any] = [fits.PrimaryHDU()]
    for key, value in (header or {}).items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # raised for a keyword too long for FITS
                parts[0].header[key] = value
        except Exception as error:
            raise ValueError(f"write_fits_maps: header has no place for {key!r:.40} = {value!r:.80}: {error}") from None
    unknown = sorted(set(units or {}) - set(maps))
    if unknown:
        raise ValueError(f"write_fits_maps: units names {unknown[0]!r:.40}, which is not among {', '.join(maps):.200}")
    for (name, plane), given in zip(planes.items(), maps, strict=True):
        part = fits.ImageHDU(plane, header=place, name=name)
        part.header["BUNIT"] = ((units or {}).get(given, ""), "unit; empty: dimensionless")
        parts.append(part)
    with atomic(path, overwrite=overwrite) as file:
        fits.HDUList(parts).writeto(file)


def read_fits_maps(path: str | os.PathLike[str]) -> tuple[dict[str, npt.NDArray[Any]], Any]:
    """Read every image of a FITS file: name to map, in native byte order, and their astropy WCS (None where none).

    The names are the extensions' (EXTNAME), or their number where they have none; the WCS is the first map's.

    Raises:
        ValueError: the file is missing, damaged or holds no image.
    """
    with open_fits(path) as parts:
        images = {str(part.name or k): part for k, part in images_in(parts).items()}
        if not images:
            raise ValueError(f"{path} must hold an image, it holds {contents(parts)}")
        maps = {name: image(path, part) for name, part in images.items()}
        return maps, celestial_wcs(next(iter(images.values())).header)


@contextmanager
def open_fits(path: str | os.PathLike[str], *, memmap: bool = False) -> Iterator[Any]:
    """Open a FITS file for reading; whatever is wrong with it, or goes wrong in the block, becomes one ValueError.

    Args:
        path: the file, plain or gzip.
        memmap: load only what is accessed, unless the file is packed; copy it before the block ends.
    """
    from astropy.io import fits

    check_file(path)
    # Opened here, so that it is closed where astropy gives up on it.
    with reading(path, "FITS"), open(path, "rb") as packed:
        file = _unpacked(path, packed)
        _check_counts(path, file)
        with fits.open(file, memmap=memmap and file is packed, lazy_load_hdus=False) as parts:
            yield parts


def images_in(parts: Any) -> dict[int, Any]:
    """Return the parts of a FITS file that hold an image, by their number; none is loaded."""
    return {k: part for k, part in enumerate(parts) if part.is_image and part.shape and 0 not in part.shape}


def refuse_healpix(where: str, parts: Any) -> None:
    """Refuse a FITS file that holds a HEALPix map, by its cards (Gorski et al. 2005, ApJ 622, 759)."""
    for part in parts:
        if str(part.header.get("PIXTYPE", "")).strip().upper() == "HEALPIX":
            raise ValueError(
                f"{where} is a HEALPix map of the sphere (NSIDE {part.header.get('NSIDE')!s:.8}), expected a plane; "
                "read it with pnp.lensing.sphere.read_shear, or project a field, with its axes, on its tangent plane"
            )


def image(path: str | os.PathLike[str], part: Any) -> npt.NDArray[Any]:
    """Return the pixels of a part, in native byte order, unless they claim more than the file or the memory can hold.

    A part that is packed within the file (ZIMAGE) may claim any size.
    """
    needed = math.prod(part.shape) * abs(int(part.header["BITPIX"])) // 8
    where = f"{path}: {str(part.name)!r:.24}"
    check_claim(where, needed, Path(path).stat().st_size, "if that is right, unpack it (gunzip, funpack)")
    check_memory(where, part.shape, "cut it")
    return native(part.data)


def _unpacked(path: str | os.PathLike[str], file: BinaryIO) -> BinaryIO:
    """Return the file, or its content unpacked from gzip; astropy would unpack without a limit."""
    magic = file.read(9)
    file.seek(0)
    if magic[:2] == _GZIP_MAGIC:
        limit, why = unpack_limit(Path(path).stat().st_size)
        content = gzip.GzipFile(fileobj=file).read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"{path} unpacks to more than {why}; if that is right, unpack it (gunzip)")
        magic, file = content[:9], io.BytesIO(content)
    if magic != b"SIMPLE  =":
        raise ValueError(f"{path} is not a FITS file, which begins with 'SIMPLE  ='; check the name, or unpack it")
    return file


def _check_counts(path: str | os.PathLike[str], file: BinaryIO) -> None:
    """Refuse a header that counts more axes or columns than there can be: astropy would go through them all."""
    while True:
        cards: dict[str, str] = {}
        ended = False
        while not ended and len(block := file.read(_BLOCK_BYTES)) == _BLOCK_BYTES:
            for k in range(0, _BLOCK_BYTES, _CARD_BYTES):
                card = block[k : k + _CARD_BYTES].decode("latin-1")
                if (found := _COUNT_CARD.match(card)) and not _number(found[2]) <= _MAX_COUNT:
                    raise ValueError(
                        f"{path}: {found[1]} must be at most {_MAX_COUNT}, got {found[2]:.24}; fetch it again"
                    )
                name, _, value = card.partition("=")
                if _SIZE_CARD.fullmatch(name := name.strip()):
                    cards.setdefault(
                        name, value.partition("/")[0].strip()
                    )  # astropy takes the first of two of one name
                ended = ended or card.rstrip() == "END"
        if not ended:
            break
        sizes = {name: int(n) for name, value in cards.items() if math.isfinite(n := _number(value))}
        axes = [sizes.get(f"NAXIS{k + 1}", 0) for k in range(sizes.get("NAXIS", 0))]
        if next(iter(cards), "") == "SIMPLE" and cards.get("GROUPS") == "T":
            axes = axes[1:]  # random groups (section 6): the first axis is 0, and does not count
        elements = sizes.get("GCOUNT", 1) * (sizes.get("PCOUNT", 0) + math.prod(axes)) if axes else 0
        n_bytes = abs(sizes.get("BITPIX", 8)) // 8 * elements
        if n_bytes < 0 or file.tell() + n_bytes > 2**62:  # astropy reports it
            break
        file.seek(-(-n_bytes // _BLOCK_BYTES) * _BLOCK_BYTES, os.SEEK_CUR)
    file.seek(0)


def _number(text: str) -> float:
    """Return the number that a card gives, 0 where it is none."""
    try:
        return float(text.strip().strip("'").upper().replace("D", "E"))
    except ValueError:
        return 0.0


def contents(parts: Any) -> str:
    """Return the first few parts of a FITS file, for a message."""
    names = [f"{part.name or k} ({type(part).__name__})" for k, part in enumerate(parts)]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def celestial_wcs(header: Any) -> Any:
    """Return the astropy WCS of a header that places its two axes on the sky, otherwise None."""
    from astropy.wcs import WCS

    with quiet():  # astropy warns of obsolete keywords, which it mends
        wcs = WCS(header, naxis=2)
    return wcs if wcs.has_celestial else None


def native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a contiguous copy in this machine's byte order, as torch wants it."""
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _name(name: str) -> str:
    if not (isinstance(name, str) and name.isascii() and name.isprintable() and 0 < len(name.strip()) <= 68):
        raise ValueError(
            f"write_fits_maps: a map's name must be 1 to 68 printable ASCII characters, got {name!r:.100}; e.g. KAPPA_E"
        )
    return name.strip().upper()


def _plane(name: str, values: npt.ArrayLike | Tensor) -> npt.NDArray[Any]:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"write_fits_maps: {name} must hold real numbers, got {array.dtype}; convert it")
    if array.size == 0 or array.ndim < 2 or any(n > 1 for n in array.shape[:-2]):
        raise ValueError(
            f"write_fits_maps: {name} must be one map (H, W) or (1, 1, H, W), got {array.shape}; use x[:, :1]"
        )
    return array.reshape(array.shape[-2:]).astype(np.uint8 if array.dtype == bool else array.dtype)
