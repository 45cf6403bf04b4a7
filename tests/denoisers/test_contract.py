"""The contract of every exported denoiser, from one table."""

import pickle

import numpy as np
import pytest
import torch
from random_networks import TWO_LATTICES
from skimage.restoration import denoise_tv_chambolle

import denoisers
from denoisers import (
    DENOISERS,
    TV,
    Blind,
    ComplexParts,
    Equivariant,
    MLPatch,
    PerChannel,
    Rescaled,
    SigmaMap,
    SliceWise,
)

TINY = {"taps": 3, "features": 8, "hidden": 8, "dilations": (1,)}


def smooth(x, sigma):
    """A stand-in for a foreign denoiser: blind to sigma, blurs along rows."""
    return (x.roll(1, 3) + 2 * x + x.roll(-1, 3)) / 4


def blur(x):
    """A network without sigma."""
    return smooth(x, 0)


def shrink_by_map(x):
    """A network whose last channel of input is sigma."""
    return smooth(x[:, :-1], 0) / (1 + x[:, -1:])


TABLE = {
    "mlpatch": lambda: MLPatch(**TINY, precision="float32"),
    "mlpatch of volumes": lambda: MLPatch(dimensions=3, **TINY, precision="float32"),
    "mlpatch of two lattices": lambda: MLPatch(**TWO_LATTICES, precision="float32"),
    "tv": lambda: TV(max_iter=20),
    "rescaled": lambda: Rescaled(smooth, -1000.0, 2000.0),
    "equivariant": lambda: Equivariant(MLPatch(**TINY, precision="float32")),
    "per_channel": lambda: PerChannel(smooth),
    "blind": lambda: Blind({0.02: blur, 0.2: torch.sigmoid}),
    "sigma_map": lambda: SigmaMap(shrink_by_map),
}


def noisy(channels=1, dtype=torch.float32, *, name=""):
    """Images, or volumes for the denoiser of that name."""
    g = torch.Generator().manual_seed(0)
    depth = (5,) if "volumes" in name else ()
    return torch.rand(2, channels, *depth, 12, 17, generator=g, dtype=torch.float64).to(dtype)


def test_every_exported_denoiser_has_a_row():
    exported = {c for c in map(denoisers.__dict__.get, denoisers.__all__) if isinstance(c, type)}
    exported -= {denoisers.SuperResolver, SliceWise, ComplexParts}  # no D(x, sigma); of volumes; of complex images
    assert {type(make()) for make in TABLE.values()} == exported
    assert set(DENOISERS) <= set(TABLE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TABLE)
def test_shape_dtype_and_input_are_kept(name, dtype):
    x = noisy(name=name, dtype=dtype)
    before = x.clone()
    with torch.no_grad():
        z = TABLE[name]()(x, 0.1)
    assert z.shape == x.shape and z.dtype == dtype and z.isfinite().all()
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", TABLE)
def test_images_of_a_batch_do_not_mix(name):
    x, denoiser = noisy(name=name), TABLE[name]()
    with torch.no_grad():
        torch.testing.assert_close(denoiser(x, 0.1)[1:], denoiser(x[1:], 0.1))


@pytest.mark.parametrize("name", TABLE)
def test_the_same_call_gives_the_same_image(name):
    x, denoiser = noisy(name=name), TABLE[name]()
    with torch.no_grad():
        assert torch.equal(denoiser(x, 0.1), denoiser(x, 0.1))


