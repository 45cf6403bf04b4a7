"""What a few bad measurements cost, and what leaving them out gets back: unasked, and with `LeastSquares(robust=True)`.

A head of 128 x 128 pixels in 180 views with noise of 0.02, and the cameraman blurred, masked and as it is: clean, with
samples replaced by -1, a bin that does not respond, saturated, with hot pixels, with salt and pepper. PSNR in dB for
the truth's largest value: FBP with a Hann window where there is one, with all measurements kept (robust=False), `solve`
as it is, robust, and with infinite noise where the bad measurements are. Times are those of the same solves against
that of the clean measurements with all kept, in turns. Of clean measurements nothing is rejected, and less than 0.02 dB
and 5 % of the time is lost.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from report import Row, main
from skimage import data
from timing import Spread, interleaved
from torch import Tensor
from torch.nn.functional import avg_pool2d

from denoisers import MLPatch
from operators import Blur, Identity, Mask, Radon, gaussian_kernel
from pnp import LeastSquares, solve
from pnp.metrics import psnr
from pnp.phantoms import head

NOISE = 0.02
Damage = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class Problem(NamedTuple):
    """An operator, a truth, its clean measurements, and which of them are measured at all."""

    operator: Any
    x: Tensor
    y: Tensor
    measured: Tensor


@cache
def denoiser() -> MLPatch:
    """Return MLPatch with the weights that come with the package."""
    return MLPatch.from_pretrained("gray")


def ct(side: int) -> Problem:
    """Return the head in 180 views; a pixel is 256/side mm wide."""
    x = head(side)
    angles = torch.arange(180 if side > 64 else 40)
    return measure(Radon((side, side), angles * (math.pi / len(angles)), pixel_size=256 / side), x)


def photograph(operator: Callable[[tuple[int, int]], Any], side: int) -> Problem:
    """Return the cameraman's centre, averaged over 2 x 2 pixels, as an operator sees it."""
    first = (512 - 2 * side) // 2
    picture = torch.from_numpy(data.camera()[first : first + 2 * side, first : first + 2 * side].copy())
    return measure(operator((side, side)), avg_pool2d(picture.float()[None, None] / 255, 2))


def measure(operator: Any, x: Tensor) -> Problem:
    """Return measurements with white noise."""
    y = operator.A(x)
    y = y + NOISE * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    measured = torch.ones_like(y, dtype=torch.bool)
    if isinstance(operator, Mask):
        y, measured = operator.A(y), operator.A(torch.ones_like(x)) > 0
    return Problem(operator, x, y, measured)


# ---------------------------------------------------------------- damage


