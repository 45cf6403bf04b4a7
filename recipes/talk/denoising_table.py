"""The talk's first table: five denoisers trained under one budget, tested in and out of distribution.

The same minutes, machine, optimiser, crops and noise levels for each: sigma uniform in [0.5, 55]/255, on photographs.
Tested at the talk's noise, sigma 0.14, and at 15, 25 and 50/255, on photographs held out and on what none has seen
(`distributions.py`). PSNR in dB, clipped to [0, 1], mean over the images of a set; fixed seeds. A run that was stopped
goes on from its checkpoints, and networks whose minutes are used up are not trained again.
"""

from __future__ import annotations

import torch
from _shared import checkpoints, markdown, noisy_score, parser, record, save, train, training_arguments
from distributions import OUT_OF_DISTRIBUTION, as_float, centre, out_of_distribution
from matplotlib.figure import Figure

from pnp.training import denoising_psnr

p = parser(__doc__)
training_arguments(p, minutes=30)
p.add_argument("--images", type=int, default=24, help="test images of each set (default 24, all that are held out)")
p.add_argument("--size", type=int, default=128, help="side of the test images in pixels (default 128, as in the talk)")
args = p.parse_args()
TALK = 0.14
levels = {"0.14": TALK, "15/255": 15 / 255, "25/255": 25 / 255, "50/255": 50 / 255}
if args.smoke:
    args.minutes, args.batch, args.crop, args.images, args.size = 0.01, 1, 72, 1, 48
    levels = {"0.14": TALK}
run = record(args)
print(run)

# Data: one distribution to train on, the others to test on
photos, sampler = p.photographs(args)
try:
    sets = {"ID: photographs": [centre(x, args.size) for x in as_float(photos.test[: args.images])]}
    for name in ("heads", "textures") if args.smoke else OUT_OF_DISTRIBUTION:
        sets[f"OOD: {name}"] = out_of_distribution(name, args.images, args.size, args.channels)
except ValueError as error:
    p.refuse(error)
print(f"Trained on {photos.about}.")

# Train: a few held-out photographs are looked at on the way, none chooses anything
folder = checkpoints(args, photos)
watched = sets["ID: photographs"][:4]
trained = {
    name: train(name, folder / f"{name}.pt", sampler, args, lambda model: denoising_psnr(model, watched, 25 / 255))
    for name in args.networks
}

# Numbers
rows = []
for title, images in sets.items():
    for level, sigma in levels.items():
        row = {"set": title, "sigma": level, "images": len(images)}
        row["noisy"] = noisy_score(images, sigma)
        row |= {name: denoising_psnr(t.model, images, sigma) for name, t in trained.items()}
        rows.append(row)
        print("   ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True)
columns = ["noisy", *trained]
tables = [
    f"### sigma {level}\n\n"
    + markdown(["", *columns], [[r["set"], *(f"{r[c]:.1f}" for c in columns)] for r in rows if r["sigma"] == level])
    for level in levels
]
budget = markdown(
    ["", "parameters", "steps", f"crops of {args.crop} x {args.crop} seen", "minutes of training"],
    [
        [n, f"{t.parameters / 1e6:.2f} M", f"{t.steps}", f"{t.crops}", f"{t.seconds / 60:.2f}"]
        for n, t in trained.items()
    ],
)
about = (
    f"Trained on {photos.about}; batch {args.batch}, {args.optimizer}, sigma in [0.5, 55]/255, "
    f"seed {args.seed}. PSNR in dB, {args.size} x {args.size} pixels, {args.images} images a set at most."
)
report = "\n\n".join(["# Denoising, in and out of distribution", run, about, *tables, "### Budget", budget]) + "\n"
print(f"\n{tables[0]}\n\n{budget}")

# Figure: the first image of every set at the talk's noise
panels = {"truth": lambda x, y: x, "noisy": lambda x, y: y}
panels |= {n: lambda x, y, m=t.model: m(y.to(args.device), TALK).cpu() for n, t in trained.items()}
figure = Figure(figsize=(1.7 * len(panels), 1.95 * len(sets) + 0.3), dpi=150, layout="constrained")
for axes, (title, images) in zip(figure.subplots(len(sets), len(panels), squeeze=False), sets.items(), strict=True):
    x = images[0][None]
    y = x + TALK * torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0))
    for axis, (name, panel) in zip(axes, panels.items(), strict=True):
        with torch.no_grad():
            z = panel(x, y).clamp(0, 1)
        psnr = -10 * (z - x).square().mean().clamp(min=1e-12).log10().item()
        pixels = z[0, 0] if args.channels == 1 else z[0].movedim(0, -1)
        axis.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_axis_off()
        axis.set_title(title if name == "truth" else f"{name} {psnr:.1f}", fontsize=8)
figure.suptitle(f"Denoising, sigma {TALK}: PSNR of each image in dB", fontsize=10)

# Files
save(args, rows, report, figure, f"; checkpoints in {folder}")
