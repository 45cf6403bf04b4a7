"""Noise levels that are wrong are noticed where y or x tells, and right ones are not doubted."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from arrays import seeded
from skimage import data
from torch import Tensor
from torch.nn.functional import avg_pool2d

from denoisers import MLPatch
from operators import Blur, Identity, Mask, gaussian_kernel, stack
from pnp import solve
from pnp.drivers.verdict import Evidence, about_noise

N = 64
SOUND = Evidence(1.0, 4096, 1.05, (0.0, 0.0), 50.0, 1.0, True, at_least=0.95, roughness=0.1)


@pytest.fixture(scope="module")
def denoiser() -> MLPatch:
    return MLPatch.from_pretrained("gray")


def camera() -> Tensor:
    return avg_pool2d(torch.from_numpy(data.camera()).float()[None, None, 128:384, 128:384] / 255, 256 // N)


def verdict(operator: Any, y: Any, denoiser: MLPatch, noise_std: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return " ".join(solve(operator, y, denoiser, noise_std=noise_std).warnings)


@pytest.mark.parametrize("operator", [Identity((N, N)), Mask(torch.rand(N, N, generator=seeded(1)) < 0.7)])
def test_noise_that_x_follows_is_seen_in_y(operator, denoiser):
    y = operator.A(camera() + 0.1 * torch.randn(1, 1, N, N, generator=seeded()))
    assert verdict(operator, y, denoiser, 0.1) == ""
    assert "noise_std is too low by about a factor" in verdict(operator, y, denoiser, 0.02)
    assert "noise_std is too high by about a factor" in verdict(operator, y, denoiser, 0.25)


def test_the_parts_of_a_stack_are_judged_by_their_own_noise(denoiser):
    parts = [Mask(torch.rand(N, N, generator=seeded(2)) < 0.6), Blur(gaussian_kernel(2.0), (N, N), "reflect")]
    y = [operator.A(camera()) for operator in parts]
    y = [part + 0.1 * torch.randn(part.shape, generator=seeded(i)) for i, part in enumerate(y)]
    y[0] = parts[0].A(y[0])
    assert verdict(stack(parts), y, denoiser, 0.1) == ""
    assert "too low" in verdict(stack(parts), y, denoiser, (0.1, 0.03))
    assert "too high" in verdict(stack(parts), y, denoiser, (0.1, 0.2))


def test_a_smooth_x_with_a_small_misfit_tells_that_random_measurements_have_less_noise(denoiser):
    matrix = torch.randn(N * N // 4, N * N, generator=seeded(3)) / N

    class Codes:
        def A(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ matrix.T

        def A_adjoint(self, y: Tensor) -> Tensor:
            return (y @ matrix).reshape(-1, 1, N, N)

    clean = Codes().A(camera())
    y = clean + 0.05 * torch.randn(clean.shape, generator=seeded(4))
    assert verdict(Codes(), y, denoiser, 0.05) == ""
    assert "noise_std is too high" in verdict(Codes(), y, denoiser, 0.15)


@pytest.mark.parametrize("operator", [Identity((N, N)), Mask(torch.rand(N, N, generator=seeded(1)) < 0.7)])
def test_salt_and_pepper_that_x_follows_is_said(operator, denoiser):
    y = operator.A(camera() + 0.02 * torch.randn(1, 1, N, N, generator=seeded()))
    bad = (torch.rand(y.shape, generator=seeded(5)) < 0.03) & (y != 0)
    salt = torch.where(bad, (torch.rand(y.shape, generator=seeded(6)) < 0.5).float(), y)
    assert "robust=True" in verdict(operator, salt, denoiser, 0.02)
    clipped = (y.clamp(0.1, 0.8) * 255).round() / 255  # values that many hold, in areas
    assert "robust=True" not in verdict(operator, operator.A(clipped), denoiser, 0.02)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"at_least": 1.7, "estimated": 2.1}, "too low by about a factor 2.1"),
        ({"at_least": 1.2, "estimated": 4.0}, ""),  # texture
        ({"estimated": 0.7, "misfit": 0.4, "roughness": 1.0}, "too high"),
        ({"estimated": 0.7}, ""),
        ({"misfit": 0.35, "estimated": math.nan}, "too high"),
        ({"misfit": 0.35, "estimated": 1.0}, ""),  # y shows the noise
        ({"misfit": 0.35, "roughness": 1.5, "estimated": math.nan}, ""),  # x follows it
        ({"misfit": 2.7, "estimated": 1.7, "flatness": 0.1}, ""),  # texture behind a narrow blur
        ({"misfit": 2.7, "estimated": 2.0, "flatness": 0.1}, "too low"),
    ],
)
def test_limits(changed, said):
    found = about_noise(Evidence(**{**vars(SOUND), **changed}))
    assert len(found) == bool(said) and all(said in sentence for sentence in found)
