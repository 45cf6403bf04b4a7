"""The starlet transform, and mass maps that are sparse in it.

The isotropic undecimated wavelet transform of Starck, Fadili and Murtagh (2007, IEEE TIP 16, 297, section III): with
h_j the cubic B-spline [1, 4, 6, 4, 1]/16 along rows and columns, 2^j pixels between its taps,

    c_0 = x,  c_{j+1} = h_j c_j,
    first generation     w_j = c_j - c_{j+1},       x = c_J + w_0 + ... + w_{J-1},
    second generation    w_j = c_j - h_j c_{j+1},   c_j = h_j c_{j+1} + w_j,

both invertible exactly. Borders are periodic or mirrored between pixels (d c b a | a b c d), so that h_j is symmetric
and the adjoint takes as long as the transform. In the first generation ||T|| = 1: at any frequency the responses of the
scales are not negative and add up to 1.

The sparse map synthesises convergence from starlets, kappa = T* c (as Lanusse et al. 2016, A&A 591, A2, GLIMPSE, and
the sparse part of Starck et al. 2021, A&A 649, A99, MCALens),

    min_c  1/2 ||W^1/2 (A T* c - gamma)||^2 + sum_i k omega_i s_i |c_i|,    W = 1/noise_std^2,

s_i the standard deviation of the noise in coefficient i of T A*W gamma, and at least its root mean square over the
observed pixels of the scale: c_i leaves 0 where the data exceed k standard deviations of noise. FISTA (Beck and
Teboulle 2009) solves it. Weights omega from an earlier solve (Candes, Wakin and Boyd 2008), as in GLIMPSE, undo
most of the shrinkage of strong coefficients: peaks are truer, but at the usual noise the mean squared error is larger,
so that they are off by default. Positivity is not imposed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..algorithms.protocols import Operator
from ..checks import check_number, short
from ..drivers.monitor import Monitor
from ..drivers.result import Stop
from .shear import check_shear, noise_like

_TAPS = (6 / 16, 4 / 16, 1 / 16)
_BORDERS = ("periodic", "mirror")


def starlet_transform(x: Tensor, n_scales: int, *, border: str = "periodic", generation: int = 1) -> Tensor:
    """Return the coefficients (n_scales + 1, B, C, H, W) of images x (B, C, H, W), finest scale first, c_J last.

    Args:
        x: images; real.
        n_scales: number of wavelet scales J; 2^J pixels are at most the shorter side.
        border: "periodic" or "mirror".
        generation: 1 or 2, as in the module's docstring.

    Raises:
        TypeError, ValueError: an argument does not fit.

    >>> x = torch.eye(8)[None, None]
    >>> bool(torch.allclose(starlet_transform(x, 3).sum(0), x))
    True
    """
    _check(x, n_scales, border, generation)
    coefficients, c = [], x
    for j in range(n_scales):
        smooth = _smooth(c, j, border)
        coefficients.append(c - (smooth if generation == 1 else _smooth(smooth, j, border)))
        c = smooth
    return torch.stack([*coefficients, c])


def starlet_inverse(coefficients: Tensor, *, border: str = "periodic", generation: int = 1) -> Tensor:
    """Return the images (B, C, H, W) of coefficients (n_scales + 1, B, C, H, W); the exact inverse."""
    n_scales = _check_coefficients("starlet_inverse", coefficients, border, generation)
    if generation == 1:
        return coefficients.sum(0)
    c = coefficients[-1]
    for j in reversed(range(n_scales)):
        c = _smooth(c, j, border) + coefficients[j]
    return c


def _starlet_adjoint(coefficients: Tensor, *, border: str = "periodic", generation: int = 1) -> Tensor:
    """Return T* c, images (B, C, H, W): the sum of every coefficient times its wavelet."""
    n_scales = _check_coefficients("_starlet_adjoint", coefficients, border, generation)
    v = coefficients[-1]
    for j in reversed(range(n_scales)):
        w = coefficients[j]
        v = w + _smooth(v - (w if generation == 1 else _smooth(w, j, border)), j, border)
    return v


def _white_noise_std(n_scales: int, *, generation: int = 1) -> Tensor:
    """Return the standard deviation (n_scales + 1,) of each scale's coefficients for white noise of 1 per pixel.

    It is the root sum of squares of each scale's wavelet, on a grid larger than the widest, without borders.
    """
    check_number("n_scales", n_scales, above=1, or_equal=True, integer=True, caller="_white_noise_std")
    # The filter is separable, c_{j+1} = a_j x a_j with a_j = h_0 ... h_j, and so is each part of
    # ||c_j - b_j||^2 = ||c_j||^2 + ||b_j||^2 - 2 <c_j, b_j>: one axis is enough.
    line = torch.zeros(1, 1, 1, 4 * 2**n_scales, dtype=torch.float64)
    line[..., 0] = 1
    std = []
    for j in range(n_scales):
        smooth = _along(line, j, -1, "periodic")
        subtracted = smooth if generation == 1 else _along(smooth, j, -1, "periodic")
        std.append((_dot2(line, line) + _dot2(subtracted, subtracted) - 2 * _dot2(line, subtracted)) ** 0.5)
        line = smooth
    return torch.tensor([*std, _dot2(line, line) ** 0.5], dtype=torch.float64)


def _starlet_noise(
    operator: Operator,
    noise_std: Tensor,
    shape: tuple[int, int],
    n_scales: int,
    *,
    generator: torch.Generator,
    draws: int = 25,
    border: str = "periodic",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the std of the noise in T A*W gamma, (n_scales + 1, 1, 1, H, W), by simulation.

    It is ||W^1/2 A psi||, psi the coefficient's wavelet. The variance over `draws` noise fields is smoothed at each
    scale over the extent of its wavelet, where it is nearly constant.

    Args:
        operator: convergence to shear.
        noise_std: noise standard deviation per component, infinity where not observed.
        shape: (H, W).
        n_scales: number of wavelet scales.
        generator: source of the noise, on its own device.
        draws: number of simulated noise fields.
        border: border of the transform.
        dtype: float32 or float64.
    """
    check_number("draws", draws, above=1, integer=True, caller="_starlet_noise")
    weights = noise_std.to(dtype).square().reciprocal()
    variance: Tensor | float = 0.0
    for _ in range(draws):
        like = torch.zeros(1, 2, *shape, dtype=dtype, device=noise_std.device)
        noise = noise_like(like, noise_std, generator=generator)
        variance = (
            variance + starlet_transform(operator.A_adjoint(weights * noise), n_scales, border=border).square() / draws
        )
    assert isinstance(variance, Tensor)
    smooth = []
    for scale in range(n_scales + 1):
        v = variance[scale]
        for j in range(min(scale + 1, n_scales)):
            v = _smooth(v, j, border)
        smooth.append(v)
    return torch.stack(smooth).sqrt()


