"""Muon: orthogonal updates of the stated size, equal to torch's where that applies; which weights it is for."""

from functools import partial

import arrays
import pytest
import torch
from torch import nn

from pnp.training.muon import Muon, _orthogonalize, hidden_weights

rand = partial(arrays.rand, dtype=torch.float32)


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (7, 7), (3, 6, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonalize_keeps_singular_vectors_and_levels_singular_values(shape, dtype):
    m = 1e-3 * rand(*shape).to(dtype)
    x = _orthogonalize(m)
    u, _, vh = torch.linalg.svd(m.double(), full_matrices=False)
    inner = u.mT @ x.double() @ vh.mT
    values = inner.diagonal(dim1=-2, dim2=-1)
    assert x.dtype == dtype and 0.6 < values.min() and values.max() < 1.25
    assert float((inner - torch.diag_embed(values)).abs().max()) < (1e-6 if dtype == torch.float64 else 0.06)


def test_zeros_stay_zeros():
    assert not _orthogonalize(torch.zeros(3, 4)).any()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_the_same_as_torch_on_matrices():
    ours, theirs = (nn.Parameter(rand(12, 30)) for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.01}
    a = Muon([ours], **settings)
    b = torch.optim.Muon([theirs], momentum=0.95, adjust_lr_fn="match_rms_adamw", **settings)
    for k in range(4):
        ours.grad = rand(12, 30, seed=k + 1)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    moved = (theirs.detach() - rand(12, 30)).norm()
    assert float((ours - theirs).detach().norm() / moved) < 0.05  # both round to bfloat16, in another order


def test_weights_of_any_rank_are_matrices_of_rows():
    kernel, matrix, alike = nn.Parameter(rand(4, 3, 2, 2)), nn.Parameter(rand(4, 12)), nn.Parameter(rand(4, 12, seed=9))
    optimizer = Muon([kernel, matrix, alike], lr=0.1)
    kernel.grad, matrix.grad, alike.grad = rand(4, 3, 2, 2, seed=1), rand(4, 12, seed=1), rand(4, 12, seed=2)
    start = matrix.detach().clone()
    optimizer.step()
    torch.testing.assert_close(kernel.reshape(4, 12), matrix.detach(), rtol=0, atol=1e-3)
    step = (matrix.detach() - 0.999 * start) / 0.1
    assert float(step.square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)


def test_decay_is_decoupled_and_vectors_are_refused():
    p, untouched = nn.Parameter(rand(3, 5)), nn.Parameter(rand(3, 5))
    p.grad = torch.zeros_like(p)
    Muon([p, untouched], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(p.detach(), 0.95 * rand(3, 5))
    assert torch.equal(untouched.detach(), rand(3, 5))
    with pytest.raises(ValueError, match="two axes"):
        Muon([nn.Parameter(torch.zeros(3))])


def test_hidden_weights_are_those_between_the_first_and_the_last():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.Linear(5, 6), nn.Linear(6, 1))
    net.register_parameter("taps", nn.Parameter(torch.zeros(5, 2)))
    assert [tuple(p.shape) for p in hidden_weights(net)] == [(5, 4, 3, 3), (6, 5)]
    assert hidden_weights(nn.Conv2d(1, 1, 3)) == []
