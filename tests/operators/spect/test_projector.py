"""SPECT against its equation, analytic truth and the other projectors; what it keeps for gradients."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, rel, uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d
from torch import Tensor

from operators import SPECT, Radon, collimator_fwhm
from operators.spect.rotation import TICKS, Rotation

VOXEL = 4.8
COLLIMATOR: dict[str, float] = {"hole_diameter": 1.45, "hole_length": 24.0, "septal_attenuation": 2.2, "intrinsic": 3.8}


def turn(n: int) -> Tensor:
    return torch.arange(n, dtype=F64) * (2 * math.pi / n)


def spect(shape: tuple[int, int, int] = (8, 8, 6), n_views: int = 7, **options: Any) -> SPECT:
    """Attenuation, and a response that differs between views and planes."""
    radii = 30.0 + 3 * turn(n_views).cos()
    fwhm = collimator_fwhm(shape[1], radii, voxel_size=VOXEL, **COLLIMATOR)
    options = {"attenuation": 0.02 * uniform(*shape, seed=1), "fwhm": fwhm} | options
    return SPECT(shape, turn(n_views) + 0.1, voxel_size=VOXEL, **options)


def coordinates(n: int) -> tuple[Tensor, Tensor]:
    """X and Y of the voxels (n, n, 1), in voxels."""
    t = torch.arange(n, dtype=F64) - (n - 1) / 2
    return t[:, None, None].expand(n, n, 1), t[None, :, None].expand(n, n, 1)


def point(shape: tuple[int, int, int], *where: int) -> Tensor:
    x = torch.zeros(1, 1, *shape, dtype=F64)
    x[(0, 0, *where)] = 1
    return x


# ---------------------------------------------------------------- the equation


@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_equation(interpolation: str) -> None:
    """The module's formula, plane by plane, in plain numpy."""
    shape, angles = (7, 7, 5), [0.3, 2.0, -1.1]
    nx, ny, nz = shape
    psf = uniform(3, ny, 3, 5) ** 4
    psf = psf / psf.sum((-2, -1), keepdim=True)
    x, mu = uniform(*shape, seed=1), 0.02 * uniform(*shape, seed=2)
    A = SPECT(shape, angles, voxel_size=VOXEL, attenuation=mu, psf=psf, psf_rtol=0, interpolation=interpolation)
    found = A.A(x[None, None])[0, 0]
    for v, angle in enumerate(angles):
        R = Rotation((nx, ny), interpolation).matrix(angle)
        activity, absorbed = (np.asarray(R @ a.reshape(nx * ny, nz).numpy()).reshape(ny, nx, nz) for a in (x, mu))
        view = np.zeros((nx, nz))
        for j in range(ny):
            path = VOXEL * (absorbed[: j + 1].sum(0) - absorbed[j] / 2)
            view += convolve2d(np.exp(-path) * activity[j], psf[v, j].numpy(), mode="same")
        # Angles are rounded to a microradian.
        assert rel(found[v], torch.from_numpy(view)) < 1e-5


def test_dense_matrix() -> None:
    A = spect()
    unit_x, unit_y = torch.eye(8 * 8 * 6, dtype=F64), torch.eye(7 * 8 * 6, dtype=F64)
    forward = A.A(unit_x.reshape(-1, 1, 8, 8, 6)).flatten(1).T
    back = A.A_adjoint(unit_y.reshape(-1, 1, 7, 8, 6)).flatten(1)
    assert rel(back, forward) < 1e-14
    assert forward.min() >= 0
    assert rel(A.sensitivity(F64).flatten(), forward.sum(0)) < 1e-14


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    n_views=st.integers(1, 9),
    batch=st.integers(1, 3),
    interpolation=st.sampled_from(["area", "bilinear"]),
    cached=st.booleans(),
)
def test_adjoint_for_any_shape(
    shape: tuple[int, int, int], n_views: int, batch: int, interpolation: str, cached: bool
) -> None:
    A = spect(shape, n_views, interpolation=interpolation, cache_attenuation=cached)
    x, y = uniform(batch, 1, *shape), uniform(batch, 1, n_views, shape[0], shape[2], seed=1)
    Ax = A.A(x)
    assert abs((Ax * y).sum() - (x * A.A_adjoint(y)).sum()) < 1e-12 * Ax.norm() * y.norm()


