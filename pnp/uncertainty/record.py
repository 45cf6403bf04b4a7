"""Error bars of a reconstruction: standard deviations, intervals, and means of regions with theirs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import broadcasts, check_number, short
from ..drivers.result import Result


class Region(NamedTuple):
    """The mean or sum of a region, and its standard deviation: numbers, or arrays (B, C) where there are several.

    Attributes:
        value: in units of x.
        std: root mean square of the errors of that mean or sum, times the factor.
    """

    value: Any
    std: Any


@dataclass(frozen=True)
class Bootstrap:
    """Error bars of an image x from the errors E_i = T_i^-1 z_i - x of its copies, i = 1 ... n.

    Arrays are of the kind of y, numpy or torch.

    Attributes:
        x: the reconstruction (B, C, H, W) from all measurements.
        samples: E_i, (n, B, C, H, W), without the factor, in units of x.
        factor: by how much errors in held-out measurements exceed those of the copies, at least 1: a number, or an
            array (B,) of several images. It multiplies `std`, `quantile`, `interval` and `region`.
        window: pixels on each side of the window over which `std` is taken.
        factor_std: its standard error; NaN where nothing was held out.
        hold_out: what was held out: "views", "blocks" or "measurements", of a stack one for each part; None: nothing.
        moves: the moves that were drawn, of "shift", "flip", "turn" and "zoom"; empty for a parametric bootstrap.
        result: the `Result` with x.
        zoomed: errors of the zoomed copies, (m, B, C, H, W); m = 0 without that move.
        interrupted: Ctrl-C came before all copies were there.
        warnings: sentences on what looks wrong with the error bars.
        n_asked: copies that were asked for; None: as many as there are.
    """

    x: Any = field(repr=False)
    samples: Any = field(repr=False)
    factor: Any
    factor_std: Any
    hold_out: Any
    moves: tuple[str, ...]
    window: int
    result: Result = field(repr=False)
    zoomed: Any = field(default=(), repr=False)
    interrupted: bool = False
    warnings: tuple[str, ...] = ()
    n_asked: int | None = None

    @property
    def n(self) -> int:
        """Number of copies."""
        return len(self.samples)

    @property
    def bare(self) -> Bootstrap:
        """The same error bars without the factor from held-out measurements."""
        one = torch.ones(()) if isinstance(self.factor, float) else torch.ones_like(_tensor(self.factor))
        return replace(self, factor=1.0 if isinstance(self.factor, float) else self._like(one))

    @property
    def std(self) -> Any:
        """Standard deviation of the error of each pixel, (B, C, H, W): the root mean square of the E_i, biases too.

        The mean is over the copies and over a window around the pixel, so that it scatters little. Where zoomed copies
        have larger errors than the others times the factor, it is theirs.
        """
        std = self._scale() * self._spread(self.samples)
        return self._like(torch.maximum(std, self._spread(self.zoomed)) if len(self.zoomed) else std)

    def _spread(self, errors: Any) -> Tensor:
        variance = _tensor(errors).abs().square().mean(0)
        for axis in range(2, variance.ndim):
            variance = _box(variance, axis, self.window)
        return variance.sqrt()

    def quantile(self, level: float) -> Any:
        """Return `std` times the normal quantile, (B, C, H, W): |x - truth| is below it with this probability.

        Args:
            level: in (0, 1), such as 0.9: 1.645 standard deviations.
        """
        level = check_number("level", level, above=0, caller="Bootstrap")
        if level >= 1:
            raise ValueError(f"Bootstrap: level must be below 1, got {level:g}; 0.9 for 90 %")
        return self.std * float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))

    def interval(self, level: float) -> tuple[Any, Any]:
        """Return x less and plus `quantile(level)`."""
        q = self.quantile(level)
        return self.x - q, self.x + q

    def covered(self, truth: Any, level: float, mask: Any = None) -> float:
        """Return the fraction of pixels whose truth lies in `interval(level)`, of a mask where one is given.

        Args:
            truth: (B, C, H, W).
            level: in (0, 1).
            mask: bool, broadcasting to x: the pixels that count. None: all.
        """
        x = _tensor(self.x)
        truth = _tensor(truth).to(x.device)
        if truth.shape != x.shape:
            raise ValueError(f"Bootstrap.covered: truth must be {tuple(x.shape)} as x, got {tuple(truth.shape)}")
        inside = (x - truth).abs() <= _tensor(self.quantile(level))
        counted = torch.ones_like(inside) if mask is None else self._mask(mask, "covered") != 0
        return float(inside[counted].double().mean())

    def region(self, mask: Any, kind: str = "mean") -> Region:
        """Return the mean or sum of x over a region, and its standard deviation from the copies, with the factor.

        Errors of neighbours are correlated: the standard deviation of a mean is not that of a pixel over sqrt(n).
        Zoomed copies, which have the region at half its size, do not enter.

        Args:
            mask: the region, bool or floating-point weights >= 0, (H, W) or broadcasting to x; of labels one, such as
                labels == 2.
            kind: "mean" or "sum".
        """
        if kind not in ("mean", "sum"):
            raise ValueError(f'Bootstrap.region: kind must be "mean" or "sum", got {short(repr(kind), 60)}')
        x, w = _tensor(self.x), self._mask(mask, "region")
        axes = tuple(range(2, x.ndim))
        total = w.sum(axes) if kind == "mean" else torch.ones_like(w.sum(axes))
        value = (w * x).sum(axes) / total
        errors = (w * _tensor(self.samples)).flatten(3).sum(-1) / total
        std = self._scale().reshape(-1, 1) * _rms(errors)
        if value.numel() == 1:
            return Region(value.item(), float(std))
        return Region(self._like(value), self._like(std))

    def __str__(self) -> str:
        """Return a summary of a few lines."""
        held = "nothing held out" if self.hold_out is None else f"held-out {_text(self.hold_out)}"
        several = not isinstance(self.factor, float)
        factor = " ".join(f"{float(f):.2f}" for f in (self.factor if several else [self.factor]))
        spread = "" if self.hold_out is None or several else f" +- {self.factor_std:.2g}"
        asked = f" of {self.n_asked}" if self.interrupted and self.n_asked is not None else ""
        lines = [
            f"{self.n}{asked} copies, moves {', '.join(self.moves) or 'none'}; factor {factor}{spread} ({held})",
            f"standard deviation {float(_tensor(self.std).median()):.3g} (median over the pixels)",
            *(["interrupted (Ctrl-C)"] if self.interrupted else []),
        ]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])

    def _scale(self) -> Tensor:
        """Return the factor, broadcasting to x."""
        x = _tensor(self.x)
        return torch.as_tensor(self.factor, dtype=x.real.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 1))

    def _mask(self, mask: Any, caller: str) -> Tensor:
        x = _tensor(self.x)
        try:
            given = _tensor(mask)
            w = given.to(x.device, x.real.dtype)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"Bootstrap.{caller}: mask must be an array, got {type(mask).__name__}") from error
        if not broadcasts(tuple(w.shape), tuple(x.shape)):
            raise ValueError(f"Bootstrap.{caller}: mask must broadcast to x {tuple(x.shape)}, got {tuple(w.shape)}")
        if not given.is_floating_point() and bool(((w != 0) & (w != 1)).any()):
            kind = str(given.dtype).removeprefix("torch.")
            raise ValueError(
                f"Bootstrap.{caller}: mask must be true and false, or floating-point weights, got {kind} up to "
                f"{float(w.max()):g}; of labels pass one, such as labels == 2"
            )
        w = w.expand(x.shape)
        if not bool((w >= 0).all()) or not bool((w.flatten(2).sum(-1) > 0).all()):
            raise ValueError(f"Bootstrap.{caller}: mask must be >= 0, and positive somewhere in each image")
        return w

    def _like(self, value: Tensor) -> Any:
        return value.cpu().numpy() if isinstance(self.x, np.ndarray) else value


def _tensor(value: Any) -> Tensor:
    return torch.as_tensor(value)


def _box(values: Tensor, axis: int, window: int) -> Tensor:
    """Return means over a window along an axis, of what lies within the image; in float64, which the CPU has."""
    n = values.shape[axis]
    sums = torch.nn.functional.pad(values.movedim(axis, -1).cpu().double().cumsum(-1), (1, 0))
    first = (torch.arange(n) - (window - 1) // 2).clamp(min=0)
    last = (torch.arange(n) + window // 2 + 1).clamp(max=n)
    return ((sums[..., last] - sums[..., first]) / (last - first)).clamp(min=0).movedim(-1, axis).to(values)


def _rms(errors: Tensor) -> Tensor:
    return errors.abs().square().mean(0).sqrt()


def _text(hold_out: Any) -> str:
    return hold_out if isinstance(hold_out, str) else ", ".join(hold_out)
