"""Errors that measurements have in common: a detector bin's in all views, or a view's in all bins.

    y[v, b] = (A x)[v, b] + c[b] + d[v] + n[v, b],    c ~ N(0, s_b^2),  d ~ N(0, s_v^2),  n ~ N(0, 1/W)

An error of a bin's gain, c in line integrals, makes a ring; d is a beam that drifts. Integrated out they leave the
noise covariance W^-1 + E S E*, with E the map from (c, d) to y and S = diag(s_b^2, s_v^2). Its inverse (Sherman and
Morrison, Ann. Math. Stat. 21 (1950) 124; Woodbury 1950) is the weight operator

    W' r = W (r - E e),    e = (E* W E + S^-1)^-1 E* W r,

with e the most probable errors given the residual r. For bins alone the matrix is diagonal; views beside bins are
eliminated by a Schur complement of one row a view. What is constant over the views of a bin then counts for little:
x is free there, and the prior decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

VIEWS = 2
"""Axis of the views; those behind it are the detector's."""


@dataclass(frozen=True)
class ErrorModel:
    """Standard deviations of the common errors, in units of y.

    Attributes:
        bin_std: broadcasts to (B, C, n_segments, bins...); None: bins have no errors of their own.
        view_std: broadcasts to (B, C, n_views); None: nor have views.
        segments: int64, (B, C, n_views, bins...): bins whose error changes at some view have one error for each run of
            views with the same number. None: one error for all views of a bin.
    """

    bin_std: Tensor | None = None
    view_std: Tensor | None = None
    segments: Tensor | None = None


