"""Poisson data term of counts y ~ Poisson(A x + r), its x-update, the EM update, and checks of counts.

With a gain g and read noise of standard deviation s, y = g Poisson((A x + r)/g) + s N(0, 1), all in units of y. The
first part has the variance g (A x + r). Counts that are shifted by the variance of the read noise,

    y + s^2/g ~ g Poisson((A x + r + s^2/g)/g)    nearly,

have its mean and its variance (D. L. Snyder, A. M. Hammoud and R. L. White, J. Opt. Soc. Am. A 10 (1993) 1014; D. L.
Snyder, C. W. Helstrom, A. D. Lanterman, M. Faisal and R. L. White, J. Opt. Soc. Am. A 12 (1995) 272). So the data term
is that of plain counts, with weights 1/g and with s^2/g added to y and r.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..checks import as_tensor, broadcasts, check_number, short
from .batch import each, images, operator_norms, per_image, together
from .count_newton import MAX_CG, MAX_CG_OF_GRAPH, MAX_STEPS_OF_GRAPH, Counts, differentiable, floor_of, minimise
from .count_statistics import are_whole, concerns_of_counts, deviance_residuals
from .least_squares import apply_normal, estimate_spectrum
from .protocols import Operator


def ratio(y: Tensor, expected: Tensor) -> Tensor:
    """Return y / (A x + r), and 0 where nothing is expected, or so little that the ratio leaves the range of floats."""
    within = expected > y * torch.finfo(y.dtype).tiny ** 0.75
    return torch.where(within, y / torch.where(within, expected, 1), 0)


def em_update(xe: Tensor, s: Tensor, u: Tensor, beta: Tensor | float) -> Tensor:
    """Return argmin over v >= 0 of sum(s v - x e log v) + beta/2 ||v - u||^2, in the form without cancellation.

    EM's surrogate of the likelihood and a quadratic prior: De Pierro, IEEE Trans. Med. Imaging 14 (1995) 132.

    Args:
        xe: x A^T(y / (A x + r)), >= 0.
        s: A^T 1; 0 where nothing is measured: there the answer is max(u, 0).
        u: where the prior pulls to, of any sign.
        beta: its strength > 0, broadcasting to x.

    >>> one = torch.ones(1)
    >>> em_update(6 * one, one, 6 * one, 1e-6)  # EM's own step, x e / s
    tensor([6.])
    """
    q = s - beta * u
    square = q.square() + 4 * beta * xe
    # The root's derivative is infinite at 0, the value there is 0: no gradient passes.
    root = torch.where(square > 0, square, 1).sqrt() * (square > 0)
    positive = q > 0
    return torch.where(positive, 2 * xe / torch.where(positive, q + root, 1), (root - q) / (2 * beta))


def check_counts(caller: str, name: str, value: Any, remedy: str) -> None:
    """Refuse what is no tensor of finite real numbers >= 0; the remedy ends the message for negative ones."""
    if not isinstance(value, Tensor) or value.is_complex():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{caller}: {name} must be one array of real numbers, got {got}")
    if not bool(value.isfinite().all()):
        bad = int((~value.isfinite()).sum())
        raise ValueError(f"{caller}: {name} must be finite, got NaN or infinity in {bad} of {value.numel()} entries")
    if bool((value < 0).any()):
        raise ValueError(f"{caller}: {name} must be >= 0, got a minimum of {float(value.min()):.4g}; {remedy}")


def as_background(caller: str, background: Any, y: Tensor) -> Tensor:
    """Return the background r >= 0, a scalar or an array that broadcasts, in the shape of the counts y."""
    if hasattr(background, "shape") and background.shape != ():
        r = as_tensor("background", background, device=y.device, caller=caller).to(y.dtype)
    else:
        value = background.item() if hasattr(background, "item") else background
        r = torch.as_tensor(check_number("background", value, above=0, or_equal=True, caller=caller), dtype=y.dtype)
        r = r.to(y.device)
    check_counts(caller, "background", r, "it is expected counts added to A x")
    if not broadcasts(tuple(r.shape), tuple(y.shape)):
        raise ValueError(
            f"{caller}: background must be a scalar or broadcast to y {tuple(y.shape)}, got {tuple(r.shape)}"
        )
    return r.expand(y.shape)


MIN_EXPECTED = 1e-6
"""Expected counts below this fraction of the mean count are rounding, or ringing about zero."""
RINGING = 1e-2
"""Sensitivity A* 1 closer to 0 than this fraction of its maximum is ringing."""
MAX_READ_NOISE = 8.0
"""Values below 0 by more than this many standard deviations of the read noise are not explained by it."""


class Poisson:
    """Counts y = gain * Poisson((A x + background) / gain) + read_noise * N(0, 1), x >= 0.

    y, A x, background, gain and read_noise are in one unit, that of y; with the defaults y are plain counts of mean A x
    + background. gain is y per count, as in deepinv's `PoissonNoise(gain)` with normalize=True (its default) and
    `PoissonGaussianNoise(gain, sigma=read_noise)` (`deepinv/physics/noise.py`, 0.5.0; their clip_positive acts on
    A x < 0 only, which does not occur here). With normalize=False, deepinv's y are counts of A x / gain: multiply them
    by the gain. With r = background + read_noise^2/gain, and read_noise^2/gain added to y (at least 0 then), the data
    term is

        f(x) = sum(A x + r - y log(A x + r)) / gain,

    the likelihood without read noise, and close to it with (shifted Poisson: Snyder, Hammoud and White, J. Opt. Soc.
    Am. A 10 (1993) 1014). Raising y to 0 biases a measurement by up to a tenth of a count where fewer than three are
    expected and read_noise is below two gains, and by less elsewhere.

    The x-update takes Newton steps from the last x, with the expected Hessian A*(A / (gain (A x + r))), none of which
    raises the objective (`count_newton`). For operators with a preconditioner, such as Radon transforms and blurs, x is
    free, `solve(bounds=(0, None))` bounds z, and f is continued by a parabola where fewer than a count and a tenth of
    the mean count are expected: such A may ring about zero. For others x >= 0 and f is exact; there a step of EM (De
    Pierro 1995; Z. Li, Y. K. Dewaraja and J. A. Fessler, arXiv 2301.09710, equation 8) comes first, with
    s = A*(1/gain), e = A*(y / (A x + r) / gain) and q = s - alpha v,

        x <- (-q + sqrt(q^2 + 4 alpha x e)) / (2 alpha),

    which is exact for masks. A and A* must have non-negative entries, except for a little ringing. The x-update is
    differentiable in v, alpha and what the operator depends on, by one more solve.

    Args:
        background: expected background r >= 0, a number or broadcasting to y.
        gain: y per count, > 0, a number or broadcasting to y. None: that of `operator.noise_model`, as deepinv's
            physics have it, or 1 where it has none. It is never taken from there unasked.
        read_noise: standard deviation of Gaussian noise that was added to the counts, >= 0, a number or broadcasting to
            y. None: the sigma of `operator.noise_model`, where it has a gain too, or 0.
        n_inner: largest number of Newton steps in each x-update, and one more in the first; fewer where the gradient
            vanishes. Each takes at most ten conjugate gradient iterations. One is enough: the next update goes on.
        robust: whether `solve` looks for outliers and leaves them out.
    """

    needs_noise_std = False

    def __init__(
        self,
        *,
        background: float | Tensor = 0.0,
        gain: float | Tensor | None = 1.0,
        read_noise: float | Tensor | None = 0.0,
        n_inner: int = 1,
        robust: bool = False,
    ):
        _check_level("background", background, "expected counts added to A x")
        if gain is not None:
            _check_level("gain", gain, "y per count, or None to ask the operator", positive=True)
        if read_noise is not None:
            _check_level("read_noise", read_noise, "a standard deviation in units of y, or None to ask the operator")
        if not isinstance(robust, bool):
            raise TypeError(f"Poisson: robust must be True or False, got {short(repr(robust), 60)}")
        self.background, self.gain, self.read_noise, self.robust = background, gain, read_noise, robust
        self.n_inner = check_number("n_inner", n_inner, above=1, integer=True, or_equal=True, caller="Poisson")

    def __repr__(self) -> str:
        levels = {"background": self.background, "gain": self.gain, "read_noise": self.read_noise}
        shown = {
            k: f"<tensor {tuple(v.shape)}>" if isinstance(v, Tensor) and v.ndim else repr(v) for k, v in levels.items()
        }
        units = "".join(
            f", {k}={shown[k]}" for k, usual in (("gain", "1.0"), ("read_noise", "0.0")) if shown[k] != usual
        )
        robust = ", robust=True" if self.robust else ""
        return f"Poisson(background={shown['background']}{units}, n_inner={self.n_inner!r}{robust})"

    def bind(self, operator: Operator, y: Any, weights: Tensor) -> PoissonStep:
        """Return h for these counts; the weights are not used: the counts carry their own noise."""
        model = _noise_model(operator, y)
        theirs = (1.0, 0.0) if model is None else (model[0] if model[2] else 1.0, model[1])
        gain = _level("gain", theirs[0] if self.gain is None else self.gain, y)
        read_noise = _level("read_noise", theirs[1] if self.read_noise is None else self.read_noise, y)
        r = _level("background", self.background, y)
        if not bool((gain > 0).all()):
            raise ValueError(
                f"Poisson: gain must be positive, got {float(gain.min()):.4g} from operator.noise_model, which is "
                "Gaussian noise; use LeastSquares()"
            )
        if bool((y < -MAX_READ_NOISE * read_noise).any()):
            raise ValueError(
                f"Poisson: y must hold counts >= 0, up to read_noise ({float(read_noise.max()):.4g} at most), got a "
                f"minimum of {float(y.min()):.4g}; give the standard deviation of Gaussian noise as "
                "Poisson(read_noise=...), and do not subtract the background, pass it as Poisson(background=...)"
            )
        if not all(bool((one > 0).any()) for one in images(y)):
            raise ValueError("Poisson: y must hold counts in each image, got zeros only; check the measurements")
        return PoissonStep(operator, y, r, n_inner=self.n_inner, gain=gain, read_noise=read_noise)


class PoissonStep:
    """h(v, alpha) = argmin_{x >= 0} f(x) + alpha/2 ||x - v||^2, by Newton steps from the last x; f as in `Poisson`.

    Args:
        operator: A.
        y: measurements, as the user gave them.
        background, gain, read_noise: as in `Poisson`, tensors that broadcast to y.
        n_inner: largest number of Newton steps in each x-update.
        rejected: measurements that are left out, a mask of y's shape; None: none.
    """

    def __init__(
        self,
        operator: Operator,
        y: Tensor,
        background: Tensor,
        *,
        n_inner: int,
        gain: Tensor,
        read_noise: Tensor,
        rejected: Tensor | None = None,
    ):
        self.operator, self.y, self.background = operator, y, background
        self.gain, self.read_noise, self.rejected = gain, read_noise, rejected
        self.n_inner, self.inner_iterations = n_inner, 0
        self._kept = torch.ones_like(y, dtype=torch.bool) if rejected is None else ~rejected
        self._weights = self._kept / gain
        shift = read_noise.square() / gain
        self._shifted, self._r = y + shift, background + shift
        self._counts = torch.where(self._kept, self._shifted.clamp(min=0), 0)
        self.back_projection = operator.A_adjoint(self._counts)
        self.sensitivity = operator.A_adjoint(self._weights)  # s = A* 1, for a gain of 1
        self._variances = self._means(gain * self._counts)
        self._curvature: float | Tensor | None = None  # found once, by a power iteration
        self._flatness_and_coverage: tuple[float | Tensor, float | Tensor] | None = None
        self._least = per_image(MIN_EXPECTED * self._means(self._counts), y)
        if bool((self.sensitivity < -RINGING * self.sensitivity.max().clamp(min=0)).any()):
            raise ValueError(
                "Poisson: the operator must have non-negative entries, got A_adjoint(1) < 0; use LeastSquares"
            )
        self.last_x: Tensor | None = None

    def __call__(self, v: Tensor, alpha: Tensor, /) -> Tensor:
        """Return x after the Newton steps, with its derivative in grad mode, where x is solved for more exactly."""
        x = self.initial().detach() if self.last_x is None else self.last_x.expand(v.shape)
        graph = torch.is_grad_enabled()
        n_steps = MAX_STEPS_OF_GRAPH if graph else self.n_inner + (self.last_x is None)
        max_cg = MAX_CG_OF_GRAPH if graph else MAX_CG
        found = minimise(self._problem, x, v.detach(), alpha.detach(), n_steps=n_steps, max_cg=max_cg)
        self.last_x, self.inner_iterations = found.x, found.n_iter
        return differentiable(self._problem, found.x, v, alpha) if graph else found.x

    @cached_property
    def _problem(self) -> Counts:
        least = torch.as_tensor(self._least, dtype=self.y.dtype, device=self.y.device)
        mean = least / MIN_EXPECTED
        return Counts(
            self.operator, self._counts, self._weights, self._r,
            floor_of(self.operator, self.gain, mean), least, self.sensitivity,
            lambda x, v, alpha: em_update(self._em(x), self.sensitivity, v, alpha),
        )  # fmt: skip

    def _em(self, x: Tensor) -> Tensor:
        """Return x e, e = A*(y / (A x + r) / gain), with 0 for y / 0: no pixel contributes to such a measurement."""
        expected = self.operator.A(x) + self._r
        seen = expected > self._least
        e = self.operator.A_adjoint(torch.where(seen, self._counts / torch.where(seen, expected, 1), 0) * self._weights)
        return (x * e).clamp(min=0)

    def initial(self) -> Tensor:
        """Return the image after ten EM iterations from the constant that explains all counts."""
        s = self.sensitivity
        counts = _sums((self._counts - self._r).clamp(min=0) * self._weights, s)
        x = torch.ones_like(s) * torch.where(counts > 0, counts, _sums(self._counts * self._weights, s)) / _sums(s, s)
        seen = s > RINGING * s.max()
        for _ in range(10):
            x = torch.where(seen, self._em(x) / torch.where(seen, s, 1), x)
        return x

    def curvature(self) -> float | Tensor:
        """Return ||A*A|| / mean(gain y), A without the measurements left out: a gain times a count is its variance."""
        if self._curvature is None:
            norms = operator_norms(self._normal, self.back_projection, rtol=1e-2)
            variances = each(self._variances, len(norms))
            self._curvature = together([norm**2 / variance for norm, variance in zip(norms, variances, strict=True)])
        return self._curvature

    def spectral_flatness(self) -> float | Tensor:
        """Return tr(M^2) / (||M|| tr M) of M = A*A / mean(gain y)."""
        return self._spectrum()[0]

    def coverage(self) -> float | Tensor:
        """Return tr M / (n ||M||) of M = A*A / mean(gain y), n the number of pixels."""
        return self._spectrum()[1]

    def _spectrum(self) -> tuple[float | Tensor, float | Tensor]:
        """Return spectral flatness and coverage, found once from one application of A*A."""
        if self._flatness_and_coverage is None:
            variance, like = per_image(self._variances, self.back_projection), self.back_projection
            self._flatness_and_coverage = estimate_spectrum(
                lambda x: self._normal(x) / variance, like, self.curvature()
            )
        return self._flatness_and_coverage

    def _means(self, values: Tensor) -> float | Tensor:
        """Return each image's mean over the measurements that were not left out, of values that are 0 there."""
        pairs = zip(images(values), images(self._kept), strict=True)
        return together([float(one.mean()) / (int(kept.sum()) / kept.numel()) for one, kept in pairs])

    def _normal(self, x: Tensor) -> Tensor:
        if self.rejected is None:
            return apply_normal(self.operator, x)
        return self.operator.A_adjoint(self._kept * self.operator.A(x))

    def misfit(self, x: Tensor, /) -> float:
        """Return Pearson's (A x + r - y)^2 / (gain (A x + r)) per measurement with an expected count."""
        expected = self.operator.A(x) + self._r
        seen = (expected > self._least) & self._kept
        return float(((expected - self._shifted)[seen] ** 2 / (self.gain * expected)[seen]).mean())

    def residuals(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return the signed deviance residuals of A x + r - y in noise levels, and which measurements count.

        Both have y's shape; the residual is 0 where a measurement does not count, because it was rejected, or because x
        gives it no expected count and it has none. Too many counts for x are negative. A hot pixel beside the object
        has counts but no expected count: that counts as the least there is.
        """
        expected = self.operator.A(x) + self._r
        counted = ((expected > self._least) | (self._counts > 0)) & self._kept
        found = deviance_residuals(self._counts / self.gain, torch.maximum(expected, self._least) / self.gain)
        return torch.where(counted, found, 0), counted

    def simulate(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return counts drawn for an image x, with read noise; the generator is the CPU's."""
        mean = ((self.operator.A(x) + self.background).clamp(min=0) / self.gain).cpu()
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(self.y.device)
        return self.gain * torch.poisson(mean, generator).to(self.y.device) + self.read_noise * noise

    def reject(self, rejected: Tensor) -> PoissonStep:
        """Return this data term without measurements, a mask of y's shape, nor those that were rejected before.

        It starts from the same `last_x`, and costs two A*.
        """
        out = rejected if self.rejected is None else rejected | self.rejected
        if not all(bool(one.any()) for one in images((self.y > 0) & ~out)):
            raise ValueError(
                "Poisson: rejected must leave some counts of each image in y, got all of them; check y and the operator"
            )
        levels = {"gain": self.gain, "read_noise": self.read_noise}
        step = PoissonStep(self.operator, self.y, self.background, n_inner=self.n_inner, rejected=out, **levels)
        step.last_x = self.last_x
        return step

    def concerns(self) -> list[str]:
        """Return sentences, with cause and remedy, on what looks wrong with the unit of y, `gain` and `read_noise`.

        Another noise model of the operator, where y does not look right as it is, or y that are no counts in units of
        `gain`, see `count_statistics.concerns_of_counts`. Corrected counts, which are no whole numbers, pass.
        """
        has_read_noise = bool((self.read_noise > 0).any())
        counts = self.y / self.gain
        of_operator = _concern_of_noise_model(self, has_read_noise or not are_whole(counts[counts > 0]))
        return of_operator or ([] if has_read_noise else concerns_of_counts(counts, self.gain))


def _check_level(name: str, value: Any, meaning: str, *, positive: bool = False) -> None:
    """Refuse what is no number or array of finite numbers >= 0, or > 0."""
    try:
        level = torch.as_tensor(value)
        fits = bool((level.isfinite() & (level > 0 if positive else level >= 0)).all())
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"Poisson: {name} must be a number or an array: {meaning}; got {type(value).__name__}"
        ) from error
    if not fits:
        raise ValueError(f"Poisson: {name} must be finite and {'positive' if positive else 'not negative'}: {meaning}")


