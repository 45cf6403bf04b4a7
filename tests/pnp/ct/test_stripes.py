"""Stripe filters: those of algotom on our axes and types, what they remove, and what is refused."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from arrays import F64, rand
from torch import Tensor

from operators import Radon
from pnp.ct import remove_stripes
from pnp.phantoms import head

N, VIEWS = 96, 120
SMALL = {"sorting": {"size": 5}, "filtering": {"size": 5}, "large": {"size": 9}, "all": {"la_size": 9, "sm_size": 5}}


def sinogram() -> Tensor:
    """A noisy scan of a head."""
    x = head(N)
    y = Radon((N, N), torch.arange(VIEWS) * (math.pi / VIEWS), n_detectors=N).A(x / x.sum(-1).max() * 2)
    return y.to(F64) + 0.005 * rand(*y.shape)


def striped(y: Tensor) -> Tensor:
    """Bins off by a constant."""
    out = y.clone()
    out[..., 10::20] += 0.05
    return out


@pytest.mark.parametrize("method", list(SMALL))
def test_stripes_go_and_the_object_stays(method: str) -> None:
    pytest.importorskip("algotom")
    y = sinogram()
    bad = striped(y)
    good = remove_stripes(bad, method, **SMALL[method])
    assert good.shape == y.shape and good.dtype == y.dtype
    error = (good - y).mean(-2)  # what is the same in all views
    assert float(error.norm()) < 0.7 * float((bad - y).mean(-2).norm())
    assert float((remove_stripes(y, method, **SMALL[method]) - y).abs().mean()) < 0.01


def test_it_calls_algotom_row_by_row() -> None:
    removal = pytest.importorskip("algotom.prep.removal")
    rows = torch.stack([sinogram()[0, 0], 0.5 * striped(sinogram())[0, 0]])
    found = remove_stripes(rows.numpy(), "sorting", size=7)
    for row, one in zip(rows.numpy(), found, strict=True):
        theirs = removal.remove_stripe_based_sorting(row, size=7)  # in single precision: a few values tie
        assert np.abs(one - theirs).mean() < 1e-5 * np.abs(row).mean()
    single = remove_stripes(rows.float().numpy(), "wavelet-fft", level=2)
    assert isinstance(single, np.ndarray) and single.dtype == np.float32 and single.shape == rows.shape
    # A filter that divides or takes magnitudes sees no air about 0: whatever is added comes back.
    for method in ("fft", "normalization", "large", "wavelet-fft"):
        a, b = remove_stripes(rows, method), remove_stripes(rows + 3, method)
        torch.testing.assert_close(a, b - 3, rtol=0, atol=1e-5)


def test_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    y = sinogram()
    with pytest.raises(ValueError, match="method"):
        remove_stripes(y, "median")
    with pytest.raises(ValueError, match="y must be"):
        remove_stripes(y[..., :10], "sorting")
    with pytest.raises(ValueError, match="finite"):
        remove_stripes(torch.full_like(y, math.nan), "sorting")
    monkeypatch.setitem(sys.modules, "algotom.prep.removal", None)
    with pytest.raises(ImportError, match="algotom"):
        remove_stripes(y, "sorting")


def test_what_algotom_refuses_is_one_sentence() -> None:
    pytest.importorskip("algotom")
    y = sinogram()
    with pytest.raises(TypeError, match="size"):
        remove_stripes(y, "sorting", sizes=3)
    with pytest.raises(ValueError, match="dead"):
        remove_stripes(torch.zeros_like(y), "dead")
