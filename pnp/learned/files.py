"""Weight files of learned reconstructors: safetensors, the constructor's arguments in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save as serialize

from ..io import atomic
from .glimpse import Glimpse

__all__ = ["load_glimpse", "save_glimpse"]

KEY = "glimpse"


def save_glimpse(model: Glimpse, path: str | Path, *, about: dict[str, str] | None = None) -> None:
    """Write a model to a .safetensors file, whole or not at all, in float32: angles need their digits.

    Args:
        model: to be written.
        path: file to write, over an earlier one.
        about: further facts for the header, e.g. the training command and data.
    """
    tensors = {k: v.detach().cpu().float().contiguous() for k, v in model.state_dict().items()}
    with atomic(Path(path), overwrite=True) as part:
        part.write_bytes(serialize(tensors, metadata={**(about or {}), KEY: json.dumps(model.config())}))


def load_glimpse(path: str | Path) -> Glimpse:
    """Read a model, on the CPU, in float32 and frozen (`requires_grad_()` thaws it).

    Raises:
        ValueError: there is no such file, or it is not a weight file of Glimpse.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"load_glimpse: no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            arguments = json.loads(file.metadata()[KEY])
            tensors = {k: file.get_tensor(k) for k in file.keys()}
        config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
        model = Glimpse(**config)
        model.load_state_dict(tensors)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise ValueError(f"load_glimpse: {path.name} is not a weight file of Glimpse ({what})") from error
    return model.eval().requires_grad_(False)
