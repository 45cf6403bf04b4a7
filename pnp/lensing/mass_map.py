"""Mass maps from shear in one call, by plug-and-play with a denoiser trained on convergence.

    gamma = A kappa + n,   n of variance Sigma per pixel,   W = Sigma^-1 = 1/noise_std^2, 0 where not observed

    "admm"      x = (A*WA + alpha)^-1 (A*W gamma + alpha (z - u)),   v = rho x + (1 - rho) z + u,
                z = D(v; sigma),   u = v - z
    "pnpmass"   z = D(z + tau A* Sigma^(-1/2) (gamma - A z); tau)

ADMM is over-relaxed as in `solve`, and keeps alpha at the mean of W where observed and sigma at alpha^(-1/2): D is then
the proximal step of its prior, and the fixed point weights every pixel by its own noise. With
`operators.KaiserSquiresEB` on an odd grid its x-update is exact with four FFTs; D works on E, and B = 0 (`EModeOnly`).

PnPMass (Leterme, Tersenov, Fadili and Starck 2026, arXiv:2603.22006) replaces Sigma^-1 by its root in a gradient step,
because tau A* Sigma^(-1/2) n is then white with standard deviation tau wherever the sky is observed (A*A = 1), as in
the training of D. Its fixed point weights pixels by 1/(tau noise_std), which is W where noise_std = tau; so tau is the
sigma of ADMM. It needs neither odd grids nor a closed form, and is stable for tau <= 2 noise_std.

All settings follow from the noise map. The mean of kappa is not measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from denoisers import MLPatch
from operators import KaiserSquiresEB

from ..algorithms.iterations import State, admm
from ..algorithms.least_squares import LeastSquares
from ..algorithms.protocols import Denoiser, Operator
from ..algorithms.schedules import RELAXATION
from ..checks import as_tensor, broadcasts, check_number, short
from ..drivers.arguments import as_operator, check_device
from ..drivers.denoising import as_denoiser, guard_denoiser
from ..drivers.monitor import Monitor
from ..drivers.result import Stop
from ..drivers.result_warning import warn_of
from ..drivers.verdict import judge_misfit
from .padding import OddGrid
from .reduced_shear import undo_reduction
from .shear import check_shear
from .spectrum import rotated

_DEFAULT_MAX_ITER = {"admm": 7, "pnpmass": 8}
"""Default max_iter of each method, chosen on simulated maps (benchmarks/mass_mapping_step.py)."""
_MAX_STEP_RATIO = 1.9
"""Largest tau/noise_std of a PnPMass step; smaller noise_std is raised to it."""
_NOISE_TOLERANCE = 0.01
"""Relative difference up to which both components get the root mean square of their noise."""


@dataclass(frozen=True)
class MassMap:
    """Result of `map_mass`; maps are numpy where y was.

    Attributes:
        kappa_e: convergence (B, 1, H, W).
        kappa_b: map of the shear turned by 45 degrees, (B, 1, H, W): noise and systematic errors without lensing,
            except near edges and holes, where mass outside may contribute. None for b_mode=False.
        method: "admm" or "pnpmass".
        sigma: noise level of the denoiser in units of convergence.
        n_iter: finished iterations, of all corrections for reduced shear together.
        stop: why they ended: `Stop.MAX_ITER`, `CALLBACK` or `INTERRUPTED` (Ctrl-C). A loop over maps should check it:
            otherwise Ctrl-C ends only the current map.
        history: "change", one entry per iteration: ||z - z_old|| / ||z||; "reduced", one entry per correction for
            reduced shear: the relative change of kappa.
        misfit: ||W^(1/2) (A kappa_e - y)||^2 per observed shear value, on the grid with its margin: about 1 where
            noise_std is right; NaN where Ctrl-C arrived before it was known.
        warnings: sentences on what looks wrong; empty where nothing does.
    """

    kappa_e: Any
    kappa_b: Any
    method: str
    sigma: float
    n_iter: int
    stop: Stop
    history: dict[str, list[float]] = field(repr=False)
    misfit: float = math.nan
    warnings: tuple[str, ...] = ()


class EModeOnly(nn.Module):
    """Denoise the E mode of maps of E and B modes (B, 2, H, W), and set B to 0: lensing makes no B modes.

    `solve(KaiserSquiresEB(shape), y, EModeOnly(D), noise_std=...)` solves for real convergence.

    Args:
        denoiser: D(x, sigma), called with x (B, 1, H, W).
    """

    takes_sigma_per_image = takes_any_dtype = True  # as what `as_denoiser` returns

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = as_denoiser(denoiser)
        if hasattr(self.denoiser, "sigma_range"):
            self.sigma_range = self.denoiser.sigma_range

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise E of x (B, 2, H, W) and set B to 0; sigma is in units of convergence."""
        if x.ndim != 4 or x.shape[1] != 2:
            raise ValueError(f"EModeOnly: x must be (B, 2, H, W), E and B modes, got {tuple(x.shape)}")
        E = self.denoiser(x[:, :1], sigma)
        return torch.cat([E, torch.zeros_like(E)], dim=1)


