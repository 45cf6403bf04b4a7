"""What `mlem` and `osem` say of their results: nothing on sound scans, and the cause where something is wrong."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from arrays import F64, rel, seeded, uniform
from torch import Tensor
from toys import SHAPE, Views

from operators import SPECT
from pnp import ResultWarning, mlem, osem


def scan(n_views: int = 16, activity: float = 30.0) -> tuple[SPECT, Tensor, Tensor]:
    """A camera, a disc with a hot spot beside its centre, and its counts."""
    t = torch.arange(16, dtype=F64) - 7.5
    disc = (t[:, None].square() + t.square() < 6.4**2).to(F64)[..., None].expand(16, 16, 4)
    A = SPECT(
        (16, 16, 4), torch.arange(n_views) * (2 * math.pi / n_views), voxel_size=6.4, attenuation=0.01 * disc, fwhm=8.0
    )
    x = disc.clone()
    x[5:8, 9:11] *= 6
    truth = activity * x[None, None]
    return A, truth, torch.poisson(A.A(truth), generator=seeded())


@pytest.mark.parametrize("activity", [3.0, 30.0])
@pytest.mark.parametrize(("n", "n_iter"), [(1, 16), (4, 6), (4, 40)])
def test_sound_counts_are_explained_and_fitting_their_noise_is_no_warning(activity: float, n: int, n_iter: int) -> None:
    A, _, y = scan(activity=activity)
    found = osem(A, y, n_subsets=n, max_iter=n_iter)
    assert found.warnings == () and "explains" in found.verdict


@pytest.mark.parametrize(("n_iter", "activity"), [(1, 30.0), (2, 30.0), (4, 30.0), (48, 3000.0)])
def test_few_iterations_are_told_from_a_wrong_model(n_iter: int, activity: float) -> None:
    A, _, y = scan(activity=activity)
    found = mlem(A, y, max_iter=n_iter)
    assert found.misfit > 3 and len(found.warnings) == 1 and f"after {n_iter} iteration" in found.warnings[0]


@pytest.mark.parametrize("n", [1, 4])
def test_a_wrong_model_is_not_blamed_on_the_iterations(n: int) -> None:
    A, _, y = scan()
    shuffled = y[:, :, torch.randperm(16, generator=seeded())]
    for wrong, background in ((shuffled, 0.0), (y, 0.5 * float(y.mean()))):
        found = osem(A, wrong, n_subsets=n, background=background, max_iter=24)
        assert found.misfit > 3 and len(found.warnings) == 1
        assert "background" in found.warnings[0] and "iterations" not in found.warnings[0]


def test_a_hot_pixel_is_an_outlier() -> None:
    A, _, y = scan()
    y[0, 0, 3, 5, 2] = 30 * y.max()
    (said,) = osem(A, y, n_subsets=4, max_iter=16).warnings
    assert "outliers" in said and "Poisson(robust=True)" in said


@pytest.mark.parametrize("gain", [0.1, 20.0])
def test_another_unit_is_noticed_and_only_scales_the_image(gain: float) -> None:
    A, _, y = scan()
    found = mlem(A, gain * y, max_iter=20)
    assert len(found.warnings) == 1 and f"gain={gain:g}" in found.warnings[0] and "by its factor" in found.warnings[0]
    assert rel(found.x, gain * mlem(A, y, max_iter=20).x) < 1e-12


def test_counts_that_vary_too_little_are_noticed_where_there_are_more_than_voxels() -> None:
    A, truth, _ = scan(n_views=48)
    (said,) = mlem(A, A.A(truth).round(), x0=truth, max_iter=1).warnings
    assert "varies less than counts" in said
    few, truth, _ = scan(n_views=8)  # voxels can follow all counts, noise or not
    assert mlem(few, few.A(truth).round(), x0=truth, max_iter=1).warnings == ()


def test_each_call_raises_one_warning_at_its_own_line() -> None:
    A, _, y = scan()
    for call in (lambda: mlem(A, y, max_iter=1), lambda: osem(A, y, n_subsets=2, max_iter=1)):
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            found = call()
        assert [(w.category, w.filename) for w in raised] == [(ResultWarning, __file__)]
        assert str(raised[0].message).split(": ", 1) == [str(raised[0].message)[:4], "; ".join(found.warnings)]


class WrongAdjoint(Views):
    """Its A_adjoint sees the bins in another order; it counts the calls of the whole operator."""

    calls = 0

    def A(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().A(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return super().A_adjoint(y.flip(-1))


@pytest.mark.parametrize("n", [1, 3])
def test_the_adjoint_is_checked_once_on_all_views(n: int) -> None:
    M = uniform(12, 5, math.prod(SHAPE)) * (uniform(12, 5, math.prod(SHAPE), seed=3) > 0.5)
    y: Any = Views(M).A(9 * uniform(1, 1, *SHAPE)).round()
    with pytest.raises(ValueError, match=r"^osem: operator\.A_adjoint"):
        osem(WrongAdjoint(M), y, n_subsets=n, max_iter=1)
    A = WrongAdjoint(M)
    osem(A, y, n_subsets=n, max_iter=2, check_adjoint=False)
    assert A.calls == (2 if n > 1 else 4)  # the first check and the misfit; an iteration uses subsets


@pytest.mark.parametrize(("n_subsets", "is_too_many"), [(1, False), (4, False), (30, True), (60, True)])
def test_too_many_subsets_for_the_counts_are_named(n_subsets, is_too_many):
    """790 counts in 60 views: the last of 30 subsets decides how many counts x holds, 17 a view for 13."""
    A = SPECT((24, 24, 8), torch.arange(60) * (2 * math.pi / 60), voxel_size=4.8, fwhm=10.0)
    x = torch.zeros(1, 1, 24, 24, 8)
    x[..., 8:16, 8:16, 2:6] = 0.05
    y = torch.poisson(A.A(x), generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = osem(A, y, n_subsets=n_subsets, max_iter=3)
    assert [f"{n_subsets} subsets are too many" in text for text in result.warnings] == [True] * is_too_many
    if is_too_many:
        (said,) = result.warnings
        assert "or fewer, or mlem" in said and int(said.partition("; use ")[2].split()[0]) >= 4
        assert abs(float(result.x.sum()) / float(y.sum() / 60) - 1) > 0.1


@pytest.mark.parametrize("gain", [1.0, 20.0])
def test_the_limit_of_subsets_is_counted_per_voxel_and_needs_no_unit_of_the_operator(gain: float) -> None:
    """A point of 600 counts in 30 views is seen by all of them; spread over 42 pixels, each sees 1 in 2 views."""
    A = Views(gain * torch.eye(42, dtype=torch.float64).expand(30, 42, 42))
    point, flat = torch.zeros(1, 1, *SHAPE, dtype=torch.float64), torch.full((1, 1, *SHAPE), 20 / 42 / gain).double()
    point[..., 3, 3] = 20 / gain
    said = []
    for x in (point, flat):
        y = torch.poisson(A.A(x), generator=torch.Generator().manual_seed(0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said.append([text for text in osem(A, y, n_subsets=15, max_iter=1).warnings if "too many" in text])
    assert said[0] == [] and "about 0.92 in the views" in said[1][0]


def test_a_background_above_the_counts_is_no_matter_of_subsets() -> None:
    y = torch.poisson(torch.full((1, 1, 30, 42), 0.2), generator=torch.Generator().manual_seed(0))
    A = Views(torch.eye(42).expand(30, 42, 42))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = osem(A, y, n_subsets=10, background=5.0, max_iter=1).warnings
    assert not any("subsets" in text for text in said)
