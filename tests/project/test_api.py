"""The public API: what the packages' `__init__` export and the documented modules hold, with their arguments.

A change of a name, an argument or a default changes tests/project/api.txt; regenerate it with

    python tests/project/test_api.py
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from paths import ROOT

sys.path.insert(0, str(ROOT / "docs" / "api"))
import pages

SNAPSHOT = Path(__file__).with_name("api.txt")


def arguments(function: Any) -> str:
    """Return the parameters of a function with their defaults, without annotations."""
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values() if p.name != "self"]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return re.sub(r"<class '([\w.]+)'>", r"\1", re.sub(r"<function .*? at 0x[0-9a-f]+>", "...", text))


def methods(value: type) -> list[str]:
    """Return the public methods that a class of ours defines itself."""
    own = {name: f for name, f in vars(value).items() if name[0] != "_" and not isinstance(f, property)}
    functions = {name: getattr(value, name) for name, f in own.items() if callable(getattr(f, "__func__", f))}
    return [f"    .{name}{arguments(f)}" for name, f in sorted(functions.items()) if inspect.isroutine(f)]


def described(export: pages.Export) -> list[str]:
    value = getattr(importlib.import_module(export.package), export.name)
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        return [f"{export.path}: {', '.join(member.name for member in value)}"]
    if inspect.isclass(value):
        fields = getattr(value, "_fields", None)  # of a NamedTuple
        if dataclasses.is_dataclass(value):
            fields = [f.name for f in dataclasses.fields(value)]
        try:
            made = f"{{{', '.join(fields)}}}" if fields is not None else arguments(value.__init__)
        except ValueError:  # a class of C
            made = ""
        return [f"{export.path}{made}", *methods(value)]
    return [f"{export.path}{arguments(value) if inspect.isfunction(value) else ''}"]


def snapshot() -> str:
    entries = sorted(pages.exports(), key=lambda export: export.path)
    return "\n".join(line for export in entries for line in described(export)) + "\n"


def test_the_public_api_is_that_of_the_snapshot() -> None:
    expected, found = SNAPSHOT.read_text(encoding="utf-8").splitlines(), snapshot().splitlines()
    gone, new = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    assert found == expected, "\n".join(["gone:", *gone, "new:", *new, "see the docstring of this file"])


def test_modules_have_no_list_of_public_names_of_their_own() -> None:
    files = [path for name in ("pnp", "operators", "denoisers") for path in (ROOT / name).rglob("*.py")]
    listing = [
        p for p in files if p.name != "__init__.py" and re.search(r"^__all__", p.read_text("utf-8"), re.MULTILINE)
    ]
    assert [path.relative_to(ROOT).as_posix() for path in listing] == []


def test_entries_of_the_first_level_are_few() -> None:
    """The folder listing is the table of contents."""
    entries = [p for p in (ROOT / "pnp").iterdir() if p.name[0] not in "_." and p.name != "py.typed"]
    assert len(entries) <= 19, sorted(p.name for p in entries)


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot(), encoding="utf-8")
