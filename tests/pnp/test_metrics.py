"""Figures of merit against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays

from pnp.metrics import matthews, nrmse, pearson_r, psnr, ssim


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.random((1, 1, 24, 32))
    return reference + 0.1 * rng.standard_normal(reference.shape), reference


def test_psnr_of_a_known_error():
    reference = torch.zeros(1, 1, 4, 4)
    assert psnr(reference + 0.1, reference, data_range=1.0) == pytest.approx(20.0, abs=1e-5)
    assert psnr(reference + 0.1, reference, data_range=10.0) == pytest.approx(40.0, abs=1e-5)
    assert psnr(reference, reference, data_range=1.0) == math.inf


def test_psnr_needs_a_data_range():
    with pytest.raises(TypeError, match="data_range"):
        psnr(np.zeros(4), np.ones(4))  # type: ignore[call-arg]


def test_metrics_do_not_depend_on_the_unit(pair):
    x, reference = pair
    scale = 1e-6
    assert psnr(scale * x, scale * reference, data_range=scale) == pytest.approx(psnr(x, reference, data_range=1))
    assert ssim(scale * x, scale * reference, data_range=scale) == pytest.approx(ssim(x, reference, data_range=1))
    assert nrmse(scale * x, scale * reference) == pytest.approx(nrmse(x, reference))
    assert pearson_r(scale * x, scale * reference) == pytest.approx(pearson_r(x, reference))


def test_ssim_is_one_for_equal_images_and_a_mean_over_images(pair):
    x, reference = pair
    assert ssim(reference, reference, data_range=1) == pytest.approx(1)
    both = ssim(np.concatenate([x, reference]), np.concatenate([reference, reference]), data_range=1)
    assert both == pytest.approx((1 + ssim(x, reference, data_range=1)) / 2)


def test_nrmse_counts_only_the_mask_and_forgets_the_mean(pair):
    x, reference = pair
    mask = np.zeros((24, 32), bool)
    mask[:12] = True
    spoiled = np.where(mask, x, 1e9)
    assert nrmse(spoiled, reference, mask=mask) == pytest.approx(nrmse(x[..., :12, :], reference[..., :12, :]))
    assert nrmse(reference + 5, reference, centred=True) == pytest.approx(0, abs=1e-12)
    assert nrmse(np.zeros_like(reference), reference) == pytest.approx(1)


def test_pearson_r_agrees_with_numpy(pair):
    x, reference = pair
    assert pearson_r(x, reference) == pytest.approx(np.corrcoef(x.ravel(), reference.ravel())[0, 1])
    assert pearson_r(3 - 2 * reference, reference) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psnr(np.zeros(4), np.zeros(5), data_range=1), "one shape"),
        (lambda: psnr(np.zeros(4), np.ones(4), data_range=0), "data_range"),
        (lambda: ssim(np.zeros((8, 8)), np.zeros((8, 8)), data_range=1), "at least 11"),
        (lambda: nrmse(np.ones(4), np.zeros(4)), "zero"),
        (lambda: nrmse(np.ones(4), np.ones(4), mask=np.zeros(4)), "true somewhere"),
        (lambda: nrmse(np.ones(4), np.ones(4), mask=np.ones(3)), "broadcast"),
        (lambda: pearson_r(np.ones(4), np.arange(4)), "constant"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert len(str(caught.value)) < 400


@given(arrays(bool, (4, 5)), arrays(bool, (4, 5)))
def test_matthews_is_the_formula_of_the_four_counts(x, reference):
    tp, tn = np.sum(x & reference), np.sum(~x & ~reference)
    fp, fn = np.sum(x & ~reference), np.sum(~x & reference)
    product = float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    want = (tp * tn - fp * fn) / product**0.5 if product else 0.0
    assert matthews(x, reference) == pytest.approx(want, abs=1e-12)


def test_matthews_wants_segmentations():
    with pytest.raises(ValueError, match=": x "):
        matthews([0.2, 1.0], [True, False])


def test_complex_images_count_with_both_parts():
    x = torch.tensor([[1 + 1j, 2.0], [0.5j, 0.0]])
    r = x + torch.tensor([[0.1j, 0.0], [0.0, 0.1]])
    assert psnr(x, r, data_range=1) == pytest.approx(10 * math.log10(4 / 0.02), abs=1e-5)
    assert psnr(x.numpy(), x.real.numpy(), data_range=1) == pytest.approx(10 * math.log10(4 / 1.25), abs=1e-5)
    assert nrmse(x, r) == pytest.approx(float(torch.linalg.norm(x - r) / torch.linalg.norm(r)), abs=1e-6)
    for measure in (pearson_r, matthews):
        with pytest.raises(TypeError, match="reference must be real"):
            measure(x.real, r)
