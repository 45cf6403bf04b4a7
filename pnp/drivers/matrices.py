"""Operators that are a matrix, y = M vec(x), or a pair of functions.

A dense M is a tensor. Sparse matrices and linear operators are SciPy's, which computes on the CPU and in the dtype of M
and x; derivatives pass through M and its adjoint, of any order.
"""

from __future__ import annotations

import math
import operator as op
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..algorithms.noise_estimate import estimate_noise_std
from ..checks import short


class MatrixOperator(nn.Module):
    """y = M vec(x), images (B, C, H, W) to measurements (B, *measurement_shape); the adjoint is M* vec(y).

    Args:
        matrix: M (m, n), as `pnp.interop.as_operator` takes it.
        image_shape: (H, W) or (C, H, W), n pixels in all.
        measurement_shape: sizes, m in all; None: (m,).
    """

    matrix: Tensor

    def __init__(
        self, matrix: Any, image_shape: tuple[int, ...], measurement_shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        m, n = _check_matrix(matrix)
        image = _check_sizes("image_shape", image_shape, n, "columns", fewest=2)
        self.x_shape = (1, *image) if len(image) == 2 else image
        self.y_shape = (
            (m,) if measurement_shape is None else _check_sizes("measurement_shape", measurement_shape, m, "rows")
        )
        self.shape = self.x_shape[1:]
        self._scipy: Any = None
        if isinstance(matrix, (Tensor, np.ndarray)):
            self.register_buffer("matrix", _dense(matrix))
        else:
            self._scipy = matrix
            self._check_adjoint(m)

    def A(self, x: Tensor, /) -> Tensor:
        """Return M vec(x) of images x (B, C, H, W), (B, *measurement_shape)."""
        self._check("A", "x", x, self.x_shape)
        return self._times(x.reshape(len(x), -1), False).reshape(len(x), *self.y_shape)

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Return M* vec(y) of measurements y (B, *measurement_shape), images (B, C, H, W)."""
        self._check("A_adjoint", "y", y, self.y_shape)
        return self._times(y.reshape(len(y), -1), True).reshape(len(y), *self.x_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator: the same as `A(x)`."""
        return self.A(x)

    def estimate_noise(self, y: Tensor) -> float:
        """Estimate the noise of measurements that have axes; the rows of a bare matrix are in no order.

        Raises:
            ValueError: there is no measurement_shape.
        """
        if len(self.y_shape) == 1:
            raise ValueError(
                "solve: noise_std must be given for a matrix, got None; it is estimated from neighbours' differences, "
                "and the rows of a matrix are in no order; if they are, pass measurement_shape to as_operator"
            )
        return estimate_noise_std(y)

    @property
    def y_is_sampled(self) -> bool:
        """Whether neighbours in y are neighbours on a grid: where measurements have axes."""
        return len(self.y_shape) > 1

    def __repr__(self) -> str:
        m, n = math.prod(self.y_shape), math.prod(self.x_shape)
        kind = str(self.matrix.dtype) if self._scipy is None else type(self._scipy).__name__
        return f"MatrixOperator(<({m}, {n}) {kind}>, {self.x_shape}, {self.y_shape})"

    def _times(self, rows: Tensor, adjoint: bool) -> Tensor:
        """Return M v, or M* v, for every row v."""
        if self._scipy is not None:
            out: Tensor = _Product.apply(rows, self._scipy, adjoint)  # type: ignore[no-untyped-call]
            return out
        M = self.matrix.mH if adjoint else self.matrix
        dtype = rows.dtype.to_complex() if M.is_complex() else rows.dtype
        return rows.to(dtype) @ M.to(dtype).mT

    def _check(self, method: str, name: str, v: Tensor, sizes: tuple[int, ...]) -> None:
        caller = f"{type(self).__name__}.{method}"
        if not isinstance(v, Tensor):
            raise TypeError(
                f"{caller}: {name} must be a torch.Tensor, got {type(v).__name__}; use torch.as_tensor({name})"
            )
        if not (v.is_floating_point() or v.is_complex()):
            raise TypeError(f"{caller}: {name} must be floating point or complex, got {v.dtype}; use {name}.float()")
        if v.ndim == 0 or v.shape[1:] != sizes:
            want = ", ".join(map(str, sizes))
            remedy = f"; use {name}[None]" if v.shape == sizes else ""
            raise ValueError(f"{caller}: {name} must be (B, {want}), got {tuple(v.shape)}{remedy}")
        device = torch.device("cpu") if self._scipy is not None else self.matrix.device
        if v.device != device:
            raise ValueError(f"{caller}: {name} is on {v.device}, the matrix on {device}; move one")

    def _check_adjoint(self, m: int) -> None:
        """Apply the adjoint once: a LinearOperator may lack it."""
        try:
            _product(self._scipy, np.zeros((m, 1), np.float32), True)
        except Exception as error:  # whatever another library raises where it has no adjoint
            raise ValueError(
                f"as_operator: matrix must have an adjoint, but rmatvec of {type(self._scipy).__name__} failed "
                f"({short(error, 80)}); define rmatvec"
            ) from error


class _Product(torch.autograd.Function):
    """M v, or M* v, for every row v, by SciPy; its derivative is the other of the two."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Any, adjoint: bool) -> Tensor:
        ctx.matrix, ctx.adjoint, ctx.is_complex = matrix, adjoint, rows.is_complex()
        out = torch.from_numpy(_product(matrix, rows.detach().numpy().T, adjoint))
        return out.to(rows.dtype.to_complex() if out.is_complex() else rows.dtype)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        out: Tensor = _Product.apply(grad[0], ctx.matrix, not ctx.adjoint)  # type: ignore[no-untyped-call]
        return out if ctx.is_complex or not out.is_complex() else out.real, None, None


def _product(matrix: Any, columns: Any, adjoint: bool) -> Any:
    """Return (M V)^T, or (M* V)^T, as rows in memory."""
    if hasattr(matrix, "matmat"):
        if _takes_vectors_only(matrix, adjoint):
            times = matrix.rmatvec if adjoint else matrix.matvec
            return np.stack([times(row) for row in np.ascontiguousarray(columns.T)])
        out = matrix.rmatmat(columns) if adjoint else matrix.matmat(columns)
    else:
        out = (matrix.conj().T if adjoint else matrix) @ columns
    return np.ascontiguousarray(np.asarray(out).T)


def _takes_vectors_only(matrix: Any, adjoint: bool) -> bool:
    """Return whether SciPy would loop over columns (n, 1), which some operators, as ASTRA's OpTomo, do not take."""
    from scipy.sparse.linalg import LinearOperator

    method = "_rmatmat" if adjoint else "_matmat"
    return getattr(type(matrix), method, None) is getattr(LinearOperator, method)


@dataclass(frozen=True)
class FunctionOperator:
    """The operator of two functions, as `pnp.interop.operator_from_functions` makes it."""

    A: Callable[[Tensor], Tensor]
    A_adjoint: Callable[[Tensor], Tensor]


def _check_matrix(matrix: Any) -> tuple[int, int]:
    """Return the matrix's sizes (m, n), or explain why it cannot be used."""
    if isinstance(matrix, np.ma.MaskedArray):
        raise TypeError(
            "as_operator: matrix must be a plain array, got a masked one, whose mask would be lost; fill it"
        )
    if isinstance(matrix, Tensor) and matrix.layout != torch.strided:
        raise TypeError(f"as_operator: matrix must be dense, got {matrix.layout}; use .to_dense() or a SciPy matrix")
    if len(matrix.shape) != 2 or 0 in matrix.shape:
        raise ValueError(
            f"as_operator: matrix must be (m, n), got {tuple(matrix.shape)}; flatten images and measurements"
        )
    if not isinstance(matrix, Tensor):
        dtype = np.dtype(matrix.dtype or float)  # None: a LinearOperator that does not say
        if dtype.kind not in "fciub":
            raise TypeError(f"as_operator: matrix must hold numbers, got {dtype}; use .astype(float)")
        entries = matrix if isinstance(matrix, np.ndarray) else getattr(matrix, "data", None)
        if isinstance(entries, np.ndarray) and entries.dtype.kind in "fc" and not np.isfinite(entries).all():
            raise ValueError("as_operator: matrix must be finite, got NaN or infinity")
    elif not bool(matrix.isfinite().all()):
        raise ValueError("as_operator: matrix must be finite, got NaN or infinity")
    return int(matrix.shape[0]), int(matrix.shape[1])


def _dense(matrix: Any) -> Tensor:
    """Return a dense matrix as a tensor of our own, float64 where it held whole numbers; gradients stay with theirs."""
    if isinstance(matrix, Tensor):
        M = matrix if matrix.requires_grad else matrix.detach().clone()
    else:  # in native byte order, as torch wants it
        M = torch.from_numpy(np.array(matrix, dtype=matrix.dtype.newbyteorder("="), order="C"))
    return M if M.is_floating_point() or M.is_complex() else M.double()


def _check_sizes(name: str, sizes: Any, n: int, what: str, fewest: int = 1) -> tuple[int, ...]:
    """Return sizes whose product is n."""
    want = "(H, W) or (C, H, W)" if fewest == 2 else "a tuple of sizes"
    try:
        found = tuple(op.index(size) for size in sizes)
    except TypeError:
        raise TypeError(f"as_operator: {name} must be {want}, got {short(repr(sizes), 60)}") from None
    if len(found) < fewest or min(found) < 1 or math.prod(found) != n:
        raise ValueError(
            f"as_operator: {name} must be {want} of {n} entries, the {what} of the matrix, got {found}, which has "
            f"{math.prod(found)}"
        )
    return found