def test_cached_attenuation_is_the_same() -> None:
    A, cached = spect(), spect(cache_attenuation=True)
    x = uniform(2, 1, 8, 8, 6)
    assert torch.equal(cached.A(x), A.A(x))
    for twin in (A, cached):  # a map that is written to counts at once
        assert twin.attenuation is not None
        twin.attenuation.mul_(2)
    assert torch.equal(cached.A(x), A.A(x))
    assert rel(A.A(x), spect(attenuation=0.04 * uniform(8, 8, 6, seed=1)).A(x)) < 1e-14
    for k in range(3):  # so does one that is exchanged, wherever it lies in memory
        for twin in (A, cached):
            twin.attenuation = None
            twin.attenuation = 0.01 * (k + 1) * uniform(8, 8, 6, seed=k)
        assert torch.equal(cached.A(x), A.A(x))


# ---------------------------------------------------------------- rotation


def test_concentric_squares_share_an_octagon() -> None:
    assert Rotation((1, 1), "area").matrix(math.pi / 4)[0, 0] == pytest.approx(2 * (math.sqrt(2) - 1), rel=1e-12)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(n=st.integers(3, 12), m=st.integers(3, 12), ticks=st.integers(0, 2 * TICKS))
def test_rotation_conserves_counts_and_bounds(n: int, m: int, ticks: int) -> None:
    R = Rotation((n, m), "area").matrix(ticks * math.pi / 2 / TICKS)  # the angles there are
    nx, ny = np.arange(n) - (n - 1) / 2, np.arange(m) - (m - 1) / 2
    inside = np.hypot(*np.meshgrid(nx, ny, indexing="ij")) < min(n, m) / 2 - 0.71  # wholly in the cylinder
    assert np.abs(np.asarray(R.sum(0)).reshape(n, m)[inside] - 1).max(initial=0) < 1e-9
    assert np.abs(np.asarray(R.sum(1)).reshape(m, n).T[inside] - 1).max(initial=0) < 1e-9
    assert R.sum(0).max() < 1 + 1e-9 and R.sum(1).max() < 1 + 1e-9 and R.data.min() > 0


@pytest.mark.parametrize("n", [6, 7])
def test_the_transpose_rotates_back(n: int) -> None:
    rotation = Rotation((n, n), "area")
    swap = np.arange(n * n).reshape(n, n).T.ravel()  # from rows by y to rows by x
    there = rotation.matrix(0.4)[swap].toarray()
    back = rotation.matrix(2 * math.pi - 0.4)[swap].toarray()
    assert np.abs(there.T - back).max() < 1e-12


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_quarter_turns_are_rot90(n: int, dtype: torch.dtype) -> None:
    """And angles that were rounded to float32 are quarter turns still."""
    x = uniform(1, 1, n, n, 5)
    angles = (torch.arange(4) * (math.pi / 2) + 0.3).to(dtype).double()
    at_rest = SPECT((n, n, 5), [0.3], voxel_size=1.0)
    views = SPECT((n, n, 5), angles, voxel_size=1.0).A(x)
    assert rel(SPECT((n, n, 5), [0.0], voxel_size=1.0).A(x)[:, :, 0], x.sum(3)) < 1e-15
    for k in range(4):
        turned = torch.from_numpy(np.rot90(x.numpy(), -k, (2, 3)).copy())
        assert rel(views[:, :, k], at_rest.A(turned)[:, :, 0]) < 1e-15


def test_the_frame_is_radons() -> None:
    """A blob off the centre: our bins are its parallel projections, at the same angles."""
    n, angles = 32, turn(9) + 0.2
    X, Y = coordinates(n)
    x = torch.exp(-((X - 6).square() + (Y + 3).square()) / (2 * 2.5**2))
    found = SPECT((n, n, 1), angles, voxel_size=2.0).A(x[None, None])[0, 0, ..., 0]
    image = x[..., 0].T.flip(0)[None, None]  # rows point down, Y points up
    assert rel(found, Radon((n, n), angles, n_detectors=n).A(image)[0, 0]) < 0.015


