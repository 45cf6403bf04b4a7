"""Adapters against the networks that they wrap, against deepinv's conventions, and on synthetic complex noise."""

import math
import pickle
import warnings

import pytest
import torch

from denoisers import TV, Blind, ComplexParts, MLPatch, PerChannel, Rescaled, SigmaMap, SliceWise

with warnings.catch_warnings():  # what deepinv warns of at import is not ours to fix
    warnings.simplefilter("ignore")
    import deepinv as dinv


def images(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def drunet():
    torch.manual_seed(0)
    return dinv.models.DRUNet(1, 1, nc=(2, 2, 2, 2), nb=1, pretrained=None).eval()


# ---------------------------------------------------------------- sigma


def test_a_network_without_sigma_is_a_denoiser():
    x = images(2, 1, 4, 5)
    assert torch.equal(Blind(torch.tanh)(x, 0.1), torch.tanh(x))
    assert not hasattr(Blind(torch.tanh), "sigma_range")
    assert torch.equal(Blind({0.1: torch.tanh})(x, 0.1), torch.tanh(x))
    volume = images(1, 1, 3, 4, 5)
    assert torch.equal(Blind(torch.tanh)(volume, 0.1), torch.tanh(volume))


def test_of_a_bank_of_networks_the_nearest_level_in_log_scale_is_used():
    D = Blind({0.2: lambda x: x + 2, 0.05: lambda x: x + 1})  # the border is sqrt(0.05 * 0.2) = 0.1
    z = D(torch.zeros(4, 1, 2, 2), torch.tensor([0.05, 0.099, 0.101, 0.2]))
    assert z[:, 0, 0, 0].tolist() == [1, 1, 2, 2]
    assert D.sigma_range == (0.05, 0.2)
    for sigma in (0.0, 0.04, 0.3):
        with pytest.raises(ValueError, match="Blind: sigma"):
            D(torch.zeros(1, 1, 2, 2), sigma)


def test_the_networks_of_a_bank_move_and_pickle_with_it():
    bank = Blind({0.1: torch.nn.Conv2d(1, 1, 3, padding=1), 0.2: torch.nn.Conv2d(1, 1, 1)})
    assert len(list(bank.parameters())) == 4 and all(p.dtype == torch.float64 for p in bank.double().parameters())
    x = images(1, 1, 4, 4)
    assert torch.equal(pickle.loads(pickle.dumps(bank))(x, 0.1), bank(x, 0.1))
    assert "0.1: Conv2d" in repr(bank)


def test_a_map_of_sigma_is_what_deepinvs_drunet_takes():
    """DRUNet concatenates the map itself, `forward_unet` is its network alone; it also takes maps as sigma."""
    network, x, sigma = drunet(), images(2, 1, 32, 40, dtype=torch.float32), torch.tensor([0.05, 0.3])
    with torch.no_grad():
        expected = network(x, sigma)
        torch.testing.assert_close(SigmaMap(network.forward_unet)(x, sigma), expected)
        torch.testing.assert_close(SigmaMap(network, mode="argument")(x, sigma), expected)
        torch.testing.assert_close(SigmaMap(network.forward_unet)(x, 0.3)[1:], expected[1:])


# ---------------------------------------------------------------- ranges


def in_255(x, sigma):
    """A stand-in for a denoiser of images in [0, 255]: not linear, so that a wrong range shows."""
    return 255 * torch.tanh(x / 255) - sigma


def test_a_network_for_0_to_255_and_one_with_sigma_in_0_to_255_on_images_in_0_to_1():
    x = images(2, 1, 3, 4).abs()
    torch.testing.assert_close(Rescaled(in_255, 0, 1, made_for=(0, 255))(x, 0.1), torch.tanh(x) - 0.1)
    by_255 = Rescaled(lambda x, sigma: torch.tanh(x) - sigma / 255, 0, 1, sigma_scale=255)
    torch.testing.assert_close(by_255(x, 0.1), torch.tanh(x) - 0.1)
    # Images of [-1, 1] in units of the user's [100, 300]: z = 200 + 100 D((x - 200)/100, sigma/100).
    y = 200 + 100 * x
    z = Rescaled(lambda x, sigma: torch.tanh(x) - sigma, 100, 300, made_for=(-1, 1))(y, 10.0)
    torch.testing.assert_close(z, 200 + 100 * (torch.tanh(x) - 0.1))


def test_rescaled_scales_the_range_of_sigma():
    bank = Blind({5.0: torch.tanh, 50.0: torch.tanh})  # levels in 0 to 255
    for D in (Rescaled(bank, 0, 1, made_for=(0, 255)), Rescaled(bank, 0, 1, sigma_scale=255)):
        assert D.sigma_range == pytest.approx((5 / 255, 50 / 255))
        assert D(images(1, 1, 2, 2), 0.1).shape == (1, 1, 2, 2)
    assert repr(Rescaled(torch.tanh, 0, 1)).endswith(", 0, 1)")


# ---------------------------------------------------------------- complex images


class Recorder:
    """Keeps what it is called with."""

    takes_sigma_per_image = True

    def __call__(self, x, sigma):
        self.x, self.sigma = x, sigma
        return x


def test_sigma_of_the_parts_is_the_standard_deviation_of_the_noise_in_them():
    """Complex noise with E|n|^2 = sigma^2 on an image of modulus 20 sigma; sample errors are 0.5 %."""
    sigma, seen = torch.tensor([0.1, 0.4], dtype=torch.float64), Recorder()
    truth = torch.polar(20 * sigma[:, None, None, None].expand(2, 1, 128, 128), images(2, 1, 128, 128))
    noise = sigma[:, None, None, None] * images(2, 1, 128, 128, dtype=torch.complex128)
    assert float(noise.abs().square().mean((1, 2, 3))[1]) == pytest.approx(0.16, rel=0.02)
    ComplexParts(seen)(truth + noise, sigma)
    error = seen.x - torch.cat([truth.real, truth.imag])
    torch.testing.assert_close(error.flatten(1).std(1), seen.sigma, rtol=0.02, atol=0)
    ComplexParts(seen, mode="magnitude_phase")(truth + noise, sigma)
    torch.testing.assert_close((seen.x - truth.abs()).flatten(1).std(1), seen.sigma, rtol=0.02, atol=0)


def test_the_wiener_filter_of_complex_noise_is_that_of_its_parts():
    """Parts of variance t^2: the best factor is 2 t^2/(2 t^2 + sigma^2), the error 2 t^2 sigma^2/(2 t^2 + sigma^2)."""
    t, sigma = 0.7, 1.0
    truth = t * math.sqrt(2) * images(1, 1, 200, 200, dtype=torch.complex128)
    noise = sigma * torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(1), dtype=torch.complex128)
    z = ComplexParts(lambda x, s: x * t**2 / (t**2 + s**2))(truth + noise, sigma)
    torch.testing.assert_close(z, (truth + noise) * 2 * t**2 / (2 * t**2 + sigma**2))
    least = 2 * t**2 * sigma**2 / (2 * t**2 + sigma**2)
    assert float((z - truth).abs().square().mean()) == pytest.approx(least, rel=0.03)


