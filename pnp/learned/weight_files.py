"""Weight files of learned reconstructors: those of `denoisers.weight_files`, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from denoisers import weight_files

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
    with atomic(Path(path), overwrite=True) as part:
        part.write_bytes(weight_files.to_bytes(model, key, torch.float32, about))


def read(name_or_path: str | Path, kind: type[Model], key: str) -> Model:
    """Load weights of the package by name, or a .safetensors file by path; see `denoisers.weight_files.read`.

    Raises:
        ValueError: there are no such weights or file, or it is not a weight file of this class.
    """
    return weight_files.read(name_or_path, kind, folder=FOLDER, key=key)
