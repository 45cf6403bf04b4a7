"""Denoisers as people have them in solve(): their dtype, their convention for sigma, what they do to their input."""

from __future__ import annotations

import functools
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from arrays import rand, rel
from torch import Tensor, nn
from toys import Diagonal, Matrix, smooth

from denoisers import TV, Blind, ComplexParts, MLPatch, PerChannel, Rescaled, SigmaMap
from pnp import solve, to_deepinv
from pnp.drivers.denoising import DEEPINV_SIGMA_PER_IMAGE, as_denoiser, guard_denoiser

with warnings.catch_warnings():  # what deepinv warns of at import is not ours to fix
    warnings.simplefilter("ignore")
    import deepinv as dinv

# deepinv warns about its own defaults and deprecations.
pytestmark = pytest.mark.filterwarnings("ignore:::deepinv")

ONE = Diagonal(torch.ones(1, 1))
Y = 1 + rand(2, 1, 6, 7).abs()


class Network(nn.Module):
    """x - 0.1 conv(x), which remembers the dtypes of its calls."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.seen = nn.Conv2d(1, 1, 3, padding=1, dtype=dtype), set()

    def forward(self, x: Tensor, sigma: Any) -> Tensor:
        self.seen.add(x.dtype)
        return x - 0.1 * self.conv(x)


class Reconstruction(Network):
    """A network from measurements to images, called as deepinv's are."""

    def forward(self, y: Tensor, physics: Any = None, sigma: Any = None) -> Tensor:
        assert physics is None
        return y / (1 + sigma) + 0 * self.conv(y)


def tiny() -> MLPatch:
    torch.manual_seed(0)
    return MLPatch(taps=3, features=8, hidden=8, dilations=(1,), precision="float32").requires_grad_(False)


# The dtype