def test_opposite_views_are_mirrored() -> None:
    y = SPECT((9, 9, 4), [0.7, 0.7 + math.pi], voxel_size=1.0).A(uniform(1, 1, 9, 9, 4))
    assert rel(y[:, :, 1], y[:, :, 0].flip(2)) < 1e-13


def test_view_order() -> None:
    A, order = spect(attenuation=None, fwhm=7.0), torch.tensor([4, 2, 6, 0, 0, 5, 1, 3])
    x = uniform(1, 1, 8, 8, 6)
    shuffled = SPECT((8, 8, 6), A.angles[order], voxel_size=VOXEL, fwhm=7.0)
    assert rel(shuffled.A(x), A.A(x)[:, :, order]) < 1e-14


# ---------------------------------------------------------------- counts, attenuation, response


def test_counts_are_conserved_without_attenuation() -> None:
    X, Y = coordinates(24)
    x = (torch.hypot(X, Y) < 6) * uniform(24, 24, 40)
    x[..., :12] = x[..., -12:] = 0
    for options in ({}, {"fwhm": 8.0}):
        y = SPECT((24, 24, 40), turn(11), voxel_size=VOXEL, **options).A(x[None, None])
        assert (y.sum((-2, -1)) / x.sum() - 1).abs().max() < 1e-7


def test_a_point_in_uniform_matter_decays_with_its_depth() -> None:
    """exp(-mu d), d from the surface to the middle of the voxel, from all four sides."""
    n, mu, (i, j, k) = 9, 0.0154, (2, 6, 1)
    A = SPECT((n, n, 3), turn(4), voxel_size=VOXEL, attenuation=torch.full((n, n, 3), mu, dtype=F64))
    depth = torch.tensor([j, n - 1 - i, n - 1 - j, i], dtype=F64) + 0.5
    counts = A.A(point((n, n, 3), i, j, k)).sum((-2, -1))[0, 0]
    # A camera at angle pi/2 is at high x.
    assert rel(counts, torch.exp(-mu * VOXEL * depth)) < 1e-13


def test_a_point_in_a_cylinder_decays_with_its_depth() -> None:
    """At any angle: from (X0, 0), the way to the circle of radius R towards (sin, -cos)."""
    n, mu, R = 48, 0.0154, 18.3
    X, Y = coordinates(n)
    fine = torch.stack([((X + a).square() + (Y + b).square() < R**2).double() for a in SUB for b in SUB]).mean(0)
    angles = turn(13) + 0.05
    A = SPECT((n, n, 1), angles, voxel_size=VOXEL, attenuation=mu * fine)
    x0, y0 = 9.5, -4.5
    counts = A.A(point((n, n, 1), int(x0 + (n - 1) / 2), int(y0 + (n - 1) / 2), 0)).sum((-2, -1))[0, 0]
    along = x0 * angles.sin() - y0 * angles.cos()
    depth = torch.sqrt(R**2 - x0**2 - y0**2 + along**2) - along
    assert (counts / torch.exp(-mu * VOXEL * depth) - 1).abs().max() < 0.01


SUB = (torch.arange(8, dtype=F64) - 3.5) / 8


@pytest.mark.parametrize("at", [(12, 12, 12), (6, 15, 12), (17, 9, 12)])
def test_a_point_in_air_is_a_gaussian_of_its_depths_fwhm(at: tuple[int, int, int]) -> None:
    n, radius = 25, 220.0
    fwhm = collimator_fwhm(n, radius, voxel_size=VOXEL, **COLLIMATOR)
    y = SPECT((n, n, n), turn(4), voxel_size=VOXEL, fwhm=fwhm).A(point((n, n, n), *at))[0, 0]
    X, Y = (VOXEL * (at[k] - (n - 1) / 2) for k in (0, 1))
    t = torch.arange(n, dtype=F64)
    for view, towards, across in zip(y, (-Y, X, Y, -X), (X, Y, -X, -Y), strict=True):
        r = radius - towards
        want = math.hypot(1.45 * (24 - 2 / 2.2 + r) / (24 - 2 / 2.2), 3.8)
        for axis, middle in ((0, across / VOXEL + (n - 1) / 2), (1, at[2])):
            profile = view.sum(1 - axis)
            mean = (profile * t).sum() / profile.sum()
            width = ((profile * (t - mean).square()).sum() / profile.sum()).sqrt() * VOXEL * math.sqrt(8 * math.log(2))
            assert mean.item() == pytest.approx(middle, abs=1e-4)
            assert width.item() == pytest.approx(want, rel=1e-3)
        peak = (VOXEL / want) ** 2 * 4 * math.log(2) / math.pi
        assert view.max().item() == pytest.approx(peak, rel=1e-4)


