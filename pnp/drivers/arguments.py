"""Checks of the arguments of `solve` and its like: each says argument, expected, got and remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..algorithms.iterations import ALGORITHMS
from ..algorithms.protocols import Operator
from ..algorithms.schedules import Schedule
from ..checks import _figure, as_tensor, broadcasts, check_number, is_finite, short

MAX_LEVELS = 1_000_000
"""Limit of max_iter: all noise levels are computed beforehand."""
MIN_LEVEL = 1e-150
"""Smallest noise level, and the inverse of the largest: their squares are within the range of float64."""
REAL = (int, float, np.integer, np.floating)


def as_measurements(y: Any, *, caller: str = "solve") -> tuple[Any, bool]:
    """Return y as a tensor, or as tensors in the tuple or list that a stack's came in, and whether it was numpy's."""
    if (parts := _parts(y)) is not None:
        is_numpy = isinstance(parts[0], np.ndarray)
        if any(isinstance(part, np.ndarray) != is_numpy for part in parts):
            raise TypeError(f"{caller}: y must hold tensors only or numpy arrays only, got both; convert one kind")
        tensors = [as_tensor(f"y[{i}]", part, caller=caller) for i, part in enumerate(parts)]
        _check_parts(tensors, caller)
        return (
            tuple(tensors) if isinstance(y, tuple) else tensors if isinstance(y, list) else type(y)(tensors)
        ), is_numpy
    tensor = as_tensor("y", y, caller=caller)
    if tensor.numel() == 0:
        raise ValueError(f"{caller}: y must not be empty, got shape {tuple(tensor.shape)}")
    return tensor, isinstance(y, np.ndarray)


def _parts(y: Any) -> list[Any] | None:
    """Return the parts of a tuple or list of tensors or arrays, or of deepinv's TensorList; None of anything else."""
    if isinstance(y, (tuple, list)):
        kinds: tuple[type, ...] = (Tensor, np.ndarray)
    elif isinstance(y, (Tensor, np.ndarray, np.generic, str, dict)) or not hasattr(y, "__getitem__"):
        return None
    else:
        kinds = (Tensor,)
    parts = list(y) if hasattr(y, "__len__") and len(y) > 0 and isinstance(y[0], kinds) else []
    return parts if parts and all(isinstance(part, kinds) for part in parts) else None


def _check_parts(parts: list[Tensor], caller: str) -> None:
    """Check that the parts of y are one batch in one precision and place."""
    first = parts[0]
    for i, part in enumerate(parts):
        if part.numel() == 0 or part.shape[:1] != first.shape[:1]:
            raise ValueError(
                f"{caller}: y[{i}] must not be empty and hold the batch that y[0] holds, batch first, got shapes "
                f"{tuple(part.shape)} and {tuple(first.shape)}"
            )
        if torch.real(part).dtype != torch.real(first).dtype or part.device != first.device:
            raise TypeError(
                f"{caller}: y[{i}] must have the precision and device of y[0], {first.dtype} on {first.device}, got "
                f"{part.dtype} on {part.device}; convert one, e.g. y[{i}].to(y[0])"
            )


def as_relaxation(algorithm: Any, relaxation: Any) -> float | None:
    """Check the algorithm's name, and return a checked `relaxation` of ADMM; None where it is left open."""
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(f"solve: algorithm must be one of {sorted(ALGORITHMS)}, got {short(repr(algorithm), 60)}")
    if relaxation is None:
        return None
    if algorithm == "hqs":
        raise ValueError(f'solve: relaxation is for algorithm="admm", got {short(repr(relaxation), 60)}')
    rho = check_number("relaxation", relaxation, above=0)
    if rho >= 2:
        raise ValueError(f"solve: relaxation must be below 2, beyond which ADMM need not converge, got {rho:g}")
    return float(rho)


