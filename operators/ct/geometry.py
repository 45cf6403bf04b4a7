"""Geometry of a scan as tensors of an operator: kept in float64, differentiable where the caller wants it, and cached.

Tables made from the geometry live until it is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..base import LinearOperator, as_buffer

_T = TypeVar("_T")


class MovableGeometry(LinearOperator):
    """An operator whose geometry is held in tensors, among them `angles`, and in numbers.

    Subclasses set `_cache` to an empty dict.
    """

    SIZES: ClassVar[tuple[str, ...]]
    """Attributes that describe the geometry beside shape and TENSORS, in the order of the constructor."""
    TENSORS: ClassVar[tuple[str, ...]] = ("angles", "offset")
    """Tensors of the geometry, to which gradients flow where they require grad."""
    angles: Tensor
    _cache: dict[object, Any]

    @property
    def _name(self) -> str:
        """What messages call the operator."""
        return type(self).__name__

    def _keep(self, name: str, value: Any) -> None:
        """Register a part of the geometry as float64, or the caller's own tensor where it requires grad."""
        caller = self._name
        value = as_buffer(caller, name, value)
        if not value.requires_grad:
            if value.is_complex() or value.dtype == torch.bool:
                raise TypeError(f"{caller}: {name} must be real numbers, got {value.dtype}")
            device = value.device if name == "angles" else self.angles.device
            value = value.to(device, torch.float64)
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise ValueError(f"{caller}: {name} must be finite, got {bad} NaN or infinite")
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, value)

    # ---------------------------------------------------------------- tables

    def _refresh(self) -> bool:
        """Clear the cache if the geometry was changed; return whether gradients to the geometry are wanted."""
        parts = [part for name in self.TENSORS if (part := getattr(self, name)) is not None]
        moved = tuple((id(t), 0 if t.is_inference() else t._version) for t in parts)
        versions = (self.shape, *(getattr(self, name) for name in self.SIZES), *moved)
        if self._cache.get("versions") != versions:
            self._cache = {"versions": versions}
        return torch.is_grad_enabled() and any(t.requires_grad for t in parts)

    def _cached(self, key: object, make: Callable[[], _T]) -> _T:
        if key not in self._cache:
            # Tables outlive this call, whatever its autograd mode.
            with torch.inference_mode(False), torch.no_grad():
                self._cache[key] = make()
        found: _T = self._cache[key]
        return found

    # ---------------------------------------------------------------- moving

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MovableGeometry:
        """Move the geometry but keep its precision: `.to(torch.float32)` must not round the angles."""
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        parameters = {name: p.data for name, p in self._parameters.items() if p is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in parameters.items():
            p = self._parameters[name]
            if p is not None and p.dtype != before.dtype:
                p.data = before.to(p.device)
        for name, before in kept.items():
            after = self._buffers[name]
            if after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        self._cache = {}
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Plans belong to this process. Copies get leaf tensors, the only ones that torch can copy.
        buffers = {k: b if b is None or b.is_leaf else b.detach() for k, b in self._buffers.items()}
        return {**self.__dict__, "_buffers": buffers, "_cache": {}}
