"""Shared code of the talk's recipes: arguments, the record of a run, training under a budget, tables and files."""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import json
import os
import platform
import re
import shlex
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import networks
import torch
from distributions import Photographs, photographs
from torch import Tensor, nn

from denoisers import MLPatch
from pnp import Result
from pnp.drivers.result_warning import ignore_result_warnings
from pnp.io import atomic
from pnp.training import (
    Interrupted,
    NoiseLevels,
    TrainingOptions,
    denoising_psnr,
    load_checkpoint,
    train_denoiser,
)
from pnp.training.images import Crops, Sampler

ignore_result_warnings()  # `print_verdict` prints them

LEVELS = NoiseLevels(0.5 / 255, 55 / 255)
"""Noise levels in training: sigma is uniform, above zero because the loss has the weight 1/sigma."""


class Trained(NamedTuple):
    """A network with its averaged weights, and the amount of its training."""

    model: nn.Module
    parameters: int
    """Number of trained parameters."""
    steps: int
    crops: int
    seconds: float
    history: list[list[float]]
    """[step, seconds, PSNR] of every validation."""


def print_verdict(name: str, result: Result) -> Tensor:
    """Print the misfit and the verdict of a result of `solve`; return its image."""
    print(f"{name}: {result.verdict}", flush=True)
    return result.x


class Parser(argparse.ArgumentParser):
    """Parser that checks arguments before anything is computed; an error is one line and exit code 2."""

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        """Parse; make the output folder; choose the GPU if there is one and no device is given."""
        args = super().parse_args(*arguments, **options)
        args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            args.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.refuse(f"--output {args.output} cannot be made: {error.strerror}; name another folder")
        if not os.access(args.output, os.W_OK):
            self.refuse(f"--output {args.output} is not writable; name another folder")
        return args

    def refuse(self, error: object) -> NoReturn:
        """Print an error to stderr, and exit with code 2."""
        self.exit(2, f"{self.prog}: {error}\n")

    def photographs(self, args: argparse.Namespace) -> tuple[Photographs, Crops]:
        """Read args.data and make training crops; exit if the folder is unsuitable."""
        try:
            photos = photographs(args.data, args.channels)
            return photos, Crops(photos.train, args.crop)
        except ValueError as error:
            self.refuse(error)

    def mlpatch(self, weights: str, channels: int | None = None) -> MLPatch:
        """Load MLPatch by a packaged name or from a file; exit if that fails or the channels do not fit."""
        try:
            D = MLPatch.from_pretrained(weights)
        except ValueError as error:
            self.refuse(error)
        if channels not in (None, D.channels):
            self.refuse(f"--weights {weights} are for {D.channels} channels; give some for {channels}")
        return D


def parser(
    description: str, *, names: Sequence[str] = networks.NAMES, sizes: bool = True, channels: int | None = 3
) -> Parser:
    """Return a parser with the arguments that the talk's recipes share.

    Args:
        description: the recipe's docstring.
        names: default of --networks; empty: no such argument.
        sizes: whether there is --sizes.
        channels: default of --channels; None: no such argument.
    """
    p = Parser(description=description.splitlines()[0])
    if names:
        p.add_argument("--networks", nargs="+", choices=networks.NAMES, default=list(names), metavar="NAME")
    if sizes:
        p.add_argument("--sizes", choices=networks.SIZES, default="paper", help="talk: DnCNN, IRCNN of 3 M parameters")
    if channels:
        p.add_argument("--channels", type=int, choices=(1, 3), default=channels, help="1: grey, 3: colour")
    p.add_argument("--device", help="cpu or cuda (default: cuda if available)")
    p.add_argument("--output", type=Path, default=Path("results/talk"), metavar="DIR", help="default: results/talk")
    p.add_argument("--smoke", action="store_true", help="small, quick run to test that everything works")
    return p


def training_arguments(p: argparse.ArgumentParser, minutes: float) -> None:
    """Add the arguments of the training."""
    p.add_argument("--data", type=Path, metavar="FOLDER", help="photographs (default: four from scikit-image, too few)")
    p.add_argument(
        "--minutes", type=float, default=minutes, help=f"minutes of training per network (default {minutes:g})"
    )
    p.add_argument("--batch", type=int, default=16, help="crops per step (default 16)")
    p.add_argument("--crop", type=int, default=128, help="side of the crops in pixels (default 128)")
    p.add_argument(
        "--optimizer", choices=("muon", "adamw"), default="muon", help="optimiser of all networks (default muon)"
    )
    p.add_argument("--seed", type=int, default=0, help="seed of the weights, the crops and the noise")


def record(args: argparse.Namespace) -> str:
    """Return the command line and the machine, to go with every figure."""
    device = args.device
    if device.startswith("cuda"):
        device = f"{device}, {torch.cuda.get_device_name(device)}"
    threads = "" if args.device.startswith("cuda") else f", {torch.get_num_threads()} threads on {platform.machine()}"
    return f"`{shlex.join(['python', *sys.argv])}`\n\nOn {device}{threads}, torch {torch.__version__}."


