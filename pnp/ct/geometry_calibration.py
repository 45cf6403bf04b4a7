"""Calibrate the angles and the centre of rotation from the measurements, with a denoiser as a prior if given.

    (angles, offset) = argmin  min_x 1/2 ||W^(1/2) (A(angles, offset) x - y)||^2 + alpha/2 ||x - z||^2

The inner minimum is the data step h(z, alpha) of `solve`; variable projection (Golub and Pereyra, SIAM J. Numer. Anal.
10 (1973) 413) leaves a problem in the geometry alone. Its gradient is that of the misfit at the inner minimum held
fixed, since the derivative with respect to x vanishes there; the operator gives it through its own derivatives in
angles and offset. z is 0 at first and then, round by round, the image found so far: shrinking towards 0 would prefer
geometries whose views agree on little. Early stopping keeps what a noisy scan does not determine near its start.

No measurement separates a rotation of all views together from a rotation of the object: the mean change of the angles
is set to 0. Objects that look alike from both sides of a symmetry axis determine views near it poorly.

With several threads the transforms add in any order, and the iterations magnify that rounding: two runs then agree to
about 0.1 degrees before convergence, with one thread exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor

from ..algorithms.linalg import cg, operator_norm
from ..algorithms.protocols import Denoiser, Operator
from ..algorithms.schedules import Schedule, robust_range
from ..checks import broadcasts, check_number
from ..drivers.arguments import as_bounds, check_device
from ..drivers.denoising import as_denoiser, guard_denoiser
from ..drivers.monitor import Monitor
from ..drivers.result import Stop
from .arrays import as_floats

_ALPHA_FRACTION = 1e-4
"""Alpha over the curvature. Measured: 1e-5 is as good and slower, 1e-3 slower to converge, more is wrong."""
_ROUND_ITERATIONS = 10
"""Iterations of L-BFGS in a round, with one z."""
_ROUNDS_WITHOUT_PRIOR = 3
"""Number of rounds before z is denoised."""
_PRIOR_FACTOR = 100.0
"""Factor of alpha where z is denoised. Measured (64 x 64, 60 views): 10 leaves twice the error, 1000 is no better."""
_NOISE_LEVELS = Schedule(0.2, 0.02, n_iter=9)
"""Noise levels of the denoiser, round by round, over the robust range of the image."""

_STOPPED_STATUS = 99
"""scipy's status where a callback raised StopIteration."""

_MakeOperator = Callable[[Tensor, Tensor], Operator]
_Denoise = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Calibration:
    """Calibrated geometry and its image.

    Attributes:
        angles: (n_angles,), radians, with the mean of those given.
        offset: centre of the detector, in the operator's unit of length.
        x: the image (B, C, H, W) of the last data step; without a denoiser it holds the noise of y.
        objective: its value after every iteration, over the energy of y; it jumps where z or alpha changes, after at
            most ten.
        stop: reason for the end: `Stop.CONVERGED` (no geometry near explains y better), `MAX_ITER`, `CALLBACK` or
            `INTERRUPTED` (Ctrl-C).
    """

    angles: Tensor = field(repr=False)
    offset: float
    x: Tensor = field(repr=False)
    objective: list[float] = field(repr=False)
    stop: Stop


