"""`solve(strength="auto")` against the default and against the best strength and number of iterations by truth.

128 x 128 pixels: a head in 180 views with 2 % noise, a camera in 40 views at 40 dB and at 25 dB, the camera blurred,
with 40 % of its pixels, from 30 % random codes, and from 30 % of k-space. PSNR in dB for the truth's largest value. The
grid has strengths of 0.3, 1, 3 and 10 and 8, 12 and 24 iterations. The denoiser's calls are counted: what "auto" costs.

Aims: nowhere more than 0.1 dB below the default, and 1.5 dB above it for the head.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from report import Row, main
from timing import Spread
from torch import Tensor

from denoisers import MLPatch
from operators import Blur, Mask, Radon
from pnp import solve
from pnp.interop import operator_from_functions
from pnp.metrics import psnr
from pnp.phantoms import head

STRENGTHS, ITERATIONS = (0.3, 1.0, 3.0, 10.0), (8, 12, 24)
Problem = tuple[Any, Tensor, float]
"""Operator, measurements without noise, standard deviation of the noise."""


class Counted:
    """MLPatch, with the number of images it denoised."""

    def __init__(self) -> None:
        self.n, self.denoiser = 0, network()
        self.sigma_range = getattr(self.denoiser, "sigma_range", (0.0, math.inf))

    def __call__(self, x: Tensor, sigma: Any) -> Tensor:
        """Return the denoised images."""
        self.n += len(x)
        found: Tensor = self.denoiser(x, sigma)
        return found


@cache
def network() -> MLPatch:
    """Return MLPatch with the weights that come with the package."""
    return MLPatch.from_pretrained("gray")


@cache
def camera(side: int) -> Tensor:
    """Return scikit-image's camera, a photograph."""
    from skimage.data import camera as photograph
    from skimage.transform import resize

    small = resize(photograph(), (side, side), anti_aliasing=True)
    return torch.from_numpy(small).float()[None, None]


def views(n: int) -> Tensor:
    return torch.arange(n) * (math.pi / n)


def of_decibels(A: Any, x: Tensor, decibels: float) -> Problem:
    """Return a problem with noise so many decibels below the measurements' root mean square."""
    y = A.A(x)
    return A, y, float(y.square().mean().sqrt()) * 10 ** (-decibels / 20)


def head_180(x: Tensor) -> Problem:
    A = Radon(tuple(x.shape[-2:]), views(180), pixel_size=256 / x.shape[-1])
    return A, A.A(x), 0.02


def camera_40(x: Tensor) -> Problem:
    return of_decibels(Radon(tuple(x.shape[-2:]), views(40)), x, 40)


def camera_noisy(x: Tensor) -> Problem:
    return of_decibels(Radon(tuple(x.shape[-2:]), views(40)), x, 25)


def inpainting(x: Tensor) -> Problem:
    A = Mask((torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.4).float())
    return A, A.A(x), 0.02


def deblurring(x: Tensor) -> Problem:
    line = torch.exp(-(torch.arange(-6, 7.0) ** 2) / (2 * 1.6**2))
    A = Blur(torch.outer(line, line) / line.sum() ** 2, tuple(x.shape[-2:]))
    return A, A.A(x), 0.01


def codes(x: Tensor) -> Problem:
    """Three tenths of a Hartley transform of the image with random signs."""
    g = torch.Generator().manual_seed(2)
    signs = (torch.randint(0, 2, x.shape, generator=g) * 2 - 1).float()
    kept = torch.randperm(x.numel(), generator=g)[: x.numel() * 3 // 10]

    def hartley(v: Tensor) -> Tensor:
        f = torch.fft.fft2(v, norm="ortho")
        return f.real - f.imag

    def back(y: Tensor) -> Tensor:
        full = torch.zeros(len(y), x.numel(), dtype=y.dtype)
        full[:, kept] = y
        return signs * hartley(full.reshape(-1, *x.shape[1:]))

    A = operator_from_functions(lambda z: hartley(signs * z).flatten(1)[:, kept], back)
    return A, A.A(x), 0.02


def k_space(x: Tensor) -> Problem:
    """Rows of k-space: the middle tenth, and a fifth of the others."""
    n = x.shape[-1]
    rows = torch.rand(n, generator=torch.Generator().manual_seed(3)) < 0.2
    kept = torch.where(rows | (torch.fft.fftfreq(n).abs() < 0.05))[0]

    def back(y: Tensor) -> Tensor:
        full = torch.zeros(len(y), 1, n, n, dtype=y.dtype)
        full[:, :, kept] = y
        return torch.fft.ifft2(full, norm="ortho").real

    A = operator_from_functions(lambda z: torch.fft.fft2(z + 0j, norm="ortho")[:, :, kept], back)
    return A, A.A(x), 0.02


PROBLEMS: dict[str, tuple[Callable[[int], Tensor], Callable[[Tensor], Problem], float]] = {
    "head, 180 views": (head, head_180, 1.5),
    "camera, 40 views, 40 dB": (camera, camera_40, -0.1),
    "camera, 40 views, 25 dB": (camera, camera_noisy, -0.1),
    "inpainting, 40 %": (camera, inpainting, -0.1),
    "deblurring": (camera, deblurring, -0.1),
    "random codes, 30 %": (camera, codes, -0.1),
    "k-space": (camera, k_space, -0.1),
}
"""Image, problem, and what "auto" should gain over the default in dB, at least."""


def compared(quick: bool) -> Iterator[Row]:
    """Yield the PSNR and the denoiser's calls of the default, of "auto" and of the best of the grid."""
    side = 32 if quick else 128
    for name, (image, problem, aim) in list(PROBLEMS.items())[: 2 if quick else None]:
        x = image(side)
        A, y, std = problem(x)
        y = y + std * torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)

        def run(A: Any = A, y: Tensor = y, std: float = std, x: Tensor = x, **options: Any) -> tuple[Any, float, int]:
            D = Counted()
            result = solve(A, y, D, noise_std=std, **options)
            return result, psnr(result.x, x, data_range=float(x.max())), D.n

        _, usual, calls = run()
        yield Row(name, "default", Spread((usual,)), unit="dB", note=f"{calls} calls of the denoiser")
        result, auto, calls = run(strength="auto")
        note = f"{calls} calls; strength {result.strength:.2g}, {result.n_iter} iterations; {result.strength_source}"
        aimed = None if quick else (">=", usual + aim)
        yield Row(name, "auto", Spread((auto,)), unit="dB", target=aimed, note=note)
        grid = [(s, k) for s in STRENGTHS for k in ITERATIONS][: 1 if quick else None]
        best, s, k = max((run(strength=s, max_iter=k)[1], s, k) for s, k in grid)
        yield Row(name, "best of the grid", Spread((best,)), unit="dB", note=f"strength {s:g}, {k} iterations")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main('strength="auto": held-out measurements against the truth', {"problems": compared})
