"""`Result.warnings`: what is wrong with a problem is said with its cause, and of sound problems nothing is said."""

from __future__ import annotations

import math
import re
import warnings
from types import SimpleNamespace
from typing import Any

import deepinv_rows
import numpy as np
import pytest
import torch
from arrays import F64, rand, seeded, uniform
from torch import Tensor
from toys import smooth

from denoisers import TV, MLPatch
from operators import Blur, Downsample, FanBeam, Identity, KaiserSquires, Mask, Radon, gaussian_kernel
from pnp import LeastSquares, Poisson, Result, Stop, solve
from pnp.drivers.result_warning import ResultWarning
from pnp.drivers.verdict import Evidence, about_noise
from pnp.phantoms import head

# What deepinv warns of is not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore:::deepinv")

N = 64
CAMERA = deepinv_rows.gray(N)
KERNEL = gaussian_kernel(1.5)
ANGLES = torch.arange(60, dtype=F64) * (math.pi / 60)
TURNS = torch.arange(72, dtype=F64) * (math.pi / 36)
MASK = Mask(uniform(N, N, seed=4) < 0.6)
OPERATORS = {
    "mask": MASK,
    "identity": Identity((N, N)),
    "blur": Blur(KERNEL, (N, N)),
    "blur-valid": Blur(KERNEL, (N, N), "valid"),
    "blur-reflect": Blur(KERNEL, (N, N), "reflect"),
    "downsample": Downsample((N, N), 2),
    "radon": Radon((N, N), ANGLES, n_detectors=92),
    "fan-beam": FanBeam((N, N), TURNS, source_origin=200.0, origin_detector=100.0),
    "kaiser-squires": KaiserSquires((N, N)),
}
DENOISERS = {"mlpatch": MLPatch.from_pretrained("gray"), "tv": TV()}


def scene() -> Tensor:
    """A disc on smooth waves, (1, 1, 64, 64) in [0.2, 0.8]."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, N), torch.linspace(0, 1, N), indexing="ij")
    x = 0.3 + 0.2 * rows + 0.1 * torch.sin(5 * columns)
    return (x + 0.2 * ((rows - 0.4) ** 2 + (columns - 0.6) ** 2 < 0.06))[None, None]


def level(A: Any, x: Tensor) -> float:
    """Noise of 2 % for what measures pixels, of 1 % of the largest measurement for what measures lines."""
    return 0.02 if A.A(x).abs().max() < 2 else 0.01 * float(A.A(x).max())


def problem(name: str, x: Tensor, seed: int = 1) -> tuple[Any, Tensor, float]:
    A = OPERATORS[name]
    std = level(A, x)
    y = A.A(x)
    y = y + std * rand(*y.shape, seed=seed, dtype=y.dtype) * (1 if name != "mask" else A.A(torch.ones_like(x)))
    return A, y, std


def said(result: Result) -> str:
    """The only warning: one sentence without line breaks."""
    (sentence,) = result.warnings
    assert "\n" not in sentence and len(sentence) < 400
    return sentence


def factor(sentence: str) -> float:
    found = re.search(r"by about a factor ([\d.]+)", sentence)
    assert found is not None, sentence
    return float(found.group(1))


# ---------------------------------------------------------------- nothing is wrong


@pytest.mark.parametrize("denoiser", list(DENOISERS))
@pytest.mark.parametrize("picture", ["camera", "scene"])
@pytest.mark.parametrize("name", list(OPERATORS))
def test_nothing_is_said_of_the_right_noise_level(name: str, picture: str, denoiser: str) -> None:
    A, y, std = problem(name, CAMERA if picture == "camera" else scene())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = solve(A, y, DENOISERS[denoiser], noise_std=std)
    assert result.warnings == () and "explains y" in result.verdict and "warning" not in str(result)


@pytest.mark.parametrize("name", ["mask", "blur", "downsample", "radon"])
def test_nothing_is_said_of_a_noise_array_and_of_estimated_noise(name: str) -> None:
    A, y, std = problem(name, scene())
    array = std * (0.5 + uniform(*y.shape, seed=5, dtype=torch.float32))
    z = A.A(scene()) + array * rand(*y.shape, seed=6, dtype=torch.float32) * (A.A(torch.ones_like(scene())) != 0)
    for data, noise in ((z, array), (y, None)):
        result = solve(A, data, TV(), noise_std=noise)
        assert result.warnings == (), noise is None


def test_nothing_is_said_of_counts() -> None:
    A = OPERATORS["radon"]
    y = torch.poisson(5 * A.A(scene()).clamp(min=0) + 2, generator=seeded(1))
    assert solve(A, y, TV(), data_term=Poisson(background=2.0)).warnings == ()


# ---------------------------------------------------------------- the noise level


@pytest.mark.parametrize("denoiser", list(DENOISERS))
@pytest.mark.parametrize("given", [0.2, 5.0])
@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "kaiser-squires"])
def test_a_wrong_noise_level_is_named_with_its_factor(name: str, given: float, denoiser: str) -> None:
    A, y, std = problem(name, scene())
    sentence = said(solve(A, y, DENOISERS[denoiser], noise_std=given * std))
    assert "noise_std is too " + ("low" if given < 1 else "high") in sentence
    assert 5 / 1.3 < factor(sentence) < 5 * 1.3 and "max_iter" not in sentence


@pytest.mark.parametrize("name", ["blur", "radon"])
def test_a_photograph_hides_little_of_it(name: str) -> None:
    A, y, std = problem(name, CAMERA)
    for given, word in ((0.2, "low"), (5.0, "high")):
        sentence = said(solve(A, y, TV(), noise_std=given * std))
        assert f"too {word}" in sentence and 5 / 1.3 < factor(sentence) < 5 * 1.3


@pytest.mark.parametrize("name", ["mask", "blur", "radon", "downsample"])
def test_the_scale_of_255_is_recognised(name: str) -> None:
    A, y, std = problem(name, CAMERA)
    assert "255" in said(solve(A, y, TV(), noise_std=255 * std))


def test_a_noise_model_with_another_sigma() -> None:
    """deepinv's physics say 0.2; the data were made with 0.02."""
    physics = deepinv_rows.P.Denoising(deepinv_rows.P.GaussianNoise(0.2))
    y = scene() + 0.02 * rand(1, 1, N, N, dtype=torch.float32)
    result = solve(physics, y, TV())
    assert result.noise_std == pytest.approx(0.2) and not result.noise_estimated
    assert "too high" in said(result) and 7 < factor(said(result)) < 13


