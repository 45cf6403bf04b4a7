"""Errors that measurements have in common: a detector bin's in all views, or a view's in all bins.

    y[v, b] = (A x)[v, b] + c[b] + d[v] + n[v, b],    c ~ N(0, s_b^2),  d ~ N(0, s_v^2),  n ~ N(0, 1/W)

An error of a bin's gain, c in line integrals, makes a ring; d is a beam that drifts. Integrated out they leave the
noise covariance W^-1 + E S E*, with E the map from (c, d) to y and S their covariance. Its inverse (Sherman and
Morrison, Ann. Math. Stat. 21 (1950) 124; Woodbury 1950) is the weight operator

    W' r = W (r - E e),    e = (E* W E + S^-1)^-1 E* W r,

with e the most probable errors given the residual r. What is constant over the views of a bin then counts for little:
x is free there, and the prior decides.

Errors of bins differ from bin to bin, whereas the mean over all views of an object is smooth but for what is round
about the axis. So c has no smooth part: it is orthogonal to the slowest cosines over the bins, Q* c = 0, one for every
forty bins; where the errors change during the scan, in each of its segments. With H = (E* W E + 1/s_b^2)^-1, which is
diagonal, c = (H - H Q (Q* H Q)^-1 Q* H) E* W r. The ramp filter of FBP leaves the cube of a fortieth of a white error's
energy of these cosines, so that x hardly shows them.
Views beside bins are eliminated by a Schur complement of one row a view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

VIEWS = 2
"""Axis of the views; those behind it are the detector's."""
BINS_PER_COSINE = 40
"""Bins for each cosine that errors of bins are orthogonal to."""


@dataclass(frozen=True)
class ErrorModel:
    """Standard deviations of the common errors, in units of y.

    Attributes:
        bin_std: broadcasts to (B, C, n_segments, bins...); None: bins have no errors of their own.
        view_std: broadcasts to (B, C, n_views); None: nor have views.
        segments: int64, (B, C, n_views, bins...): bins whose error changes at some view have one error for each run of
            views with the same number. None: one error for all views of a bin.
        own: bool, broadcasts to (B, C, n_segments, bins...): errors which are not orthogonal to smooth ones, as
            large ones of single bins. None: none.
    """

    bin_std: Tensor | None = None
    view_std: Tensor | None = None
    segments: Tensor | None = None
    own: Tensor | None = None


class _BinPrior(NamedTuple):
    """(E* W E + S^-1)^-1 = H - H Q M^-1 (H Q)* of the bins alone."""

    H: Tensor  # (B, C, n_segments, bins...)
    HQ: Tensor | None  # (..., K); None: without cosines
    M: Tensor | None  # Q* H Q, (B, C, n_segments, rows..., K, K)

    def __call__(self, g: Tensor) -> Tensor:
        """Apply it to g, of the shape of H."""
        if self.HQ is None or self.M is None:
            return self.H * g
        weights = torch.linalg.solve(self.M, (self.HQ * g.unsqueeze(-1)).sum(-2))
        smooth: Tensor = (self.HQ * weights.unsqueeze(-2)).sum(-1)
        return self.H * g - smooth

    def diagonal(self) -> Tensor:
        """Return its diagonal: the variances that remain."""
        if self.HQ is None or self.M is None:
            return self.H
        half = torch.linalg.solve(self.M, self.HQ.mT)
        smooth: Tensor = (self.HQ * half.mT).sum(-1)
        return self.H - smooth


