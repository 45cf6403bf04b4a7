"""Base class of operators, linear maps y = A x on images x of shape (B, C, H, W), and their shared checks.

An operator is a `torch.nn.Module`, so that `.to(device)`, `copy.deepcopy`, `pickle` and `state_dict` work as usual.
Computations are in the floating dtype of their input. The input must be on the operator's device; nothing is moved
silently.
"""

from __future__ import annotations

import math
import operator as op
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .sizes import Sizes


class LinearOperator(nn.Module):
    """A linear map with an exact adjoint: <A x, y> = <x, A* y>.

    Subclasses implement `A` and `A_adjoint`. They may also offer methods that solvers use where they exist:

    - `A_adjoint_A(x)`: the normal operator where it is cheaper than its two factors;
    - `data_step(y, weights)`: h(z, alpha) = (A*WA + alpha)^-1 (A*Wy + alpha z) in closed form, or None where
      there is no closed form for these weights;
    - `preconditioner(weights)`: M(r, alpha), approximately (A*WA + alpha)^-1 r, symmetric positive definite,
      or None;
    - `fbp(y)`: a direct first estimate, and `sees_whole_image`: False where truncation makes that estimate wrong;
    - `is_truncated(y)`: whether each image's object reaches beyond y, list[bool]; `fbp(y)` then guesses what lies
      there, `fbp(y, extend=False)` does not, and `image_size(y)` is the side, in pixels, of an image that holds it;
    - `y_gain`: the gain of each measurement, a tensor that broadcasts to y, 0 where y is not measured: the noise is
      then estimated from what is measured alone;
    - `estimate_noise(y)`: the standard deviation of y's noise, where second differences of y would mislead;
    - `concerns(y)`: a list of sentences, each with cause and remedy, on measurements that look wrong to the operator;
      empty where nothing does, and for whatever may be meant.

    `y_is_sampled` says whether the noise can be estimated from y's neighbours at all.

    Here `weights` is a scalar tensor or broadcasts against y, and alpha is positive: a scalar tensor, or one value for
    each image of a batch, (B, 1, 1, 1), as formulas that multiply by alpha take it.

    Operators compose: `A @ B`, `c * A`, `A / c`, `-A`, `A + B`, `A - B` and the adjoint `A.T` are operators. B may be
    any object with `A(x)` and `A_adjoint(y)`. `c * A` offers whatever A offers; the others offer what is exact for
    them, and conjugate gradients serve for the rest. Shapes that do not fit are a ValueError at once, where both are
    known.
    """

    __array_ufunc__ = None  # so that numpy's numbers and arrays leave `c * A` and `M @ A` to A

    shape: tuple[int, ...]
    """Sizes (H, W) of the images the operator acts on, in pixels, or (D, H, W) of volumes."""
    y_is_sampled: bool | None = False
    """Whether neighbours along the last axes of y are neighbours in an image or a sinogram, so that second differences
    of y show its noise. None: as its input, of operators that act pixel by pixel. False, the default: `solve` asks for
    noise_std."""

    @property
    def x_shape(self) -> Sizes | None:
        """Sizes (C, H, W) of an image, "C" where any number of channels fits; None: unknown."""
        return ("C", *self.shape)

    @property
    def y_shape(self) -> Sizes | None:
        """Sizes of an image's measurements, "C" where they have the image's channels; None: unknown."""
        return None

    def A(self, x: Tensor, /) -> Tensor:
        """Apply the operator to images x of shape (B, C, H, W)."""
        raise NotImplementedError

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the exact adjoint to measurements y and return images (B, C, H, W)."""
        raise NotImplementedError

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Apply the normal operator A* A to images x of shape (B, C, H, W)."""
        return self.A_adjoint(self.A(x))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator: the same as `A(x)`."""
        return self.A(x)

    @property
    def T(self) -> LinearOperator:
        """The adjoint A* as an operator from measurements to images; all values are real, so it is the transpose."""
        return COMBINATIONS["T"](self)

    def __matmul__(self, other: Any) -> LinearOperator:
        return COMBINATIONS["@"](self, other)

    def __rmatmul__(self, other: Any) -> LinearOperator:
        return COMBINATIONS["@"](other, self)

    def __mul__(self, c: Any) -> LinearOperator:
        return COMBINATIONS["*"](c, self)

    def __rmul__(self, c: Any) -> LinearOperator:
        return COMBINATIONS["*"](c, self)

    def __truediv__(self, c: Any) -> LinearOperator:
        return COMBINATIONS["/"](self, c)

    def __neg__(self) -> LinearOperator:
        return COMBINATIONS["*"](-1.0, self)

    def __add__(self, other: Any) -> LinearOperator:
        return COMBINATIONS["+"](self, other)

    def __radd__(self, other: Any) -> LinearOperator:
        if type(other) is int and other == 0:  # where `sum` begins
            return self
        return COMBINATIONS["+"](other, self)

    def __sub__(self, other: Any) -> LinearOperator:
        return COMBINATIONS["-"](self, other)

    def __rsub__(self, other: Any) -> LinearOperator:
        return COMBINATIONS["-"](other, self)


COMBINATIONS: dict[str, Callable[..., LinearOperator]] = {}
"""Functions behind Python's operators, by sign. `algebra`, which imports this module, fills in the functions."""


