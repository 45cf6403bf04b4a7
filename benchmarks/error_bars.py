"""Error bars: how often the truth lies in intervals of `pnp.uncertainty.bootstrap`, which does not see it.

Images of 128 x 128 pixels: a head from 180 views, the moon from 90, a photograph from 40, and 40 % of a photograph's
pixels, 1 % noise; 24 copies, 12 iterations. For each, the fraction of pixels in the intervals of 50 and 90 %, by a
parametric bootstrap, by the equivariant one, and by the latter with the factor from held-out measurements; standard
deviations are averaged over 7 x 7 pixels, and in the last rows over none. Notes give
the same at edges (the tenth of the pixels with the largest gradient) and where the image is flat (the half with the
smallest); for the intervals of 90 % also of the means of 8 x 8 pixels, within 1.645 standard deviations, and for the
factor what it would have to be: the true error over the predicted one, root mean squares.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import skimage.data
import skimage.transform
import torch
from report import Row, main
from timing import Spread
from torch import Tensor

from denoisers import MLPatch
from operators import Mask, Radon
from pnp.phantoms import head
from pnp.uncertainty import Bootstrap, bootstrap


def photograph(name: str, side: int) -> Tensor:
    """Return a photograph of scikit-image in [0, 1], (1, 1, side, side)."""
    pixels = skimage.util.img_as_float32(getattr(skimage.data, name)())
    return torch.from_numpy(skimage.transform.resize(pixels, (side, side), anti_aliasing=True)).float()[None, None]


def problems(side: int) -> Iterator[tuple[str, Any, Tensor, float]]:
    """Yield title, operator, truth and noise level."""
    camera, moon = (photograph(name, side) for name in ("camera", "moon"))

    def views(n: int, pixel_size: float = 1.0) -> Radon:
        return Radon((side, side), torch.arange(n) * math.pi / n, pixel_size=pixel_size)

    def one_percent(A: Any, x: Tensor) -> float:
        return 0.01 * float(A.A(x).square().mean().sqrt())

    yield "head, 180 views", views(180, 256 / side), head(side), 0.02
    yield "moon, 90 views", views(90), moon, one_percent(views(90), moon)
    yield "camera, 40 views", views(40), camera, one_percent(views(40), camera)
    mask = Mask(torch.rand(side, side, generator=torch.Generator().manual_seed(0)) < 0.4)
    yield "camera, 40 % of the pixels", mask, camera, 0.01


def structure(x: Tensor) -> dict[str, Tensor]:
    """Return masks of edges and of flat areas."""
    dy, dx = torch.gradient(x, dim=(-2, -1))
    size = torch.hypot(dy, dx)
    edges, flat = size.flatten().quantile(torch.tensor([0.9, 0.5]))
    return {"edges": size > edges, "flat": size <= flat}


def of_means(found: Bootstrap, x: Tensor, tile: int = 8) -> float:
    """Return how many means of tiles lie within 1.645 standard deviations."""
    inside = []
    for i in range(0, x.shape[-2], tile):
        for j in range(0, x.shape[-1], tile):
            mask = torch.zeros(x.shape[-2:])
            mask[i : i + tile, j : j + tile] = 1
            mean, std = found.region(mask)
            inside.append(abs(float(x[..., i : i + tile, j : j + tile].mean()) - mean) <= 1.645 * std)
    return sum(inside) / len(inside)


def rows(quick: bool) -> Iterator[Row]:
    """Yield the coverage of each problem."""
    network = MLPatch.from_pretrained("gray")
    options: dict[str, Any] = {"n": 10, "max_iter": 2} if quick else {"n": 24, "max_iter": 12}
    for title, A, x, noise_std in list(problems(32 if quick else 128))[: 1 if quick else None]:
        clean = A.A(x)
        y = clean + noise_std * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        y = torch.where(clean == 0, 0, y) if isinstance(A, Mask) else y
        kept = {"noise_std": noise_std, **options}
        found = bootstrap(A, y, network, **kept)
        plain = bootstrap(A, y, network, moves="none", hold_out=None, result=found.result, **kept)
        true = float((found.x - x).square().mean().sqrt() / found.samples.square().mean().sqrt())
        entries = {"parametric": plain, "equivariant, bare": found.bare, "equivariant, factor": found}
        entries["the same, pixel by pixel"] = replace(found, window=1)
        for who, bars in entries.items():
            for level in (0.5, 0.9):
                note = ", ".join(f"{k} {100 * bars.covered(x, level, m):.0f}" for k, m in structure(x).items())
                note += f", means {100 * of_means(bars, x):.0f}" if level == 0.9 else ""
                if bars is found:
                    note += f"; factor {found.factor:.2f} +- {found.factor_std:.2f}, true {true:.2f} ({found.hold_out})"
                aim = (">=", 85.0) if bars is found and level == 0.9 else None
                value = Spread((100 * bars.covered(x, level),))
                yield Row(f"{title}, {100 * level:.0f} %", who, value, "%", target=aim, note=note)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main("Error bars: pixels whose truth lies in the interval", {"coverage": rows})
