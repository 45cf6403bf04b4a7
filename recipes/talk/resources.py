"""The talk's second table: memory and time of the five networks by resolution, in training and inference.

Training is one pass, forward and backward, over one image of N x N, without an optimiser, whose state does not depend
on N. The convolutional networks take the whole image, as they are applied. MLPatch takes it as in its training, in
crops of 128 x 128 with the margin they need, whose gradients add up. Inference is D(x, sigma) on one image without
gradients; MLPatch tiles by itself.

Any local network can be trained in crops. --crops adds rows for DnCNN and IRCNN in such crops, which compute the same
functions, except for IRCNN's batch normalisation in training, which sees a crop instead of the image. U-Net and DRU-Net
depend on 58 and 181 pixels to each side, on a lattice of 8, so that a crop would need 4 and 15 times its pixels.

Every figure comes from a fresh process. Memory is the peak during the pass: on a GPU all of torch's allocations,
weights, image and gradients included; on a CPU the rise of the resident size after packages, network and image are
loaded. Time is that of a second pass. A pass that exceeds --memory-gb is stopped and printed as "> N GB".
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networks
import torch
from _shared import markdown, parser, record, resident_rise, save, status_bytes
from torch import Tensor

from denoisers import MLPatch

MODES = ("training", "inference")
CROP = 128  # side of MLPatch's training crops, in pixels
GB = 10**9
SIGMA = 25 / 255
HALOS = {"DnCNN": 20, "IRCNN": 16}
"""Pixels to each side on which a pixel depends, for the local convolutional networks."""
IN_CROPS = " in crops"
Place = tuple[slice, slice]
OUT_OF_MEMORY = ("out of memory", "allocate memory", "bad_alloc", "out_of_memory")


def plain(name: str) -> str:
    """Return the network's name without IN_CROPS."""
    return name.removesuffix(IN_CROPS)


def crops(image: Tensor, sigma: Tensor, model: MLPatch) -> Iterator[tuple[Tensor, Place]]:
    """Denoise crops that cover an image (B, C, H, W) once; yield each with its place in the image."""
    halo = model.receptive_field // 2 + 4  # its lattice may be shifted by a few samples
    padded = torch.nn.functional.pad(image, (halo,) * 4, mode="replicate")
    for row in range(0, image.shape[2], CROP):
        for col in range(0, image.shape[3], CROP):
            height, width = min(CROP, image.shape[2] - row), min(CROP, image.shape[3] - col)
            crop = padded[:, :, row : row + height + 2 * halo, col : col + width + 2 * halo]
            z, offset = model.valid(crop, sigma)
            first = halo - offset
            place = (slice(row, row + height), slice(col, col + width))
            yield z[:, :, first : first + height, first : first + width], place


def windows(image: Tensor, sigma: Tensor, model: torch.nn.Module, halo: int) -> Iterator[tuple[Tensor, Place]]:
    """As `crops`, for a convolutional network that depends on `halo` pixels to each side."""
    for row in range(0, image.shape[2], CROP):
        for col in range(0, image.shape[3], CROP):
            top, left = max(0, row - halo), max(0, col - halo)
            z = model(image[:, :, top : row + CROP + halo, left : col + CROP + halo], sigma)
            z = z[:, :, row - top : row - top + CROP, col - left : col - left + CROP]
            yield z, (slice(row, row + z.shape[2]), slice(col, col + z.shape[3]))


def training_pass(model: torch.nn.Module, x: Tensor, y: Tensor, halo: int | None) -> None:
    """Accumulate the gradients of mean (D(y, sigma) - x)^2 over the image, in crops for MLPatch or with a halo."""
    sigma = torch.full((len(y),), SIGMA, device=y.device)
    if isinstance(model, MLPatch):
        parts = crops(y, sigma, model)
    elif halo is not None:
        parts = windows(y, sigma, model, halo)
    else:
        parts = iter([(model(y, sigma), (slice(None), slice(None)))])
    for z, (rows, cols) in parts:
        ((z - x[:, :, rows, cols]).square().sum() / x.numel()).backward()


