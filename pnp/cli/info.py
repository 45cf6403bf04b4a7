"""The command `pnp info`: versions, operators, denoisers and weights."""

from __future__ import annotations


def info() -> None:
    """Show versions, devices, operators, denoisers and the weights that come with the package.

    \b
    Example:
      pnp info
    """
    import platform

    import torch
    from rich.console import Console
    from rich.table import Table

    import denoisers
    import operators
    from denoisers import weight_files

    from ..io.versions import installed_version

    console = Console()
    table = Table(show_header=False, box=None)
    table.add_row("python", platform.python_version())
    for package in ("pnp-local", "torch", "numpy", "scipy", "finufft", "deepinv"):
        table.add_row(package, installed_version(package))
    cuda = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    table.add_row("devices", ", ".join([f"cpu ({torch.get_num_threads()} threads)", *cuda]))
    table.add_row("operators", ", ".join(sorted(operators.OPERATORS)))
    table.add_row("denoisers", ", ".join(sorted(denoisers.DENOISERS)))
    console.print(table)
    for path in (weight_files.FOLDER / f"{name}.safetensors" for name in weight_files.available(denoisers.MLPatch)):
        console.print(f"\n[bold]mlpatch:{path.stem}[/bold]  {path.stat().st_size / 1e6:.1f} MB")
        card = path.with_suffix(".md")
        if card.is_file():
            console.print(card.read_text(encoding="utf-8").strip(), markup=False, highlight=False)
