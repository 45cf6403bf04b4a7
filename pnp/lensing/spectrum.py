"""Power spectra of maps behind a mask, and the spectrum of the convergence measured from the shear itself.

Powers are in the unit of `pixel_spectrum`: white noise of standard deviation s per pixel has the power s^2, and
C(l) = power side^2 at l = 2 pi f/side for pixels of `side` radians and f cycles per pixel.

Behind a window v a field of power P has the pseudo-power <|v kappa|^2> = |v|^2 * P, a convolution; smooth spectra
are only multiplied by mean(v^2). The window mixes E and B modes of shear: with the field's phase e^{2 i phi} and both
maps from v gamma (Hivon et al. 2002, ApJ 567, 2, here on a flat sky),

    E_k = sum_q v_{k-q} cos 2(phi_q - phi_k) kappa_q,     B_k = sum_q v_{k-q} sin 2(phi_q - phi_k) kappa_q.

`measured_spectrum` fits log P = a + b log f + c log^2 f, with the level n of the noise, to band powers of E and B by
the likelihood of Whittle (1953), each band chi^2 distributed about its mean
mu: -2 log L = sum nu [p/mu + log mu]. B determines n, so that the noise need not be known; P is positive and smooth
where E - B would be negative.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..algorithms.protocols import Operator
from ..checks import check_number
from .peaks import check_maps
from .shear import check_shear

_Array: TypeAlias = "npt.NDArray[np.float64]"
# a: natural logarithm of P over the noise at the middle frequency; b; c, never curving up; log n.
_FIT_BOUNDS = ((-16.0, 16.0), (-4.0, 1.0), (-1.0, 0.0), (-6.0, 6.0))


class BandPowers(NamedTuple):
    """Powers averaged over rings of frequency."""

    edges: Tensor
    """(n + 1,) edges in cycles per pixel; band i holds edges[i] <= f < edges[i + 1]."""
    frequency: Tensor
    """(n,) mean frequency of each band's modes, cycles per pixel."""
    power: Tensor
    """(B, n), in the unit of `pixel_spectrum`."""
    n_modes: Tensor
    """(n,) number of the full FFT's frequencies in each band, that is of independent real numbers of a real map."""

    def ell(self, pixel_arcmin: float) -> Tensor:
        """Return the multipole of each band for pixels of this side in arcminutes."""
        return 2 * math.pi * self.frequency / math.radians(pixel_arcmin / 60)


class MeasuredSpectrum(NamedTuple):
    """Result of `measured_spectrum`."""

    spectrum: Tensor
    """(H, W), float64, in the unit of `pixel_spectrum`, for `wiener`; 0 at frequency zero."""
    noise_factor: float
    """Variance of the noise over noise_std^2: about 1 where noise_std is right."""
    e_mode: BandPowers
    """Pseudo-powers of E over mean(v^2)."""
    b_mode: BandPowers
    """Pseudo-powers of B over mean(v^2): noise, and E modes that the mask turned into B."""


def b_mode(operator: Operator, y: Tensor) -> Tensor:
    """Return the B map (B, 1, H, W) of shear y: the E map after a turn of all shapes by 45 degrees.

    D* (gamma1 + i gamma2) = E + iB, hence B = A* (gamma2, -gamma1), for any signs of the operator's convention.
    """
    return operator.A_adjoint(rotated(y))


def rotated(y: Tensor) -> Tensor:
    """Return shear (B, 2, H, W) with every shape turned by 45 degrees: B becomes E, and E becomes -B."""
    gamma1, gamma2 = y.unbind(-3)
    return torch.stack([gamma2, -gamma1], dim=-3)


def band_powers(x: Tensor, *, mask: Tensor | None = None, n_bands: int = 12) -> BandPowers:
    """Return the powers of maps in logarithmic bands of frequency, corrected for the mask by mean(mask^2).

    Args:
        x: maps (B, 1, H, W); their weighted mean is subtracted first.
        mask: weights that broadcast against x, 0 where unknown (x may be NaN there); None: 1. Its edges mix
            neighbouring frequencies, which is not corrected.
        n_bands: number of bands between one cycle per side and the Nyquist frequency; the corners beyond, and bands
            without modes, are left out.
    """
    check_maps("band_powers", x)
    v = torch.ones_like(x) if mask is None else mask.to(x.dtype).expand_as(x)
    x = torch.where(v != 0, x, torch.zeros_like(x))
    total = v.sum((-3, -2, -1), keepdim=True)
    if not bool((total > 0).all()):
        raise ValueError(
            "band_powers: mask must be positive somewhere in each map, got none; check that it is not inverted"
        )
    x = v * (x - (v * x).sum((-3, -2, -1), keepdim=True) / total)
    rings = _Rings((int(x.shape[-2]), int(x.shape[-1])), n_bands, x.device)
    return rings.powers(rings.mean(_power(x)) / v.double().square().mean((-3, -2, -1))[:, None])


