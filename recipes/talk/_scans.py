"""What the two recipes of GLIMPSE share: slices, their parallel-beam measurements, and training under a budget."""

from __future__ import annotations

import argparse
import copy
import functools
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _shared import settled
from torch import Tensor, nn

from operators import Radon
from pnp.learned import Glimpse, add_noise
from pnp.learned.glimpse_data import ARCHITECTURES, chests, folder_slices
from pnp.metrics import psnr, ssim
from pnp.phantoms import head
from pnp.training import Interrupted, Task, TrainingOptions, load_checkpoint, train
from pnp.training.muon import fast_bfloat16

HELD_OUT = 2 * 10**6
"""Seed of what is tested: no training draws from it, and no default was chosen on it."""


class Scans(NamedTuple):
    """Slices (n, 1, N, N) and their measurements (n, 1, views, bins): without noise to learn from, with it to test."""

    radon: Radon
    train: tuple[Tensor, Tensor]
    tests: dict[str, tuple[Tensor, Tensor]]
    about: str


def scan_arguments(p: argparse.ArgumentParser, minutes: float) -> None:
    """Add what says how slices are measured and how long is learned from them."""
    p.add_argument("--data", type=Path, metavar="FOLDER", help="slices, images (default: simulated chests)")
    p.add_argument("--minutes", type=float, default=minutes, help=f"of training for each network (default {minutes:g})")
    p.add_argument("--batch", type=int, default=8, help="slices in a step (default 8)")
    p.add_argument("--slices", type=int, default=400, help="how many are simulated (default 400)")
    p.add_argument("--size", type=int, default=128, help="side of the slices in pixels (default 128)")
    p.add_argument("--views", type=int, default=30, help="over half a turn (default 30)")
    p.add_argument("--noise-db", type=float, default=40.0, help="noise below the measurements (default 40 dB)")
    p.add_argument("--seed", type=int, default=0, help="of the weights, the slices and the noise")


