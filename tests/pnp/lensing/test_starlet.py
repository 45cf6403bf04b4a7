"""The starlet transform against its definition, its noise and lenspack; the sparse map against its optimality."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arrays import seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import KaiserSquires
from pnp import Stop
from pnp.lensing import compare_mass_maps
from pnp.lensing.shear import noise_like
from pnp.lensing.starlet import (
    _starlet_adjoint,
    _starlet_noise,
    _white_noise_std,
    starlet_inverse,
    starlet_map,
    starlet_transform,
)


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    border=st.sampled_from(["periodic", "mirror"]),
    generation=st.sampled_from([1, 2]),
    data=st.data(),
)
def test_reconstruction_and_adjoint_are_exact(size, border, generation, data):
    n_scales = data.draw(st.integers(1, int(math.log2(min(size)))))
    x = torch.randn(2, 3, *size, generator=seeded(), dtype=torch.float64)
    options = {"border": border, "generation": generation}
    c = starlet_transform(x, n_scales, **options)
    assert c.shape == (n_scales + 1, 2, 3, *size)
    torch.testing.assert_close(starlet_inverse(c, **options), x, rtol=1e-12, atol=1e-12)
    d = torch.randn(c.shape, generator=seeded(1), dtype=torch.float64)
    gap = (c * d).sum() - (x * _starlet_adjoint(d, **options)).sum()
    assert abs(float(gap)) < 1e-12 * float(c.norm() * d.norm())


@pytest.mark.parametrize("border", ["periodic", "mirror"])
def test_scales_are_differences_of_b_spline_smoothings(border):
    x = torch.randn(1, 1, 16, 19, generator=seeded(), dtype=torch.float64)
    mode = {"periodic": "wrap", "mirror": "symmetric"}[border]
    image, smooth = x[0, 0].numpy(), []
    for j in range(3):
        taps = np.zeros(4 * 2**j + 1)
        taps[:: 2**j] = np.array([1, 4, 6, 4, 1]) / 16
        padded = np.pad(image, 2 * 2**j, mode=mode)
        image = sum(
            taps[a] * taps[b] * padded[a : a + 16, b : b + 19] for a in range(len(taps)) for b in range(len(taps))
        )
        smooth.append(image)
    c = starlet_transform(x, 3, border=border)[:, 0, 0].numpy()
    np.testing.assert_allclose(c[0], x[0, 0].numpy() - smooth[0], atol=1e-13)
    np.testing.assert_allclose(c[2], smooth[1] - smooth[2], atol=1e-13)
    np.testing.assert_allclose(c[3], smooth[2], atol=1e-13)


def test_first_generation_has_norm_one():
    delta = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    delta[..., 0, 0] = 1
    responses = torch.fft.fft2(starlet_transform(delta, 4)).real
    assert float(responses.min()) > -1e-12
    assert float(responses.square().sum(0).max()) == pytest.approx(1, rel=1e-12)


def test_a_constant_and_a_delta():
    flat = starlet_transform(torch.full((1, 1, 16, 16), 3.0, dtype=torch.float64), 3, border="mirror")
    assert float(flat[:-1].abs().max()) < 1e-13 and float(flat[-1].min()) == pytest.approx(3)
    delta = torch.zeros(1, 1, 16, 16)
    delta[..., 8, 8] = 1
    assert float(starlet_transform(delta, 2)[0, 0, 0, 8, 8]) == pytest.approx(1 - (6 / 16) ** 2)


@pytest.mark.parametrize("generation", [1, 2])
def test_white_noise_std_is_closed_form_and_simulation(generation):
    std = _white_noise_std(4, generation=generation)
    noise = torch.randn(4, 1, 256, 256, generator=seeded(), dtype=torch.float64)
    measured = starlet_transform(noise, 4, generation=generation).square().mean((1, 2, 3, 4)).sqrt()
    torch.testing.assert_close(measured, std, rtol=0.05, atol=0)
    if generation == 1:  # the table every paper on starlets prints
        np.testing.assert_allclose(std[:4], [0.889, 0.200, 0.086, 0.041], atol=0.003)


def test_parity_with_lenspack_inside():
    transforms = pytest.importorskip("lenspack.image.transforms", reason="lenspack is not installed")
    x = torch.randn(1, 1, 64, 80, generator=seeded(), dtype=torch.float64)
    theirs = transforms.starlet2d(x[0, 0].numpy(), 3)
    ours = starlet_transform(x, 3)[:, 0, 0].numpy()
    np.testing.assert_allclose(ours[:, 16:-16, 16:-16], theirs[:, 16:-16, 16:-16], atol=1e-13)


def test_propagated_noise_is_the_norm_of_each_whitened_atom():
    A = KaiserSquires((31, 33))
    noise_std = torch.full((1, 2, 31, 33), 0.3, dtype=torch.float64)
    noise_std[..., 10:20, 10:14] = math.inf
    got = _starlet_noise(A, noise_std, (31, 33), 2, generator=seeded(), draws=600, dtype=torch.float64)
    whitener = 1 / noise_std
    for scale in range(3):
        one = torch.zeros(3, 1, 1, 31, 33, dtype=torch.float64)
        one[scale, ..., 3, 25] = 1  # far from the hole
        exact = float((whitener * A.A(_starlet_adjoint(one))).norm())
        assert float(got[scale, 0, 0, 3, 25]) == pytest.approx(exact, rel=0.1)
    assert float(got[0, 0, 0, 15, 12]) < 0.8 * float(got[0, 0, 0, 3, 25])  # blind: less noise comes through


@pytest.fixture(scope="module")
def lens():
    """A halo, its shear behind a hole, in float64."""
    rows, columns = torch.arange(48.0, dtype=torch.float64)[:, None], torch.arange(48.0, dtype=torch.float64)
    kappa = torch.exp(-((rows - 20) ** 2 + (columns - 26) ** 2) / (2 * 3**2))[None, None]
    noise_std = torch.full((1, 2, 48, 48), 0.1, dtype=torch.float64)
    noise_std[..., 30:36, 5:15] = math.inf
    A = KaiserSquires((48, 48))
    y = A.A(kappa)
    return A, kappa, y + noise_like(y, noise_std, generator=seeded()), noise_std


def test_sparse_map_finds_the_halo_and_nothing_in_noise(lens):
    A, kappa, y, noise_std = lens
    x = starlet_map(A, y, noise_std, generator=seeded(1), k_sigma=5).kappa
    assert x.shape == kappa.shape and x.dtype == torch.float64
    peak = int(x.flatten().argmax())
    assert abs(peak // 48 - 20) <= 1 and abs(peak % 48 - 26) <= 1
    assert float((x - kappa + kappa.mean() - x.mean()).norm()) < 0.6 * float(kappa.norm())
    noise = noise_like(y, noise_std, generator=seeded(3))
    assert float(starlet_map(A, noise, noise_std, generator=seeded(1), k_sigma=6).kappa.abs().max()) == 0


def test_sparse_map_minimises_its_objective():
    A, noise_std = KaiserSquires((21, 20)), torch.full((1, 2, 21, 20), 0.1, dtype=torch.float64)
    noise_std[..., 8:12, 5:8] = math.inf
    weights, n_scales = noise_std**-2, 2
    truth = torch.zeros(1, 1, 21, 20, dtype=torch.float64)
    truth[..., 9:13, 12:16] = 1
    y = A.A(truth) + noise_like(A.A(truth), noise_std, generator=seeded())
    std = _starlet_noise(A, noise_std, (21, 20), n_scales, generator=seeded(1), dtype=torch.float64)
    observed = std[..., noise_std[0, 0].isfinite()].square().mean(-1).sqrt()
    std = torch.maximum(std, observed[..., None, None])

    def violation(max_iter: int) -> float:
        """The largest |T A*W(gamma - A kappa)| / (k s), 1 at the minimum unless kappa is 0."""
        x = starlet_map(A, y, noise_std, generator=seeded(1), n_scales=n_scales, max_iter=max_iter, rtol=0).kappa
        dual = starlet_transform(A.A_adjoint(weights * (torch.where(weights > 0, y, 0.0) - A.A(x))), n_scales)
        return float((dual.abs() / (3 * std)).max())

    assert violation(5) > 1.1
    assert violation(800) == pytest.approx(1, rel=1e-3)


def test_blind_pixels_hold_nothing_but_the_wings_of_what_is_seen(lens):
    A, _, y, noise_std = lens
    wide = noise_std.clone()
    wide[..., :12] = math.inf  # a blind border, as surveys have
    finest = starlet_transform(starlet_map(A, y, wide, generator=seeded(1)).kappa, 3)[0]
    assert float(finest[..., :10].abs().max()) < 0.05 * float(finest[..., 14:].abs().max())


def test_reweighting_takes_shrinkage_back(lens):
    A, kappa, y, noise_std = lens
    plain, again = (starlet_map(A, y, noise_std, generator=seeded(1), reweightings=n).kappa for n in (0, 2))
    assert float(plain.max()) < float(again.max()) < 1.2 * float(kappa.max())


class Interrupting(KaiserSquires):
    """Kaiser and Squires' operator, interrupted in its call of A number `at`."""

    def __init__(self, at):
        super().__init__((48, 48))
        self.calls, self.at = 0, at

    def A(self, x):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().A(x)


