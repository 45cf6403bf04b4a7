"""The documentation: its code runs, its links lead somewhere, and Sphinx builds it without a warning."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from paths import ROOT

from pnp import Result
from pnp.metrics import psnr

DOCS = ROOT / "docs"
sys.path[:0] = [str(DOCS / "api"), str(DOCS / "gallery")]

import cards  # noqa: E402
import overview  # noqa: E402
import pages  # noqa: E402
import plain_text  # noqa: E402
from plain_text import inline, to_rst  # noqa: E402

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "recipes/**/*.md", "benchmarks/*.md", "*/**/weights/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^()\s<>]+(?:\([^()\s]*\))?)>?(?:\s+\"[^\"]*\")?\s*\)")
DOCUMENTED = {path for export in pages.exports() for path in (export.path, f"{export.module}.{export.name}")}
SPHINX = ("sphinx", "myst_parser", "furo", "sphinx_copybutton")


def prose(path: Path) -> str:
    """Return a page without its code."""
    return re.sub(r"`[^`\n]+`", "`code`", FENCE.sub("", path.read_text(encoding="utf-8")))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for title in re.findall(r"^#{1,6} +(.+?) *#*$", text, flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        n = 0
        while (name := slug if n == 0 else f"{slug}-{n}") in found:
            n += 1
        found.add(name)
    return found


def broken(path: Path) -> Iterator[str]:
    """Yield the links of a page that lead nowhere."""
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", target):  # http, mailto: not looked up
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / unquote(name)).resolve() if name else path
        if not file.exists() and not (file.is_relative_to(DOCS) and "generated" in file.parts):
            yield f"{target}: there is no {file}"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            yield f"{target}: no heading of {file.name} has this anchor"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    assert list(broken(path)) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "there.md").write_text("# A title, `code` & more\n\n## Twice\n\n## Twice\n", encoding="utf-8")
    text = (
        "[a](there.md#a-title-code--more) [b](there.md#twice-1) [c](#nowhere) ![d](missing.png) [e](there.md#title)\n"
        "[f](https://example.org/x#y) `[g](code.md)`\n\n```\n[h](code.md)\n```\n"
    )
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert [found.split(":")[0] for found in broken(tmp_path / "page.md")] == [
        "#nowhere",
        "missing.png",
        "there.md#title",
    ]


# ---------------------------------------------------------------- code


@pytest.mark.parametrize("name", ["index", "theory", "add_an_operator", "add_a_denoiser"])
def test_the_page_runs(name, capsys):
    """Every block of Python of the page, in order; what it asserts holds."""
    page = DOCS / f"{name}.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    if name == "index":
        result = names["result"]
        assert isinstance(result, Result) and str(result.stop) in capsys.readouterr().out
        assert 0.5 < result.misfit < 1.5  # the measurements are explained, and their noise is not


@pytest.mark.filterwarnings("ignore:::deepinv")
def test_the_page_for_those_who_come_from_elsewhere_runs():
    """Every block in order, but those that import a library which is not installed."""
    page = DOCS / "coming_from.md"
    names: dict[str, object] = {"__name__": "docs"}
    missing = set()
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        imports = set(re.findall(r"^(?:from|import) (\w+)", block, flags=re.MULTILINE))
        absent = {name for name in imports if importlib.util.find_spec(name) is None}
        if not absent:
            exec(compile(block, str(page), "exec"), names)
        missing |= absent
    assert missing <= {"astra", "pylops", "pyproximal", "scico"}


@pytest.mark.filterwarnings("ignore:.*frames of flat:UserWarning")  # the page shows it
def test_the_page_of_computed_tomography_runs(capsys):
    """The blocks above the records, in order; those below read files of the reader's own."""
    page = DOCS / "bring_your_data_ct.md"
    text, _, _ = page.read_text(encoding="utf-8").partition("\n## Records\n")
    names: dict[str, object] = {"__name__": "docs"}  # what stands under __main__ reads scan.h5: tests/pnp/ct has it
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        imports = set(re.findall(r"^(?:from|import) (\w+)", block, flags=re.MULTILINE))
        if all(importlib.util.find_spec(name) is not None for name in imports):
            exec(compile(block, str(page), "exec"), names)
    result, truth = names["result"], names["truth"]
    assert isinstance(result, Result) and result.warnings == ()
    assert psnr(result.x, truth, data_range=float(truth.max())) > 30
    if "radon" in names:
        assert psnr(names["x"], truth, data_range=float(truth.max())) > 28


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_blocks_of_python_compile_and_import_what_the_reference_documents(path):
    """Also those that need data of the reader's own."""
    for block in re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block, str(path))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in pages.ROOTS:
                module = importlib.import_module(node.module)
                assert not [name.name for name in node.names if not hasattr(module, name.name)]
                if not node.module.endswith(".base"):  # shared checks, for those who extend the packages
                    assert {f"{node.module}.{name.name}" for name in node.names} <= DOCUMENTED


# ---------------------------------------------------------------- the generated pages


def test_mathematics_of_docstrings_is_not_markup():
    assert doctest.testmod(plain_text).failed == 0
    known = {"Mask": "operators.Mask"}.get
    assert inline("A* W A, |D|^2 and x_ of `Mask`", known) == r"A\* W A, \|D\|^2 and x\_ of :py:obj:`~operators.Mask`"
    assert inline("`a`s and 2`b`", known) == r"``a``\ s and 2\ ``b``"
    assert inline("`Mask()` is\nno `mask\nof ours`", known) == ":py:obj:`~operators.Mask` is\nno ``mask of ours``"