def inference_pass(model: torch.nn.Module, y: Tensor, halo: int | None) -> Tensor:
    """Denoise without gradients, in crops if a halo is given."""
    sigma = torch.full((len(y),), SIGMA, device=y.device)
    with torch.no_grad():
        if halo is None:
            return model(y, sigma)
        out = torch.empty_like(y)
        for z, (rows, cols) in windows(y, sigma, model, halo):
            out[:, :, rows, cols] = z
        return out


def probe(name: str, mode: str, size: int, args: Any) -> dict[str, float]:
    """Measure one pass in this process: {"bytes", "seconds"}."""
    halo = HALOS[plain(name)] if name.endswith(IN_CROPS) else None
    model = networks.build(plain(name), args.channels, sizes=args.sizes).to(args.device)
    model.train(mode == "training")
    half = args.precision == "bfloat16" and not isinstance(model, MLPatch)
    if isinstance(model, MLPatch):
        model.precision = args.precision
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, args.channels, size, size, generator=generator)
    y = (x + SIGMA * torch.randn(x.shape, generator=generator)).to(args.device)
    x = x.to(args.device)

    def call() -> None:
        with torch.autocast(y.device.type, torch.bfloat16, enabled=half):
            training_pass(model, x, y, halo) if mode == "training" else inference_pass(model, y, halo)

    limit = int(args.memory_gb * GB)
    if y.is_cuda:
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, limit / torch.cuda.get_device_properties(y.device).total_memory)
        )
        call()  # makes plans and kernels
        model.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        seconds = elapsed(call, torch.cuda.synchronize)
        return {"bytes": torch.cuda.max_memory_allocated(), "seconds": seconds}
    # The system refuses larger allocations, before the machine runs out of memory.
    resource.setrlimit(resource.RLIMIT_DATA, (status_bytes("VmData") + limit,) * 2)
    first: list[float] = []
    peak = resident_rise(lambda: first.append(elapsed(call)))
    seconds = first[0]
    model.zero_grad(set_to_none=True)
    return {"bytes": peak, "seconds": elapsed(call) if seconds < args.limit_s / 2 else seconds}


def elapsed(call: Callable[[], None], synchronize: Callable[[], None] = lambda: None) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def measure(name: str, mode: str, size: int, args: Any) -> dict[str, Any]:
    """Measure one pass in a fresh process; return its numbers, or under "why" the reason why it failed."""
    command = [sys.executable, __file__, "--probe", name, mode, str(size), "--device", args.device]
    command += ["--sizes", args.sizes, "--channels", str(args.channels), "--precision", args.precision]
    command += ["--memory-gb", str(args.memory_gb), "--limit-s", str(args.limit_s), "--output", str(args.output)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.limit_s)
    except subprocess.TimeoutExpired:
        return {"why": f"> {args.limit_s:g} s"}
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    if done.returncode == -9 or any(words in done.stderr.lower() for words in OUT_OF_MEMORY):
        return {"why": f"> {args.memory_gb:g} GB"}
    raise RuntimeError(f"{name}, {mode} at {size}: {done.stderr.strip()[-1000:]}")


def total_memory(device: str) -> float:
    """Return four fifths of the machine's memory, or of the GPU's, in GB."""
    if device.startswith("cuda"):
        return round(0.8 * torch.cuda.get_device_properties(device).total_memory / GB, 1)
    kilobytes = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    return round(0.8 * kilobytes * 1024 / GB, 1)


