"""A denoiser that does not denoise is named as the cause; weak ones that do are not."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, rand, seeded, uniform
from skimage.restoration import denoise_nl_means, denoise_wavelet
from torch import Tensor
from torch.nn.functional import conv2d, pad

from denoisers import TV, MLPatch, Rescaled
from operators import Blur, Identity, Mask, Radon, gaussian_kernel
from pnp import Result, solve
from pnp.algorithms.iterations import State
from pnp.drivers.denoiser_verdict import Answer, answers, roughness
from pnp.drivers.result_warning import ResultWarning

N = 48
OPERATORS = {
    "identity": Identity((N, N)),
    "mask": Mask(uniform(N, N, seed=4) < 0.6),
    "blur": Blur(gaussian_kernel(1.0), (N, N)),
    "radon": Radon((N, N), torch.arange(40, dtype=F64) * (math.pi / 40), n_detectors=70),
}


def scene() -> Tensor:
    """A disc, stripes and waves, (1, 1, 48, 48) in [0.2, 0.9]."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, N), torch.linspace(0, 1, N), indexing="ij")
    x = 0.3 + 0.2 * rows + 0.1 * torch.sin(5 * columns) + 0.1 * torch.sin(60 * columns) * (rows > 0.7)
    return (x + 0.3 * ((rows - 0.4) ** 2 + (columns - 0.6) ** 2 < 0.06))[None, None]


def solved(name: str, D: Any, *, noise: float = 0.02, low: float = 0.0, unit: float = 1.0, **options: Any) -> Result:
    """Solve for low + unit * scene()."""
    A, x = OPERATORS[name], low + unit * scene()
    clean = A.A(x)
    std = noise * float(clean.max() - clean.min())
    y = clean + std * rand(*clean.shape, seed=1, dtype=clean.dtype)
    if name == "mask":
        y = A.A(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResultWarning)
        return solve(A, y, D, noise_std=std, **options)


def said(result: Result) -> list[str]:
    """What the verdict says of the denoiser, in sentences of fewer than 400 characters."""
    found = [warning for warning in result.warnings if warning.startswith("the denoiser")]
    assert all(len(warning) < 400 for warning in found)
    return found


# ---------------------------------------------------------------- denoisers


def gaussian(width: float) -> Any:
    """A Gaussian filter, whatever sigma is."""
    kernel = torch.exp(-(torch.arange(-4.0, 5.0) ** 2) / (2 * width**2))
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    return lambda x, sigma: conv2d(pad(x, (4, 4, 4, 4), "replicate"), kernel[None, None])


def median(x: Tensor, sigma: float) -> Tensor:
    return pad(x, (1, 1, 1, 1), "replicate").unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2).median(-1).values


def of_numpy(f: Any) -> Any:
    return lambda x, sigma: torch.from_numpy(np.ascontiguousarray(f(x[0, 0].double().numpy(), float(sigma)))).to(x)[
        None, None
    ]


GRAY = MLPatch.from_pretrained("gray")
NETWORK = {"MLPatch": GRAY, "half of its level": lambda x, sigma: GRAY(x, 0.5 * sigma)}
WEAK = {
    "TV": TV(),
    "half of TV": lambda x, sigma: TV()(x, 0.5 * sigma),
    "Gaussian": gaussian(0.6),
    "wide Gaussian": gaussian(1.5),
    "median": median,
    "wavelets": of_numpy(lambda x, sigma: denoise_wavelet(x, sigma=sigma, rescale_sigma=False)),
    "non-local means": of_numpy(lambda x, sigma: denoise_nl_means(x, sigma=sigma, h=0.8 * sigma)),
}


def drawing(scale: float) -> Any:
    g = seeded(3)
    return lambda x, sigma: x + scale * sigma * torch.randn(x.shape, generator=g)


