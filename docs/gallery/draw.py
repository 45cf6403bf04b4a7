"""Run the recipes without a figure on the results page, and keep their figures for the gallery.

    python docs/gallery/draw.py                 # all of them: minutes
    python docs/gallery/draw.py tomography      # by name

Figures are reduced to the width of a page, as JPEG. The recipes print their numbers as usual.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "api")]

from cards import recipes  # noqa: E402

WIDTH = 1200
"""Width of the figures in pixels."""
QUALITY = 88


def draw(recipe: Path, target: Path) -> None:
    """Run a recipe and write its figure, reduced."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(recipe), "--output", folder], check=True, cwd=ROOT)
        with Image.open(Path(folder) / f"{recipe.stem}.png") as image:
            width = min(WIDTH, image.width)
            size = (width, round(image.height * width / image.width))
            small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    target.parent.mkdir(exist_ok=True)
    small.save(target, quality=QUALITY, optimize=True)


def main() -> None:
    """Parse the command line and draw."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("names", nargs="*", help="recipes (default: all without a figure on the results page)")
    names = p.parse_args().names
    found = {r.path.stem: r for r in recipes(ROOT) if r.path.parent.name == "recipes"}
    wanted = names or [name for name, r in found.items() if not (r.figure or "").startswith("figures/")]
    unknown = sorted(set(wanted) - set(found))
    if unknown:
        p.error(f"no such recipe: {', '.join(unknown)}; choose from {', '.join(found)}")
    for name in wanted:
        draw(found[name].path, FOLDER / "figures" / f"{name}.jpg")


if __name__ == "__main__":
    main()
