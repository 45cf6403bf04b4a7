"""The floors of the house: who imports whom, what is imported when, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pnp", "operators", "denoisers")
FOLDERS = (*PACKAGES, "tests", "recipes", "benchmarks")
MAX_LINES = 450

# The command line, where the packages meet.
COMMANDS = {f"pnp/cli{name}.py" for name in ("", "_em", "_files", "_report", "_stack", "_train", "_train_spect")}
# The fields and their readers use the operators; lensing has a default denoiser, too.
FIELDS = {f"pnp/{name}": {"pnp", "denoisers"} for name in ("ct", "learned", "readers", "spect")}
FIELDS["pnp/lensing"] = {"pnp"}
# Oracles of the tests and benchmarks, or GPL: the packages never import them.
NEVER = {"astra", "lenspack", "pytest", "hypothesis", "tests", "recipes", "benchmarks"}
# Costs over a second and 1500 modules: only inside the functions that need it.
LAZY = {"deepinv"}


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


def broken_floors(path: str, source: str) -> list[str]:
    """Return what a file of a package imports against the rules, in words."""
    package = path.split("/")[0]
    folder = "/".join(path.split("/")[:2])
    forbidden = {"pnp"} if path in COMMANDS else FIELDS.get(folder, set(PACKAGES))
    found = []
    for name, lazy in imports(ast.parse(source)):
        if name == package:
            found.append(f"{path} imports its own package {name} absolutely; use a relative import")
        elif name in forbidden:
            found.append(f"{path} imports {name}: a floor is broken")
        elif name in NEVER:
            found.append(f"{path} imports {name}, which serves tests and benchmarks only")
        elif name in LAZY and not lazy:
            found.append(f"{path} imports {name} at module level; import it inside the function")
    return found


@pytest.mark.parametrize(
    ("path", "source", "part"),
    [
        ("operators/a.py", "import pnp.linalg", "floor"),
        ("operators/a.py", "def f():\n    from denoisers import TV", "floor"),
        ("denoisers/a/b.py", "try:\n    from operators.base import LinearOperator\nexcept ImportError: ...", "floor"),
        ("pnp/api.py", "import torch, operators", "floor"),
        ("pnp/learned/cli.py", "from denoisers import TV", "floor"),
        ("pnp/io/a.py", "from operators import Radon", "floor"),
        ("pnp/lensing/a.py", "from pnp.api import solve", "relative"),
        ("pnp/training.py", "def f():\n    from denoisers import MLPatch", "floor"),
        ("pnp/cli.py", "from pnp.api import solve", "relative"),
        ("operators/a.py", "from operators.base import LinearOperator", "relative"),
        ("denoisers/a.py", "class A:\n    import deepinv.models", "module level"),
        ("pnp/a.py", "if True:\n    from deepinv import physics", "module level"),
        ("operators/a.py", "def f():\n    import astra", "tests and benchmarks"),
    ],
)
def test_broken_floors_are_seen(path: str, source: str, part: str) -> None:
    (found,) = broken_floors(path, source)
    assert part in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("operators/a.py", "import torch\nfrom .base import LinearOperator"),
        ("pnp/cli.py", "from operators import OPERATORS\nfrom denoisers import TV\nfrom .api import solve"),
        ("pnp/cli_train.py", "def f():\n    from denoisers.mlpatch import MLPatch\n    from . import training"),
        ("pnp/learned/a.py", "from operators.views import views\nfrom ..api import solve"),
        ("pnp/lensing/a.py", "from denoisers import MLPatch\nfrom operators import KaiserSquiresEB"),
        ("denoisers/a.py", "class A:\n    def f(self):\n        import deepinv"),
        ("pnp/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import deepinv"),
    ],
)
def test_allowed_imports_pass(path: str, source: str) -> None:
    assert broken_floors(path, source) == []


def test_floors() -> None:
    files = sources(*PACKAGES)
    assert {path.relative_to(ROOT).parts[0] for path in files} == set(PACKAGES)
    found = [
        line
        for path in files
        for line in broken_floors(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
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