def replaced(value: float, n: int) -> Damage:
    """Return a damage that puts a value in n samples."""

    def damage(y: Tensor, measured: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        where = measured.flatten().nonzero()[:, 0]
        bad = torch.zeros(y.numel(), dtype=torch.bool)
        bad[where[torch.randperm(len(where), generator=g)[:n]]] = True
        bad = bad.reshape(y.shape)
        return torch.where(bad, value, y), bad

    return damage


def unresponsive_bin(y: Tensor, measured: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """One detector bin holds its own mean in all views."""
    n = y.shape[-1] // 3
    bad = torch.zeros_like(measured)
    bad[..., n] = True
    return torch.where(bad, y[..., n].mean(), y), bad


def saturated(y: Tensor, measured: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """The highest 2 % hold one value."""
    highest = y[measured].quantile(0.98)
    return y.clamp(max=float(highest)), (y > highest) & measured


def salt_and_pepper(fraction: float) -> Damage:
    """Return a damage that puts 0 or 1 in a fraction of the samples."""

    def damage(y: Tensor, measured: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        bad = (torch.rand(y.shape, generator=g) < fraction) & measured
        return torch.where(bad, (torch.rand(y.shape, generator=g) < 0.5).to(y.dtype), y), bad

    return damage


def clean(y: Tensor, measured: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Nothing is wrong."""
    return y, torch.zeros_like(measured)


OF_SINOGRAMS: dict[str, Damage] = {
    "clean": clean,
    "1 sample -1": replaced(-1.0, 1),
    "12 samples -1": replaced(-1.0, 12),
    "40 samples -1": replaced(-1.0, 40),
    "200 samples -1": replaced(-1.0, 200),
    "an unresponsive bin": unresponsive_bin,
    "2 % saturated": saturated,
}
OF_IMAGES: dict[str, Damage] = {
    "clean": clean,
    "20 hot pixels": replaced(2.0, 20),
    "5 % salt and pepper": salt_and_pepper(0.05),
    "2 % saturated": saturated,
}


# ---------------------------------------------------------------- rows


def rows(problem: Problem, name: str, damages: dict[str, Damage], quick: bool) -> Iterator[Row]:
    """Yield the PSNR of all methods for each damage, what was rejected, and the time."""
    A, x, y, measured = problem
    peak = float(x.max())
    plain = partial(solve, A, denoiser=denoiser(), noise_std=NOISE)
    kept, robust = (partial(plain, data_term=LeastSquares(robust=choice)) for choice in (False, True))
    for what, damage in list(damages.items())[: 2 if quick else None]:
        damaged, bad = damage(y, measured, torch.Generator().manual_seed(1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {"all kept": kept(damaged), "default": plain(damaged), "robust": robust(damaged)}
            if bad.any():
                by_hand = torch.where(bad, math.inf, NOISE)
                found["marked by hand"] = solve(A, damaged, denoiser(), noise_std=by_hand)
            calls = {"clean": partial(kept, y), "default": partial(plain, damaged), "robust": partial(robust, damaged)}
            times = interleaved(calls, rounds=1 if quick else 3 if bad.any() else 7)
        title = f"{name}, {what}"
        quality = {who: float(psnr(result.x, x, data_range=peak)) for who, result in found.items()}
        if hasattr(A, "fbp"):
            yield Row(title, "FBP", Spread((float(psnr(A.fbp(damaged, window="hann"), x, data_range=peak)),)), "dB")
        notes = {"all kept": f"misfit {found['all kept'].misfit:.3g}; {_said(found['all kept'])}"}
        for who in ("default", "robust"):
            rejected = torch.zeros_like(bad) if found[who].rejected is None else found[who].rejected
            hit, false = int((rejected & bad).sum()), int((rejected & ~bad).sum())
            notes[who] = f"{hit} of {int(bad.sum())} bad ones rejected and {false} others; {_said(found[who])}"
        for who, value in quality.items():
            yield Row(title, who, Spread((value,)), "dB", note=notes.get(who, ""))
        for who in ("default", "robust"):
            ratio, note = times[who] / times["clean"], f"ratio: {who} / solve of clean y with all kept"
            target = None if bad.any() else ("<=", 1.05)
            yield Row(f"time, {title}", who, times[who], ratio=ratio, target=target, note=note)
        if not bad.any():
            lost = Spread((quality["all kept"] - quality["robust"],))
            yield Row(f"lost, {title}", "robust", lost, "dB", target=("<=", 0.02))
            yield Row(f"rejected, {title}", "robust", Spread((false,)), "", target=("<=", 0))


def _said(result: Any) -> str:
    """Return the first words of the warnings."""
    return "warned: " + "; ".join(said[:60] for said in result.warnings) if result.warnings else "no warning"


def most_pixels(shape: tuple[int, int]) -> Mask:
    """Return a mask that keeps 70 % of the pixels."""
    return Mask(torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.7)


IMAGING: dict[str, Callable[[tuple[int, int]], Any]] = {
    "Blur, 1.5 pixels": lambda shape: Blur(gaussian_kernel(1.5), shape, "reflect"),
    "Mask, 70 %": most_pixels,
    "Identity": Identity,
}


def sinograms(quick: bool) -> Iterator[Row]:
    """Yield the rows of tomography."""
    yield from rows(ct(32 if quick else 128), "head", OF_SINOGRAMS, quick)


def images(quick: bool) -> Iterator[Row]:
    """Yield the rows of measured images."""
    for name, operator in list(IMAGING.items())[: 2 if quick else None]:
        yield from rows(photograph(operator, 32 if quick else 128), name, OF_IMAGES, quick)


if __name__ == "__main__":
    main("Outliers: what they cost, and what robust=True gets back", {"ct": sinograms, "images": images})