def calibrate(
    make_operator: _MakeOperator,
    y: Any,
    angles: Any,
    offset: float = 0.0,
    *,
    denoiser: Denoiser | None = None,
    bounds: tuple[float | None, float | None] | None = None,
    noise_std: Any = None,
    max_iter: int | None = None,
    callback: Callable[[int, Tensor, float], Any] | None = None,
    progress: bool = False,
) -> Calibration:
    """Return the angles and the offset with which the operator explains sinograms y best.

    Args:
        make_operator: (angles, offset) -> the operator, e.g.
            `lambda a, o: Radon((128, 128), a, offset=o, n_detectors=183)`. Gradients must reach angles and offset. The
            image should be coarse enough for y to determine it: at most about as many pixels as y has values.
        y: measurements (B, C, n_angles, n_detectors), numpy or torch; all images share the geometry. Computed in
            float64, since the objective is compared at nearby geometries; x comes back in y's own dtype.
        angles: (n_angles,), radians: where the views are believed to be.
        offset: where the detector is believed to be.
        denoiser: D(x, sigma), as in `solve`, e.g. MLPatch: it reveals errors that the measurements hardly show. It is
            called between rounds of ten iterations, first after the third.
        bounds: (low, high) of what the denoiser returns, None where open, e.g. (0, None) for attenuation.
        noise_std: standard deviation of y, a number or broadcasting to y; infinite where nothing was measured. None:
            the same everywhere.
        max_iter: largest number of L-BFGS iterations, in rounds of ten; None: 60, with a denoiser 150.
        callback: called with (iteration, angles, offset); a true answer stops.
        progress: show a bar on stderr.

    Raises:
        ValueError, TypeError: y does not fit the angles or the operator, or is not finite.
    """
    y, _ = as_floats("calibrate", "y", y, ndim=4)
    dtype, y = y.dtype, y.double()
    start = torch.as_tensor(angles, dtype=torch.float64).detach().cpu()
    if start.ndim != 1 or y.ndim != 4 or y.shape[-2] != len(start):
        raise ValueError(
            f"calibrate: y must be (B, C, n_angles, n_detectors) with a view for each of {tuple(start.shape)} angles, "
            f"got {tuple(y.shape)}"
        )
    max_iter = max_iter if max_iter is not None else 60 if denoiser is None else 150
    check_number("max_iter", max_iter, above=1, integer=True, or_equal=True, caller="calibrate")
    low, high = as_bounds(bounds, "calibrate")
    D: _Denoise | None = None
    if denoiser is not None:
        if max_iter <= _ROUNDS_WITHOUT_PRIOR * _ROUND_ITERATIONS:
            least = _ROUNDS_WITHOUT_PRIOR * _ROUND_ITERATIONS
            raise ValueError(f"calibrate: max_iter must be above {least} for the denoiser to be called, got {max_iter}")
        check_device("denoiser", denoiser, y.device, "calibrate")
        D = _within_range(as_denoiser(denoiser, "calibrate"), low, high)
    weights = _weights(noise_std, y)
    if not bool((weights * y).any()):
        raise ValueError("calibrate: y is zero wherever it has weight; there is nothing to find angles in")
    problem = _Problem(make_operator, y, weights, start, float(offset), dtype)
    monitor = Monitor("calibrate", max_iter, ("objective",), callback=callback, progress=progress)

    def after(intermediate_result: Any) -> None:
        problem.best = np.array(intermediate_result.x)
        objective = float(intermediate_result.fun)
        monitor.record(objective)
        monitor.show(f"objective {objective:.4g}")
        now_angles, now_offset = problem.geometry(problem.best)
        if monitor.asks_to_stop(monitor.n_iter, now_angles, float(now_offset)):
            raise StopIteration

    with monitor:
        for k in count():
            done = monitor.n_iter
            found = minimize(
                problem.value_and_gradient,
                problem.best,
                jac=True,
                method="L-BFGS-B",
                callback=after,
                options={
                    "maxiter": min(_ROUND_ITERATIONS, max_iter - done),
                    "maxcor": _ROUND_ITERATIONS,
                    "ftol": 1e-12,
                    "gtol": 0.0,
                },
            )
            # No gain with this z, nor with the last one; a denoiser may still change z.
            idle = monitor.n_iter == done and (D is None or k >= _ROUNDS_WITHOUT_PRIOR + _NOISE_LEVELS.n_iter)
            if idle:
                monitor.stop = Stop.CONVERGED
            if found.status == _STOPPED_STATUS or monitor.n_iter >= max_iter or idle:
                break
            problem.attach(D, k + 1 - _ROUNDS_WITHOUT_PRIOR)
    found_angles, found_offset = problem.geometry(problem.best)
    x = problem.solve(problem.best).to(dtype)
    return Calibration(found_angles, float(found_offset), x, monitor.history["objective"], monitor.stop)


def _within_range(denoiser: Denoiser, low: float | None, high: float | None) -> _Denoise:
    """Return D(x, sigma) within the bounds, sigma brought into the denoiser's own range."""
    guarded = guard_denoiser(denoiser, low, high, "calibrate")
    least, most = getattr(denoiser, "sigma_range", (0.0, math.inf))
    return lambda x, sigma: guarded(x, min(max(sigma, float(least)), float(most)))


