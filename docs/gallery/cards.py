"""Write the gallery: a card and a page for every recipe, from its docstring, its options and its figure.

sphinx-gallery does not fit our recipes: it needs reStructuredText in their docstrings, figures through pyplot, no
arguments, and thumbnails named in comments. Ours are command lines that write a figure. Nothing is run to build these
pages.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from plain_text import inline, to_rst

LINK = re.compile(
    r"^(?P<fence>`{3,})[^\n]*\n.*?^(?P=fence) *$|`[^`\n]+`"
    r"|\[(?P<words>[^\]\n]*(?:\n[^\]\n]+)?)\]\((?P<path>(?!\w+:|#|/)[^)#\s]*)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)
"""Matches relative links of Markdown, with their anchors, and code, which is skipped."""
MIRRORS = (
    "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "recipes/README.md", "recipes/talk/README.md",
    "denoisers/weights/gray.md", "denoisers/weights/gray-open.md", "denoisers/weights/color.md",
    "denoisers/weights/convergence.md",
    "denoisers/weights/super_resolution.md", "pnp/learned/weights/lu177.md", "pnp/learned/weights/y90.md",
)  # fmt: skip
"""Pages outside docs/ that are copied into the documentation."""

NAMES = {"glimpse": "GLIMPSE", "glimpse_geometry": "GLIMPSE, wrong angles", "pnp_512": "Plug-and-play at 512 x 512"}
NAMES["super_resolution"] = "Super-resolution beside LIIF"
"""Titles of recipes whose docstrings do not begin with one."""


@dataclass(frozen=True)
class Recipe:
    """A script with its docstring, which begins with "Title: summary"."""

    path: Path
    root: Path

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree: recipes are parsed, not run."""
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def doc(self) -> str:
        """The docstring."""
        return ast.get_docstring(self.tree) or ""

    @property
    def relative(self) -> str:
        """The path in the repository."""
        return self.path.relative_to(self.root).as_posix()

    @property
    def page(self) -> str:
        """The name of its page."""
        return self.path.relative_to(self.root).with_suffix("").as_posix().replace("/", ".")

    @property
    def title(self) -> str:
        """The docstring's first words where a colon ends them, else the file's name."""
        title, colon, _ = self.doc.split("\n")[0].partition(": ")
        return title if colon and len(title) < 30 else NAMES.get(self.path.stem, _spaced(self.path.stem))

    @property
    def summary(self) -> str:
        """The first sentence."""
        first = self.doc.split("\n\n")[0].replace("\n", " ")
        text = first.removeprefix(f"{self.title}: ")
        return text[:1].upper() + text[1:]

    @property
    def text(self) -> str:
        """The docstring after its first sentence."""
        return self.doc.partition("\n\n")[2]

    @property
    def figure(self) -> str | None:
        """The path of the figure from the folder of the documentation; None if there is none.

        `docs/figures` holds the figures of the results page; where a recipe of the talk has the same name, the figure
        is the talk's. `docs/gallery/figures` holds those that `make gallery` drew.
        """
        twin = self.path.parent / "talk" / self.path.name
        results, drawn = f"figures/{self.path.stem}.png", f"gallery/figures/{self.path.stem}.jpg"
        if (self.root / "docs" / results).is_file() and not twin.is_file():
            return results
        return drawn if self.path.parent.name == "recipes" and (self.root / "docs" / drawn).is_file() else None

    @property
    def options(self) -> list[tuple[str, str]]:
        """The arguments that the script itself adds, with their help."""
        found = []
        for call in ast.walk(self.tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
                words = {k.arg: k.value for k in call.keywords}
                name, text = call.args[0], words.get("help")
                if isinstance(name, ast.Constant) and isinstance(text, ast.Constant):
                    default = words.get("default")
                    shown = "" if default is None or "default" in text.value else f" (default {ast.unparse(default)})"
                    found.append((name.value, text.value.replace("%%", "%") + shown))
        return found


def recipes(root: Path) -> list[Recipe]:
    """Return the recipes, those of the talk last; helpers and modules that draw nothing are left out."""
    paths = [*sorted((root / "recipes").glob("*.py")), *sorted((root / "recipes" / "talk").glob("*.py"))]
    found = [Recipe(path, root) for path in paths if not path.name.startswith("_")]
    return [r for r in found if "parser(__doc__" in r.path.read_text(encoding="utf-8")]


def write_cards(root: Path, folder: Path) -> Mapping[str, str]:
    """Write the cards, one page per recipe and the mirrored pages into a folder of docs/; return the latter's names.

    Args:
        root: folder of the repository.
        folder: a folder within root/docs.

    Returns:
        Names of the mirrored pages, from the folder of the documentation, by path in the repository.
    """
    here = folder.relative_to(root / "docs").as_posix()
    found = recipes(root)
    mirrors = {path: f"{here}/files/{path.removesuffix('.md').replace('/', '.')}" for path in MIRRORS}
    files = {f"{r.page}.rst": _page(r) for r in found}
    for group, talk in (("recipes", False), ("talk", True)):
        files[f"{group}.txt"] = _cards([r for r in found if (r.path.parent.name == "talk") == talk], here)
    for path, name in mirrors.items():
        text = (root / path).read_text(encoding="utf-8")
        files[f"files/{Path(name).name}.md"] = relink(text, (root / path).parent, root, mirrors)
    for name, text in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")
    for stale in {path for path in folder.rglob("*.*")} - {folder / name for name in files}:
        stale.unlink()
    return mirrors


def relink(text: str, folder: Path, root: Path, mirrors: Mapping[str, str]) -> str:
    """Return Markdown whose links to files of the repository lead to their pages; links to other files become text.

    Args:
        text: Markdown of a file in the folder.
        folder: folder that its links are relative to.
        root: folder of the repository.
        mirrors: page names by path.
    """

    def target(match: re.Match[str]) -> str:
        words, path, anchor = match["words"], match["path"], match["anchor"] or ""
        if path is None:
            return match[0]
        file = Path(os.path.normpath(folder / path))
        relative = file.relative_to(root).as_posix() if file.is_relative_to(root) else path
        if relative in mirrors:
            return f"[{words}](/{mirrors[relative]}.md{anchor})"
        if f"{relative}/README.md" in mirrors:
            return f"[{words}](/{mirrors[f'{relative}/README.md']}.md)"
        if relative.startswith("docs/"):
            return f"[{words}](/{relative.removeprefix('docs/')}{anchor})"
        return words  # there is no page of that file

    return LINK.sub(target, text)


# ---------------------------------------------------------------- reStructuredText


def _cards(found: list[Recipe], here: str) -> str:
    lines = [".. container:: cards", ""]
    for r in found:
        lines += ["   .. container:: card", ""]
        if r.figure:
            lines += [
                f"      .. image:: /{r.figure}",
                f"         :alt: {r.title}",
                f"         :target: {_html(r, here)}",
                "",
            ]
        lines += ["      .. rst-class:: title", "", f"      :doc:`{r.title} </{here}/{r.page}>`", ""]
        lines += [f"      {inline(r.summary, _no_link)}", ""]
    return "\n".join([*lines, ".. toctree::", "   :hidden:", "", *(f"   /{here}/{r.page}" for r in found), ""])


def _html(recipe: Recipe, here: str) -> str:
    """The page of a recipe as seen from that of the gallery, one folder above `here`."""
    return f"{here.split('/')[-1]}/{recipe.page}.html"


def _page(r: Recipe) -> str:
    lines = [r.title, "=" * len(r.title), "", inline(r.summary, _no_link), "", *to_rst(r.text, _no_link)]
    lines += [".. code-block:: shell", "", f"   python {r.relative}", ""]
    if r.figure:
        measured = "its data and figures of merit are in :doc:`/results`."
        drawn = f"as ``python {r.relative}`` draws it."
        lines += [f".. figure:: /{r.figure}", f"   :alt: {r.title}", "   :class: recipe-figure", ""]
        lines += [f"   {r.title}: {drawn if r.figure.startswith('gallery/') else measured}", ""]
    if r.options:
        lines += ["Options", "-------", "", ".. list-table::", "   :class: names", "   :widths: 25 75", ""]
        for name, text in r.options:
            lines += [f"   * - ``{name}``", f"     - {inline(text, _no_link)}"]
        lines += ["", "``--help`` lists those that all recipes share.", ""]
    lines += ["Source", "------", "", f".. literalinclude:: /../{r.relative}", "   :language: python", ""]
    return "\n".join(lines)


def _spaced(stem: str) -> str:
    return stem.replace("_", " ").capitalize()


def _no_link(name: str) -> None:
    return None