@dataclass(frozen=True)
class StarletMap:
    """Result of `starlet_map`.

    Attributes:
        kappa: convergence (B, 1, H, W).
        n_iter: finished iterations of all solves.
        stop: why the last solve ended: `Stop.CONVERGED`, `MAX_ITER` or `INTERRUPTED` (Ctrl-C).
        history: "change", one entry for each iteration: ||kappa - kappa_old|| / ||kappa||, the largest of the images.
    """

    kappa: Tensor
    n_iter: int
    stop: Stop
    history: dict[str, list[float]] = field(repr=False)


@torch.no_grad()
def starlet_map(
    operator: Operator,
    y: Tensor,
    noise_std: Tensor,
    *,
    generator: torch.Generator,
    k_sigma: float = 3.0,
    n_scales: int | None = None,
    reweightings: int = 0,
    max_iter: int = 100,
    rtol: float = 1e-3,
    border: str = "periodic",
    progress: bool = False,
) -> StarletMap:
    """Return the starlet-sparse mass map of the module's docstring; Ctrl-C returns the last iterate, once there is one.

    Args:
        operator: convergence to shear, |A| <= 1 in Fourier space.
        y: shear (B, 2, H, W); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts against y.
        generator: source of the noise that determines the thresholds.
        k_sigma: threshold in standard deviations of the noise, at every scale and c_J: noise alone exceeds 3 in one
            coefficient of 370, 4 in one of 16,000.
        n_scales: number of wavelet scales; None: the widest wavelet, 2^(J+2) pixels, fits the shorter side, at most 6.
        reweightings: number of solves after the first, each with omega_i = 1/(1 + |c_i| s_i/k) of the one before.
        max_iter: largest number of iterations of each solve.
        rtol: a solve stops once an iteration changes kappa by less than rtol times its norm, for every image.
        border: border of the transform, "periodic" or "mirror".
        progress: show a bar on stderr.
    """
    weights = check_shear("starlet_map", y, noise_std)
    k = check_number("k_sigma", k_sigma, above=0, caller="starlet_map")
    check_number("rtol", rtol, above=0, or_equal=True, caller="starlet_map")
    check_number("max_iter", max_iter, above=1, or_equal=True, integer=True, caller="starlet_map")
    check_number("reweightings", reweightings, above=0, or_equal=True, integer=True, caller="starlet_map")
    shape = (int(y.shape[-2]), int(y.shape[-1]))
    if n_scales is None:
        n_scales = max(1, min(6, int(math.log2(min(shape))) - 2))
    observed = torch.where(weights > 0, y, torch.zeros_like(y))
    std = _starlet_noise(operator, noise_std, shape, n_scales, generator=generator, border=border, dtype=y.dtype)
    # Little noise passes where nothing is observed, but convergence is no likelier there: thresholds are as elsewhere.
    seen = (weights > 0).expand(y.shape).any(dim=1, keepdim=True).to(y.dtype)
    mean = (seen * std.square()).sum((-2, -1), keepdim=True) / seen.sum((-2, -1), keepdim=True).clamp(min=1)
    std = torch.maximum(std, mean.sqrt())
    step = 1 / weights.max()  # 1/||T A*WA T*||, since ||T|| and ||A|| are at most 1

    def synthesis(c: Tensor) -> Tensor:
        return _starlet_adjoint(c, border=border)

    def iterates() -> Iterator[tuple[Tensor, float]]:
        """Yield kappa and its relative change: FISTA, solve after solve."""
        c, kappa = y.new_zeros(n_scales + 1, y.shape[0], 1, *shape), y.new_zeros(y.shape[0], 1, *shape)
        omega = torch.ones_like(c)
        for _ in range(reweightings + 1):
            threshold = step * k * omega * std
            p, t = c, 1.0
            for _ in range(max_iter):
                residual = weights * (operator.A(synthesis(p)) - observed)
                gradient = starlet_transform(operator.A_adjoint(residual), n_scales, border=border)
                new = torch.nn.functional.relu((v := p - step * gradient).abs() - threshold) * v.sign()
                t_new = (1 + math.sqrt(1 + 4 * t * t)) / 2
                p, c, t = new + (t - 1) / t_new * (new - c), new, t_new
                kappa, old = synthesis(c), kappa
                change = _largest_change(kappa, old)
                yield kappa, change
                if change <= rtol:
                    break
            omega = 1 / (1 + c.abs() * std / k)

    with Monitor("starlet_map", (reweightings + 1) * max_iter, ("change",), progress=progress) as monitor:
        for x, change in iterates():
            monitor.record(change)
            monitor.show()
            kappa = x
            monitor.stop = Stop.CONVERGED if change <= rtol else Stop.MAX_ITER
    if monitor.n_iter == 0:
        raise KeyboardInterrupt
    return StarletMap(kappa, monitor.n_iter, monitor.stop, monitor.history)


