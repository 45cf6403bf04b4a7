"""What import-linter does not see: what is imported when, how long files and functions are, how deep they nest.

The floors themselves, which package may import which, are the contracts in pyproject.toml; `make lint` checks them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

PACKAGES = ("pnp", "operators", "denoisers")
FOLDERS = (*PACKAGES, "tests", "recipes", "benchmarks")
MAX_LINES = 450
MAX_FUNCTION_LINES = 60
MAX_NESTING = 3
# The mathematics and what runs it are read like the paper.
READ_AS_TEXT = ("pnp/algorithms", "pnp/drivers")
# Oracles of the tests and benchmarks, or GPL: the packages never import them.
NEVER = {"astra", "healpy", "lenspack", "pytest", "hypothesis", "tests", "recipes", "benchmarks"}
# Costs over a second and 1500 modules: only inside the functions that need it.
LAZY = {"deepinv"}
NESTING = (ast.If, ast.For, ast.While, ast.With, ast.Try)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(node: ast.AST, lazy: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the top-level name of every absolute import, and whether it runs only when a function is called."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.split(".")[0], lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
            yield child.module.split(".")[0], lazy
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from imports(child, lazy=True)
        else:
            yield from imports(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def unwanted_imports(path: str, source: str) -> list[str]:
    """Return what a file of a package imports against the rules, in words."""
    found = []
    for name, lazy in imports(ast.parse(source)):
        if name == path.split("/")[0]:
            found.append(f"{path} imports its own package {name} absolutely; use a relative import")
        elif name in NEVER:
            found.append(f"{path} imports {name}, which serves tests and benchmarks only")
        elif name in LAZY and not lazy:
            found.append(f"{path} imports {name} at module level; import it inside the function")
    return found


def nesting(node: ast.AST) -> int:
    """Return how many compound statements stand inside each other; an elif is no deeper than its if."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child) + (isinstance(child, NESTING) and not is_elif))
    return deepest


@pytest.mark.parametrize(
    ("path", "source", "part"),
    [
        ("pnp/a.py", "from pnp.drivers.solve import solve", "relative"),
        ("denoisers/a.py", "class A:\n    import deepinv.models", "module level"),
        ("pnp/a.py", "if True:\n    from deepinv import physics", "module level"),
        ("operators/a.py", "def f():\n    import astra", "tests and benchmarks"),
    ],
)
def test_unwanted_imports_are_seen(path: str, source: str, part: str) -> None:
    (found,) = unwanted_imports(path, source)
    assert part in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("operators/a.py", "import torch\nfrom .base import LinearOperator"),
        ("denoisers/a.py", "class A:\n    def f(self):\n        import deepinv"),
        ("pnp/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import deepinv"),
    ],
)
def test_allowed_imports_pass(path: str, source: str) -> None:
    assert unwanted_imports(path, source) == []


def test_imports() -> None:
    found = [
        line
        for path in sources(*PACKAGES)
        for line in unwanted_imports(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_deepinv_is_not_loaded_by_importing_the_packages() -> None:
    code = "import sys, pnp, operators, denoisers; sys.exit('deepinv' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "importing the packages imports deepinv"


def test_packages_are_typed() -> None:
    assert [name for name in PACKAGES if not (ROOT / name / "py.typed").is_file()] == []


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*FOLDERS)}
    long = {path.relative_to(ROOT).as_posix(): n for path, n in lengths.items() if n > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines, split them: {long}"


def test_functions_are_short_and_flat() -> None:
    found = []
    for path in sources(*READ_AS_TEXT):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                # The docstring and the signature are not counted: they are read on their own.
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
                if lines > MAX_FUNCTION_LINES or nesting(node) > MAX_NESTING:
                    found.append(f"{path.name}: {node.name}, {lines} lines, nested {nesting(node)} deep")
    assert not found, "\n".join(found)


def test_the_nesting_of_a_chain_of_elif_is_one() -> None:
    code = "def f(x):\n    if x:\n        pass\n    elif x:\n        for _ in x:\n            pass"
    assert nesting(ast.parse(code).body[0]) == 2
