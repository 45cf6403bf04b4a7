"""The talk's super-resolution table: one network trained from 64 to 128 pixels, used at x2, x4 and x8.

SuperResolver and LIIF are trained under one budget: the same minutes, machine, crops, optimiser and loss (L1). Crops of
128 x 128 pixels of photographs are made low-resolution by antialiased bicubic interpolation (a = -1/2, torch's
`interpolate(..., antialias=True)`), neither rounded nor clipped. In training the low-resolution grid lies anywhere
within a pixel, so that all coordinates between pixels are seen although the factor is always 2; in testing both grids
cover the same area. Low-resolution test images are as large as the photographs allow, up to 128 pixels a side.

LIIF never sees other cells than half a pixel either: at larger factors its cell stays that (`liif.py`). The learning
rate, 1e-3 with AdamW, is ours for both; LIIF's paper has 1e-4, for far longer trainings.

PSNR in dB over all pixels and channels, clipped to [0, 1], mean over images. "x2 repeated" applies the network at
factor 2 to its own result. A stopped run goes on from its checkpoints; minutes used up are not trained again.
"""

from __future__ import annotations

import contextlib
import math
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from _shared import checkpoints, markdown, parser, record, save, synchronize
from distributions import as_float, centre, photographs
from liif import LIIF
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from denoisers.mlpatch.super_resolver import SuperResolver, downsampling_matrix, output_coords
from denoisers.precision import has_fast_bfloat16
from pnp.io import atomic
from pnp.training.images import Crops, load_folder

HIGH, LOW, FACTORS = 128, 64, (2, 4, 8)
NETWORKS = {"SuperResolver": SuperResolver, "LIIF": partial(LIIF, largest=HIGH / LOW)}
QUERIES = 48**2  # of LIIF, at random in a crop, as in its paper; SuperResolver takes one of the four lattices, 64 x 64


def low_resolution(x: Tensor, factor: int) -> Tensor:
    size = (x.shape[2] // factor, x.shape[3] // factor)
    return F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)


def loss_of(model: nn.Module, high: Tensor, g: torch.Generator) -> Tensor:
    """L1 error at some of the pixels of high (B, C, HIGH, HIGH), from a low-resolution grid at a random place."""
    shift = torch.rand(2, generator=g) - 0.5
    rows, cols = (downsampling_matrix(HIGH, LOW, float(s)).to(high) for s in shift)
    low = rows @ high @ cols.T
    # Where the pixels of `high` lie in those of `low`, and which of them lie inside.
    coords = [output_coords(LOW, HIGH) - s.double() for s in shift]
    inside = [((c >= -0.5) & (c <= LOW - 0.5)).nonzero()[:, 0] for c in coords]
    if isinstance(model, SuperResolver):
        i, j = (k[int(torch.randint(2, (), generator=g)) :: 2] for k in inside)
        return (model.grid(low, coords[0][i], coords[1][j]) - high[:, :, i[:, None], j]).abs().mean()
    i, j = (k[torch.randint(len(k), (QUERIES,), generator=g)] for k in inside)
    cell = torch.full((2,), LOW / HIGH)
    return (model.at(low, torch.stack([coords[0][i], coords[1][j]], 1), cell) - high[:, :, i, j]).abs().mean()


