"""Draw the overview: four problems, and for each what was measured, a peer's image, ours and the truth.

    python docs/gallery/overview.py             # runs four recipes: minutes
    python docs/gallery/overview.py --redraw    # draws what an earlier run kept in results/overview/

The recipes print their figures of merit as usual; those below the pictures are computed here in the same way.
"""

from __future__ import annotations

import argparse
import io
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "figures" / "overview.jpg"
ROWS = ("measurements", "peer", "ours", "truth")
WIDTH = 1400
"""Width of the figure in pixels."""
QUALITY = 80

Pictures = dict[str, np.ndarray]


@dataclass(frozen=True)
class Column:
    """A problem: its recipe, the recipe's variables that are used, and how pictures are made of them and shown.

    `part` selects the rows and columns that are shown; `score` compares whole images.
    """

    title: str
    recipe: str
    variables: tuple[str, ...]
    pictures: Callable[..., Pictures]
    measured: str
    peer: str
    score: Callable[[np.ndarray, np.ndarray], str]
    norm: Normalize
    part: tuple[slice, slice] = (slice(None), slice(None))
    cmap: str = "gray"


def plane(x: Any) -> np.ndarray:
    """Return the first image of a tensor as an array (H, W)."""
    x = x.detach().cpu().numpy()
    return x.reshape(-1, *x.shape[-2:])[0]


def tomography(y: Any, entries: Any, truth: Any) -> Pictures:
    """Return the sinogram, total variation, MLPatch and the true slice."""
    found = {entry.name: plane(entry.image) for entry in entries}
    return dict(zip(ROWS, (plane(y), found["ADMM + TV"], found["ADMM + MLPatch"], plane(truth)), strict=True))


def mass_mapping(y: Any, mask: Any, shown: Any, kappa: Any) -> Pictures:
    """Return the first component of the shear, the Wiener filter's map, MLPatch's and the true convergence."""
    found = {name.split("\n")[0]: plane(x) for name, x in shown.items()}
    wiener = next(x for name, x in found.items() if name.startswith("Wiener"))
    hidden = plane(mask) == 0
    measured, truth = (np.where(hidden, np.nan, plane(x)) for x in (y, kappa))
    return dict(zip(ROWS, (measured, wiener, found["ADMM + MLPatch"], truth), strict=True))


def spect(y: Any, em: Any, pnp: Any, truth: Any, k: Any) -> Pictures:
    """Return the first view and the slice through the lesion of OSEM, MLPatch and the truth, and their volumes."""
    volumes = [x[0, 0].cpu().numpy() for x in (em.image, pnp.image, truth)]
    slices = {row: x[:, :, k].T for row, x in zip(ROWS[1:], volumes, strict=True)}
    whole = {f"{row} volume": x for row, x in zip(ROWS[1:], volumes, strict=True)}
    return {"measurements": y[0, 0, 0].cpu().numpy().T[::-1], **slices, **whole}


def inpainting(y: Any, mask: Any, entries: Any, truth: Any) -> Pictures:
    """Return the pixels that were kept, linear interpolation, MLPatch and the true photograph."""
    found = {entry.name: plane(entry.image) for entry in entries}
    measured = np.where(mask.numpy(), plane(y), np.nan)
    images = (measured, found["linear interpolation"], found["ADMM + MLPatch"], plane(truth))
    return dict(zip(ROWS, images, strict=True))


def in_decibels(x: np.ndarray, truth: np.ndarray) -> str:
    """Return the PSNR, with the recipes' peak: 1 for images within [0, 1], and the range of the truth otherwise."""
    low, high = float(truth.min()), float(truth.max())
    peak = 1.0 if low >= 0 and 0.5 < high <= 1 else high - low
    return f"{10 * np.log10(peak**2 / np.mean((x - truth) ** 2)):.1f} dB"


def in_nrmse(x: np.ndarray, truth: np.ndarray) -> str:
    """Return the relative error where the truth is shown, means taken off, since shear does not measure them."""
    x, truth = x[np.isfinite(truth)], truth[np.isfinite(truth)]
    error, signal = (d - d.mean() for d in (x - truth, truth))
    return f"error {100 * np.linalg.norm(error) / np.linalg.norm(signal):.0f} %"


