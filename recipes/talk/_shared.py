"""What the talk's recipes share: arguments, the record of a run, training under a budget, tables and files."""

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

LEVELS = NoiseLevels(0.5 / 255, 55 / 255)
"""Of all trainings: sigma uniform, nearly from zero, where the loss's weight 1/sigma has its pole."""


class Trained(NamedTuple):
    """A network with its averaged weights, and how far its budget took it."""

    model: nn.Module
    parameters: int
    """That were trained."""
    steps: int
    crops: int
    seconds: float
    history: list[list[float]]
    """[step, seconds, validation] of every validation."""


class Parser(argparse.ArgumentParser):
    """Arguments checked before anything is computed: what is wrong with them is one sentence and exit code 2."""

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        """Parse; make the output folder; put everything on a GPU where there is one and nothing else was asked."""
        args = super().parse_args(*arguments, **options)
        args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            args.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.refuse(f"--output {args.output} cannot be made: {error.strerror}; name another folder")
        if not os.access(args.output, os.W_OK):
            self.refuse(f"--output {args.output} is not writable; name another folder")
        return args

    def refuse(self, what: object) -> NoReturn:
        """Say on stderr what is wrong, and exit with code 2."""
        self.exit(2, f"{self.prog}: {what}\n")

    def photographs(self, args: argparse.Namespace) -> tuple[Photographs, Crops]:
        """Read args.data and make crops to learn from; refuse what cannot serve."""
        try:
            photos = photographs(args.data, args.channels)
            return photos, Crops(photos.train, args.crop)
        except ValueError as error:
            self.refuse(error)

    def mlpatch(self, weights: str, channels: int | None = None) -> MLPatch:
        """Load MLPatch from a name in the package or a file; refuse what is neither, or not for so many channels."""
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
    """Return the arguments that the talk's recipes share; add a recipe's own to them.

    Args:
        description: the recipe's docstring.
        names: default of --networks; without any there is no such argument.
        sizes: whether there is --sizes.
        channels: default of --channels; None: there is no such argument.
    """
    p = Parser(description=description.splitlines()[0])
    if names:
        p.add_argument("--networks", nargs="+", choices=networks.NAMES, default=list(names), metavar="NAME")
    if sizes:
        p.add_argument("--sizes", choices=networks.SIZES, default="paper", help="talk: DnCNN, IRCNN of 3 M parameters")
    if channels:
        p.add_argument("--channels", type=int, choices=(1, 3), default=channels, help="1: grey, 3: colour")
    p.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    p.add_argument("--output", type=Path, default=Path("results/talk"), metavar="DIR", help="default: results/talk")
    p.add_argument("--smoke", action="store_true", help="a small, quick run to see that everything works")
    return p


def training_arguments(p: argparse.ArgumentParser, minutes: float) -> None:
    """Add what says how the networks are trained."""
    p.add_argument("--data", type=Path, metavar="FOLDER", help="photographs (default: four of scikit-image's, too few)")
    p.add_argument("--minutes", type=float, default=minutes, help=f"of training for each network (default {minutes:g})")
    p.add_argument("--batch", type=int, default=16, help="crops in a step (default 16)")
    p.add_argument("--crop", type=int, default=128, help="side of the crops in pixels (default 128)")
    p.add_argument("--optimizer", choices=("muon", "adamw"), default="muon", help="of all networks (default muon)")
    p.add_argument("--seed", type=int, default=0, help="of the weights, the crops and the noise")


def record(args: argparse.Namespace) -> str:
    """Return the command line and the machine, without which a figure means nothing."""
    device = args.device
    if device.startswith("cuda"):
        device = f"{device}, {torch.cuda.get_device_name(device)}"
    threads = "" if args.device.startswith("cuda") else f", {torch.get_num_threads()} threads on {platform.machine()}"
    return f"`{shlex.join(['python', *sys.argv])}`\n\nOn {device}{threads}, torch {torch.__version__}."


def checkpoints(args: argparse.Namespace, photos: Photographs) -> Path:
    """Return the folder of this recipe's checkpoints; refuse one that was begun with other settings or another split.

    Only the minutes may change: a longer budget goes on where the shorter one stopped. Of the split, a checksum of the
    images held out is kept, so that none of them can have been learned from before the folder changed.
    """
    names = ("sizes", "channels", "data", "batch", "crop", "optimizer", "rate", "seed")
    settings = {f"--{name}": str(getattr(args, name)) for name in names if hasattr(args, name)}
    checksum = functools.reduce(lambda crc, x: zlib.crc32(x.contiguous().numpy(), crc), photos.test, 0)
    settings["images held out"] = f"{len(photos.test)} of checksum {checksum:08x}"
    return settled(args, settings)


def settled(args: argparse.Namespace, settings: dict[str, str]) -> Path:
    """Return the folder of this recipe's checkpoints; exit where it was begun with other settings than these."""
    folder: Path = args.output / (Path(sys.argv[0]).stem + ("_smoke" if args.smoke else ""))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    earlier = json.loads(file.read_text()) if file.exists() else settings
    for name in settings:
        if earlier.get(name) != settings[name]:
            print(
                f"{folder} was begun with {name} {earlier.get(name)}, not {settings[name]}; name another --output",
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
    """Train a network for `args.minutes`, or go on where the checkpoint at `path` stops; one that is done is read.

    Args:
        name: of the network: one of networks.NAMES, unless `build` makes it.
        path: its checkpoint.
        sampler: draws what it learns from.
        args: budget, batch, optimiser, seed and device.
        validate: measured over the training, with the averaged weights.
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
            print(f"{name}: {stop}; the same command goes on from there", file=sys.stderr)
            sys.exit(128 + stop.number)
        state = load_checkpoint(path)
    model.load_state_dict(state["average"])
    if isinstance(model, networks.Conditioned):
        model.sigma_range = (LEVELS.low, LEVELS.high)
    steps = int(state["step"])
    return Trained(model.eval(), size, steps, steps * args.batch, state["seconds"], state["history"])


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was asked for: before and after what is timed."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def status_bytes(key: str) -> int:
    """Return a size that Linux tells of this process: VmHWM, its resident peak, or VmData, what it may write to."""
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def resident_rise(call: Callable[[], object]) -> int:
    """Return by how many bytes the resident size of this process rose at most during a call."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far, that of the imports, is forgotten
    before = status_bytes("VmHWM")
    call()
    return status_bytes("VmHWM") - before


def noisy_score(images: list[Tensor], sigma: float) -> float:
    """Mean PSNR in dB of the noisy images themselves, measured as `denoising_psnr` does."""
    return denoising_psnr(lambda y, s: y, images, sigma)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, over an earlier one."""
    with atomic(path, overwrite=True) as part:
        part.write_text(text)


def save(args: argparse.Namespace, rows: list[dict[str, Any]], report: str, figure: Any, also: str = "") -> None:
    """Write <recipe>.csv (rows of the same keys), .md and .png, each whole or not at all, and say so.

    Args:
        args: with the folder.
        rows: of the CSV file.
        report: text of the Markdown file.
        figure: of matplotlib.
        also: what else to say.
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
