"""PSNR of MLPatch on a folder of clean images, by noise level and stride.

    python benchmarks/denoising_quality.py --data Set12
    python benchmarks/denoising_quality.py --data Set12 --ensemble --strides 2
    python benchmarks/denoising_quality.py --data photographs --weights color
    python benchmarks/denoising_quality.py --data photographs --weights gray --channels 3    # each channel separately

Data range 1, output clipped to [0, 1], noise of image i (by name) from seed i, mean over the images.
"""

from __future__ import annotations

import argparse
import functools
import time

from denoisers import Equivariant, MLPatch, PerChannel
from denoisers.mlpatch.geometry import grid_taps
from pnp.training import denoising_psnr
from pnp.training.images import load_folder


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", required=True, help="folder of clean images")
    p.add_argument("--weights", default="gray", help="a packaged name or a .safetensors file")
    p.add_argument("--strides", type=int, nargs="+", help="default: that of the weights, and 1")
    p.add_argument("--sigmas", type=float, nargs="+", default=[5, 15, 25, 50], help="noise levels times 255")
    p.add_argument(
        "--channels", type=int, choices=(1, 3), help="channels of the images (default: those of the weights)"
    )
    p.add_argument("--ensemble", action="store_true", help="average over the eight turns and flips (Equivariant)")
    args = p.parse_args()
    D = MLPatch.from_pretrained(args.weights)
    args.strides = args.strides or [D.stride, 1]
    channels = args.channels or D.channels
    if D.channels not in (1, channels):
        p.error(f"--weights {args.weights} are for {D.channels} channels")
    images = [x.float() / 255 for x in load_folder(args.data, channels)]
    taps = D.network.taps.detach()
    moved = (taps - grid_taps(round(len(taps) ** 0.5))).norm(dim=-1)
    print(f"taps moved by {moved.mean():.2f} pixels on average, at most {moved.max():.2f}")
    print(f"| sigma x 255 | {' | '.join(f'stride {s}' for s in args.strides)} |")
    print(f"|---|{'---|' * len(args.strides)}")
    for sigma in args.sigmas:
        cells = []
        for stride in args.strides:
            start = time.perf_counter()
            strided = functools.partial(D, stride=stride)
            strided = Equivariant(strided) if args.ensemble else strided
            value = denoising_psnr(strided if D.channels == channels else PerChannel(strided), images, sigma / 255)
            cells.append(f"{value:.2f} dB ({time.perf_counter() - start:.1f} s)")
        print(f"| {sigma:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
