"""Data term of a mosaic behind a local operator, such as a blur: the x-update in tiles, without seams.

h(v, alpha) = (A*WA + alpha)^-1 (A*Wy + alpha v) is not local, but the influence of a pixel of v or y on pixels of x
falls exponentially with their distance. Its range is measured at each alpha, on the responses to one bright pixel, and
tiles overlap by it. Nothing is added at the border of the image, where the operator acts as it does on the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithms.least_squares import LeastSquares, LeastSquaresStep
from ..algorithms.protocols import Operator
from ..drivers.arguments import as_operator
from .mosaic_mask import MEAN_SHARE
from .mosaic_tiles import Array, Bounds, Tiles, as_column, clipped, space, square
from .tiling import as_delayed

MakeOperator = Callable[[tuple[int, ...]], Operator]

TAIL_SHARE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-11}
"""Share of a response, in the sum of its magnitudes, that tiles may cut off: that of rounding."""
PROBE_SIDE = {2: 1024, 3: 128}
"""Largest side of the image, and of the volume, on which responses are measured; wider ones are not local."""


class LocalOperator:
    """A local operator, made for each shape of tile, and the overlaps that the tiles need.

    Attributes:
        curvature, spectral_flatness, coverage: those of `LeastSquaresStep` on a probe of at most `PROBE_SIDE`,
            coverage times the share of pixels with a weight.
        solver: conjugate gradients, where there is no closed form; seams are then as large as their residual.
    """

    def __init__(self, tiles: Tiles, make_operator: MakeOperator) -> None:
        self.tiles, self.solver = tiles, LeastSquares(rtol=TAIL_SHARE[tiles.dtype], max_iter=500)
        self._make, self._task = make_operator, as_delayed(make_operator)
        self._probe_shape = tuple(min(n, PROBE_SIDE[tiles.tiling.ndim - 1]) for n in tiles.shape[1:])
        least, greatest, total = tiles.sums(_weighed, 3, tiles.w)
        self._uniform = float(least.min()) == float(greatest.max())
        mean_w = float(total.sum() / tiles.n_live)
        self._probe = self._bound(torch.zeros(1, 1, *self._probe_shape, dtype=torch.float64), mean_w)
        self.curvature, self.spectral_flatness = float(self._probe.curvature()), float(self._probe.spectral_flatness())
        self.coverage = float(self._probe.coverage()) * tiles.n_live / tiles.size
        self._overlaps: dict[float, int] = {}
        self._reach = self._radius(self._probe.operator.A_adjoint(self._probe.operator.A(self._pixel())), "A*A")
        self._alpha = 0.01 * self.curvature
        self._constants = self._means()

    def initial(self, bounds: Bounds) -> Any:
        """See `Problem`."""
        c = self.tiles.map(_filled, self.tiles.y, constants=self._constants)
        return self.tiles.map(clipped, self.x_update(c, self._alpha), bounds=bounds)

    def x_update(self, v: Any, alpha: float) -> Any:
        """See `Problem`."""
        t, options = self.tiles, {"make": self._task, "uniform": self._uniform, "solver": self.solver, "alpha": alpha}
        return t.tiling.overlapped(_x_update, self.overlap(alpha), t.y, t.w, v, **options)

    def misfit(self, z: Any) -> float:
        """See `Problem`."""
        r = self.tiles.tiling.overlapped(_residual, self._reach, z, self.tiles.y, self.tiles.w, make=self._task)
        return float(self.tiles.sums(square, 1, r).sum()) / self.tiles.n_live

    def overlap(self, alpha: float) -> int:
        """Return the overlap of tiles in h(., alpha), in pixels."""
        if alpha not in self._overlaps:
            one, a = self._pixel(), torch.tensor(alpha, dtype=torch.float64)
            responses = [one, self._probe.operator.A_adjoint(one * self._probe.weights) / a]
            self._overlaps[alpha] = max(self._radius(self._probe(v, a), f"h at alpha = {alpha:.3g}") for v in responses)
        return self._overlaps[alpha]

    def _means(self) -> Array:
        """Return the constant per channel that fits the measurements best, as `LeastSquaresStep.initial`."""
        t, make, sums = self.tiles, self._task, []
        for function in (_back, _seen):
            image = t.tiling.overlapped(function, self._reach, t.y, t.w, make=make)
            sums.append(t.sums(_by_channel, t.shape[0], image).sum(axis=1))
        back, normal = sums
        seen = normal > MEAN_SHARE * self._alpha * t.size / t.shape[0]
        means = np.where(seen, back / np.where(seen, normal, 1), 0).astype(t.dtype)
        return means.reshape(-1, *[1] * (t.tiling.ndim - 1))

    def _bound(self, y: Tensor, w: float) -> LeastSquaresStep:
        caller = self.tiles.caller
        try:
            A = as_operator(self._make(self._probe_shape))
            seen = A.A(y)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{caller}: operator({self._probe_shape}) must act on images of this shape: {error!s:.200}"
            ) from error
        if seen.shape != y.shape:
            raise ValueError(
                f"{caller}: operator must keep the image's shape {tuple(y.shape)}, got {tuple(seen.shape)}; "
                'for `Blur` use boundary="reflect"'
            )
        return LeastSquares(rtol=1e-12, max_iter=500).bind(A, y, torch.tensor(w, dtype=torch.float64))

    def _pixel(self) -> Tensor:
        """Return one bright pixel in the middle of the probe."""
        one = torch.zeros(1, 1, *self._probe_shape, dtype=torch.float64)
        one[(0, 0, *(n // 2 for n in self._probe_shape))] = 1
        return one

    def _radius(self, response: Tensor, what: str) -> int:
        """Return half the side of the central square, or cube, that holds all of a response but `TAIL_SHARE`."""
        a = response[0, 0].abs()
        far = torch.meshgrid(*((torch.arange(n) - n // 2).abs() for n in a.shape), indexing="ij")
        distance = torch.stack(far).amax(0).flatten()
        shells = torch.zeros(int(distance.max()) + 1, dtype=a.dtype).index_add_(0, distance, a.flatten())
        beyond = shells.flip(0).cumsum(0).flip(0)
        radius = int((beyond > TAIL_SHARE[self.tiles.dtype] * beyond[0]).sum())
        cut = [(n, sizes) for n, sizes in zip(a.shape, self.tiles.tiling.chunks[1:], strict=True) if len(sizes) > 1]
        if any(radius > n // 2 for n, _ in cut):
            raise ValueError(
                f"{self.tiles.caller}: operator must be local, but {what} reaches beyond {min(a.shape) // 2} pixels; "
                "narrow it, or solve the whole image with `solve`"
            )
        if any(radius > min(sizes) for _, sizes in cut):
            raise ValueError(
                f"{self.tiles.caller}: tile must be larger, as {what} reaches {radius} pixels beyond it; take "
                f"tile={4 * radius} or more"
            )
        return radius


# ---------------------------------------------------------------- tile by tile


def _tensors(*tiles: Array) -> list[Tensor]:
    return [torch.from_numpy(np.array(t, order="C"))[None] for t in tiles]


def _x_update(
    y: Array, w: Array, v: Array, *, make: MakeOperator, uniform: bool, solver: LeastSquares, alpha: float
) -> Array:
    data, weights, at = _tensors(y, w, v)
    A = as_operator(make(y.shape[1:]))
    with torch.no_grad():
        h = solver.bind(A, data, weights.flatten()[0] if uniform else weights)
        x: Array = h(at, torch.tensor(alpha, dtype=data.dtype))[0].numpy()
    return x


def _residual(z: Array, y: Array, w: Array, *, make: MakeOperator) -> Array:
    x, data, weights = _tensors(z, y, w)
    r: Array = (weights.sqrt() * (make(y.shape[1:]).A(x) - data))[0].numpy()
    return r


def _back(y: Array, w: Array, *, make: MakeOperator) -> Array:
    data, weights = _tensors(y, w)
    b: Array = make(y.shape[1:]).A_adjoint(weights * data)[0].numpy()
    return b


def _seen(y: Array, w: Array, *, make: MakeOperator) -> Array:
    (weights,) = _tensors(w)
    A = make(y.shape[1:])
    n: Array = A.A_adjoint(weights * A.A(torch.ones_like(weights)))[0].numpy()
    return n


def _by_channel(x: Array) -> Array:
    return as_column(*x.astype(np.float64).sum(axis=space(x)))


def _filled(y: Array, *, constants: Array) -> Array:
    return np.broadcast_to(constants, y.shape).astype(y.dtype)


def _weighed(w: Array) -> Array:
    return as_column(w.min(), w.max(), w.astype(np.float64).sum())
