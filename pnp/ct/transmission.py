"""Data term of photon counts behind an object, without a logarithm, so that few counts and zeros are used correctly.

    y ~ Poisson(ybar),  ybar = i0 exp(-l) + r,  l = A x,    f(x) = sum(ybar - y log ybar)

(Fessler, Statistical image reconstruction methods for transmission tomography, in Handbook of Medical Imaging,
vol. 2, SPIE 2000, section 1.2). Ray by ray, with b = i0 exp(-l) and p = b/ybar, f has the derivatives

    f'(l)  = y p - b,
    f''(l) = b - y p (1 - p),    which is b, positive, where r = 0.

The x-update h(v, alpha) = argmin f(x) + alpha/2 ||x - v||^2 takes Newton steps d,

    (A*WA + alpha) d = -(A* f' + alpha (x - v)),    W = max(f'', 0),

by preconditioned conjugate gradients, and goes as far along d as a halving line search finds the objective to fall
enough (Armijo). Since A d is known, the search costs no further projection, and the objective never rises.
Where r > 0, f need not be convex, and a minimum nearby is found.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..algorithms.batch import images
from ..algorithms.count_statistics import deviance_residuals
from ..algorithms.least_squares import LeastSquaresStep
from ..algorithms.linalg import cg, implicit_solve
from ..algorithms.protocols import Operator, Preconditioner
from ..checks import broadcasts, check_number, short
from .line_integrals import check_open_beam

_NEWTON_RTOL = 1e-2
"""Relative residual to which the linear system of a Newton step is solved."""
_ARMIJO_FRACTION = 1e-4
"""Smallest fall of the objective over that predicted by its slope, for a step to be accepted."""
_MAX_HALVINGS = 30
_MIN_EXPECTED_FRACTION = 1e-6
"""Smallest expected count in the misfit, over the mean count."""


class Transmission:
    """Photon counts y ~ Poisson(i0 exp(-A x) + background): `solve(A, y, D, data_term=Transmission(i0))`.

    Args:
        i0: expected photons of the open beam, a number or broadcasting to y, such as a flat field in photons; 0 marks
            a bin without information.
        background: expected scattered photons and dark counts r >= 0, a number or broadcasting to y; not subtracted
            from y.
        n_inner: largest number of Newton steps per x-update; each update starts where the last one ended.
        rtol: an update stops early where the objective's gradient falls below this fraction of its two parts.
        max_iter: largest number of conjugate gradient iterations per Newton step.
        robust: whether `solve` looks for outliers and leaves them out.

    y are photons: divide a detector's counts by its gain, multiply by `LineIntegrals.photons_per_count`.
    """

    needs_noise_std = False

    def __init__(
        self,
        i0: float | Tensor,
        background: float | Tensor = 0.0,
        *,
        n_inner: int = 5,
        rtol: float = 1e-3,
        max_iter: int = 50,
        robust: bool = False,
    ):
        for name, value in (("i0", i0), ("background", background)):
            level = torch.as_tensor(value)
            if not bool((level.isfinite() & (level >= 0)).all()):
                raise ValueError(f"Transmission: {name} must be finite and not negative: expected photons per bin")
        if not bool((torch.as_tensor(i0) > 0).any()):
            raise ValueError("Transmission: i0 must be positive somewhere: the expected photons of the open beam")
        if not isinstance(robust, bool):
            raise TypeError(f"Transmission: robust must be True or False, got {short(repr(robust), 60)}")
        self.i0, self.background, self.robust = i0, background, robust
        self.n_inner = check_number("n_inner", n_inner, above=1, integer=True, or_equal=True, caller="Transmission")
        self.rtol = check_number("rtol", rtol, above=0, caller="Transmission")
        self.max_iter = check_number("max_iter", max_iter, above=1, integer=True, or_equal=True, caller="Transmission")

    def __repr__(self) -> str:
        i0, r = (
            f"<tensor {tuple(v.shape)}>" if isinstance(v, Tensor) and v.ndim else repr(v)
            for v in (self.i0, self.background)
        )
        robust = ", robust=True" if self.robust else ""
        options = f"n_inner={self.n_inner!r}, rtol={self.rtol!r}, max_iter={self.max_iter!r}{robust}"
        return f"Transmission({i0}, {r}, {options})"

    def bind(self, operator: Operator, y: Any, weights: Tensor) -> TransmissionStep:
        """Return h for these counts; the weights are not used: the counts carry their own noise."""
        if not isinstance(y, Tensor):
            raise TypeError(f"Transmission: y must be one tensor of counts, got {type(y).__name__}; use LeastSquares")
        if bool((y < 0).any()):
            raise ValueError(
                f"Transmission: y must hold photon counts >= 0, got a minimum of {float(y.min()):.4g}; do not subtract "
                "the background, pass it as Transmission(i0, background)"
            )
        levels = []
        for name, value in (("i0", self.i0), ("background", self.background)):
            level = torch.as_tensor(value).to(dtype=y.dtype, device=y.device)
            if not broadcasts(tuple(level.shape), tuple(y.shape)):
                raise ValueError(
                    f"Transmission: {name} must be a number or broadcast to y {tuple(y.shape)}, got "
                    f"{tuple(level.shape)}; its last axis is the detector's"
                )
            levels.append(level.expand(y.shape))
        i0, r = levels
        seen = i0 > 0
        if not bool((y[seen] > 0).any()):
            raise ValueError("Transmission: y must hold counts where i0 > 0, got zeros only; check the measurements")
        # A few zingers must not look like a wrong unit to the sum of all counts.
        check_open_beam("Transmission", y.minimum(2 * (i0 + r)) if self.robust else y, i0 + r, seen)
        return TransmissionStep(operator, y, i0, r, n_inner=self.n_inner, rtol=self.rtol, max_iter=self.max_iter)


class TransmissionStep:
    """h(v, alpha) = argmin_x sum(ybar - y log ybar) + alpha/2 ||x - v||^2, by Newton steps from the last x.

    The first image and the curvature that `solve` needs of the whole likelihood are those of its quadratic
    approximation at the data: 1/2 ||W^(1/2) (A x - log(i0/(y - r)))||^2 with W = (y - r)^2 / y, which is f'' there.
    """

    def __init__(
        self, operator: Operator, y: Tensor, i0: Tensor, background: Tensor, *, n_inner: int, rtol: float, max_iter: int
    ):
        self.operator, self.n_inner, self.rtol, self.max_iter = operator, n_inner, rtol, max_iter
        self.i0, self.seen = i0, i0 > 0
        self.y = torch.where(self.seen, y, 0)
        self.log_i0 = torch.where(self.seen, i0, 1).log()
        self.background, self.log_r = background, background.log()  # -inf where there is none
        self.inner_iterations = 0
        self.last_x: Tensor | None = None
        # Half a photon takes the place of none: log(i0/(y - r)) is finite, and its weight small.
        signal = (self.y - background).clamp(min=0.5)
        weights = torch.where(self.seen, signal**2 / (signal + background), 0)
        self._quadratic = LeastSquaresStep(
            operator,
            self.log_i0 - torch.where(self.seen, signal, 1).log(),
            weights,
            rtol=_NEWTON_RTOL,
            max_iter=max_iter,
        )
        self.back_projection = self._quadratic.back_projection

    def __call__(self, v: Tensor, alpha: Tensor, /) -> Tensor:
        """Return the x-update; differentiable, by one more solve, in v, alpha and what the operator depends on."""
        with torch.no_grad():
            x = self._minimise(v, alpha)
        self.last_x = x
        if not torch.is_grad_enabled():
            return x
        # One Newton step from the minimum, with a graph: its value is 0, its derivative that of the minimum.
        line = self.operator.A(x)
        _, slope, curvature = self._derivatives(line)
        gradient = self.operator.A_adjoint(slope) + alpha * (x - v)
        H = self._hessian(curvature.detach(), alpha.detach())
        M = self._preconditioner(curvature.detach(), alpha.detach())
        d = implicit_solve(H, -gradient, preconditioner=M, rtol=self.rtol, max_iter=4 * self.max_iter).x
        return x + (d - d.detach())

    def _minimise(self, v: Tensor, alpha: Tensor) -> Tensor:
        x = self.initial() if self.last_x is None else self.last_x
        line = self.operator.A(x)
        self.inner_iterations = 0
        for _ in range(self.n_inner):
            _, slope, curvature = self._derivatives(line)
            pull, push = self.operator.A_adjoint(slope), alpha * (x - v)
            gradient = pull + push
            parts = zip(*(images(t) for t in (gradient, pull, push)), strict=True)
            if all(float(g.norm()) <= self.rtol * float(a.norm() + b.norm()) for g, a, b in parts):
                break
            M = self._preconditioner(curvature, alpha)
            H = self._hessian(curvature, alpha)
            found = cg(H, -gradient, preconditioner=M, rtol=_NEWTON_RTOL, max_iter=self.max_iter)
            d, self.inner_iterations = found.x, self.inner_iterations + found.n_iter
            line_d = self.operator.A(d)
            step = self._search(line, line_d, x - v, d, alpha, _sum(gradient * d))
            x, line = x + step.to(x) * d, line + step.reshape(-1, *[1] * (line.ndim - 1)).to(line) * line_d
        return x

    def _search(self, line: Tensor, line_d: Tensor, from_v: Tensor, d: Tensor, alpha: Tensor, slope: Tensor) -> Tensor:
        """Return the first of 1, 1/2, 1/4, ... per image with which the objective falls enough; 0: none does."""
        # In double: the objective's fall is far below its rounding in float32.
        l0, l1, a = line.double(), line_d.double(), alpha.double()
        start = self._derivatives(l0)[0]
        linear, square = _sum(a * from_v.double() * d.double()), _sum(a * d.double() ** 2)
        step = torch.ones_like(slope, dtype=torch.float64)
        done = torch.zeros_like(step, dtype=torch.bool)
        # Near the minimum the fall is below the objective's rounding, and Newton's step is right.
        rounding = 4 * torch.finfo(torch.float64).eps * _sum(start.abs(), like=step)
        for _ in range(_MAX_HALVINGS):
            at = l0 + step.reshape(-1, *[1] * (line.ndim - 1)) * l1
            fall = _sum(self._derivatives(at)[0] - start, like=step) + step * linear + step**2 / 2 * square
            done = done | (fall <= _ARMIJO_FRACTION * step * slope + rounding)  # NaN and infinity fail
            if bool(done.all()):
                return step
            step = torch.where(done, step, step / 2)
        return torch.where(done, step, 0)

    def _derivatives(self, line: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ybar - y log ybar, its first and its second derivative (not below 0) in the line integrals."""
        y, log_i0, log_r = self.y.to(line), self.log_i0.to(line), self.log_r.to(line)
        log_b = log_i0 - line
        log_ybar = torch.logaddexp(log_b, log_r)  # exact where r = 0, and where b leaves the range of numbers
        b, share = log_b.exp(), (log_b - log_ybar).exp()
        value = b - y * log_ybar
        slope, curvature = y * share - b, b - y * share * (1 - share)
        nothing = torch.zeros_like(b)
        value, slope, curvature = (torch.where(self.seen, t, nothing) for t in (value, slope, curvature))
        return value, slope, curvature.clamp(min=0)

    def _hessian(self, curvature: Tensor, alpha: Tensor) -> Any:
        return lambda d: self.operator.A_adjoint(curvature * self.operator.A(d)) + alpha * d

    def _preconditioner(self, curvature: Tensor, alpha: Tensor) -> Any:
        if not hasattr(self.operator, "preconditioner"):
            return None
        M: Preconditioner = self.operator.preconditioner(curvature)
        return lambda r: M(r, alpha)

    def initial(self) -> Tensor:
        """Return the first estimate of `LeastSquares` from the log of the counts, weighted with the counts."""
        return self._quadratic.initial()

    def curvature(self) -> float | Tensor:
        """Return ||A*A|| times the mean of W = (y - r)^2 / y, A without the rays that carry no information."""
        return self._quadratic.curvature()

    def spectral_flatness(self) -> float | Tensor:
        """Return tr(M^2) / (||M|| tr M) of M = A*WA."""
        return self._quadratic.spectral_flatness()

    def coverage(self) -> float | Tensor:
        """Return tr M / (n ||M||) of M = A*WA, n the number of pixels."""
        return self._quadratic.coverage()

    def misfit(self, x: Tensor, /) -> float:
        """Return Pearson's (ybar - y)^2 / ybar per ray with an expected count."""
        expected = (self.log_i0 - self.operator.A(x)).exp() + self.background
        seen = self.seen & (expected > _MIN_EXPECTED_FRACTION * self.y.mean())
        return float(((expected - self.y)[seen] ** 2 / expected[seen]).mean())

    def residuals(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return the signed deviance residuals of ybar - y in noise levels, and which rays count: those with i0 > 0.

        Both have y's shape; the residual is 0 where a ray does not count. Too many counts for x are negative, as in
        `Poisson`, although A x is then too high.
        """
        expected = (self.log_i0 - self.operator.A(x)).exp() + self.background
        return torch.where(self.seen, deviance_residuals(self.y, expected), 0), self.seen

    def simulate(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return photon counts drawn for an image x; the generator is the CPU's."""
        mean = (self.log_i0 - self.operator.A(x)).exp() + self.background
        return torch.poisson(torch.where(self.seen, mean, 0).cpu(), generator).to(self.y)

    def reject(self, rejected: Tensor) -> TransmissionStep:
        """Return this data term without rays, a mask of y's shape, nor those that were rejected before.

        It starts from the same `last_x`, and costs one A*, and the operator's preconditioner where it has one.
        """
        i0 = torch.where(rejected, 0, self.i0)
        if not bool((self.y[i0 > 0] > 0).any()):
            raise ValueError("Transmission: rejected must leave some counts of y, got all of them; check y and i0")
        options = {"n_inner": self.n_inner, "max_iter": self.max_iter}
        step = TransmissionStep(self.operator, self.y, i0, self.background, rtol=self.rtol, **options)
        step.last_x = self.last_x
        return step


def _sum(values: Tensor, like: Tensor | None = None) -> Tensor:
    """Sum over all but the batch, shaped to broadcast against images, or like a given tensor."""
    total = values.reshape(len(values), -1).sum(-1)
    return total.reshape(-1, *[1] * (values.ndim - 1)) if like is None else total.reshape(like.shape)