def as_strength(strength: Any, caller: str = "solve") -> float | None:
    """Return the prior's strength, None where it is "auto"."""
    if isinstance(strength, str):
        if strength != "auto":
            raise ValueError(f'{caller}: strength must be a number > 0 or "auto", got {short(repr(strength), 60)}')
        return None
    return float(check_number("strength", strength, above=0, caller=caller))


def as_weights(noise_std: Any, y: Any, *, caller: str = "solve") -> Tensor:
    """Return W = 1/noise_std^2, 0-dim or broadcasting to y, and 0 where noise_std is infinite.

    One number for each image, (B,), becomes (B, 1, ..., 1); lists are arrays.
    """
    like = y if isinstance(y, Tensor) else next(iter(y))
    real = torch.real(like).dtype
    if isinstance(noise_std, (bool, str)):
        raise TypeError(f"{caller}: noise_std must be a positive number or an array like y, got {noise_std!r}")
    if isinstance(noise_std, (int, float, np.integer, np.floating)):
        number = float(noise_std) if is_finite(noise_std) or isinstance(noise_std, float) else math.inf
        std = torch.tensor(number, dtype=real, device=like.device)
    else:
        if isinstance(noise_std, (list, tuple)):
            noise_std = _as_array(noise_std, caller)
        std = as_tensor("noise_std", noise_std, device=like.device, caller=caller)
        if std.is_complex():
            raise TypeError(f"{caller}: noise_std must be real, got {std.dtype}; give the standard deviation of |y|")
        std = std.to(real)
    if std.ndim:
        shape = tuple(y.shape) if isinstance(y, Tensor) else ()
        std = _one_per_image(std, shape, caller)
        if not broadcasts(tuple(std.shape), shape):
            raise ValueError(
                f"{caller}: noise_std must be a scalar or broadcast to y {shape}, got {tuple(std.shape)}; "
                "give one standard deviation for each measurement"
            )
    if bool(std.isnan().any()) or bool((std <= 0).any()):
        raise ValueError(
            f"{caller}: noise_std must be positive, got {float(std.min()):.4g}; "
            "it is a standard deviation in units of y, "
            "infinity marks a measurement without information"
        )
    if bool(std.isinf().all()):
        if isinstance(noise_std, (int, float)) and noise_std != math.inf:
            raise ValueError(
                f"{caller}: noise_std {_figure(noise_std)} is beyond the range of {real}; rescale y and noise_std"
            )
        raise ValueError(f"{caller}: noise_std is infinite everywhere, so y carries no information; give finite values")
    weights = std**-2
    if not bool((weights.isfinite() & ((weights > 0) | std.isinf())).all()):
        low, high = (torch.finfo(real).tiny ** p for p in (0.5, -0.5))
        finite = std[std.isfinite()]
        raise ValueError(
            f"{caller}: noise_std must be between {low:.1g} and {high:.1g} for {real}, or infinite, got "
            f"{float(finite.min()):.4g} to {float(finite.max()):.4g}; rescale y and noise_std"
        )
    return weights