def _weights(noise_std: Any, y: Tensor) -> Tensor:
    """Return 1/noise_std^2, at most 1, as a tensor that broadcasts to y."""
    std = torch.as_tensor(1.0 if noise_std is None else noise_std).to(y)
    if not bool((std > 0).all()) or not broadcasts(tuple(std.shape), tuple(y.shape)):  # NaN fails too
        raise ValueError(
            f"calibrate: noise_std must be above 0 and a number or broadcast to y {tuple(y.shape)}, got shape "
            f"{tuple(std.shape)} with a minimum of {float(std.min()):.4g}"
        )
    return (std.min() / std).square().nan_to_num(0.0)


class _Problem:
    """Objective in q = (changes of the angles, change of the offset), both in pixels at the image's rim."""

    def __init__(
        self,
        make_operator: _MakeOperator,
        y: Tensor,
        weights: Tensor,
        angles: Tensor,
        offset: float,
        dtype: torch.dtype,
    ) -> None:
        self.make_operator, self.y, self.weights, self.angles, self.offset, self.dtype = (
            make_operator,
            y,
            weights,
            angles,
            offset,
            dtype,
        )
        operator = self.operator(angles, torch.tensor(offset, dtype=torch.float64))
        self.pixel_size = float(getattr(operator, "pixel_size", 1.0))
        back = operator.A_adjoint(weights * y)
        norm = operator_norm(lambda x: operator.A_adjoint(weights * operator.A(x)), back)
        self.curvature = norm**2
        self.alpha = y.new_tensor(_ALPHA_FRACTION * self.curvature)
        self.radius = math.hypot(*back.shape[-2:]) / 2
        self.z = torch.zeros_like(back)
        self.best = np.zeros(len(angles) + 1)
        self.x: Tensor | None = None

    def operator(self, angles: Tensor, offset: Tensor) -> Any:
        return self.make_operator(angles.to(self.y.device), offset.to(self.y.device))

    def geometry(self, q: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Return the angles, without a common rotation, and the offset."""
        change = torch.from_numpy(q[:-1] - q[:-1].mean()) / self.radius
        return self.angles + change, torch.tensor(self.offset + float(q[-1]) * self.pixel_size, dtype=torch.float64)

    @torch.no_grad()
    def attach(self, denoiser: _Denoise | None, k: int) -> None:
        """Set the z of the next round: the image found so far, denoised with noise level k if k >= 0."""
        x = self.solve(self.best)
        if denoiser is None or k < 0:
            self.z = x
        else:
            scale = max(robust_range(x), float(x.std()))  # few bright pixels have no robust range
            z = denoiser(x.to(self.dtype), _NOISE_LEVELS(k) * scale).to(x)
            self.z, self.alpha = (
                z,
                x.new_tensor(_PRIOR_FACTOR * _ALPHA_FRACTION * self.curvature),
            )  # both at once, for Ctrl-C

    @torch.no_grad()
    def solve(self, q: npt.NDArray[np.float64]) -> Tensor:
        """Return the inner minimum, by conjugate gradients from the last one."""
        operator = self.operator(*self.geometry(q))
        M = operator.preconditioner(self.weights) if hasattr(operator, "preconditioner") else None
        self.x = cg(
            lambda x: operator.A_adjoint(self.weights * operator.A(x)) + self.alpha * x,
            operator.A_adjoint(self.weights * self.y) + self.alpha * self.z,
            x0=self.x,
            preconditioner=None if M is None else lambda r: M(r, self.alpha),
            rtol=1e-5,
            max_iter=100,
        ).x
        return self.x

    def value_and_gradient(self, q: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        """Return objective and gradient, over the energy of y: of order one, as L-BFGS-B's tolerances expect."""
        x = self.solve(q)
        angles, offset = (v.requires_grad_() for v in self.geometry(q))
        with torch.enable_grad():
            misfit = 0.5 * (self.weights * (self.operator(angles, offset).A(x) - self.y).square()).sum()
            slopes = torch.autograd.grad(misfit, (angles, offset))
        value = float(misfit.detach() + 0.5 * self.alpha * (x - self.z).square().sum())
        by_angle = slopes[0].cpu().numpy() / self.radius
        gradient = np.append(by_angle - by_angle.mean(), float(slopes[1]) * self.pixel_size)
        scale = 1 / float((self.weights * self.y.square()).sum())
        return value * scale, gradient.astype(np.float64) * scale