def test_deepinvs_complex_wrapper_hands_the_parts_sigma_itself():
    network, x = drunet(), images(2, 1, 16, 16, dtype=torch.complex64)
    theirs = dinv.models.ComplexDenoiserWrapper(network, mode="real_imag")
    with torch.no_grad():
        torch.testing.assert_close(ComplexParts(network)(x, 0.1 * math.sqrt(2)), theirs(x, 0.1))


def test_the_phase_is_kept_and_the_magnitude_is_not_negative():
    x = images(1, 1, 8, 8, dtype=torch.complex128)
    x[0, 0, 0, 0] = 0
    z = ComplexParts(lambda m, s: m + 0.5, mode="magnitude_phase")(x, 0.1)
    torch.testing.assert_close(z.angle(), x.angle())
    torch.testing.assert_close(z.abs(), x.abs() + 0.5)
    assert torch.equal(ComplexParts(lambda m, s: -m, mode="magnitude_phase")(x, 0.1).abs(), torch.zeros_like(x.real))


def test_complex_images_of_a_denoiser_of_ours():
    x, tiny = images(2, 1, 9, 9, dtype=torch.complex128), MLPatch(taps=3, features=8, hidden=8, dilations=(1,))
    levels = torch.tensor([0.1, 0.2])
    for D in (TV(), tiny.requires_grad_(False)):
        z = ComplexParts(D)(x, levels)
        for i, sigma in enumerate(levels / math.sqrt(2)):
            torch.testing.assert_close(z[i : i + 1].real, D(x[i : i + 1].real, sigma))
            torch.testing.assert_close(z[i : i + 1].imag, D(x[i : i + 1].imag, sigma))
    assert ComplexParts(Blind({0.1: torch.tanh, 1.0: torch.tanh})).sigma_range == pytest.approx((0.1 * 2**0.5, 2**0.5))
    with pytest.raises(TypeError, match="ComplexParts: x"):
        ComplexParts(TV())(x.real, 0.1)
    for D in (TV(), tiny, Rescaled(TV(), 0, 2)):
        with pytest.raises(TypeError, match=r"x must be real.*ComplexParts"):
            D(x, 0.1)


