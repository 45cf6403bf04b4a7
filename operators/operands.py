"""Operands of the algebra of operators: what they offer, and messages on those that are none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor


def apply_normal(operator: Any, x: Tensor) -> Tensor:
    """Return A* A x, by the operator's own method where it has one."""
    if hasattr(operator, "A_adjoint_A"):
        return operator.A_adjoint_A(x)  # type: ignore[no-any-return]
    return operator.A_adjoint(operator.A(x))  # type: ignore[no-any-return]


def is_sampled(operator: Any) -> bool | None:
    """Return an operator's `y_is_sampled`; those of other libraries do not say."""
    known: bool | None = getattr(operator, "y_is_sampled", False)
    return known


def is_operator(value: object) -> bool:
    """Return whether a value has `A(x)` and `A_adjoint(y)`, and is no class."""
    methods = (getattr(value, name, None) for name in ("A", "A_adjoint"))
    return not isinstance(value, type) and all(callable(method) for method in methods)


def as_operands(sign: str, *values: Any) -> tuple[Any, ...]:
    """Return values that are operators, of this or another library, or raise with the one that is not."""
    for value in values:
        if not is_operator(value):
            remedy = "write A.A(x) to apply A, or c * A to scale it"
            if isinstance(value, (Tensor, np.ndarray)):
                remedy += ", or make the matrix an operator with pnp.interop.as_operator"
            raise TypeError(
                f"A {sign} B: both must be operators with A(x) and A_adjoint(y), got {type(value).__name__}; {remedy}"
            )
    return values


def as_scale(c: Any, formula: str = "c * A") -> float:
    """Return a finite real c that is not 0, of c * A or A / c."""
    if is_operator(c):
        raise TypeError(
            f"{formula}: c must be a number, got {formula_or_class(c)}; write A @ B for one operator after another"
        )
    is_scalar = isinstance(c, (int, float, np.integer, np.floating)) and not isinstance(c, bool)
    if isinstance(c, (Tensor, np.ndarray)):
        is_scalar = c.ndim == 0 and not (isinstance(c, Tensor) and (c.is_complex() or c.requires_grad))
    if not is_scalar:
        got = f"an array {tuple(c.shape)}" if hasattr(c, "shape") else type(c).__name__
        raise TypeError(f"{formula}: c must be one real number without a gradient, got {got}; scale the images instead")
    if not math.isfinite(c) or c == 0:
        raise ValueError(f"{formula}: c must be finite and not 0, got {float(c)}")
    return float(c)


def formula_or_class(operator: object) -> str:
    """Return an operator's formula where that is short, else the name of its class."""
    text = repr(operator)
    return text if len(text) <= 40 and "\n" not in text else type(operator).__name__
