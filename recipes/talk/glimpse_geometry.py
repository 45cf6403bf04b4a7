"""GLIMPSE trained with wrong angles recovers the scan's geometry from the training pairs.

    jitter   every angle is believed to be where it is not: normal, 2 degrees
    shift    all angles are 3 degrees off, and the detector's centre by one bin
    blind    a gantry that turns unevenly (by up to 3.4 degrees) is believed to turn evenly over half a turn

Every case is trained twice under one budget, with the wrong angles frozen and with angles and offset learned together
with the network, and once with the true ones. The error is the root mean square over the views, in degrees: unlike
calibration from measurements alone, pairs tell a common rotation too. PSNR in dB on slices of other seeds.
"""

from __future__ import annotations

import math

import torch
from _scans import checkpoints, glimpse, scan_arguments, scans, score, train_for
from _shared import markdown, parser, record, save
from matplotlib.figure import Figure
from torch import Tensor

from pnp.learned import PatchTask

p = parser(__doc__, names=(), sizes=False, channels=None)
scan_arguments(p, minutes=10)
p.add_argument("--cases", nargs="+", choices=("jitter", "shift", "blind"), default=["jitter", "shift", "blind"])
args = p.parse_args()
run = record(args)
print(run)

# Data: one scan that turns evenly, and one that does not
even = scans(args)
u = torch.arange(args.views, dtype=torch.float64) / args.views
uneven = scans(args, math.pi * (u + 0.019 * torch.sin(2 * math.pi * u))) if "blind" in args.cases else even
g = torch.Generator().manual_seed(args.seed)
jitter = math.radians(2) * torch.randn(args.views, generator=g, dtype=torch.float64)
cases = {  # the scan, the angles it is believed to have, and the offset
    "jitter": (even, even.radon.angles + jitter, 0.0),
    "shift": (even, even.radon.angles + math.radians(3), 1.0),
    "blind": (uneven, even.radon.angles, 0.0),
}


def error(angles: Tensor, truth: Tensor) -> float:
    """Root mean square in degrees."""
    return math.degrees(float((angles.detach().cpu().double() - truth).square().mean().sqrt()))


# Train
folder = checkpoints(args, even)
rows, curves = [], {}
for case in args.cases:
    data, guess, offset = cases[case]
    truth = data.radon.angles
    row = {"case": case, "angles off before, deg": f"{error(guess, truth):.3f}"}
    for name in ("true", "frozen", "learned"):
        angles, shift = (truth, 0.0) if name == "true" else (guess, offset)
        model, patches = glimpse("local", data.radon, args.seed, angles, offset=shift, learn_geometry=name == "learned")
        task = PatchTask(model.to(args.device), *data.train, noise_db=args.noise_db, **patches)
        # Both cases of the even scan have the same truth.
        path = folder / (f"{case}_{name}.pt" if name != "true" else f"{'uneven' if case == 'blind' else 'even'}.pt")
        train_for(task, path, args, f"{case}, {name}")
        value, _, _ = score(lambda y, model=model: model(y.to(args.device)), data.tests["ID"])
        row[f"PSNR in dB, {name}"] = f"{value:.2f}"
    after = error(model.angles, truth)
    row |= {"after": f"{after:.3f}", "offset before, bins": f"{offset:.2f}", "after ": f"{float(model.offset):.3f}"}
    curves[case] = (guess - truth, model.angles.detach().cpu().double() - truth)
    rows.append(row)
    print(row, flush=True)

# Numbers
table = markdown([name.strip() for name in rows[0]], [list(r.values()) for r in rows])
print(table)

# Figure and files
figure = Figure(figsize=(4.2 * len(curves), 3.4), dpi=150, layout="constrained")
for axis, (case, found) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
    for label, values in zip(("before", "after"), found, strict=True):
        axis.plot(values.rad2deg().numpy(), "o-", markersize=3, linewidth=0.8, label=label)
    axis.axhline(0, color="0.7", linewidth=0.8)
    axis.set(title=case, xlabel="view", ylabel="error of the angle in degrees")
    axis.legend()
about = f"Trained on {even.about}; {args.views} views, {args.noise_db:g} dB, {args.minutes:g} minutes each."
save(args, rows, "\n\n".join(["# Geometry learned from pairs", run, about, table]) + "\n", figure)
