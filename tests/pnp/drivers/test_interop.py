"""deepinv's physics and denoisers in solve() as they are, ours in deepinv's algorithms, and parity of the two."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from arrays import rand, rel
from toys import SHAPE, Diagonal, Linear, Matrix, smooth

from operators import Blur
from pnp import LeastSquares, Schedule, Stop, solve, to_deepinv
from pnp.drivers.arguments import as_operator
from pnp.drivers.denoising import as_denoiser
from pnp.interop import operator_from_functions, to_deepinv_prior

with warnings.catch_warnings():  # what deepinv warns of at import is not ours to fix
    warnings.simplefilter("ignore")
    import deepinv as dinv

# deepinv warns about its own defaults and deprecations.
pytestmark = pytest.mark.filterwarnings("ignore:::deepinv")

N = SHAPE[0] * SHAPE[1]


def inpainting() -> Any:
    return dinv.physics.Inpainting(img_size=(1, *SHAPE), mask=(rand(1, *SHAPE, seed=1) > 0).double())


def deblurring() -> Any:
    kernel = torch.tensor([[0.0, 1, 0], [2, 4, 1], [0, 1, 1]]).double()[None, None] / 10
    return dinv.physics.BlurFFT(img_size=(1, *SHAPE), filter=kernel)


def sensing() -> Any:
    M = rand(20, N, seed=2)
    return dinv.physics.LinearPhysics(
        A=lambda x: x.flatten(1) @ M.T,
        A_adjoint=lambda y: (y @ M).reshape(-1, 1, *SHAPE),
        solver="CG",
        max_iter=300,
        tol=1e-11,
    )


# Parity


@pytest.mark.parametrize("make", [inpainting, deblurring, sensing])
@pytest.mark.parametrize("bridge", ["their physics", "ours inside theirs"])
def test_our_admm_is_deepinvs(make: Callable[[], Any], bridge: str) -> None:
    physics, D = make(), Linear(N)
    y = physics.A(rand(2, 1, *SHAPE, seed=3))
    x0, sigma, strength, n_iter = physics.A_adjoint(y), 0.4, 0.7, 12
    theirs = physics if bridge == "their physics" else to_deepinv(_Renamed(physics))
    found = solve(
        physics, y, D, noise_std=1.0, schedule=[sigma], strength=strength, x0=x0, max_iter=n_iter, rtol=0,
        relaxation=1.0, data_term=LeastSquares(rtol=1e-10, max_iter=300),
    )  # fmt: skip
    algorithm = dinv.optim.ADMM(
        data_fidelity=dinv.optim.L2(),
        prior=to_deepinv_prior(D),
        stepsize=1 / found.history["alpha"][0],
        sigma_denoiser=sigma,
        max_iter=n_iter,
        custom_init=lambda y, physics: {"est": (x0, torch.zeros_like(x0))},  # zero dual
    )
    with torch.no_grad():
        expected = algorithm(y, theirs)
    assert rel(found.x, expected) < 1e-5
    assert rel(found.x, x0) > 1e-2


class _Renamed:
    """A foreign physics reduced to the two methods, as an operator of ours without a closed form."""

    def __init__(self, physics: Any):
        self.A, self.A_adjoint = physics.A, physics.A_adjoint


def test_our_hqs_is_deepinvs_dpir() -> None:
    physics, D, noise = deblurring(), Linear(N), 0.05
    y = physics.A(rand(1, 1, *SHAPE, seed=3))
    with torch.no_grad():
        expected = dinv.optim.DPIR(sigma=noise, denoiser=to_deepinv(D))(y, physics)
    found = solve(
        physics, y, D, noise_std=noise, algorithm="hqs", schedule=Schedule(49 / 255, noise, 8), max_iter=8, rtol=0,
        x0=physics.A_adjoint(y), data_term=LeastSquares(rtol=1e-10, max_iter=300),
    )  # fmt: skip
    assert rel(found.x, expected) < 1e-5  # their levels are float32


@pytest.mark.parametrize("per_image", [False, True])
def test_prox_l2_of_our_physics_is_the_dense_solution(per_image: bool) -> None:
    M = rand(20, N, seed=2)
    physics = to_deepinv(Matrix(M))
    y, z = rand(2, 1, 20, seed=3), rand(2, 1, *SHAPE, seed=4)
    gamma = torch.tensor([0.5, 2.0] if per_image else [0.5, 0.5], dtype=y.dtype)
    x = physics.prox_l2(z, y, gamma.view(2, 1, 1, 1) if per_image else 0.5)
    eye = torch.eye(N, dtype=y.dtype)
    for i in range(2):
        truth = torch.linalg.solve(gamma[i] * M.T @ M + eye, gamma[i] * M.T @ y[i, 0] + z[i].flatten())
        assert rel(x[i].flatten(), truth) < 1e-4


# Theirs in ours


def foreign() -> dict[str, Callable[[], Any]]:
    physics = dinv.physics
    return {
        "inpainting": inpainting,
        "deblurring": deblurring,
        "matrix": sensing,
        "blur_valid": lambda: physics.Blur(filter=torch.ones(1, 1, 3, 3).double() / 9, padding="valid"),
        "super_resolution": lambda: physics.Downsampling(img_size=(1, 8, 8), factor=2, filter="gaussian").double(),
        "tomography": lambda: physics.Tomography(angles=8, img_width=8, circle=False, normalize=True).double(),
        "stacked": lambda: inpainting().stack(deblurring()),
        "composed": lambda: inpainting() * deblurring(),
    }


@pytest.mark.parametrize("name", foreign())
def test_any_linear_physics_is_an_operator_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    physics = foreign()[name]()
    if name == "tomography":  # float32 inside
        physics = dinv.physics.Tomography(angles=8, img_width=8, circle=False, normalize=True)
    dtype = torch.float32 if name == "tomography" else torch.float64
    side = (8, 8) if name in ("super_resolution", "tomography", "blur_valid") else SHAPE
    y = physics.A(1 + rand(1, 1, *side, seed=3, dtype=dtype).abs())

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("prox_l2 of a foreign operator was called")

    monkeypatch.setattr(type(physics), "prox_l2", forbidden, raising=False)
    before = {k: v.clone() for k, v in physics.state_dict().items()}
    found = solve(physics, y, smooth, noise_std=0.05, strength=0.2, max_iter=24)
    assert found.x.shape == (1, 1, *side) and found.x.dtype == dtype
    assert found.stop in (Stop.CONVERGED, Stop.MAX_ITER)
    flat = torch.cat([part.flatten() for part in y]) if name == "stacked" else y.flatten()
    again = physics.A(found.x)
    flat_again = torch.cat([part.flatten() for part in again]) if name == "stacked" else again.flatten()
    assert rel(flat_again, flat) < 0.1
    assert all(torch.equal(v, before[k]) for k, v in physics.state_dict().items())


def test_any_denoiser_is_a_denoiser_as_it_is() -> None:
    y = 0.5 + 0.1 * rand(1, 1, 16, 16, seed=1)
    A = Diagonal(torch.ones(1, 1))
    torch.manual_seed(0)
    for model in (
        dinv.models.DnCNN(1, 1, depth=3, nf=4, pretrained=None).eval(),
        dinv.models.DRUNet(1, 1, nc=(2, 2, 2, 2), nb=1, pretrained=None).eval(),
        dinv.models.MedianFilter(),
        dinv.models.TVDenoiser(n_it_max=5),
    ):
        for dtype in (torch.float32, torch.float64):  # their float32 weights meet float64 images
            found = solve(A, y.to(dtype), model, noise_std=0.1, max_iter=3)
            assert found.x.dtype == dtype and found.x.shape == y.shape


class _WithShortcut:
    """A blur of ours as another library's operator, with an A_adjoint_A of its own."""

    def __init__(self, shortcut: Callable[[torch.Tensor], torch.Tensor]):
        blur = Blur(torch.full((3, 3), 1 / 9, dtype=torch.float64), (16, 16))
        self.A, self.A_adjoint, self.A_adjoint_A = blur.A, blur.A_adjoint, shortcut