@pytest.mark.parametrize("unit", [0.02, 50.0])
def test_counts_of_another_unit_are_said(unit: float) -> None:
    """Scaled counts vary less or more than counts do."""
    A = OPERATORS["radon"]
    y = unit * torch.poisson(5 * A.A(scene()).clamp(min=0) + 2, generator=seeded(1))
    result = solve(A, y, TV(), data_term=Poisson(background=2.0 * unit))
    assert result.warnings and any("gain" in sentence for sentence in result.warnings)
    assert not any("max_iter" in sentence for sentence in result.warnings)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("name", ["blur", "radon"])
def test_correlated_noise_is_said(name: str, axis: int) -> None:
    """Means of neighbours, of the same standard deviation."""
    A, y, std = problem(name, scene())
    white = rand(*y.shape, seed=8, dtype=torch.float32)
    correlated = (white + white.roll(1, axis) + white.roll(2, axis)) / math.sqrt(3)
    sentence = said(solve(A, A.A(scene()) + std * correlated, TV(), noise_std=std))
    assert "correlate" in sentence


# ---------------------------------------------------------------- the measurements


@pytest.mark.parametrize("n", [3, 20])
def test_outliers_are_said_where_they_are_not_rejected(n: int) -> None:
    A, y, std = problem("radon", scene())
    y.view(-1)[torch.randperm(y.numel(), generator=seeded(2))[:n]] = 3 * y.max()
    sentence = said(solve(A, y, TV(), noise_std=std, data_term=LeastSquares(robust=False)))
    assert "outliers" in sentence and "robust=True" in sentence
    default = solve(A, y, TV(), noise_std=std)
    assert default.n_rejected == n and "outliers" in said(default) and "robust=False" in said(default)
    robust = solve(A, y, TV(), noise_std=std, data_term=LeastSquares(robust=True))
    assert robust.n_rejected == n and robust.warnings == ()
    assert f"{n} measurements rejected" in str(robust) and f"{n} measurements rejected" in robust.verdict


def test_one_outlier_is_said() -> None:
    """One ray of three thousand, which a network spreads over its neighbours: their residuals correlate, too."""
    n = 48
    A = Radon((n, n), ANGLES, n_detectors=n)
    x = head(n) / head(n).max()
    y = A.A(x) + 0.2 * rand(1, 1, 60, n, seed=1, dtype=torch.float32)
    y[..., 20, 17] = -7.0
    for denoiser in DENOISERS.values():
        result = solve(A, y, denoiser, noise_std=0.2)
        assert "outliers" in said(result)


def test_truncation_is_said() -> None:
    """A detector half as wide as the object."""
    x = torch.zeros(1, 1, N, N)
    rows, columns = torch.meshgrid(torch.arange(N) - 31.5, torch.arange(N) - 31.5, indexing="ij")
    x[0, 0][rows**2 + columns**2 < 30**2] = 1.0
    wide = Radon((N, N), ANGLES, n_detectors=N).A(x)
    half = wide[..., 16:48] + rand(1, 1, 60, 32, dtype=torch.float32)
    small = Radon((32, 32), ANGLES, n_detectors=32)
    sentence = said(solve(small, half, TV(), noise_std=1.0))
    assert "ends of the detector" in sentence and "noise" not in sentence


