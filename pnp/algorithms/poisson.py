"""Poisson data term of counts y ~ Poisson(A x + r), its regularised EM update, and checks of counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import as_tensor, broadcasts, check_number
from .least_squares import apply_normal, estimate_spectral_flatness
from .linalg import each, images, operator_norms, per_image, together
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


class Poisson:
    """Counts y ~ Poisson(A x + background), x >= 0: sum(A x + r - y log(A x + r)).

    The x-update takes EM-surrogate steps (De Pierro 1995; Z. Li, Y. K. Dewaraja and J. A. Fessler, arXiv 2301.09710,
    equation 8): with s = A* 1, e = A*(y / (A x + r)) and q = s - alpha v,

        x <- (-q + sqrt(q^2 + 4 alpha x e)) / (2 alpha),

    each of which lowers the objective. A and A* must have non-negative entries, except for a little ringing, as
    of a Radon transform by Fourier slices: x e is clamped at 0, and measurements with an expected count below a
    millionth of the mean count are taken for unseen.

    Args:
        background: expected background counts r >= 0, a scalar or broadcasting to y.
        n_inner: surrogate steps in each x-update.
    """

    needs_noise_std = False

    def __init__(self, *, background: float | Tensor = 0.0, n_inner: int = 3):
        r = torch.as_tensor(background)
        if not bool((r >= 0).all() & r.isfinite().all()):
            raise ValueError("Poisson: background must be finite and not negative: expected counts added to A x")
        self.background = background
        self.n_inner = check_number("n_inner", n_inner, above=1, integer=True, or_equal=True, caller="Poisson")

    def __repr__(self) -> str:
        r = self.background
        shown = f"<tensor {tuple(r.shape)}>" if isinstance(r, Tensor) and r.ndim else repr(r)
        return f"Poisson(background={shown}, n_inner={self.n_inner!r})"

    def bind(self, operator: Operator, y: Any, weights: Tensor) -> PoissonStep:
        """Return h for these counts; the weights are not used: the counts carry their own noise."""
        if bool((y < 0).any()):
            raise ValueError(
                f"Poisson: y must hold counts >= 0, got a minimum of {float(y.min()):.4g}; "
                "do not subtract the background, pass it as Poisson(background=...)"
            )
        if not all(bool((one > 0).any()) for one in images(y)):
            raise ValueError("Poisson: y must hold counts in each image, got zeros only; check the measurements")
        r = torch.as_tensor(self.background, dtype=y.dtype).to(y.device)
        if not broadcasts(tuple(r.shape), tuple(y.shape)):
            raise ValueError(
                f"Poisson: background must be a scalar or broadcast to y {tuple(y.shape)}, got {tuple(r.shape)}"
            )
        return PoissonStep(operator, y, r, n_inner=self.n_inner)


class PoissonStep:
    """h(v, alpha) = argmin_{x >= 0} sum(A x + r - y log(A x + r)) + alpha/2 ||x - v||^2, approached by EM steps."""

    def __init__(self, operator: Operator, y: Tensor, background: Tensor, *, n_inner: int):
        self.operator, self.y, self.background = operator, y, background
        self.inner_iterations = n_inner
        self.back_projection = operator.A_adjoint(y)
        self.sensitivity = operator.A_adjoint(torch.ones_like(y))  # s = A* 1
        self._means = together([float(one.mean()) for one in images(y)])
        self._least = per_image(MIN_EXPECTED * self._means, y)
        if bool((self.sensitivity < -RINGING * self.sensitivity.max().clamp(min=0)).any()):
            raise ValueError(
                "Poisson: the operator must have non-negative entries, got A_adjoint(1) < 0; use LeastSquares"
            )
        self.last_x: Tensor | None = None

    def __call__(self, v: Tensor, alpha: Tensor, /) -> Tensor:
        """Return x after n_inner surrogate steps from the last one."""
        x = self.initial() if self.last_x is None else self.last_x
        for _ in range(self.inner_iterations):
            x = em_update(self._em(x), self.sensitivity, v, alpha)
        self.last_x = x.detach()
        return x

    def _em(self, x: Tensor) -> Tensor:
        """Return x e, e = A*(y / (A x + r)), with 0 for y / 0: no pixel contributes to such a measurement."""
        expected = self.operator.A(x) + self.background
        seen = expected > self._least
        e = self.operator.A_adjoint(torch.where(seen, self.y / torch.where(seen, expected, 1), 0))
        return (x * e).clamp(min=0)

    def initial(self) -> Tensor:
        """Return the image after ten EM iterations from the constant that explains all counts."""
        s = self.sensitivity
        counts = _sums((self.y - self.background).clamp(min=0), s)
        x = torch.ones_like(s) * torch.where(counts > 0, counts, _sums(self.y, s)) / _sums(s, s)
        seen = s > RINGING * s.max()
        for _ in range(10):
            x = torch.where(seen, self._em(x) / torch.where(seen, s, 1), x)
        return x

    def curvature(self) -> float | Tensor:
        """Return ||A*A|| / mean(y): the mean count is the variance."""
        n = len(self.back_projection)
        norms = operator_norms(lambda x: apply_normal(self.operator, x), self.back_projection, rtol=1e-2)
        return together([norm**2 / mean for norm, mean in zip(norms, each(self._means, n), strict=True)])

    def spectral_flatness(self) -> float | Tensor:
        """Return tr(M^2) / (||M|| tr M) of M = A*A / mean(y)."""
        mean = per_image(self._means, self.back_projection)
        return estimate_spectral_flatness(
            lambda x: apply_normal(self.operator, x) / mean, self.back_projection, self.curvature()
        )

    def misfit(self, x: Tensor, /) -> float:
        """Return Pearson's (A x + r - y)^2 / (A x + r) per measurement with an expected count."""
        expected = self.operator.A(x) + self.background
        seen = expected > self._least
        return float(((expected - self.y)[seen] ** 2 / expected[seen]).mean())


def _sums(values: Tensor, like: Tensor) -> Tensor:
    """Return the sum of each image's values, shaped to broadcast against images."""
    return torch.stack([one.sum() for one in images(values)]).reshape(-1, *[1] * (like.ndim - 1))
