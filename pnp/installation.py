"""Versions of installed packages, and files that hide `operators` and `denoisers`, which come with pnp."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path


def version(package: str = "pnp-local") -> str:
    """Return the version of an installed distribution, or "not installed".

    >>> version("no-such-distribution")
    'not installed'
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def hidden_package(*names: str) -> str:
    """Return one sentence that names the file by which one of our packages is hidden, "" if none is.

    Python looks for modules first beside the script, or in the current folder. A file operators.py or a package
    denoisers there takes the place of ours. Nothing is imported or run here.

    Args:
        names: the packages that are needed, "operators", "denoisers" or both.
    """
    ours = Path(__file__).resolve().parents[1]
    for name in names:
        module = sys.modules.get(name)
        spec = importlib.util.find_spec(name) if module is None else module.__spec__
        if spec is None or spec.origin is None:
            continue
        file = Path(spec.origin)
        if file.resolve().parent != ours / name:
            found = file.parent if file.stem == "__init__" else file
            return f"{found} hides the package {name} that comes with pnp; rename it, or run Python from another folder"
    return ""