def _level(name: str, value: float | Tensor, y: Tensor) -> Tensor:
    level = torch.as_tensor(value, dtype=y.dtype).to(y.device)
    if not broadcasts(tuple(level.shape), tuple(y.shape)):
        raise ValueError(
            f"Poisson: {name} must be a scalar or broadcast to y {tuple(y.shape)}, got {tuple(level.shape)}"
        )
    return level


def _noise_model(operator: Operator, y: Tensor) -> tuple[Tensor, Tensor, bool] | None:
    """Return gain and read noise of deepinv's `physics.noise_model`, and whether y is multiplied by the gain.

    0-dim, or (B, 1, ...) where each image has its own. None where there is no noise model with a gain.
    """
    model = getattr(operator, "noise_model", None)
    gain, sigma = getattr(model, "gain", None), getattr(model, "sigma", 0.0)
    if not isinstance(gain, (int, float, Tensor)) or not isinstance(sigma, (int, float, Tensor)):
        return None
    levels = [torch.as_tensor(level).detach().to(y.device, y.dtype) for level in (gain, sigma)]
    gain, sigma = (t.reshape(()) if t.numel() == 1 else t.reshape(-1, *[1] * (y.ndim - 1)) for t in levels)
    return gain, sigma, bool(torch.as_tensor(getattr(model, "normalize", True)).all())


