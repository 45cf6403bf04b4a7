"""Pictures as a viewer shows them, with all their bits: PNG, JPEG and TIFF; numbers that float32 does not hold."""

from __future__ import annotations

import struct
import zlib
from importlib.util import find_spec

import h5py
import numpy as np
import pytest
import tifffile
from astropy.io import fits
from PIL import Image, ImageOps

from pnp.io import png_bits, read_image, write_image

RNG = np.random.default_rng(0)
GREY, RGB = (RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((6, 8), (6, 8, 3)))
SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def refused(path) -> str:
    with pytest.raises(ValueError, match=path.name) as caught:
        read_image(path)
    assert len(str(caught.value).replace(str(path.parent), "")) < 400 and "\n" not in str(caught.value)
    return str(caught.value)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def filtered(lines: np.ndarray, step: int) -> bytes:
    """Filter lines of bytes by the five types in turn (PNG specification, section 9)."""
    out, above = b"", np.zeros(lines.shape[1], int)
    for k, x in enumerate(lines.astype(int)):
        a, c = (np.concatenate([np.zeros(step, int), line[:-step]]) for line in (x, above))
        p = a + above - c
        pa, pb, pc = abs(p - a), abs(p - above), abs(p - c)
        paeth = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, above, c))
        guess = (0 * x, a, above, (a + above) // 2, paeth)[k % 5]
        out += bytes([k % 5]) + ((x - guess) % 256).astype(np.uint8).tobytes()
        above = x
    return out


def png(lines: np.ndarray, bits: int, colour_type: int, *, interlace: bool = False, width=None, late=b"") -> bytes:
    """Return a PNG file of pixels (H, W, C), uint16, or of packed lines (H, n), uint8."""
    height = len(lines)
    pixels = lines.astype(">u2").view(np.uint8).reshape(*lines.shape[:2], -1) if bits == 16 else lines[..., None]
    step = pixels.shape[2]
    parts = [pixels[y::dy, x::dx] for y, x, dy, dx in (ADAM7 if interlace else ((0, 0, 1, 1),))]
    data = b"".join(filtered(part.reshape(len(part), -1), step) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width or lines.shape[1], height, bits, colour_type, 0, 0, interlace)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + late + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_png_are_all_kept(tmp_path, colour_type, channels, interlace):
    for shape in ((13, 17), (1, 1), (2, 9)):
        levels = RNG.integers(0, 65536, (*shape, channels), dtype=np.uint16)
        (tmp_path / "x.png").write_bytes(png(levels, 16, colour_type, interlace=interlace))
        assert png_bits(tmp_path / "x.png") == 16
        want = levels[..., :-1] if channels in (2, 4) else levels  # opacity
        want = want[..., 0] if want.shape[-1] == 1 else np.moveaxis(want, -1, 0)
        np.testing.assert_array_equal(read_image(tmp_path / "x.png"), want.astype(np.float32) / np.float32(65535))


def test_colour_png_is_written_with_sixteen_bits(tmp_path):
    levels = RNG.integers(0, 65536, (3, 40, 30), dtype=np.uint16)
    path = tmp_path / "x.png"
    write_image(path, levels / 65535, bits=16)
    assert png_bits(path) == 16
    np.testing.assert_array_equal(np.rint(read_image(path) * 65535), levels)
    with Image.open(path) as picture:  # a reader of the first 8 bits
        np.testing.assert_array_equal(np.asarray(picture), np.moveaxis(levels >> 8, 0, -1))
    with Image.open(path) as picture:
        picture.verify()  # of the checksums
    write_image(path, np.stack([np.full((2, 2), v) for v in (-1.0, 0.5, 2.0)]), bits=16, overwrite=True)
    np.testing.assert_allclose(read_image(path)[:, 0, 0], [0, 0.5, 1], atol=1e-5)


@pytest.mark.parametrize("kept", [30, 60, 120])
def test_truncated_png_of_sixteen_bits(tmp_path, kept):
    data = png(RNG.integers(0, 65536, (9, 9, 3), dtype=np.uint16), 16, 2)
    (tmp_path / "x.png").write_bytes(data[:kept])
    assert "truncated or damaged" in refused(tmp_path / "x.png")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_spans_the_unit_interval(tmp_path, bits):
    levels = RNG.integers(0, 2**bits, (5, 16))
    levels[0, :2] = 0, 2**bits - 1
    per_byte = 8 // bits
    places = 2 ** (bits * np.arange(per_byte)[::-1])
    packed = (levels.reshape(5, -1, per_byte) * places).sum(-1).astype(np.uint8)
    (tmp_path / "x.png").write_bytes(png(packed, bits, 0, width=16))
    np.testing.assert_allclose(read_image(tmp_path / "x.png"), levels / (2**bits - 1), atol=1e-6)
    assert png_bits(tmp_path / "x.png") == 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for pixels in (GREY, RGB):
        for name in ("x.jpg", "x.png"):
            Image.fromarray(pixels).save(tmp_path / name, exif=exif)
            with Image.open(tmp_path / name) as picture:
                seen = np.asarray(ImageOps.exif_transpose(picture))
            want = seen if seen.ndim == 2 else np.moveaxis(seen, -1, 0)
            np.testing.assert_allclose(read_image(tmp_path / name) * 255, want, rtol=1e-6)
        tag = (274, "H", 1, orientation, True)
        tifffile.imwrite(tmp_path / "x.tif", pixels, extratags=[tag])  # want is that of PNG, without loss
        np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), want)
    levels = np.arange(6 * 8 * 3, dtype=np.uint16).reshape(6, 8, 3)
    late = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "x.png").write_bytes(png(levels, 16, 2, late=late))
    turned = [np.asarray(ImageOps.exif_transpose(_with(Image.fromarray(levels[..., c]), exif))) for c in range(3)]
    np.testing.assert_array_equal(np.rint(read_image(tmp_path / "x.png") * 65535), turned)


