"""Interior scans: the error in the middle of objects that reach beyond the detector, for FBP and `solve`.

Phantoms of 128 x 128 pixels, 180 parallel views, largest line integral near 3, noise 0.005. Errors are those of the
mean over the middle half of the field of view, in percent. Notes give the misfit and the uncertainty that the verdict
says.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from report import Row, main
from timing import Spread
from torch import Tensor

from denoisers import TV, MLPatch
from operators import Radon
from pnp import solve
from pnp.phantoms import chest, head, perforated_disc

NOISE = 0.005


def scan(x: Tensor, width: float, views: int) -> tuple[Radon, Tensor]:
    """Return the operator of a detector that has this share of the image's width, and noisy y."""
    size = x.shape[-1]
    A = Radon((size, size), np.arange(views) * np.pi / views, n_detectors=round(width * size))
    y = A.A(x)
    return A, y + NOISE * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))


def error(found: Tensor, x: Tensor, n: int) -> Spread:
    """Return the error of the mean over the middle half of a field of view of n pixels, in percent."""
    middle = slice(x.shape[-1] // 2 - n // 4, x.shape[-1] // 2 + n // 4)
    return Spread((100 * float(found[..., middle, middle].mean() / x[..., middle, middle].mean() - 1),))


def rows(quick: bool) -> Iterator[Row]:
    """Yield the errors of three phantoms on detectors of three quarters and of half their image's width."""
    size, views = (32, 30) if quick else (128, 180)
    network = MLPatch.from_pretrained("gray")
    for name, phantom in (("head", head), ("chest", chest), ("disc", perforated_disc)):
        x = phantom(size)
        x = 3 * x / float(x.sum(-1).max())
        for width in (0.75, 0.5):
            A, y = scan(x, width, views)
            n, title = A.n_detectors, f"{name}, {A.n_detectors} of {size} bins"
            yield Row(title, "FBP, beyond the detector 0", error(A.fbp(y, extend=False), x, n), "%")
            yield Row(title, "FBP", error(A.fbp(y), x, n), "%")
            for who, denoiser in (("TV", TV()), ("MLPatch", network)):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result = solve(A, y, denoiser, noise_std=NOISE, bounds=(0, None))
                said = re.findall(r"of about (\d+ ?%)", " ".join(result.warnings))
                note = f"misfit {result.misfit:.2g}; uncertain by {said[0] if said else '?'}"
                yield Row(title, f"solve, {who}", error(result.x, x, n), "%", note=note)


if __name__ == "__main__":
    main("Truncation: errors in the middle of objects that reach beyond the detector", {"phantoms": rows})