@torch.no_grad()
def map_mass(
    y: Any,
    noise_std: Any,
    *,
    denoiser: Denoiser | None = None,
    make_operator: Callable[[tuple[int, int]], Operator] = KaiserSquiresEB,
    mask: Any = None,
    method: str = "admm",
    margin_px: int | None = 0,
    b_mode: bool = True,
    reduced: bool = False,
    strength: float = 1.0,
    max_iter: int | None = None,
    callback: Callable[[State], Any] | None = None,
    progress: bool = False,
) -> MassMap:
    """Reconstruct convergence from shear; Ctrl-C returns the last iterate, once there is one.

    Args:
        y: shear (B, 2, H, W), float32 or float64, a tensor or numpy; not observed values may be NaN.
        noise_std: noise standard deviation per component and pixel, broadcasts to y; infinity where not observed.
        denoiser: D(x, sigma) for convergence (B, 1, H, W); None: `MLPatch.from_pretrained("convergence")`.
        make_operator: called with the grid's (height, width). `KaiserSquiresEB` has exact steps on odd grids,
            `KaiserSquires` takes conjugate gradients; `functools.partial(KaiserSquiresEB, convention="conjugate")`.
        mask: true or 1 where observed, broadcasts to y; elsewhere noise_std may be 0 or NaN. None: by noise_std alone.
        method: "admm" or "pnpmass", see the module's docstring.
        margin_px: smallest distance in pixels between the field and its periodic copies, on an odd grid; 0: only to
            make the grid odd; None: the grid of y itself.
        b_mode: also map the shear turned by 45 degrees; doubles the time.
        reduced: y is the reduced shear g = gamma/(1 - kappa): correct for it until kappa changes by less than 1 %.
        strength: weight of the prior, 1 as trained; a larger one makes smoother maps.
        max_iter: number of iterations; None: 7 of ADMM, 8 of PnPMass.
        callback: called with the `State` of each iteration, E modes (B, 1, H, W) on the pixels of y, read only. A true
            return value stops, as in `solve`, and ends the corrections for reduced shear.
        progress: show a bar on stderr.

    Returns:
        E and B maps and how they were computed, see `MassMap`.

    Warns:
        ResultWarning: its warnings in one: the misfit is far from 1, so noise_std is wrong.

    Raises:
        ValueError, TypeError: an argument does not fit, e.g. a noise_std of 0 where observed.
    """
    if method not in _DEFAULT_MAX_ITER:
        raise ValueError(f"map_mass: method must be one of {sorted(_DEFAULT_MAX_ITER)}, got {short(repr(method), 60)}")
    strength = check_number("strength", strength, above=0, caller="map_mass")
    max_iter = _DEFAULT_MAX_ITER[method] if max_iter is None else max_iter
    max_iter = check_number("max_iter", max_iter, above=1, integer=True, or_equal=True, caller="map_mass")
    is_tensor = isinstance(y, Tensor)
    y, std = _survey(y, noise_std, mask)
    if std.shape[0] > 1:
        raise ValueError(
            f"map_mass: noise_std must be one map for all images, got {std.shape[0]}; "
            "the settings depend on the noise, call map_mass image by image"
        )
    grid = OddGrid((y.shape[-2], y.shape[-1]), margin_px=margin_px or 0)
    crop = grid.crop if margin_px is not None else lambda maps: maps
    if margin_px is not None:
        y, std = grid.embed(y, 0.0), grid.embed(std.expand(-1, -1, *grid.field), math.inf)
    A = _operator(make_operator, y)
    D = as_denoiser(_prior(y) if denoiser is None else denoiser, "map_mass")
    check_device("denoiser", D, y.device, "map_mass")
    sigma = _noise_level(std, D)
    lifted = A.A_adjoint(y[:1]).shape[1] == 2
    denoise = guard_denoiser(EModeOnly(D) if lifted else D, None, None, "map_mass")
    batch = len(y)
    monitor = Monitor("map_mass", max_iter, ("change",), callback=callback, progress=progress)
    z: Tensor | None = None
    misfit = math.nan

    def shown(state: State) -> State:
        x, z, u, z_old = (crop(maps)[:batch, :1] for maps in (state.x, state.z, state.u, state.z_old))
        return replace(state, x=x, z=z, u=u, z_old=z_old)

    def reconstruct(y: Tensor, std: Tensor) -> Tensor:
        nonlocal z, misfit
        doubled = _with_turned(y, std) if b_mode else (y, std)
        states = ITERATIONS[method](A, *doubled, denoise, sigma, strength)
        with monitor:
            for state in itertools.islice(states, max_iter):
                z = state.z
                monitor.record(state.dual)
                monitor.show()
                if monitor.asks_to_stop(shown(state)):
                    break
        if z is None:
            raise KeyboardInterrupt  # before the first iterate
        with suppress(KeyboardInterrupt):  # the map is worth more than its misfit
            misfit = _misfit(A, z[:batch], y, std)
        return torch.cat(torch.split(z[:, :1], batch), dim=1)  # type: ignore[no-untyped-call]

    if reduced:
        maps, corrections = undo_reduction(reconstruct, y, std, more=lambda: monitor.stop is Stop.MAX_ITER)
    else:
        maps, corrections = reconstruct(y, std), []
    kappa = torch.split(crop(maps), 1, dim=1)  # type: ignore[no-untyped-call]
    answer: list[Any] = [k.contiguous() if is_tensor else k.numpy().copy() for k in kappa]
    history = monitor.history | {"reduced": corrections}
    said = tuple(judge_misfit(misfit, int(std.isfinite().expand(y.shape).sum())))
    warn_of("map_mass", said)
    kappa_b = answer[1] if b_mode else None
    return MassMap(answer[0], kappa_b, method, sigma, monitor.n_iter, monitor.stop, history, misfit, said)