def checkpoints(args: argparse.Namespace, photos: Photographs) -> Path:
    """Return the folder of this recipe's checkpoints; refuse one with other settings or another split.

    Only the minutes may change: a longer budget resumes where the shorter one stopped. A checksum of the held-out
    images is stored, so that none of them was used in training if the folder of photographs has changed since.
    """
    names = ("sizes", "channels", "data", "batch", "crop", "optimizer", "rate", "seed")
    settings = {f"--{name}": str(getattr(args, name)) for name in names if hasattr(args, name)}
    checksum = functools.reduce(lambda crc, x: zlib.crc32(x.contiguous().numpy(), crc), photos.test, 0)
    settings["images held out"] = f"{len(photos.test)} of checksum {checksum:08x}"
    return settled(args, settings)


def settled(args: argparse.Namespace, settings: dict[str, str]) -> Path:
    """Return the folder of this recipe's checkpoints; exit if it was made with other settings."""
    folder: Path = args.output / (Path(sys.argv[0]).stem + ("_smoke" if args.smoke else ""))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    earlier = json.loads(file.read_text()) if file.exists() else settings
    for name in settings:
        if earlier.get(name) != settings[name]:
            print(
                f"{folder} was made with {name} {earlier.get(name)}, not {settings[name]}; name another --output",
                file=sys.stderr,
            )
            sys.exit(2)
    write_text(file, json.dumps(settings, indent=1) + "\n")
    return folder


def train(
    name: str,
    path: Path,
    sampler: Sampler,
    args: argparse.Namespace,
    validate: Callable[..., float],
    *,
    build: Callable[[], nn.Module] | None = None,
) -> Trained:
    """Train a network for `args.minutes`, resuming from the checkpoint at `path`; a finished one is only read.

    Args:
        name: name of the network, one of networks.NAMES unless `build` makes it.
        path: its checkpoint.
        sampler: draws training crops.
        args: budget, batch, optimiser, seed and device.
        validate: score recorded during training, with the averaged weights.
        build: makes the untrained network.
    """
    model = build() if build else networks.build(name, args.channels, sizes=args.sizes, seed=args.seed)
    model.to(args.device)
    size = networks.parameters(model)
    state = load_checkpoint(path) if path.exists() else None
    if state is None or state["seconds"] < 60 * args.minutes:
        print(f"{name}: {size / 1e6:.2f} M parameters, {args.minutes:g} minutes", flush=True)
        try:
            train_denoiser(
                model,
                sampler,
                LEVELS,
                TrainingOptions(minutes=args.minutes, batch=args.batch, optimizer=args.optimizer, seed=args.seed),
                checkpoint=path,
                resume=True,
                validate=validate,
                validate_minutes=args.minutes / (2 if args.smoke else 20),
                progress=not args.smoke,
            )
        except Interrupted as stop:
            print(f"{name}: {stop}; the same command resumes", file=sys.stderr)
            sys.exit(128 + stop.number)
        state = load_checkpoint(path)
    model.load_state_dict(state["average"])
    if isinstance(model, networks.Conditioned):
        model.sigma_range = (LEVELS.low, LEVELS.high)
    steps = int(state["step"])
    return Trained(model.eval(), size, steps, steps * args.batch, state["seconds"], state["history"])


def synchronize(device: str) -> None:
    """Wait until a GPU is idle: before and after timed code."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def status_bytes(key: str) -> int:
    """Return a size of this process from Linux, in bytes: VmHWM, the resident peak, or VmData, private data."""
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def resident_rise(call: Callable[[], object]) -> int:
    """Return the peak rise of this process's resident size during a call, in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which the imports raised
    before = status_bytes("VmHWM")
    call()
    return status_bytes("VmHWM") - before


def noisy_score(images: list[Tensor], sigma: float) -> float:
    """Return the mean PSNR in dB of the noisy images themselves, measured as by `denoising_psnr`."""
    return denoising_psnr(lambda y, s: y, images, sigma)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, replacing an earlier one."""
    with atomic(path, overwrite=True) as part:
        part.write_text(text)


def save(args: argparse.Namespace, rows: list[dict[str, Any]], report: str, figure: Any, also: str = "") -> None:
    """Write <recipe>.csv, .md and .png, each atomically, and print their paths.

    Args:
        args: arguments with the output folder.
        rows: rows of the CSV file, with the same keys.
        report: text of the Markdown file.
        figure: matplotlib figure.
        also: text to append to the printed line.
    """
    stem = args.output / Path(sys.argv[0]).stem
    with atomic(stem.with_suffix(".csv"), overwrite=True) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_text(stem.with_suffix(".md"), report)
    with atomic(stem.with_suffix(".png"), overwrite=True) as part:
        figure.savefig(part)
    print(f"wrote {stem}.csv, .md and .png{also}")
