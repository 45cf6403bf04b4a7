"""Bind a data term to the operator and the measurements, and check that they belong together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..algorithms.batch import each, images
from ..algorithms.least_squares import LeastSquares
from ..algorithms.protocols import BoundDataTerm, DataTerm, Operator
from ..checks import short
from .adjoint_check import check_adjoint as check_adjoint_of
from .adjoint_check import shortcut_fits
from .arguments import dtype_that_works
from .matrices import FunctionOperator


def as_data_term(data_term: Any) -> DataTerm:
    """Return the data term, least squares where none is given."""
    term = LeastSquares() if data_term is None else data_term
    if not hasattr(term, "bind") or not hasattr(term, "needs_noise_std"):
        known = "LeastSquares(), Poisson() or ct.Transmission()"
        raise TypeError(f"solve: data_term must be {known}, got {short(repr(term), 60)}")
    return term  # type: ignore[no-any-return]


def bind(term: DataTerm, operator: Operator, y: Any, weights: Tensor, check_adjoint: bool = True) -> BoundDataTerm:
    """Bind the data term and check that the operator and y belong together, shape and scale."""
    shape = f"of shape {tuple(y.shape)} " if isinstance(y, Tensor) else ""
    try:
        h = term.bind(operator, y, weights)
        again = operator.A(h.back_projection)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a foreign operator raises for measurements that are not its own
        if isinstance(error, (ValueError, TypeError)) and len(str(error)) < 400 and "\n" not in str(error):
            raise
        if (own := dtype_that_works(operator, y)) is not None:
            raise TypeError(
                f"solve: y is {y.dtype}, and the operator computes in {own}: {short(error, 120)}; use "
                f"operator.to({y.real.dtype}) if it is a module, or y in {own}"
            ) from error
        raise ValueError(
            f"solve: y {shape}does not fit the operator, whose A_adjoint(y) failed: {short(error)}; "
            "y must look like operator.A(x), batch first"
        ) from error
    if isinstance(y, Tensor) and not isinstance(again, Tensor):
        raise TypeError(f"solve: operator.A must return a torch.Tensor as y is, got {type(again).__name__}")
    if isinstance(y, Tensor) and again.shape != y.shape:
        raise ValueError(
            f"solve: y must have the shape of operator.A(x), {tuple(again.shape)} for images "
            f"{tuple(h.back_projection.shape)}, got {tuple(y.shape)}; images are (B, C, H, W), e.g. y[None, None]"
        )
    own_weights = images(weights) if isinstance(y, Tensor) and weights.ndim == y.ndim else []
    if silent := [b for b, w in enumerate(own_weights) if not bool((w > 0).any())]:
        raise ValueError(
            f"solve: noise_std is infinite everywhere in image {silent[0]} of the batch, so it carries no information; "
            "give finite values, or leave the image out"
        )
    if check_adjoint and isinstance(y, Tensor):
        Ax = check_adjoint_of(operator, h.back_projection, y)
        if not shortcut_fits(operator, h.back_projection, Ax):
            h = term.bind(FunctionOperator(operator.A, operator.A_adjoint), y, weights)
    if not all(c > 0 for c in each(h.curvature(), len(h.back_projection))):
        if bool((operator.A(torch.ones_like(h.back_projection)) != 0).any()):
            raise ValueError("solve: operator.A_adjoint must be the adjoint of A, got <x, A_adjoint(A(x))> <= 0")
        raise ValueError("solve: the operator measures nothing, A x vanishes; check its mask, kernel and noise_std")
    return h
