"""Unrolled EM for SPECT: networks trained end-to-end through the projector, truncated, or sequentially.

    counts ~ Poisson(A x + r), 60 views over a whole turn, 64 x 64 x 40 voxels of 6.4 mm

OSEM          16 iterations of 4 subsets, the start of all others
OSEM, 10 mm   the same, smoothed
sequential    three regularised EM iterations, each network trained alone on the images of those before it
truncated     trained together, without gradients through A and A^T
end-to-end    trained together, with all gradients

after Li, Dewaraja and Fessler (arXiv 2301.09710), for two isotopes: 177Lu (sharp, 5e6 counts) and 90Y (broad tails from
penetration, much scatter, 2e6 counts). Patients are torsos of ellipsoids, and virtual ones with bent organs, uneven
uptake and cold cores. All networks are trained on both in turn (--train-on torsos: on torsos alone, so that virtual
patients are out of distribution), with `--steps` steps per network, and tested on other patients of both kinds. The
error of a region is |its mean / its true mean - 1|, averaged over patients. Memory is that of one step: the rise of a
fresh process's resident size, or all of torch's allocations on a GPU.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys

import torch
from _shared import markdown, parser, record, resident_rise, save, settled
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from torch import Tensor

from operators import SPECT, spect_camera
from pnp.learned import MODES, Scan, UnrolledEM, make_scan, train_unrolled_em
from pnp.learned.unrolled_em_training import spent
from pnp.metrics import nrmse
from pnp.phantoms import ISOTOPES, emission_scan, region_means
from pnp.training import Interrupted, TrainingOptions

FILTER_FWHM_MM = 10.0
GROUPS = {"lungs": "lungs", "liver": "liver", "spleen": "spleen", "kidneys": "kidney", "lesions": "lesion"}
"""Regions of the table, and a part of their names in `region_means`."""

p = parser(__doc__, names=(), sizes=False, channels=None)
p.add_argument("--isotopes", nargs="+", choices=list(ISOTOPES), default=list(ISOTOPES), metavar="NAME")
p.add_argument("--steps", type=int, default=300, help="training steps per network (default 300)")
p.add_argument("--features", type=int, default=16, help="channels of the networks (default 16)")
p.add_argument("--train", type=int, default=40, help="number of training patients (default 40)")
p.add_argument("--train-on", choices=("both", "torsos"), default="both", help="training patients (default both)")
p.add_argument("--test", type=int, default=6, help="number of test torsos, and of virtual patients (default 6)")
p.add_argument("--views", type=int, default=60, help="number of angles over a full turn (default 60)")
p.add_argument("--seed", type=int, default=0, help="seed of the weights and the order of the scans")
p.add_argument(
    "--probe", choices=MODES, metavar="MODE", help="measure the memory of a step in this process, and print JSON"
)
args = p.parse_args()
shape, voxel = (64, 64, 40), 6.4
if args.smoke:
    args.steps, args.train, args.test, args.views = 4, 2, 1, 8
    args.isotopes, shape, voxel = args.isotopes[:1], (24, 24, 6), 16.0


def build() -> UnrolledEM:
    """Return an untrained model."""
    torch.manual_seed(args.seed)
    return UnrolledEM(features=args.features).to(args.device)


def scan(name: str, seed: int, virtual: bool = False) -> tuple[Scan, Tensor]:
    """Return a scan with its initial image, and the labels of its regions."""
    isotope = ISOTOPES[name]
    angles = torch.arange(args.views, dtype=torch.float64) * (2 * torch.pi / args.views)

    def camera(mu: Tensor, size: float) -> SPECT:
        cached = {"cache_attenuation": size == voxel}
        return spect_camera(mu, angles, voxel_size=size, **isotope.camera_options, **cached).to(args.device)

    found = emission_scan(isotope, camera, shape, voxel_size_mm=voxel, seed=seed, virtual=virtual, device=args.device)
    return make_scan(build(), *found[:4]), found.labels


def budget(steps: int) -> TrainingOptions:
    return TrainingOptions(steps=steps, batch=1, rate=5e-3, muon_rate=1e-2, warmup=20, seed=args.seed)


if args.probe:
    one, _ = scan(args.isotopes[0], 0)

    def steps(name: str, n: int) -> None:
        path = args.output / f"probe_{name}"
        path.unlink(missing_ok=True)
        train_unrolled_em(build(), [one], budget(n), mode=args.probe, checkpoint=path, progress=False)

    if args.device.startswith("cuda"):
        steps(args.probe, 3)
        print(json.dumps({"bytes": torch.cuda.max_memory_allocated()}))
    else:
        print(json.dumps({"bytes": resident_rise(lambda: steps(args.probe, 3))}))
    for path in args.output.glob("probe_*"):
        path.unlink()
    sys.exit()

run = record(args)
print(run)
folder = settled(
    args,
    {
        f"--{k}": str(getattr(args, k.replace("-", "_")))
        for k in ("steps", "features", "train", "train-on", "views", "seed")
    },
)
rows, panels = [], {}
for name in args.isotopes:
    # Data
    train = [scan(name, 10**6 + i, args.train_on == "both" and i % 2 == 1)[0] for i in range(args.train)]
    tests = {"torsos": [scan(name, i) for i in range(args.test)]}
    tests["virtual"] = [scan(name, 1000 + i, virtual=True) for i in range(args.test)]
    print(f"{name}: {len(train)} patients to train on", flush=True)

    # Networks
    width = FILTER_FWHM_MM / math.sqrt(8 * math.log(2)) / voxel

    def smooth(s: Scan, width: float = width) -> Tensor:
        return torch.from_numpy(gaussian_filter(s.start.cpu().numpy(), (0, 0, width, width, width))).to(s.start)

    methods = {"OSEM": lambda s: s.start, f"OSEM, {FILTER_FWHM_MM:g} mm": smooth}
    costs: dict[str, dict[str, str]] = {}
    for mode in reversed(MODES):
        model, path = build(), folder / f"{name}_{mode}.pt"
        networks = len(model.priors) if mode == "sequential" else 1
        try:
            train_unrolled_em(
                model, train, budget(networks * args.steps), mode=mode, checkpoint=path, resume=True,
                progress=not args.smoke,
            )  # fmt: skip
        except Interrupted as stop:
            print(f"{name}, {mode}: {stop}; the same command resumes", file=sys.stderr)
            sys.exit(128 + stop.number)
        taken, seconds = spent(path, networks)
        about = {"data": f"{len(train)} simulated patients, {name}", "mode": mode, "length": f"{taken} steps"}
        model.save(args.output / f"{name}_{mode}.safetensors", about=about)
        costs[mode] = {"training": f"{seconds / 60:.1f} min", "step": ""}
        if mode == "end-to-end" or not args.smoke:
            given = ("isotopes", "views", "features", "device", "output")
            values = [name, *(str(getattr(args, key)) for key in given[1:])]
            flags = [part for key, value in zip(given, values, strict=True) for part in (f"--{key}", value)]
            command = [sys.executable, __file__, "--probe", mode, *flags, *["--smoke"] * args.smoke]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            costs[mode]["step"] = f"{json.loads(printed.splitlines()[-1])['bytes'] / 1e6:.0f} MB"
        methods[mode] = lambda s, model=model: model(s.operator, s.y, s.background, s.start)

    # Numbers
    for method, reconstruct in methods.items():
        row = {"isotope": name, "method": method}
        for where, pairs in tests.items():
            with torch.no_grad():
                images = [reconstruct(s) for s, _ in pairs]
            truths = [s.truth for s, _ in pairs]
            row[f"NRMSE, {where}"] = f"{sum(map(nrmse, images, truths)) / len(pairs):.4f}"
            mae = [float((x - t).abs().sum() / t.sum()) for x, t in zip(images, truths, strict=True)]
            row[f"MAE, {where}"] = f"{sum(mae) / len(pairs):.4f}"
            errors: dict[str, list[float]] = {}
            for x, (s, labels) in zip(images, pairs, strict=True):
                got, want = (region_means(v.cpu(), labels) for v in (x, s.truth))
                for region in got:
                    errors.setdefault(region, []).append(abs(got[region] / want[region] - 1))
            for group, part in GROUPS.items():
                found = [e for region, values in errors.items() if part in region for e in values]
                row[f"{group}, {where}"] = f"{100 * sum(found) / len(found):.1f} %" if found else ""
            panels[name, where, method] = (images[-1], truths[-1])
        row |= costs.get(method, {"training": "", "step": ""})
        rows.append(row)
        print(row, flush=True)

tables = []
for where in ("torsos", "virtual"):
    keys = ["isotope", "method", *(k for k in rows[0] if k.endswith(f", {where}")), "training", "step"]
    tables.append(
        f"### {where}\n\n"
        + markdown([k.removesuffix(f", {where}") for k in keys], [[r[k] for k in keys] for r in rows])
    )
print("\n\n".join(tables))

# Figure and files: the slice through the hottest voxel
columns = ["truth", *methods]
cases = [(name, where) for name in args.isotopes for where in ("torsos", "virtual")]
figure = Figure(figsize=(2.2 * len(columns), 2.2 * len(cases)), dpi=150, layout="constrained")
for axes, case in zip(figure.subplots(len(cases), len(columns), squeeze=False), cases, strict=True):
    truth = panels[(*case, "OSEM")][1][0, 0].cpu()
    k = int(truth.amax((0, 1)).argmax())
    for axis, column in zip(axes, columns, strict=True):
        x = truth if column == "truth" else panels[(*case, column)][0][0, 0].cpu()
        axis.imshow(x[:, :, k].T.sqrt().numpy(), cmap="inferno", vmin=0, vmax=float(truth[:, :, k].max()) ** 0.5)
        error = "" if column == "truth" else f"NRMSE {nrmse(x, truth):.3f}"
        axis.set_title(f"{', '.join(case)}\n{column}  {error}", fontsize=7)
        axis.set_axis_off()
save(args, rows, "\n\n".join(["# Unrolled EM", run, *tables]) + "\n", figure, " and the weights")
