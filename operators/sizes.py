"""Sizes of images and measurements, and checks that those of two operators fit."""

from __future__ import annotations

from typing import Any

Sizes = tuple[Any, ...]
"""Sizes without the batch: numbers, and names such as "C" where any number fits. Measurements of a stack have the tuple
of their parts' sizes, None where these are unknown."""


def sizes_of(operator: Any, kind: str) -> Sizes | None:
    """Return x_shape or y_shape of an operator, None where it has no such attribute."""
    sizes: Sizes | None = getattr(operator, kind, None)
    return sizes


def fit(a: Any, b: Any) -> bool:
    """Return whether two sizes may be the same: numbers agree, a name fits numbers, None fits anything."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(fit, a, b))
    if a is None or b is None:
        return True
    return a == b or (isinstance(a, str) and isinstance(b, int)) or (isinstance(a, int) and isinstance(b, str))


def fixed(a: Sizes | None, b: Sizes | None) -> dict[str, int]:
    """Return the numbers that either sizes give to names in the other."""
    pairs = [*zip(a, b, strict=True), *zip(b, a, strict=True)] if a is not None and b is not None else []
    return {n: m for n, m in pairs if isinstance(n, str) and isinstance(m, int)}


def resolved(sizes: Sizes | None, known: dict[str, int]) -> Sizes | None:
    """Return sizes with known numbers in place of names."""
    return None if sizes is None else tuple(known.get(n, n) if isinstance(n, str) else n for n in sizes)


def shown(sizes: Sizes | None) -> str:
    """Return sizes for a message, e.g. (C, 5, 6)."""
    inside = ["?" if n is None else shown(n) if isinstance(n, tuple) else str(n) for n in sizes or ()]
    return "(" + ", ".join(inside) + ")"
