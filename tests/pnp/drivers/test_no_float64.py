"""solve() on devices without float64, as Apple's GPUs are: emulated by refusing every float64 tensor on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from arrays import F64, rand, rel, seeded
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from denoisers import TV, MLPatch
from operators import Blur, Downsample, Identity, LinearOperator, Mask, gaussian_kernel, stack
from pnp import Poisson, solve
from pnp.drivers.noise_weights import norm, scaled_norm

SHAPE = (16, 16)


class NoFloat64(TorchDispatchMode):
    """Refuse operations that return float64, as torch does for the device "mps".

    Args:
        allowed: so many numbers are allowed: they are on the CPU, one for each image.
    """

    def __init__(self, allowed: int = 0) -> None:
        super().__init__()
        self.allowed = allowed

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            is_double = isinstance(value, torch.Tensor) and value.dtype in (torch.float64, torch.complex128)
            if is_double and value.numel() > self.allowed:
                raise TypeError(f"no float64 here: {function}")
        return out


def blur(boundary: str, skewed: bool = False) -> Blur:
    """A kernel with a closed form, or one of even size that conjugate gradients serve."""
    kernel = torch.rand(4, 3, generator=seeded()) / 6 if skewed else gaussian_kernel(1.0)
    return Blur(kernel, SHAPE, boundary)


OPERATORS: dict[str, Callable[[], LinearOperator]] = {
    "mask": lambda: Mask(torch.rand(SHAPE, generator=seeded()) > 0.3),
    "identity": lambda: Identity(SHAPE),
    "blur-circular": lambda: blur("circular"),
    "blur-reflect": lambda: blur("reflect"),
    "blur-reflect-skewed": lambda: blur("reflect", skewed=True),
    "blur-valid": lambda: blur("valid"),
    "downsample": lambda: Downsample(SHAPE, 2),
    "downsample-kernel": lambda: Downsample(SHAPE, 2, gaussian_kernel(1.0)),
    "downsample-reflect": lambda: Downsample(SHAPE, 2, gaussian_kernel(1.0), "reflect"),
    "combined": lambda: 0.5 * (Mask(torch.rand(SHAPE, generator=seeded()) > 0.3) @ blur("circular")),
}


def test_the_emulation_refuses_float64() -> None:
    with NoFloat64(), pytest.raises(TypeError, match="no float64"):
        torch.ones(2).double()


@pytest.mark.parametrize("algorithm", ["admm", "hqs"])
@pytest.mark.parametrize("name", OPERATORS)
def test_solve_makes_no_float64(name: str, algorithm: str) -> None:
    """Noise given, given for each measurement, and estimated."""
    x = torch.rand(1, 1, *SHAPE, generator=seeded())
    with NoFloat64():
        A = OPERATORS[name]()
        y = A.A(x)
        for noise_std in (0.1, 0.05 + torch.rand(y.shape, generator=seeded(1)), None):
            found = solve(A, y, TV(), noise_std=noise_std, algorithm=algorithm, max_iter=2)
            assert found.x.dtype == torch.float32


@pytest.mark.parametrize("name", ["mask", "blur-reflect-skewed", "downsample"])
def test_the_network_makes_no_float64(name: str) -> None:
    D, A = MLPatch.from_pretrained("gray"), OPERATORS[name]()
    y = A.A(torch.rand(1, 1, *SHAPE, generator=seeded()))
    with NoFloat64():
        solve(A, y, D, noise_std=0.1, bounds=(0, 1), max_iter=2)


def test_stacks_and_counts_make_no_float64() -> None:
    A = stack([OPERATORS["mask"](), Downsample(SHAPE, 2)])
    x = torch.rand(1, 1, *SHAPE, generator=seeded())
    with NoFloat64():
        solve(A, A.A(x), TV(), noise_std=(0.1, 0.2), max_iter=2)
        solve(blur("circular"), (20 * x).round(), TV(), data_term=Poisson(), max_iter=2)


@pytest.mark.parametrize("name", ["mask", "blur-reflect-skewed", "downsample"])
def test_batches_of_unequal_images_make_no_float64(name: str) -> None:
    A = OPERATORS[name]()
    y = A.A(torch.rand(2, 1, *SHAPE, generator=seeded()) * torch.tensor([1.0, 100.0]).reshape(2, 1, 1, 1))
    with NoFloat64(allowed=2):
        found = solve(A, y, TV(), noise_std=torch.tensor([0.1, 5.0]).reshape(2, 1, 1, 1), max_iter=2)
        solve(A, y, TV(), noise_std=0.1, algorithm="hqs", max_iter=2)
    assert found.x.dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norms_of_faint_and_bright_images(scale: float) -> None:
    x = (scale * rand(1, 1, 300, 300)).float()
    truth = float(x.double().norm())
    assert norm(x) == pytest.approx(truth, rel=1e-12)
    with NoFloat64():
        assert scaled_norm(x.abs()) == pytest.approx(truth, rel=1e-6)
        assert norm(x) == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, torch.inf, torch.nan])
def test_norms_of_what_has_none(value: float) -> None:
    x = torch.tensor([0.0, value])
    assert str(scaled_norm(x)) == str(norm(x)) == str(value)


def test_gaussian_kernel_in_either_precision() -> None:
    with NoFloat64():
        single = gaussian_kernel(2.3)
    assert rel(single.double(), gaussian_kernel(2.3, dtype=F64)) < 1e-7
