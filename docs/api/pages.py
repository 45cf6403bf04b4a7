"""Write the pages of the reference: what the packages export, with the models that the modules' docstrings give.

A package has an index, and a page for every module that defines something it exports: the module's docstring, which
holds the equations, and the exported names as they are imported. A new export needs no change here. `MODULES` lists the
modules outside any `__init__` that users import by their own names; all their names without an underscore are public.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from plain_text import inline, to_rst

ROOTS = ("pnp", "operators", "denoisers")
MODULES = (
    "pnp.algorithms.linalg", "pnp.algorithms.protocols", "pnp.algorithms.schedules", "pnp.interop", "pnp.metrics",
    "pnp.plots",
)  # fmt: skip
"""Single modules that are documented as packages are."""
COMMANDS = "pnp.cli"
"""The package of the command line, which has a page of its own (command_line.py)."""
BASES = "Module, tuple, dict, Enum, BaseException, Protocol, Generic"
"""Classes whose members are left out where they are inherited."""
DIRECTIVES = {
    "class": "autoclass",
    "data": "py:data",
    "enum": "autoclass",
    "exception": "autoexception",
    "function": "autofunction",
}
SPECIAL = {"enum": enum.Enum, "exception": BaseException}
MAX_VALUE_LENGTH = 60
"""Constants with a longer `repr` are documented without their value, in characters."""


@dataclass(frozen=True)
class Export:
    """A public name: the package or module it is imported from, the module that defines it, and what it is."""

    name: str
    package: str
    module: str
    kind: str
    doc: str
    value: str = ""

    @property
    def path(self) -> str:
        """The name by which it is documented and imported."""
        return f"{self.package}.{self.name}"

    @property
    def summary(self) -> str:
        """The first paragraph of its docstring, in one line."""
        return " ".join(self.doc.split("\n\n")[0].split())


def exports() -> list[Export]:
    """Return all public names; a name that several packages export is documented in the first, the outermost."""
    found: dict[tuple[str, str], Export] = {}
    for name in [*ROOTS, *(inner for root in ROOTS for inner in _packages(root)), *MODULES]:
        package = importlib.import_module(name)
        for export in (_export(package, public) for public in _public(package)):
            found.setdefault((export.module, export.name), export)
    return list(found.values())


def _packages(name: str) -> Iterator[str]:
    """Yield the names of all packages within a package."""
    for found in pkgutil.iter_modules(importlib.import_module(name).__path__, f"{name}."):
        if found.ispkg and found.name != COMMANDS:
            yield found.name
            yield from _packages(found.name)


def _public(package: ModuleType) -> list[str]:
    """Return the names in `__all__` of a package, or those that a single module defines, without an underscore."""
    if hasattr(package, "__path__"):
        return list(getattr(package, "__all__", ()))
    defined = [name for name, value in vars(package).items() if getattr(value, "__module__", "") == package.__name__]
    documented = [name for name, text in _constants(package).items() if text]
    return [name for name in dict.fromkeys([*documented, *defined]) if not name.startswith("_")]


def _export(package: ModuleType, name: str) -> Export:
    value = getattr(package, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        kind = "function" if inspect.isfunction(value) else "class"
        if kind == "class":
            kind = next((k for k, base in SPECIAL.items() if issubclass(value, base)), kind)
        return Export(name, package.__name__, value.__module__, kind, inspect.getdoc(value) or "")
    module = _home(package, name, value)
    shown = repr(value) if len(repr(value)) <= MAX_VALUE_LENGTH else ""
    return Export(name, package.__name__, module.__name__, "data", _constants(module).get(name, ""), shown)


def _home(package: ModuleType, name: str, value: Any) -> ModuleType:
    """Return the module of the package that assigns a constant: the deepest that holds it and does not import it."""
    if not hasattr(package, "__path__") or name in _constants(package):
        return package
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        if getattr(module, name, None) is value and name in _constants(module):
            return module
    return package


def _constants(module: ModuleType) -> dict[str, str]:
    """Return what a module assigns at its top level, with the strings below that document it."""
    body = ast.parse(inspect.getsource(module)).body
    found = {}
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            names = [t.id for target in targets for t in ast.walk(target) if isinstance(t, ast.Name)]
            found |= {name: inspect.cleandoc(text) for name in names if isinstance(text, str)}
    return found


# ---------------------------------------------------------------- pages


def write_pages(folder: Path) -> dict[str, str]:
    """Write the pages into a folder, those that changed; return public paths by where things are defined."""
    public = exports()
    paths = {e.path: e.path for e in public} | {f"{e.module}.{e.name}": e.path for e in public}
    names = links(public)
    pages: dict[str, str] = {}
    packages = list(dict.fromkeys(e.package for e in public))
    for package in packages:
        mine = [e for e in public if package in (e.package, e.module)]
        lines = _head(package)
        lines += [".. list-table::", "   :class: names", "   :widths: 30 70", ""]
        for e in sorted(mine, key=lambda e: (e.module, e.name.lower())):
            lines += [f"   * - :py:obj:`~{e.path}`", f"     - {inline(e.summary, names.get) or e.value}"]
        lines += ["", ".. toctree::", "   :hidden:", ""]
        for module in sorted({e.module for e in mine} - set(packages) - set(pages)):
            pages[module] = "\n".join([*_head(module), *_body(module, public, names)])
            lines.append(f"   {module}")
        pages[f"{package}.index"] = "\n".join([*lines, "", *_body(package, public, names)])
    entries = [f"   generated/{name}" for name in pages if name.endswith(".index")]
    files = {f"{name}.rst": text for name, text in pages.items()}
    files["packages.txt"] = "\n".join([".. toctree::", "   :maxdepth: 1", "", *entries, ""])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for stale in set(folder.glob("*.rst")) - {folder / name for name in files}:
        stale.unlink()
    return paths


def links(public: list[Export]) -> dict[str, str]:
    """Return the paths of names as docstrings write them: bare where only one thing has the name, or with a module."""
    found: dict[str, str] = {}
    twice = set()
    for e in public:
        twice |= {e.name} & set(found)
        found |= {e.name: e.path, e.path: e.path, f"{e.package.removeprefix('pnp.')}.{e.name}": e.path}
        found[f"{e.module.rsplit('.', 1)[-1]}.{e.name}"] = e.path
    return {name: path for name, path in found.items() if name not in twice}


def _head(module: str) -> list[str]:
    return [module, "=" * len(module), "", f".. automodule:: {module}", "   :no-index:", ""]


def _body(module: str, public: list[Export], names: dict[str, str]) -> list[str]:
    lines: list[str] = []
    for e in (e for e in public if e.module == module):
        lines += ["", f".. currentmodule:: {e.package}", "", f".. {DIRECTIVES[e.kind]}:: {e.name}"]
        if e.kind in ("class", "exception"):
            lines += ["   :members:", f"   :inherited-members: {BASES}", "   :special-members: __call__"]
        if e.kind == "enum":
            lines += ["   :members:", "   :undoc-members:"]
        if e.kind == "data":
            lines += [f"   :value: {e.value}"] if e.value else []
            lines += ["", *("   " + line for line in to_rst(e.doc, names.get))]
    return [*lines, ""]
