"""Shared code of the recipes: arguments, test images, the table of figures, and files."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage.data
import skimage.transform
import torch
from torch import Tensor

from denoisers import MLPatch, SliceWise
from pnp import Result
from pnp.drivers.result_warning import ignore_result_warnings
from pnp.io import read_image, write_result
from pnp.metrics import psnr, ssim
from pnp.phantoms import head
from pnp.plots import save_panels

ignore_result_warnings()  # `print_verdict` prints them

IMAGES = ("camera", "head", "phantom", "moon", "brick", "grass", "astronaut", "coins", "page")


class Entry(NamedTuple):
    """One method: its name, its result (an image (B, C, H, W) or a Result), and its time in seconds."""

    name: str
    result: Tensor | Result
    seconds: float

    @property
    def image(self) -> Tensor:
        return self.result if isinstance(self.result, Tensor) else self.result.x


class Parser(argparse.ArgumentParser):
    """Parser that checks files before anything is computed; a bad one is a one-line error and exit code 2."""

    reads: Callable[[str], object] = staticmethod(read_image)

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        """Parse; read the input once, so that a broken file is found at once, and make the output folder."""
        args = super().parse_args(*arguments, **options)
        try:
            if args.input:
                self.reads(args.input)
            if hasattr(args, "weights"):
                MLPatch.from_pretrained(args.weights)
            args.output.mkdir(parents=True, exist_ok=True)
        except ValueError as error:
            self.exit(2, f"{self.prog}: {error}\n")
        except OSError as error:
            self.exit(2, f"{self.prog}: --output {args.output} cannot be made: {error.strerror}; name another folder\n")
        if not os.access(args.output, os.W_OK):
            self.exit(2, f"{self.prog}: --output {args.output} is not writable; name another folder\n")
        return args


def parser(
    description: str,
    image: str | None = "camera",
    *,
    reads: Callable[[str], object] = read_image,
    accepts: str = "your image: PNG, TIFF, NPY, HDF5 or FITS (default: built in)",
    strength: bool = False,
    weights: str | None = "gray",
) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all recipes share.

    Args:
        description: the recipe's docstring.
        image: default of --image; None: no such argument.
        reads: function that reads the input file, to check it.
        accepts: help on the input file.
        strength: whether there is an argument --strength, for recipes that call `solve`.
        weights: default of --weights, those of MLPatch; None: no such argument.
    """
    p = Parser(description=description.splitlines()[0])
    p.reads = reads
    p.add_argument("input", nargs="?", help=accepts)
    if image is not None:
        p.add_argument(
            "--image", choices=IMAGES, default=image, help="built-in image: a simulated head, or one from scikit-image"
        )
    if strength:
        p.add_argument(
            "--strength",
            type=number_or_auto,
            default=1.0,
            help="strength of the priors, see solve; auto: measurements that are held out choose it (default 1)",
        )
    if weights is not None:
        p.add_argument(
            "--weights", default=weights, help=f"weights of MLPatch: a packaged name or a file (default: {weights})"
        )
    p.add_argument("--seed", type=int, default=0, help="seed of the simulated measurements")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument(
        "--output",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder for <recipe>.png and <recipe>.h5, which are overwritten (default: results)",
    )
    p.add_argument("--smoke", action="store_true", help="small, quick run to test that everything works")
    return p


def volume_prior(args: argparse.Namespace) -> MLPatch | SliceWise:
    """Return a denoiser of volumes: MLPatch with --weights of its own for volumes, or on slices across all axes."""
    D = MLPatch.from_pretrained(args.weights)
    return D.to(args.device) if D.takes_volumes else slices_prior(args.weights, args.device)


def slices_prior(weights: str, device: str) -> SliceWise:
    """Return weights for images as a denoiser of volumes: on their slices across all three axes, averaged."""
    return SliceWise(MLPatch.from_pretrained(weights), axes=(0, 1, 2)).to(device)


def number_or_auto(text: str) -> float | str:
    """Read a number or "auto"; `solve` checks its range."""
    return text if text == "auto" else float(text)


def grey_image(args: argparse.Namespace, *, smoke_size: int = 96) -> Tensor:
    """Return the user's image, or a built-in one in [0, 1] of 512 x 512, as (1, 1, H, W); channels are averaged."""
    size = smoke_size if args.smoke else 512
    if args.input:
        pixels = read_image(args.input)
        pixels = pixels.mean(axis=0) if pixels.ndim == 3 else pixels
        pixels = pixels[:smoke_size, :smoke_size] if args.smoke else pixels
    else:
        if args.image == "head":
            return head(size).to(args.device)
        name = "shepp_logan_phantom" if args.image == "phantom" else args.image
        pixels = skimage.util.img_as_float32(getattr(skimage.data, name)())
        pixels = pixels.mean(axis=2) if pixels.ndim == 3 else pixels
        pixels = skimage.transform.resize(pixels, (size, size), anti_aliasing=True)
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None, None].to(args.device)


