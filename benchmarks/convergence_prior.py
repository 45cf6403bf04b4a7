"""NRMSE of the convergence MLPatch and of the Wiener filter on simulated maps with white noise.

    python benchmarks/convergence_prior.py

The Wiener filter is given the spectrum from which the maps were drawn. The maps are periodic, which the filter assumes
and MLPatch is given by padding. The last column is MLPatch with its own mirrored borders.
"""

from __future__ import annotations

import argparse

import torch

from denoisers import MLPatch
from pnp.lensing import LognormalKappa, pixel_spectrum
from pnp.metrics import nrmse


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--size", type=int, default=256, help="side of a map in pixels")
    p.add_argument("--std", type=float, default=0.02, help="standard deviation of the maps")
    p.add_argument("--maps", type=int, default=4)
    args = p.parse_args()
    D = MLPatch.from_pretrained("convergence")
    shape = (args.size, args.size)
    power = pixel_spectrum(shape)
    power *= args.std**2 / power.mean()
    print("| sigma | MLPatch, periodic | Wiener filter, periodic | MLPatch, mirrored |\n|---|---|---|---|")
    pad = D.receptive_field // 2 + 1
    for sigma in (0.03, 0.05, 0.1, 0.18, 0.3, 0.5):
        g = torch.Generator().manual_seed(0)
        kappa = LognormalKappa(shape, std=args.std)(args.maps, generator=g)
        y = kappa + sigma * torch.randn(kappa.shape, generator=g)
        wiener = torch.fft.ifft2(torch.fft.fft2(y) * power / (power + sigma**2)).real
        periodic = D(torch.nn.functional.pad(y, (pad,) * 4, mode="circular"), sigma)[..., pad:-pad, pad:-pad]
        values = [f"{nrmse(x, kappa):.3f}" for x in (periodic, wiener, D(y, sigma))]
        print(f"| {sigma:g} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
