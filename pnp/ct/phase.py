"""Paganin's filter: line integrals of a homogeneous object from projections with propagation-based phase contrast.

Behind an object of one material, of refractive index 1 - delta + i beta and thickness T, a wave of wavelength lambda
has the intensity I_0 exp(-mu T), mu = 4 pi beta/lambda, and the phase -(2 pi/lambda) delta T. At a distance z the
transport of intensity equation gives

    I/I_0 = (1 - z delta/mu laplacian) exp(-mu T),

and, solved in Fourier space, f in cycles per unit length,

    mu T = -log F^-1[ F[I/I_0] / (1 + lambda z delta/(4 pi beta) (2 pi f)^2) ]

(D. Paganin, S. C. Mayo, T. E. Gureyev, P. R. Miller and S. W. Wilkins, J. Microsc. 206 (2002) 33, eq. 12). Needed
are delta/beta alone, not the two. The filter is a low pass whose kernel falls as exp(-r/l),
l = sqrt(lambda z delta/(4 pi beta)); fringes at edges become attenuation, and noise falls and is correlated.

It holds for one material in the near field, lambda z f^2 << 1, and a parallel beam. For a point source at R_1 before
the object and a detector at R_2 behind it, z = R_1 R_2/(R_1 + R_2), and pixels are those of the detector times
R_1/(R_1 + R_2).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from ..checks import check_number
from .arrays import as_floats

_KEV_MM = 1.239841984e-6
"""h c in keV mm: wavelength = _KEV_MM / energy (CODATA 2018)."""
_PAD_LENGTHS = 10.0
"""Padding on every side in decay lengths l: exp(-10) of a step wraps around."""
_MIN_PAD = 8


def paganin_filter(
    projections: Any, *, pixel_size_mm: float, distance_mm: float, energy_kev: float, delta_beta: float
) -> Any:
    """Return line integrals mu T, without unit, from phase-contrast projections; see the module for the equation.

    The two last axes are the detector's plane, since phase contrast crosses rows: (n_angles, n_rows, n_detectors) or a
    single view (n_rows, n_detectors), of square pixels. `torch.moveaxis(y, -2, 0)` or `np.moveaxis` turns the result
    into the (n_rows, n_angles, n_detectors) of the rest of this package. Beyond the detector, edge pixels are repeated.

    The noise of the result is smaller than that of counts and correlated between neighbours, so that weights by counts
    do not hold: give `solve` noise_std=None, and it estimates a level; with structure finer than l that is too low.

    Args:
        projections: transmissions I/I_0 > 0: (counts - dark) / (flat - dark), before the logarithm; numpy or torch.
        pixel_size_mm: side of a pixel in the plane of the object, in mm.
        distance_mm: from object to detector in mm; the effective one for a point source, see the module.
        energy_kev: photon energy in keV.
        delta_beta: delta/beta of the material at that energy, about 1400 for water at 20 keV; larger smooths more.

    Raises:
        ValueError, TypeError: projections are not positive transmissions, or a number is not positive.

    Warns:
        UserWarning: l is below half a pixel, so that the filter does next to nothing, or larger than the detector:
            often a wrong unit.

    >>> paganin_filter(torch.full((1, 8, 8), 0.5), pixel_size_mm=1e-3, distance_mm=5, energy_kev=20,
    ...                delta_beta=1000)[0, 0, :2]
    tensor([0.6931, 0.6931])
    """
    caller = "paganin_filter"
    t, is_numpy = as_floats(caller, "projections", projections, ndim=2)
    for name, value in (
        ("pixel_size_mm", pixel_size_mm),
        ("distance_mm", distance_mm),
        ("energy_kev", energy_kev),
        ("delta_beta", delta_beta),
    ):
        check_number(name, value, above=0, caller=caller)
    n_dark = int((t <= 0).sum())
    if n_dark:
        raise ValueError(
            f"{caller}: projections must be transmissions > 0, got {n_dark} of {t.numel()} values <= 0; interpolate "
            "dead pixels first, and subtract the dark from flats as well"
        )
    if (mean := float(t.mean(dtype=torch.float64))) > 2:
        raise ValueError(
            f"{caller}: projections must be transmissions, about 1 in air, got a mean of {mean:.4g}; divide "
            "counts by the flat field: (counts - dark) / (flat - dark)"
        )
    length = decay_length(distance_mm=distance_mm, energy_kev=energy_kev, delta_beta=delta_beta) / pixel_size_mm
    n_rows, n_bins = t.shape[-2:]
    if not 0.5 <= length <= max(n_rows, n_bins):
        warnings.warn(
            f"{caller}: the filter's length is {length:.3g} pixels of {pixel_size_mm:.3g} mm; check the units: mm, mm "
            "and keV",
            stacklevel=2,
        )
    pad = min(max(_MIN_PAD, math.ceil(_PAD_LENGTHS * length)), 4 * max(n_rows, n_bins))
    rows, bins = (_clamped(n, pad, t.device) for n in (n_rows, n_bins))
    shape = (len(rows), len(bins))
    f_y, f_x = torch.fft.fftfreq(shape[0]), torch.fft.rfftfreq(shape[1])
    response = 1 / (1 + length**2 * (2 * math.pi) ** 2 * (f_y.double()[:, None] ** 2 + f_x.double() ** 2))
    response = response.to(t)
    out = torch.empty_like(t)
    for view, filtered in zip(t.reshape(-1, n_rows, n_bins), out.view(-1, n_rows, n_bins), strict=True):
        spectrum = torch.fft.rfft2(view[rows][:, bins]) * response
        filtered.copy_(torch.fft.irfft2(spectrum, s=shape)[pad : pad + n_rows, pad : pad + n_bins])
    # The kernel is positive, but for ringing where the pixels' band cuts it off: no value is below the lowest one.
    result = -out.clamp(min=float(t.min())).log()
    return result.cpu().numpy() if is_numpy else result


def decay_length(*, distance_mm: float, energy_kev: float, delta_beta: float) -> float:
    """Return l = sqrt(lambda z delta/(4 pi beta)) in mm, the length over which the filter's kernel falls by e."""
    return math.sqrt(_KEV_MM / energy_kev * distance_mm * delta_beta / (4 * math.pi))


def _clamped(n: int, pad: int, device: torch.device) -> Tensor:
    """Return the indices of n pixels with the first and the last repeated `pad` times."""
    from scipy.fft import next_fast_len

    total = next_fast_len(n + 2 * pad, real=True)
    return torch.arange(-pad, total - pad, device=device).clamp(0, n - 1)
