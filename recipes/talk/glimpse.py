"""Sparse-view CT learned from simulated chests, tested on chests and heads: GLIMPSE, U-Net and plug-and-play.

    y = A x + n, 30 views over half a turn, 40 dB

FBP             filtered back-projection, Hann window
U-Net           from filtered back-projection to the slice (Jin et al., TIP 2017), trained on whole slices
LPD             learned primal-dual (Adler and Oktem, TMI 2018): ten iterations with the whole operator
GLIMPSE         each point from the projections around its sinusoid (arXiv 2401.00816), independently
GLIMPSE, local  the same with messages between neighbouring points
MLPatch-ADMM    plug-and-play with a denoiser trained on photographs only

The networks are trained under one budget, with one optimiser, on the same slices. In distribution (ID) are chests of
other seeds, or the last slices of the folder; out of distribution (OOD) simulated heads. PSNR in dB and SSIM, with the
slice's maximum as data range; negative values are set to 0.
"""

from __future__ import annotations

import torch
from _learned_primal_dual import learned_primal_dual
from _scans import WholeSlices, checkpoints, glimpse, scan_arguments, scans, score, train_for, unet
from _shared import markdown, parser, print_verdict, record, save
from matplotlib.figure import Figure

from pnp import solve
from pnp.learned import PatchTask

p = parser(__doc__, names=(), sizes=False, channels=None)
scan_arguments(p, minutes=30)
p.add_argument("--weights", default="gray", help="weights of MLPatch: a packaged name or a file")
args = p.parse_args()
D = p.mlpatch(args.weights, 1).to(args.device)
run = record(args)
print(run)

# Data
try:
    data = scans(args)
except ValueError as error:
    p.refuse(error)
radon = data.radon
print(f"Trained on {data.about}, {args.views} views, {radon.n_detectors} bins, {args.noise_db:g} dB.")

# Networks
folder = checkpoints(args, data)
methods = {"FBP": radon.fbp, "FBP, Hann window": lambda y: radon.fbp(y, window="hann")}
budget: list[list[str]] = []
for name in ("U-Net", "LPD", "GLIMPSE", "GLIMPSE, local"):
    if name == "U-Net":
        model = unet(args.seed).to(args.device)
        task = WholeSlices(model, radon, data.train, args.noise_db)
        methods[name] = lambda y, model=model: model(radon.fbp(y).to(args.device))
    elif name == "LPD":
        model = learned_primal_dual(radon, args.seed).to(args.device)
        task = WholeSlices(model, radon, data.train, args.noise_db, from_fbp=False)
        methods[name] = lambda y, model=model: model(y.to(args.device))
    else:
        model, patches = glimpse("local" if "local" in name else "pointwise", radon, args.seed)
        task = PatchTask(model.to(args.device), *data.train, noise_db=args.noise_db, **patches)
        methods[name] = lambda y, model=model: model(y.to(args.device))
    size = sum(t.numel() for t in model.parameters())
    state = train_for(task, folder / f"{name.replace(', ', '_')}.pt", args, name)
    budget.append([name, f"{size / 1e6:.2f} M", str(state["step"]), f"{state['seconds'] / 60:.2f}"])


def plug_and_play(y: torch.Tensor) -> torch.Tensor:
    """Reconstruct with MLPatch; the noise level is that of the measurements."""
    noise_std = float(y.square().mean().sqrt()) * 10 ** (-args.noise_db / 20)
    result = solve(radon, y, D.cpu(), noise_std=noise_std, bounds=(0, None), max_iter=3 if args.smoke else None)
    return print_verdict("MLPatch-ADMM", result)


methods["MLPatch-ADMM"] = plug_and_play

# Numbers
rows, panels = [], {}
for name, method in methods.items():
    row = {"method": name}
    for where, pair in data.tests.items():
        value, similarity, panels[where, name] = score(method, pair)
        row |= {f"{where}, PSNR in dB": f"{value:.2f}", f"{where}, SSIM": f"{similarity:.3f}"}
    rows.append(row)
    print(row, flush=True)
table = markdown(list(rows[0]), [list(r.values()) for r in rows])
times = markdown(["network", "parameters", "steps", "minutes"], budget)
print(f"{table}\n\n{times}")

# Figure and files
figure = Figure(figsize=(2.6 * (len(methods) + 1), 5.6), dpi=150, layout="constrained")
for axes, (where, (truth, _)) in zip(figure.subplots(2, len(methods) + 1), data.tests.items(), strict=True):
    shown = {"truth": truth[0, 0]} | {name: panels[where, name] for name in methods}
    for axis, (name, image) in zip(axes, shown.items(), strict=True):
        axis.imshow(image.numpy(), cmap="gray", vmin=0, vmax=float(truth[0].max()))
        axis.set_title(f"{where}\n{name}", fontsize=9)
        axis.axis("off")
about = f"Trained on {data.about}; {args.views} views, {radon.n_detectors} bins, {args.noise_db:g} dB."
save(args, rows, "\n\n".join(["# GLIMPSE beside others", run, about, table, times]) + "\n", figure)
