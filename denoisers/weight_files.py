"""Weight files: safetensors (no code is ever executed), half precision, the model's configuration in the header.

The header's key names the class, "mlpatch" or "superresolver", so that one reader and one writer serve both. Each
weight set of the package has a model card of the same name beside it (`denoisers/weights/*.md`).
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "weights"
"""Folder of the weight sets and model cards that come with the package."""

_Model = TypeVar("_Model", bound=nn.Module)


def available(kind: type[nn.Module]) -> list[str]:
    """Return the names of the package's weight sets for this class."""
    return sorted(p.stem for p in FOLDER.glob("*.safetensors") if _key(kind) in _header(p))


def save(model: Any, path: str | Path, *, about: dict[str, str] | None = None) -> None:
    """Write a model to a .safetensors file (to a temporary name, then renamed).

    Args:
        model: a network with `config()`, its constructor's arguments; its weights are stored in float16, a relative
            rounding of 5e-4.
        path: file to write.
        about: further facts for the header, e.g. the training command, data and terms.

    Raises:
        ValueError: the file cannot be written, e.g. the disk is full; an earlier file remains.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    tensors = {k: v.detach().cpu().to(torch.float16).contiguous() for k, v in model.state_dict().items()}
    data = serialize(tensors, metadata={**(about or {}), _key(type(model)): json.dumps(model.config())})
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"output {path} cannot be written: {os.strerror(error.errno or 0)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read(name: str | Path, kind: type[_Model]) -> _Model:
    """Load a weight set of the package by name, or a .safetensors file by path.

    The model is on the CPU, in float32 and frozen (`requires_grad_()` ends that).

    Raises:
        ValueError: no such set or file, or not a weight file of this class.
    """
    path, caller = Path(name), f"{kind.__name__}.from_pretrained"
    if path.suffix != ".safetensors":
        if str(name) not in available(kind):
            raise ValueError(
                f"{caller}: name must be one of {available(kind)} or a path ending in .safetensors, got {str(name)!r}"
            )
        path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        raise ValueError(f"{caller}: no file {str(name)!r}; the package has {available(kind)}")
    try:
        with safe_open(path, framework="pt") as file:
            arguments = json.loads(file.metadata()[_key(kind)])
            tensors = {k: file.get_tensor(k).float() for k in file.keys()}
        config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
        _check_sizes(config, tensors)
        model = kind(**config)
        model.load_state_dict(tensors)
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{caller}: {path.name} is not a weight file of {kind.__name__} ({what})") from error
    # Frozen weights: images that need no gradient are then denoised in tiles, in any grad mode.
    return model.eval().requires_grad_(False)


def _key(kind: type[Any]) -> str:
    return kind.__name__.lower()


def _header(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty where it cannot be read as one."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def _check_sizes(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise for sizes larger than any of the tensors' before they are allocated."""
    largest = max([1024, *(n for t in tensors.values() for n in t.shape)])
    for name, value in config.items():
        for n in value if isinstance(value, tuple) else (value,):
            if isinstance(n, int) and n > largest:
                raise ValueError(f"{name} = {n:.3g} is larger than any of its tensors")