def test_ctrl_c_returns_the_last_iterate_and_why_it_stopped_is_said(lens):
    A, _, y, noise_std = lens
    found = starlet_map(Interrupting(4), y, noise_std, generator=seeded(1))
    whole = starlet_map(A, y, noise_std, generator=seeded(1), max_iter=3)
    assert (found.stop, found.n_iter, whole.stop) == (Stop.INTERRUPTED, 3, Stop.MAX_ITER)
    assert torch.equal(found.kappa, whole.kappa) and found.history == whole.history
    done = starlet_map(A, y, noise_std, generator=seeded(1), rtol=0.05)
    assert done.stop is Stop.CONVERGED and done.history["change"][-1] <= 0.05 < done.history["change"][-2]
    with pytest.raises(KeyboardInterrupt):
        starlet_map(Interrupting(1), y, noise_std, generator=seeded(1))
    with pytest.raises(KeyboardInterrupt):  # an unfinished map is not compared
        compare_mass_maps(y, noise_std, operator=Interrupting(4), generator=seeded(1), baselines=["starlet"])


def test_unit_dtype_blind_values_and_seed(lens):
    A, _, y, noise_std = lens
    once = starlet_map(A, y.float(), noise_std.float(), generator=seeded(1)).kappa
    assert once.dtype == torch.float32
    assert torch.equal(once, starlet_map(A, y.float(), noise_std.float(), generator=seeded(1)).kappa)
    nan = torch.where(noise_std.isfinite(), y, torch.nan)
    scaled = starlet_map(A, nan * 1e-6, noise_std * 1e-6, generator=seeded(1)).kappa
    torch.testing.assert_close(
        scaled * 1e6, starlet_map(A, y, noise_std, generator=seeded(1)).kappa, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: starlet_transform(torch.zeros(8, 8), 1), ValueError, ": x "),
        (lambda: starlet_transform(np.zeros((1, 1, 8, 8)), 1), TypeError, "floating tensor"),
        (lambda: starlet_transform(torch.zeros(1, 1, 8, 8), 4), ValueError, "at most 3"),
        (lambda: starlet_transform(torch.zeros(1, 1, 8, 8), 1, border="zero"), ValueError, "border"),
        (lambda: starlet_transform(torch.zeros(1, 1, 8, 8), 1, generation=3), ValueError, "1 or 2"),
        (lambda: starlet_inverse(torch.zeros(1, 1, 8, 8)), ValueError, "n_scales"),
        (
            lambda: starlet_map(
                KaiserSquires((8, 8)), torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8), generator=seeded()
            ),
            ValueError,
            "noise_std",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert len(str(caught.value)) < 400
