"""Data terms f and their x-updates h(v, alpha) = argmin_x f(x) + alpha/2 ||x - v||^2.

    LeastSquares  f(x) = 1/2 ||W^(1/2) (A x - y)||^2,  W = 1/noise_std^2
                  h(v, alpha) = (A*WA + alpha)^-1 (A*Wy + alpha v)
                  errors that measurements have in common make W a weight operator, see `common_errors`
    Poisson       f(x) = sum(A x + r - y log(A x + r)),  x >= 0

Both run with or without grad mode. The least-squares step is differentiable in y, v, alpha, the weights and the
operator's own parameters: through its closed form, or implicitly, by one more solve (`linalg.implicit_solve`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import check_number
from .batch import each, images, operator_norms, per_image, together
from .common_errors import CommonErrors, ErrorModel
from .dominant_mean import centred, norms_of_rest
from .linalg import cg, implicit_solve
from .protocols import Operator, Preconditioner, Step

RTOL, REDUCTION = 1e-5, 0.05
"""Where conjugate gradients stop unless told: relative to the right-hand side, or to the residual of their start."""


class LeastSquares:
    """Gaussian noise: 1/2 ||W^(1/2) (A x - y)||^2.

    Args:
        rtol: conjugate gradients stop at this residual, relative to the right-hand side. None: at 1e-5, or sooner,
            from the second x-update on, at a twentieth of the residual at the last x; the next update goes on from it.
        max_iter: maximum number of conjugate gradient iterations in each x-update, which starts from the last x.
        robust: leave out the measurements that x contradicts, such as cosmic rays or dead pixels, and solve again (see
            `pnp.drivers.outliers`). None: those that stand out from all others; False: none. True: all, and values that
            repeat where noise would not, such as salt and pepper. Where there are none, nothing changes.
        bin_std: standard deviation, in units of y, of an error that all views of a detector bin have in common, which
            makes a ring (see `common_errors`): a number, or one for each bin (n_bins,). "estimate": from the
            measurements and the residuals, bins with a large error or one in some views only by themselves. For y
            (B, C, n_views, n_bins); of an image, bins are columns.
        view_std: the same for an error that all bins of a view have in common, a beam that drifts: a number, one for
            each view (n_views,), or "estimate".
    """

    needs_noise_std = True
    bin_std: Any = None
    view_std: Any = None

    def __init__(
        self,
        *,
        rtol: float | None = None,
        max_iter: int = 50,
        robust: bool | None = None,
        bin_std: Any = None,
        view_std: Any = None,
    ):
        self.rtol = None if rtol is None else check_number("rtol", rtol, above=0, caller="LeastSquares")
        self.max_iter = check_number("max_iter", max_iter, above=1, integer=True, or_equal=True, caller="LeastSquares")
        if not isinstance(robust, bool | None):
            raise TypeError(f"LeastSquares: robust must be True, False or None, got {robust!r:.60}")
        self.robust = robust
        for name, std in (("bin_std", bin_std), ("view_std", view_std)):
            if std is not None:  # or checkpoints from before there were common errors would be another run's
                setattr(self, name, _as_std(name, std))

    def __repr__(self) -> str:
        given = {name: getattr(self, name) for name in ("robust", "bin_std", "view_std")}
        shown = "".join(f", {name}={value!r:.200}" for name, value in given.items() if value is not None)
        return f"LeastSquares(rtol={self.rtol!r}, max_iter={self.max_iter!r}{shown})"

    def bind(self, operator: Operator, y: Any, weights: Tensor) -> LeastSquaresStep:
        """Return h for these measurements; weights is 0-dim or broadcasts to y, 0 where y is not measured."""
        model = self._error_model(y)
        return LeastSquaresStep(operator, y, weights, rtol=self.rtol, max_iter=self.max_iter, model=model)

    def _error_model(self, y: Any) -> ErrorModel | None:
        """Return the common errors that are given, and no errors of bins or views that are to be estimated."""
        if self.bin_std is None and self.view_std is None:
            return None
        if not isinstance(y, Tensor) or y.is_complex() or y.ndim < 4:
            got = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else f"{len(y)} parts"
            raise ValueError(f"LeastSquares: bin_std and view_std need real y (B, C, n_views, n_bins), got {got}")
        found = {}
        for name, axes in (("bin_std", y.shape[3:]), ("view_std", y.shape[2:3])):
            if (std := getattr(self, name)) is None or isinstance(std, str):
                continue
            std = torch.as_tensor(std, dtype=y.dtype, device=y.device)
            if std.ndim > 0 and std.shape != axes:
                raise ValueError(f"LeastSquares: {name} must be a number or {tuple(axes)}, got {tuple(std.shape)}")
            found[name] = std
        return ErrorModel(**found) if found else None


def _as_std(name: str, value: Any) -> Any:
    """Return a standard deviation, or standard deviations, of common errors."""
    if isinstance(value, str) and value == "estimate":
        return value
    try:
        std = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        std = torch.tensor(math.nan)
    if std.numel() == 0 or not bool((std.isfinite() & (std >= 0)).all()):
        raise ValueError(f'LeastSquares: {name} must be None, "estimate", or finite and >= 0, got {value!r:.60}')
    return value


MAX_CONDITION = 100.0
"""Largest condition number that common errors may bring to an x-update: at small alpha, x and errors vie for one part
of y, and as alpha grows, the errors take what the prior does not want."""


class LeastSquaresStep:
    """h(v, alpha) = (A*WA + alpha)^-1 (A*Wy + alpha v): the operator's closed form, or warm-started CG."""

    def __init__(
        self,
        operator: Operator,
        y: Any,
        weights: Tensor,
        *,
        rtol: float | None,
        max_iter: int,
        model: ErrorModel | None = None,
    ):
        self.operator, self.y, self.weights = operator, y, weights
        self.rtol, self.max_iter, self.model = rtol, max_iter, model
        self.errors = None if model is None else CommonErrors(weights.expand(y.shape), model)
        self.back_projection: Tensor = operator.A_adjoint(self._weigh(y))
        self.inner_iterations = 0
        self._curvature: float | Tensor | None = None
        self._flatness_and_coverage: tuple[float | Tensor, float | Tensor] | None = None
        self._image_weights = _image_weights(weights, y)
        self.last_x: Tensor | None = None  # the last x-update, where CG starts
        self._reached: Tensor | None = None  # measurements that A reaches
        self._mean_dominates = False
        self._mean: Tensor | None = None  # the constant image that fits best, where the mean dominates
        self._closed_form: Step | None = None
        self._preconditioner: Preconditioner | None = None
        if hasattr(operator, "data_step") and model is None:
            self._closed_form = closed_form(operator, y, weights, self._image_weights)
        if self._closed_form is None and hasattr(operator, "preconditioner"):
            self._preconditioner = operator.preconditioner(weights)

    def __call__(self, v: Tensor, alpha: Tensor, /) -> Tensor:
        """Return the x-update; alpha is 0-dim, or (B, 1, 1, 1) with one value for each image."""
        if self._closed_form is not None:
            return self._closed_form(v, alpha)
        M, floor = self._preconditioner, self._floor(alpha)
        x0, c = v.detach() if self.last_x is None else self.last_x, self._mean
        # Less the mean, or the tolerance and the rounding would be those of the mean.
        b = self._back_projected(floor) + alpha * v if c is None else self._rest(c, floor) + alpha * (v - c)
        solution = implicit_solve(
            lambda x: self.normal(x, floor) + alpha * x,
            b,
            x0=x0 if c is None else x0 - c,
            preconditioner=None if M is None else lambda r: M(r, alpha),
            rtol=RTOL if self.rtol is None else self.rtol,
            reduction=self._reduction(),
            max_iter=self.max_iter,
        )
        x = solution.x if c is None else solution.x + c
        self.last_x, self.inner_iterations = x.detach(), solution.n_iter
        return x

    def _reduction(self) -> float:
        """Return where CG may stop by its start: not at the first x-update, nor for what a large mean leaves."""
        return REDUCTION if self.rtol is None and self.last_x is not None and self._mean is None else 0.0

    def _floor(self, alpha: Tensor) -> Tensor | None:
        """Return the least precision of the common errors' prior, see `CommonErrors.found`, for this alpha."""
        if self.errors is None:
            return None
        with torch.no_grad():
            curvature = self.curvature()
        curvature = per_image(curvature, self.back_projection) if isinstance(curvature, Tensor) else curvature
        floor: Tensor = (1 / MAX_CONDITION - alpha.detach() / curvature).clamp(min=0)
        return floor if bool((floor > 0).any()) else None

    def _weigh(self, r: Any, floor: Tensor | None = None) -> Any:
        """Return W r."""
        return r * self.weights if self.errors is None else self.errors.weigh(r, floor)  # r may be a list of tensors

    def _back_projected(self, floor: Tensor | None) -> Tensor:
        """Return A*Wy."""
        return self.back_projection if floor is None else self.operator.A_adjoint(self._weigh(self.y, floor))

    def normal(self, x: Tensor, floor: Tensor | None = None) -> Tensor:
        """Return A*WA x."""
        if self.errors is not None:
            return self.operator.A_adjoint(self.errors.weigh(self.operator.A(x), floor))
        if self.weights.numel() == 1:
            return self.weights.reshape(()) * apply_normal(self.operator, x)
        if self._image_weights is not None:
            return per_image(self._image_weights, x) * apply_normal(self.operator, x)
        return self.operator.A_adjoint(self.operator.A(x) * self.weights)

    def initial(self) -> Tensor:
        """Return `operator.fbp(y)` if all measurements have weight and the operator sees the whole image.

        Otherwise return a regularised solution, h(c, alpha) with alpha at 1 % of the curvature. The constant image c,
        one constant for each channel, fits the measurements best: what A does not see starts at the mean of what it
        does see. In a batch each image has what it would have alone.

        Where the operator says that the object reaches beyond y (`is_truncated`), its `fbp` guesses what lies there,
        and the start is fbp(y) again: the iteration hardly changes a smooth background that truncated views do not
        determine. Measurements without weight are then those of the regularised solution.
        """
        whole = getattr(self.operator, "sees_whole_image", True) and hasattr(self.operator, "fbp")
        complete = [whole and bool((w > 0).all()) for w in self._weights_by_image()]
        y, truncated, regularised = self.y, [False] * len(self.back_projection), None
        if hasattr(self.operator, "is_truncated"):
            if not bool((self.weights > 0).all()):  # the ends of y, too, may have no weight
                regularised = self._regularised()
                y = torch.where(self.weights > 0, y, self.operator.A(regularised))
            truncated = self.operator.is_truncated(y)
        complete = [a or b for a, b in zip(complete, truncated, strict=True)]
        x: Tensor | None = self.operator.fbp(y) if any(complete) else None  # type: ignore[attr-defined]
        if x is not None and x.shape == self.back_projection.shape and all(complete):
            return x
        regularised = self._regularised() if regularised is None else regularised
        if x is None or x.shape != self.back_projection.shape:
            return regularised
        return torch.where(per_image(torch.tensor(complete), x) > 0, x, regularised)

    def _regularised(self) -> Tensor:
        b, c, alpha = self.back_projection, self._constant(), self._least_alpha()
        if self._closed_form is not None:
            return self._closed_form(c, torch.as_tensor(alpha, dtype=self.weights.dtype).to(b.device))
        if self._mean is not None:
            return c + cg(lambda x: self.normal(x) + alpha * x, self._rest(c), rtol=1e-2, max_iter=10).x
        return cg(lambda x: self.normal(x) + alpha * x, b + alpha * c, x0=c, rtol=1e-2, max_iter=10).x

    def _rest(self, c: Tensor, floor: Tensor | None = None) -> Tensor:
        """Return A*W (y - A c), the difference first: float32 does not hold that of A*Wy and A*WA c."""
        return self.operator.A_adjoint(self._weigh(self.y - self.operator.A(c), floor))

    def _least_alpha(self) -> Any:
        """Return 1 % of the curvature, one number or (B, 1, 1, 1)."""
        alpha = 0.01 * self.curvature()
        return per_image(alpha, self.back_projection) if isinstance(alpha, Tensor) else alpha

    def _constant(self) -> Tensor:
        """Return the constant image that fits best, one constant for each channel; 0 where constants are not seen."""
        b, alpha = self.back_projection, self._least_alpha()
        ones = torch.ones_like(b)
        seen = self.normal(ones)
        axes = tuple(range(2, b.ndim)) or (-1,)
        fit, energy = b.sum(dim=axes, keepdim=True), seen.sum(dim=axes, keepdim=True)
        # Where A* W A 1 vanishes against the curvature, as in mass mapping, constants are not measured.
        measured = torch.real(energy) > 1e-3 * alpha * ones[0, 0].numel()
        constant = torch.where(measured, fit / torch.where(measured, energy, torch.ones_like(energy)), 0)
        return constant * ones

    def _weights_by_image(self) -> list[Tensor]:
        """Return the weights of each image's measurements."""
        n = len(self.back_projection)
        own = n > 1 and isinstance(self.y, Tensor) and self.weights.ndim == self.y.ndim and len(self.weights) == n
        return images(self.weights) if own else [self.weights] * n

    def curvature(self) -> float | Tensor:
        """Return ||A*A||, A without the measurements that do not count, times the mean of W over those that do.

        For scalar weights this is ||A*WA||, for A*A = 1 the mean weight; one very exact measurement does not
        set it alone. Where the mean of an image dominates, ||A*A|| on images of mean zero. Where the images of a batch
        differ, a tensor (B,).
        """
        if self._curvature is None:
            counts = self.weights > 0
            all_count = bool(counts.all())

            def normal(x: Tensor) -> Tensor:
                if all_count:
                    return apply_normal(self.operator, x)
                return self.operator.A_adjoint(counts * self.operator.A(x))

            whole = operator_norms(normal, self.back_projection, rtol=1e-2)
            norms = norms_of_rest(normal, self.back_projection, whole)
            self._mean_dominates = norms != whole
            means = [_mean(w[w > 0]) for w in self._weights_by_image()]
            self._curvature = together([mean * norm**2 for mean, norm in zip(means, norms, strict=True)])
            if self._mean_dominates and self._closed_form is None:
                self._mean = self._constant().detach()
        return self._curvature

    def spectral_flatness(self) -> float | Tensor:
        """Return tr(M^2) / (||M|| tr M) of M = A*WA, ||M|| the `curvature`; without the mean where that dominates."""
        return self._spectrum()[0]

    def coverage(self) -> float | Tensor:
        """Return tr M / (n ||M||) of M = A*WA, n the number of pixels: 1 where y determines all of them alike.

        ||M|| is the `curvature`; where the mean dominates, all is without it.
        """
        return self._spectrum()[1]

    def _spectrum(self) -> tuple[float | Tensor, float | Tensor]:
        """Return spectral flatness and coverage, found once from one application of A*WA."""
        if self._flatness_and_coverage is None:
            curvature = self.curvature()  # first: it finds whether the mean dominates
            self._flatness_and_coverage = estimate_spectrum(self._normal_of_curvature, self.back_projection, curvature)
        return self._flatness_and_coverage

    def _normal_of_curvature(self, x: Tensor) -> Tensor:
        """Return A*WA x, on images of mean zero where the mean dominates: the M of `curvature`."""
        return centred(self.normal(centred(x))) if self._mean_dominates else self.normal(x)

    def misfit(self, x: Tensor, /) -> float:
        """Return ||W^(1/2) (A x - y)||^2 per measurement that counts and that A reaches."""
        residuals, counted = self.residuals(x)
        return float((residuals.abs()[counted] ** 2).mean())

    def residuals(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return W^(1/2) (A x + E e - y), and whether a measurement counts: it has weight, and A reaches it.

        E e are the errors in common that explain the residual best, 0 where the noise model has none.
        What a mask drops is stored as an exact zero, which A gives whatever the image.
        """
        residual = self.operator.A(x) - self.y
        if not isinstance(residual, Tensor):  # a list of tensors, of a stacked operator
            residual = torch.cat([part.flatten() for part in residual])
        if self.errors is not None:
            residual = residual + self.errors.found(-residual)
        # The root of W first: squares of faint residuals leave the range of float32.
        return self.weights.sqrt() * residual, self._counted(x)

    def _counted(self, like: Tensor) -> Tensor:
        """Return whether a measurement counts, see `residuals`, for images of this shape."""
        if self._reached is None:
            reached = self.operator.A(white_noise(like))
            parts = [reached] if isinstance(reached, Tensor) else [part.flatten() for part in reached]
            self._reached = torch.cat(parts) != 0
        return (self.weights > 0) & self._reached

    def simulate(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return measurements A x with noise of this model: none where the weight is 0, or where A reaches nothing."""
        clean, counted = self.operator.A(x), self._counted(x)
        noise = torch.randn(self.y.shape, generator=generator, dtype=self.y.dtype).to(self.y.device)
        std = torch.where(counted, self.weights, math.inf) ** -0.5
        drawn = clean + std * noise if self.errors is None else clean + std * noise + self.errors.draw(generator)
        return torch.where(counted, drawn, clean)

    def reject(self, rejected: Tensor) -> LeastSquaresStep:
        """Return the same data term without some measurements, a mask like y."""
        weights = torch.where(rejected, 0, self.weights)
        y = torch.where(rejected, 0, self.y)
        return self._like(y, weights, self.model)

    def with_measurements(self, y: Any) -> LeastSquaresStep:
        """Return the same data term with other measurements, and without common errors."""
        return self._like(y, self.weights, None)

    def with_errors(self, model: ErrorModel | None) -> LeastSquaresStep:
        """Return the same data term with other common errors."""
        other = self._like(self.y, self.weights, model)
        other._curvature, other._mean_dominates, other._reached = self._curvature, self._mean_dominates, self._reached
        return other

    def _like(self, y: Any, weights: Tensor, model: ErrorModel | None) -> LeastSquaresStep:
        return LeastSquaresStep(self.operator, y, weights, rtol=self.rtol, max_iter=self.max_iter, model=model)


def estimate_spectrum(
    normal: Callable[[Tensor], Tensor], like: Tensor, norm: float | Tensor
) -> tuple[float | Tensor, float | Tensor]:
    """tr(M^2) / (norm tr M) and tr M / (n norm) of each image of n pixels, from one random probe v.

    E <v, M v> = tr M and E |M v|^2 = tr(M^2); <v, M v> / <v, v> is exact for M = norm.
    """
    v = white_noise(like[:1]).expand(like.shape)
    energy = float((v[:1].abs() ** 2).sum())
    rows = [
        (one, M_one / top)  # divided before it is squared
        for one, M_one, top in zip(images(v), images(normal(v)), each(norm, len(like)), strict=True)
    ]
    traces = [float(torch.real(one.conj() * M_one).sum()) for one, M_one in rows]
    flatness = [_flatness(M_one, trace) for (_, M_one), trace in zip(rows, traces, strict=True)]
    return together(flatness), together([trace / energy for trace in traces])


def _flatness(Mv: Tensor, trace: float) -> float:
    return min(1.0, float((Mv.abs() ** 2).sum()) / trace) if trace > 0 else 1.0


def _mean(values: Tensor) -> float:
    """Return the mean of real values, summed in float64 by NumPy: Apple's GPUs have no float64. NaN of none."""
    return math.nan if values.numel() == 0 else float(values.detach().cpu().numpy().mean(dtype=np.float64))


def white_noise(like: Tensor, seed: int = 0) -> Tensor:
    """Return white noise in the shape, dtype and place of a tensor, always the same for one seed."""
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def closed_form(operator: Any, y: Any, weights: Tensor, image_weights: Tensor | None = None) -> Step | None:
    """Return the operator's data step, for one alpha or one for each image; None where there is none for these weights.

    Weights w_b with one value for each image enter by alpha, so that closed forms for scalar weights hold:

        (w_b A*A + alpha)^-1 (w_b A*y + alpha v) = (A*A + alpha/w_b)^-1 (A*y + (alpha/w_b) v)

    A data step of another library that takes one alpha alone is called image by image.
    """
    w = weights if image_weights is None else weights.new_ones(())
    step = operator.data_step(y, w)
    if step is None:
        return None

    def h(v: Tensor, alpha: Tensor) -> Tensor:
        if image_weights is not None:
            alpha = alpha / per_image(image_weights, v)
        if alpha.ndim == 0:
            return step(v, alpha)  # type: ignore[no-any-return]
        with suppress(IndexError, RuntimeError, TypeError, ValueError):
            x = step(v, alpha)
            if x.shape == v.shape:
                return x  # type: ignore[no-any-return]
        rows = [w[b : b + 1] if w.ndim == y.ndim and len(w) > 1 else w for b in range(len(v))]
        alphas = alpha.flatten().expand(len(v))
        return torch.cat([operator.data_step(y[b : b + 1], rows[b])(v[b : b + 1], alphas[b]) for b in range(len(v))])

    return h


def _image_weights(weights: Tensor, y: Any) -> Tensor | None:
    """Return weights (B,) where there is one for each of several images, else None."""
    if not isinstance(y, Tensor) or not weights.ndim == y.ndim > 1:
        return None
    return weights.flatten() if weights.numel() == len(weights) == len(y) > 1 else None


def apply_normal(operator: Operator, x: Tensor) -> Tensor:
    """A* A x by the operator's own shortcut where it has one."""
    if hasattr(operator, "A_adjoint_A"):
        return operator.A_adjoint_A(x)  # type: ignore[no-any-return]
    return operator.A_adjoint(operator.A(x))
