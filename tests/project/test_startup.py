"""Start-up: what `import pnp` and `--help` load, where the names of pnp are, and files that hide our packages."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

import pnp
from pnp.installation import version

HEAVY = {
    "torch",
    "numpy",
    "scipy",
    "h5py",
    "deepinv",
    "matplotlib",
    "astropy",
    "skimage",
    "dask",
    "operators",
    "denoisers",
}


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a fresh Python outside the checkout, where the current folder comes first on its path."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- what is loaded


@pytest.mark.parametrize("code", ["import pnp", "import pnp; dir(pnp), pnp.__version__, hasattr(pnp, 'nothing')"])
def test_import_loads_nothing_heavy(code: str, tmp_path: Path) -> None:
    done = python("-c", f"import sys; {code}; print(*sorted({HEAVY!r} & sys.modules.keys()))", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "\n", done.stdout + done.stderr


@pytest.mark.parametrize("options", ["--help", "--version", "reconstruct --help", "train --help", "train spect --help"])
def test_help_loads_nothing_heavy(options: str, tmp_path: Path) -> None:
    code = f"""
import runpy, sys
sys.argv = ["pnp", *{options.split()!r}]
try:
    runpy.run_module("pnp", run_name="__main__")
except SystemExit as stop:
    print("exit", stop.code, *sorted({HEAVY!r} & sys.modules.keys()))
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["exit 0"], done.stdout + done.stderr


# ---------------------------------------------------------------- the names of pnp


def test_names_are_those_that_type_checkers_see() -> None:
    (block,) = (
        node
        for node in ast.parse(Path(pnp.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: f".{node.module}" for node in imports if node.module for alias in node.names}
    assert seen == pnp._MODULE_OF and sorted(seen) == sorted(pnp.__all__)
    assert {alias.name for node in imports if not node.module for alias in node.names} <= set(pnp._SUBMODULES)


def test_names_and_submodules_are_attributes() -> None:
    assert {module.name for module in pkgutil.iter_modules(pnp.__path__)} == {*pnp._SUBMODULES, "__main__"}
    assert {*pnp.__all__, *pnp._SUBMODULES, "__version__"} == set(dir(pnp))
    for name in pnp.__all__:
        assert getattr(pnp, name).__name__ == name
    for name in pnp._SUBMODULES:
        assert getattr(pnp, name) is sys.modules[f"pnp.{name}"]
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = pnp.nothing


def test_solve_is_a_function_however_it_is_reached(tmp_path: Path) -> None:
    code = "import pnp.drivers; import pnp; from pnp import *; assert callable(pnp.solve) and pnp.solve is solve"
    done = python("-c", f"{code}; assert pnp.lensing.__all__", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- the version


def test_version(tmp_path: Path) -> None:
    expected = importlib.metadata.version("pnp-local")
    assert version() == pnp.__version__ == expected
    assert python("-m", "pnp", "--version", cwd=tmp_path).stdout == f"pnp {expected}\n"


def test_versions_are_looked_up_in_one_place() -> None:
    files = [path for package in ("pnp", "operators", "denoisers") for path in (ROOT / package).rglob("*.py")]
    found = [path.name for path in files if "importlib.metadata" in path.read_text(encoding="utf-8")]
    assert found == ["installation.py"]


# ---------------------------------------------------------------- files that hide our packages


@pytest.fixture(params=["operators.py", "denoisers/__init__.py"])
def hiding(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A user's file beside his script, named as a package of ours."""
    file = tmp_path / request.param
    file.parent.mkdir(exist_ok=True)
    file.write_text("def mine(x):\n    return 2 * x\n", encoding="utf-8")
    return file.parent if file.stem == "__init__" else file


def is_one_sentence(line: str, hiding: Path) -> bool:
    return f"{hiding} hides the package {hiding.stem} " in line and "rename" in line and len(line) < 400


@pytest.mark.parametrize("statement", ["import pnp.lensing", "pnp.lensing", "from pnp.lensing import map_mass"])
def test_an_import_names_the_file_that_hides_a_package(hiding: Path, statement: str) -> None:
    done = python("-c", f"import pnp\nfrom pnp import solve\n{statement}", cwd=hiding.parent)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and is_one_sentence(last, hiding), done.stderr


def test_every_package_imports_or_names_the_file(hiding: Path) -> None:
    code = """
import importlib, pnp
for name in pnp._SUBMODULES:
    try:
        importlib.import_module(f"pnp.{name}")
    except ImportError as error:
        print(error)
"""
    done = python("-c", code, cwd=hiding.parent)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines and all(is_one_sentence(line, hiding) for line in lines), lines


def test_a_users_own_module_is_no_obstacle_to_what_needs_none_of_ours(hiding: Path) -> None:
    code = f"from pnp import solve, mlem; from {hiding.stem} import mine; assert mine(2) == 4"
    done = python("-c", code, cwd=hiding.parent)
    assert done.returncode == 0, done.stderr
    assert python("-m", "pnp", "reconstruct", "--help", cwd=hiding.parent).returncode == 0


def test_the_command_names_the_file_that_hides_a_package(hiding: Path) -> None:
    done = python("-m", "pnp", "info", cwd=hiding.parent)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("pnp: ") and is_one_sentence(done.stderr, hiding)


def test_a_folder_of_files_without_code_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "denoisers").mkdir()
    (tmp_path / "denoisers" / "mine.safetensors").write_bytes(b"")
    done = python("-c", "import pnp.learned, denoisers; denoisers.MLPatch", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
