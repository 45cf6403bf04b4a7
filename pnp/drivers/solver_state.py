"""Save the state of `solve` to a checkpoint and restore it.

The checkpoint holds x, z, u, sigma and alpha of a `State`, and which images of a batch have finished; the inner
iteration of the next x-update starts from x. All else follows from the arguments, which must be those of the first
call.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..algorithms.iterations import Level, State
from .checkpoint import RunState
from .denoiser_verdict import Answer
from .fingerprint import fingerprint
from .monitor import Monitor, as_numbers
from .problem import Problem
from .result import Stop

SAME_DENOISER_RTOL = 0.1
"""Difference of two answers, relative to what the denoiser removes, that bfloat16's rounding may cause."""


def save_state(kept: RunState, problem: Problem, monitor: Monitor) -> None:
    """Hold an iteration for the next write of the checkpoint."""
    if kept.checkpoint is not None:  # the history is copied
        kept.keep(*_contents(problem, monitor))


def save_final(kept: RunState, problem: Problem, monitor: Monitor) -> None:
    """Keep the last iteration, and why it was the last."""
    kept.end(monitor.stop.name, *_contents(problem, monitor))


def restore_state(kept: RunState, problem: Problem, monitor: Monitor) -> State | None:
    """Return the last iteration of the checkpoint, if there is one, and put the problem and the monitor there.

    Raises:
        ValueError: the checkpoint is damaged, has more than max_iter iterations, or had another denoiser.
    """
    if not kept.tensors:
        return None
    try:
        if (held := kept.numbers.get("common errors")) is not None and problem.estimate is not None:
            problem.estimate.restore(held, problem.h.y)
            problem.set_errors()
            problem.leave_out()
        if (held := kept.numbers.get("rejection")) is not None and problem.rejection is not None:
            problem.rejection.restore(as_mask(held["mask"], problem.h.y), held)
            problem.leave_out()
        x, z, u = (kept.tensors[name] for name in ("x", "z", "u"))
        k, sigma, alpha, history = (kept.numbers[name] for name in ("k", "sigma", "alpha", "history"))
        finished = [int(at) for at in kept.numbers.get("finished", [0] * len(z))]
        sigma, alpha = _as_level(sigma), _as_level(alpha)
        first = kept.numbers.get("first answers")  # not in checkpoints of earlier versions
        problem.first_answers = None if first is None else [Answer(*answer) for answer in first]
        monitor.resume(history)
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"solve: checkpoint is damaged ({error!s:.60}); remove the file to restart") from error
    if hasattr(problem.used, "last_x"):
        problem.used.last_x = x
    state = State(k, x, z, u, z, sigma, alpha)
    problem.state, problem.z = state, z
    problem.residuals = history["primal"][-1], history["dual"][-1]
    problem.finished = [at if at < k else 0 for at in finished]  # those that kept their z in iteration k
    _check_denoiser(state, problem)
    problem.finished = finished
    if kept.ended not in (None, Stop.MAX_ITER.name):
        monitor.stop, problem.levels = Stop[kept.ended], []  # after `leave_out`, which sets levels
    elif problem.converged and kept.ended is None:  # killed between its last iteration and the answer
        monitor.stop, problem.levels = Stop.CONVERGED, []
    return state


def denoiser_fingerprint(denoiser: Any) -> str:
    """Return a text that identifies a denoiser: its class, and its weights if it has any."""
    return fingerprint(denoiser) if isinstance(denoiser, nn.Module) else type(denoiser).__qualname__


def _check_denoiser(state: State, problem: Problem) -> None:
    """Check that a denoiser without weights still gives z = D(v; sigma); weights of modules are compared.

    Raises:
        ValueError: it gives another image.
    """
    if isinstance(problem.denoiser, nn.Module):
        return
    v = state.x if problem.algorithm == "hqs" else state.z + state.u  # ADMM's u = v - z
    again = problem.denoise(v, state.sigma)
    removed, rounding = _norm(v - state.z), torch.finfo(torch.real(v).dtype).eps ** 0.5 * _norm(state.z)
    if not _norm(again - state.z) <= SAME_DENOISER_RTOL * removed + rounding:
        raise ValueError(
            "solve: checkpoint was written with another denoiser, or one that draws at random, which gave another "
            "image at the last iteration; resume with that one, or remove the file to restart"
        )


def _contents(problem: Problem, monitor: Monitor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = problem.state
    if state is None:
        return {}, {}
    tensors = {"x": state.x, "z": state.z, "u": state.u}
    numbers: dict[str, Any] = {"k": state.k, "sigma": as_numbers(state.sigma), "alpha": as_numbers(state.alpha)}
    history = {name: list(values) for name, values in monitor.history.items()}
    numbers |= {"finished": list(problem.finished), "history": history}
    numbers["first answers"] = problem.first_answers and [list(answer) for answer in problem.first_answers]
    if problem.settings["strength"] == "auto":
        numbers["tuned"] = problem.tuned.numbers
    if problem.estimate is not None:
        numbers["common errors"] = problem.estimate.numbers
    if problem.rejection is not None:
        if problem.packed is None:  # the mask is that of the whole solve
            problem.packed = mask_as_text(problem.rejection.rejected)
        numbers["rejection"] = problem.rejection.numbers | {"mask": problem.packed}
    return tensors, numbers


def mask_as_text(mask: Tensor) -> str:
    """Return a mask as text: its bits, compressed, in base 64.

    >>> as_mask(mask_as_text(torch.tensor([[True, False]])), torch.zeros(1, 2))
    tensor([[ True, False]])
    """
    return b64encode(zlib.compress(np.packbits(mask.cpu().numpy()).tobytes())).decode()


def as_mask(text: str, like: Tensor) -> Tensor:
    """Return the mask of `mask_as_text` in the shape of `like` and on its device."""
    bits = np.frombuffer(zlib.decompress(b64decode(text)), dtype=np.uint8)
    mask = np.unpackbits(bits, count=like.numel()).astype(bool)
    return torch.from_numpy(mask).reshape(like.shape).to(like.device)


def _as_level(value: Any) -> Level:
    return torch.tensor([float(v) for v in value], dtype=torch.float64) if isinstance(value, list) else value


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))
