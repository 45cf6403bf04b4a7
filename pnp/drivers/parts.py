"""Measurements in parts, of stacked operators: a tuple or list becomes one tensor, and its operator one of tensors.

    A x = (A_1 x, A_2 x, ...)    ->    the parts flattened and one after another, (B, m_1 + m_2 + ...)

Each part is cleaned and weighed by itself, since its units and its noise are its own. Data terms, misfit and
checkpoints then see one tensor of measurements and one of weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithms.protocols import DataTerm, Operator
from ..checks import short
from .noise_weights import clean_and_weigh
from .physics_noise import owners_of


class Joined:
    """A stack of operators whose measurements are one tensor (B, m).

    Args:
        operator: A x = (A_1 x, A_2 x, ...), tensors with the batch first; its adjoint takes a tuple, a list, or
            deepinv's TensorList, as y is.
        y: measurements whose sizes the parts have.
        part_weights: as below.

    Attributes:
        part_weights: W = 1/noise_std^2 of each part, 0-dim or broadcasting to it.
    """

    def __init__(self, operator: Any, y: Any, part_weights: tuple[Tensor, ...]) -> None:
        self.operator, self.part_weights = operator, part_weights
        self._kind: Any = next((kind for kind in (tuple, list) if isinstance(y, kind)), type(y))
        self._shapes = [part.shape[1:] for part in y]
        self._is_complex = [part.is_complex() for part in y]

    def A(self, x: Tensor, /) -> Tensor:
        """Return the parts of A x one after another."""
        parts = self.operator.A(x)
        got = [] if isinstance(parts, Tensor) else [tuple(part.shape) for part in parts]
        expected = [(len(x), *shape) for shape in self._shapes]
        if got != expected:
            shown = "one tensor" if isinstance(parts, Tensor) else ", ".join(map(str, got))
            raise ValueError(
                f"solve: y must have the parts of operator.A(x), {shown:.120}, got {str(expected)[1:-1]:.120}; images "
                "are (B, C, H, W), a batch of one is y[0][None]"
            )
        return torch.cat([part.reshape(len(x), -1) for part in parts], 1)

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Return the adjoint applied to the parts of y (B, m)."""
        shaped = self._split(y)
        try:
            x = self.operator.A_adjoint(self._kind(shaped))
            if not isinstance(x, Tensor):
                raise TypeError(f"it returned a {type(x).__name__}, no tensor")
        except (AttributeError, TypeError) as error:
            if hasattr(self.operator, "operators"):  # a stack of ours, whose part says what is wrong
                raise
            raise TypeError(
                "solve: y must be one tensor, or a tuple or list for a stack, e.g. operators.stack([A, B]), got "
                f"{len(shaped)} parts, on which {type(self.operator).__name__}.A_adjoint failed: {short(error)}"
            ) from error
        return x

    def split(self, y: Any) -> tuple[Any, ...]:
        """Return the parts of y (B, m), a tensor or an array, in their own shapes."""
        ends = np.cumsum([0, *(math.prod(shape) for shape in self._shapes)])
        pieces = [y[:, i:j] for i, j in pairwise(ends)]
        return tuple(piece.reshape(len(y), *shape) for piece, shape in zip(pieces, self._shapes, strict=True))

    @property
    def A_adjoint_A(self) -> Any:
        """The stack's own normal operator, where it has one."""
        return self.operator.A_adjoint_A

    def concerns(self, y: Tensor, /) -> list[str]:
        """Return what the operators of the parts of y (B, m) find wrong with them."""
        found = []
        for i, (owner, part) in enumerate(
            zip(owners_of(self.operator, len(self._shapes)), self._split(y), strict=True)
        ):
            concerns = getattr(owner, "concerns", None)
            found += [] if concerns is None else [f"y[{i}]: {text}" for text in concerns(part)]
        return found

    def _split(self, y: Tensor) -> list[Tensor]:
        """Return the parts of y (B, m) in their shapes."""
        parts = torch.split(y, [math.prod(shape) for shape in self._shapes], 1)
        # One complex part makes the whole tensor complex; what was real in it is so still.
        real = [
            part if c or not part.is_complex() else part.real for part, c in zip(parts, self._is_complex, strict=True)
        ]
        return [part.reshape(len(y), *shape) for part, shape in zip(real, self._shapes, strict=True)]


def join(operator: Operator, y: Any, noise_std: Any, term: DataTerm) -> tuple[Joined, Tensor, Tensor, bool]:
    """Return the joined operator, y without NaN (B, m), its weights and whether noise of any part was estimated.

    The parts' sizes are checked first, where the operator knows them.

    Args:
        operator: a stack.
        y: its measurements, as `as_measurements` returns them.
        noise_std: one for all parts, or a tuple, list or 1-D array with one for each; None: that of the part's own
            noise model, else estimated from the part.
        term: what takes the weights.
    """
    check_parts(operator, y)
    _check_scalars(term)
    noise, owners = _noise_of_parts(noise_std, len(y), len(next(iter(y)))), owners_of(operator, len(y))
    parts, weights, estimated = [], [], False
    for i, (part, std, owner) in enumerate(zip(y, noise, owners, strict=True)):
        if term.needs_noise_std and _is_silent(std):
            found = torch.zeros_like(part), torch.zeros((), dtype=torch.real(part).dtype, device=part.device), False
        else:
            try:
                found = clean_and_weigh(owner, part, std, term)
            except (TypeError, ValueError) as error:
                raise type(error)(f"solve: y[{i}]: {str(error).removeprefix('solve: ')}") from error
        parts.append(found[0].reshape(len(part), -1))
        weights.append(found[1])
        estimated |= found[2]
    if not any(bool((w > 0).any()) for w in weights):
        raise ValueError("solve: noise_std is infinite everywhere, so y carries no information; give finite values")
    return Joined(operator, y, tuple(weights)), torch.cat(parts, 1), _join_weights(weights, y), estimated


