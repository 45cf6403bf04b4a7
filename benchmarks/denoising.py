"""MLPatch against deepinv's DRUNet and DnCNN: time and peak memory by image size, on the CPU.

Claims: at 512x512 in less than 0.3 s on two cores, at least 10 times faster than DRUNet and 4 times faster than DnCNN;
the peak memory beyond input and output is the same within 20 % for 512, 2048 and 8192 pixels squared. The peers have
random weights, which affects neither. They run in float32, their default, and under bfloat16 autocast, since MLPatch
multiplies in bfloat16 where the processor supports it.

Up to 1024 times come from interleaved rounds; from 2048 on, and for every peak, from one call in a separate process.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from report import Row, main
from skimage import data
from timing import Spread, fresh_process, interleaved, peak_growth, seconds
from torch import Tensor

from denoisers import MLPatch

SIGMA = 25 / 255
LIMIT_S = 180.0  # for one peer in a separate process
PEERS = ("DRUNet", "DnCNN")


def picture(size: int) -> Tensor:
    """Return the noisy cameraman, tiled to (1, 1, size, size), in [0, 1] without the noise."""
    camera = data.camera().astype(np.float32) / 255
    tiles = np.tile(camera, 2 * [math.ceil(size / 512)])[:size, :size]
    x = torch.from_numpy(tiles)[None, None]
    return x + SIGMA * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def mlpatch() -> tuple[MLPatch, bool]:
    """Return MLPatch with the grey weights and True, or with random ones and False if they are missing."""
    try:
        return MLPatch.from_pretrained("gray"), True
    except ValueError:
        return MLPatch().eval(), False


@functools.cache
def network(name: str) -> Any:
    """Return one of deepinv's networks with random weights."""
    import deepinv.models

    return getattr(deepinv.models, name)(in_channels=1, out_channels=1, pretrained=None).eval()


def denoiser(name: str) -> Callable[[Tensor], Any]:
    """Return a denoiser of one grey image by its name in the table."""
    if name.startswith("MLPatch"):
        model: Any = mlpatch()[0]
        model.precision = "float32" if name.endswith("float32") else "auto"
    else:
        model = network(name.removesuffix(" bf16"))

    @torch.no_grad()
    def run(x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name.endswith("bf16")):
            return model(x, SIGMA)

    return run


def times(quick: bool) -> Iterator[Row]:
    """Yield seconds per image, and the time of MLPatch over that of its matrix products alone."""
    names = ["MLPatch", *PEERS, *(f"{p} bf16" for p in PEERS), "MLPatch float32"]
    models = {name: denoiser(name) for name in names}
    for size in (48,) if quick else (256, 512, 1024):
        x = picture(size)
        calls = {name: partial(model, x) for name, model in models.items()}
        found = interleaved(calls, rounds=1 if quick else 3 if size > 512 else 5)
        for name in names:
            ratio = None if name == "MLPatch" else found[name] / found["MLPatch"]
            target = (">=", {"DRUNet": 10.0, "DnCNN": 4.0}[name]) if name in PEERS and size == 512 else None
            target = ("<=", 0.3) if (name, size) == ("MLPatch", 512) else target
            yield Row(f"denoise {size}x{size}", name, found[name], ratio=ratio, target=target)
        yield floor(x, found["MLPatch"], quick)


def floor(x: Tensor, taken: Spread, quick: bool) -> Row:
    """Return the time of MLPatch's matrix products at the rate of one large product in its dtype."""
    from torch.utils.flop_counter import FlopCounterMode

    model, _ = mlpatch()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x, SIGMA)
    flops, dtype, n = counter.get_total_flops(), model.compute_dtype(x), 128 if quick else 512
    rows, square = torch.randn(8192, n).to(dtype), torch.randn(n, n).to(dtype)
    product = interleaved({"gemm": lambda: torch.nn.functional.linear(rows, square)}, rounds=2 if quick else 9)["gemm"]
    rate = 2 * 8192 * n * n / product.median
    least = Spread((flops / rate,))
    name = str(dtype).removeprefix("torch.")
    note = f"ratio: MLPatch / floor; {flops / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s in {name}"
    return Row(f"denoise {x.shape[-1]}x{x.shape[-1]}", "floor: its GEMMs", least, ratio=taken / least, note=note)


def memory(quick: bool) -> Iterator[Row]:
    """Yield the peak memory beyond the loaded model, with and without input and output."""
    names = ["MLPatch"] if quick else ["MLPatch", *PEERS, *(f"{p} bf16" for p in PEERS)]
    sizes = (64, 128) if quick else (512, 1024, 2048, 8192)
    beyond: dict[int, Spread] = {}
    for size in sizes:
        ours: tuple[Spread, Spread] | None = None
        for name in names if size <= 2048 else names[:1]:
            got = fresh_process(__file__, "--probe", name, str(size), limit_s=LIMIT_S)
            if isinstance(got, str):
                yield Row(f"peak memory {size}x{size}", name, None, "B", note=got)
                continue
            peak, time = Spread((float(got["bytes"]),)), Spread((float(got["seconds"]),))
            if name == "MLPatch":
                ours = (peak, time)
                beyond[size] = peak - Spread((8.0 * size**2,))  # input and output, float32
            ratio = peak / ours[0] if ours and name != "MLPatch" else None
            yield Row(f"peak memory {size}x{size}", name, peak, "B", ratio=ratio)
            if size >= 2048:
                ratio = time / ours[1] if ours and name != "MLPatch" else None
                yield Row(f"denoise {size}x{size}", name, time, ratio=ratio, note="one call")
    smallest = min(beyond)
    for size, value in beyond.items():
        ratio = value / beyond[smallest] if beyond[smallest].median > 0 else None  # 0 for images of a few pixels
        target = ("<=", 1.2) if size > smallest else None
        note = f"ratio to {smallest}x{smallest}; input and output are {8 * size**2 / 1e6:.0f} MB more"
        yield Row(f"memory beyond images {size}x{size}", "MLPatch", value, "B", ratio=ratio, target=target, note=note)


def probe(name: str, size: int) -> None:
    """Print peak memory and seconds of one call as JSON; runs in a fresh process."""
    model = denoiser(name)
    model(picture(64))  # sets up tables and threads of the libraries
    taken: list[float] = []

    x = picture(size)
    growth = peak_growth(lambda: taken.append(seconds(lambda: model(x))))
    print(json.dumps({"bytes": growth + x.nbytes, "seconds": taken[0]}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        probe(sys.argv[2], int(sys.argv[3]))
    else:
        main("MLPatch against DRUNet and DnCNN (CPU)", {"times": times, "memory": memory})