class CommonErrors:
    """The weight operator W' of measurements with common errors.

    Args:
        weights: W, of the shape of y, (B, C, n_views, bins...).
        model: the errors' standard deviations.

    >>> W, y = torch.ones(1, 1, 4, 1), torch.full((1, 1, 4, 1), 2.0)
    >>> errors = CommonErrors(W, ErrorModel(bin_std=torch.tensor(1.0)))
    >>> errors.found(y).flatten(), errors.weigh(y).flatten()  # 4 views of weight 1, and the prior's 1
    (tensor([1.6000, 1.6000, 1.6000, 1.6000]), tensor([0.4000, 0.4000, 0.4000, 0.4000]))
    """

    def __init__(self, weights: Tensor, model: ErrorModel) -> None:
        self.weights, self.model = weights, model
        self.n_segments = 1 if model.segments is None else int(model.segments.max()) + 1
        self.bin_weight = self._over_views(weights)
        self.view_weight = _over_bins(weights)

    def weigh(self, r: Tensor, floor: Tensor | float = 0.0) -> Tensor:
        """Return W' r; arguments as of `found`."""
        return self.weights * (r - self.found(r, floor))

    def found(self, r: Tensor, floor: Tensor | float = 0.0) -> Tensor:
        """Return E e, the most probable errors given y - A x = r, of the shape of y.

        Args:
            r: residual, like y.
            floor: the prior's precision is at least this fraction of what the measurements of a bin or a view give,
                a number or (B, 1, 1, 1): above 0 the errors do not explain their part of r whole.
        """
        bins, views = self._gain(self.bin_weight, self.model.bin_std, floor), None
        if self.model.view_std is not None:
            views = self._gain(self.view_weight, self.model.view_std, _as_views(floor))
        Wr = self.weights * r
        if bins is None:
            return torch.zeros_like(r) if views is None else self._by_view(views[0] * _over_bins(Wr) / (1 + views[1]))
        inverse, sums = bins[0] / (1 + bins[1]), self._over_views(Wr)  # (E* W E + S^-1)^-1 of the bins alone
        if views is None:
            return self._by_bin(inverse * sums)
        d = self._of_views(inverse, views[0], _over_bins(Wr) - _over_bins(self.weights * self._by_bin(inverse * sums)))
        rest = sums - self._over_views(self.weights * self._by_view(d))
        return self._by_bin(inverse * rest) + self._by_view(d)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return errors c and d drawn from the model, of the shape of y; the generator is the CPU's."""
        drawn = torch.zeros_like(self.weights)
        for std, like, spread in (
            (self.model.bin_std, self.bin_weight, self._by_bin),
            (self.model.view_std, self.view_weight, self._by_view),
        ):
            noise = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
            drawn = drawn if std is None else drawn + spread(std * noise)
        return drawn

    def posterior_square(self, r: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return E[c^2 | r] and E[d^2 | r] of each bin and view: the squares of their most probable values, and the
        variances that remain, views and bins taken by themselves; with r = y - A x they re-estimate s^2 (EM)."""
        e = self.found(r)
        squares: list[Tensor | None] = [None, None]
        if (found := self._gain(self.bin_weight, self.model.bin_std, 0.0)) is not None:
            rest = self._over_views(self.weights * (r - e))  # S^-1 c at the most probable c
            squares[0] = (found[0] * rest).square() + found[0] / (1 + found[1])
        if self.model.view_std is not None:
            found = self._gain(self.view_weight, self.model.view_std, 0.0)
            assert found is not None
            squares[1] = (found[0] * _over_bins(self.weights * (r - e))).square() + found[0] / (1 + found[1])
        return squares[0], squares[1]

    def _of_views(self, inverse: Tensor, variance: Tensor, rhs: Tensor) -> Tensor:
        """Return d of the Schur complement: (D - N inverse N* + 1/s_v^2) d = rhs, N = W seen from views to bins."""
        W = self.weights.flatten(VIEWS + 1)
        cross = torch.zeros((*W.shape[:3], W.shape[2]), dtype=W.dtype, device=W.device)
        for k in range(self.n_segments):
            part = W if self.model.segments is None else torch.where(self.model.segments.flatten(3) == k, W, 0)
            cross = cross + (part * inverse[:, :, k].flatten(2).unsqueeze(2)) @ part.mT
        root = variance.sqrt()  # scaled by it, so that no error at all is not an infinite precision
        matrix = torch.diag_embed(self.view_weight) - cross
        matrix = root.unsqueeze(-1) * matrix * root.unsqueeze(-2)
        matrix = matrix + torch.eye(matrix.shape[-1], dtype=W.dtype, device=W.device)
        solved: Tensor = torch.linalg.solve(matrix, (root * rhs).unsqueeze(-1)).squeeze(-1)
        return root * solved

    def _gain(self, weight: Tensor, std: Tensor | None, floor: Tensor | float) -> tuple[Tensor, Tensor] | None:
        """Return the errors' variance, and its ratio to the one that measurements leave, at most 1/floor."""
        if std is None:
            return None
        variance = std.square().expand(weight.shape)
        ratio = variance * weight
        limit = torch.as_tensor(floor, dtype=weight.dtype, device=weight.device) * ratio
        return variance / limit.clamp(min=1), ratio / limit.clamp(min=1)

    def _over_views(self, r: Tensor) -> Tensor:
        """Sum over the views, (B, C, n_segments, bins...)."""
        if self.model.segments is None:
            return r.sum(VIEWS, keepdim=True)
        parts = [torch.where(self.model.segments == k, r, 0).sum(VIEWS) for k in range(self.n_segments)]
        return torch.stack(parts, VIEWS)

    def _by_bin(self, c: Tensor) -> Tensor:
        """Return the error of each measurement from those of its bin, of the shape of y."""
        if self.model.segments is None:
            return c.expand(self.weights.shape)
        return c.gather(VIEWS, self.model.segments)

    def _by_view(self, d: Tensor) -> Tensor:
        return d.reshape(*d.shape, *[1] * (self.weights.ndim - d.ndim)).expand(self.weights.shape)


def _over_bins(r: Tensor) -> Tensor:
    """Sum over the detector, (B, C, n_views)."""
    return r.flatten(VIEWS + 1).sum(-1)


def _as_views(floor: Tensor | float) -> Tensor | float:
    return floor.reshape(-1, 1, 1) if isinstance(floor, Tensor) and floor.ndim else floor
