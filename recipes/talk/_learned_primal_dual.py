"""Learned primal-dual reconstruction (Adler and Oktem, IEEE TMI 37 (2018) 1322): unrolled, with the whole operator.

    h += Gamma_i(h, A f_2, g)      f += Lambda_i(f, A* h_1)      i = 1 ... 10

from h = 0, f = 0; primal f and dual h have five channels each, Gamma_i and Lambda_i are three 3 x 3 convolutions of 32
channels with PReLU. The reconstruction is f_1. Unlike a local network it needs the whole image and sinogram in
every training step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from operators import Radon
from pnp.algorithms.linalg import operator_norm

CHANNELS = 5
"""Number of channels of primal and dual."""
ITERATIONS = 10


class Update(nn.Sequential):
    """Three 3 x 3 convolutions, the last with small initial weights."""

    def __init__(self, inputs: int, width: int = 32) -> None:
        layers = [nn.Conv2d(i, o, 3, padding=1) for i, o in ((inputs, width), (width, width), (width, CHANNELS))]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        layers[-1].weight.data *= 0.1
        super().__init__(layers[0], nn.PReLU(width), layers[1], nn.PReLU(width), layers[2])


class LearnedPrimalDual(nn.Module):
    """Reconstruct slices (B, 1, N, N) from sinograms (B, 1, views, bins); A and y are normalised."""

    def __init__(self, radon: Radon) -> None:
        super().__init__()
        self.radon = radon
        probe = torch.randn(1, 1, *radon.shape, generator=torch.Generator().manual_seed(0))
        self.norm = operator_norm(radon.A_adjoint_A, probe)
        self.dual = nn.ModuleList(Update(CHANNELS + 2) for _ in range(ITERATIONS))
        self.primal = nn.ModuleList(Update(CHANNELS + 1) for _ in range(ITERATIONS))

    def forward(self, y: Tensor) -> Tensor:
        """Return the reconstruction f_1."""
        scale = y.square().mean((1, 2, 3), keepdim=True).sqrt()
        g = y / scale
        h = g.new_zeros(len(g), CHANNELS, *g.shape[2:])
        f = g.new_zeros(len(g), CHANNELS, *self.radon.shape)
        for dual, primal in zip(self.dual, self.primal, strict=True):
            h = h + dual(torch.cat([h, self.radon.A(f[:, 1:2]) / self.norm, g], 1)).float()
            f = f + primal(torch.cat([f, self.radon.A_adjoint(h[:, :1]) / self.norm], 1)).float()
        return f[:, :1] * (scale / self.norm)


def learned_primal_dual(radon: Radon, seed: int) -> LearnedPrimalDual:
    """Return the untrained network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LearnedPrimalDual(radon)
