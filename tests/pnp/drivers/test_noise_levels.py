"""Where `solve` takes the noise from: noise models, y where its neighbours say something, one level an image."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from arrays import rand, rel, uniform
from torch import Tensor
from toys import smooth

from operators import Blur, Downsample, Identity, LinearOperator, Mask, Radon, gaussian_kernel, stack
from pnp import LeastSquares, Poisson, solve, to_deepinv
from pnp.drivers.parts import join
from pnp.interop import as_operator, operator_from_functions

with warnings.catch_warnings():  # what deepinv warns of at import is not ours to fix
    warnings.simplefilter("ignore")
    import deepinv as dinv
    from deepinv.physics import GaussianNoise
    from deepinv.physics.functional.blur import gaussian_blur

# deepinv warns about its own defaults and deprecations.
pytestmark = pytest.mark.filterwarnings("ignore:::deepinv")

SHAPE = (48, 64)
P = dinv.physics


def scene(*brightness: float, channels: int = 1) -> Tensor:
    """Smooth images, (B, C, 48, 64) float32."""
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, n) for n in SHAPE), indexing="ij")
    x = 1 + torch.sin(3 * rows) * torch.cos(2 * columns)
    return torch.stack([b * x.expand(channels, *SHAPE) for b in brightness or (1.0,)])


def noisy(y: Tensor, std: Any, seed: int = 0) -> Tensor:
    return y + std * rand(*y.shape, seed=seed).to(y)


def noise_of(operator: Any, y: Any, **options: Any) -> Any:
    return solve(operator, y, smooth, max_iter=1, **options).noise_std


# deepinv's noise models


def sensing(noise: Any = None) -> Any:
    return P.CompressedSensing(m=200, img_size=(1, *SHAPE), noise_model=noise)


@pytest.mark.parametrize("sigma", [0.02, torch.tensor(0.02), torch.tensor([0.02])])
def test_the_level_of_deepinvs_noise_model_is_used(sigma):
    physics = sensing(GaussianNoise(sigma))
    found = solve(physics, physics(scene()), smooth, max_iter=2)
    assert found.noise_std == pytest.approx(0.02) and not found.noise_estimated
    given = solve(physics, physics.A(scene()), smooth, max_iter=2, noise_std=0.5)
    assert given.noise_std == pytest.approx(0.5)


def test_one_sigma_an_image_is_that_of_each_alone():
    physics, x = P.Denoising(GaussianNoise(torch.tensor([0.02, 0.3]))), scene(1, 5)
    y = physics(x)
    together = solve(physics, y, smooth, max_iter=3)
    assert together.noise_std.shape == (2, 1, 1, 1)
    assert together.noise_std.flatten().tolist() == pytest.approx([0.02, 0.3])
    again = solve(P.Denoising(), y, smooth, max_iter=3, noise_std=together.noise_std)
    assert torch.equal(again.x, together.x)
    with pytest.raises(ValueError, match="sigma"):
        solve(physics, torch.cat([y, y[:1]]), smooth)
    exact = noise_of(P.Denoising(GaussianNoise(torch.tensor([0.02, 0.0]))), x)
    rms = x[1].square().mean().sqrt()
    assert exact.flatten().tolist() == pytest.approx([0.02, 1e-4 * float(rms)], rel=1e-4)


def test_a_noise_model_that_adds_nothing_is_no_noise_level():
    for model in (None, P.ZeroNoise(), GaussianNoise(0.0)):
        physics = P.BlurFFT(img_size=(1, *SHAPE), filter=gaussian_blur(sigma=(1.0, 1.0)), noise_model=model)
        found = solve(physics, noisy(physics.A(scene()), 0.05), smooth, max_iter=1)
        assert found.noise_estimated and found.noise_std == pytest.approx(0.05, rel=0.1)
        with pytest.raises(ValueError, match="noise_std"):
            solve(sensing(model), sensing(model).A(scene()), smooth)


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        (P.PoissonNoise(0.01), r"Poisson\(gain"),
        (P.PoissonGaussianNoise(0.01, 0.1), r"Poisson\(gain=..., read_noise"),
        (P.UniformNoise(0.1), r"sqrt\(3\)"),
        (P.LaplaceNoise(0.1), r"sqrt\(2\)"),
        (P.SaltPepperNoise(0.1, 0.1), "noise_std"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_other_noise_models_say_what_to_pass(model, remedy):
    physics = P.Denoising(model)
    with pytest.raises(ValueError, match=f"noise_std .*{remedy}") as caught:
        solve(physics, scene(), smooth)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    assert noise_of(physics, scene(), noise_std=0.1) == pytest.approx(0.1)
    assert noise_of(physics, scene(), data_term=Poisson()) is None


def test_every_part_of_deepinvs_stack_has_its_own_noise_model():
    blur = P.Blur(filter=gaussian_blur(sigma=(1.0, 1.0)), padding="circular")
    physics = P.Denoising(GaussianNoise(0.02)).stack(blur)
    y = physics.A(scene())
    y[1] = noisy(y[1], 0.3)
    for parts in (y, list(y), tuple(y)):
        assert noise_of(physics, parts) == pytest.approx((0.02, 0.3), rel=0.1)


def test_a_checkpoint_remembers_the_level_of_the_noise_model(tmp_path):
    physics = P.Denoising(GaussianNoise(0.02))
    options: dict[str, Any] = {"checkpoint": tmp_path / "c", "callback": interrupt, "rtol": 0.0, "max_iter": 3}
    solve(physics, scene(), smooth, **options)
    with pytest.raises(ValueError, match="checkpoint"):
        solve(P.Denoising(GaussianNoise(0.03)), scene(), smooth, **options)


def interrupt(state: Any) -> None:
    raise KeyboardInterrupt


# Where the noise is estimated, and where it is not


KERNEL = gaussian_blur(sigma=(1.0, 1.0))
MASK = (uniform(1, *SHAPE, seed=1) > 0.4).float()
IMAGES = {
    "denoising": lambda: P.Denoising(GaussianNoise(0.0)),
    "inpainting": lambda: P.Inpainting(img_size=(1, *SHAPE), mask=MASK),
    "blur": lambda: P.Blur(filter=KERNEL, padding="reflect"),
    "blur fft": lambda: P.BlurFFT(img_size=(1, *SHAPE), filter=KERNEL),
    "downsampling": lambda: P.Downsampling(img_size=(1, *SHAPE), filter="gaussian", factor=2),
    "tomography": lambda: P.Tomography(angles=60, img_width=48, normalize=True),
    "masked blur": lambda: P.Inpainting(img_size=(1, *SHAPE), mask=MASK) * P.BlurFFT((1, *SHAPE), filter=KERNEL),
    "ours": lambda: to_deepinv(Blur(gaussian_kernel(1.0), SHAPE)),
    "our mask": lambda: to_deepinv(Mask(MASK)),
}
OTHERS = {
    "k-space": lambda: P.MRI(mask=torch.ones(SHAPE), img_size=(2, *SHAPE)),
    "structured": lambda: P.StructuredRandom(img_size=(1, *SHAPE), output_size=(1, *SHAPE)),
    "single pixel": lambda: P.SinglePixelCamera(m=200, img_size=(1, *SHAPE), fast=False),
    "masked k-space": lambda: P.Denoising(GaussianNoise(0.0)) * P.MRI(mask=torch.ones(SHAPE), img_size=(2, *SHAPE)),
    "functions of deepinv": lambda: P.LinearPhysics(A=lambda x: x, A_adjoint=lambda y: y),
    "functions": lambda: operator_from_functions(lambda x: x, lambda y: y),
    "two methods": lambda: SimpleNamespace(A=lambda x: x, A_adjoint=lambda y: y),
    "a matrix": lambda: as_operator(np.eye(math.prod(SHAPE), dtype=np.float32), image_shape=SHAPE),
    "a mask of a matrix": lambda: Identity(SHAPE) @ SimpleNamespace(A=lambda x: x, A_adjoint=lambda y: y),
    "our own kind": lambda: _Fourier(SHAPE),
}


class _Fourier(Identity):
    """Whatever it measures: a class that does not say."""

    y_is_sampled = False


@pytest.mark.parametrize("name", IMAGES)
def test_noise_is_estimated_in_images_and_sinograms(name):
    operator = IMAGES[name]()
    y = operator.A(scene()[..., :48] if name == "tomography" else scene())
    kept = y != 0 if "mask" in name or "inpainting" in name else torch.ones_like(y)
    y = noisy(y, 0.1) * kept
    found = solve(operator, y, smooth, max_iter=1)
    assert found.noise_estimated and found.noise_std == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("name", OTHERS)
def test_noise_is_asked_for_where_neighbours_say_nothing(name):
    operator = OTHERS[name]()
    y = operator.A(scene(channels=2 if "k-space" in name else 1))
    with pytest.raises(ValueError, match="noise_std must be given") as caught:
        solve(operator, y, smooth)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    assert noise_of(operator, y, noise_std=0.1) == pytest.approx(0.1)


def test_an_operator_may_say_that_it_measures_images_or_estimate_itself():
    told = SimpleNamespace(A=lambda x: x, A_adjoint=lambda y: y, y_is_sampled=True)
    assert noise_of(told, noisy(scene(), 0.1)) == pytest.approx(0.1, rel=0.1)
    own = SimpleNamespace(A=lambda x: x, A_adjoint=lambda y: y, estimate_noise=lambda y: 0.25)
    assert noise_of(own, scene()) == pytest.approx(0.25)


def test_what_is_painted_into_holes_is_no_noise():
    """Users of OpenCV and scikit-image give the corrupted image itself, not zeroed."""
    kept = uniform(*SHAPE, seed=2) > 0.2
    y = noisy(scene(), 0.05)
    zeroed = noise_of(Mask(kept), y * kept)
    assert zeroed == pytest.approx(0.05, rel=0.1)
    for hole in (1.0, noisy(scene(), 3.0, seed=3)):
        assert noise_of(Mask(kept), torch.where(kept, y, hole)) == zeroed
    blurred = Mask(kept) @ Blur(gaussian_kernel(1.0), SHAPE)
    assert noise_of(blurred, torch.where(kept, noisy(blurred.right.A(scene()), 0.05), 9.0)) == pytest.approx(
        0.05, rel=0.1
    )


@pytest.mark.parametrize(
    "make", [Mask, lambda m: P.Inpainting((1, *SHAPE), mask=m[None].float())], ids=["Mask", "Inpainting"]
)
@pytest.mark.parametrize("options", [{}, {"noise_std": 0.1}, {"data_term": Poisson()}], ids=str)
def test_an_inverted_mask_of_zeroed_measurements_is_refused(make, options):
    kept = uniform(*SHAPE, seed=2) > 0.2
    with pytest.raises(ValueError, match=r"y must not be 0 .*inverted"):
        solve(make(~kept), scene() * kept, smooth, **options)
    assert solve(make(kept), scene() * kept, smooth, max_iter=1, **options).n_iter == 1


def test_a_stack_passes_on_its_operators_concerns():
    holes = uniform(*SHAPE, seed=2) < 0.2
    y = (scene(), torch.where(holes, 1.0, noisy(scene(), 0.1)))
    joined, flat, *_ = join(stack([Identity(SHAPE), Mask(holes)]), y, 0.1, LeastSquares())
    (said,) = joined.concerns(flat)
    assert said.startswith("y[1]: ") and said.endswith(Mask(holes).concerns(y[1])[0])
    assert join(stack([Identity(SHAPE), Mask(~holes)]), y, 0.1, LeastSquares())[0].concerns(flat) == []


# One level an image, a part, or a measurement


OPERATORS: dict[str, LinearOperator] = {
    "identity": Identity(SHAPE),
    "mask": Mask(uniform(*SHAPE, seed=4) > 0.3),
    "blur": Blur(gaussian_kernel(1.0), SHAPE),
    "reflect": Blur(gaussian_kernel(1.0), SHAPE, "reflect"),
    "downsample": Downsample(SHAPE, 2, gaussian_kernel(1.0)),
    "radon": Radon(SHAPE, torch.linspace(0, 3, 40)),
    "stack": stack([Identity(SHAPE), 2 * Blur(gaussian_kernel(1.0), SHAPE)]),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_image_of_a_batch_has_the_noise_that_it_has_alone(name):
    operator, x, std = OPERATORS[name], scene(1, 10, 0.1), torch.tensor([0.05, 2.0, 0.003]).view(3, 1, 1, 1)
    y = operator.A(x)
    y = tuple(noisy(part, std) for part in y) if isinstance(y, tuple) else noisy(y, std)
    together = solve(operator, y, smooth, max_iter=1)
    assert together.noise_estimated
    for i in range(3):
        alone = noise_of(operator, tuple(p[i : i + 1] for p in y) if isinstance(y, tuple) else y[i : i + 1])
        levels = (
            [part[i].item() for part in together.noise_std] if isinstance(y, tuple) else together.noise_std[i].item()
        )
        assert levels == pytest.approx(list(alone) if isinstance(y, tuple) else alone, rel=1e-6)


def test_numpy_gets_numpys_levels_and_a_blank_image_those_of_the_others():
    y = noisy(scene(1, 0, 1), 0.05).numpy()
    y[1] = 0
    found = noise_of(Identity(SHAPE), y)
    assert isinstance(found, np.ndarray) and found.shape == (3, 1, 1, 1) and found.dtype == np.float32
    assert found[1] == pytest.approx((found[0] + found[2]) / 2)


def test_exact_images_are_raised_each_in_its_own_units():
    x = scene(1, 1000)
    rms = x.double().square().mean((1, 2, 3)).sqrt()
    found = noise_of(Identity(SHAPE), x, noise_std=1e-9)
    assert found.flatten().tolist() == pytest.approx((1e-4 * rms).tolist(), rel=1e-5)
    mixed = noise_of(Identity(SHAPE), x, noise_std=0.01)
    assert mixed.flatten().tolist() == pytest.approx([0.01, 1e-4 * float(rms[1])], rel=1e-5)
    assert noise_of(Identity(SHAPE), x, noise_std=1.0) == 1.0


@pytest.mark.parametrize(
    "given",
    [
        torch.tensor([0.1, 0.4]), np.array([0.1, 0.4]), [0.1, 0.4], (0.1, torch.tensor(0.4)),
        torch.tensor([0.1, 0.4]).view(2, 1, 1, 1),
    ],
    ids=["tensor", "array", "list", "tuple", "(B, 1, 1, 1)"],
)  # fmt: skip
def test_one_number_an_image(given):
    found = noise_of(Identity(SHAPE), scene(1, 2), noise_std=given)
    assert found.shape == (2, 1, 1, 1) and found.flatten().tolist() == pytest.approx([0.1, 0.4])


def test_a_number_an_image_or_a_column_must_not_be_ambiguous():
    y, std = scene(1, 2)[..., :2], torch.tensor([0.1, 0.4])
    operator = Identity((48, 2))
    with pytest.raises(ValueError, match=r"noise_std .*reshape\(-1, 1, 1, 1\).*noise_std\[None\]"):
        solve(operator, y, smooth, noise_std=std)
    assert noise_of(operator, y, noise_std=std[None]).shape == (1, 2)
    assert noise_of(operator, y[:1], noise_std=std).tolist() == pytest.approx([0.1, 0.4])  # one image, two columns
    assert noise_of(operator, y, noise_std=std.reshape(-1, 1, 1, 1)).shape == (2, 1, 1, 1)


@pytest.mark.parametrize("kind", [tuple, list, torch.tensor, np.array, dinv.utils.TensorList], ids=lambda k: k.__name__)
def test_one_number_a_part(kind):
    physics = P.Denoising().stack(P.Blur(filter=KERNEL, padding="circular"))
    std = kind([torch.tensor(0.02), torch.tensor(0.1)] if kind is dinv.utils.TensorList else [0.02, 0.1])
    for operator in (physics, OPERATORS["stack"]):
        y = list(operator.A(scene()))
        assert noise_of(operator, y, noise_std=std) == pytest.approx((0.02, 0.1))


def test_one_number_an_image_in_every_part():
    operator, y = OPERATORS["stack"], OPERATORS["stack"].A(scene(1, 2, 3))
    for used in noise_of(operator, y, noise_std=torch.tensor([0.1, 0.2, 0.3])):
        assert used.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    first, second = noise_of(operator, y, noise_std=[torch.tensor([0.1, 0.2, 0.3]), 0.5])
    assert first.shape == (3, 1, 1, 1) and second == 0.5
    two = tuple(part[:2] for part in y)
    with pytest.raises(ValueError, match=r"noise_std .*parts or the 2 images"):
        solve(operator, two, smooth, noise_std=torch.tensor([0.1, 0.2]))
    assert noise_of(operator, two, noise_std=[0.1, 0.2]) == pytest.approx((0.1, 0.2))


def test_images_of_a_batch_are_solved_with_their_own_levels():
    x = scene(1, 1)
    y = noisy(x, torch.tensor([0.5, 0.01]).view(2, 1, 1, 1))
    found = solve(Identity(SHAPE), y, smooth, noise_std=[0.5, 0.01], algorithm="hqs")
    assert rel(found.x[1:], x[1:]) < 0.02 < rel(y[:1], x[:1])
    alone = solve(Identity(SHAPE), y[:1], smooth, noise_std=0.5, algorithm="hqs")
    assert rel(found.x[:1], alone.x) < 1e-5 and rel(alone.x, x[:1]) < 0.6 * rel(y[:1], x[:1])
