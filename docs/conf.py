"""Sphinx configuration: pages in Markdown, the reference from docstrings, the gallery from the recipes.

Nothing is fetched, neither while building nor while reading: mathematics becomes MathML, and links are local.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.domains.python import PyObject

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "api"), str(DOCS / "gallery")]

import cards  # noqa: E402
import pages  # noqa: E402
from command_line import write_command_line  # noqa: E402
from plain_text import to_rst  # noqa: E402

import pnp  # noqa: E402

project = "pnp-local"
author = "the pnp-local developers"
project_copyright = author
version = release = pnp.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/.*"]
nitpicky = True

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
copybutton_exclude = ".linenos, .gp, .go"

for kind in PyObject.doc_field_types:
    if kind.name == "variable":
        kind.label = "Attributes"

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"

COLON, STAND_IN = re.compile(r"(?<=[^:\s]):(?=\s|$)"), "\ue000"
"""Napoleon takes the words before a colon for a type; in our docstrings they are a shape, part of the sentence."""

PATHS = pages.write_pages(DOCS / "api" / "generated")
LINKS = pages.links(pages.exports())
write_command_line(DOCS / "api" / "generated" / "command_line.txt")
MIRRORED = cards.write_cards(ROOT, DOCS / "gallery" / "generated")


def as_rst(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Read a docstring as plain text, before napoleon sees its sections."""
    lines[:] = to_rst("\n".join(lines), LINKS.get)
    is_value, in_returns = what in ("attribute", "data", "property"), False
    for i, line in enumerate(lines):
        if line and not line.startswith(" "):
            in_returns = line in ("Returns:", "Yields:")
        if is_value or (in_returns and line.startswith(" ")):
            lines[i] = COLON.sub(STAND_IN, line)


def with_colons(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Put the colons back, after napoleon."""
    lines[:] = [line.replace(STAND_IN, ":") for line in lines]


def resolve(app: Any, env: Any, node: nodes.Element, shown: nodes.Element) -> nodes.Node | None:
    """Link a name by its defining module to the page that documents it; leave names of other libraries as text."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].strip()
    if PATHS.get(target, target) != target:
        found = env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", PATHS[target], node, shown)
        if found is not None:
            return found  # type: ignore[no-any-return]
    # A page's own links must have a target; a signature may contain names that are not public.
    return None if node["reftype"] == "obj" and target.split(".")[0] in pages.ROOTS else shown


def to_mathml(writer: Any, node: nodes.Element) -> None:
    """Write an equation as MathML, which browsers show without scripts."""
    block = isinstance(node, nodes.math_block)
    mathml = tex2mathml(node.astext(), as_block=block)
    writer.body.append(f'<div class="math">{mathml}</div>' if block else mathml)
    raise nodes.SkipNode


def mirrored(app: Any, docname: str, source: list[str]) -> None:
    """Redirect links to Markdown files outside this folder to their copies in the documentation."""
    source[0] = cards.relink(source[0], (DOCS / docname).parent, ROOT, MIRRORED)


def setup(app: Any) -> None:
    """Connect the above to Sphinx."""
    app.connect("autodoc-process-docstring", as_rst, priority=100)
    app.connect("autodoc-process-docstring", with_colons, priority=900)
    app.connect("missing-reference", resolve)
    app.connect("source-read", mirrored)
    app.add_html_math_renderer("mathml", inline_renderers=(to_mathml, None), block_renderers=(to_mathml, None))
