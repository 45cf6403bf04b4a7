"""Weight files: safetensors (no code is ever executed), half precision, the model's configuration in the header.

Every set that comes with the package has a model card of the same name beside it (`denoisers/weights/*.md`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as serialize

from .model import MLPatch, StageSpec

__all__ = ["FOLDER", "available", "load", "save"]

FOLDER = Path(__file__).parent.parent / "weights"


def available() -> list[str]:
    """Names of the weight sets in the package."""
    return sorted(p.stem for p in FOLDER.glob("*.safetensors"))


def save(model: MLPatch, path: str | Path, *, about: dict[str, str] | None = None) -> None:
    """Write a model to a .safetensors file (to a temporary name, then renamed).

    Args:
        model: its weights are stored in float16, a relative rounding of 5e-4.
        path: file to write.
        about: further facts for the header, e.g. the training command, data and terms.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    tensors = {k: v.detach().cpu().to(torch.float16).contiguous() for k, v in model.state_dict().items()}
    temporary.write_bytes(serialize(tensors, metadata={**(about or {}), "mlpatch": json.dumps(model.config())}))
    os.replace(temporary, path)


def load(name: str | Path) -> MLPatch:
    """Load a weight set of the package by name, or a .safetensors file by path.

    The model is on the CPU, in float32 and frozen (`requires_grad_()` thaws it).

    Raises:
        ValueError: no such set or file, or not a weight file of MLPatch.
    """
    path = Path(name)
    if path.suffix != ".safetensors":
        path = FOLDER / f"{name}.safetensors"
        if not path.exists():
            raise ValueError(
                f"MLPatch.from_pretrained: name must be one of {available()} or a path ending in .safetensors, "
                f"got {str(name)!r}"
            )
    if not path.exists():
        raise ValueError(f"MLPatch.from_pretrained: no file {str(name)!r}; the package has {available()}")
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["mlpatch"])
            tensors = {k: file.get_tensor(k).float() for k in file.keys()}
        stages = tuple(StageSpec(**{**s, "scales": tuple(s["scales"])}) for s in config.pop("stages"))
        sigma_range = tuple(config.pop("sigma_range"))
        model = MLPatch(config.pop("channels"), stages=stages, sigma_range=sigma_range, **config)
        model.load_state_dict(tensors)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise ValueError(f"MLPatch.from_pretrained: {path.name} is not a weight file of MLPatch ({what})") from error
    # Weights that are used, not trained: images without gradients are then denoised in tiles, in any grad mode.
    return model.eval().requires_grad_(False)
