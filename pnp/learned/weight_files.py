"""Weight files of learned reconstructors: safetensors, with the constructor's arguments in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from ..io import atomic

Model = TypeVar("Model", bound=nn.Module)

FOLDER = Path(__file__).parent / "weights"
"""Weights that come with the package."""


def save(model: Any, path: str | Path, key: str, *, about: dict[str, str] | None = None) -> None:
    """Write a model to a .safetensors file, whole or not at all, in float32: angles need their digits.

    Args:
        model: a network with `config()`, the arguments of its constructor.
        path: file to write; an earlier one is replaced.
        key: entry of the header that names the class and holds its configuration.
        about: further facts for the header, e.g. the training command and data.
    """
    tensors = {k: v.detach().cpu().float().contiguous() for k, v in model.state_dict().items()}
    with atomic(Path(path), overwrite=True) as part:
        part.write_bytes(serialize(tensors, metadata={**(about or {}), key: json.dumps(model.config())}))


def available(key: str) -> list[str]:
    """Return the names of the package's weights with this header key."""
    names = []
    for path in FOLDER.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            if key in (file.metadata() or {}):
                names.append(path.stem)
    return sorted(names)


def read(name: str | Path, kind: type[Model], key: str) -> Model:
    """Load weights of the package by name, or a .safetensors file by path.

    The model is on the CPU, in float32 and frozen (`requires_grad_()` undoes that).

    Raises:
        ValueError: there are no such weights or file, or it is not a weight file of this class.
    """
    caller, names = f"{kind.__name__}.from_pretrained", available(key)
    path = FOLDER / f"{name}.safetensors" if str(name) in names else Path(name)
    if not path.exists():
        remedy = f", or one of {', '.join(names)}" if names else ""
        raise ValueError(f"{caller}: name must be the path of a .safetensors file{remedy}, got {str(name)!r:.120}")
    try:
        with safe_open(path, framework="pt") as file:
            arguments = json.loads(file.metadata()[key])
            tensors = {k: file.get_tensor(k) for k in file.keys()}
        config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
        _check_sizes(config, tensors)
        model = kind(**config)
        model.load_state_dict(tensors)
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{caller}: {path.name} is not a weight file of {kind.__name__} ({what})") from error
    return model.eval().requires_grad_(False)


def _check_sizes(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuse sizes that the tensors do not have, before they are allocated."""
    largest = max([1024, *(n for t in tensors.values() for n in t.shape)])
    for name, value in config.items():
        for n in value if isinstance(value, tuple) else (value,):
            if isinstance(n, int) and n > largest:
                raise ValueError(f"{name} = {n:.3g} is larger than any of its tensors")
