"""Mass maps of the sphere by plug-and-play, with a denoiser of images on tangent patches.

    x = (A*WA + alpha)^-1 (A*W gamma + alpha (z - u)),   v = rho x + (1 - rho) z + u,   z = D(v; sigma),   u = v - z

is the ADMM of `pnp.lensing.map_mass`, with the same settings: alpha = strength/sigma^2, 1/sigma^2 the mean of W where
observed. The x-update takes a few conjugate gradients. alpha is about W, so that they are well conditioned.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from denoisers import MLPatch
from operators import KaiserSquiresSphere

from ...algorithms.iterations import State, admm
from ...algorithms.least_squares import LeastSquares
from ...algorithms.protocols import Denoiser
from ...algorithms.schedules import RELAXATION
from ...checks import check_number
from ...drivers.denoising import as_denoiser, guard_denoiser
from ...drivers.monitor import Monitor
from ...drivers.result_warning import warn_of
from ...drivers.verdict import judge_misfit
from ..mass_map import MassMap
from .shear import check_sphere_shear, rotated
from .tangent_patches import TangentPatches


@torch.no_grad()
def map_mass(
    operator: KaiserSquiresSphere,
    y: Tensor,
    noise_std: Tensor,
    *,
    denoiser: Denoiser | None = None,
    b_mode: bool = True,
    strength: float = 1.0,
    max_iter: int = 7,
    callback: Callable[[State], Any] | None = None,
    progress: bool = False,
) -> MassMap:
    """Reconstruct convergence from shear on the sphere; Ctrl-C returns the last iterate, once there is one.

    Args:
        operator: convergence to shear, e.g. `SphereShear.operator()`.
        y: shear (1, 2, n_pix); ignored where noise_std is infinite.
        noise_std: noise standard deviation per component, broadcasts to y; infinity where not observed.
        denoiser: D(x, sigma) for maps (B, 1, n_pix): `TangentPatches` makes one of a denoiser of images. None: of
            `MLPatch.from_pretrained("convergence")`, where something is observed. Its weights know pixels of 0.29
            arcmin: at survey resolution give others, or prefer `wiener`.
        b_mode: also map the shear turned by 45 degrees; doubles the time.
        strength: weight of the prior, 1 as trained; a larger one makes smoother maps.
        max_iter: number of iterations.
        callback: called with the `State` of each iteration, read only. A true return value stops.
        progress: show a bar on stderr.

    Returns:
        A `pnp.lensing.MassMap`, whose maps are (1, 1, n_pix).

    Warns:
        ResultWarning: the misfit is far from 1, so noise_std is wrong.
    """
    weights = check_sphere_shear("map_mass", operator, y, noise_std).expand(y.shape)
    if len(y) != 1:
        raise ValueError(f"map_mass: y must be one sky (1, 2, n_pix), got {tuple(y.shape)}; call map_mass sky by sky")
    strength = check_number("strength", strength, above=0, caller="map_mass")
    max_iter = check_number("max_iter", max_iter, above=1, integer=True, or_equal=True, caller="map_mass")
    seen = weights > 0
    y = torch.where(seen, y, 0)
    if denoiser is None:
        mask = seen.any(dim=1).flatten()
        D = MLPatch.from_pretrained("convergence").to(y.device)
        denoiser = TangentPatches(D, operator.nside, lmax=operator.lmax, mask=mask)
    prior = as_denoiser(denoiser, "map_mass")
    low, high = getattr(prior, "sigma_range", (0.0, math.inf))
    sigma = min(max(float(weights[seen].double().mean()) ** -0.5, low), high)
    data, W = (torch.cat([y, rotated(y)]), torch.cat([weights, weights.flip(1)])) if b_mode else (y, weights)
    h = LeastSquares().bind(operator, data, W)
    levels = itertools.repeat((sigma, strength / sigma**2))
    denoise = guard_denoiser(prior, None, None, "map_mass")
    states = admm(h, denoise, torch.zeros_like(h.back_projection), levels, relaxation=RELAXATION)
    monitor = Monitor("map_mass", max_iter, ("change",), callback=callback, progress=progress)
    z: Tensor | None = None
    with monitor:
        for state in itertools.islice(states, max_iter):
            z = state.z
            monitor.record(state.dual)
            monitor.show()
            if monitor.asks_to_stop(state):
                break
    if z is None:
        raise KeyboardInterrupt  # before the first iterate
    misfit = math.nan
    with suppress(KeyboardInterrupt):  # the map is worth more than its misfit
        misfit = float((weights * (operator.A(z[:1]) - y).square()).sum() / seen.sum())
    said = tuple(judge_misfit(misfit, int(seen.sum())))
    warn_of("map_mass", said)
    kappa_b = z[1:].clone() if b_mode else None
    return MassMap(z[:1].clone(), kappa_b, "admm", sigma, monitor.n_iter, monitor.stop, monitor.history, misfit, said)