@pytest.mark.parametrize("name", ["mlpatch", "mlpatch of volumes", "tv"])
def test_unit_free_denoisers_follow_the_scale(name):
    x, denoiser = noisy(name=name, dtype=torch.float64), TABLE[name]()
    with torch.no_grad():
        torch.testing.assert_close(denoiser(1e-6 * x, 1e-7), 1e-6 * denoiser(x, 0.1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", TABLE)
def test_bad_input_is_one_clear_sentence(name):
    denoiser = TABLE[name]()
    for x, sigma in [
        (noisy(name=name)[0, 0], 0.1),
        (noisy(name=name).int(), 0.1),
        (noisy(name=name), -0.1),
        (noisy(name=name), torch.ones(5)),
        (None, 0.1),
    ]:
        with pytest.raises((TypeError, ValueError)) as caught:
            denoiser(x, sigma)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", TABLE)
def test_pickle_and_repr(name):
    denoiser, x = TABLE[name](), noisy(name=name)
    with torch.no_grad():
        torch.testing.assert_close(pickle.loads(pickle.dumps(denoiser))(x, 0.1), denoiser(x, 0.1))
    assert repr(denoiser).startswith(type(denoiser).__name__ + "(")


def test_total_variation_removes_noise_and_keeps_an_edge():
    x = torch.zeros(1, 1, 32, 32)
    x[..., 16:] = 1
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    z = TV()(y, 0.1)
    assert float((z - x).square().mean()) < 0.2 * float((y - x).square().mean())
    assert torch.equal(TV()(y, 0.0), y)


EXACT_TV = {"max_iter": 20_000, "rtol": 1e-10}


@pytest.mark.parametrize("sigma", [0.02, 0.2, 2.0])
@pytest.mark.parametrize("shape", [(24, 31), (1, 20), (20, 1), (2, 2), (6, 7, 5), (1, 9, 4), (5, 1, 1)])
def test_total_variation_is_scikit_images(shape, sigma):
    x = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = denoise_tv_chambolle(x[0, 0].numpy(), 1.3 * sigma, eps=1e-12, max_num_iter=100_000)
    z = TV(1.3, **EXACT_TV)(x, sigma)
    np.testing.assert_allclose(z[0, 0].numpy(), expected, rtol=0, atol=1e-3 * sigma)
    theirs = energy(torch.from_numpy(expected)[None, None], x, 1.3 * sigma)
    assert float(energy(z, x, 1.3 * sigma)) <= (1 + 1e-9) * float(theirs)


def energy(z, x, weight):
    """1/2 ||z - x||^2 + weight TV(z), written out."""
    axes = tuple(range(1, z.ndim))
    slopes = [z.diff(dim=a, append=z.narrow(a, z.shape[a] - 1, 1)) for a in axes[1:]]
    return (z - x).square().sum(axes) / 2 + weight * sum(slope**2 for slope in slopes).sqrt().sum(axes)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_step_loses_lambda_over_its_width_on_either_side(axis):
    """The one-dimensional minimiser; where the two sides would cross, it is the mean."""
    x = torch.zeros(1, 1, 7, 24, dtype=torch.float64)
    x[..., 8:] = 1.0
    left, right = TV(1.0, **EXACT_TV)(x.transpose(3, axis), 0.4).transpose(3, axis).split([8, 16], 3)
    torch.testing.assert_close(left, torch.full_like(left, 0.4 / 8), rtol=0, atol=1e-5)
    torch.testing.assert_close(right, torch.full_like(right, 1 - 0.4 / 16), rtol=0, atol=1e-5)
    flat = TV(1.0, **EXACT_TV)(x, 6.0)  # 6/8 + 6/16 > 1
    torch.testing.assert_close(flat, torch.full_like(flat, 16 / 24), rtol=0, atol=1e-5)


def test_a_disc_loses_twice_lambda_over_its_radius():
    """Strong and Chan (2003), in the plane; here up to the pixels of its edge."""
    n, radius, weight = 96, 24.0, 1.0
    at = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    disc = (at[:, None].hypot(at) < radius).double()[None, None]
    z = TV(1.0, max_iter=3000, rtol=1e-7)(disc, weight)
    assert float(z[0, 0, n // 2, n // 2]) == pytest.approx(1 - 2 * weight / radius, abs=0.1 * 2 / radius)
    outside = n**2 - float(disc.sum())
    assert float(z[0, 0, 3, 3]) == pytest.approx(2 * np.pi * radius * weight / outside, rel=0.15)
    torch.testing.assert_close(z.mean(), disc.mean())


@pytest.mark.parametrize("rtol", [1e-2, 1e-4])
def test_total_variation_is_as_near_to_the_minimiser_as_it_says(rtol):
    x, sigma = noisy(dtype=torch.float64)[:1], 0.3
    exact, z = TV(**EXACT_TV)(x, sigma), TV(rtol=rtol, max_iter=1000)(x, sigma)
    assert 0 < float((z - exact).square().sum()) <= 2 * rtol * float(energy(z, x, 0.9 * sigma))


def test_total_variation_of_a_batch_is_that_of_its_images_and_channels():
    """They stop one by one: sigma of each image sets its number of iterations."""
    x, sigma = torch.cat([noisy(3, torch.float64)] * 2), torch.tensor([0.01, 1.0, 0.0, 0.1])
    z = TV()(x, sigma)
    for b, c in np.ndindex(4, 3):
        torch.testing.assert_close(z[b, c], TV()(x[b, c][None, None], float(sigma[b]))[0, 0], rtol=1e-12, atol=0)
    assert torch.equal(z[2], x[2])


def test_total_variation_of_any_shape_unit_and_dtype():
    for shape in [(1, 1), (1, 2), (1, 300), (300, 1), (2, 2), (1, 1, 1), (1, 2, 9)]:
        z = TV()(torch.ones(1, 2, *shape), 0.5)
        torch.testing.assert_close(z, torch.ones_like(z))
    x = noisy()
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(TV()(scale * x, scale * 0.1), scale * TV()(x, 0.1), rtol=1e-4, atol=0)
    assert torch.equal(TV()(x, 1e-30), x)
    for dtype in (torch.float16, torch.bfloat16):
        z = TV()(x.to(dtype), 0.1)
        assert z.dtype == dtype
        torch.testing.assert_close(z.float(), TV()(x.to(dtype).float(), 0.1), rtol=0.01, atol=0.01)
    x[0, 0, 3, 3] = torch.nan
    z = TV()(x, 0.1)
    assert z[0].isnan().any() and z[1].isfinite().all()
    assert not TV()(x.requires_grad_(), 0.1).requires_grad


@pytest.mark.gpu
def test_total_variation_on_a_gpu_is_that_on_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, sigma = noisy(3, torch.float64), torch.tensor([0.1, 0.3])
    z = TV()(x.cuda(), sigma.cuda())
    assert z.is_cuda
    torch.testing.assert_close(z.cpu(), TV()(x, sigma), rtol=1e-9, atol=1e-9)


def test_rescaled_shows_the_network_images_in_zero_to_one():
    seen = []
    Rescaled(lambda x, s: seen.append((x, s)) or x, -1000.0, 2000.0)(torch.full((1, 1, 2, 2), 500.0), 30.0)
    assert float(seen[0][0].mean()) == pytest.approx(0.5) and float(seen[0][1]) == pytest.approx(0.01)


def test_channels_are_denoised_one_by_one_with_their_images_sigma():
    def blur(x, sigma):
        assert x.shape[1] == 1
        return smooth(x, sigma) * sigma.reshape(-1, 1, 1, 1)

    x, sigma = noisy(3), torch.tensor([1.0, 2.0])
    torch.testing.assert_close(PerChannel(blur)(x, sigma), smooth(x, 0) * sigma.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("axes", [(2,), (0,), (0, 1, 2)])
def test_volumes_are_denoised_slice_by_slice_with_their_own_sigma(axes):
    def by_sigma(x, sigma):
        assert x.ndim == 4 and x.shape[1] == 3
        return smooth(x, 0) * sigma.reshape(-1, 1, 1, 1)

    x = torch.rand(2, 3, 5, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    along = [3 if axis == 2 else 4 for axis in axes]  # `smooth` blurs along the last axis of a slice: y or z
    expected = sum((x.roll(1, d) + 2 * x + x.roll(-1, d)) / 4 for d in along) / len(axes)
    sigma = torch.tensor([1.0, 2.0], dtype=torch.float64)
    D = SliceWise(by_sigma, axes)
    torch.testing.assert_close(D(x, sigma), expected * sigma.reshape(-1, 1, 1, 1, 1))
    assert torch.equal(pickle.loads(pickle.dumps(SliceWise(smooth, axes)))(x, 1.0), SliceWise(smooth, axes)(x, 1.0))
    assert SliceWise(TABLE["mlpatch"]()).sigma_range == TABLE["mlpatch"]().sigma_range


def test_a_slice_wise_denoiser_wants_volumes_and_axes():
    D = SliceWise(smooth)
    for x, error, match in [
        (noisy(), ValueError, ": x .*2, 1, 12, 17"),
        (noisy()[..., None].int(), TypeError, "floating point"),
        (None, TypeError, "torch.Tensor"),
    ]:
        with pytest.raises(error, match=match):
            D(x, 0.1)
    for axes in [(), (1, 1), (3,)]:
        with pytest.raises(ValueError, match="axes"):
            SliceWise(smooth, axes)


def test_adapters_move_the_network_inside():
    for adapter in (kind(TABLE["mlpatch"]()) for kind in (PerChannel, Equivariant, lambda D: Rescaled(D, 0, 2))):
        assert all(p.dtype == torch.float64 for p in adapter.double().parameters())
        assert adapter.sigma_range == (0.0, float("inf"))


def test_trained_weights_denoise_photographs_and_convergence():
    """Random weights would fail this; `benchmarks/denoising_quality.py` gives the figures on whole test sets."""
    import skimage.data

    from pnp.lensing import LognormalKappa, pixel_spectrum

    x = torch.tensor(skimage.data.camera()[100:228, 160:288] / 255.0, dtype=torch.float32)[None, None]
    gray = MLPatch.from_pretrained("gray")
    for sigma, least in ((5 / 255, 36.5), (25 / 255, 28.5), (50 / 255, 25.0)):
        y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            mse = float((gray(y, sigma).clamp(0, 1) - x).square().mean())
        assert mse < 10 ** (-least / 10), f"sigma {255 * sigma:.0f}/255: {-10 * np.log10(mse):.2f} dB"

    g = torch.Generator().manual_seed(0)
    kappa = LognormalKappa((128, 128), std=0.02)(4, generator=g)
    y = kappa + 0.1 * torch.randn(kappa.shape, generator=g)
    power = pixel_spectrum((128, 128))
    power *= 0.02**2 / power.mean()
    wiener = torch.fft.ifft2(torch.fft.fft2(y) * power / (power + 0.1**2)).real
    with torch.no_grad():
        z = MLPatch.from_pretrained("convergence")(y, 0.1)
    assert float((z - kappa).norm()) < 0.98 * float((wiener - kappa).norm())


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_the_average_over_rotations_and_reflections_is_equivariant(turns, flip):
    x = noisy(dtype=torch.float64)
    y = torch.rot90(x.flip(2) if flip else x, turns, (2, 3))
    torch.manual_seed(0)
    plain = MLPatch(**TINY)
    with torch.no_grad():
        plain.network.write.weight.mul_(5)
        D = Equivariant(plain)
        z = D(x, 0.1)
        torch.testing.assert_close(D(y, 0.1), torch.rot90(z.flip(2) if flip else z, turns, (2, 3)))
        assert float((plain(x, 0.1) - z).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        *(({"weight": v}, ValueError, "weight") for v in (0.0, -1, np.nan, np.inf, 10**400)),
        *(({"weight": v}, TypeError, "weight") for v in ("1", None, True, torch.tensor(1.0))),
        *(({"max_iter": v}, ValueError, "max_iter") for v in (0, -3)),
        *(({"max_iter": v}, TypeError, "max_iter") for v in (10.0, "10", True)),
        *(({"rtol": v}, ValueError, "rtol") for v in (0, -1e-3, np.nan, np.inf)),
        *(({"rtol": v}, TypeError, "rtol") for v in ("1e-3", None, False)),
    ],
)
def test_bad_arguments_of_tv_are_explained(arguments, kind, message):
    with pytest.raises(kind, match=f"TV: {message}") as caught:
        TV(**arguments)
    assert len(str(caught.value)) < 400


def test_tv_takes_numbers_of_numpy():
    assert repr(TV(np.float32(1), max_iter=np.int64(7), rtol=np.float64(0.5))) == "TV(1.0, max_iter=7, rtol=0.5)"


@pytest.mark.parametrize(
    ("takes", "got", "named"),
    [(1, 3, ("PerChannel", '"color"')), (1, 2, ("PerChannel",)), (3, 1, ('"gray"',)), (3, 2, ("PerChannel", '"gray"'))],
)
def test_a_wrong_number_of_channels_names_what_takes_it(takes, got, named):
    D = MLPatch(takes, **TINY, precision="float32")
    for call in (D, lambda x, sigma: D.at(x, torch.zeros(1, 2), sigma)):
        with pytest.raises(ValueError, match=": x must be") as caught:
            call(noisy(got), 0.1)
        assert all(word in str(caught.value) for word in named) and len(str(caught.value)) < 400
    if "PerChannel" in named and takes == 1:  # as it says
        assert PerChannel(D)(noisy(got), 0.1).shape == noisy(got).shape