def test_equations_and_tables_of_docstrings_keep_their_shape():
    text = "With\n\n    y = A x,\n\n    z = |x|\n\nand\n\nFBP    a filter\nU-Net  a network\n\nArgs:\n    x: of |A|."
    assert to_rst(text, {}.get) == [
        "With", "", ".. code-block:: text", "", "    y = A x,", "", "    z = |x|", "", "and", "",
        ".. code-block:: text", "", "    FBP    a filter", "    U-Net  a network", "", "Args:", r"    x: of \|A\|.", "",
    ]  # fmt: skip
    example = "Do.\n\n>>> 2 * 3\n6"
    assert to_rst(example, {}.get) == ["Do.", "", ">>> 2 * 3", "6", ""]


def packages() -> list[str]:
    """Return the names of all packages but the command line's, by the folders of the repository."""
    found = [path.parent.relative_to(ROOT) for root in pages.ROOTS for path in (ROOT / root).rglob("__init__.py")]
    return sorted(name for name in (".".join(path.parts) for path in found) if name != pages.COMMANDS)


def test_all_exports_are_documented_once(tmp_path):
    paths = pages.write_pages(tmp_path)
    for package in packages():
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            documented = [path for path in paths.values() if path.endswith(f".{name}")]
            homes = [importlib.import_module(path.rpartition(".")[0]) for path in documented]
            assert any(getattr(home, name) is getattr(module, name) for home in homes), f"{package}.{name}"
    for module in pages.MODULES:
        assert any(path.startswith(f"{module}.") for path in paths)
    text = "\n".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.rst"))
    for export in pages.exports():
        assert export.doc or export.kind == "data", f"{export.path} has no docstring"
    documented = re.findall(
        r"^\.\. currentmodule:: (\S+)\n\n\.\. (?:auto\w+|py:data):: (\S+)", text, flags=re.MULTILINE
    )
    assert sorted(".".join(words) for words in documented) == sorted(e.path for e in pages.exports())
    assert paths["operators.ct.radon.Radon"] == "operators.Radon"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "gone.rst").write_text("stale")
    pages.write_pages(tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}  # nothing is read anew


def test_every_recipe_has_a_card_and_a_page(tmp_path):
    scripts = {p.stem for p in (ROOT / "recipes").glob("*.py") if p.name[0] != "_"}
    found = cards.recipes(ROOT)
    assert {r.path.stem for r in found if r.path.parent.name == "recipes"} == scripts
    assert len({r.title for r in found}) == len(found)
    for r in found:
        assert r.summary and r.summary[0].isupper() and r.doc
        assert r.figure is None or (DOCS / r.figure).is_file()
    tomography = next(r for r in found if r.path.name == "tomography.py" and r.path.parent.name == "recipes")
    assert tomography.title == "Tomography" and tomography.page == "recipes.tomography"
    assert ("--views", "number of angles over half a turn (default 60)") in tomography.options


def test_the_overview_finds_its_variables_in_the_recipes():
    for column in overview.COLUMNS:
        tree = ast.parse((ROOT / "recipes" / f"{column.recipe}.py").read_text(encoding="utf-8"))
        assigned = {
            node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        assert set(column.variables) <= assigned, column.recipe
    assert overview.TARGET.stat().st_size < 400_000


def test_links_of_mirrored_pages_lead_to_pages():
    code = "`a[0](x.md)`\n\n```python\na[0](docs/x.md)\n```\n"
    text = f"[a](docs/results.md#gray) [b](talk/) [c](pyproject.toml) [d](https://example.org) [e](#here)\n{code}"
    mirrors = {"talk/README.md": "gallery/generated/files/talk.README"}
    pages_of = "[a](/results.md#gray) [b](/gallery/generated/files/talk.README.md) c"
    assert cards.relink(text, ROOT, ROOT, mirrors) == f"{pages_of} [d](https://example.org) [e](#here)\n{code}"


# ---------------------------------------------------------------- Sphinx


class Page(HTMLParser):
    """What a page of HTML links to and fetches, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name == "href" and tag == "a" and value:
                self.links.add(value)
            elif (name == "src" or (name == "href" and tag == "link")) and value:
                self.fetched.add(value)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sphinx_builds_without_a_warning(tmp_path):
    missing = [name for name in SPHINX if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: pip install -e '.[docs]'")
    options = "-m sphinx -W --keep-going -n -q -d".split()
    command = [sys.executable, *options, tmp_path / "cache", DOCS, tmp_path / "html"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    html = {path: Page(path) for path in (tmp_path / "html").rglob("*.html")}
    lost, fetched = [], []
    for path, page in html.items():
        fetched += [f"{path.name}: {url}" for url in page.fetched if re.match(r"(https?:)?//", url)]
        for url in page.links - {"#"}:
            name, _, anchor = url.partition("#")
            file = (path.parent / unquote(name)).resolve() if name else path
            if re.match(r"[a-z]+:", url):
                continue
            # viewcode knows one package a module: from the source of one that two export, it finds the page only.
            has_anchor = not anchor or file not in html or "_modules" in path.parts or unquote(anchor) in html[file].ids
            if not file.exists() or not has_anchor:
                lost.append(f"{path.name}: {url}")
    assert lost == [] and fetched == []
    assert "parallel-beam" in (tmp_path / "html/api/generated/operators.radon.html").read_text(encoding="utf-8").lower()