def check_shape(caller: str, shape: object) -> tuple[int, int]:
    """Return an image shape as two positive ints, or explain what is wrong with it.

    >>> check_shape("Radon", (3, 4))
    (3, 4)
    """
    if isinstance(shape, int) and not isinstance(shape, bool):
        raise TypeError(f"{caller}: shape must be (height, width), got {shape!r}; use ({shape}, {shape})")
    try:
        height, width = (op.index(n) for n in shape)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise TypeError(f"{caller}: shape must be two integers (height, width), got {shape!r}") from None
    if height < 1 or width < 1:
        raise ValueError(f"{caller}: shape must be positive, got {(height, width)}")
    return height, width


def check_sizes(caller: str, shape: Any) -> tuple[int, ...]:
    """Return the shape of images, (H, W), or of volumes, (D, H, W), or explain what is wrong with it.

    >>> check_sizes("Blur", (2, 3, 4))
    (2, 3, 4)
    """
    if not hasattr(shape, "__len__") or len(shape) != 3:
        return check_shape(caller, shape)
    try:
        sizes = tuple(op.index(n) for n in shape)
    except TypeError:
        raise TypeError(f"{caller}: shape must be integers, got {shape!r}") from None
    if min(sizes) < 1:
        raise ValueError(f"{caller}: shape must be positive, got {sizes}")
    return sizes


def as_buffer(caller: str, name: str, value: Any) -> Tensor:
    """Return a tensor of the operator's own from an array; a tensor that requires grad is not copied.

    NumPy arrays may be read-only, flipped or big-endian, as those of FITS files are. The dtype is kept.

    Raises:
        TypeError: value is neither a tensor nor an array of numbers.

    >>> as_buffer("Mask", "mask", np.arange(3.0, dtype=">f4")[::-1])
    tensor([2., 1., 0.])
    """
    if isinstance(value, Tensor):
        return value if value.requires_grad else value.detach().clone(memory_format=torch.contiguous_format)
    try:
        array = np.array(value)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError):
        kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{caller}: {name} must be real numbers, got {kind}; use a tensor or array") from None


def check_images(caller: str, name: str, x: Tensor, tail: tuple[int | str, ...], like: Tensor | None = None) -> None:
    """Check that x is a real floating tensor of shape (B, *tail) on the operator's device.

    Args:
        caller: start of the message, e.g. "Radon.A".
        name: the argument's name.
        x: the tensor to check.
        tail: expected sizes after the batch; a string matches any size and names it, e.g. ("C", 512, 512).
        like: a buffer of the operator, whose device x must be on.

    Raises:
        TypeError: x is not a tensor or not real floating point.
        ValueError: x has the wrong number of axes, the wrong size or is on another device.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{caller}: {name} must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor({name})")
    if not x.dtype.is_floating_point:
        raise TypeError(f"{caller}: {name} must be floating point, got {x.dtype}; use {name}.float()")
    want = "(" + ", ".join(["B", *map(str, tail)]) + ")"
    sizes_fit = x.ndim == len(tail) + 1 and all(
        isinstance(t, str) or t == n for t, n in zip(tail, x.shape[1:], strict=True)
    )
    if not sizes_fit:
        got = tuple(x.shape)
        missing = len(tail) + 1 - x.ndim
        fits = missing > 0 and all(isinstance(t, str) or t == n for t, n in zip(tail[missing - 1 :], got, strict=True))
        remedy = f"; use {name}[{'None, ' * missing}...]" if fits else ""
        if missing == 0 and got[-2:] == tail[:-3:-1]:
            remedy = f"; transposed? use {name}.swapaxes(-2, -1)"
        raise ValueError(f"{caller}: {name} must be {want}, got {got}{remedy}")
    if like is not None and x.device != like.device:
        raise ValueError(
            f"{caller}: {name} is on {x.device}, the operator on {like.device}; move one, "
            f"e.g. operator.to({name}.device)"
        )


def warn_of_degrees(caller: str, span: float, *, stacklevel: int) -> None:
    """Warn of angles that span more than two turns, which are probably in degrees.

    Args:
        caller: start of the message.
        span: the largest minus the smallest angle, in radians.
        stacklevel: as of `warnings.warn`, counted from the caller.
    """
    if span > 4 * math.pi:
        warnings.warn(
            f"{caller}: angles span {span:.4g} radians, more than two turns; if they are degrees, use np.deg2rad",
            stacklevel=stacklevel + 1,
        )


def length(caller: str, name: str, value: Any, *, zero: bool = False) -> float:
    """Return a length as a float: positive (or zero, where that is allowed) and finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{caller}: {name} must be a number, got {value!r}") from None
    if not (0 < number < math.inf or (zero and number == 0)):
        raise ValueError(f"{caller}: {name} must be {'non-negative' if zero else 'positive'} and finite, got {value!r}")
    return number


def pixel_mean(weights: Tensor, dimensions: int = 2) -> Tensor:
    """Return the mean over the last axes, which are kept, of weights that broadcast against (B, C, H, W).

    Args:
        weights: a number or a tensor.
        dimensions: number of those axes, 3 for volumes (B, C, D, H, W).
    """
    return weights.mean(dim=tuple(range(-min(dimensions, weights.ndim), 0)), keepdim=True) if weights.ndim else weights