def _fails(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("The size of tensor a (6) must match the size of tensor b (2)")


@pytest.mark.parametrize("shortcut", [lambda x: x / 4, lambda x: x[..., ::2], _fails], ids=["wrong", "shape", "fails"])
def test_a_wrong_shortcut_is_said_and_not_used(shortcut: Callable[[torch.Tensor], torch.Tensor]) -> None:
    A = _WithShortcut(shortcut)
    y = A.A(rand(1, 1, 16, 16, seed=1))
    with pytest.warns(UserWarning, match="A_adjoint_A"):
        found = solve(A, y, smooth, noise_std=0.1)
    plain = solve(operator_from_functions(A.A, A.A_adjoint), y, smooth, noise_std=0.1)
    assert torch.equal(found.x, plain.x)
    right = solve(_WithShortcut(lambda x: A.A_adjoint(A.A(x))), y, smooth, noise_std=0.1)
    assert torch.equal(right.x, plain.x)


# Ours in theirs


def test_denoisers_and_priors() -> None:
    D, x = Linear(N), rand(2, 1, *SHAPE, seed=1)
    model = to_deepinv(D)
    assert isinstance(model, dinv.models.Denoiser)
    assert torch.equal(model(x, 0.1), D(x, 0.1))
    assert rel(model(x, torch.tensor([0.1, 0.2])), D(x, 0.1)) < 1e-14  # image by image
    prior = to_deepinv_prior(D)
    assert isinstance(prior, dinv.optim.prior.PnP)
    assert torch.equal(prior.prox(x, 0.1), D(x, 0.1))


def test_physics_keeps_deepinvs_machinery_and_copies() -> None:
    noise = dinv.physics.GaussianNoise(0.1, rng=torch.Generator().manual_seed(0))
    physics, x = to_deepinv(Matrix(rand(60, N, seed=2)), noise_model=noise), rand(1, 1, *SHAPE, seed=1)
    assert isinstance(physics, dinv.physics.LinearPhysics)
    assert physics.adjointness_test(x) < 1e-10
    assert not torch.equal(physics(x), physics.A(x))
    assert rel(physics.A_dagger(physics.A(x), solver="lsqr", tol=1e-8, max_iter=300), x) < 1e-4
    plain = to_deepinv(Matrix(rand(60, N, seed=2)))
    assert torch.equal(plain(x), plain.A(x))
    assert torch.equal(copy.deepcopy(plain).A(x), plain.A(x))


def test_what_does_not_fit_is_refused() -> None:
    nonlinear = dinv.physics.Haze()
    with pytest.raises(TypeError, match="Haze"):
        as_operator(nonlinear)
    with pytest.raises(TypeError, match="denoiser"):
        as_denoiser(None)
    with pytest.raises(TypeError, match="noise_model"):
        to_deepinv(smooth, noise_model=dinv.physics.ZeroNoise())


def test_importing_pnp_does_not_import_deepinv() -> None:
    code = "import sys, pnp; sys.exit('deepinv' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
