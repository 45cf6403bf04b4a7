"""Learned patch deformations: where the taps of MLPatch go in training, and what that is worth.

Two geometries, each trained twice from the same seed under one budget, once with its taps free and once with them
frozen where they begin:

    dense    7 x 7 taps one pixel apart, free to wander one pixel beyond, as in the package's weights
    sparse   3 x 3 taps one pixel apart in the same 9 x 9 window: few samples, whose places must matter more

PSNR on held-out photographs at sigma 25/255. The figure shows the taps of all four, and those of the package's weights.
"""

from __future__ import annotations

from functools import partial

import torch
from _shared import checkpoints, markdown, parser, record, save, train, training_arguments
from distributions import as_float, centre
from matplotlib.figure import Figure
from torch import Tensor

from denoisers import MLPatch
from denoisers.mlpatch.geometry import grid_taps
from pnp.training import denoising_psnr

GEOMETRIES = {"dense": {"taps": 7, "margin": 1}, "sparse": {"taps": 3, "margin": 3}}

p = parser(__doc__, names=(), sizes=False, channels=1)
training_arguments(p, minutes=12)
p.add_argument("--weights", default="gray", help="of MLPatch, for the figure: a name in the package or a file")
args = p.parse_args()
SIGMA = 25 / 255
if args.smoke:
    args.minutes, args.batch, args.crop = 0.01, 1, 72
shipped = p.mlpatch(args.weights).network.taps.detach()
run = record(args)
print(run)

# Data
photos, sampler = p.photographs(args)
held_out = [centre(x, 64 if args.smoke else 256) for x in as_float(photos.test)]
print(f"Trained on {photos.about}.")


def geometry(name: str, frozen: bool) -> torch.nn.Module:
    """Return an untrained grey MLPatch with these taps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        model = MLPatch(args.channels, **GEOMETRIES[name], **({"dilations": (1,)} if args.smoke else {}))
    model.network.taps.requires_grad_(not frozen)
    return model


def moved(taps: Tensor) -> Tensor:
    """Distances (n,), in pixels, of taps from the grid where they began."""
    return (taps - grid_taps(round(len(taps) ** 0.5))).norm(dim=1)


# Train
folder, rows, taps = checkpoints(args, photos), [], {}
for name in GEOMETRIES:
    for frozen in (False, True):
        label = f"{name}, {'frozen' if frozen else 'learned'}"
        path = folder / f"{label.replace(', ', '_')}.pt"
        build = partial(geometry, name, frozen)
        done = train(label, path, sampler, args, lambda m: denoising_psnr(m, held_out, SIGMA), build=build)
        taps[label] = done.model.network.taps.detach().cpu()
        d = moved(taps[label])
        rows.append(
            {
                "taps": label,
                "parameters": done.parameters,
                "steps": done.steps,
                "PSNR in dB": f"{denoising_psnr(done.model, held_out, SIGMA):.3f}",
                "moved on average, pixels": f"{d.mean():.3f}",
                "at most": f"{d.max():.3f}",
            }
        )
table = markdown(list(rows[0]), [[str(v) for v in r.values()] for r in rows])
print(table)

# Figure and files
taps = {name: t for name, t in taps.items() if "learned" in name} | {f"the package's weights: {args.weights}": shipped}
figure = Figure(figsize=(4.2 * len(taps), 4.6), layout="constrained")
for axis, (name, t) in zip(figure.subplots(1, len(taps)), taps.items(), strict=True):
    start = grid_taps(round(len(t) ** 0.5))
    axis.plot(start[:, 1], start[:, 0], "o", color="0.75", label="before")
    axis.plot(t[:, 1], t[:, 0], ".", color="tab:red", label="after")
    axis.plot(*torch.stack([start, t]).permute(2, 0, 1).flip(0).numpy(), color="tab:red", linewidth=0.8)
    axis.set(title=f"{name}\nmoved by {moved(t).mean():.2f} pixels", xlabel="column (pixels)", aspect="equal")
    axis.set(xlim=(-5, 5), ylim=(5, -5), ylabel="row (pixels)")  # rows downwards, as in images
    axis.legend(loc="upper right")
save(args, rows, f"{run}\n\nTrained on {photos.about}.\n\n{table}\n", figure)