class _Priors(NamedTuple):
    """What the errors have for one floor."""

    bins: _BinPrior | None
    views: tuple[Tensor, Tensor] | None  # see `_limited`
    matrix: Tensor | None  # the views' Schur complement, where both have errors


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
        self._cosines = self._make_cosines() if model.bin_std is not None else None
        self._last: tuple[Tensor | None, _Priors] | None = None  # the priors of the last floor

    @property
    def smooth_share(self) -> float:
        """Fraction of a white error of the bins that is smooth, and so left to x."""
        return 0.0 if self._cosines is None else self._cosines.shape[-1] / self._cosines.shape[-2]

    def weigh(self, r: Tensor, floor: Tensor | None = None) -> Tensor:
        """Return W' r; arguments as of `found`."""
        return self.weights * (r - self.found(r, floor))

    def found(self, r: Tensor, floor: Tensor | None = None) -> Tensor:
        """Return E e, the most probable errors given y - A x = r, of the shape of y.

        Args:
            r: residual, like y.
            floor: the prior's precision is at least this fraction of what the measurements of a bin or a view give,
                0-dim or (B, 1, 1, 1): above 0 the errors do not explain their part of r whole. None: 0.
        """
        c, d = self._solve(r, floor)
        e = torch.zeros_like(r) if c is None else self._by_bin(c)
        return e if d is None else e + self._by_view(d)

    def expected_square(self) -> Tensor:
        """Return E[(E e)^2] before anything is measured, of the shape of y."""
        square = torch.zeros_like(self.weights)
        if self.model.bin_std is not None:
            square = square + self._by_bin(self.model.bin_std.square().expand(self.bin_weight.shape))
        if self.model.view_std is not None:
            square = square + self._by_view(self.model.view_std.square().expand(self.view_weight.shape))
        return square

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

    def posterior_square(self, r: Tensor) -> Tensor:
        """Return E[c^2 | r] of each bin, (B, C, n_segments, bins...), by which EM estimates s_b^2, with r = y - A x.

        It is the square of the most probable value and the variance that remains, without the views' part of it.
        """
        c, _ = self._solve(r, None)
        bins = self._priors(None).bins
        assert c is not None and bins is not None
        return c.square() + bins.diagonal()

    def _solve(self, r: Tensor, floor: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the most probable c (B, C, n_segments, bins...) and d (B, C, n_views)."""
        (bins, views, matrix), Wr = self._priors(floor), self.weights * r
        if bins is None:
            return None, None if views is None else views[0] * _over_bins(Wr) / (1 + views[1])
        sums = self._over_views(Wr)
        if views is None or matrix is None:
            return bins(sums), None
        root = views[0].sqrt()
        rhs = _over_bins(Wr) - _over_bins(self.weights * self._by_bin(bins(sums)))
        d = root * torch.linalg.solve(matrix, (root * rhs).unsqueeze(-1)).squeeze(-1)
        return bins(sums - self._over_views(self.weights * self._by_view(d))), d

    def _priors(self, floor: Tensor | None) -> _Priors:
        """Return the priors for this floor, once for the iterations that share it."""
        if self._last is None or self._last[0] is not floor:
            bins, views = self._bin_prior(floor), _limited(self.view_weight, self.model.view_std, floor)
            matrix = None if bins is None or views is None else self._complement(bins, views[0])
            self._last = floor, _Priors(bins, views, matrix)
        return self._last[1]

    def _bin_prior(self, floor: Tensor | None) -> _BinPrior | None:
        limited = _limited(self.bin_weight, self.model.bin_std, floor)
        if limited is None:
            return None
        H = limited[0] / (1 + limited[1])
        if self._cosines is None:
            return _BinPrior(H, None, None)
        HQ = H.unsqueeze(-1) * self._cosines
        M = self._cosines.mT @ HQ
        # Where bins have no errors at all, M is 0.
        least = torch.finfo(M.dtype).eps * M.diagonal(dim1=-2, dim2=-1).amax(-1) + torch.finfo(M.dtype).tiny
        return _BinPrior(H, HQ, M + torch.diag_embed(least.unsqueeze(-1).expand(M.shape[:-1])))

    def _make_cosines(self) -> Tensor | None:
        """Return Q (B, C, n_segments, bins..., K), 0 for errors that may be smooth, and for bins without weight."""
        n = self.weights.shape[-1]
        if n < BINS_PER_COSINE:
            return None
        k, b = (torch.arange(m).to(self.weights) for m in (n // BINS_PER_COSINE, n))
        bound = self.bin_weight > 0
        if self.model.own is not None:
            bound = bound & ~self.model.own
        cosines: Tensor = bound.unsqueeze(-1) * torch.cos(math.pi / n * (b[:, None] + 0.5) * k) * (2 / n) ** 0.5
        return cosines

    def _complement(self, bins: _BinPrior, variance: Tensor) -> Tensor:
        """Return s_v (D - N G N*) s_v + 1, with N = W seen from views to bins, and G the bins' prior.

        Scaled by s_v, so that no error at all is not an infinite precision.
        """
        cross = torch.zeros((), dtype=self.weights.dtype, device=self.weights.device)
        for k in range(self.n_segments):
            W = self.weights if self.model.segments is None else torch.where(self.model.segments == k, self.weights, 0)
            W = W.movedim(VIEWS, -2)  # (B, C, rows..., n_views, n)
            seen = (W * bins.H[:, :, k].unsqueeze(-2)) @ W.mT
            if bins.HQ is not None and bins.M is not None:
                columns = W @ bins.HQ[:, :, k]
                seen = seen - columns @ torch.linalg.solve(bins.M[:, :, k], columns.mT)
            cross = cross + seen.reshape(*seen.shape[:2], -1, *seen.shape[-2:]).sum(2)
        root = variance.sqrt()
        matrix = root.unsqueeze(-1) * (torch.diag_embed(self.view_weight) - cross) * root.unsqueeze(-2)
        return matrix + torch.eye(matrix.shape[-1], dtype=cross.dtype, device=cross.device)

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


def _limited(weight: Tensor, std: Tensor | None, floor: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Return the errors' variance, and its ratio to the one that measurements leave, at most 1/floor."""
    if std is None:
        return None
    variance = std.square().expand(weight.shape)
    ratio = variance * weight
    if floor is None:
        return variance, ratio
    limit = (floor.to(weight).reshape(-1, *[1] * (weight.ndim - 1)) * ratio).clamp(min=1)
    return variance / limit, ratio / limit


def _over_bins(r: Tensor) -> Tensor:
    """Sum over the detector, (B, C, n_views)."""
    return r.flatten(VIEWS + 1).sum(-1)
