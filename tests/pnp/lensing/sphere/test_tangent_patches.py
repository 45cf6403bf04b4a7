"""A denoiser on patches of the sphere: against what harmonics say, at the seams, near the poles, and turned skies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from arrays import rand, rel
from torch import Tensor
from torch.nn.functional import conv2d

from denoisers import TV
from operators.lensing.harmonics import Harmonics
from pnp.lensing.sphere import TangentPatches
from pnp.lensing.sphere.pixels import directions, disc, pixel_side

pytest.importorskip("ducc0", reason="ducc0 is not installed")

WIDTH = 1.5


def blur(x: Tensor, sigma: object) -> Tensor:
    """Gaussian of 1.5 pixels."""
    t = torch.arange(-8, 9, dtype=x.dtype)
    g = torch.exp(-(t**2) / (2 * WIDTH**2))
    g = g / g.sum()
    return conv2d(conv2d(x, g[None, None, :, None], padding=(8, 0)), g[None, None, None], padding=(0, 8))


def sky(nside: int, lmax: int, seed: int = 0) -> tuple[Harmonics, Tensor, Tensor]:
    """Transforms, multipoles of the coefficients and coefficients of a random sky with power up to lmax."""
    h = Harmonics(nside, 2 * nside)
    ell = h.per_multipole(torch.arange(h.lmax + 1)).double()
    return h, ell, torch.exp(-ell / (lmax / 4)) * rand(1, 1, h.n_coefficients, seed=seed)


def by_border(D: TangentPatches) -> np.ndarray:
    """The angle of every pixel from the nearest centre of a patch: the borders are where it is largest."""
    at, found = directions(D.nside), np.full(12 * D.nside**2, np.inf)
    for centre in D.centres:
        pixels = disc(D.nside, centre, D.radius)
        found[pixels] = np.minimum(found[pixels], np.arccos(np.clip(at[pixels] @ centre, -1, 1)))
    return found


def test_a_blur_on_patches_is_one_of_the_sphere() -> None:
    """exp(-l (l + 1) s^2/2) for a Gaussian of s radians, near poles and borders as elsewhere."""
    h, ell, c = sky(64, 128)
    D = TangentPatches(blur, 64)
    expected = h.synthesis(c * torch.exp(-ell * (ell + 1) * (WIDTH * D.spacing) ** 2 / 2))
    error = (D(h.synthesis(c), 1.0) - expected)[0, 0] / expected.std()
    assert error.std() < 0.02
    near_pole = torch.from_numpy(np.abs(directions(64)[:, 2]) > math.cos(math.radians(15)))
    assert error[near_pole].std() < 0.02
    rho = torch.from_numpy(by_border(D))
    inside, border = error[rho < rho.quantile(0.2)], error[rho > rho.quantile(0.8)]
    assert border.std() < 1.5 * inside.std() and abs(error.mean()) < 1e-3


def test_smooth_skies_stay_as_they_are() -> None:
    h, _, c = sky(32, 16)
    kappa = h.synthesis(c)
    assert rel(TangentPatches(lambda x, sigma: x, 32)(kappa, 0.1), kappa) < 6e-3


def test_noise_on_the_grid_has_the_power_that_sigma_says() -> None:
    """The periodogram of white noise, between low frequencies and lmax."""
    nside, sigma, powers = 32, 0.3, []
    D = TangentPatches(lambda x, s: (seen.append((x, s)), x)[1], nside)
    seen: list[tuple[Tensor, Tensor]] = []
    D(sigma * rand(1, 1, 12 * nside**2), sigma)
    for x, s in seen:
        assert float(s) == pytest.approx(D.noise_factor * sigma)
        window = torch.hann_window(x.shape[-1], periodic=True, dtype=x.dtype)
        window = window[:, None] * window
        spectrum = torch.fft.fft2(window * x).abs().square().mean((0, 1)) / window.square().sum()
        f = torch.fft.fftfreq(x.shape[-1])
        f = torch.hypot(f[:, None], f)
        powers.append(float(spectrum[(f > 0.05) & (f < 0.42)].mean()))
    assert np.mean(powers) == pytest.approx((D.noise_factor * sigma) ** 2, rel=0.03)
    assert D.noise_factor == pytest.approx(pixel_side(nside) * 2 * nside / math.pi)


def test_a_turned_sky_gives_the_turned_answer() -> None:
    """With total variation, which is not linear: the turn moves poles, borders and pixels."""
    import ducc0

    nside = 32
    h, _, c = sky(nside, 40, seed=1)
    c = c + 0.02 * rand(1, 1, h.n_coefficients, seed=2) * (h.per_multipole(torch.arange(h.lmax + 1)) < 50)

    def turned(c: Tensor) -> Tensor:
        a = ducc0.sht.rotate_alm(h.alm(c)[0, 0], h.lmax, 0.4, 1.1, -0.7)
        return h.coefficients(a[None, None])

    def smooth(x: Tensor) -> Tensor:
        """Coefficients below lmax/2, as an interpolated map has no others to compare."""
        w = 4 * math.pi / h.n_pix
        return w * h.adjoint(x) * (h.per_multipole(torch.arange(h.lmax + 1)) < nside)

    D = TangentPatches(TV(max_iter=60), nside)
    x = h.synthesis(c)
    sigma = 0.3 * float(x.std())
    z, z_turned = smooth(D(x, sigma)), smooth(D(h.synthesis(turned(c)), sigma))
    assert rel(z, smooth(x)) > 0.1, "there is something to turn"
    assert rel(turned(z), z_turned) < 0.03


def test_masks_choose_patches_and_change_nothing_within() -> None:
    h, _, c = sky(32, 40)
    seen = np.zeros(h.n_pix, dtype=bool)
    seen[disc(32, directions(32, np.array([5000]))[0], 0.3)] = True
    whole, part = TangentPatches(blur, 32), TangentPatches(blur, 32, mask=seen)
    x = h.synthesis(c)
    assert len(part.centres) < len(whole.centres) / 3
    inside = torch.from_numpy(seen)
    assert torch.equal(part(x, 1.0)[..., inside], whole(x, 1.0)[..., inside])
    assert (part(x, 1.0) == 0).float().mean() > 0.5


def test_batches_levels_and_dtypes() -> None:
    h, _, c = sky(16, 20)
    x = torch.cat([h.synthesis(c), 2 * h.synthesis(c)])
    D = TangentPatches(lambda x, s: x * torch.as_tensor(s).reshape(-1, 1, 1, 1), 16, batch_size=7)
    both = D(x, torch.tensor([1.0, 3.0], dtype=x.dtype))
    assert rel(both[1:], 3 * D(x[1:], 1.0)) < 1e-6
    assert D(x.float(), 1.0).dtype == torch.float32 and rel(D(x.float(), 1.0).double(), D(x, 1.0)) < 1e-5


def test_what_does_not_fit_is_refused() -> None:
    for options, name in [
        ({"nside": 4}, "nside"),
        ({"nside": 12}, "nside"),
        ({"nside": 16, "lmax": 48}, "lmax"),
        ({"nside": 16, "mask": np.zeros(3072)}, "mask"),
        ({"nside": 16, "margin_px": -1}, "margin_px"),
    ]:
        with pytest.raises(ValueError, match=name):
            TangentPatches(blur, **options)
    with pytest.raises(ValueError, match=r"x must be \(B, 1, 3072\)"):
        TangentPatches(blur, 16)(torch.zeros(1, 3072), 1.0)