# ---------------------------------------------------------------- what adapters hand on


@pytest.mark.parametrize(
    "adapter",
    [PerChannel, lambda D: Rescaled(D, 0, 2), SliceWise, ComplexParts],
    ids=["channel", "range", "slice", "parts"],
)
def test_a_function_that_wants_one_number_gets_one(adapter):
    """`torch.full_like` takes a number, and a tensor without axes, but no tensor (B,)."""
    D = adapter(lambda x, sigma: x + torch.full_like(x, sigma))
    x = images(2, 3, 4, 4, dtype=torch.complex128 if isinstance(D, ComplexParts) else torch.float64)
    x = x[..., None] if isinstance(D, SliceWise) else x
    torch.testing.assert_close((D(x, 0.1) - x).real, torch.full_like(x.real, 0.1 / 2**0.5 if x.is_complex() else 0.1))
    assert not D.takes_sigma_per_image and adapter(TV()).takes_sigma_per_image
    assert adapter(MLPatch(taps=3, features=8, hidden=8, dilations=(1,))).takes_any_dtype


@pytest.mark.parametrize(
    ("make", "kind", "match"),
    [
        (lambda: Blind(3), TypeError, "Blind: network"),
        (lambda: Blind({}), ValueError, "Blind: network"),
        (lambda: Blind({0.1: None}), TypeError, "Blind: network"),
        (lambda: Blind({0.0: torch.tanh}), ValueError, "Blind: level"),
        (lambda: Blind({"5": torch.tanh}), TypeError, "Blind: level"),
        (lambda: SigmaMap(torch.tanh, mode="map"), ValueError, "SigmaMap: mode"),
        (lambda: SigmaMap(None), TypeError, "SigmaMap: denoiser"),
        (lambda: ComplexParts(torch.tanh, mode="abs_angle"), ValueError, "ComplexParts: mode"),
        (lambda: Rescaled(torch.tanh, 1, 0), ValueError, "Rescaled: high"),
        (lambda: Rescaled(torch.tanh, 0, 1, made_for=(255, 0)), ValueError, "Rescaled: made_for"),
        (lambda: Rescaled(torch.tanh, 0, 1, sigma_scale=0), ValueError, "Rescaled: sigma_scale"),
    ],
)
def test_bad_arguments_are_explained(make, kind, match):
    with pytest.raises(kind, match=match) as caught:
        make()
    assert len(str(caught.value)) < 400
