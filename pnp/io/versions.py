"""Versions of installed packages, as files and `pnp info` note them."""

from __future__ import annotations

import importlib.metadata

__all__ = ["installed_version"]


def installed_version(package: str = "pnp-local") -> str:
    """Return the version of an installed package, or "not installed".

    >>> installed_version("no-such-package")
    'not installed'
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
