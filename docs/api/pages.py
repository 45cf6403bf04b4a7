"""Write the pages of the reference: what `__all__` exports, and the models that the modules' docstrings give.

A package has an index, and a page for every module that defines something it exports: the module's docstring, which
holds the equations, and the exported names as they are imported. A new export needs no new page here.
"""

from __future__ import annotations

import ast
import enum
import importlib
import importlib.util
import inspect
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from plain_text import inline, to_rst

__all__ = ["Export", "exports", "write_pages"]

ROOTS = ("pnp", "operators", "denoisers")
MODULES = ("interop", "linalg", "metrics", "plots", "protocols", "report", "schedules", "stack", "training")
"""Of `pnp`, used by their own names; those that are not there are passed over."""
BASES = "Module, tuple, dict, Enum, BaseException, Protocol, Generic"
"""Whose members are not ours to document."""
DIRECTIVES = {
    "class": "autoclass",
    "data": "py:data",
    "enum": "autoclass",
    "exception": "autoexception",
    "function": "autofunction",
}
SPECIAL = {"enum": enum.Enum, "exception": BaseException}
LONGEST_VALUE = 60
"""Characters of a constant that are shown."""


@dataclass(frozen=True)
class Export:
    """A public name: the module whose `__all__` lists it, the module that defines it, and what it is."""

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
    """Return all public names; one that a package re-exports is documented there and not in its module."""
    pnp = importlib.import_module("pnp")
    inside = [f"pnp.{m.name}" for m in pkgutil.iter_modules(pnp.__path__) if m.ispkg]
    single = [f"pnp.{name}" for name in MODULES if importlib.util.find_spec(f"pnp.{name}")]
    found: dict[tuple[str, str], Export] = {}
    for name in dict.fromkeys([*ROOTS, *inside, *single]):
        package = importlib.import_module(name)
        for export in (_export(package, public) for public in getattr(package, "__all__", ())):
            found.setdefault((export.module, export.name), export)
    return list(found.values())


def _export(package: ModuleType, name: str) -> Export:
    value = getattr(package, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        kind = "function" if inspect.isfunction(value) else "class"
        if kind == "class":
            kind = next((k for k, base in SPECIAL.items() if issubclass(value, base)), kind)
        return Export(name, package.__name__, value.__module__, kind, inspect.getdoc(value) or "")
    module = _home(package, name, value)
    shown = repr(value) if len(repr(value)) <= LONGEST_VALUE else ""
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
        for module in sorted({e.module for e in mine} - set(packages)):
            pages[module] = "\n".join([*_head(module), *_body(module, mine, names)])
            lines.append(f"   {module}")
        pages[f"{package}.index"] = "\n".join([*lines, "", *_body(package, mine, names)])
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


def _body(module: str, mine: list[Export], names: dict[str, str]) -> list[str]:
    lines: list[str] = []
    for e in (e for e in mine if e.module == module):
        lines += ["", f".. currentmodule:: {e.package}", "", f".. {DIRECTIVES[e.kind]}:: {e.name}"]
        if e.kind in ("class", "exception"):
            lines += ["   :members:", f"   :inherited-members: {BASES}", "   :special-members: __call__"]
        if e.kind == "enum":
            lines += ["   :members:", "   :undoc-members:"]
        if e.kind == "data":
            lines += [f"   :value: {e.value}"] if e.value else []
            lines += ["", *("   " + line for line in to_rst(e.doc, names.get))]
    return [*lines, ""]
