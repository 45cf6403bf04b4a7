"""Ten images: MLPatch and U-Net trained on ten photographs alone, PSNR over training time.

The first ten images of a folder are all there is to learn from; the others are validation. A network that overfits
keeps rising on the ten and falls on the others. Same minutes, machine, optimiser, crops and noise levels for both. The
curves are measured at sigma 25/255 on central crops, with the averaged weights, and are no part of the minutes.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from _shared import checkpoints, markdown, noisy_score, parser, record, save, train, training_arguments, write_text
from distributions import Photographs, as_float, centre, photographs
from matplotlib.figure import Figure

from pnp.training import denoising_psnr, load_checkpoint
from pnp.training.images import Crops

p = parser(__doc__, names=("MLPatch", "U-Net"))
training_arguments(p, minutes=60)
p.add_argument("--watched", type=int, default=24, help="validation images of the curve (default 24); all in the end")
args = p.parse_args()
SIGMA, TEN = 25 / 255, 10
if args.smoke:
    args.minutes, args.batch, args.crop, args.watched = 0.01, 1, 72, 2
size = 48 if args.smoke else 128
run = record(args)
print(run)

# Data: ten images to learn from
try:
    split = photographs(args.data, args.channels)
    images = split.train + split.test
    if len(images) <= TEN:
        raise ValueError(f"--data must hold more than {TEN} images, got {len(images)}; the others are the validation")
    photos = Photographs(images[:TEN], images[TEN:], f"{TEN} images, {len(images) - TEN} to validate on")
    sampler = Crops(photos.train, args.crop)
except ValueError as error:
    p.refuse(error)
learned = [centre(x, size) for x in as_float(photos.train)]
others = [centre(x, size) for x in as_float(photos.test)]
if args.smoke:
    learned, others = learned[: args.watched], others[: args.watched]
watched = others[:: max(1, len(others) // args.watched)][: args.watched]
print(f"Trained on {photos.about}, {len(watched)} of them in the curve.")


class Watch:
    """PSNR on the validation images, which the checkpoint records; that on the ten is kept in a file beside it."""

    def __init__(self, checkpoint: Path) -> None:
        self.file = checkpoint.with_suffix(".train.json")
        # A run that was killed has watched longer than its last checkpoint knows.
        known = len(load_checkpoint(checkpoint)["history"]) if checkpoint.exists() else 0
        self.on_learned = json.loads(self.file.read_text())[:known] if self.file.exists() else []

    def __call__(self, model: torch.nn.Module) -> float:
        """Measure both; the trainer keeps what is returned."""
        self.on_learned.append(denoising_psnr(model, learned, SIGMA))
        write_text(self.file, json.dumps(self.on_learned))
        return denoising_psnr(model, watched, SIGMA)


# Train
folder = checkpoints(args, photos)
trained, curves, rows = {}, {}, []
for name in args.networks:
    watch = Watch(folder / f"{name}.pt")
    trained[name] = t = train(name, folder / f"{name}.pt", sampler, args, watch)
    curves[name] = [(s, sec, on, value) for (s, sec, value), on in zip(t.history, watch.on_learned, strict=True)]
    for step, seconds, on_learned, value in curves[name]:
        rows.append({"network": name, "step": int(step), "seconds": seconds, "ten": on_learned, "validation": value})

# Numbers
finals = []
for name, t in trained.items():
    best = max(value for *_, value in curves[name])
    on_learned, on_others = denoising_psnr(t.model, learned, SIGMA), denoising_psnr(t.model, others, SIGMA)
    finals.append(
        [
            f"{name}, {t.parameters / 1e6:.2f} M",
            f"{t.steps}",
            f"{t.crops}",
            f"{t.seconds / 60:.2f}",
            f"{on_learned:.2f}",
            f"{on_others:.2f}",
            f"{best - curves[name][-1][-1]:.2f}",
        ]
    )
finals.append(["noisy", "", "", "", f"{noisy_score(learned, SIGMA):.2f}", f"{noisy_score(others, SIGMA):.2f}", ""])
header = ["", "steps", "crops", "minutes", "the ten", f"{len(others)} others", "fall from the curve's best"]
table = markdown(header, finals)
print(table)
about = (
    f"Trained on {photos.about}; batch {args.batch} of {args.crop} x {args.crop}, {args.optimizer}, "
    f"seed {args.seed}. PSNR in dB at sigma 25/255, central {size} x {size} pixels."
)

# Figure
figure = Figure(figsize=(6.5, 4), dpi=150, layout="constrained")
axis = figure.subplots()
for colour, (name, curve) in enumerate(curves.items()):
    minutes = [seconds / 60 for _, seconds, *_ in curve]
    axis.plot(minutes, [c[3] for c in curve], f"C{colour}-o", markersize=3, label=f"{name}, other images")
    axis.plot(minutes, [c[2] for c in curve], f"C{colour}--", label=f"{name}, the ten images")
axis.set(xlabel="minutes of training", ylabel="PSNR in dB, sigma 25/255", title="Trained on ten images")
axis.legend(fontsize=8)
axis.grid(alpha=0.3)

# Files
report = "\n\n".join(["# Ten images", run, about, table]) + "\n"
save(args, rows, report, figure, f"; checkpoints in {folder}")