def in_mae(x: np.ndarray, truth: np.ndarray) -> str:
    """Return the mean absolute error over all voxels, relative to the activity."""
    return f"error {100 * np.abs(x - truth).sum() / truth.sum():.0f} %"


COLUMNS = (
    Column(
        "Tomography: 60 views, 40 dB", "tomography", ("y", "entries", "truth"), tomography,
        "sinogram", "total variation", in_decibels, Normalize(0.015, 0.03), (slice(96, 384), slice(76, 436)),
    ),
    Column(
        "Mass map: noise 10 x signal", "mass_mapping", ("y", "mask", "shown", "kappa"), mass_mapping,
        "shear, first component", "Wiener filter", in_nrmse, Normalize(-0.03, 0.06),
        (slice(100, 356), slice(90, 410)), "inferno",
    ),
    Column(
        "SPECT: 60 views, 177Lu", "spect", ("y", "em", "pnp", "truth", "k"), spect,
        "one view", "OSEM", in_mae, PowerNorm(0.5, 0, 65, clip=True), (slice(8, 56), slice(2, 62)), "inferno",
    ),
    Column(
        "Inpainting: 30 % of the pixels", "inpainting", ("y", "mask", "entries", "truth"), inpainting,
        "pixels kept", "linear interpolation", in_decibels, Normalize(0, 1), (slice(40, 232), slice(140, 380)),
    ),
)  # fmt: skip


def run(column: Column, output: Path) -> Pictures:
    """Run a recipe in this process and return its pictures."""
    path = ROOT / "recipes" / f"{column.recipe}.py"
    before = sys.argv, list(sys.path)
    sys.argv, sys.path[:0] = [str(path), "--output", str(output)], [str(path.parent), str(ROOT)]
    try:
        variables = runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before
    return column.pictures(**{name: variables[name] for name in column.variables})


def draw(columns: list[tuple[Column, Pictures]]) -> Figure:
    """Return the figure: a column for each problem."""
    figure = Figure(figsize=(12, 10.3), dpi=WIDTH / 12, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02, hspace=0.0, wspace=0.0)
    axes = figure.subplots(len(ROWS), len(columns), squeeze=False)
    for j, (column, pictures) in enumerate(columns):
        for axis, row in zip(axes[:, j], ROWS, strict=True):
            x = pictures[row]
            is_image = row != "measurements" or x.shape == pictures["truth"].shape
            part = x[column.part] if is_image else x
            spread = Normalize(*np.nanpercentile(x, [1, 99.5]))
            norm = column.norm if row != "measurements" or column.recipe == "inpainting" else spread
            axis.set_facecolor("0.85")
            axis.imshow(part, cmap=column.cmap, norm=norm, interpolation="nearest", aspect="auto")
            axis.set_box_aspect(0.8)
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(_caption(column, pictures, row), fontsize=10)
        axes[0, j].set_title(column.title, fontsize=11, fontweight="bold")
    return figure


def _caption(column: Column, pictures: Pictures, row: str) -> str:
    if row == "measurements":
        return f"measured: {column.measured}"
    if row == "truth":
        return "truth"
    x, truth = (pictures.get(f"{name} volume", pictures[name]) for name in (row, "truth"))
    return f"{'ours: ADMM + MLPatch' if row == 'ours' else column.peer}, {column.score(x, truth)}"


def main() -> None:
    """Parse the command line, run the recipes, and draw."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--redraw", action="store_true", help="draw what an earlier run kept")
    p.add_argument("--output", type=Path, default=ROOT / "results" / "overview", help="folder of the recipes' results")
    p.add_argument("--figure", type=Path, default=TARGET, help="the figure, a JPEG file")
    args = p.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    columns = []
    for column in COLUMNS:
        kept = args.output / f"{column.recipe}.npz"
        if not (args.redraw and kept.is_file()):
            np.savez_compressed(kept, **run(column, args.output))
        columns.append((column, dict(np.load(kept))))
    buffer = io.BytesIO()
    draw(columns).savefig(buffer, format="png")
    Image.open(buffer).convert("RGB").save(args.figure, quality=QUALITY, optimize=True)
    print(f"wrote {args.figure}, {args.figure.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
