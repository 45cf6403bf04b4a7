"""Fill `template.html` with the pictures, tables and charts of a result.

Text from files is escaped. The page's content security policy allows one script and one style sheet, by their hashes,
and forbids loading anything, even from the page's own folder. The same result gives the same page, byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io import SavedResult, atomic
from ..io.hdf5_units import IN_SLICES
from .candidates import candidate_charts
from .error_bars import error_bars
from .facts import notes, parameters_table, run_table, steps_list, summary
from .history import charts
from .images import (
    COLOUR_MAPS,
    MAX_ITEMS,
    PIXEL_BYTES,
    block_mean,
    colour_tables,
    pack,
    plan,
    quantise,
    robust_range,
    sample,
)
from .panels import Panel, channels_of, find_panels, is_lensing, survey_mask
from .peaks import mark_peaks
from .scores import score, scores_table, statistics_table, table
from .text import clean, escape, number
from .verdict import mask_pictures, verdict

Array = npt.NDArray[Any]


def write_report(
    path: str | os.PathLike[str],
    result: SavedResult,
    *,
    title: str = "Reconstruction",
    first: Mapping[str, npt.ArrayLike] | None = None,
    baselines: Mapping[str, npt.ArrayLike] | None = None,
    b_mode: npt.ArrayLike | None = None,
    units: str = "",
    steps: Sequence[str] = (),
    overwrite: bool = False,
    progress: bool = False,
) -> int:
    """Write a self-contained HTML page of a result, atomically.

    Args:
        path: the .html file to write.
        result: the reconstruction and how it was made, from `pnp.io.read_result`.
        title: heading of the page.
        first: first estimates by name, shaped as result.x; mass maps may have two channels, E and B.
        baselines: other reconstructions of the same measurements by name, shaped likewise.
        b_mode: B mode (B, 1, H, W) of a reconstructed mass map, if result.x has one channel.
        units: unit of x, "" if it has none.
        steps: sentences on what was done to the measurements, for a list of their own.
        overwrite: replace an existing file.
        progress: show a bar on stderr if it takes longer than a second.

    Returns:
        The size of the page in bytes.

    Raises:
        ValueError: pictures have different shapes or no pixels, or the path cannot be written.
        TypeError: pictures do not hold real numbers.
    """
    with atomic(path, overwrite=overwrite) as part:
        page = render(
            result,
            title=title,
            first=first,
            baselines=baselines,
            b_mode=b_mode,
            units=units,
            steps=steps,
            progress=progress,
        ).encode("utf-8")
        part.write_bytes(page)
    return len(page)


def render(
    result: SavedResult,
    *,
    title: str = "Reconstruction",
    first: Mapping[str, npt.ArrayLike] | None = None,
    baselines: Mapping[str, npt.ArrayLike] | None = None,
    b_mode: npt.ArrayLike | None = None,
    units: str = "",
    steps: Sequence[str] = (),
    limit: int = PIXEL_BYTES,
    progress: bool = False,
) -> str:
    """Return the page of `write_report` as text.

    Args:
        result: as for `write_report`.
        title: as for `write_report`.
        first: as for `write_report`.
        baselines: as for `write_report`.
        b_mode: as for `write_report`.
        units: as for `write_report`.
        steps: as for `write_report`.
        limit: maximum size of the pixels in bytes, see `images.plan`.
        progress: as for `write_report`.
    """
    panels = find_panels(result, first=first, baselines=baselines, b_mode=b_mode)
    shape = panels[0].values.shape
    stored = plan(shape, len(panels), limit=limit)
    mask, lensing = survey_mask(result, shape), is_lensing(result)
    # First estimates may be all noise, so that the others set the scale.
    pooled = np.concatenate([sample(panel.values) for panel in panels if panel.role != "input"])

    texts, described, peaks, clipped = [], [], [], False
    for panel in _steps(panels, "pictures", progress):
        codes = quantise(block_mean(panel.values[list(stored.items)], stored.factor), stored.bits)
        about: dict[str, Any] = {
            "name": clean(panel.name, 120),
            "role": panel.role,
            "mode": panel.mode,
            "low": codes.low,
            "step": codes.step,
            "peaks": {},
        }
        if lensing:
            marks = mark_peaks(panel, mask, stored)
            peaks.append((panel.name, str(marks.n_peaks), number(marks.highest)))
            about["peaks"] = marks.marked
        described.append(about)
        texts.append(codes.text)
        clipped |= codes.clipped
    data = {
        "shape": stored.shape,
        "spacing": _spacing(result),
        "items": [_item_name(n, channels_of(result, shape), shape[0]) for n in stored.items],
        "bits": stored.bits,
        "factor": stored.factor,
        "panels": described,
        "seen": None if mask is None else pack(block_mean(mask[list(stored.items)], stored.factor) > 0),
        "auto": robust_range(pooled),
        "full": robust_range(pooled, 0.02),
        "units": clean(units, 40),
        "rgb": _is_colour(result, shape),
        "colours": {name: {"label": COLOUR_MAPS[name], "table": table} for name, table in colour_tables().items()},
        "colour": "inferno" if lensing or result.operator == "spect" else "gray",
    }
    scores = score(panels, mask, centred=lensing, step=lambda items: _steps(items, "scores", progress))
    style, script = _resource("style.css"), _resource("viewer.js")
    return Template(_resource("template.html")).substitute(
        policy=_policy(style, script),
        style=style,
        script=script,
        title=escape(title, 200),
        summary=summary(result, shape),
        verdict=verdict(result),
        steps=steps_list(steps),
        data=_json(data),
        pixels="".join(f'<script type="text/plain" class="pixels">{text}</script>\n' for text in texts),
        scores=scores_table(scores) or "<p>The file holds no truth, so there are no errors.</p>",
        statistics=statistics_table(panels)
        + (table("Peaks", ("picture", "number", "highest (robust std)"), peaks) if lensing else ""),
        error_bars=error_bars(result),
        history=_history(result),
        facts=run_table(result),
        parameters=parameters_table(
            {"operator": result.operator or "not named", **result.parameters, "noise_std": result.noise_std}
        ),
        command=escape(result.attributes.get("command", "") or "The file does not say."),
        notes="".join(f"<li>{escape(note)}</li>" for note in notes(stored, shape, clipped, panels, lensing, limit)),
    )


def _spacing(result: SavedResult) -> list[float]:
    """Return the relative sides of a voxel along x, y and z."""
    size = result.parameters.get("voxel_size")
    if isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(side, (int, float)) for side in size):
        transaxial, axial = size
        if transaxial > 0 and 0.01 < axial / transaxial < 100:
            return [1.0, 1.0, axial / transaxial]
    if result.operator in IN_SLICES and isinstance(size, (tuple, list)) and len(size) == 3:
        depth, height, width = size
        if all(isinstance(side, (int, float)) for side in size) and all(0.01 * s < width < 100 * s for s in size):
            return [1.0, height / width, depth / width]
    return [1.0, 1.0, 1.0]


def _item_name(n: int, channels: int, n_items: int) -> str:
    batch, channel = divmod(n, channels)
    names = [f"image {batch + 1} of {n_items // channels}"] if n_items > channels or channels == 1 else []
    return ", ".join(names + ([f"channel {channel + 1} of {channels}"] if channels > 1 else []))


def _is_colour(result: SavedResult, shape: tuple[int, ...]) -> bool:
    """Return whether three channels are red, green and blue, judged by their values or the denoiser."""
    three = np.ndim(result.x) in (3, 4) and np.shape(result.x)[-3] == 3
    if not three or len(shape) != 3 or shape[0] > MAX_ITEMS or is_lensing(result):
        return False
    low, high = robust_range(result.x)
    return -0.1 <= low < high <= 1.1 or "color" in str(result.attributes.get("denoiser"))


def _history(result: SavedResult) -> str:
    drawn, tried = charts(result.history), candidate_charts(result)
    if drawn:
        missing = ""
    elif "slices" in result.attributes:
        missing = "<p>Slices of a volume keep their misfits and numbers of iterations, not the history of them.</p>"
    else:
        missing = "<p>The file holds no history.</p>"
    drawn = tried + drawn + mask_pictures(result)
    return missing + (f'<div class="charts">{"".join(drawn)}</div>' if drawn else "")


def _steps(items: Sequence[Panel], name: str, progress: bool) -> Iterable[Panel]:
    from tqdm.auto import tqdm

    bar: Iterable[Panel] = tqdm(items, desc=f"report: {name}", disable=not progress, delay=1, leave=False)
    return bar


def _policy(style: str, script: str) -> str:
    """Return a content security policy that allows the page's own script and style and data: images only."""
    own = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{own[0]}'; script-src 'sha256-{own[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(data: Any) -> str:
    """Return JSON that cannot close its script element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")
