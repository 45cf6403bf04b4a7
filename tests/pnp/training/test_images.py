"""Training images: crops, their colours, and photographs of any depth and range."""

import numpy as np
import pytest
import torch
from tifffile import imwrite

from pnp.training.images import Crops, load_folder


def test_crops_are_shrunk_and_in_all_eight_positions():
    ramp = (16 * torch.arange(4)[:, None] + torch.arange(4)).byte()[None]
    drawn = {tuple(x.flatten().tolist()) for x in Crops([ramp], 4)(200, generator=torch.Generator().manual_seed(0))}
    expected = {tuple((x.rot90(k, (1, 2)).float() / 255).flatten().tolist()) for x in (ramp, ramp.mT) for k in range(4)}
    assert drawn == expected
    flat = Crops([torch.full((3, 20, 31), 77, dtype=torch.uint8)], 9, shrink=(0.5, 0.2))
    assert [tuple(x.shape) for x in flat.images] == [(3, 20, 31), (3, 10, 15)]  # 0.2 is too small
    assert flat(5, generator=torch.Generator().manual_seed(0)).unique().tolist() == pytest.approx([77 / 255])


def test_half_of_the_crops_are_stretched_away_from_grey_or_blended():
    plain = torch.tensor([110, 120, 130], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 12, 12)
    draw = Crops([plain], 8, recolour=True)
    x = 255 * torch.cat([draw(1, generator=torch.Generator().manual_seed(k)) for k in range(800)])[:, :, 0, 0]
    spread = (x.amax(1) - x.amin(1)) / 20  # how far from grey, over what it was
    same = (x - torch.tensor([110.0, 120.0, 130.0])).abs().amax(1) < 1e-3
    assert 350 < same.sum() < 500  # alone in its batch, a crop is blended with itself
    assert 3.5 < spread.max() <= 4
    assert len({tuple(order) for order in x.argsort(1).tolist()}) == 6
    bright = torch.full((3, 12, 12), 200, dtype=torch.uint8)
    x = 255 * Crops([plain, bright], 8, recolour=True)(800, generator=torch.Generator().manual_seed(0))[:, :, 0, 0]
    assert 20 < ((x > 140) & (x < 190)).any(1).sum() < 200  # between the two: blended
    with pytest.raises(ValueError, match="three channels"):
        Crops([plain[:1]], 8, recolour=True)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4", "<f4"])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_grey_images_keep_their_values(tmp_path, kind, channels):
    pixels = np.linspace(0, 1, 300).reshape(15, 20)
    x = pixels if kind == "<f4" else np.rint(65535 * pixels)
    imwrite(tmp_path / "a.tif", x.astype(kind), byteorder=kind[0])
    (image,) = load_folder(tmp_path, channels)
    assert image.shape == (channels, 15, 20)
    np.testing.assert_allclose(image.numpy() / 255, np.broadcast_to(pixels, image.shape), atol=0.502 / 255)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.float32([[0, 255]]), "0 to 255"),
        (np.float32([[0, np.nan]]), "floating point"),
        (np.int32([[0, 70000]]), "0 to 70000"),
        (np.int32([[-1, 400]]), "-1 to 400"),
        (np.int32([[0, 255]]), "0 to 255"),
    ],
)
def test_images_of_unknown_range_are_refused_by_name(tmp_path, x, message):
    imwrite(tmp_path / "a.tif", x)
    with pytest.raises(ValueError, match=r"cannot read a\.tif: .*" + message):
        load_folder(tmp_path)