def band_means(spectrum: Tensor, *, n_bands: int = 12) -> Tensor:
    """Return the mean (n,) of a spectrum (H, W), as `pixel_spectrum`, over each band of `band_powers`."""
    rings = _Rings((int(spectrum.shape[0]), int(spectrum.shape[1])), n_bands, spectrum.device)
    return rings.mean(spectrum[None].double())[0]


def gaussian_maps(
    spectrum: Tensor, batch: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw periodic Gaussian maps (batch, 1, H, W) of a power spectrum (H, W), on the generator's device.

    >>> maps = gaussian_maps(torch.ones(8, 8), 3, generator=torch.Generator().manual_seed(0))
    >>> maps.shape
    torch.Size([3, 1, 8, 8])
    """
    height, width = spectrum.shape
    white = torch.randn(batch, 1, height, width, generator=generator, dtype=dtype, device=generator.device)
    root = spectrum[:, : width // 2 + 1].to(generator.device, dtype).sqrt()
    maps: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * root, s=(height, width))
    return maps


def on_grid(spectrum: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return an isotropic spectrum (H, W), as `pixel_spectrum`, at the frequencies of a map of another shape.

    Its means over rings half a frequency wide are interpolated; below the least frequency a power law goes on.
    """
    f, p = (t.flatten().double().cpu().numpy() for t in (_frequency(spectrum.shape), spectrum))
    band = np.rint(f * 2 * max(spectrum.shape)).astype(int)
    n = np.bincount(band)
    kept = (np.arange(len(n)) > 0) & (n > 0)  # frequency zero is not measured
    at, power = (np.bincount(band, weights=v)[kept] / n[kept] for v in (f, p))
    if len(at) > 1 and min(power[0], power[1]) > 0:
        slope = math.log(power[1] / power[0]) / math.log(at[1] / at[0])
        low = min(at[0] / 2, 1 / max(shape))
        at, power = np.append(low, at), np.append(power[0] * (low / at[0]) ** slope, power)
    wanted = _frequency(shape).numpy()
    wanted[0, 0] = at[0]
    floor = np.finfo(np.float64).tiny
    found = np.exp(np.interp(np.log(wanted), np.log(at), np.log(np.maximum(power, floor))))
    found[found < 2 * floor] = 0
    found[0, 0] = 0
    return torch.from_numpy(found)


def _frequency(shape: tuple[int, ...]) -> Tensor:
    """Return the frequencies of a map's FFT, (H, W) float64, cycles per pixel."""
    k2, k1 = (torch.fft.fftfreq(n, dtype=torch.float64) for n in shape)
    return torch.hypot(k2[:, None], k1)


@torch.no_grad()
def measured_spectrum(operator: Operator, y: Tensor, noise_std: Tensor, *, n_bands: int = 20) -> MeasuredSpectrum:
    """Measure the power spectrum of the convergence, and the noise level, from the shear.

    Both are the same for all images of a batch, which are averaged. The window v is the weight 1/noise_std^2 where both
    components are observed.

    Args:
        operator: convergence to shear on a periodic grid.
        y: shear (B, 2, H, W); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y; one for all images.
        n_bands: number of bands of the fit.
    """
    weights = check_shear("measured_spectrum", y, noise_std).expand(y.shape)
    v, noise = shear_window("measured_spectrum", weights)
    rings = _Rings((int(y.shape[-2]), int(y.shape[-1])), n_bands, y.device)
    seen = v.to(y.dtype) * torch.where(weights > 0, y, torch.zeros_like(y))
    e, b = rings.mean(_power(operator.A_adjoint(seen))), rings.mean(_power(b_mode(operator, seen)))
    area, fourth = float(v.square().mean()), float(v.square().square().mean())
    # In units of the noise, the bands of E followed by those of B.
    powers = torch.cat([e.mean(0), b.mean(0)]) / noise
    dof = (rings.n_modes * len(y) * area**2 / fourth).repeat(2)
    x = torch.log(rings.frequency)
    middle = x.mean()
    a, slope, curvature, log_n = whittle_fit(
        *(t.cpu().numpy() for t in (powers, _coupling(v[0, 0], rings) / area, dof, x - middle))
    )
    x = torch.log(torch.where(rings.f > 0, rings.f, rings.frequency[0])) - middle
    spectrum = noise / area * torch.exp(a + slope * x + curvature * x.square())
    spectrum[0, 0] = 0
    return MeasuredSpectrum(spectrum, math.exp(log_n), rings.powers(e / area), rings.powers(b / area))


class _Rings:
    """Logarithmic bands of frequency on the FFT's grid of a map."""

    def __init__(self, shape: tuple[int, int], n_bands: int, device: torch.device) -> None:
        check_number("n_bands", n_bands, above=1, or_equal=True, integer=True, caller="band_powers")
        k2 = torch.fft.fftfreq(shape[0], dtype=torch.float64, device=device)[:, None]
        k1 = torch.fft.fftfreq(shape[1], dtype=torch.float64, device=device)
        self.k1, self.k2, self.f = k1, k2, torch.hypot(k1, k2)
        inside = ((self.f > 0) & (self.f <= 0.5)).flatten()
        edges = torch.logspace(
            -math.log10(max(shape)), math.log10(0.5), n_bands + 1, dtype=torch.float64, device=device
        )
        counts = torch.bincount(torch.bucketize(self.f.flatten()[inside], edges[1:-1], right=True), minlength=n_bands)
        self.edges = torch.cat([edges[:1], edges[1:][counts > 0]])  # a band without modes is joined to the next
        self._band = torch.bucketize(self.f.flatten(), self.edges[1:-1], right=True)
        self._band[~inside] = len(self.edges) - 1
        self.n_modes = torch.bincount(self._band, minlength=len(self.edges))[:-1]
        self.frequency = self.mean(self.f[None])[0]

    def mean(self, values: Tensor) -> Tensor:
        """Average values (B, H, W) over each band: (B, n)."""
        sums = values.new_zeros(len(values), len(self.edges)).index_add_(1, self._band, values.flatten(1))
        return sums[:, :-1] / self.n_modes

    def ring(self, i: int) -> Tensor:
        """Return 1 on band i and 0 elsewhere, (H, W)."""
        return (self._band == i).to(self.f.dtype).reshape(self.f.shape)

    def powers(self, power: Tensor) -> BandPowers:
        """Return powers (B, n) with their bands."""
        return BandPowers(self.edges, self.frequency, power, self.n_modes)


def _power(x: Tensor) -> Tensor:
    """Return |FFT|^2 per pixel of maps (B, 1, H, W), as (B, H, W) float64."""
    power: Tensor = torch.fft.fft2(x[:, 0]).abs().double().square()
    return power / (x.shape[-1] * x.shape[-2])


def shear_window(caller: str, weights: Tensor) -> tuple[Tensor, float]:
    """Return v (1, 1, H, W), float64, of the weights (B, 2, H, W), and the noise's pseudo-power in v gamma's E or B."""
    if bool((weights != weights[:1]).any()):
        raise ValueError(f"{caller}: noise_std must be the same for all images of y; call image by image")
    w = weights[:1].double()
    seen = (w > 0).all(dim=1, keepdim=True)
    if not bool(seen.any()):
        raise ValueError(f"{caller}: noise_std must be finite for both components somewhere, got no such pixel")
    v = torch.where(seen, w.mean(dim=1, keepdim=True) / w.max(), torch.zeros_like(w[:, :1]))
    return v, float(torch.where(seen, v.square() / w, torch.zeros_like(w)).mean())


def _coupling(v: Tensor, rings: _Rings) -> Tensor:
    """Return the powers in the bands (rows) of E, then of B, behind the window for power 1 in each band (columns).

    With c = |v|^2 * P and c4 = e^{-4 i phi} (|v|^2 * P e^{4 i phi}), E is (c + Re c4)/2 and B (c - Re c4)/2.
    """
    phi = torch.atan2(rings.k2.expand_as(rings.f), rings.k1.expand_as(rings.f))
    phase = torch.polar(torch.ones_like(phi), 4 * phi)
    blur = torch.fft.fft2(torch.fft.fft2(v).abs().square() / v.numel() ** 2)
    e, b = [], []
    for i in range(len(rings.n_modes)):
        ring = rings.ring(i)
        c = torch.fft.ifft2(blur * torch.fft.fft2(ring)).real
        c4 = (torch.fft.ifft2(blur * torch.fft.fft2(ring * phase)) * phase.conj()).real
        both = rings.mean(torch.stack([c + c4, c - c4]) / 2)
        e.append(both[0])
        b.append(both[1])
    return torch.cat([torch.stack(e, dim=1), torch.stack(b, dim=1)])


def whittle_fit(p: _Array, M: _Array, nu: _Array, x: _Array) -> tuple[float, float, float, float]:
    """Return (a, b, c, log n) that maximise the likelihood of band powers p with mean M exp(a + b x + c x^2) + n."""
    from scipy.optimize import minimize

    basis = np.stack([np.ones_like(x), x, x**2])

    def loss(theta: _Array) -> tuple[float, _Array]:
        curve = np.exp(theta[:3] @ basis)
        n = math.exp(theta[3])
        mu = M @ curve + n
        slope = np.vstack([basis * curve @ M.T, np.full_like(mu, n)])
        return float(nu @ (p / mu + np.log(mu)) / nu.sum()), slope @ (nu * (1 / mu - p / mu**2)) / nu.sum()

    tight = {"ftol": 1e-14, "gtol": 1e-10, "maxiter": 2000}  # the loss is a mean over many modes, flat in b and c
    starts = ([a, -1.2, -0.1, 0.0] for a in (-6.0, -3.0, 0.0, 4.0))
    found = [minimize(loss, t, jac=True, bounds=_FIT_BOUNDS, method="L-BFGS-B", options=tight) for t in starts]
    best = min(found, key=lambda f: float(f.fun))
    a, b, c, n = (float(t) for t in best.x)
    return a, b, c, n
