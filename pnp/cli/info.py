"""The command `pnp info`: versions, devices, operators, denoisers and weights."""

from __future__ import annotations

import re
from pathlib import Path

from ..installation import version

PACKAGES = ("pnp-local", "torch", "numpy", "scipy", "finufft", "deepinv")


def info() -> None:
    """Show versions, devices, operators and weights.

    Each set of weights that comes with the package is listed with its purpose, its size and its terms of use.

    \b
    Example:
      pnp info
    """
    import platform

    import torch
    from rich.console import Console
    from rich.table import Table

    from denoisers import DENOISERS
    from operators import OPERATORS

    console = Console()
    table = Table(show_header=False, box=None)
    table.add_row("python", platform.python_version())
    for package in PACKAGES:
        table.add_row(package, version(package))
    cuda = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    table.add_row("devices", ", ".join([f"cpu ({torch.get_num_threads()} threads)", *cuda]))
    table.add_row("operators", ", ".join(sorted(OPERATORS)))
    table.add_row("denoisers", ", ".join(sorted(DENOISERS)))
    console.print(table)
    sets = weight_sets()
    for name, path in sets:
        about, terms = read_card(path.with_suffix(".md"))
        print(f"\n{name}: {about}\n  terms: {terms}")
    print("\nModel cards:", *sorted({str(path.parent) for _, path in sets}), sep="\n  ")


def weight_sets() -> list[tuple[str, Path]]:
    """Return the sets of weights that come with the package: name, with the network before a colon, and file."""
    from denoisers import MLPatch, SuperResolver, weight_files

    from ..learned.weight_files import FOLDER

    found = [
        (f"{network}:{name}", weight_files.FOLDER / f"{name}.safetensors")
        for network, kind in (("mlpatch", MLPatch), ("super_resolver", SuperResolver))
        for name in weight_files.available(kind)
    ]
    return [*found, *((f"unrolled_em:{path.stem}", path) for path in sorted(FOLDER.glob("*.safetensors")))]


def read_card(card: Path) -> tuple[str, str]:
    """Return the first paragraph of a model card and its terms of use, without markup."""
    text = re.sub(r"[*`]", "", card.read_text(encoding="utf-8")) if card.is_file() else ""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    terms = re.search(r"^\| terms \| (.+?) \|$", text, re.MULTILINE)
    return paragraphs[1] if len(paragraphs) > 1 else "", terms[1] if terms else "no model card"
