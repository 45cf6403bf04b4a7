"""What is packaged: files, metadata, the declared dependencies; built, installed and tried (`-m slow`)."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from paths import ROOT

PACKAGES = ("pnp", "operators", "denoisers")
IMPORTED_AS = {"PIL": "pillow", "skimage": "scikit-image"}
# Offered where it is installed, for CUDA: a wheel of its own for each version of CUDA.
OPTIONAL = {"cufinufft"}
# As in a fresh clone; what Python, editors and tests leave behind is nobody's to install.
LEFT_BEHIND = {"__pycache__", ".DS_Store"}
# Code, weights with their cards, the page of a report, and the mark of a typed package.
SUFFIXES = {".py", ".safetensors", ".md", ".css", ".html", ".js"}


@pytest.fixture(scope="module")
def project():
    """The metadata in pyproject.toml, which an installation may be older than."""
    metadata = pytest.importorskip("hatchling.metadata.core", reason="hatchling is not installed")
    from hatchling.plugin.manager import PluginManager

    return metadata.ProjectMetadata(str(ROOT), PluginManager()).core


def sources() -> list[Path]:
    """Every file of the three packages."""
    return sorted(
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and not LEFT_BEHIND.intersection(path.parts)
    )


def requirements(project, *extras: str) -> list[Requirement]:
    """What is required, always and by the extras, other than this package itself."""
    lines = [*project.dependencies, *(line for extra in extras for line in project.optional_dependencies[extra])]
    return [found for found in map(Requirement, lines) if found.name != project.name]


def test_the_wheel_holds_the_packages_and_nothing_else():
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    wheel = builder.WheelBuilder(str(ROOT))
    found = sorted(Path(file.distribution_path) for file in wheel.recurse_included_files())
    assert found == sources()
    assert [path for path in found if path.suffix not in SUFFIXES and path.name != "py.typed"] == []
    assert wheel.config.dev_mode_exact and set(wheel.config.packages) == set(PACKAGES)  # of an editable installation


def test_weights_have_cards_and_packages_are_typed():
    weights = [path for path in sources() if path.suffix == ".safetensors"]
    assert {path.parent.as_posix() for path in weights} == {"denoisers/weights", "pnp/learned/weights"}
    assert [path for path in weights if not (ROOT / path.with_suffix(".md")).is_file()] == []
    assert [name for name in PACKAGES if Path(name, "py.typed") not in sources()] == []


def test_the_sdist_holds_what_the_tests_need():
    builder = pytest.importorskip("hatchling.builders.sdist", reason="hatchling is not installed")
    files = {Path(file.distribution_path) for file in builder.SdistBuilder(str(ROOT)).recurse_included_files()}
    assert files >= set(sources())
    for name in "LICENSE README.md CITATION.cff Makefile tests/project/smoke.py tests/project/oldest.txt".split():
        assert Path(name) in files, name
    assert {path.parts[0] for path in files}.isdisjoint({".venv", "results", "build", "dist", ".git"})


def test_metadata_agree(project):
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {project.version}\n" in citation and f"\nlicense: {project.license_expression}\n" in citation
    assert f"## {project.version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert project.license_files == ["LICENSE"]
    assert project.scripts == {"pnp": "pnp.cli:main"}
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(project.classifiers))
    assert pythons[0] == project.requires_python.removeprefix(">=")


def test_imported_packages_are_declared(project):
    declared = {requirement.name for requirement in requirements(project, "stack", "ct", "parquet", "sphere")}
    found = {}
    for path in sources():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            found |= {name.split(".")[0]: path for name in names}
    for name in sys.stdlib_module_names | OPTIONAL | {*PACKAGES}:
        found.pop(name, None)
    assert {name: str(path) for name, path in found.items() if IMPORTED_AS.get(name, name) not in declared} == {}


def test_the_oldest_releases_are_those_declared(project):
    lines = (ROOT / "tests" / "project" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    floors = {}
    for requirement in requirements(project, "stack", "ct", "bench", "parquet", "sphere", "test"):
        (floor,) = requirement.specifier
        assert floor.operator == ">=", requirement
        floors[requirement.name] = Version(floor.version).release
    assert sorted(pinned) == sorted(floors)
    for name, floor in floors.items():
        # "2023.7" stands for its first release, which may be called 2023.7.4.
        assert Version(pinned[name]).release[: len(floor)] == floor, f"{name}: {pinned[name]} is not {floor}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_wheel_and_sdist_are_built_installed_and_tried(tmp_path):
    """Outside the checkout, in an environment that has this one's dependencies, so that nothing is fetched."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")

    def run(*command, cwd=tmp_path):
        done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run(sys.executable, "-m", "hatchling", "build", "-d", tmp_path, cwd=ROOT)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=unpacked)
    assert (tmp_path / "again" / wheel.name).read_bytes() == wheel.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert names == set(sources())

    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", wheel)
    # Read as a path, not as a site folder: an editable installation there is not followed.
    purelib = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (purelib / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    out = run(python, "-I", "-W", "error", ROOT / "tests" / "project" / "smoke.py", "--extras")
    assert out.count("ok: ") == 6 and str(purelib) in out
