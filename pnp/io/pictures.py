"""Read PNG and JPEG pictures as a viewer shows them, and write PNG pictures of 8 or 16 bits."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .guards import check_claim, reading
from .tiff_safe import ORIENTATION_TAG, upright

_FORMATS = ("PNG", "JPEG")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {2: "RGB", 4: "RGBA", 6: "RGBA"}
"""Modes by which Pillow reads the PNG colour types 2 (RGB), 4 (grey, alpha) and 6 (RGB, alpha) of 16 bits."""


def read_picture(path: Path) -> npt.NDArray[np.float32]:
    """Read a PNG or JPEG file as (H, W) or (C, H, W) in [0, 1], upright and without opacity.

    No other format is tried, since the decoders of some run programs.
    """
    from PIL import Image

    with reading(path, "PNG or JPEG"):
        try:
            with Image.open(path, formats=_FORMATS) as picture:
                bits, colour_type = _png_header(path)
                needed = picture.width * picture.height * len(picture.getbands()) * bits // 8
                check_claim(f"{path}: the image", needed, path.stat().st_size, "if that is right, store it as .tif")
                if picture.format == "PNG" and (n := getattr(picture, "n_frames", 1)) > 1:
                    raise ValueError(f"{path} is an animation of {n} pictures; save the one that you mean")
                if bits == 16 and colour_type in _COLOUR_TYPES:
                    pixels = _sixteen_bits(path, colour_type)
                    picture.load()  # EXIF may come after the pixels
                else:
                    pixels = _unit_interval(picture.convert("RGB") if picture.mode in ("P", "CMYK") else picture)
                return np.ascontiguousarray(upright(pixels, _orientation(picture)))
        except Image.DecompressionBombError:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise ValueError(f"{path} claims over {limit} pixels, too many for a picture; store it as .tif") from None


def write_png(path: Path, pixels: npt.NDArray[np.float32], bits: Literal[8, 16]) -> None:
    """Write (H, W), (1, H, W) or (3, H, W) to a PNG file, [0, 1] as 0..255 or 0..65535, clipped outside."""
    from PIL import Image

    kind: Any = np.uint16 if bits == 16 else np.uint8
    levels = np.rint(np.clip(pixels, 0, 1) * np.iinfo(kind).max).astype(kind)
    levels = np.moveaxis(levels, 0, -1) if pixels.ndim == 3 and len(pixels) == 3 else levels.reshape(pixels.shape[-2:])
    if bits == 16 and levels.ndim == 3:
        path.write_bytes(_encode_rgb16(levels))  # Pillow has no such mode
    else:
        Image.fromarray(levels).save(path)


def png_bits(path: str | os.PathLike[str]) -> Literal[8, 16]:
    """Return the bits of a PNG file's channels, 16 or, with fewer too, 8; 8 for every other file."""
    if not Path(path).name.lower().endswith(".png"):
        return 8
    from PIL import Image

    with reading(path, "PNG"), Image.open(path, formats=_FORMATS):
        return 16 if _png_header(path)[0] == 16 else 8


def _png_header(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return bit depth (at least 8) and colour type of a PNG file; (8, 0) for another one.

    The first chunk is IHDR: width, height, bit depth, colour type (PNG specification, section 11.2.1).
    """
    with open(path, "rb") as file:
        header = file.read(26)
    return (max(8, header[24]), header[25]) if header.startswith(_SIGNATURE) and len(header) == 26 else (8, 0)


def _sixteen_bits(path: Path, colour_type: int) -> npt.NDArray[np.float32]:
    """Read a colour or grey-alpha PNG file of 16 bits, which Pillow reduces to 8 unless its decoder is told otherwise.

    Pillow decodes RGB;16B, big-endian, to the first byte of each number and RGB;16L to the second. The four bytes of
    grey and alpha are decoded as the four channels of RGBA.
    """
    mode = _COLOUR_TYPES[colour_type]
    if colour_type == 4:
        data = _decode(path, mode, mode)
        levels = 256 * data[..., :1].astype(np.uint16) + data[..., 1:2]
    else:
        levels = 256 * _decode(path, mode, f"{mode};16B")[..., :3].astype(np.uint16)
        levels += _decode(path, mode, f"{mode};16L")[..., :3]
    pixels: npt.NDArray[np.float32] = np.moveaxis(np.divide(levels, 65535, dtype=np.float32), -1, 0)
    return pixels[0] if len(pixels) == 1 else pixels


def _decode(path: Path, mode: str, raw_mode: str) -> npt.NDArray[np.uint8]:
    """Return a PNG file's bytes (H, W, 4 or 3) as Pillow unpacks them in a raw mode."""
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as picture:
        if picture.mode != mode or len(picture.tile) != 1:
            raise ValueError(f"{path} must have 16 bits and mode {mode}, Pillow reads {picture.mode}; store it as .tif")
        decoder, box, offset, _ = picture.tile[0]
        picture.tile = [(decoder, box, offset, raw_mode)]
        return np.asarray(picture)


def _unit_interval(picture: Any) -> npt.NDArray[np.float32]:
    """Bring a PIL picture to [0, 1], channels first, without opacity."""
    pixels = np.asarray(picture)
    if pixels.dtype.kind in "ui":
        # Mode I, 32 bits, is how some versions of PIL hold the 16 of a file.
        pixels = np.divide(pixels, 65535 if picture.mode.startswith("I") else 255, dtype=np.float32)
    if pixels.ndim == 3:
        pixels = np.moveaxis(pixels, -1, 0)
        pixels = pixels[:-1] if len(pixels) in (2, 4) else pixels  # opacity
        pixels = pixels[0] if len(pixels) == 1 else pixels
    return pixels.astype(np.float32)


def _orientation(picture: Any) -> object:
    """Return the EXIF orientation of a loaded picture; 1, upright, where it has none or a damaged one."""
    try:
        return picture.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # Pillow has no common class for damaged EXIF
        return 1


def _encode_rgb16(levels: npt.NDArray[np.uint16]) -> bytes:
    """Return a PNG file of (H, W, 3), 16 bits: each line minus the line above (filter 2 of the PNG specification)."""
    height, width, _ = levels.shape
    lines = np.ascontiguousarray(levels, dtype=">u2").view(np.uint8).reshape(height, -1)
    filtered = np.full((height, 1 + lines.shape[1]), 2, np.uint8)
    filtered[:, 1:] = np.diff(lines, axis=0, prepend=np.zeros_like(lines[:1]))
    packed = zlib.compress(filtered.tobytes())
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    data = [packed[k : k + 2**30] for k in range(0, len(packed), 2**30)]  # a chunk has at most 2^31 - 1 bytes
    chunks = [(b"IHDR", header), *((b"IDAT", part) for part in data), (b"IEND", b"")]
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
