"""Weight files of learned reconstructors: safetensors, the constructor's arguments in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from ..io import atomic
from .glimpse import Glimpse
from .unrolled_em import UnrolledEM

Model = TypeVar("Model", bound=nn.Module)
SHIPPED = Path(__file__).parent / "weights"


def save_glimpse(model: Glimpse, path: str | Path, *, about: dict[str, str] | None = None) -> None:
    """Write a model to a .safetensors file, whole or not at all, in float32: angles need their digits.

    Args:
        model: to be written.
        path: file to write, over an earlier one.
        about: further facts for the header, e.g. the training command and data.
    """
    _save(model, path, "glimpse", about)


def load_glimpse(path: str | Path) -> Glimpse:
    """Read a model, on the CPU, in float32 and frozen (`requires_grad_()` thaws it).

    Raises:
        ValueError: there is no such file, or it is not a weight file of Glimpse.
    """
    return _load("load_glimpse", Glimpse, path, "glimpse")


def save_unrolled_em(model: UnrolledEM, path: str | Path, *, about: dict[str, str] | None = None) -> None:
    """Write a model as `save_glimpse` does."""
    _save(model, path, "unrolled_em", about)


def load_unrolled_em(path: str | Path) -> UnrolledEM:
    """Read a model as `load_glimpse` does: a file, or the name of weights that come with the package.

    Those are "lu177" and "y90", trained end-to-end on simulated torsos; see their model card.

    Raises:
        ValueError: there is no such file, or it is not a weight file of UnrolledEM.
    """
    shipped = SHIPPED / f"{path}.safetensors"
    if not shipped.exists() and not Path(path).exists():
        names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.safetensors")))
        raise ValueError(f"load_unrolled_em: no file {str(path)!r}; give a .safetensors file, or one of {names}")
    return _load("load_unrolled_em", UnrolledEM, shipped if shipped.exists() else path, "unrolled_em")


def _save(model: Any, path: str | Path, key: str, about: dict[str, str] | None) -> None:
    tensors = {k: v.detach().cpu().float().contiguous() for k, v in model.state_dict().items()}
    with atomic(Path(path), overwrite=True) as part:
        part.write_bytes(serialize(tensors, metadata={**(about or {}), key: json.dumps(model.config())}))


def _load(caller: str, kind: type[Model], path: str | Path, key: str) -> Model:
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{caller}: no file {str(path)!r}")
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
