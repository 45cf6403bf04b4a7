"""Physics of the Radon operator: analytic sinograms, ASTRA, orientation, units, FBP."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel
from radon_truth import SHEPP_LOGAN, Ellipse, bins, half_turn, shepp_logan, some_angles, tensor
from torch import Tensor

from operators import Radon
from operators.ct.projector import WINDOWS

# ------------------------------------------------------------------------------------------------- physics


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((128, 128), {}),
        ((128, 128), {"n_detectors": 186}),
        ((129, 100), {"offset": 3.3}),
        ((100, 140), {"pitch": 0.9, "offset": -2.1, "pixel_size": 0.7}),
        ((128, 128), {"pitch": 0.5}),
        ((128, 128), {"pitch": 1.25}),
        ((128, 128), {"pitch": 2.0}),
        ((127, 128), {"pitch": 3.1}),
        ((128, 128), {"n_detectors": 64}),
        ((128, 128), {"n_detectors": 50, "offset": 40.0}),
    ],
    ids=str,
)
def test_an_ellipse_has_its_analytic_sinogram(shape: tuple[int, int], options: dict[str, float]) -> None:
    op = Radon(shape, some_angles(31), **options)  # type: ignore[arg-type]
    size = op.pixel_size
    ellipse = Ellipse(1.3, 0.31 * shape[1] * size, 0.2 * shape[0] * size, 0.08 * shape[1] * size, -11 * size, 0.4)
    y = op.A(tensor(ellipse.image(shape, size)))
    # Measured 0.2 to 0.75 %; half a pixel off would be 4 %.
    assert rel(y, tensor(ellipse.sinogram(op.angles.numpy(), bins(op), op.pitch))) < 0.01


@pytest.mark.parametrize("n_detectors", [363, 364])
def test_shepp_logan_within_one_percent_of_bin_averages(n_detectors: int) -> None:
    op = Radon((256, 256), half_turn(60), n_detectors=n_detectors)
    truth = np.sum([e.scaled(128).sinogram(op.angles.numpy(), bins(op), 1.0) for e in SHEPP_LOGAN], axis=0)
    assert rel(op.A(shepp_logan(256)), tensor(truth)) < 0.01


@pytest.mark.parametrize("n_detectors", [363, 364])
def test_shepp_logan_within_a_third_of_a_percent_of_astra(n_detectors: int) -> None:
    astra = pytest.importorskip("astra")
    op = Radon((256, 256), half_turn(60), n_detectors=n_detectors)
    x = shepp_logan(256)
    assert rel(op.A(x), astra_strip(astra, x, op)) < 0.003


def test_the_frame_is_astras() -> None:
    astra = pytest.importorskip("astra")
    # Smooth, lopsided in every direction, on a rectangle: a flip or a transposition cannot pass.
    i, j = np.mgrid[0:40, 0:56]
    x = tensor(np.exp(-((i - 9) ** 2) / 30 - (j - 38) ** 2 / 60) + 0.5 * np.exp(-((i - 28) ** 2 + (j - 15) ** 2) / 25))
    op = Radon((40, 56), some_angles(9), n_detectors=71)
    assert rel(op.A(x), astra_strip(astra, x, op)) < 0.002


def astra_strip(astra: object, x: Tensor, op: Radon) -> Tensor:
    volume = astra.create_vol_geom(*op.shape)  # type: ignore[attr-defined]
    geometry = astra.create_proj_geom("parallel", op.pitch, op.n_detectors, op.angles.numpy())  # type: ignore[attr-defined]
    projector = astra.create_projector("strip", geometry, volume)  # type: ignore[attr-defined]
    _, y = astra.create_sino(x[0, 0].numpy().astype(np.float32), projector)  # type: ignore[attr-defined]
    astra.clear()  # type: ignore[attr-defined]
    return tensor(y.astype(np.float64))


def test_the_orientation_is_skimages() -> None:
    from skimage.transform import radon

    n = 65  # odd, so that its centre of rotation is ours
    x = Ellipse(1.0, 9, 5, 10, 14, 0.3).image((n, n))
    degrees = np.array([0.0, 25.0, 90.0, 130.0])
    y = Radon((n, n), np.deg2rad(degrees), n_detectors=n).A(tensor(x))
    assert rel(y, tensor(radon(x, degrees, circle=True).T)) < 0.03


def test_an_offset_is_astras_shift_of_the_detector() -> None:
    astra = pytest.importorskip("astra")
    x, angles = Ellipse(1.0, 9, 5, 10, 14, 0.3).image((64, 64)), half_turn(30)
    geometry = astra.geom_postalignment(astra.create_proj_geom("parallel", 1.0, 95, np.asarray(angles)), 3.5)
    projector = astra.create_projector("line", geometry, astra.create_vol_geom(64, 64))
    y = astra.OpTomo(projector).FP(x.astype(np.float32))
    assert rel(Radon((64, 64), angles, n_detectors=95, offset=3.5).A(tensor(x)), tensor(y)) < 0.03
    astra.clear()


@pytest.mark.parametrize("n", [64, 65])
@pytest.mark.parametrize("circle", [True, False])
def test_a_sinogram_of_scikit_image_has_its_axis_at_half_its_bins(n: int, circle: bool) -> None:
    """The recipe of docs/bring_your_data_ct.md: scikit-image turns about pixel n // 2 of the image and of the bins."""
    from skimage.transform import radon

    x = Ellipse(1.0, 9, 5, 10, 14, 0.3).image((n, n))
    degrees = np.arange(0.0, 180, 4)
    s = radon(x, degrees, circle=circle)
    m, n_bins = 2 * (n // 2) + 1, len(s)
    A = Radon((m, m), np.deg2rad(degrees), n_detectors=n_bins, offset=(n_bins - 1) / 2 - n_bins // 2)
    y = A.A(tensor(np.pad(x, (0, m - n))))
    assert rel(y, tensor(s.T)) < 0.02
    middle = Radon((n, n), np.deg2rad(degrees), n_detectors=n_bins).A(tensor(x))
    assert n % 2 == n_bins % 2 == 1 or rel(middle, tensor(s.T)) > 0.05


def test_a_blob_lands_where_the_frame_says() -> None:
    i, j = np.mgrid[0:24, 0:31]
    x = tensor(np.exp(-((i - 6) ** 2 + (j - 21) ** 2) / 4))  # upper right: X = 21 - 15 = 6, Y = 11.5 - 6 = 5.5
    op = Radon((24, 31), [0.0, math.pi / 2, math.pi, math.pi / 4], offset=0.4)
    y = op.A(x)[0, 0]
    centroid = (y * torch.as_tensor(bins(op))).sum(-1) / y.sum(-1)
    want = torch.tensor([6.0, 5.5, -6.0, 11.5 / math.sqrt(2)], dtype=F64)
    torch.testing.assert_close(centroid, want, rtol=0, atol=0.01)


def test_mass_is_conserved_and_lengths_have_units() -> None:
    x = rand(1, 1, 20, 14).abs()
    for size in (1.0, 0.05):
        op = Radon((20, 14), some_angles(5), pitch=1.5 * size, offset=0.7 * size, pixel_size=size)
        mass = op.A(x).sum(-1) * op.pitch
        torch.testing.assert_close(mass, (x.sum() * size**2).expand(1, 1, 5), rtol=1e-3, atol=0)
    # Another unit of length, the same geometry: line integrals in proportion.
    in_pixels = Radon((20, 14), some_angles(5), pitch=1.5, offset=0.7).A(x)
    torch.testing.assert_close(op.A(x), 0.05 * in_pixels)


def test_turning_the_image_turns_the_sinogram() -> None:
    x, angles = rand(1, 1, 16, 16), some_angles(4)
    turned = torch.rot90(x, 1, (-2, -1))  # counter-clockwise as displayed, rows down
    torch.testing.assert_close(Radon((16, 16), angles + np.pi / 2).A(turned), Radon((16, 16), angles).A(x))
    torch.testing.assert_close(Radon((16, 16), angles + np.pi).A(x), Radon((16, 16), angles).A(x).flip(-1))


def test_a_narrow_detector_measures_part_of_a_wide_one() -> None:
    e = Ellipse(1.0, 17, 11, 6, -3, 0.4)
    x = tensor(e.image((48, 48)))
    wide = Radon((48, 48), some_angles(7), n_detectors=81).A(x)
    narrow = Radon((48, 48), some_angles(7), n_detectors=21, offset=10.0).A(x)
    assert rel(narrow, wide[..., 40:61]) < 0.003


# ------------------------------------------------------------------------------------------------------- FBP


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("options", [{}, {"pitch": 0.3, "pixel_size": 0.2, "offset": 0.5}, {"pitch": 0.5}], ids=str)
def test_fbp_of_a_disc_is_the_disc(options: dict[str, float], window: str) -> None:
    op = Radon((96, 80), half_turn(150), **options)  # type: ignore[arg-type]
    radius, x0, y0 = (s * op.pixel_size for s in (25, 8, -10))
    disc = Ellipse(1.0, radius, radius, x0, y0, 0)
    x = op.fbp(tensor(disc.sinogram(op.angles.numpy(), bins(op), op.pitch)), window)[0, 0].numpy()
    inside = Ellipse(1.0, 0.8 * radius, 0.8 * radius, x0, y0, 0).image(op.shape, op.pixel_size) == 1
    outside = Ellipse(1.0, 1.2 * radius, 1.2 * radius, x0, y0, 0).image(op.shape, op.pixel_size) == 0
    # A zeroed DC bin would bias both by -0.017.
    assert abs(x[inside].mean() - 1) < 0.002
    assert abs(x[outside].mean()) < 0.003


def test_fbp_approaches_the_truth_with_the_number_of_views() -> None:
    errors = []
    for n in (30, 90, 270):
        op = Radon((128, 128), half_turn(n))
        y = np.sum([e.scaled(64).sinogram(op.angles.numpy(), bins(op), 1.0) for e in SHEPP_LOGAN], axis=0)
        errors.append(rel(op.fbp(tensor(y)), shepp_logan(128)))
    # Towards the error of a raster, 0.09 here, which no number of views removes.
    assert errors[0] > 1.5 * errors[1] > 1.65 * errors[2]
    assert errors[2] < 0.1


def test_windows_order_the_noise() -> None:
    op = Radon((64, 64), half_turn(60))
    noise = [float(op.fbp(rand(1, 1, 60, op.n_detectors), w).std()) for w in ("ramp", "shepp-logan", "cosine", "hann")]
    assert noise == sorted(noise, reverse=True)
    assert noise[0] > 2 * noise[-1]


def test_fbp_weights_views_by_their_share_of_the_half_circle() -> None:
    n, disc = 64, Ellipse(1.0, 14, 20, 4, -6, 0.3)
    x = tensor(disc.image((n, n)))
    fine, coarse = np.arange(0, 1.6, 0.02), np.arange(1.6, np.pi, 0.04)
    uneven = np.concatenate([fine, coarse])
    repeated = np.concatenate([half_turn(120), half_turn(120)[:40] + np.pi, half_turn(120)[:9]])
    np.random.default_rng(0).shuffle(uneven)
    plain = rel(Radon((n, n), half_turn(120)).fbp(Radon((n, n), half_turn(120)).A(x)), x)
    for angles in (uneven, repeated):
        op = Radon((n, n), angles)
        assert rel(op.fbp(op.A(x)), x) < 1.15 * plain


def test_a_missing_wedge_does_not_blow_up_its_neighbours() -> None:
    op = Radon((48, 48), np.linspace(0, 2.0, 60))
    x = op.fbp(op.A(tensor(Ellipse(1.0, 12, 9, 3, 2, 0).image((48, 48)))))
    assert x.abs().max() < 1.6