def test_an_inverted_mask_is_said() -> None:
    """The whole image comes with a mask that is 1 where pixels are missing, which hold 1."""
    kept = uniform(N, N, seed=4) < 0.8
    y = torch.where(kept, scene() + 0.02 * rand(1, 1, N, N, dtype=torch.float32), 1.0)
    result = solve(Mask(~kept), y, TV(), noise_std=0.02)
    assert any("mask" in sentence and "invert" in sentence for sentence in result.warnings)
    assert not any("max_iter" in sentence for sentence in result.warnings)


def test_an_error_of_the_operator_is_said() -> None:
    """A detector that is three bins off, and a kernel that is much too wide."""
    _, y, std = problem("radon", CAMERA)
    off = Radon((N, N), ANGLES, n_detectors=92, offset=3.0)
    assert any("A has an error" in sentence for sentence in solve(off, y, TV(), noise_std=std).warnings)
    _, y, std = problem("blur", CAMERA)
    sentence = said(solve(Blur(gaussian_kernel(4.0), (N, N)), y, TV(), noise_std=std))
    assert "A has an error" in sentence and "max_iter" not in sentence


# ---------------------------------------------------------------- the iteration


def test_a_divergence_is_the_denoisers_where_the_adjoint_is_right() -> None:
    def amplify(x: Tensor, sigma: Any) -> Tensor:
        return 3.0 * x

    # Only 40 % of the pixels are held by y.
    A, y, std = problem("mask", scene())
    result = solve(A, y, amplify, noise_std=std, max_iter=60)
    sentence = result.warnings[-1]
    assert (
        result.stop is Stop.DIVERGED and "denoiser" in sentence and "sound" in sentence and "max_iter" not in sentence
    )
    unchecked = solve(A, y, amplify, noise_std=std, max_iter=60, check_adjoint=False)
    assert "check_adjoint=True" in unchecked.warnings[-1] and "sound" not in unchecked.warnings[-1]
    assert float(result.x.abs().max()) < 10 and str(result.stop) in str(result)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", ["mask", "radon"])
def test_few_iterations_are_said_before_anything_that_more_might_mend(name: str, n: int) -> None:
    A, y, std = problem(name, CAMERA)
    few = solve(A, y, TV(), noise_std=std, max_iter=n)
    assert few.misfit < 3 or "max_iter" in said(few)
    assert not few.warnings or "max_iter" in said(few)
    y_alone = said(solve(A, y, TV(), noise_std=5 * std, max_iter=n))
    assert "max_iter" not in y_alone and "too high" in y_alone


def test_an_image_that_still_moves_is_said() -> None:
    """A denoiser that shifts the image at each call."""
    A, y, std = problem("identity", scene())
    result = solve(A, y, lambda x, sigma: x.roll(2, -1), noise_std=std, schedule=[0.02], max_iter=12, strength=0.1)
    assert result.stop is Stop.MAX_ITER and max(result.history["dual"][-1], result.history["primal"][-1]) > 0.05
    assert result.warnings


# ---------------------------------------------------------------- how it is said


def test_each_solve_warns_once_where_the_caller_is() -> None:
    """One Python warning with all sentences, of a class that can be filtered, at the line that called `solve`."""
    A, y, std = problem("blur", scene())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = solve(A, y, TV(), noise_std=5 * std)
        solve(A, y, TV(), noise_std=std)
    (warning,) = caught
    assert warning.category is ResultWarning and issubclass(ResultWarning, UserWarning)
    assert str(warning.message) == "solve: " + "; ".join(result.warnings)
    assert warning.filename == __file__


def test_the_summary_is_readable() -> None:
    A, y, std = problem("blur", scene())
    result = solve(A, y, TV(), noise_std=5 * std)
    lines = str(result).split("\n")
    assert len(lines) == 4 and all(0 < len(line) < 400 for line in lines)
    assert "(1, 1, 64, 64)" in lines[0] and f"{result.n_iter} iterations" in lines[0] and "0.1 given" in lines[0]
    assert lines[1].startswith(f"misfit {result.misfit:.3g}") and lines[2] == str(result.stop)
    assert lines[3] == f"warning: {result.warnings[0]}"
    estimated = solve(A, y.numpy(), TV())
    assert "estimated from y" in str(estimated) and isinstance(estimated.x, np.ndarray)
    assert "tensor" not in str(result) + str(estimated) and "array" not in str(estimated)


