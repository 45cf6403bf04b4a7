"""The iterations of `solve` in a checkpoint: what of a `State` is kept, and how one is gone on from.

x is kept for the x-update, whose inner iteration starts there (`data_terms`); z and u are ADMM's; sigma and alpha are
those of the iteration. All else follows from the arguments, as when they were given first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import Kept
from .settings import described
from .solvers import State

__all__ = ["end", "found", "identity", "keep"]

SAME_DENOISER = 0.1
"""Difference of two answers, relative to what the denoiser removes, that is rounding: bfloat16's, at the most."""

History = dict[str, list[float]]


def keep(kept: Kept, state: State, history: History) -> None:
    """Keep an iteration."""
    kept.keep(*_held(state, history))


def end(kept: Kept, state: State | None, history: History, word: str) -> None:
    """Keep the last iteration, and that it is the last."""
    kept.end(word, *(({}, {}) if state is None else _held(state, history)))


def found(kept: Kept, h: Any, denoise: Callable[[Tensor, float], Tensor], history: History) -> State | None:
    """Return the iteration that was found, if any, fill the history, and start the data term's inner iteration there.

    Raises:
        ValueError: the denoiser is another one: z is not D(x + u; sigma).
    """
    if not kept.tensors:
        return None
    try:
        x, z, u = (kept.tensors[name] for name in ("x", "z", "u"))
        k, sigma, alpha, values = (kept.numbers[name] for name in ("k", "sigma", "alpha", "history"))
        history.update({name: list(values[name]) for name in history})
    except (KeyError, TypeError) as error:
        raise ValueError(f"solve: checkpoint is damaged ({error!s:.60}); remove the file to begin anew") from error
    state = State(k, x, z, u, z, sigma, alpha)
    v = z + u if bool(u.any()) else x  # u = u_old + x - z, and D was given x + u_old
    again = denoise(v, sigma)
    removed, rounding = _norm(v - z), torch.finfo(torch.real(z).dtype).eps ** 0.5 * _norm(z)
    if not _norm(again - z) <= SAME_DENOISER * removed + rounding:
        raise ValueError(
            "solve: checkpoint was begun with another denoiser, which gave another image at the last iteration; go on "
            "with that one, or remove the file to begin anew"
        )
    if hasattr(h, "last_x"):
        h.last_x = x
    return state


def identity(denoiser: Any) -> str:
    """Return a text that tells a denoiser from others: its class, and its weights where it has any."""
    return described(denoiser) if isinstance(denoiser, nn.Module) else type(denoiser).__qualname__


def _held(state: State, history: History) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {"x": state.x, "z": state.z, "u": state.u}
    numbers = {"k": state.k, "sigma": state.sigma, "alpha": state.alpha}
    return tensors, numbers | {"history": {name: list(values) for name, values in history.items()}}


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))
