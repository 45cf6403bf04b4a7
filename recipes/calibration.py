"""Calibration: correct a scan whose angles are off by 2 degrees and whose detector has shifted, from its own views.

y = A(angles, offset) x + n, A the Radon transform of an image in 1/mm. The assumed geometry, evenly spaced angles and a
centred detector, is wrong. `pnp.ct.calibrate` finds angles and offset from y, without and with MLPatch as a prior. A
common rotation of all views cannot be measured and is removed before angles and images are compared. Images are
reconstructed with the assumed, the calibrated and the true geometry, by plug-and-play ADMM with MLPatch and by filtered
back-projection.
"""

from __future__ import annotations

import math

import torch
from _common import data_range, parser, save, timed
from torch import Tensor

from denoisers import MLPatch
from operators import Radon
from pnp import solve
from pnp.ct import calibrate
from pnp.metrics import psnr, ssim
from pnp.phantoms import chest, head, perforated_disc

BUILT_IN = {"head": head, "chest": chest, "disc": perforated_disc}

p = parser(__doc__, image=None)
p.add_argument("--image", choices=BUILT_IN, default="disc", help="built-in image")
p.add_argument("--size", type=int, default=128, help="side of the built-in image in pixels")
p.add_argument("--views", type=int, default=120, help="number of angles over half a turn")
p.add_argument("--jitter", type=float, default=2.0, help="root mean square error of the angles in degrees")
p.add_argument("--shift", type=float, default=2.5, help="shift of the detector in bins")
p.add_argument("--snr", type=float, default=40.0, help="signal-to-noise ratio of the sinogram in dB")
args = p.parse_args()
size, views = (32, 24) if args.smoke else (args.size, args.views)
max_iter = 4 if args.smoke else None

# Data: an image 200 mm wide
generator = torch.Generator().manual_seed(args.seed)
truth = BUILT_IN[args.image](size, generator=generator).to(args.device)
pixel_size = 200 / size
shift = args.shift * pixel_size
evenly = torch.arange(views, dtype=torch.float64) * (math.pi / views)
jitter = math.radians(args.jitter) * torch.randn(views, generator=generator, dtype=torch.float64)
true = evenly + jitter


# Operator
def make_operator(angles: Tensor, offset: Tensor | float) -> Radon:
    n_detectors = math.ceil(1.5 * size) + 2 * math.ceil(abs(args.shift))
    geometry = {"n_detectors": n_detectors, "pitch": pixel_size, "pixel_size": pixel_size}
    return Radon((size, size), angles, offset=offset, **geometry).to(args.device)


# Measurements
clean = make_operator(true, shift).A(truth)
noise_std = float(clean.square().mean().sqrt()) * 10 ** (-args.snr / 20)
y = clean + noise_std * torch.randn(clean.shape, generator=generator).to(args.device)
print(
    f"{args.image} {size} x {size}, {views} views, angles off by {math.degrees(float(jitter.std())):.2f} degrees, "
    f"detector by {args.shift:g} bins, {args.snr:g} dB"
)


def error_deg(angles: Tensor) -> Tensor:
    """Return the error of each view in degrees, without the rotation common to all views."""
    change = angles.cpu() - true
    return torch.rad2deg(change - change.mean())


def rms_deg(angles: Tensor) -> float:
    return float(error_deg(angles).square().mean().sqrt())


def unturned(angles: Tensor) -> Tensor:
    """Return the angles in the frame of the true image."""
    return angles.cpu() - (angles.cpu() - true).mean()


def bars(error: Tensor) -> Tensor:
    """Return a picture of the errors, one bar per view, up to 6 degrees up and down."""
    error = error[(torch.arange(size) * views) // size]
    level = torch.linspace(6, -6, size)[:, None]
    return peak * ((level * error > 0) & (level.abs() <= error.abs())).float()


# Calibrate
D = MLPatch.from_pretrained(args.weights).to(args.device)
options = {"bounds": (0.0, None), "max_iter": max_iter, "progress": True}
calibration_options = options | {"max_iter": 31 if args.smoke else None}  # the denoiser is used from iteration 31 on
for name, denoiser in (("views alone", None), ("with MLPatch", D)):
    found = timed(
        name, lambda denoiser=denoiser: calibrate(make_operator, y, evenly, denoiser=denoiser, **calibration_options)
    )
    calibration = found.result
    print(
        f"{name}: angles off by {rms_deg(calibration.angles):.3f} degrees (before {rms_deg(evenly):.3f}), detector by "
        f"{abs(calibration.offset - shift) / pixel_size:.4f} bins (before {args.shift:g}), {found.seconds:.1f} s"
    )

# Solve, with each geometry
peak = data_range(truth)
panels = {"truth": truth}
geometries = {
    "assumed": (unturned(evenly), 0.0),
    "calibrated": (unturned(calibration.angles), calibration.offset),
    "true": (true, shift),
}
for name, (angles, offset) in geometries.items():
    A = make_operator(angles, offset)
    for entry in (
        timed("FBP, Hann window", lambda A=A: A.fbp(y, window="hann")),
        timed("ADMM + MLPatch", lambda A=A: solve(A, y, D, noise_std=noise_std, **options)),
    ):
        q, s = (metric(entry.image, truth, data_range=peak) for metric in (psnr, ssim))
        print(f"{name:10s} {entry.name:18s} PSNR {q:6.2f} dB   SSIM {s:6.4f}   {entry.seconds:6.2f} s")
        if name != "true" or entry.name != "FBP, Hann window":
            panels[f"{name}: {entry.name}\n{q:.2f} dB"] = entry.image
    if name == "assumed":
        panels[f"error of each view, +-6 degrees\n{rms_deg(angles):.2f} degrees rms"] = bars(error_deg(angles))
    if name == "calibrated":
        result = entry.result
panels[f"error of each view, +-6 degrees\n{rms_deg(calibration.angles):.2f} degrees rms"] = bars(
    error_deg(calibration.angles)
)

# Figure and files
save(
    args,
    panels,
    result,
    truth,
    operator="radon",
    parameters={
        "shape": (size, size),
        "angles": calibration.angles,
        "offset": calibration.offset,
        "pitch": pixel_size,
        "pixel_size": pixel_size,
    },
    denoiser="mlpatch:gray",
    title=f"Calibration: angles off by {args.jitter:g} degrees, detector by {args.shift:g} bins, {args.snr:g} dB",
    limits=(0.015, 0.03) if args.image == "head" else (0.0, peak),
    label="attenuation (1/mm)",
)
