"""Check of an operator on one random pair: A is linear, leaves its input alone, and A* is its adjoint.

For white noise x and an operator B in the place of A*,

    <A x, w> - <x, B w> = <x, (A* - B) w>.

For white noise w it is a random number with standard deviation ||A* - B||_F, to be compared with ||A x|| and ||B w||,
which estimate ||A||_F and ||B||_F. It may happen to be small, so 3 A x / ||A x|| is added to w, of which B = c A* makes
3 (1 - c) ||A x||. Rounding leaves 1e-6 of ||A x|| in float32, whatever the number of measurements.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from ..algorithms.least_squares import white_noise
from ..algorithms.protocols import Operator
from ..checks import short

MAX_GAP = 0.05
"""Largest gap of an operator that is used."""
ALONG = 3.0
"""Part of A x in the measurements of the pair: wrong factors, the most common fault, stand out of the random part."""
EXACT_GAP = 5e-3
"""Largest gap that is not worth a warning; float32 and non-uniform FFTs are far below."""
REMEDY = "pnp.algorithms.linalg.adjoint_gap measures it; check_adjoint=False skips this check"


def check_adjoint(operator: Operator, like: Tensor, y: Tensor, *, caller: str = "solve") -> Tensor:
    """Check A and A* of an operator on one random pair, at the cost of one application of each.

    Returns A x of the pair, for `shortcut_fits`.

    Args:
        operator: A and A_adjoint.
        like: an image batch of the shape and dtype of x.
        y: measurements, one tensor.
        caller: start of the messages.

    Raises:
        ValueError: A is not linear, changes its input or draws at random, or A_adjoint is not its adjoint.
    """
    x = white_noise(like, 1)
    Ax = _apply(operator, "A", x, caller)
    norm = torch.linalg.vector_norm(Ax)
    w = white_noise(y, 2) + (ALONG * Ax / norm if norm > 0 else 0)
    Bw = _apply(operator, "A_adjoint", w, caller)
    size = max(float(norm), float(torch.linalg.vector_norm(Bw)))
    if size == 0:
        return Ax  # it measures nothing, which is another message
    if not math.isfinite(size):
        raise ValueError(f"{caller}: operator must give finite numbers, got NaN or infinity for white noise; mend A")
    gap = abs(_inner(Ax, w, x) - _inner(x, Bw, x)) / size
    if gap <= EXACT_GAP:
        return Ax
    if (fault := _not_linear(operator, x, Ax)) is not None:
        raise ValueError(f"{caller}: operator.A must be linear, got {fault}; plug-and-play here needs y = A x + noise")
    if gap > MAX_GAP:
        raise ValueError(
            f"{caller}: operator.A_adjoint must be the adjoint of A, got <A x, w> and <x, A_adjoint w> apart by "
            f"{gap:.2g} of ||A x|| on a random pair, where rounding leaves 1e-6; {REMEDY}"
        )
    warnings.warn(
        f"{caller}: operator.A_adjoint is off by {gap:.1g} of ||A x|| on a random pair, where rounding leaves 1e-6: "
        f"x will be a little wrong; {REMEDY}",
        stacklevel=2,
    )
    return Ax


def shortcut_fits(operator: Operator, like: Tensor, Ax: Tensor, *, caller: str = "solve") -> bool:
    """Return whether `A_adjoint_A`, where there is one, is A*A; warn where it is not, since it is then not used.

    Of white noise x, A*A x is compared with A_adjoint_A(x). Operators that say more about themselves, by a `data_step`
    or a `preconditioner`, are not asked.

    Args:
        operator: A and A_adjoint.
        like: an image batch of the shape and dtype of x.
        Ax: what `check_adjoint` returned for it.
        caller: start of the messages.
    """
    if not hasattr(operator, "A_adjoint_A") or hasattr(operator, "data_step") or hasattr(operator, "preconditioner"):
        return True
    x = white_noise(like, 1)
    normal = operator.A_adjoint(Ax)
    try:
        found = operator.A_adjoint_A(x)
        gap = float(torch.linalg.vector_norm(found - normal) / torch.linalg.vector_norm(normal))
        fault = "" if found.shape == normal.shape and gap <= EXACT_GAP else f"is off by {gap:.2g}"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever another library's shortcut raises
        fault = f"failed ({short(error, 80)})"
    if fault:
        warnings.warn(
            f"{caller}: operator.A_adjoint_A {fault}, compared with A_adjoint(A(x)), which is used in its place; "
            "correct or remove it",
            stacklevel=2,
        )
    return not fault


def _apply(operator: Operator, name: str, v: Tensor, caller: str) -> Tensor:
    """Return A(v) or A_adjoint(v), and check that v is still the same."""
    kept = v.clone()
    out: Tensor = getattr(operator, name)(v)
    if not torch.equal(v, kept):
        raise ValueError(f"{caller}: operator.{name} must leave its input as it is, got it changed; work on a clone")
    return out


def _inner(a: Tensor, b: Tensor, x: Tensor) -> complex:
    """<a, b>; of real images x its real part, with which A_adjoint is the adjoint among real numbers."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    value = complex(torch.vdot(a.flatten().to(dtype), b.flatten().to(dtype)))
    return value if x.is_complex() else complex(value.real)


def _not_linear(operator: Operator, x: Tensor, Ax: Tensor) -> str | None:
    """Return what is wrong with A(x) again, A(0) or A(2 x), as a text; None where A is linear."""

    def apart(a: Tensor, b: Tensor) -> bool:
        return float(torch.linalg.vector_norm(a - b)) > EXACT_GAP * float(torch.linalg.vector_norm(b))

    if apart(operator.A(x), Ax):
        return "another A(x) at each call"
    if apart(operator.A(torch.zeros_like(x)) + Ax, Ax):
        return "A(0) that is not 0"
    return "A(2 x) that is not 2 A(x)" if apart(operator.A(2 * x), 2 * Ax) or apart(operator.A(-x), -Ax) else None
