"""Memory and time of one training iteration of GLIMPSE by resolution, beside a U-Net on filtered back-projections.

Claims: memory and time of an iteration hardly grow with the image: at 1024 x 1024 at most 5 GB, on a GPU under a second
(the original: 5 GB, and a U-Net 140 GB, with 64 images per step, arXiv 2401.00816). There are 30 views, and bins that
cover the image. "GLIMPSE" takes 64 slices per step and 512 points of each, as the original does; "GLIMPSE, local" 8
slices and 32 x 32 points; the U-Net one whole slice, as more would not fit. An iteration is filtering (not for the
U-Net, which is given the back-projection), forward, backward, and the optimiser's step. Every figure comes from a fresh
process, the time from a second iteration; making measurements and weights is not included.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

import torch
from report import Row, main
from timing import Spread, fresh_process, peak_growth, seconds
from torch import Tensor, nn

from pnp.learned import Glimpse
from pnp.learned.glimpse_data import ARCHITECTURES
from pnp.training.muon import fast_bfloat16

VIEWS = 30
LIMIT_S = 900.0
SLICES = {"GLIMPSE": 64, "GLIMPSE, local": 8, "U-Net": 1}
"""Slices per step."""


def glimpse_step(kind: str, size: int, slices: int, device: str) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a model, and a function that computes its loss on random patches of random measurements."""
    architecture, patches = ARCHITECTURES[kind]
    bins = int(1.4143 * size) + 2
    model = Glimpse((size, size), torch.arange(VIEWS) * (torch.pi / VIEWS), n_detectors=bins, **architecture).to(device)
    g = torch.Generator().manual_seed(0)
    n, count = patches["patch"], patches["patches"]
    y = torch.rand(slices, 1, VIEWS, bins, generator=g).to(device)
    x = torch.rand(slices, count, n, n, generator=g).to(device)
    corners = ((torch.rand(slices, count, 2, generator=g) - 0.5) * (size - n)).to(device)
    return model, lambda: (model.patches(model.prepare(y), corners, n, n) - x).square().mean()


def unet_step(size: int, slices: int, device: str) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return deepinv's U-Net (Jin et al.), and a function that computes its loss on whole slices."""
    from deepinv.models import UNet

    model = UNet(1, 1, channels_per_scale=(64, 128, 256, 512)).to(device)
    x = torch.rand(slices, 1, size, size, generator=torch.Generator().manual_seed(0)).to(device)

    def loss() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=fast_bfloat16(x.device)):
            z = model(x)
        return (z.float() - x).square().mean()

    return model, loss


def probe(name: str, size: int) -> None:
    """Print peak memory and seconds of one iteration as JSON; runs in a fresh process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "U-Net":
        model, loss = unet_step(size, SLICES[name], device)
    else:
        model, loss = glimpse_step("local" if "local" in name else "pointwise", size, SLICES[name], device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    growth = peak_growth(step)
    if device == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats()
    taken = seconds(step)
    print(json.dumps({"bytes": torch.cuda.max_memory_allocated() if device == "cuda" else growth, "seconds": taken}))


def iterations(quick: bool) -> Iterator[Row]:
    """Yield memory and time of an iteration at every resolution; ratios are to the smallest."""
    first: dict[str, tuple[Spread, Spread]] = {}
    where = "GPU" if torch.cuda.is_available() else "CPU"
    for size in (48, 64) if quick else (128, 256, 512, 1024):
        for name, slices in SLICES.items():
            found = fresh_process(__file__, "--probe", name, str(size), limit_s=LIMIT_S)
            what, note = f"{size}x{size}, {slices} slices", f"{where}; ratio to the smallest"
            if isinstance(found, str):
                yield Row(f"iteration, memory {what}", name, None, "B", note=found)
                continue
            memory, time = Spread((float(found["bytes"]),)), Spread((float(found["seconds"]),))
            first.setdefault(name, (memory, time))
            judged = size == 1024 and name != "U-Net"
            limit = ("<=", 5e9) if judged else None
            yield Row(f"iteration, memory {what}", name, memory, "B", target=limit, note=where)
            yield Row(f"  growth of memory {what}", name, None, "", ratio=memory / first[name][0], note=note)
            limit = ("<=", 1.0) if judged and where == "GPU" else None
            yield Row(f"iteration, time {what}", name, time, target=limit, note=where)
            yield Row(f"  growth of time {what}", name, None, "", ratio=time / first[name][1], note=note)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        probe(sys.argv[2], int(sys.argv[3]))
    else:
        main("GLIMPSE: one training iteration by resolution", {"iterations": iterations})