def _as_array(noise_std: Any, caller: str) -> Any:
    """Return a list of numbers, which may be tensors without axes, as an array of float64."""
    try:
        return np.array([float(v) if np.ndim(v) == 0 else v for v in noise_std], dtype=np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        got = short(repr(noise_std), 60)
        raise TypeError(
            f"{caller}: noise_std must be a number, an array like y or a list of numbers, got {got}"
        ) from None


def _one_per_image(std: Tensor, shape: tuple[int, ...], caller: str) -> Tensor:
    """Return noise levels (B,) of B images as (B, 1, ..., 1), others as they are."""
    if std.ndim != 1 or len(shape) < 2 or len(std) != shape[0] or len(std) == 1:
        return std
    ones = ", 1" * (len(shape) - 1)
    if len(std) == shape[-1]:
        raise ValueError(
            f"{caller}: noise_std of shape ({len(std)},) must say what it follows, the images or the last axis of y "
            f"{shape}; use noise_std.reshape(-1{ones}) for one an image, noise_std[None] for one a column"
        )
    return std.reshape(-1, *[1] * (len(shape) - 1))


def check_device(name: str, obj: object, device: torch.device, caller: str = "solve") -> None:
    """Check that a module's weights, if it is one and has any, are where y is."""
    if isinstance(obj, nn.Module):
        held = next((t for t in (*obj.parameters(), *obj.buffers())), None)
        if held is not None and held.device != device:
            raise ValueError(
                f"{caller}: {name} is on {held.device}, y on {device}; move one, e.g. {name}.to({str(device)!r})"
            )


def as_levels(schedule: Any, max_iter: int) -> tuple[list[float], int]:
    """Return sigma_k for k < max_iter, and the k from which on sigma_k is the last level.

    Args:
        schedule: a Schedule, a function of k, or a sequence of levels whose last one is held. The first and the last
            are read to their own end, the function to max_iter.
        max_iter: how many levels are wanted.
    """
    if max_iter > MAX_LEVELS:
        raise ValueError(
            f"solve: max_iter must be at most {MAX_LEVELS}, got {_figure(max_iter)}; let rtol or a callback stop"
        )
    if callable(schedule):
        n = max(max_iter, min(schedule.n_iter, MAX_LEVELS)) if isinstance(schedule, Schedule) else max_iter
        levels = [_level(schedule(k), k) for k in range(n)]
    elif isinstance(schedule, (Sequence, np.ndarray)) and not isinstance(schedule, str) and len(schedule):
        levels = [_level(check_number("schedule", s, above=0), k) for k, s in enumerate(schedule)]
        levels += levels[-1:] * (max_iter - len(levels))
    else:
        raise _not_a_schedule(schedule)
    last = len(levels) - 1
    while last > 0 and levels[last - 1] == levels[-1]:
        last -= 1
    return levels[:max_iter], last


def _level(sigma: Any, k: int) -> float:
    """Return a noise level, whose square is to be divided by."""
    try:
        level = float(sigma)
        if isinstance(sigma, (str, bytes)) or not 0 < level < math.inf:
            raise ValueError
    except (TypeError, ValueError, OverflowError, RuntimeError):
        got = short(repr(sigma), 60)
        raise ValueError(f"solve: schedule must give positive noise levels, got {got} for k = {k}") from None
    if not MIN_LEVEL < level < 1 / MIN_LEVEL:
        raise ValueError(
            f"solve: schedule must give noise levels between {MIN_LEVEL:g} and {1 / MIN_LEVEL:g}, got {level:.4g} for "
            f"k = {k}; rescale y"
        )
    return level


def _not_a_schedule(schedule: object) -> TypeError:
    return TypeError(
        f"solve: schedule must be a {Schedule.__name__}, a sequence of noise levels or a function k -> sigma_k, "
        f"got {short(repr(schedule), 60)}"
    )


def as_bounds(bounds: Any, caller: str = "solve") -> tuple[float | None, float | None]:
    """Return (low, high), None where there is no limit."""
    if bounds is None:
        return None, None
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"{caller}: bounds must be (low, high), e.g. (0, None), got {short(repr(bounds), 60)}")
    for value in bounds:
        if value is not None and (isinstance(value, bool) or not isinstance(value, REAL)):
            raise TypeError(f"{caller}: bounds must hold numbers or None, got {short(repr(bounds), 60)}")
    if any(isinstance(value, int) and not is_finite(value) for value in bounds):
        raise ValueError(f"{caller}: bounds must be numbers below 1e308; use None for no bound")
    low, high = (None if value is None else float(value) for value in bounds)
    if (low is not None and math.isnan(low)) or (high is not None and math.isnan(high)):
        raise ValueError(f"{caller}: bounds must not be NaN, got {bounds!r}; use None for no bound")
    if low == math.inf or high == -math.inf:
        raise ValueError(f"{caller}: bounds must leave room for finite values, got {bounds!r}; use None for no bound")
    if low is not None and high is not None and not low < high:
        raise ValueError(f"{caller}: bounds must be (low, high) with low < high, got {bounds!r}")
    return low, high


