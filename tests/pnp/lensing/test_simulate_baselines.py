"""Simulated convergence maps against their statistics, baseline mass maps against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from operators import KaiserSquires
from pnp.io import read_image
from pnp.lensing import (
    LognormalKappa,
    best_smoothing,
    pixel_spectrum,
    smoothed_kaiser_squires,
    survey_noise,
    wiener,
)
from pnp.lensing.gaussian_filter import Gaussian


def test_maps_have_the_spectrum_the_floor_and_the_skewness():
    sky = LognormalKappa((96, 128), std=0.02)
    maps = sky(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert maps.shape == (64, 1, 96, 128)
    assert float(maps.min()) > -sky.shift
    assert abs(float(maps.mean())) < 0.02 * 0.1
    assert float(maps.std()) == pytest.approx(0.02, rel=0.05)
    assert 2 < float((maps / maps.std()).pow(3).mean()) < 4
    power = (torch.fft.fft2(maps).abs().square().mean((0, 1)) / (96 * 128))[1:20, 1:20]
    wanted = pixel_spectrum((96, 128))
    wanted = (wanted * 0.02**2 / wanted.mean())[1:20, 1:20]
    assert float(power.mean()) == pytest.approx(float(wanted.mean()), rel=0.15)


@pytest.mark.parametrize("name", ["ktng_kappa360v2", "ktng_cosmos_kappa360", "columbia_kappa", "mice_kappa"])
def test_the_tail_is_that_of_simulated_universes(data_dir, name):
    """As many pixels above 3, 5 and 8 standard deviations, whatever the redshift: the peaks of haloes need no model."""
    kappa = torch.from_numpy(read_image(data_dir / "lensing" / f"{name}.fits"))
    maps = LognormalKappa((360, 360))(8, generator=torch.Generator().manual_seed(0))
    for threshold in (3, 5, 8):
        theirs, ours = (float((k - k.mean() > threshold * k.std()).double().mean()) for k in (kappa, maps))
        assert 0.55 < ours / theirs < 1.4


def test_maps_are_reproducible_and_scale_with_std():
    def draw(std: float) -> torch.Tensor:
        return LognormalKappa((32, 31), std=std)(2, generator=torch.Generator().manual_seed(1))

    assert torch.equal(draw(0.02), draw(0.02))
    torch.testing.assert_close(draw(0.04), 2 * draw(0.02), rtol=1e-4, atol=1e-6)


def test_survey_has_a_border_holes_and_noise_about_the_median():
    noise_std = survey_noise((128, 128), generator=torch.Generator().manual_seed(0), std=0.2)
    observed = torch.isfinite(noise_std)
    assert noise_std.shape == (1, 2, 128, 128) and torch.equal(observed[:, 0], observed[:, 1])
    assert not observed[..., 0].any() and not observed[..., -1, :].any()
    assert 0.4 < float(observed.float().mean()) < (5 / 6) ** 2
    assert float(noise_std[observed].median()) == pytest.approx(0.2, rel=0.1)
    assert float(noise_std[observed].std()) > 0.01


@pytest.fixture
def survey():
    """A small noisy survey, in float64."""
    generator = torch.Generator().manual_seed(2)
    A = KaiserSquires((8, 9))
    kappa = LognormalKappa((8, 9), std=0.05)(1, generator=generator, dtype=torch.float64)
    noise_std = survey_noise((8, 9), generator=generator, std=0.05, holes=1).double()
    noise_std[0, 1, 4, 4] = math.inf  # one component alone
    noise = torch.where(torch.isfinite(noise_std), noise_std, 0.0) * torch.randn(
        1, 2, 8, 9, generator=generator, dtype=torch.float64
    )
    y = torch.where(torch.isfinite(noise_std), A.A(kappa) + noise, torch.nan)
    return A, kappa, y, noise_std


def test_wiener_filter_is_the_dense_posterior_mean(survey):
    A, _, y, noise_std = survey
    spectrum = pixel_spectrum((8, 9))
    identity = torch.eye(72, dtype=torch.float64).reshape(72, 1, 8, 9)
    dense = A.A(identity).reshape(72, -1).T  # (144, 72)
    S = torch.fft.ifft2(torch.fft.fft2(identity) * spectrum).real.reshape(72, 72)
    W = torch.diag(noise_std.flatten() ** -2)
    right = S @ dense.T @ W @ y.nan_to_num().flatten()
    kappa = torch.linalg.solve(S @ dense.T @ W @ dense + torch.eye(72, dtype=torch.float64), right)
    got = wiener(A, y, noise_std, spectrum, rtol=1e-12)
    torch.testing.assert_close(got.flatten(), kappa, rtol=1e-8, atol=1e-10 * float(kappa.abs().max()))
    with pytest.raises(ValueError, match=": spectrum "):
        wiener(A, y, noise_std, spectrum[1:])


def test_smoothing_is_a_gaussian_and_leaves_out_what_is_blind(survey):
    A, _, y, noise_std = survey
    raw = smoothed_kaiser_squires(A, y, noise_std, 0)
    torch.testing.assert_close(raw, A.A_adjoint(y.nan_to_num()))
    wide = smoothed_kaiser_squires(A, y, noise_std, 1e3)
    assert float(wide.abs().max()) < 1e-9 * float(raw.abs().max())
    delta = torch.zeros(1, 2, 64, 64, dtype=torch.float64)
    big = KaiserSquires((64, 64))
    point = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    point[..., 32, 32] = 1
    smooth = smoothed_kaiser_squires(big, big.A(point), torch.ones_like(delta), 3.0)[0, 0]
    assert float(smooth[32, 35] - smooth[0, 0]) / float(smooth[32, 32] - smooth[0, 0]) == pytest.approx(
        math.exp(-0.5), rel=1e-3
    )


@pytest.mark.parametrize("shape", [(32, 32), (33, 40)])
def test_gaussian_smoothing_is_the_periodic_convolution(shape):
    x = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = gaussian_filter(x.numpy(), (0, 0, 2.0, 2.0), mode="wrap", truncate=8)
    torch.testing.assert_close(Gaussian(shape, 2.0)(x), torch.from_numpy(want), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(Gaussian(shape, 0)(x), x)
    single = Gaussian(shape, 2.0, like=x.float())
    assert single(x.float()).dtype == single.response.dtype == torch.float32


def test_best_smoothing_grows_with_the_noise():
    generator = torch.Generator().manual_seed(0)
    A, sky = KaiserSquires((64, 64)), LognormalKappa((64, 64), std=0.02)
    maps = sky(4, generator=generator)
    chosen = [best_smoothing(A, maps, torch.full((1, 2, 1, 1), s), generator=generator) for s in (0.01, 0.3)]
    assert chosen[0] < chosen[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LognormalKappa((32, 32), std=0), ": std "),
        (lambda: LognormalKappa((32,)), "shape"),
        (lambda: LognormalKappa((32, 32), pixel_arcmin=-1), "pixel_arcmin"),
        (lambda: LognormalKappa((8, 8))(0, generator=torch.Generator()), "batch"),
        (lambda: survey_noise((32, 32), generator=torch.Generator(), std=-1), ": std "),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert len(str(caught.value)) < 400
