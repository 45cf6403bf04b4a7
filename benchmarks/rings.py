"""Rings: no filter, each stripe filter of algotom, and bin errors in the noise model, for FBP and for `solve`.

Simulated scans of 2e4 photons a bin, 180 views of 128 bins: a head, clean, with 12 bins off by 2 %, all off by 0.5 %, a
stripe of 15 % in a third of the views, and a bin that does not respond; and an object of discs about the axis, whose
rings are real, clean and with 12 bins off. PSNR in dB for the truth's largest value; for the discs also the error of
the mean over circles, the profile, over its largest value. A real scan (tomobank's tooth, Data Exchange): odd views
predicted from a reconstruction of the even ones, relative to their root mean square, where TOOTH names the file.

Filters have windows that fit the number of bins. Aims for the noise model, `LeastSquares(bin_std="estimate")`: 0.3 dB
of the clean scan with bins that are off in all views, 1 dB with a partial stripe, a profile no worse than without, and
odd views to 1.40 %.
"""

from __future__ import annotations

import importlib.util
import math
import os
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from report import Row, main
from timing import Spread
from torch import Tensor

from denoisers import MLPatch
from operators import Radon
from pnp import LeastSquares, solve
from pnp.ct import find_centre, line_integrals, offset_from_centre, remove_stripes, simulate_counts
from pnp.metrics import psnr
from pnp.phantoms import head

PHOTONS = 2e4
HAS_ALGOTOM = importlib.util.find_spec("algotom") is not None
Array = npt.NDArray[Any]
Damage = Callable[[Array, Array, np.random.Generator], Array]


class Scan(NamedTuple):
    """Measurements of an operator, and the truth."""

    operator: Radon
    x: Tensor
    counts: Array
    flat: Array


@cache
def denoiser() -> MLPatch:
    """Return MLPatch with the weights that come with the package."""
    return MLPatch.from_pretrained("gray")


