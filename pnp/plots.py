"""Save figures of images side by side on one colour scale; no display is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .io.atomic import atomic


def save_panels(
    path: str | os.PathLike[str],
    panels: Mapping[str, npt.ArrayLike | Tensor],
    *,
    title: str = "",
    limits: tuple[float, float] | None = None,
    cmap: str = "gray",
    label: str = "",
    n_columns: int | None = None,
    rgb: bool = False,
    overwrite: bool = False,
) -> None:
    """Save images side by side, each below its title, with one colour scale and one colour bar for all.

    The first row of an image is at the top; NaN is shown in light grey. A figure is written whole or not at
    all.

    Args:
        path: .png, .pdf or .svg file.
        panels: title -> image (H, W), or (..., H, W) of which the first is shown.
        title: heading of the figure.
        limits: (low, high) values of the colour scale; None: from the 0.5 to the 99.5 percentile of all
            panels.
        cmap: matplotlib colour map.
        label: name and unit of the values, beside the colour bar.
        n_columns: panels in a row; None: one row of up to four, or more rows.
        rgb: images are (..., 3, H, W), red, green and blue in [0, 1], shown as they are and without a colour bar.
        overwrite: replace a file of that name.

    Raises:
        ValueError: no panels, an image without two axes or, with `rgb`, three channels, or a path that cannot be
            written.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    if not panels:
        raise ValueError("save_panels: panels must hold at least one image, got none")
    images = {name: _plane(name, values, rgb) for name, values in panels.items()}
    if limits is None:
        values = np.concatenate([image[np.isfinite(image)] for image in images.values()])
        low, high = np.percentile(values, [0.5, 99.5]) if values.size else (0.0, 1.0)
        limits = (float(low), float(high))
    if n_columns is None:
        n_columns = len(images) if len(images) <= 4 else min(4, -(-len(images) // 2))
    n_columns = min(n_columns, len(images))
    n_rows = -(-len(images) // n_columns)
    height = 3.2 * max(image.shape[0] / image.shape[1] for image in images.values())
    figure = Figure(figsize=(3.2 * n_columns + 1.0, (height + 0.6) * n_rows + 0.4), dpi=150, layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    colours = colormaps[cmap].with_extremes(bad="0.85")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, image) in zip(axes.flat, images.items(), strict=False):
        shown = axis.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
        axis.set_title(name, fontsize=10)
    if not rgb:
        figure.colorbar(shown, ax=axes, shrink=0.8, label=label)
    figure.suptitle(title)
    with atomic(path, overwrite=overwrite) as part:
        figure.savefig(part)


def _plane(name: str, values: npt.ArrayLike | Tensor, rgb: bool) -> npt.NDArray[Any]:
    """Return the first image, (H, W) or (H, W, 3)."""
    image = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    n_axes, axes = (3, "..., 3, H, W") if rgb else (2, "..., H, W")
    if image.ndim < n_axes or image.size == 0 or (rgb and image.shape[-3] != 3):
        raise ValueError(f"save_panels: panel '{name}' must be an image ({axes}), got {image.shape}")
    first = image.reshape(-1, *image.shape[-n_axes:])[0]
    return first.transpose(1, 2, 0).clip(0, 1) if rgb else np.asarray(first)
