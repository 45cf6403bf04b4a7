"""Fingerprints of settings: a run resumes only with the same ones.

Weights and arrays are hashed; a function is identified by its name, an object by its class and its attributes.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Any

import numpy as np
from torch import Tensor, nn


def fingerprint(value: Any) -> str:
    """Return a text that depends on the settings alone, not on the process.

    >>> fingerprint({"max_iter": 8, "bounds": (0.0, None)})
    '{bounds: (0.0, None), max_iter: 8}'
    >>> fingerprint(np.zeros(2))
    'float64 (2,) 374708fff7719dd5'
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
        return f"{value.dtype} {value.shape} {digest}"
    if isinstance(value, nn.Module):
        held = {_in_files(value, name): t for name, t in value.state_dict().items() if isinstance(t, Tensor)}
        text = _in_files(value, _without_addresses(repr(value))) + fingerprint(held)
        return f"{type(value).__name__} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if isinstance(value, dict):
        inside = ", ".join(f"{k}: {fingerprint(v)}" for k, v in sorted(value.items(), key=lambda item: str(item[0])))
        return "{" + inside + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(fingerprint, value)) + ")"
    if isinstance(value, functools.partial):
        return fingerprint((value.func, value.args, value.keywords))
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "__dict__"):
        return f"{type(value).__name__} {fingerprint(vars(value))}"
    return _without_addresses(repr(value))


def differences(old: dict[str, str], new: dict[str, str]) -> str:
    """Return the differences for a message; empty if there are none.

    >>> differences({"max_iter": "8"}, {"max_iter": "10"})
    'max_iter was 8, is 10'
    """
    found = [
        f"{name} was {old.get(name, 'not given'):.60}, is {new.get(name, 'not given'):.60}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    return "; ".join(found[:2]) + (f"; and {len(found) - 2} more" if len(found) > 2 else "")


def _in_files(module: nn.Module, text: str) -> str:
    """Return the text with the names that layers had in earlier versions, so that their checkpoints resume."""
    for part in module.modules():
        for name, former in getattr(part, "former_names", {}).items():
            text = re.sub(rf"\b{name}\b", former, text)
    return text


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