def as_initial(x0: Any, like: Tensor, *, caller: str = "solve") -> Tensor:
    """Return a given first estimate in the shape, dtype and device of the unknown."""
    x = as_tensor("x0", x0, device=like.device, caller=caller)
    if x.shape != like.shape:
        raise ValueError(
            f"{caller}: x0 must have the image shape {tuple(like.shape)}, as A_adjoint(y) has, got {tuple(x.shape)}"
        )
    if x.is_complex() and not like.is_complex():
        raise TypeError(f"{caller}: x0 must be real, as A_adjoint(y) is, got {x.dtype}; use x0.real")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{caller}: x0 must be finite, got NaN or infinity; replace them, e.g. torch.nan_to_num(x0)")
    return x.to(like.dtype)


def as_operator(operator: Any, caller: str = "solve") -> Operator:
    """Return the operator itself once it is known to have `A` and `A_adjoint`, as every LinearPhysics does."""
    if isinstance(operator, type):
        raise TypeError(f"{caller}: operator must be an instance, got the class {operator.__name__}; call it first")
    if is_matrix(operator):
        raise TypeError(
            f"{caller}: operator must have A(x) and A_adjoint(y), got a {type(operator).__name__} "
            f"{tuple(operator.shape)}; use pnp.interop.as_operator(matrix, image_shape=(H, W))"
        )
    if _is_nonlinear_physics(operator):
        raise TypeError(
            f"{caller}: operator must be linear, got {type(operator).__name__}, a nonlinear physics of deepinv; "
            "plug-and-play here needs y = A x + noise: linearise it, or use deepinv's optimisers"
        )
    if not callable(getattr(operator, "A", None)) or not callable(getattr(operator, "A_adjoint", None)):
        raise TypeError(
            f"{caller}: operator must have A(x) and A_adjoint(y), got {type(operator).__name__}; use one of "
            "`operators`, a deepinv LinearPhysics, an object with both methods, or for two functions "
            "pnp.interop.operator_from_functions(A, A_adjoint)"
        )
    return operator  # type: ignore[no-any-return]


def _is_nonlinear_physics(operator: Any) -> bool:
    """Return whether this is a class of deepinv's own that is no LinearPhysics; some of them have an A_adjoint."""
    kinds = type(operator).__mro__
    names = {kind.__name__ for kind in kinds if kind.__module__.split(".")[0] == "deepinv"}
    return kinds[0].__name__ in names and "Physics" in names and "LinearPhysics" not in names


def is_matrix(value: Any) -> bool:
    """Return whether a value is a matrix: an array, a sparse matrix, or a SciPy (or PyLops) LinearOperator."""
    if isinstance(value, (Tensor, np.ndarray)):
        return True
    is_sparse = callable(getattr(value, "tocoo", None))  # its attribute A, if any, would be a dense copy
    is_linear_map = callable(getattr(value, "matvec", None)) and not hasattr(value, "A_adjoint")
    return (is_sparse or is_linear_map) and len(getattr(value, "shape", ())) == 2


def dtype_that_works(operator: Operator, y: Any) -> torch.dtype | None:
    """Return the other precision if the operator, which failed for y, works in it; None otherwise."""
    if not isinstance(y, Tensor):
        return None
    real = torch.float32 if y.real.dtype == torch.float64 else torch.float64
    other = y.to(real.to_complex() if y.is_complex() else real)
    try:
        again = operator.A(operator.A_adjoint(other))
    except Exception:  # so it is not the precision
        return None
    return other.dtype if isinstance(again, Tensor) and again.shape == y.shape else None