@pytest.mark.parametrize("own", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_network_is_called_in_its_own_dtype(own: torch.dtype, dtype: torch.dtype) -> None:
    network = Network(own)
    found = solve(ONE, Y.to(dtype).numpy(), network, noise_std=0.1, max_iter=2)
    assert network.seen == {own} and found.x.dtype == Y.to(dtype).numpy().dtype
    again = solve(ONE, Y.to(dtype), lambda x, s: network(x.to(own), s).to(dtype), noise_std=0.1, max_iter=2)
    assert torch.equal(torch.from_numpy(found.x), again.x)


def test_the_dtype_is_that_of_the_moment() -> None:
    network = Network()
    D = as_denoiser(network)
    network.double()
    assert D(Y, 0.1).dtype == torch.float64 and network.seen == {torch.float64}


def test_our_denoisers_compute_in_the_dtype_of_the_image() -> None:
    for D in (tiny(), TV(), Rescaled(tiny(), 0, 2), PerChannel(tiny())):
        assert as_denoiser(D) is D
    for foreign in (Network(), smooth):
        assert as_denoiser(as_denoiser(foreign)) is not None
        bound = as_denoiser(foreign)
        assert as_denoiser(bound) is bound
    assert rel(tiny()(Y, 0.1), tiny()(Y.float(), 0.1).double()) > 0  # float64 is more than float32 cast


def test_an_adapted_network_is_called_in_its_own_dtype() -> None:
    for wrap in (lambda n: Rescaled(n, 0, 2), PerChannel, lambda n: Blind(n.conv), lambda n: Blind({0.1: n.conv})):
        for own in (torch.bfloat16, torch.float32):
            assert as_denoiser(wrap(Network(own)))(Y, 0.1).dtype == torch.float64
    map_network = SigmaMap(nn.Conv2d(2, 1, 3, padding=1))
    assert solve(ONE, Y, map_network, noise_std=0.1, max_iter=2).x.dtype == torch.float64


def test_images_beyond_the_range_of_float16_are_refused() -> None:
    with pytest.raises(ValueError, match=r"denoiser .*float16"):
        solve(ONE, 1e6 * Y, Network(torch.float16), noise_std=1e5, max_iter=2)


def test_a_function_around_a_network_of_another_dtype_is_explained() -> None:
    network = Network()
    with pytest.raises(TypeError, match=r"denoiser .*float64") as caught:
        solve(ONE, Y.numpy(), lambda x, s: network(x, s), noise_std=0.1)
    assert len(str(caught.value)) < 400


# Finite answers


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize("bounds", [(None, None), (0.0, 1.0)], ids=str)
@pytest.mark.parametrize("bad", [(math.nan,), (math.inf,), (-math.inf,), (math.inf, -math.inf)], ids=str)
def test_one_value_that_is_not_finite_is_told_before_and_after_the_denoiser(bad: Any, bounds: Any, dtype: Any) -> None:
    if dtype.is_complex and bounds != (None, None):
        bounds = (None, None)
    x = torch.ones(2, 1, 6, 7, dtype=dtype)
    spoiled = x.clone()
    spoiled.view(-1)[40 : 40 + len(bad)] = torch.tensor(bad).to(dtype)
    called = []
    with pytest.raises(ValueError, match="x-update"):
        guard_denoiser(lambda x, s: called.append(s), *bounds)(spoiled, 0.1)
    assert not called
    with pytest.raises(ValueError, match="denoiser returned"):
        guard_denoiser(lambda x, s: spoiled, *bounds)(x, 0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_values_whose_sum_leaves_the_range_of_their_dtype_are_finite(dtype: Any) -> None:
    x = torch.full((1, 1, 6, 7), torch.finfo(dtype).max, dtype=dtype)
    z = guard_denoiser(lambda x, s: x, None, None)(x, 0.1)
    assert torch.equal(z, x) and z.dtype == dtype and z.data_ptr() != x.data_ptr()


# Complex images


@pytest.mark.parametrize("mode", ["real_imag", "abs_angle"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_deepinvs_complex_wrapper_gets_complex_images(mode: str, dtype: torch.dtype) -> None:
    W = dinv.models.ComplexDenoiserWrapper(to_deepinv(Network()), mode=mode)
    M, y = rand(60, 42, seed=2), rand(1, 1, 60, seed=3, dtype=torch.complex128).to(dtype)
    x = rand(1, 1, 6, 7, seed=1, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(as_denoiser(W)(x, 0.1), W(x.to(torch.complex64), 0.1).to(dtype))
    found = solve(Matrix(M), y, W, noise_std=0.1, max_iter=4)
    again = solve(Matrix(M), y, lambda x, s: W(x.to(torch.complex64), s).to(dtype), noise_std=0.1, max_iter=4)
    assert torch.equal(found.x, again.x) and float(found.x.imag.abs().max()) > 0.1


def test_a_complex_network_is_called_in_its_complex_dtype() -> None:
    network = Network(torch.complex64)
    assert as_denoiser(network)(rand(1, 1, 6, 7, dtype=torch.complex128), 0.1).dtype == torch.complex128
    assert network.seen == {torch.complex64}


@pytest.mark.parametrize(
    "denoiser",
    [
        Network(),
        lambda x, s: x.real,
        lambda x, s: torch.maximum(x, 0 * x),
        TV(),
        tiny(),
        Rescaled(Network(), 0, 2),
        dinv.models.DnCNN(1, 1, depth=2, nf=4, pretrained=None),
    ],
    ids=["network", "real part", "order", "TV", "MLPatch", "adapter", "deepinv"],
)
def test_a_denoiser_of_real_images_is_refused_on_complex_ones(denoiser: Any) -> None:
    y = rand(1, 1, 6, 7, dtype=torch.complex128)
    with pytest.raises(TypeError, match="ComplexParts") as caught:
        solve(ONE, y, denoiser, noise_std=0.1)
    assert len(str(caught.value)) < 400


def test_complex_parts_of_a_network_in_solve() -> None:
    """The last level is the noise of y, E|n|^2 = noise_std^2; the network sees its share."""
    y, levels = rand(1, 1, 6, 7, dtype=torch.complex128), []

    class Recorded(Network):
        def forward(self, x: Tensor, sigma: Any) -> Tensor:
            levels.append(float(sigma))
            return super().forward(x, sigma)

    network = Recorded()
    found = solve(ONE, y, ComplexParts(network), noise_std=0.1)
    assert found.x.dtype == torch.complex128 and network.seen == {torch.float32}
    assert levels[-1] == pytest.approx(0.1 / 2**0.5) and found.history["sigma"][-1] == pytest.approx(0.1)


@pytest.mark.parametrize("own", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_has_no_complex_dtype(own: torch.dtype) -> None:
    for D in (ComplexParts(Network(own)), dinv.models.ComplexDenoiserWrapper(to_deepinv(Network(own)))):
        with pytest.raises(TypeError, match="denoiser must have float32 or float64 weights"):
            solve(ONE, rand(1, 1, 6, 7, dtype=torch.complex128), D, noise_std=0.1)


# Noise levels


def test_images_of_equal_level_are_denoised_in_one_call_with_a_number() -> None:
    calls: list[tuple[float, int]] = []

    def shrink(x: Tensor, sigma: float) -> Tensor:
        assert isinstance(sigma, float)
        calls.append((sigma, len(x)))
        return x / (1 + sigma)

    x, sigma = rand(5, 1, 4, 4), torch.tensor([0.5, 0.25, 0.5, 1.0, 0.25])
    for given in (sigma, sigma.double().view(5, 1, 1, 1)):
        calls.clear()
        z = as_denoiser(shrink)(x, given)
        assert torch.equal(z, x / (1 + sigma.double().view(5, 1, 1, 1)))
        assert calls == [(0.25, 2), (0.5, 2), (1.0, 1)]
    calls.clear()
    assert torch.equal(as_denoiser(shrink)(x, torch.full((5,), 0.5)), x / 1.5) and calls == [(0.5, 5)]


def test_a_denoiser_that_takes_a_level_an_image_gets_one_call() -> None:
    class Shrink(nn.Module):
        takes_sigma_per_image = True

        def __init__(self) -> None:
            super().__init__()
            self.calls, self.gain = 0, nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, sigma: Any) -> Tensor:
            self.calls += 1
            return self.gain * x / (1 + (sigma.view(-1, 1, 1, 1) if isinstance(sigma, Tensor) else sigma))

    network, x, sigma = Shrink(), rand(2, 1, 4, 4), torch.tensor([0.5, 0.25], dtype=torch.float64)
    z = as_denoiser(network)(x, sigma)
    assert network.calls == 1 and rel(z, x / (1 + sigma.view(2, 1, 1, 1))) < 1e-6
    for D in (TV(), tiny(), Rescaled(tiny(), 0, 2), Blind(torch.tanh), SigmaMap(lambda x: x[:, :1])):
        one_by_one = torch.cat([D(x[i : i + 1], float(sigma[i])) for i in range(2)])
        torch.testing.assert_close(guard_denoiser(as_denoiser(D), None, None)(x, sigma), one_by_one)


def test_a_gradient_passes_through_levels() -> None:
    for D in (lambda x, s: x * s, Rescaled(lambda x, s: x * s.view(-1, 1, 1, 1), 0, 1)):
        sigma = torch.tensor([0.5, 0.5], dtype=torch.float64, requires_grad=True)
        as_denoiser(D)(torch.ones(2, 1, 2, 2, dtype=torch.float64), sigma).sum().backward()
        assert sigma.grad is not None and float(sigma.grad.sum()) == pytest.approx(8)


@functools.cache
def ram() -> Any:
    """deepinv's largest model, untrained."""
    torch.manual_seed(0)
    return dinv.models.RAM(in_channels=(1,), pretrained=False).eval()


DEEPINV = {
    "BilateralFilter": dinv.models.BilateralFilter,
    "DRUNet": lambda: dinv.models.DRUNet(1, 1, nc=(2, 2, 2, 2), nb=1, pretrained=None),
    "DnCNN": lambda: dinv.models.DnCNN(1, 1, depth=2, nf=4, pretrained=None),
    "EPLLDenoiser": lambda: dinv.models.EPLLDenoiser(channels=1, pretrained=None),
    "FFDNet": lambda: dinv.models.FFDNet(1, 1, pretrained=None),
    "GSPnP": lambda: dinv.models.GSDRUNet(in_channels=1, out_channels=1, nb=1, nc=(2, 2, 2, 2), pretrained=None),
    "MedianFilter": dinv.models.MedianFilter,
    "RAM": ram,
    "Restormer": lambda: dinv.models.Restormer(
        in_channels=1, out_channels=1, dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, pretrained=None
    ),
    "UNet": lambda: dinv.models.UNet(1, 1),
    "EquivariantDenoiser": lambda: dinv.models.EquivariantDenoiser(dinv.models.MedianFilter(), random=False),
}


@pytest.mark.parametrize("name", DEEPINV)
def test_deepinvs_denoisers_denoise_each_image_at_its_own_level(name: str) -> None:
    x, sigma = 0.5 + 0.1 * rand(2, 1, 16, 16, dtype=torch.float32), torch.tensor([0.05, 0.3])
    torch.manual_seed(0)
    model = DEEPINV[name]().eval()
    D, calls = as_denoiser(model), []
    assert type(model).__name__ == name
    with torch.no_grad():
        alone = torch.cat([D(x[i : i + 1], float(sigma[i])) for i in range(2)])
        hook = model.register_forward_pre_hook(lambda *_: calls.append(None))
        torch.testing.assert_close(D(x, sigma), alone, rtol=1e-4, atol=1e-5)
        hook.remove()
    assert len(calls) == (1 if name in DEEPINV_SIGMA_PER_IMAGE else 2)


def test_the_list_of_deepinvs_denoisers_is_tested() -> None:
    assert set(DEEPINV) - {"EquivariantDenoiser"} == DEEPINV_SIGMA_PER_IMAGE


def test_deepinvs_tv_is_called_once_a_level() -> None:
    """It takes sigma (B,) and answers with another image."""
    x, sigma = 0.5 + 0.1 * rand(2, 1, 8, 8), torch.tensor([0.05, 0.3])
    alone = [as_denoiser(dinv.models.TVDenoiser(n_it_max=200))(x[i : i + 1], float(sigma[i])) for i in range(2)]
    torch.testing.assert_close(
        as_denoiser(dinv.models.TVDenoiser(n_it_max=200))(x, sigma), torch.cat(alone), rtol=0, atol=1e-2
    )


# The call


def test_sigma_goes_by_its_name_where_it_is_not_the_second_argument() -> None:
    x = Y.float()
    with torch.no_grad():
        assert torch.equal(as_denoiser(ram())(x, 0.1), ram()(x, sigma=0.1))
    assert solve(ONE, Y, Reconstruction(), noise_std=0.1, max_iter=2).x.shape == Y.shape

    def by_name(x: Tensor, *, sigma: float) -> Tensor:
        return x / (1 + sigma)

    def third(x: Tensor, strength: float = 1.0, sigma: float = 0.0) -> Tensor:
        return x / (1 + strength * sigma)

    for D in (by_name, third, Reconstruction(), functools.partial(by_name)):
        torch.testing.assert_close(as_denoiser(D)(x, 0.25), x / 1.25)
    for D in (lambda x, s, extra=2: x / (1 + s), lambda *a: a[0] / (1 + a[1]), lambda x, sigma, **_: x / (1 + sigma)):
        torch.testing.assert_close(as_denoiser(D)(x, 0.25), x / 1.25)
    assert torch.equal(pickle.loads(pickle.dumps(as_denoiser(Reconstruction())))(x, 0.25), x / 1.25)


@pytest.mark.parametrize(
    ("denoiser", "match"),
    [
        (nn.Conv2d(1, 1, 1), "denoiser .*Blind"),
        (nn.Sequential(nn.ReLU()), "denoiser .*Blind"),
        (lambda x: x, "denoiser .*Blind"),
        (lambda x, sigma, stride: x, "denoiser .*function of x and sigma"),
        (dinv.models.ArtifactRemoval(dinv.models.MedianFilter()), "denoiser .*physics"),
    ],
    ids=["convolution", "sequence", "function", "three arguments", "reconstruction"],
)
def test_what_takes_no_sigma_is_refused_with_its_arguments(denoiser: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match) as caught:
        solve(ONE, Y, denoiser, noise_std=0.1)
    assert len(str(caught.value)) < 400


def test_built_in_and_scripted_denoisers_are_called_with_x_and_sigma() -> None:
    assert torch.equal(as_denoiser(torch.nn.functional.softshrink)(Y, 0.1), torch.nn.functional.softshrink(Y, 0.1))


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
def test_a_denoiser_may_overwrite_its_input_and_its_last_answer(algorithm: str) -> None:
    buffer = torch.empty_like(Y)

    def in_place(x: Tensor, sigma: float) -> Tensor:
        z = smooth(x, sigma)
        x.zero_()
        return buffer[: len(x)].copy_(z)

    settings: dict[str, Any] = {"noise_std": 0.1, "algorithm": algorithm, "max_iter": 6}
    found, pure = (solve(Diagonal(torch.ones(6, 7)), Y, D, **settings) for D in (in_place, smooth))
    assert torch.equal(found.x, pure.x) and found.history == pure.history


def test_a_level_an_image_in_a_message() -> None:
    with pytest.raises(ValueError, match=r"denoiser .*sigma = 0.1 to 0.2"):
        guard_denoiser(as_denoiser(lambda x, s: x / 0), None, None)(Y, torch.tensor([0.1, 0.2]))


# The operator's dtype


def test_an_operator_in_another_precision_than_y_is_explained() -> None:
    """The filter of deepinv's Blur is float32, data of numpy are float64; either remedy works."""
    physics = dinv.physics.Blur(filter=torch.ones(1, 1, 3, 3) / 9, padding="valid")
    y = physics.A(1 + rand(1, 1, 16, 16, dtype=torch.float32).abs()).double().numpy()
    with pytest.raises(TypeError, match=r"y is torch\.float64") as caught:
        solve(physics, y, smooth, noise_std=0.1)
    assert len(str(caught.value)) < 400
    assert solve(physics, y.astype(np.float32), smooth, noise_std=0.1, max_iter=2).x.dtype == np.float32
    assert solve(physics.to(torch.float64), y, smooth, noise_std=0.1, max_iter=2).x.dtype == np.float64