def _largest_change(new: Tensor, old: Tensor) -> float:
    """Return ||new - old|| / ||new|| of the image (1, H, W) for which it is largest; 0 where both are 0."""
    change, size = (torch.linalg.vector_norm(maps, dim=(1, 2, 3)) for maps in (new - old, new))
    return float(torch.where(change > 0, change / size, 0.0).max())


def _along(x: Tensor, j: int, axis: int, border: str) -> Tensor:
    """Apply h_j along one axis."""
    n, gap = x.shape[axis], 2**j
    reach = 2 * gap
    head, tail = x.narrow(axis, 0, reach), x.narrow(axis, n - reach, reach)
    ends = (tail, head) if border == "periodic" else (head.flip(axis), tail.flip(axis))
    wide = torch.cat([ends[0], x, ends[1]], dim=axis)

    def shifted(by: int) -> Tensor:
        return wide.narrow(axis, reach + by, n)

    centre, near, far = _TAPS
    return centre * x + near * (shifted(gap) + shifted(-gap)) + far * (shifted(reach) + shifted(-reach))


def _smooth(x: Tensor, j: int, border: str) -> Tensor:
    return _along(_along(x, j, -1, border), j, -2, border)


def _dot2(a: Tensor, b: Tensor) -> float:
    """Return <a x a, b x b>, the inner product of two outer products of lines."""
    return float((a * b).sum()) ** 2


def _check(x: Any, n_scales: int, border: str, generation: int) -> None:
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        raise TypeError(
            f"starlet_transform: x must be a real floating tensor, got {short(repr(x), 60)}; use torch.as_tensor(x)"
        )
    if x.ndim != 4:
        raise ValueError(
            f"starlet_transform: x must be (B, C, H, W), got {tuple(x.shape)}; use x[None, None] for one image"
        )
    check_number("n_scales", n_scales, above=1, or_equal=True, integer=True, caller="starlet_transform")
    if 2**n_scales > min(x.shape[-2:]):
        most = int(math.log2(min(x.shape[-2:])))
        raise ValueError(
            f"starlet_transform: n_scales must be at most {most} for {tuple(x.shape[-2:])} pixels, got {n_scales}"
        )
    _check_choice("starlet_transform", border, generation)


def _check_choice(caller: str, border: str, generation: int) -> None:
    if border not in _BORDERS:
        raise ValueError(f"{caller}: border must be one of {', '.join(_BORDERS)}, got {border!r}")
    if generation not in (1, 2):
        raise ValueError(f"{caller}: generation must be 1 or 2, got {generation!r}")


def _check_coefficients(caller: str, coefficients: Any, border: str, generation: int) -> int:
    _check_choice(caller, border, generation)
    if not isinstance(coefficients, Tensor) or coefficients.ndim != 5 or len(coefficients) < 2:
        got = tuple(coefficients.shape) if isinstance(coefficients, Tensor) else type(coefficients).__name__
        raise ValueError(
            f"{caller}: coefficients must be (n_scales + 1, B, C, H, W), as starlet_transform gives, got {got}"
        )
    return len(coefficients) - 1