FAULTS = {
    "returns its input": (lambda x, sigma: x.clone(), "does not denoise.*returns its input.*sigma_scale=255"),
    "wants sigma in 0-255": (lambda x, sigma: TV()(x, sigma / 255), "does not denoise.*sigma_scale=255"),
    "adds noise": (drawing(1.0), "does not denoise.*no part of the input"),
    "adds half of it": (drawing(0.5), "does not denoise.*no part of the input"),
    "returns the noise": (lambda x, sigma: x - TV()(x, sigma), "Rescaled"),
    "answers in 0-1 for 0-255": (lambda x, sigma: TV()(x, sigma) / 255, "Rescaled"),
    "clips far below the image": (lambda x, sigma: TV()(x, sigma).clamp(0, 0.02), "Rescaled"),
    "adds a constant": (lambda x, sigma: TV()(x, sigma) + 0.5, "mean of its input.*Rescaled"),
    "halves": (lambda x, sigma: 0.5 * TV()(x, sigma), "mean of its input.*Rescaled"),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("who", WEAK | NETWORK)
def test_weak_denoisers_are_not_blamed(name: str, who: str) -> None:
    D = (WEAK | NETWORK)[who]
    assert said(solved(name, D)) == []


@pytest.mark.parametrize("noise", [0.002, 0.1])
@pytest.mark.parametrize("who", WEAK)
def test_nor_at_other_levels_and_by_hqs(noise: float, who: str) -> None:
    assert said(solved("identity", WEAK[who], noise=noise, algorithm="hqs", bounds=(0.0, None))) == []
    assert said(solved("blur", WEAK[who], noise=noise, strength=0.1)) == []


def test_a_median_filter_changes_little_of_what_was_blurred() -> None:
    """Where v is monotone, it is its own median."""
    A, x = Blur(gaussian_kernel(3.0), (N, N), "reflect"), scene()
    y = A.A(x) + 0.01 * rand(1, 1, N, N, seed=1, dtype=x.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResultWarning)
        assert said(solve(A, y, median, noise_std=0.01)) == []


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_with_their_remedy(fault: str, name: str, algorithm: str) -> None:
    D, sentence = FAULTS[fault]
    result = solved(name, D, algorithm=algorithm)
    (found,) = said(result)
    assert re.search(sentence, found), found
    assert not any("noise_std" in warning or "misfit" in warning for warning in result.warnings)


@pytest.mark.parametrize("name", ["mask", "radon"])
def test_bounds_do_not_hide_that_an_input_is_returned(name: str) -> None:
    assert len(said(solved(name, lambda x, sigma: x.clone(), bounds=(0.0, None)))) == 1


@pytest.mark.parametrize("name", ["mask", "radon"])
def test_bounds_do_not_hide_an_answer_of_zeros(name: str) -> None:
    """A denoiser of 0 to 255 that rounds: nothing is left of an image in [0, 0.06], and all pixels are on the bound."""

    def network(x: Tensor, sigma: float) -> Tensor:
        return TV()(x, max(sigma, 5.0)).clamp(0, 255).round()

    result = solved(name, network, unit=0.06, bounds=(0.0, None))
    (found,) = said(result)
    assert "Rescaled" in found and result.warnings == (found,)
    assert said(solved(name, Rescaled(network, 0.0, 0.06, made_for=(0, 255)), unit=0.06, bounds=(0.0, None))) == []


@pytest.mark.parametrize("name", OPERATORS)
def test_an_image_that_is_empty_may_lie_on_its_bound(name: str) -> None:
    A = OPERATORS[name]
    y = 0.02 * rand(*A.A(scene()).shape, seed=5, dtype=F64)
    y = A.A(y) if name == "mask" else y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResultWarning)
        assert said(solve(A, y - 0.02, TV(), noise_std=0.02, bounds=(0.0, None))) == []


def test_a_network_for_pictures_fails_in_hounsfield_units_until_it_is_rescaled() -> None:
    """Images of [-1000, 1000] for a denoiser that answers in [0, 1]."""

    def network(x: Tensor, sigma: float) -> Tensor:
        return TV()(x, sigma).clamp(0, 1)

    unit = {"low": -1400.0, "unit": 2000.0}
    (found,) = said(solved("blur", network, **unit))
    assert "Rescaled" in found
    assert said(solved("blur", Rescaled(network, -1000.0, 400.0), **unit)) == []


def test_a_resumed_solve_says_the_same(tmp_path: Any) -> None:
    D, kept = FAULTS["adds a constant"][0], tmp_path / "kept"
    whole = solved("identity", D)

    def interrupt(state: State) -> None:
        if state.k == 4:
            raise KeyboardInterrupt

    solved("identity", D, checkpoint=kept, callback=interrupt)
    assert kept.exists()
    assert solved("identity", D, checkpoint=kept).warnings == whole.warnings


def test_answers_are_those_of_a_straight_line() -> None:
    """z = v/2 + 3, on the pixels within the bounds."""
    v = 10 + rand(1, 1, 32, 32, seed=5)
    z = 0.5 * v + 3
    (found,) = answers(State(1, v, z, v - z, v, 0.1, 1.0), "admm", (None, None))
    contrast = float(v.std(correction=0))
    assert found.n == v.numel() and found.slope == pytest.approx(0.5) and found.contrast == pytest.approx(10 * contrast)
    assert found.shift == pytest.approx(10 * float((v - z).mean()))
    assert found.change == pytest.approx(10 * float((v - z).square().mean().sqrt()))
    assert found.removed[0] == pytest.approx(2.0)  # v - z is v/2
    (inside,) = answers(State(1, v, z.clamp(min=8.0), v - z, v, 0.1, 1.0), "hqs", (8.0, None))
    assert inside.n == int((z > 8).sum()) and inside.slope == pytest.approx(0.5)
    (nothing,) = answers(State(1, v, z, v - z, v, 0.1, 1.0), "hqs", (None, -1.0))
    assert nothing.n == 0


def test_noise_that_is_added_is_no_part_of_the_input() -> None:
    v = rand(1, 1, 64, 64, seed=6)
    z = v + 0.5 * rand(1, 1, 64, 64, seed=7)
    (found,) = answers(State(1, v, z, v - z, v, 1.0, 1.0), "admm", (None, None))
    removed, error = found.removed
    assert abs(removed) < 4 * error and error == pytest.approx(2 / 64, rel=0.1)
    assert Answer(10, 0.0, 0.0, 1.0, 1.0).removed == (math.inf, 0.0)


def test_roughness_is_that_of_white_noise() -> None:
    assert roughness(rand(1, 200, 200, seed=8)) == pytest.approx(1.1503494 * 6**0.5, rel=0.02)
    assert math.isnan(roughness(torch.zeros(1, 2, 2)))