def cell(row: dict[str, Any]) -> str:
    """Return the cell "memory / time" as in the talk."""
    if row["why"]:
        return str(row["why"])
    size = f"{row['bytes'] / GB:.2f} GB" if row["bytes"] >= GB else f"{row['bytes'] / 1e6:.0f} MB"
    return f"{size} / {row['seconds']:.3g} s"


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--resolutions", nargs="+", type=int, default=[128, 256, 512, 1024], metavar="N")
    p.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), metavar="MODE", help=" or ".join(MODES))
    p.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="bfloat16: mixed, for all")
    p.add_argument("--memory-gb", type=float, help="stop a pass that needs more (default: 4/5 of the machine's)")
    p.add_argument("--limit-s", type=float, default=900, help="stop a process that takes longer (default 900 s)")
    p.add_argument("--crops", action="store_true", help="also DnCNN and IRCNN in MLPatch's crops")
    p.add_argument("--probe", nargs=3, metavar=("NAME", "MODE", "N"), help="measure one pass here, and print JSON")
    args = p.parse_args()
    args.memory_gb = args.memory_gb or total_memory(args.device)
    if args.probe:
        name, mode, size = args.probe
        print(json.dumps(probe(name, mode, int(size), args)))
        return
    if args.smoke:
        args.resolutions = [64]
        if args.networks == list(networks.NAMES):
            args.networks = ["IRCNN", "MLPatch"]
    names = [n for name in args.networks for n in (name, name + IN_CROPS)[: 1 + (args.crops and name in HALOS)]]
    run = record(args)
    print(run)

    # Measure; once a resolution does not fit, larger ones are skipped
    rows: list[dict[str, Any]] = []
    for mode in args.modes:
        for name in names:
            why = ""
            for size in args.resolutions:
                found = {"why": why} if why else measure(name, mode, size, args)
                why = found.get("why", "")
                row = {"mode": mode, "network": name, "N": size, "bytes": "", "seconds": "", "why": why} | found
                rows.append(row)
                print(f"{mode:9s} {name:14s} {size:5d}   {cell(row)}", flush=True)

    # Tables
    memory = (
        "all that torch allocated" if args.device.startswith("cuda") else "resident memory beyond network and image"
    )
    tables = [
        f"Peak memory ({memory}) and time of one pass over one image, {args.precision}"
        f"{' mixed' if args.precision == 'bfloat16' else ''}, {args.channels} channels; limit {args.memory_gb:g} GB. "
        f"MLPatch trains in crops of {CROP} x {CROP}, as DnCNN and IRCNN could; the others take the image whole"
        + (f", but for the rows{IN_CROPS}." if args.crops else " (--crops adds DnCNN and IRCNN in crops).")
    ]
    for mode in args.modes:
        lines = [
            [
                name,
                f"{networks.parameters(networks.build(plain(name), args.channels, sizes=args.sizes)) / 1e6:.2f} M",
                *(cell(r) for r in rows if r["mode"] == mode and r["network"] == name),
            ]
            for name in names
        ]
        header = ["", "parameters", *(f"{n}" for n in args.resolutions)]
        tables.append(f"### {mode.capitalize()}\n\n{markdown(header, lines)}")
    print("\n\n".join(tables))

    # Figure
    from matplotlib.figure import Figure  # here, to keep it out of the processes that measure

    figure = Figure(figsize=(4.5 * len(args.modes), 7), dpi=150, layout="constrained")
    quantities = (("bytes", GB, "peak memory in GB"), ("seconds", 1, "time in s"))
    for axes, (key, unit, label) in zip(figure.subplots(2, len(args.modes), squeeze=False), quantities, strict=True):
        for axis, mode in zip(axes, args.modes, strict=True):
            for k, name in enumerate(names):
                seen = [r for r in rows if (r["mode"], r["network"], r["why"]) == (mode, name, "")]
                axis.loglog([r["N"] for r in seen], [r[key] / unit for r in seen], f"C{k}-o", markersize=4, label=name)
            axis.set(title=mode, xlabel="side of the image in pixels", ylabel=label)
            axis.set_xticks(args.resolutions, [str(n) for n in args.resolutions])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)

    # Files
    save(args, rows, "\n\n".join(["# Memory and time by resolution", run, *tables]) + "\n", figure)


if __name__ == "__main__":
    main()