def _with(picture: Image.Image, exif: Image.Exif) -> Image.Image:
    picture.getexif().update(exif)
    return picture


def test_damaged_exif_leaves_a_picture_as_it_is_stored(tmp_path):
    for name in ("x.jpg", "x.png"):
        for exif in (b"Exif\0\0MM", b"Exif\0\0nonsense" * 3):
            Image.fromarray(GREY).save(tmp_path / name, exif=exif)
            assert read_image(tmp_path / name).shape == GREY.shape
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.fromarray(GREY).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_allclose(read_image(tmp_path / "x.png") * 255, GREY, rtol=1e-6)


def test_palettes_opacity_and_inks_of_pictures(tmp_path):
    palette = Image.fromarray(RGB).quantize(16)
    for transparency in (None, 3):
        options = {} if transparency is None else {"transparency": transparency}
        palette.save(tmp_path / "x.png", **options)
        want = np.moveaxis(np.asarray(palette.convert("RGB")), -1, 0)
        np.testing.assert_allclose(read_image(tmp_path / "x.png") * 255, want, rtol=1e-6)
    Image.fromarray(np.dstack([GREY, GREY[::-1]])).save(tmp_path / "la.png")
    np.testing.assert_allclose(read_image(tmp_path / "la.png") * 255, GREY, rtol=1e-6)
    Image.new("CMYK", (16, 16), (255, 0, 255, 0)).save(tmp_path / "x.jpg", quality=100)  # green
    np.testing.assert_allclose(read_image(tmp_path / "x.jpg")[:, 8, 8], [0, 1, 0], atol=0.02)