def _concern_of_noise_model(h: PoissonStep, is_doubtful: bool) -> list[str]:
    """Return a sentence where the operator's noise model has another gain or read noise, and y is doubtful."""
    model = _noise_model(h.operator, h.y)
    if model is None:
        return []
    gain, noise, is_normalised = model
    if not is_normalised:
        if is_doubtful or not bool((h.gain == 1).all()) or bool((gain == 1).all()):
            return []
        return [
            f"operator.noise_model has normalize=False: y are counts of A x / {_shown(gain)}, and x comes out divided "
            f"by it; multiply y by it and use Poisson(gain={_shown(gain)})"
        ]
    same_gain = bool(((gain - h.gain).abs() <= 1e-3 * gain).all())
    # y and all its levels may have been scaled together.
    theirs, ours = noise / gain, h.read_noise / h.gain
    same_noise = bool(((theirs - ours).abs() <= 1e-3 * theirs).all())
    if same_noise and (same_gain or not is_doubtful or bool((noise > 0).all())):
        return []
    said = [f"gain {_shown(g)} and read noise {_shown(s)}" for g, s in ((gain, noise), (h.gain, h.read_noise))]
    return [
        f"operator.noise_model has {said[0]}, Poisson {said[1]}: if y has the operator's noise, use "
        "Poisson(gain=None, read_noise=None), which reads both there"
    ]


def _shown(level: Tensor) -> str:
    return f"{float(level.mean()):.4g}" + ("" if level.numel() == 1 else " on average")


def _sums(values: Tensor, like: Tensor) -> Tensor:
    """Return the sum of each image's values, shaped to broadcast against images."""
    return torch.stack([one.sum() for one in images(values)]).reshape(-1, *[1] * (like.ndim - 1))
