"""Weight files: safetensors (no code is ever executed), half precision, the model's configuration in the header.

The header's key names the class, "mlpatch" or "superresolver", so that one reader and one writer serve both; learned
reconstructors use them with a folder, keys and a precision of their own. Each weight set of the package has a model
card of the same name beside it (`denoisers/weights/*.md`).
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "weights"
"""Folder of the weight sets and model cards that come with the package."""

_Model = TypeVar("_Model", bound=nn.Module)


class RenamedLayers(nn.Module):
    """A module that loads files in which its layers have the names of earlier versions."""

    former_names: ClassVar[dict[str, str]] = {}
    """Names of layers, and those in files of earlier versions."""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for new, old in self.former_names.items():
            for kind in ("weight", "bias"):
                if f"{prefix}{old}.{kind}" in state_dict:
                    state_dict[f"{prefix}{new}.{kind}"] = state_dict.pop(f"{prefix}{old}.{kind}")
        super()._load_from_state_dict(state_dict, prefix, *args)


def available(kind: type[nn.Module], *, folder: Path | None = None, key: str | None = None) -> list[str]:
    """Return the names of the weight sets in a folder (None: the package's) for this class."""
    key = key or _key(kind)
    return sorted(p.stem for p in (folder or FOLDER).glob("*.safetensors") if key in header(p))


def to_bytes(model: Any, key: str, dtype: torch.dtype, about: dict[str, str] | None = None) -> bytes:
    """Return a .safetensors file of a model with `config()`, its constructor's arguments, under a key of the header."""
    tensors = {k: v.detach().cpu().to(dtype).contiguous() for k, v in model.state_dict().items()}
    data: bytes = serialize(tensors, metadata={**(about or {}), key: json.dumps(model.config())})
    return data


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
    data = to_bytes(model, _key(type(model)), torch.float16, about)
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


def read(name_or_path: str | Path, kind: type[_Model], *, folder: Path | None = None, key: str | None = None) -> _Model:
    """Load a weight set by name, or a .safetensors file by path.

    The model is on the CPU, in float32 and frozen (`requires_grad_()` ends that).

    Args:
        name_or_path: name of a set in the folder, or path of a file.
        kind: class of the model.
        folder: where the sets are; None: the package's.
        key: entry of the header that holds the configuration; None: the class's name in lower case.

    Raises:
        ValueError: no such set or file, or not a weight file of this class.
    """
    key, folder = key or _key(kind), folder or FOLDER
    caller, names = f"{kind.__name__}.from_pretrained", available(kind, folder=folder, key=key)
    path = folder / f"{name_or_path}.safetensors" if str(name_or_path) in names else Path(name_or_path)
    if not path.exists():
        choices = f"one of {names} or " if names else ""
        raise ValueError(
            f"{caller}: name_or_path must be {choices}the path of a .safetensors file, got {str(name_or_path)!r:.120}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            arguments = json.loads(file.metadata()[key])
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


def header(path: Path) -> dict[str, str]:
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
        for n in _numbers(value):
            if isinstance(n, int) and n > largest:
                raise ValueError(f"{name} = {n:.3g} is larger than any of its tensors")


def _numbers(value: Any) -> list[Any]:
    """Return a value, or those of a list, of the lists in it too."""
    return [n for v in value for n in _numbers(v)] if isinstance(value, tuple | list) else [value]
