"""From shear to a mass map in one call, by plug-and-play with a denoiser trained on convergence.

    gamma = A kappa + n,   n of variance Sigma per pixel,   W = Sigma^-1 = 1/noise_std^2, 0 where blind

    "admm"      x = (A*WA + alpha)^-1 (A*W gamma + alpha (z - u)),   z = D(x + u; sigma),   u = u + x - z
    "pnpmass"   z = D(z + tau A* Sigma^(-1/2) (gamma - A z); tau)

ADMM keeps alpha at the mean of W where observed and sigma at alpha^(-1/2): D is then the proximal step of its prior,
and the fixed point weighs every pixel by its own noise. With `operators.KaiserSquiresEB` on an odd grid its x-update
is exact with four FFTs; D works on E, and B = 0 (`EModeOnly`).

PnPMass (Leterme, Tersenov, Fadili and Starck 2026, arXiv:2603.22006) replaces Sigma^-1 by its root in a gradient step,
because tau A* Sigma^(-1/2) n is then white with standard deviation tau wherever the sky is observed (A*A = 1): what D
was trained for. Its fixed point weighs pixels by 1/(tau noise_std), which is W where noise_std = tau; so tau is the
sigma of ADMM. It needs neither odd grids nor a closed form, and is stable for tau <= 2 noise_std.

All settings follow from the noise map. The mean of kappa is not measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
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
from ..checks import as_tensor, broadcasts, check_number, short
from ..drivers.arguments import as_denoiser, as_operator, check_device, guard_denoiser
from ..drivers.monitor import Monitor
from ..drivers.result import Stop
from .padding import OddGrid
from .reduced_shear import undo_reduction
from .shear import check_shear
from .spectrum import rotated

N_ITER = {"admm": 12, "pnpmass": 8}
"""Iterations; chosen on simulated maps (benchmarks/mass_mapping_step.py)."""
STABLE = 1.9
"""Largest tau/noise_std of a PnPMass step; more exact shear counts as that."""
SHARED = 0.01
"""Components whose noise differs by less are given their root mean square, for the closed form."""


@dataclass(frozen=True)
class MassMap:
    """What `map_mass` returns; maps are numpy where the shear was.

    Attributes:
        kappa_e: convergence (B, 1, H, W).
        kappa_b: the same of the shear turned by 45 degrees, (B, 1, H, W): noise and systematic errors without lensing,
            but near edges and holes, where mass unseen may pass for either mode. None where it was not asked for.
        method: "admm" or "pnpmass".
        sigma: noise level of the denoiser, in units of convergence.
        n_iter: finished iterations, of all corrections for reduced shear together.
        stop: why they ended: `Stop.MAX_ITER` (n_iter of them), `CALLBACK` or `INTERRUPTED` (Ctrl-C). A loop over many
            maps looks here, lest Ctrl-C end one map of many.
        history: "change", one entry an iteration: ||z - z_old|| / ||z||; "reduced", one entry a correction for reduced
            shear: the change of kappa relative to it.
    """

    kappa_e: Any
    kappa_b: Any
    method: str
    sigma: float
    n_iter: int
    stop: Stop
    history: dict[str, list[float]] = field(repr=False)


class EModeOnly(nn.Module):
    """A denoiser of convergence, used on E and B modes (B, 2, H, W): E is denoised, B is 0.

    `solve(KaiserSquiresEB(shape), y, EModeOnly(D), noise_std=...)` solves for real convergence: lensing makes no B.

    Args:
        denoiser: D(x, sigma), called with x (B, 1, H, W).
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = as_denoiser(denoiser)
        if hasattr(self.denoiser, "sigma_range"):
            self.sigma_range = self.denoiser.sigma_range

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise E of x (B, 2, H, W); sigma in units of convergence."""
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
    pad: int | None = 0,
    b_mode: bool = True,
    reduced: bool = False,
    strength: float = 1.0,
    max_iter: int | None = None,
    callback: Callable[[State], Any] | None = None,
    progress: bool = False,
) -> MassMap:
    """Map the mass behind a shear map; Ctrl-C returns the last finished iterate, once there is one.

    Args:
        y: shear (B, 2, H, W), float32 or float64, a tensor or numpy; where blind it may be anything, NaN too.
        noise_std: noise standard deviation per component and pixel, broadcasts to y; infinity where blind.
        denoiser: D(x, sigma) for convergence (B, 1, H, W); None: `MLPatch.from_pretrained("convergence")`.
        make_operator: called with the grid's (height, width). `KaiserSquiresEB` has exact steps on odd grids,
            `KaiserSquires` takes conjugate gradients; `functools.partial(KaiserSquiresEB, convention="conjugate")`.
        mask: true or 1 where observed, broadcasts to y; noise_std may be 0 or NaN elsewhere. None: everywhere.
        method: "admm" or "pnpmass", as the module describes.
        pad: at least so many pixels between the field and its periodic copies, on an odd grid; 0: what makes it odd;
            None: the grid of y as it is.
        b_mode: map the shear turned by 45 degrees as well, which takes as long again.
        reduced: y is the reduced shear g = gamma/(1 - kappa): correct for it until kappa changes by less than 1 %.
        strength: weight of the prior, 1 as trained; more is smoother.
        max_iter: iterations. None: 12 of ADMM, 8 of PnPMass.
        callback: called with each iteration's `State`, its maps the E modes (B, 1, H, W) on the shear's own pixels, for
            reading only; the denoiser got z + u (PnPMass: x) and gave z. A true answer stops, as in `solve`, and with
            it the corrections for reduced shear.
        progress: show a bar on stderr.

    Returns:
        The E and B maps and how they were reached, see `MassMap`.

    Raises:
        ValueError, TypeError: an argument does not fit, e.g. a noise_std of 0 where observed.
    """
    if method not in N_ITER:
        raise ValueError(f"map_mass: method must be one of {sorted(N_ITER)}, got {short(repr(method), 60)}")
    strength = check_number("strength", strength, above=0, caller="map_mass")
    max_iter = N_ITER[method] if max_iter is None else max_iter
    max_iter = check_number("max_iter", max_iter, above=1, integer=True, or_equal=True, caller="map_mass")
    is_tensor = isinstance(y, Tensor)
    y, std = _survey(y, noise_std, mask)
    if std.shape[0] > 1:
        raise ValueError(
            f"map_mass: noise_std must be one map for all images, got {std.shape[0]}; every noise has settings of its "
            "own, call map_mass image by image"
        )
    grid = OddGrid((y.shape[-2], y.shape[-1]), margin_px=pad or 0)
    crop = grid.crop if pad is not None else lambda maps: maps
    if pad is not None:
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

    def shown(state: State) -> State:
        x, z, u, z_old = (crop(maps)[:batch, :1] for maps in (state.x, state.z, state.u, state.z_old))
        return replace(state, x=x, z=z, u=u, z_old=z_old)

    def reconstruct(y: Tensor, std: Tensor) -> Tensor:
        nonlocal z
        if b_mode:
            y, std = _with_turned(y, std)
        states = ITERATIONS[method](A, y, std, denoise, sigma, strength)
        with monitor:
            for state in itertools.islice(states, max_iter):
                z = state.z
                monitor.record(state.dual)
                if monitor.asks_to_stop(shown(state)):
                    break
        if z is None:
            raise KeyboardInterrupt
        return torch.cat(torch.split(z[:, :1], batch), dim=1)  # type: ignore[no-untyped-call]

    if reduced:
        maps, corrections = undo_reduction(reconstruct, y, std, more=lambda: monitor.stop is Stop.MAX_ITER)
    else:
        maps, corrections = reconstruct(y, std), []
    kappa = torch.split(crop(maps), 1, dim=1)  # type: ignore[no-untyped-call]
    answer: list[Any] = [k.contiguous() if is_tensor else k.numpy().copy() for k in kappa]
    history = monitor.history | {"reduced": corrections}
    return MassMap(answer[0], answer[1] if b_mode else None, method, sigma, monitor.n_iter, monitor.stop, history)


def _with_turned(y: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Return shear and noise, and behind them -i gamma, whose E mode is the B mode of gamma, and its noise."""
    if std.shape[:2] != (1, 1):
        std = torch.cat([s.expand(len(y), -1, -1, -1) for s in (std, std.flip(1))])
    return torch.cat([y, rotated(y)]), std