def test_axial_size_of_voxels() -> None:
    """The same blur in mm covers twice as many slices of half the thickness."""
    y = SPECT((15, 15, 41), [0.0], voxel_size=(4.0, 2.0), fwhm=10.0).A(point((15, 15, 41), 7, 7, 20))[0, 0, 0]
    assert rel(y[7, 20 - 14 : 20 + 15 : 2] / y[7, 20], y[:, 20] / y[7, 20]) < 1e-6


def test_a_uniform_cylinder_looks_alike_from_everywhere() -> None:
    n = 32
    X, Y = coordinates(n)
    disc = torch.stack([((X + a).square() + (Y + b).square() < 10.0**2).double() for a in SUB for b in SUB]).mean(0)
    volume = disc.expand(n, n, 4)
    y = SPECT((n, n, 4), turn(12) + 0.1, voxel_size=VOXEL, attenuation=0.015 * volume, fwhm=12.0).A(volume[None, None])
    assert ((y - y.mean(2, keepdim=True)).abs().amax() / y.amax()) < 0.01
    assert rel(y, y.flip(3)) < 0.005


def test_non_circular_orbit() -> None:
    """Every view is that of a circular orbit with its radius."""
    radii = torch.tensor([25.0, 60.0, 140.0])
    angles, x = [0.2, 1.5, 4.0], uniform(1, 1, 9, 9, 8)
    options: dict[str, Any] = {"voxel_size": VOXEL, "attenuation": 0.02 * uniform(9, 9, 8, seed=1)}

    def views(radius: Tensor) -> Tensor:
        fwhm = collimator_fwhm(9, radius, voxel_size=VOXEL, **COLLIMATOR)
        return SPECT((9, 9, 8), angles, fwhm=fwhm, **options).A(x)

    found = views(radii)
    for v, radius in enumerate(radii):
        assert rel(found[:, :, v], views(radius)[:, :, v]) < 1e-14
    assert rel(found[:, :, 0], views(radii[2])[:, :, 0]) > 0.05


def test_a_points_image_is_its_planes_kernel() -> None:
    psf = uniform(7, 5, 3)
    psf = psf / psf.sum((-2, -1), keepdim=True)
    for rank, rtol in ((3, 0.0), (1, 0.9)):
        A = SPECT((7, 7, 9), [0.0], voxel_size=1.0, psf=psf, psf_rtol=rtol)
        y = A.A(point((7, 7, 9), 3, 2, 4))[0, 0, 0]
        assert A.across is not None and A.across.shape[1] == rank
        assert y.sum().item() == pytest.approx(1, rel=1e-12)
        if rank == 3:
            assert rel(y[1:6, 3:6], psf[2]) < 1e-13


def test_a_gaussian_stack_is_one_separable_term() -> None:
    t = torch.arange(-6, 7, dtype=F64)
    sigma = torch.linspace(0.8, 1.3, 8, dtype=F64)[:, None, None]
    psf = torch.exp(-(t[:, None].square() + t.square()) / (2 * sigma.square()))
    psf = (psf / psf.sum((-2, -1), keepdim=True)).float()
    stack = SPECT((8, 8, 6), turn(3), voxel_size=VOXEL, psf=psf)
    fwhm = sigma[:, 0, 0] * VOXEL * math.sqrt(8 * math.log(2))
    x = uniform(1, 1, 8, 8, 6)
    assert stack.across is not None and stack.across.shape[1] == 1
    assert rel(stack.A(x), SPECT((8, 8, 6), turn(3), voxel_size=VOXEL, fwhm=fwhm).A(x)) < 1e-5


