"""Turn the plain text of our docstrings into reStructuredText.

Docstrings are written to be read in an editor: equations and tables are indented or aligned, code stands between
single backticks, and `*`, `|` and `_` are mathematics. reStructuredText takes these for markup; here they are escaped,
and names that the reference documents become links. Sections such as "Args:" are left to Sphinx's napoleon.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
COLUMNS = re.compile(r"\S {2,}\S")
CODE = re.compile(r"`([^`]+)`")
MARKUP = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")
OPENERS = " \n'\"([{<-/:"
"""Characters that may stand before inline markup."""


def inline(text: str, link: Callable[[str], str | None]) -> str:
    """Return text with its mathematics escaped, and the words between backticks as code or as links.

    Args:
        text: one paragraph.
        link: returns the full name of a documented object, or None if the reference does not document it.

    >>> inline("|D|^2 of `Mask` is `m * m`", {"Mask": "operators.Mask"}.get)
    '\\\\|D\\\\|^2 of :py:obj:`~operators.Mask` is ``m * m``'
    """
    out, end = [], 0
    for match in CODE.finditer(text):
        out.append(MARKUP.sub(r"\\\g<0>", text[end : match.start()]))
        code = " ".join(match[1].split())
        name = link(code.removesuffix("()"))
        before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        out.append("" if not before or before in OPENERS else "\\ ")
        out.append(f"``{code}``" if name is None else f":py:obj:`~{name}`")
        out.append("\\ " if after.isalnum() else "")
        end = match.end()
    return "".join([*out, MARKUP.sub(r"\\\g<0>", text[end:])])


def to_rst(text: str, link: Callable[[str], str | None]) -> list[str]:
    """Return the lines of a docstring, without common indentation, as reStructuredText.

    >>> to_rst("The model is\\n\\n    y = A* x.", {}.get)
    ['The model is', '', '.. code-block:: text', '', '    y = A* x.', '']
    """
    out: list[str] = []
    in_section = was_literal = False
    for block in _blocks(text):
        starts_left = not block[0].startswith(" ")
        if starts_left:
            in_section = bool(SECTION.match(block[0]))
        if block[0].lstrip().startswith(">>>"):
            out += [*block, ""]
        elif in_section:
            out += [*inline("\n".join(block), link).split("\n"), ""]
        elif not starts_left or _is_table(block):
            out += [] if was_literal else [".. code-block:: text", ""]
            out += [*(line if not starts_left else "    " + line for line in block), ""]
            was_literal = True
            continue
        else:
            out += [*inline("\n".join(block), link).split("\n"), ""]
        was_literal = False
    return out


def _blocks(text: str) -> Iterator[list[str]]:
    """Yield the blocks between blank lines; lines indented under a paragraph are a block of their own."""
    block: list[str] = []
    for line in [*text.split("\n"), ""]:
        is_item = bool(block) and (block[0].lstrip().startswith(("- ", ">>>")) or SECTION.match(block[0]) is not None)
        deeper = bool(block) and line.startswith("    ") and not block[-1].startswith(" ") and not is_item
        if block and (not line.strip() or deeper):
            yield block
            block = []
        if line.strip():
            block.append(line.rstrip())


def _is_table(block: list[str]) -> bool:
    return len(block) > 1 and all(COLUMNS.search(line) or line.startswith("  ") for line in block)
