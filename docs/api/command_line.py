"""Write the page of the command line from the commands themselves: their help, arguments and options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plain_text import inline, to_rst


def write_command_line(path: Path) -> None:
    """Write the page, unless the file is up to date."""
    import typer

    from pnp.cli import app

    lines = ["Command line", "============", ""]
    for name, command in _commands(typer.main.get_command(app), "pnp"):
        lines += _section(name, command)
    text = "\n".join(lines)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands within a group, depth first."""
    inside = getattr(command, "commands", {})
    if not inside:
        yield name, command
    for word, found in sorted(inside.items()):
        yield from _commands(found, f"{name} {word}")


def _section(name: str, command: Any) -> list[str]:
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\n")
    lines = [name, "-" * len(name), "", *to_rst(text.strip(), _no_link)]
    if examples:
        shown = inspect.cleandoc(examples.partition("\n")[2]).split("\n")
        lines += [".. code-block:: shell", "", *("   " + line.strip() for line in shown), ""]
    lines += [".. list-table::", "   :class: names", "   :widths: 30 70", ""]
    for p in command.params:
        is_argument = not p.opts[0].startswith("-")
        words = p.name.upper() if is_argument else ", ".join([*p.opts, *p.secondary_opts])
        help_text = getattr(p, "help", None) or ""
        has_default = not (p.required or is_argument or callable(p.default) or p.default in (None, False, (), ""))
        default = f" Default: {p.default}." if has_default and "efault" not in help_text else ""
        lines += [f"   * - ``{words}``", f"     - {inline(help_text + default, _no_link)}"]
    return [*lines, ""] if command.params else lines[:-4]


def _no_link(name: str) -> None:
    return None