def picture(args: argparse.Namespace, *, smoke_size: int = 96) -> Tensor:
    """Return the user's picture, or a built-in one, as (1, 3, H, W); a grey one is repeated."""
    pixels = read_image(args.input) if args.input else None
    if pixels is None and args.image not in ("head", "phantom"):
        pixels = np.moveaxis(skimage.util.img_as_float32(np.atleast_3d(getattr(skimage.data, args.image)())), 2, 0)
    if pixels is None or pixels.ndim == 2 or len(pixels) != 3:
        return grey_image(args, smoke_size=smoke_size).repeat(1, 3, 1, 1)
    pixels = pixels[:, :smoke_size, :smoke_size] if args.smoke else pixels
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None].to(args.device)


def data_range(x: Tensor) -> float:
    """Return the peak for PSNR and SSIM: 1 for an image within [0, 1], otherwise its range."""
    low, high = float(x.min()), float(x.max())
    return 1.0 if low >= 0 and 0.5 < high <= 1 else high - low


def timed(name: str, compute: Callable[[], Tensor | Result]) -> Entry:
    """Run one method and time it; print the verdict of a `Result`."""
    start = time.perf_counter()
    entry = Entry(name, compute(), time.perf_counter() - start)
    print_verdict(name, entry.result)
    return entry


def print_verdict(name: str, result: Tensor | Result | float) -> None:
    """Print the misfit and the verdict of a `Result`, or a misfit alone; nothing of other methods."""
    if isinstance(result, float):
        print(f"{name}: misfit {result:.3g}, about 1 where the image explains the measurements")
    elif isinstance(result, Result):
        print(f"{name}: {result.verdict}")
        if result.choice:
            print(f"{name}: {result.n_iter} iterations, {result.choice}")


def print_table(entries: list[Entry], truth: Tensor) -> dict[str, Tensor]:
    """Print PSNR, SSIM and time of every method; return the panels of the figure, with the scores in their titles."""
    peak = data_range(truth)
    panels = {"truth": truth}
    for entry in entries:
        p, s = (metric(entry.image, truth, data_range=peak) for metric in (psnr, ssim))
        print(f"{entry.name:28s} PSNR {p:6.2f} dB   SSIM {s:6.4f}   {entry.seconds:6.2f} s")
        panels[f"{entry.name}\n{p:.2f} dB, SSIM {s:.3f}"] = entry.image
    return panels


def save(
    args: argparse.Namespace,
    panels: dict[str, Tensor],
    result: Tensor | Result,
    truth: Tensor | None,
    *,
    denoiser: str,
    title: str,
    operator: str = "",
    parameters: dict[str, Any] | None = None,
    noise_std: float | None = None,
    limits: tuple[float, float] | None = None,
    cmap: str = "gray",
    label: str = "",
    rgb: bool = False,
) -> None:
    """Write DIR/<recipe>.png and DIR/<recipe>.h5, replacing earlier ones, and print their paths."""
    args.output.mkdir(parents=True, exist_ok=True)
    stem = args.output / Path(sys.argv[0]).stem
    figure, file = stem.with_suffix(".png"), stem.with_suffix(".h5")
    attributes: dict[str, Any] = {"denoiser": denoiser, "command": shlex.join(sys.argv)}
    x, history = result, None
    if isinstance(result, Result):
        x, history, noise_std = result.x, result.history, result.noise_std
        attributes |= {"stop": str(result.stop), "n_iter": result.n_iter, "misfit": result.misfit}
        if result.choice:
            attributes |= {"strength": result.strength, "strength_source": result.strength_source}
        print(f"{result.n_iter} iterations: {result.stop}")
    save_panels(figure, panels, title=title, limits=limits, cmap=cmap, label=label, rgb=rgb, overwrite=True)
    write_result(
        file,
        x,
        operator=operator,
        parameters=parameters,
        noise_std=noise_std,
        history=history,
        reference=truth,
        attributes=attributes,
        warnings=result.warnings if isinstance(result, Result) else None,
        rejected=result.rejected if isinstance(result, Result) else None,
        candidates=result.candidates if isinstance(result, Result) else (),
        overwrite=True,
    )
    print(f"wrote {figure} and {file}")