def scans(args: argparse.Namespace, angles: Tensor | None = None, n_tests: int = 16) -> Scans:
    """Make the slices and measure them; those of a folder that are tested are its last.

    Args:
        args: of `scan_arguments`.
        angles: radians; None: uniform over half a turn.
        n_tests: slices tested, in distribution and out of it.
    """
    if args.smoke:
        args.minutes, args.slices, args.size, args.views, args.batch, n_tests = 0.02, 6, 32, 12, 2, 2
    angles = torch.arange(args.views, dtype=torch.float64) * (torch.pi / args.views) if angles is None else angles
    radon = Radon((args.size, args.size), angles)
    if args.data:
        x, about = folder_slices(args.data, args.size)
        n_tests = min(n_tests, max(1, len(x) // 5))
        x, inside = x[:-n_tests], x[-n_tests:]
    else:
        x, about = chests(args.slices, args.size, args.seed, progress=not args.smoke)
        inside, _ = chests(n_tests, args.size, HELD_OUT, progress=False)
    g = torch.Generator().manual_seed(HELD_OUT)
    outside = torch.cat([head(args.size, generator=g) for _ in range(n_tests)])
    tests = {"ID": inside, "OOD: heads": outside}
    measured = {name: (t, add_noise(radon.A(t), args.noise_db, generator=g)) for name, t in tests.items()}
    return Scans(radon, (x, torch.cat([radon.A(one[None]) for one in x])), measured, about)


def glimpse(kind: str, radon: Radon, seed: int, angles: Tensor | None = None, **options: Any) -> tuple[Glimpse, dict]:
    """Return an untrained GLIMPSE of this kind, and what patches it learns from; its angles are given or the scan's."""
    architecture, patches = ARCHITECTURES[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        given = radon.angles if angles is None else angles
        model = Glimpse(radon.shape, given, n_detectors=radon.n_detectors, **architecture, **options)
    return model, patches


class WholeSlices(Task):
    """Whole slices, from their filtered back-projections for convolutional networks, else from their measurements."""

    def __init__(
        self, model: nn.Module, radon: Radon, pairs: tuple[Tensor, Tensor], noise_db: float, *, from_fbp: bool = True
    ) -> None:
        super().__init__("train", model, {"noise_db": noise_db, "images": len(pairs[0])}, "setting")
        self.pairs, self.noise_db, self.from_fbp = pairs, noise_db, from_fbp
        self.fbp = copy.deepcopy(radon).to(self.device).fbp  # a function: the operator is nothing to be trained

    def draw(self, batch: int, *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return measurements (batch, 1, views, bins) and slices (batch, 1, N, N)."""
        which = torch.randint(len(self.pairs[0]), (batch,), generator=generator)
        return add_noise(self.pairs[1][which], self.noise_db, generator=generator), self.pairs[0][which]

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Mean square error relative to the mean square of the back-projections."""
        fbp = self.fbp(y)
        with torch.autocast(fbp.device.type, torch.bfloat16, enabled=fast_bfloat16(fbp.device)):
            z = self.model(fbp if self.from_fbp else y)
        scale = fbp.square().mean((1, 2, 3), keepdim=True)
        loss: Tensor = ((z.float() - x).square() / scale).mean()
        return 10 * loss


class Normalised(nn.Module):
    """A network on images divided by their root mean square, so that it knows no units either."""

    def __init__(self, network: nn.Module, multiple: int = 8) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network to x (B, 1, H, W); sides are repeated up to a multiple of 8."""
        scale = x.square().mean((1, 2, 3), keepdim=True).sqrt()
        beyond = (0, -x.shape[3] % self.multiple, 0, -x.shape[2] % self.multiple)
        x_ = nn.functional.pad(x / scale, beyond, mode="replicate").contiguous(memory_format=torch.channels_last)
        z: Tensor = self.network(x_)
        return z[:, :, : x.shape[2], : x.shape[3]] * scale


def unet(seed: int) -> nn.Module:
    """Return deepinv's U-Net (Jin et al., TIP 2017), untrained, from back-projection to slice.

    With half the paper's channels, 2.2 M parameters: at a given budget it is trained the further.
    """
    from deepinv.models import UNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(1, 1, channels_per_scale=(32, 64, 128, 256))
    return Normalised(network.to(memory_format=torch.channels_last))


def train_for(task: Task, path: Path, args: argparse.Namespace, name: str, rate: float = 1e-3) -> dict[str, Any]:
    """Train for args.minutes, or go on where the checkpoint at `path` stops; return the checkpoint's contents."""
    state = load_checkpoint(path) if path.exists() else None
    if state is None or state["seconds"] < 60 * args.minutes:
        print(f"{name}: {args.minutes:g} minutes", flush=True)
        options = TrainingOptions(minutes=args.minutes, batch=args.batch, seed=args.seed, rate=rate)
        try:
            train(task, options, checkpoint=path, resume=True, progress=not args.smoke)
        except Interrupted as stop:
            print(f"{name}: {stop}; the same command goes on from there", file=sys.stderr)
            sys.exit(128 + stop.number)
        state = load_checkpoint(path)
    task.model.load_state_dict(state["average"])
    task.model.eval().requires_grad_(False)
    return state


def checkpoints(args: argparse.Namespace, data: Scans) -> Path:
    """Return the folder of this recipe's checkpoints; refuse one that was begun with other settings or other slices."""
    names = ("data", "batch", "slices", "size", "views", "noise_db", "seed")
    settings = {f"--{name.replace('_', '-')}": str(getattr(args, name)) for name in names}
    pairs = (data.train, *data.tests.values())
    # In steps of a thousandth: the last bits of a simulation differ from one machine to the next.
    steps = [(x / x.max() * 1000).round().to(torch.int16).numpy() for x, _ in pairs]
    settings["slices"] = f"checksum {functools.reduce(lambda crc, x: zlib.crc32(x, crc), steps, 0):08x}"
    return settled(args, settings)


def score(reconstruct: Callable[[Tensor], Tensor], pair: tuple[Tensor, Tensor]) -> tuple[float, float, Tensor]:
    """Mean PSNR in dB and SSIM (data range: a slice's maximum), and the first reconstruction (N, N)."""
    x, y = pair
    with torch.no_grad():
        found = [reconstruct(one[None])[0].float().cpu().clamp(min=0) for one in y]  # attenuation is not negative
    each: Sequence[tuple[float, float]] = [
        (psnr(z, t, data_range=float(t.max())), ssim(z[None], t[None], data_range=float(t.max())))
        for z, t in zip(found, x, strict=True)
    ]
    mean = [sum(values) / len(each) for values in zip(*each, strict=True)]
    return mean[0], mean[1], found[0][0]
