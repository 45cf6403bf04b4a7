"""Downsampling against SciPy, plane waves, the averages themselves and dense closed forms; what it refuses."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest
import torch
from arrays import rand, rel
from scipy import ndimage

from operators import OPERATORS, Downsample, gaussian_kernel
from pnp import solve
from pnp.io import read_measurements

F64 = torch.float64


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("boundary", ["circular", "reflect"])
@pytest.mark.parametrize("kernel", [(3, 5), (4, 2), (1, 1)])
def test_it_is_scipys_convolution_sampled_in_each_block(factor, boundary, kernel):
    k, x = rand(*kernel), rand(1, 1, 12, 24)
    A = Downsample((12, 24), factor, k, boundary)
    filtered = ndimage.convolve(x[0, 0].numpy(), k.numpy(), mode={"circular": "wrap", "reflect": "reflect"}[boundary])
    o = (factor - 1) // 2
    assert rel(A.A(x)[0, 0], torch.from_numpy(filtered[o::factor, o::factor].copy())) < 1e-12


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_without_a_kernel_it_is_the_mean_of_blocks_and_the_box_kernel(factor):
    x = rand(2, 3, 12, 24)
    y = Downsample((12, 24), factor).A(x)
    assert rel(y, x.unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor)).mean((-1, -3))) < 1e-14
    box = torch.full((factor, factor), 1 / factor**2, dtype=F64)
    for boundary in ("circular", "reflect"):
        assert rel(Downsample((12, 24), factor, box, boundary).A(x), y) < 1e-12


def test_a_plane_wave_is_one_times_the_kernels_transfer_function():
    f, k = 4, 2 * math.pi * 3 / 64  # three periods over 64 pixels
    columns = torch.arange(64, dtype=F64)
    wave = torch.cos(k * columns).expand(1, 1, 8, 64)
    centres = f * torch.arange(16, dtype=F64) + (f - 1) / 2
    expected = math.sin(f * k / 2) / (f * math.sin(k / 2)) * torch.cos(k * centres)
    torch.testing.assert_close(Downsample((8, 64), f).A(wave)[0, 0, 0], expected)
    taps = torch.tensor([[1.0, 3, 3, 1]], dtype=F64) / 8  # centred on the blocks, as of even size
    sampled = Downsample((8, 64), f, taps).A(wave)[0, 0, 0]
    torch.testing.assert_close(sampled, (math.cos(k / 2) ** 3) * torch.cos(k * centres))


@pytest.mark.parametrize(("factor", "kernel"), [(2, None), (3, None), (2, (3, 3)), (3, (5, 3))])
def test_data_step_and_preconditioner_are_the_dense_inverse(factor, kernel):
    shape = (6, 12)
    A = Downsample(shape, factor, None if kernel is None else rand(*kernel))
    M = A.A(torch.eye(72, dtype=F64).reshape(-1, 1, *shape)).flatten(1).T
    w, alpha = torch.tensor(1.7, dtype=F64), torch.tensor(0.2, dtype=F64)
    inverse = torch.linalg.inv(w * M.T @ M + alpha * torch.eye(72, dtype=F64))
    z, y = rand(2, 1, *shape, seed=3), rand(2, 1, 6 // factor, 12 // factor, seed=4)
    expected = (w * y.flatten(1) @ M + alpha * z.flatten(1)) @ inverse
    assert rel(A.data_step(y, w)(z, alpha).flatten(1), expected) < 1e-12
    assert rel(A.preconditioner(w)(z, alpha).flatten(1), z.flatten(1) @ inverse) < 1e-12


def test_gradients_reach_the_kernel():
    k = rand(3, 3).requires_grad_()
    x, y = rand(1, 1, 4, 6, seed=2), rand(1, 1, 2, 3, seed=3)
    w, alpha = torch.tensor(1.7, dtype=F64), torch.tensor(0.2, dtype=F64)

    def step(k: torch.Tensor) -> torch.Tensor:
        A = Downsample((4, 6), 2, k)
        return A.data_step(y, w)(x, alpha) + A.A_adjoint(A.A(x))

    assert torch.autograd.gradcheck(step, (k,))


def test_it_solves_and_is_named():
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    truth = ((rows - 14) ** 2 + (columns - 18) ** 2 < 80).float()[None, None]
    A = OPERATORS["downsample"](shape=np.array([32, 32]), factor=np.int64(2), kernel=gaussian_kernel(0.8))
    y = A.A(truth) + 0.01 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    result = solve(A, y, lambda x, sigma: x, noise_std=0.01, x0=torch.zeros_like(truth))
    assert set(result.history["inner"]) == {0.0}  # the closed form
    assert rel(A.A(result.x), y) < 0.02
    assert repr(A) == "Downsample((32, 32), 2, kernel=<(9, 9) torch.float32>, boundary='circular')"
    assert repr(eval(repr(Downsample((4, 6), 2)))) == "Downsample((4, 6), 2)"


def test_it_is_made_from_a_file(tmp_path):
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["measurements"] = rand(1, 1, 3, 4).numpy()
        group = file.create_group("operator")
        group.attrs.update(name="downsample", shape=(6.0, 8.0), factor=2.0, boundary="reflect")
        group["kernel"] = gaussian_kernel(0.4).numpy()
    found = read_measurements(tmp_path / "y.h5")
    A = OPERATORS[found.operator](**found.parameters)
    assert isinstance(A, Downsample) and (A.shape, A.factor, A.boundary) == ((6, 8), 2, "reflect")
    assert torch.equal(A.kernel, gaussian_kernel(0.4))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (((6, 8), 4), ValueError, "factor"),
        (((6, 8), 0), ValueError, "factor"),
        (((6, 8), 2.0), TypeError, "factor"),
        (((6, 8), True), TypeError, "factor"),
        ((6, 2), TypeError, "shape"),
        (((6, 8), 2, rand(7, 3)), ValueError, "kernel"),
        (((6, 8), 2, rand(3, 3) > 0), TypeError, "kernel"),
        (((6, 8), 2, rand(3, 3), "valid"), ValueError, "boundary"),
    ],
)
def test_bad_arguments_are_explained(arguments, kind, message):
    with pytest.raises(kind, match=message) as caught:
        Downsample(*arguments)
    assert len(str(caught.value)) < 400
