"""Every physics of deepinv in `solve`: the linear ones reconstruct, without a false alarm; the others are refused.

python tests/pnp/drivers/test_deepinv_sweep.py      writes the table of docs/deepinv_physics.md
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parents[2] / "support")]

from deepinv_rows import N, Row, deepinv, rows
from paths import ROOT

from pnp import Result, solve
from pnp.metrics import psnr

PAGE = ROOT / "docs" / "deepinv_physics.md"
NEEDS = {"NonCartesianMRI": "mri-nufft", "PET": "parallelproj", "RadioInterferometry": "torchkbnufft"}
"""Physics that another package does, which is not among ours to install."""
GPU = {"TomographyWithAstra"}
"""Physics that a CPU cannot do."""
MARGIN = 0.3
"""How many dB may be lost to another machine, or another version of PyTorch or deepinv."""
ROWS = rows()
WORKING = [row for row in ROWS if not row.refused]
REFUSED = [row for row in ROWS if row.refused]

# deepinv warns about its own defaults and deprecations.
pytestmark = pytest.mark.filterwarnings("ignore:::deepinv")


def measure(row: Row) -> tuple[Any, Any, Any]:
    """Return the physics, the truth and the measurements."""
    torch.manual_seed(0)
    physics, x = row.make(), row.image()
    with torch.no_grad():
        return physics, x, physics(x)


def plain(physics: Any, x: Any, y: Any) -> float:
    """Return the better PSNR of the adjoint and deepinv's pseudo-inverse, in dB for a range of 1."""
    found = []
    for inverse in (physics.A_adjoint, physics.A_dagger):
        with torch.no_grad():
            quality = float(psnr(inverse(y), x, data_range=1))
        found.append(quality if math.isfinite(quality) else -math.inf)
    return max(found)


def reconstruct(row: Row, physics: Any, y: Any) -> Result:
    """Solve with nothing chosen: the noise level is the physics' own."""
    return solve(physics, y, row.denoiser())


def refusal(row: Row) -> str:
    """Return the message by which `solve` refuses a row, empty where it does not."""
    physics, _, y = measure(row)
    try:
        reconstruct(row, physics, y)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def documented() -> dict[str, float]:
    """Return what the page says of each row that works, in dB."""
    lines = re.findall(
        r"^\| (.+?) \| -?[\d.]+ \| (-?[\d.]+) \| [\d.]+ \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {name: float(quality) for name, quality in lines}


@pytest.mark.slow
@pytest.mark.parametrize("row", WORKING, ids=lambda row: row.name)
def test_it_reconstructs_without_a_false_alarm(row: Row) -> None:
    physics, x, y = measure(row)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = reconstruct(row, physics, y)
    said = [str(warning.message) for warning in caught if str(warning.message).startswith("solve")]
    quality = float(psnr(result.x, x, data_range=1))
    assert result.x.shape == x.shape and result.x.dtype == x.dtype
    assert quality > max(documented()[row.name] - MARGIN, plain(physics, x, y))
    if row.warned:
        assert any(row.warned in sentence for sentence in (*said, *result.warnings))
    else:
        assert result.warnings == () and said == []
    assert not result.noise_estimated


@pytest.mark.slow
@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_what_cannot_be_right_is_refused_in_one_sentence(row: Row) -> None:
    message = refusal(row)
    assert row.refused in message and len(message) < 400 and "\n" not in message


def test_every_physics_of_deepinv_has_a_row_and_a_line_in_the_docs() -> None:
    classes = {
        name
        for name, kind in inspect.getmembers(deepinv.physics, inspect.isclass)
        if issubclass(kind, deepinv.physics.Physics) and kind.__module__.startswith("deepinv.physics")
    }
    bases = {"DecomposablePhysics", "Physics"}
    assert classes <= {row.cls for row in ROWS} | set(NEEDS) | GPU | bases
    text = PAGE.read_text(encoding="utf-8")
    assert not [row.name for row in ROWS if f"| {row.name} |" not in text]
    assert not [name for name in (*NEEDS, *GPU) if name not in text]


def table() -> str:
    """Return the page: what works, with its figures, and what is refused, with its message."""
    lines = [
        "# deepinv's physics in solve",
        "",
        f"Every physics of deepinv {deepinv.__version__}, on crops of scikit-image's pictures of {N} x {N} or 32 x 32",
        "pixels, with deepinv's Gaussian noise of 0.03 (tomography 0.01, `Denoising` 0.05) in units of y. The call is",
        "`solve(physics, y, D)`: nothing is chosen, and the noise level is the physics' own. D is MLPatch for colours,",
        "each channel, each slice, or real and imaginary part. Plain is the better of `A_adjoint` and `A_dagger`. PSNR",
        "in dB for a range of 1. `python tests/pnp/drivers/test_deepinv_sweep.py` writes this page, and",
        "`python -m pytest -m slow tests/pnp/drivers/test_deepinv_sweep.py` compares with it.",
        "",
        "| physics | plain | solve | misfit |",
        "|---|---|---|---|",
    ]
    for row in WORKING:
        physics, x, y = measure(row)
        result = reconstruct(row, physics, y)
        quality, simple = float(psnr(result.x, x, data_range=1)), plain(physics, x, y)
        lines.append(f"| {row.name} | {simple:.1f} | {quality:.1f} | {result.misfit:.2f} |")
        print(lines[-1], *result.warnings, flush=True)
    lines += [
        "",
        "Two things are mended: an `A_adjoint_A` that is not A\\*A, as in the multi-scale wrappers, is said and not",
    ]
    lines += [
        "used, and where random patterns measure the mean far more strongly than all else, noise levels follow from"
    ]
    lines += [
        "the rest. Refused, before anything is computed in vain:",
        "",
        "| physics | what solve says |",
        "|---|---|",
    ]
    for row in REFUSED:
        said = refusal(row).replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| {row.name} | {said} |")
        print(lines[-1], flush=True)
    packages = ", ".join(f"`{name}` ({package})" for name, package in sorted(NEEDS.items()))
    lines += ["", f"Not tried here: {packages},", "which need another package, and"]
    lines[-1] += f" {', '.join(f'`{name}`' for name in sorted(GPU))}, which needs a GPU."
    lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PAGE.write_text(table(), encoding="utf-8")