def test_no_blur_at_zero_fwhm() -> None:
    x = uniform(1, 1, 5, 5, 4)
    blurred, plain = (SPECT((5, 5, 4), turn(3), voxel_size=VOXEL, fwhm=f).A(x) for f in (0.0, None))
    assert rel(blurred, plain) < 1e-14


# ---------------------------------------------------------------- subsets, sensitivity


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_subsets_add_up(n: int) -> None:
    A = spect()
    x, y = uniform(2, 1, 8, 8, 6), uniform(2, 1, 7, 8, 6, seed=1)
    parts = [A.subset(b, n) for b in range(n)]
    for b, part in enumerate(parts):
        assert rel(part.A(x), A.A(x)[:, :, b::n]) < 1e-14
    assert rel(sum(part.A_adjoint(y[:, :, b::n]) for b, part in enumerate(parts)), A.A_adjoint(y)) < 1e-14
    assert rel(sum(part.sensitivity(F64) for part in parts), A.sensitivity(F64)) < 1e-14
    assert parts[0].attenuation is A.attenuation and parts[0]._rotation is A._rotation
    parts[0].to(torch.float32)
    assert rel(A.subset(0, n).A(x), A.A(x)[:, :, ::n]) < 1e-14


def test_what_no_view_sees_has_no_sensitivity() -> None:
    s = SPECT((12, 12, 3), [math.pi / 4], voxel_size=1.0, attenuation=torch.full((12, 12, 3), 0.01)).sensitivity()
    assert s.dtype == torch.float32 and s.shape == (1, 1, 12, 12, 3)
    assert s.min() == 0 and s[0, 0, 0, 0, 0] == 0 and (s[0, 0, 3:9, 3:9] > 0.5).all()


# ---------------------------------------------------------------- gradients and memory


def test_gradients_of_first_and_second_order() -> None:
    A = spect((4, 4, 3), 3)
    x, y = uniform(1, 1, 4, 4, 3).requires_grad_(), uniform(1, 1, 3, 4, 3).requires_grad_()
    for f, v in ((A.A, x), (A.A_adjoint, y)):
        assert torch.autograd.gradcheck(f, (v,))
        assert torch.autograd.gradgradcheck(lambda t, f=f: f(t).square(), (v,), fast_mode=True)


def test_gradients_are_the_adjoint_and_nothing_is_kept() -> None:
    A = spect()
    x, y = uniform(1, 1, 8, 8, 6).requires_grad_(), uniform(1, 1, 7, 8, 6, seed=1)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        Ax = A.A(x)
    assert not kept
    (gradient,) = torch.autograd.grad(Ax, x, y)
    assert rel(gradient, A.A_adjoint(y)) < 1e-15


def test_autocast_and_inference_mode_change_nothing() -> None:
    A, x = spect(), uniform(1, 1, 8, 8, 6).float()
    y = spect().A(x)
    with torch.inference_mode():
        assert torch.equal(A.A(x), y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(A.A(x), y)
    assert A.A(x.bfloat16()).dtype == torch.bfloat16
    assert rel(A.A(x.bfloat16()).float(), y) < 0.01


def test_copies_do_not_share_what_they_exchange() -> None:
    A = spect()
    x = uniform(1, 1, 8, 8, 6)
    y = A.A(x)
    for twin in (copy.copy(A), copy.deepcopy(A)):
        twin.attenuation = None
        assert rel(twin.A(x), y) > 0.05
        assert torch.equal(A.A(x), y)


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu_from_batch_to_subset() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    A, x = spect(), uniform(2, 1, 8, 8, 6)
    y = A.A(x)
    moved = copy.deepcopy(A).to("cuda")
    assert rel(moved.A(x.cuda()).cpu(), y) < 1e-12
    assert rel(moved.subset(1, 3).A(x.cuda()).cpu(), y[:, :, 1::3]) < 1e-12