def test_an_animation_is_refused(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    assert "animation of 2" in refused(tmp_path / "x.png")


# ---------------------------------------------------------------- TIFF


def test_tiff_palettes_become_colours(tmp_path):
    path = tmp_path / "x.tif"
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(path)
    np.testing.assert_array_equal(read_image(path), np.moveaxis(np.asarray(palette.convert("RGB")), -1, 0))
    colours = RNG.integers(0, 65536, (3, 256), dtype=np.uint16)
    for table, unit in ((colours, 257), (colours & 255, 1), ((colours & 255) * 257, 257), (colours & 0xFF00, 256)):
        tifffile.imwrite(path, GREY, photometric="palette", colormap=table)
        np.testing.assert_allclose(read_image(path), table[:, GREY] / unit, rtol=1e-6)
    palette.save(path, save_all=True, append_images=[palette])
    assert "(3, 2, 6, 8)" in refused(path)


def test_white_is_zero_becomes_black_is_zero(tmp_path):
    path = tmp_path / "x.tif"
    for pixels, white in ((GREY, 255), (GREY.astype(np.uint16) * 200, 65535)):
        tifffile.imwrite(path, pixels, photometric="miniswhite")
        np.testing.assert_array_equal(read_image(path), white - pixels.astype(int))
    tifffile.imwrite(path, GREY > 100, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(path), GREY <= 100)
    Image.fromarray(GREY).save(path, tiffinfo={262: 0})
    with Image.open(path) as picture:  # as another library shows it
        np.testing.assert_array_equal(read_image(path), np.asarray(picture))
    for dtype in (np.float32, np.int16):
        tifffile.imwrite(path, GREY.astype(dtype), photometric="miniswhite")
        assert "white is zero" in refused(path)


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr"])
def test_tiff_of_other_colours_is_refused(tmp_path, mode):
    picture = Image.frombytes(mode, (8, 6), RNG.bytes(6 * 8 * (4 if mode == "CMYK" else 3)))
    picture.save(tmp_path / "x.tif")
    assert "RGB" in refused(tmp_path / "x.tif")


def test_tiff_pages(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY[::-1].copy())])
    np.testing.assert_array_equal(read_image(path), [GREY, GREY[::-1]])
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY.T.copy())])
    assert "2 images of different kinds" in refused(path)
    with tifffile.TiffWriter(path) as file:  # a preview first
        file.write(GREY[:3, :4], photometric="minisblack", subfiletype=1)
        file.write(RGB, photometric="rgb")
    np.testing.assert_array_equal(read_image(path), np.moveaxis(RGB, -1, 0))
    with tifffile.TiffWriter(path) as file:
        for orientation in (1, 6):
            tags = [(274, "H", 1, orientation, True)]
            file.write(GREY, photometric="minisblack", contiguous=False, metadata=None, extratags=tags)
    assert "pages of different" in refused(path)


def test_compression_that_needs_another_package_says_so(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(GREY).save(path, compression="tiff_lzw")
    if find_spec("imagecodecs"):
        np.testing.assert_array_equal(read_image(path), GREY)
    else:
        assert "imagecodecs" in refused(path) and "LZW" in refused(path)
    Image.fromarray(GREY).save(path, compression="tiff_adobe_deflate")
    np.testing.assert_array_equal(read_image(path), GREY)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("shape", [(6, 8), (3, 3), (1, 5), (5, 1)])
def test_tiff_says_which_axis_holds_the_channels(tmp_path, planar, byteorder, shape):
    colour = RNG.integers(0, 65536, (3, *shape), dtype=np.uint16)
    stored = colour if planar == "separate" else np.ascontiguousarray(np.moveaxis(colour, 0, -1))
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", planarconfig=planar, byteorder=byteorder)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), colour)


def test_narrow_tiff_pages_are_no_channels(tmp_path):
    pages = RNG.random((7, 6, 3), dtype=np.float32)
    tifffile.imwrite(tmp_path / "x.tif", pages, photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), pages)


# ---------------------------------------------------------------- float32


def store(path, values):
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric="minisblack")
    elif path.suffix == ".fits":
        fits.PrimaryHDU(values).writeto(path)
    else:
        with h5py.File(path, "w") as file:
            file["image"] = values


RAMP = np.arange(64).reshape(8, 8)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".fits", ".h5"])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((8, 8), 1e40), "float32's range"),
        (RAMP * -1e40, "float32's range"),
        (RAMP * 1e-60, "below float32's range"),
        (RAMP + 1e9, "subtract an offset"),
        ((RAMP + 2**31).astype(np.uint32), "2147483649"),
        (-(RAMP.astype(np.int64)) - 2**40, "integers"),
    ],
)
def test_numbers_that_float32_does_not_hold_are_refused(tmp_path, suffix, values, words):
    store(tmp_path / f"x{suffix}", values)
    assert words in refused(tmp_path / f"x{suffix}")


@pytest.mark.parametrize(
    "values",
    [
        np.array([[np.nan, np.inf], [1.0, -2.0]]),
        np.full((4, 4), 0.1),
        0.3 + 1e-16 * RAMP,  # a constant, but for the last bit
        300 + RAMP / 64,
        RAMP * 2**20,
        np.array([[2**63, 2**24, 0]], np.uint64),
        np.array([[-(2**63), 2**62]]),
    ],
)
def test_numbers_that_float32_holds_are_read(tmp_path, values):
    np.save(tmp_path / "x.npy", values)
    np.testing.assert_array_equal(read_image(tmp_path / "x.npy"), values.astype(np.float32))
