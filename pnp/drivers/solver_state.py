"""The iterations of `solve` in a checkpoint: what of a `State` is kept, and how one is gone on from.

x is kept for the x-update, whose inner iteration starts there (`data_terms`); z and u are ADMM's; sigma and alpha are
those of the iteration. All else follows from the arguments, as when they were given first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..algorithms.iterations import State
from .checkpoint import Kept
from .fingerprint import described

__all__ = ["check_denoiser", "end", "found", "identity", "keep"]

SAME_DENOISER = 0.1
"""Difference of two answers, relative to what the denoiser removes, that is rounding: bfloat16's, at the most."""

History = dict[str, list[float]]


def keep(kept: Kept, state: State, history: History) -> None:
    """Keep an iteration."""
    if kept.checkpoint is not None:  # the history is copied
        kept.keep(*_held(state, history))


def end(kept: Kept, state: State | None, history: History, word: str) -> None:
    """Keep the last iteration, and that it is the last."""
    kept.end(word, *(({}, {}) if state is None else _held(state, history)))


def found(kept: Kept, h: Any, history: History) -> State | None:
    """Return the iteration that was found, if any, fill the history, and start the data term's iteration there."""
    if not kept.tensors:
        return None
    try:
        x, z, u = (kept.tensors[name] for name in ("x", "z", "u"))
        k, sigma, alpha, values = (kept.numbers[name] for name in ("k", "sigma", "alpha", "history"))
        history.update({name: list(values[name]) for name in history})
    except (KeyError, TypeError) as error:
        raise ValueError(f"solve: checkpoint is damaged ({error!s:.60}); remove the file to begin anew") from error
    if hasattr(h, "last_x"):
        h.last_x = x
    return State(k, x, z, u, z, sigma, alpha)


def check_denoiser(state: State, denoise: Callable[[Tensor, float], Tensor], denoiser: Any) -> None:
    """Ask a denoiser without weights whether z = D(x + u; sigma) still holds; those of modules are compared.

    Raises:
        ValueError: it gives another image.
    """
    if isinstance(denoiser, nn.Module):
        return
    v = state.z + state.u if bool(state.u.any()) else state.x  # u = u_old + x - z, and D was given x + u_old
    again = denoise(v, state.sigma)
    removed, rounding = _norm(v - state.z), torch.finfo(torch.real(v).dtype).eps ** 0.5 * _norm(state.z)
    if not _norm(again - state.z) <= SAME_DENOISER * removed + rounding:
        raise ValueError(
            "solve: checkpoint was begun with another denoiser, or one that draws at random, which gave another image "
            "at the last iteration; go on with that one, or remove the file to begin anew"
        )


def identity(denoiser: Any) -> str:
    """Return a text that tells a denoiser from others: its class, and its weights where it has any."""
    return described(denoiser) if isinstance(denoiser, nn.Module) else type(denoiser).__qualname__


def _held(state: State, history: History) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {"x": state.x, "z": state.z, "u": state.u}
    numbers = {"k": state.k, "sigma": state.sigma, "alpha": state.alpha}
    return tensors, numbers | {"history": {name: list(values) for name, values in history.items()}}


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))