def check_parts(operator: Any, y: Any) -> None:
    """Check that y, one tensor or parts, has the number of parts and the sizes that `operators.stack` gives them."""
    known = getattr(operator, "y_shape", None)
    if not isinstance(known, tuple) or not all(sizes is None or isinstance(sizes, tuple) for sizes in known):
        return  # no stack
    if isinstance(y, Tensor) or len(y) != len(known):
        got = f"one tensor {tuple(y.shape)}" if isinstance(y, Tensor) else f"{len(y)} parts"
        raise ValueError(
            f"solve: y must be a tuple or list of {len(known)} tensors, one for each operator of the stack, got {got}"
        )
    for i, (part, sizes) in enumerate(zip(y, known, strict=True)):
        if sizes is not None and not _fits(part.shape[1:], sizes):
            want = ", ".join(map(str, ("B", *sizes)))
            got = str(tuple(part.shape))
            raise ValueError(f"solve: y[{i}] must be ({want}), got {got}; y must look like operator.A(x), batch first")


def noise_used(weights: Tensor | tuple[Tensor, ...], is_numpy: bool) -> Any:
    """Return weights^(-1/2) as a number or an array like y; of parts, a tuple of them."""
    if isinstance(weights, tuple):
        return tuple(noise_used(part, is_numpy) for part in weights)
    std = weights**-0.5
    if std.ndim == 0:
        return float(std)
    return std.cpu().numpy() if is_numpy else std


def _noise_of_parts(noise_std: Any, n: int, n_images: int) -> Sequence[Any]:
    """Return one noise_std for each of n parts; an array (n,) is one for each, (n_images,) one for each image."""
    is_array = isinstance(noise_std, (Tensor, np.ndarray)) and noise_std.ndim > 0
    if is_array and noise_std.ndim == 1 and len(noise_std) in (n, n_images):
        if n == n_images > 1:
            raise ValueError(
                f"solve: noise_std of shape ({n},) must say what it follows, the {n} parts or the {n} images of y; use "
                f"list(noise_std) for one a part, [noise_std] * {n} for one an image"
            )
        return list(noise_std) if len(noise_std) == n else [noise_std] * n
    if is_array or isinstance(noise_std, str) or not hasattr(noise_std, "__len__"):
        if not is_array:
            return [noise_std] * n
        got = f"one array {tuple(noise_std.shape)}"
    elif len(noise_std) == n:
        return list(noise_std)
    else:
        got = f"{len(noise_std)} entries"
    raise ValueError(
        f"solve: noise_std must be a number for all parts of y, or a tuple, list or 1-D array of {n}, one for each, "
        f"got {got}"
    )


def _fits(shape: Sequence[int], sizes: Sequence[Any]) -> bool:
    """Return whether a shape has these sizes, names among which fit any number."""
    return len(shape) == len(sizes) and all(isinstance(m, str) or m == n for m, n in zip(sizes, shape, strict=True))


def _check_scalars(term: DataTerm) -> None:
    """Refuse arrays of a data term of counts: they cannot broadcast to the joined tensor of all parts."""
    if getattr(term, "gain", 1.0) is None or getattr(term, "read_noise", 0.0) is None:
        raise ValueError(
            f"solve: gain and read_noise of {type(term).__name__} must be numbers where y has parts, got None; the "
            "parts' operators may have different noise models"
        )
    for name in ("background", "i0", "gain", "read_noise"):
        shape = tuple(getattr(getattr(term, name, None), "shape", ()))
        if math.prod(shape) != 1:
            raise ValueError(
                f"solve: {name} of {type(term).__name__} must be a scalar, the same for all parts of y, got an array "
                f"{shape}; use its mean, or solve with one part alone"
            )


def _is_silent(std: Any) -> bool:
    """Return whether a noise level says that the whole part carries no information."""
    if isinstance(std, (Tensor, np.ndarray)):
        values = torch.as_tensor(np.array(std) if isinstance(std, np.ndarray) and std.dtype.kind == "f" else std)
        return values.numel() > 0 and values.is_floating_point() and bool((values == math.inf).all())
    return isinstance(std, (float, np.floating)) and std == math.inf


def _join_weights(weights: list[Tensor], y: Any) -> Tensor:
    """Return a scalar where all parts have one, and the same; else the parts' weights one after another (B, m)."""
    if all(w.ndim == 0 and bool(w == weights[0]) for w in weights):
        return weights[0]
    return torch.cat([w.expand(part.shape).reshape(len(part), -1) for w, part in zip(weights, y, strict=True)], 1)