def _iterate_admm(
    A: Operator, y: Tensor, std: Tensor, D: Callable[[Tensor, float], Tensor], sigma: float, strength: float
) -> Iterator[State]:
    h = LeastSquares().bind(A, y, std**-2)
    return admm(h, D, torch.zeros_like(h.back_projection), itertools.repeat((sigma, strength / sigma**2)))


def _iterate_pnpmass(
    A: Operator, y: Tensor, std: Tensor, D: Callable[[Tensor, float], Tensor], sigma: float, strength: float
) -> Iterator[State]:
    step = sigma / strength
    root = std.reciprocal().clamp(max=STABLE / step)  # 1/infinity = 0: blind
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
    """Return shear (B, 2, H, W), 0 where blind, and its noise (1 or B, 1 or 2, 1 or H, 1 or W), infinite there."""
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
    """Return one noise map (., 1, ., .) where the components' agree within SHARED, else both."""
    if std.shape[1] == 1:
        return std
    first, second = std.unbind(1)
    alike = (first == second) | ((first - second).abs() <= SHARED * torch.minimum(first, second))
    return std.square().mean(1, keepdim=True).sqrt() if bool(alike.all()) else std


def _prior(y: Tensor) -> MLPatch:
    """Return the denoiser that was trained on convergence, on y's device."""
    return MLPatch.from_pretrained("convergence").to(y.device)


def _operator(make: Callable[[tuple[int, int]], Operator], y: Tensor) -> Operator:
    """Return the operator of y's grid, on y's device."""
    if hasattr(make, "A") and not isinstance(make, type):
        raise TypeError(
            f"map_mass: make_operator must be a class or function of (height, width), got a {type(make).__name__}; "
            "pass the class, the grid is chosen here"
        )
    A = as_operator(make((y.shape[-2], y.shape[-1])), "map_mass")
    return A.to(y.device) if isinstance(A, nn.Module) else A