def filters(bins: int) -> dict[str, dict[str, Any]]:
    """Return algotom's filters with windows that fit a detector of some bins."""
    narrow, wide = (max(least, bins // part // 2 * 2 + 1) for least, part in ((5, 40), (9, 15)))
    return {
        "sorting": {"size": narrow},
        "filtering": {"size": narrow},
        "fitting": {},
        "large": {"size": wide},
        "dead": {"size": wide},
        "all": {"la_size": wide, "sm_size": narrow},
        "wavelet-fft": {"level": max(1, int(math.log2(bins)) - 5)},
        "fft": {},
    }


# ---------------------------------------------------------------- scans


def discs(side: int) -> Tensor:
    """Return discs about the axis, with thin shells: everything in it is a ring."""
    fine = 4
    t = (torch.arange(side * fine) - (side * fine - 1) / 2) / (side * fine / 2)
    r = torch.hypot(t[:, None], t)
    x = 1.0 * (r < 0.8) - 0.5 * (r < 0.5) + 0.3 * (r < 0.2)
    for radius in (0.1, 0.3, 0.6, 0.7):
        x = x + 0.4 * ((r - radius).abs() < 1.0 / side)
    return x.reshape(side, fine, side, fine).mean((1, 3))[None, None]


def simulated(x: Tensor) -> Scan:
    """Return counts of an image whose largest line integral is about 2."""
    side = x.shape[-1]
    x = x / float(x.sum(-1).max()) * 2
    A = Radon((side, side), torch.arange(180) * (math.pi / 180), n_detectors=side)
    g = torch.Generator().manual_seed(0)
    counts = simulate_counts(A.A(x)[0, 0], PHOTONS, generator=g).numpy()
    return Scan(A, x, counts, simulate_counts(torch.zeros(10, side), PHOTONS, generator=g).numpy())


def clean(counts: Array, flat: Array, rng: np.random.Generator) -> Array:
    """Nothing is wrong."""
    return counts


def some_gains(counts: Array, flat: Array, rng: np.random.Generator) -> Array:
    """12 bins of 128 are off by 2 %."""
    gain, n = np.ones(counts.shape[-1]), max(1, 12 * counts.shape[-1] // 128)
    gain[rng.choice(len(gain), n, replace=False)] += 0.02 * rng.standard_normal(n)
    return counts * gain


def all_gains(counts: Array, flat: Array, rng: np.random.Generator) -> Array:
    """All bins are off by 0.5 %."""
    return counts * (1 + 0.005 * rng.standard_normal(counts.shape[-1]))


def partial_stripe(counts: Array, flat: Array, rng: np.random.Generator) -> Array:
    """One bin is off by 15 % in a third of the views."""
    out = counts.copy()
    out[60:120, 40 * out.shape[-1] // 128] *= 1.15
    return out


def unresponsive(counts: Array, flat: Array, rng: np.random.Generator) -> Array:
    """One bin holds one value."""
    out, k = counts.copy(), 50 * counts.shape[-1] // 128
    out[:, k] = 0.7 * flat[:, k].mean()
    return out


DAMAGES: dict[str, tuple[Damage, float]] = {
    "clean": (clean, 0.3),
    "12 bins off by 2 %": (some_gains, 0.3),
    "all bins off by 0.5 %": (all_gains, 0.3),
    "a partial stripe of 15 %": (partial_stripe, 1.0),
    "an unresponsive bin": (unresponsive, 0.3),
}
"""Damages, and what the noise model may lose, in dB."""

# ---------------------------------------------------------------- methods


def reconstructions(A: Radon, y: Tensor, noise_std: Tensor, quick: bool) -> Iterator[tuple[str, Tensor | str, Any]]:
    """Yield names of methods with their images, or the reason why there is none, and the errors of bins, else 0."""

    def solved(values: Tensor, **data_term: Any) -> tuple[Tensor, Any]:
        options: dict[str, Any] = {"data_term": LeastSquares(**data_term), "max_iter": 3 if quick else None}
        found = solve(A, values, denoiser(), noise_std=noise_std, bounds=(0, None), **options)
        return found.x, 0.0 if found.common_errors is None else found.common_errors

    tried: dict[str, Tensor | str] = {"no filter": y}
    for method, options in list(filters(A.n_detectors).items() if HAS_ALGOTOM else [])[: 2 if quick else None]:
        try:
            tried[method] = remove_stripes(y, method, **options)
        except ValueError as error:
            tried[method] = str(error)
    for name, values in tried.items():
        yield f"FBP, {name}", values if isinstance(values, str) else A.fbp(values, window="hann"), 0.0
    for name, values in tried.items():
        yield f"solve, {name}", *((values, 0.0) if isinstance(values, str) else solved(values))
    yield "solve, bin_std", *solved(y, bin_std="estimate")


def measured(scan: Scan, damage: Damage) -> tuple[Tensor, Tensor]:
    """Return line integrals and noise of damaged counts."""
    counts = damage(scan.counts, scan.flat, np.random.default_rng(1))
    return line_integrals(counts.astype(np.float32), scan.flat).tensors()


# ---------------------------------------------------------------- rows


def heads(quick: bool) -> Iterator[Row]:
    """Yield the PSNR of the head for each damage."""
    scan = simulated(head(32 if quick else 128))
    best = 0.0
    for title, (damage, allowed) in list(DAMAGES.items())[: 2 if quick else None]:
        found = {}
        for who, x, _ in reconstructions(scan.operator, *measured(scan, damage), quick):
            if isinstance(x, str):
                yield Row(f"head, {title}", who, None, "dB", note=x)
                continue
            found[who] = _psnr(x, scan)
            yield Row(f"head, {title}", who, Spread((found[who],)), "dB")
        best = found["solve, no filter"] if damage is clean else best
        lost = Spread((best - found["solve, bin_std"],))
        yield Row(f"lost, head, {title}", "solve, bin_std", lost, "dB", target=("<=", allowed))


def circles(quick: bool) -> Iterator[Row]:
    """Yield PSNR and error of the profile of the discs about the axis."""
    scan = simulated(discs(32 if quick else 128))
    for title in list(DAMAGES)[:2]:
        errors = {}
        for who, x, _ in reconstructions(scan.operator, *measured(scan, DAMAGES[title][0]), quick):
            if isinstance(x, str):
                yield Row(f"discs, {title}", who, None, "dB", note=x)
                continue
            errors[who] = 100 * _profile_error(x, scan.x)
            yield Row(
                f"discs, {title}", who, Spread((_psnr(x, scan),)), "dB", note=f"profile off by {errors[who]:.2f} %"
            )
        ratio = Spread((errors["solve, bin_std"] / errors["solve, no filter"],))
        note = "error / that of none"
        yield Row(f"profile, discs, {title}", "solve, bin_std", ratio, "", target=("<=", 1.1), note=note)


def tooth(quick: bool) -> Iterator[Row]:
    """Yield how well odd views of a real scan are predicted from the even ones."""
    path = os.environ.get("TOOTH", "")
    if not Path(path).is_file():
        return
    from pnp.readers import read_dxchange

    scan = read_dxchange(path, rows=slice(0, 1)).row(0)
    scan = scan.binned(10) if quick else scan
    y, noise_std = line_integrals(scan).tensors()
    n = y.shape[-1]
    offset = offset_from_centre(find_centre(y, scan.angles), n)
    even, odd = (Radon((n, n), scan.angles[k::2], n_detectors=n, offset=offset) for k in (0, 1))
    seen, target = noise_std[..., 1::2, :].isfinite(), y[..., 1::2, :]
    level = float(target[seen].square().mean().sqrt())
    own = Spread((100 * float(noise_std[..., 1::2, :][seen].square().mean().sqrt()) / level,))
    yield Row("tooth, odd views", "noise of the counts", own, "%")
    for who, x, errors in reconstructions(
        even, y[..., ::2, :].contiguous(), noise_std[..., ::2, :].contiguous(), quick
    ):
        if isinstance(x, str):
            yield Row("tooth, odd views", who, None, "%", note=x)
            continue
        # The errors of bins are predicted, too: each odd view has those of the even view before it.
        missed = target - odd.A(x)
        common = errors[:, :, : target.shape[2]] if isinstance(errors, Tensor) else 0.0
        error = Spread((100 * float((missed - common)[seen].square().mean().sqrt()) / level,))
        aim = ("<=", 1.40) if who == "solve, bin_std" else None
        yield Row("tooth, odd views", who, error, "%", target=aim)


def _psnr(x: Tensor, scan: Scan) -> float:
    return float(psnr(x, scan.x, data_range=float(scan.x.max())))


def _profile_error(x: Tensor, truth: Tensor) -> float:
    """Return the root mean square error of means over circles a pixel wide, over the truth's largest value."""
    t = torch.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2
    ring = torch.hypot(t[:, None], t).round().long().flatten()
    inside = ring < x.shape[-1] // 2
    n = torch.bincount(ring[inside])
    difference = torch.bincount(ring[inside], (x - truth).flatten()[inside].double()) / n
    return float(difference[n > 0].square().mean().sqrt() / truth.max())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(
        "Rings: stripe filters against bin errors in the noise model", {"head": heads, "discs": circles, "tooth": tooth}
    )