def train(model: nn.Module, crops: Crops, path: Path) -> dict:
    """Train for args.minutes, from the checkpoint at `path` on where there is one; return the last checkpoint."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=1e-4)
    g = torch.Generator().manual_seed(args.seed)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    step, seconds, budget = 0, 0.0, 60 * args.minutes
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        g.set_state(state["generator"])
        average = {k: v.to(args.device) for k, v in state["average"].items()}
        step, seconds = state["step"], state["seconds"]
    last, bar = seconds, tqdm(initial=step, unit="step", disable=args.smoke, mininterval=5)
    while True:
        done = seconds >= budget
        if done or seconds - last > 120:
            state = {"weights": model.state_dict(), "average": average, "optimizer": optimizer.state_dict()}
            state |= {"generator": g.get_state(), "step": step, "seconds": seconds}
            with atomic(path, overwrite=True) as part:
                torch.save(state, part)
            last = seconds
        if done:
            bar.close()
            return state
        start = time.monotonic()
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * seconds / budget - 1)))  # over the second half
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / 100) * max(fall, 0.01)
        high = crops(args.batch, generator=g).to(args.device)
        with precision(model):
            loss = loss_of(model, high, g)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(0.999, (step + 1) / (step + 20))
        for k, v in model.state_dict().items():
            average[k].lerp_(v, 1 - decay)
        synchronize(args.device)
        seconds += time.monotonic() - start
        bar.set_postfix_str(f"{seconds / 60:.1f} of {args.minutes:g} minutes", refresh=False)
        bar.update()


p = parser(__doc__, names=(), sizes=False)
p.add_argument("--data", type=Path, metavar="FOLDER", help="photographs (default: scikit-image's, too few)")
p.add_argument("--test", type=Path, metavar="FOLDER", help="further test images, e.g. of 512 x 512 pixels or more")
p.add_argument("--minutes", type=float, default=30, help="of training for each network (default 30)")
p.add_argument("--batch", type=int, default=16, help="crops in a step (default 16)")
p.add_argument("--rate", type=float, default=1e-3, help="learning rate of both networks (default 1e-3)")
p.add_argument("--seed", type=int, default=0, help="of the weights and the crops")
p.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME", help="default: both")
p.add_argument("--images", type=int, default=24, help="held-out photographs (default 24, all there are)")
args = p.parse_args()
SIDE = 16 if args.smoke else 128  # of the low-resolution test images, at most
if args.smoke:
    args.minutes, args.batch, args.images = 0.01, 1, 1


def precision(model: nn.Module) -> contextlib.AbstractContextManager:
    """bfloat16 for LIIF where the processor is fast at it; SuperResolver decides for itself."""
    device = torch.device(args.device)
    mixed = isinstance(model, LIIF) and has_fast_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16) if mixed else contextlib.nullcontext()


run = record(args)
print(run)

# Data
try:
    photos = photographs(args.data, args.channels)
    sets = {"photographs, held out": as_float(photos.test[: args.images])}
    if args.test:
        sets[args.test.name] = as_float(load_folder(args.test, args.channels))
    crops = Crops(photos.train, HIGH)
except ValueError as error:
    p.refuse(error)

# Train
stem, folder = args.output / "super_resolution", checkpoints(args, photos)
trained, budget = {}, []
for name, make in NETWORKS.items():
    if name not in args.networks:
        continue
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        model = make(args.channels).to(args.device)
    size = sum(w.numel() for w in model.parameters())
    print(f"{name}: {size / 1e6:.2f} M parameters, {args.minutes:g} minutes", flush=True)
    state = train(model, crops, folder / f"{name}.pt")
    model.load_state_dict(state["average"])
    trained[name] = model.eval().requires_grad_(False)
    budget.append([name, f"{size / 1e3:.0f} K", str(state["step"]), f"{state['seconds'] / 60:.2f}"])
    if name == "SuperResolver":
        start = type(model)(args.channels).taps
        moved = (model.taps.detach().cpu() - start).norm(dim=1)
        print(f"taps moved by {moved.mean():.2f} pixels on average, at most {moved.max():.2f}")
        model.save(stem.with_suffix(".safetensors"), about={"run": run, "data": photos.about})


def repeated(y: Tensor, size: tuple[int, int]) -> Tensor:
    while y.shape[2] < size[0]:
        y = trained["SuperResolver"](y, factor=2)
    return y


methods = {
    "bilinear": lambda y, size: F.interpolate(y, size, mode="bilinear", align_corners=False),
    "bicubic": lambda y, size: F.interpolate(y, size, mode="bicubic", align_corners=False),
    **{name: lambda y, size, m=m: m(y, size=size) for name, m in trained.items()},
}
if "SuperResolver" in trained:
    methods["SuperResolver, x2 repeated"] = repeated

# Numbers
rows, panels = [], {}
for title, images in sets.items():
    for f in FACTORS:
        total, seconds = dict.fromkeys(methods, 0.0), dict.fromkeys(methods, 0.0)
        sides = []
        for k, x in enumerate(images):
            side = min(SIDE, *(n // f for n in x.shape[1:]))
            x = centre(x, side * f)[None].to(args.device)
            y = low_resolution(x, f)
            sides.append(side)
            for name, method in methods.items():
                synchronize(args.device)
                start = time.perf_counter()
                with torch.no_grad(), precision(trained.get(name)):
                    z = method(y, tuple(x.shape[2:])).float().clamp(0, 1)
                synchronize(args.device)
                seconds[name] += time.perf_counter() - start
                psnr = -10 * (z - x).square().mean().clamp(min=1e-12).log10().item()
                total[name] += psnr
                if title == next(iter(sets)) and k == 0:
                    panels[f, name] = (z, psnr)
            if title == next(iter(sets)) and k == 0:
                panels[f, "truth"], panels[f, "input"] = (x, None), (y, None)
        low = f"{min(sides)}" if min(sides) == max(sides) else f"{min(sides)} to {max(sides)}"
        row = {"set": title, "images": len(images), "factor": f"x{f}", "input side": low}
        row |= {name: total[name] / len(images) for name in methods}
        rows.append(row | {f"seconds {name}": seconds[name] / len(images) for name in methods})
        print("   ".join(f"{v:.2f}" if isinstance(v, float) else f"{v}" for v in row.values()), flush=True)
header = ["set", "factor", "input side", *methods]
table = markdown(header, [[f"{r[h]:.2f}" if h in methods else str(r[h]) for h in header] for r in rows])
spent = markdown(["", "parameters", f"steps of {args.batch} crops", "minutes of training"], budget)
report = "\n\n".join(["# Super-resolution at any factor", run, f"Trained on {photos.about}.", table, spent]) + "\n"
print(f"\n{table}\n\n{spent}")

# Figure: the middle of the first held-out photograph
names = ["truth", "input", *methods]
figure = Figure(figsize=(1.7 * len(names), 2.0 * len(FACTORS)), dpi=150, layout="constrained")
for axes, f in zip(figure.subplots(len(FACTORS), len(names), squeeze=False), FACTORS, strict=True):
    for axis, name in zip(axes, names, strict=True):
        z, psnr = panels[f, name]
        side = 16 * max(1, 8 // f)
        z = centre(z[0].cpu().clamp(0, 1), side if name == "input" else side * f).movedim(0, 2)
        axis.imshow(z.squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_axis_off()
        axis.set_title(f"{name}, x{f}" if psnr is None else f"{name}\n{psnr:.1f} dB", fontsize=7)
save(args, rows, report, figure, f", the SuperResolver's weights as .safetensors; checkpoints in {folder}")