def _misfit(A: Operator, z: Tensor, y: Tensor, std: Tensor) -> float:
    """Return ||W^(1/2) (A z - y)||^2 per observed value, of E modes z (B, 2, H, W) or (B, 1, H, W)."""
    seen = std.isfinite().expand(y.shape)
    return float(torch.where(seen, (A.A(z) - y) / std, 0).square().sum() / seen.sum())


def _with_turned(y: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Append to shear and noise those of -i gamma, whose E mode is the B mode of gamma, along the batch."""
    if std.shape[:2] != (1, 1):
        std = torch.cat([s.expand(len(y), -1, -1, -1) for s in (std, std.flip(1))])
    return torch.cat([y, rotated(y)]), std


def _iterate_admm(
    A: Operator, y: Tensor, std: Tensor, D: Callable[[Tensor, float], Tensor], sigma: float, strength: float
) -> Iterator[State]:
    h = LeastSquares().bind(A, y, std**-2)
    levels = itertools.repeat((sigma, strength / sigma**2))
    return admm(h, D, torch.zeros_like(h.back_projection), levels, relaxation=RELAXATION)


def _iterate_pnpmass(
    A: Operator, y: Tensor, std: Tensor, D: Callable[[Tensor, float], Tensor], sigma: float, strength: float
) -> Iterator[State]:
    step = sigma / strength
    root = std.reciprocal().clamp(max=_MAX_STEP_RATIO / step)  # 1/infinity = 0: not observed
    z = u = y.new_zeros(len(y), *A.A_adjoint(y[:1]).shape[1:])
    for k in itertools.count(1):
        x = z + step * A.A_adjoint(root * (y - A.A(z)))
        z_old, z = z, D(x, sigma)
        yield State(k, x, z, u, z_old, sigma, 1 / step)


ITERATIONS = {"admm": _iterate_admm, "pnpmass": _iterate_pnpmass}


def _noise_level(std: Tensor, denoiser: Denoiser) -> float:
    """Return (mean W)^(-1/2) where observed, within the denoiser's range."""
    observed = std[std.isfinite()].double()
    sigma = float(observed.square().reciprocal().mean()) ** -0.5
    low, high = getattr(denoiser, "sigma_range", (0.0, math.inf))
    return float(min(max(sigma, low), high))


def _survey(y: Any, noise_std: Any, mask: Any) -> tuple[Tensor, Tensor]:
    """Return y (B, 2, H, W), 0 where not observed, and its noise (1 or B, 1 or 2, 1 or H, 1 or W), infinite there."""
    y = as_tensor("y", y, caller="map_mass")
    if isinstance(noise_std, (int, float, np.number)):
        noise_std = torch.tensor(float(noise_std), dtype=y.dtype, device=y.device)
    std = as_tensor("noise_std", noise_std, device=y.device, caller="map_mass")
    if mask is not None:
        seen = mask > 0 if isinstance(mask, Tensor) else torch.from_numpy(np.asarray(mask) > 0).to(y.device)
        for name, maps in (("noise_std", std), ("mask", seen)):
            if not broadcasts(tuple(maps.shape), tuple(y.shape)):
                raise ValueError(f"map_mass: {name} must broadcast to y {tuple(y.shape)}, got {tuple(maps.shape)}")
        std = torch.where(seen, std, math.inf)
    check_shear("map_mass", y, std)
    y = torch.where(std.isinf(), 0, y)
    return y, _share(std.to(y.dtype).reshape((1,) * (4 - std.ndim) + tuple(std.shape)))


def _share(std: Tensor) -> Tensor:
    """Return one noise map (., 1, ., .) where the components' agree within _NOISE_TOLERANCE, else both."""
    if std.shape[1] == 1:
        return std
    first, second = std.unbind(1)
    equal = (first == second) | ((first - second).abs() <= _NOISE_TOLERANCE * torch.minimum(first, second))
    return std.square().mean(1, keepdim=True).sqrt() if bool(equal.all()) else std


def _prior(y: Tensor) -> MLPatch:
    """Return the package's denoiser for convergence, on y's device."""
    return MLPatch.from_pretrained("convergence").to(y.device)


def _operator(make: Callable[[tuple[int, int]], Operator], y: Tensor) -> Operator:
    """Return the operator for y's grid, on y's device."""
    if hasattr(make, "A") and not isinstance(make, type):
        raise TypeError(
            f"map_mass: make_operator must be a class or function of (height, width), got an instance of "
            f"{type(make).__name__}; pass the class"
        )
    A = as_operator(make((y.shape[-2], y.shape[-1])), "map_mass")
    return A.to(y.device) if isinstance(A, nn.Module) else A