def test_evidence_of_every_kind() -> None:
    """At most one sentence, and none where nothing is known."""
    nothing: dict[str, Any] = {
        "misfit": 1.0,
        "n": 4096,
        "estimated": math.nan,
        "at_least": math.nan,
        "roughness": math.nan,
        "correlations": (),
        "contrast": math.inf,
    }
    assert about_noise(Evidence(**nothing, flatness=0.2, is_gaussian=True)) == []
    found = [
        {"misfit": 9.0},
        {"misfit": 0.01},
        {"estimated": 0.2},
        {"estimated": 5.0, "at_least": 4.0},
        {"contrast": 0.1},
        {"correlations": (0.5, 0.0)},
    ]
    for flatness in (0.2, 1.0):
        for change in found[: 5 if flatness == 1.0 else None]:  # a denoiser's own texture is correlated, too
            (sentence,) = about_noise(Evidence(**nothing | change, flatness=flatness, is_gaussian=True))
            assert "max_iter" not in sentence and len(sentence) < 400
    for misfit in (9.0, 0.01):
        (sentence,) = about_noise(Evidence(**nothing | {"misfit": misfit}, flatness=0.2, is_gaussian=False))
        assert "count" in sentence and "noise_std" not in sentence


def test_correlated_residuals_of_counts_are_no_rings() -> None:
    found = Evidence(2.5, 4096, math.nan, (0.5, 0.1), math.inf, 0.1, is_gaussian=False, is_sinogram=True)
    (sentence,) = about_noise(found)
    assert "strength" in sentence and "background" in sentence and len(sentence) < 400
    assert "LeastSquares" not in sentence and "n_inner" not in sentence  # more steps change nothing


def test_few_measurements_and_foreign_data_terms_are_not_judged() -> None:
    few = Mask(torch.arange(N * N).reshape(N, N) % 100 == 0)
    assert solve(few, few.A(scene()), TV(), noise_std=5.0).warnings == ()

    class Term:
        needs_noise_std = True

        def bind(self, operator: Any, y: Tensor, weights: Tensor) -> Any:
            h = LeastSquares().bind(operator, y, weights)
            names = ("y", "back_projection", "initial", "curvature", "spectral_flatness", "misfit", "inner_iterations")
            return _Plain(h, {name: getattr(h, name) for name in names})

    A, y, std = problem("blur", scene())
    assert solve(A, y, TV(), noise_std=5 * std, data_term=Term()).warnings == ()


class _Plain(SimpleNamespace):
    """A bound data term without `residuals`."""

    def __init__(self, step: Any, parts: dict[str, Any]) -> None:
        super().__init__(**parts)
        self._step = step

    def __call__(self, v: Tensor, alpha: Tensor) -> Tensor:
        x: Tensor = self._step(v, alpha)
        return x


def test_a_constant_measurement_has_no_range() -> None:
    """Measurements of a constant image, exact to rounding: nothing fails, whatever is said."""
    result = solve(Identity((N, N)), torch.full((1, 1, N, N), 3.0), smooth, noise_std=0.1)
    assert all(len(sentence) < 400 for sentence in result.warnings)


def test_a_batch_with_one_level_for_different_noise_is_said() -> None:
    x = scene().expand(2, 1, N, N)
    y = x + torch.tensor([0.05, 1.0]).view(2, 1, 1, 1) * rand(2, 1, N, N, seed=3, dtype=torch.float32)
    for level in (0.05, 0.2):
        sentence = said(solve(Mask(torch.ones(N, N)), y, TV(), noise_std=level))
        assert "batch" in sentence and "list" in sentence
    assert solve(Mask(torch.ones(N, N)), y, TV(), noise_std=[0.05, 1.0]).warnings == ()


def test_a_network_in_training_mode_is_said() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = torch.nn.Dropout(0.0)

        def forward(self, x: Tensor, sigma: Any) -> Tensor:
            return self.drop(x)

    y = scene() + 0.05 * rand(1, 1, N, N, seed=3, dtype=torch.float32)
    A = Mask(torch.ones(N, N))
    assert any(".eval()" in sentence for sentence in solve(A, y, Net(), noise_std=0.05).warnings)
    assert not any(".eval()" in sentence for sentence in solve(A, y, Net().eval(), noise_std=0.05).warnings)


def test_poisson_explains_many_counts_as_least_squares_does():
    A, truth = OPERATORS["radon"], head(N)
    expected = A.A(truth / A.A(truth).max()) * 1e6
    counts = torch.poisson(expected.clamp(min=0), generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResultWarning)
        poisson = solve(A, counts, DENOISERS["mlpatch"], data_term=Poisson())
        gaussian = solve(A, counts, DENOISERS["mlpatch"], noise_std=counts.clamp(min=1).sqrt())
    error = [float((r.x - truth / A.A(truth).max() * 1e6).norm()) for r in (poisson, gaussian)]
    assert error[0] < 1.05 * error[1]
