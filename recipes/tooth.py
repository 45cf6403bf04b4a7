"""Tooth: a measured scan from raw counts to a slice, with flats, darks, bad pixels and centre of rotation.

y = -log((counts - dark)/(flat - dark)) = A x + n, A the Radon transform with its axis at bin c; the size of a bin is
unknown, so that x is attenuation per bin. The measurements are a Data Exchange file (such as TomoPy's tooth.h5), or a
simulated scan with an axis off the middle, flats, darks and a dead pixel. As there is no truth for a measured object,
every method also reconstructs from the even views and predicts the odd ones. Settings depend on the counts alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from _common import data_range, parser, save, timed
from torch import Tensor

from denoisers import MLPatch
from operators import Radon
from pnp import LeastSquares, solve
from pnp.ct import find_centre, line_integrals, offset_from_centre, simulate_counts
from pnp.metrics import psnr
from pnp.phantoms import perforated_disc
from pnp.readers import CtScan, read_dxchange


def read(path: str) -> CtScan:
    """Read the first row of the detector only."""
    return read_dxchange(path, rows=slice(0, 1)).row(0)


p = parser(__doc__, image=None, reads=read, accepts="a scan, Data Exchange HDF5 (default: simulated)", strength=True)
p.add_argument("--size", type=int, default=None, help="side of the image in bins (default: that of the detector)")
args = p.parse_args()
max_iter = 4 if args.smoke else None

# Data: counts, flat and dark
truth = None
if args.input:
    scan, name = read(args.input), Path(args.input).stem
    if args.smoke:
        scan = scan.subset(slice(0, None, 4))
else:
    n, name = 64 if args.smoke else 640, "simulated"
    generator = torch.Generator().manual_seed(args.seed)
    truth = torch.nn.functional.pad(perforated_disc(n * 3 // 4, generator=generator), [n // 8] * 4)
    truth *= 2 / float(truth.sum(-1).max())  # line integrals up to 2, as in the tooth
    angles = np.arange(n // 2 - n // 4 + 1) * np.pi / (n // 4)
    beam = 2e4 * (1 + 0.1 * torch.rand(n, generator=generator))
    beam[n // 3] = 0  # a dead pixel
    clean = Radon((n, n), angles, n_detectors=n, offset=0.037 * n).A(truth)[0, 0]
    counts = simulate_counts(clean, beam, background=100.0, generator=generator).numpy()
    flat = simulate_counts(torch.zeros(10, n), beam, background=100.0, generator=generator).numpy()
    dark = simulate_counts(torch.zeros(10, n), 0.0, background=100.0, generator=generator).numpy()
    scan = CtScan(y=counts, angles=angles, kind="counts", flat=flat, dark=dark)

# From counts to line integrals, their noise, and the axis
record = line_integrals(scan)
centre = find_centre(record.y, scan.angles)
n_views, n_bins = record.y.shape
size = n_bins if args.size is None else args.size
print(f"{name}: {n_views} views of {n_bins} bins, {int(record.bad_pixels.sum())} bad pixels, axis at bin {centre:.2f}")


def make_operator(views: slice, *, centred: bool = True) -> Radon:
    offset = offset_from_centre(centre, n_bins) if centred else 0.0
    return Radon((size, size), scan.angles[views], n_detectors=n_bins, offset=offset).to(args.device)


def data(views: slice) -> tuple[Tensor, Tensor]:
    """Return line integrals and their noise, (1, 1, n_angles, n_detectors)."""
    y, noise_std = (t[..., views, :] for t in record.tensors(args.device))
    return y, noise_std


# Solve, from all views and from the even ones
D = MLPatch.from_pretrained(args.weights).to(args.device)
METHODS = ("FBP, axis at the middle", "FBP", "FBP, Hann window", "ADMM + MLPatch", "the same, rings modelled")


def reconstruct(method: str, views: slice) -> object:
    A, (y, noise_std) = make_operator(views, centred=method != METHODS[0]), data(views)
    if "FBP" in method:
        return A.fbp(y, window="hann") if "Hann" in method else A.fbp(y)
    rings = LeastSquares(bin_std="estimate", view_std="estimate") if "rings" in method else None
    options = {"bounds": (0.0, None), "strength": args.strength, "max_iter": max_iter, "progress": True}
    return solve(A, y, D, noise_std=noise_std, data_term=rings, **options)


every, even, odd = slice(None), slice(0, None, 2), slice(1, None, 2)
whole = [timed(method, lambda m=method: reconstruct(m, every)) for method in METHODS]
half = [timed(method, lambda m=method: reconstruct(m, even)) for method in METHODS]


# Numbers that need no truth
def distance(entry: object, views: slice) -> tuple[float, float]:
    """Return the distance of A x from y on measured rays: rms in noise levels, and relative to y.

    Errors of bins are part of what is predicted: each odd view has those of the even view before it.
    """
    y, noise_std = data(views)
    seen = noise_std.isfinite()
    errors = getattr(entry.result, "common_errors", None)
    common = 0.0 if errors is None else errors[:, :, : y.shape[2]]
    r = (make_operator(views, centred=entry.name != METHODS[0]).A(entry.image) + common - y)[seen]
    return float((r / noise_std[seen]).square().mean().sqrt()), float(r.norm() / y[seen].norm())


def flattest(x: Tensor, side: int) -> tuple[slice, slice]:
    """Return the window of dense material with the least variance in x."""
    mean = torch.nn.functional.avg_pool2d(x, side, 1)[0, 0]
    variance = torch.nn.functional.avg_pool2d(x**2, side, 1)[0, 0] - mean**2
    i, j = divmod(int(torch.where(mean > 0.5 * mean.max(), variance, torch.inf).argmin()), mean.shape[1])
    return slice(i, i + side), slice(j, j + side)


window = flattest(whole[2].image, max(4, size // 32))
y, noise_std = data(odd)
seen = noise_std.isfinite()
floor = float(noise_std[seen].norm() / y[seen].norm())
print(f"odd views predicted from the even ones; the noise of the counts alone gives {100 * floor:.2f} %")
panels = {} if truth is None else {"truth": truth}
for entry, from_even in zip(whole, half, strict=True):
    x, flat_part = entry.image, entry.image[0, 0][window]
    misfit, error = distance(entry, every)[0], distance(from_even, odd)[1]
    against = "" if truth is None or size != n_bins else f"PSNR {psnr(x, truth, data_range=data_range(truth)):6.2f} dB"
    print(
        f"{entry.name:24s} misfit {misfit:6.2f}   odd views {100 * error:6.2f} %   "
        f"flat region {100 * float(flat_part.std() / flat_part.mean()):5.2f} %   {entry.seconds:6.2f} s   {against}"
    )
    panels[f"{entry.name}\nodd views {100 * error:.2f} %"] = x

# Figure and files; the figure shows the object with a small margin
best = whole[-1].image[0, 0]
rows, columns = ((best > 0.25 * best.max()).any(axis).nonzero() for axis in (1, 0))
part = tuple(slice(max(0, int(i.min()) - size // 32), int(i.max()) + size // 32) for i in (rows, columns))
save(
    args,
    {title: x[0, 0][part] for title, x in panels.items()},
    whole[-1].result,
    truth,
    operator="radon",
    parameters={"shape": (size, size), "angles": scan.angles, "offset": offset_from_centre(centre, n_bins)},
    denoiser="mlpatch:gray",
    title=f"From counts to a slice: {name}, axis at bin {centre:.1f}",
    limits=(0.0, float(best.quantile(0.998))),
    label="attenuation per bin",
)
