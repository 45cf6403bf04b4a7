"""Small operators and denoisers with closed forms, for tests of the solver alone."""

from __future__ import annotations

from typing import Any

import torch
from arrays import rand
from torch import Tensor

SHAPE = (6, 7)


class Matrix:
    """y = M vec(x), y of shape (B, C, m); nothing beyond the two required methods."""

    def __init__(self, M: Tensor, shape: tuple[int, int] = SHAPE):
        self.M, self.shape = M, shape

    def A(self, x: Tensor) -> Tensor:
        return x.flatten(2) @ self.M.to(x.dtype).T

    def A_adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.M.to(y.dtype)).unflatten(2, self.shape)


class Views:
    """y[v] = M[v] vec(x): views (B, 1, n_views, n_bins) of images, M (n_views, n_bins, 42), and subsets of views."""

    def __init__(self, M: Tensor):
        self.M = M

    def A(self, x: Tensor) -> Tensor:
        return torch.einsum("vmn,bcn->bcvm", self.M.to(x.dtype), x.flatten(2))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return torch.einsum("vmn,bcvm->bcn", self.M.to(y.dtype), y).unflatten(2, SHAPE)

    def subset(self, b: int, n: int) -> Views:
        return Views(self.M[b::n])


class Diagonal:
    """y = d x with the closed-form data step."""

    y_is_sampled = True

    def __init__(self, d: Tensor):
        self.d = d

    def A(self, x: Tensor) -> Tensor:
        return self.d.to(x.dtype) * x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.d.to(y.dtype) * y

    def data_step(self, y: Tensor, weights: Tensor) -> Any:
        d = self.d.to(y.dtype)
        return lambda z, alpha: (d * weights * y + alpha * z) / (d * d * weights + alpha)


class Linear:
    """The denoiser D(x) = S x, S symmetric with eigenvalues in (0, 1]: the prox of 1/2 x' (S^-1 - 1) x."""

    def __init__(self, n: int, seed: int = 5):
        root = rand(n, n, seed=seed)
        self.S = torch.linalg.inv(torch.eye(n, dtype=root.dtype) + 0.3 * root @ root.T / n)

    def __call__(self, x: Tensor, sigma: Any) -> Tensor:
        return (x.flatten(2) @ self.S.to(x.dtype)).unflatten(2, x.shape[2:])


def smooth(x: Tensor, sigma: Any) -> Tensor:
    """A unit-free local average: (x + mean of four neighbours)/2, periodic."""
    around = sum(x.roll(s, d) for s, d in ((1, -1), (-1, -1), (1, -2), (-1, -2)))
    return 0.5 * x + 0.125 * around


def image() -> Tensor:
    """A disc on a ramp, (1, 1, 32, 40)."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    disc = ((rows - 14) ** 2 + (columns - 22) ** 2 < 80).double()
    return (disc + columns.double() / 80)[None, None]
