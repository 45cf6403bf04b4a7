"""The installed package, and nothing of the checkout: `python -I tests/project/smoke.py --extras` in any folder.

It needs what pyproject.toml declares as dependencies and no other module: no pytest, no data, no network. It prints a
line a check; exit code 1 at the first that fails, with its traceback. With --extras what the extra "stack" adds is
tried too. `-I` keeps the folders of this script and of its caller off the path.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import math
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PACKAGES = ("pnp", "operators", "denoisers")
DEPENDENCIES_OF_STACK = ("dask", "distributed", "zarr")


def where_it_is() -> str:
    """The three packages lie in site-packages, once: their names are common words, which others may use as well."""
    owners: dict[str, set[str]] = {name: set() for name in PACKAGES}
    for distribution in importlib.metadata.distributions():
        for name in {file.parts[0] for file in distribution.files or ()}.intersection(PACKAGES):
            owners[name].add(distribution.metadata["Name"])
    for name in PACKAGES:
        assert owners[name] == {"pnp-local"}, f"{name} belongs to {owners[name]}, not to pnp-local alone"
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        folder = Path(spec.origin).resolve().parent
        assert folder.parent == Path(sysconfig.get_path("purelib")).resolve(), folder
        assert (folder / "py.typed").is_file()
    return f"{importlib.metadata.version('pnp-local')} in {folder.parent}"


def every_module() -> str:
    """Every module of the three packages is imported; those of the extra "stack" where it is installed."""
    names = []
    for package in PACKAGES:
        root = Path(importlib.util.find_spec(package).origin).parent  # type: ignore[union-attr, arg-type]
        for path in sorted(root.rglob("*.py")):
            parts = (package, *path.relative_to(root).with_suffix("").parts)
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    for name in names:
        importlib.import_module(name)
    return f"{len(names)} modules"


def weights() -> str:
    """Every weight file has a card, is read by name, and does what it is for."""
    import denoisers
    from denoisers.weight_files import FOLDER, available
    from operators import SPECT
    from pnp.learned import UnrolledEM, weight_files

    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, 48)
    radius = (axis[:, None] ** 2 + axis**2).sqrt()[None, None]
    disc = (radius < 0.7).float()
    denoising, resolving = available(denoisers.MLPatch), available(denoisers.SuperResolver)
    for name in denoising:
        D = denoisers.MLPatch.from_pretrained(name)
        # Low, smooth and noisy, as mass maps are: weights for these have units. The others take anything.
        x = (0.1 * torch.exp(-20 * radius**2)).expand(1, D.channels, -1, -1)
        y = x + 0.05 * torch.randn(x.shape, generator=generator)
        gain = float((y - x).norm() / (D(y, 0.05) - x).norm())
        assert gain > 2, f"{name}: the error fell by {gain:.2f} only"
    for name in resolving:
        S = denoisers.SuperResolver.from_pretrained(name)
        low = disc[..., 8:40, 8:40].expand(1, S.channels, -1, -1)
        high = S(low, factor=2)
        assert high.shape[-2:] == (64, 64)
        back = torch.nn.functional.avg_pool2d(high, 2)
        assert (back - low).norm() < 0.1 * low.norm(), f"{name}: not the image it was given"

    A = SPECT((16, 16, 8), torch.arange(12) * (math.pi / 6), voxel_size=4.8, fwhm=8.0)
    tube = (torch.linspace(-1, 1, 16)[:, None] ** 2 + torch.linspace(-1, 1, 16) ** 2 < 0.4).float()
    activity = 20 * tube[None, None, :, :, None].expand(1, 1, 16, 16, 8)
    counts = torch.poisson(A.A(activity), generator=generator)
    unrolled = sorted(path.stem for path in weight_files.FOLDER.glob("*.safetensors"))
    for name in unrolled:
        with torch.no_grad():
            x = UnrolledEM.from_pretrained(name)(A, counts)
        assert x.min() >= 0 and (x - activity).norm() < 0.6 * activity.norm(), name

    here = {path.stem for folder in (FOLDER, weight_files.FOLDER) for path in folder.glob("*.safetensors")}
    assert {*denoising, *resolving, *unrolled} == here and denoising and resolving and unrolled
    for folder in (FOLDER, weight_files.FOLDER):
        for path in folder.glob("*.safetensors"):
            assert path.with_suffix(".md").stat().st_size > 300, f"{path.name} has no model card"
    return ", ".join(sorted(here))


def solving() -> str:
    """Tomography, in numpy, and a deepinv operator as it is: the solution is better than the first estimate."""
    import deepinv

    from denoisers import TV, MLPatch
    from operators import Radon
    from pnp import solve

    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, 64)
    truth = 0.02 * ((axis[:, None] ** 2 + axis**2) < 0.5).float()[None, None]
    A = Radon((64, 64), torch.arange(40) * (math.pi / 40))
    y = A.A(truth)
    y = y + 0.02 * y.abs().mean() * torch.randn(y.shape, generator=generator)
    errors = {"FBP": float((A.fbp(y) - truth).norm() / truth.norm())}
    for D in (MLPatch.from_pretrained("gray"), TV()):
        x = solve(A, y.numpy(), D).x
        assert isinstance(x, np.ndarray) and x.dtype == np.float32
        errors[type(D).__name__] = float(np.linalg.norm(x - truth.numpy()) / truth.norm())
    assert max(errors["MLPatch"], errors["TV"]) < 0.6 * errors["FBP"], errors
    physics = deepinv.physics.Inpainting(
        img_size=(1, 64, 64), mask=(torch.rand(1, 64, 64, generator=generator) < 0.6).float()
    )
    y = physics.A(truth)
    x = solve(physics, y, TV(), noise_std=1e-4).x
    errors["inpainting"] = float((x - truth).norm() / truth.norm())
    assert errors["inpainting"] < 0.5 * float((y - truth).norm() / truth.norm()), errors
    return ", ".join(f"{name} {100 * error:.1f} %" for name, error in errors.items())


def command(folder: Path) -> str:
    """The command `pnp`: its help, what it brings, an HDF5 file reconstructed, the result as a page and as images."""
    from operators import Mask
    from pnp.io import read_image, read_nifti, read_result, write_image, write_measurements, write_nifti

    def pnp(*arguments: str) -> str:
        program = Path(sysconfig.get_path("scripts")) / "pnp"
        done = subprocess.run([program, *arguments], capture_output=True, text=True, cwd=folder, timeout=600)
        assert done.returncode == 0, f"pnp {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    for name in ("", "train denoiser"):
        assert f"pnp {name}" in pnp(*name.split(), "--help")
    version = importlib.metadata.version("pnp-local")
    assert version in pnp("info")
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, 32)
    truth = ((axis[:, None] ** 2 + axis**2) < 0.5).float()[None, None]
    mask = torch.rand(32, 32, generator=generator) < 0.6
    y = Mask(mask).A(truth + 0.02 * torch.randn(truth.shape, generator=generator))
    write_measurements(folder / "y.h5", y, operator="mask", parameters={"mask": mask}, noise_std=0.02, reference=truth)
    pnp("reconstruct", "y.h5", "-o", "x.h5", "--bounds", "0,1")
    saved = read_result(folder / "x.h5")
    assert np.abs(saved.x - truth.numpy()).mean() < 0.05 and saved.attributes["version_pnp-local"] == version
    pnp("report", "x.h5", "--measurements", "y.h5", "-o", "x.html")
    page = (folder / "x.html").read_text(encoding="utf-8")
    assert "<style>" in page and "<script>" in page and "http-equiv" in page and 'src="http' not in page
    pnp("reconstruct", "y.h5", "-o", "x.png", "--denoiser", "tv", "--bounds", "0,1", "--max-iter", "3")
    assert read_image(folder / "x.png").shape[-2:] == (32, 32)
    for suffix in ("tif", "npy", "fits"):
        write_image(folder / f"x.{suffix}", saved.x[0, 0])
        np.testing.assert_array_equal(read_image(folder / f"x.{suffix}"), saved.x[0, 0])
    volume = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    write_nifti(folder / "x.nii.gz", volume, 4.8)
    np.testing.assert_array_equal(read_nifti(folder / "x.nii.gz")[0], volume)
    return f"help, info, reconstruct, report ({len(page) / 1e3:.0f} kB); PNG, TIFF, NPY, FITS, NIfTI"


def stack(folder: Path) -> str:
    """A stack of slices on two processes, from HDF5 to Zarr, equal to one slice solved alone; a mosaic in tiles."""
    import zarr

    from denoisers import TV
    from operators import Mask
    from pnp import solve
    from pnp.io import write_measurements
    from pnp.stack import denoise_mosaic, solve_stack

    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(16, 16, generator=generator) < 0.6
    y = Mask(mask).A(torch.rand(4, 1, 16, 16, generator=generator))
    write_measurements(folder / "stack.h5", y, operator="mask", parameters={"mask": mask}, noise_std=0.02)
    options = {"max_iter": 4, "noise_std": 0.02}
    result = solve_stack(Mask(mask), folder / "stack.h5", TV(), output=folder / "stack.zarr", n_workers=2, **options)
    assert result.done == result.n == 4, result.failed
    images = np.asarray(zarr.open_group(str(result.output), mode="r")["image"][:])
    np.testing.assert_allclose(images[2:3], solve(Mask(mask), y[2:3], TV(), **options).x, rtol=1e-4, atol=1e-5)
    found = denoise_mosaic(y[0, 0].numpy(), average, 0.1, output=folder / "mosaic.zarr", tile=8, halo=1)
    with torch.no_grad():
        whole = average(y[:1], 0.1)[0, 0]
    np.testing.assert_allclose(np.squeeze(zarr.open_array(str(found), mode="r")[:]), whole, rtol=1e-5, atol=1e-6)
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in DEPENDENCIES_OF_STACK)


def average(x: Tensor, sigma: float) -> Tensor:
    """The mean of 3 x 3 pixels, fewer at the border: a local denoiser."""
    return torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def main() -> None:
    """Run the checks one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", action="store_true", help='what needs the extra "stack" as well')
    extras = parser.parse_args().extras
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checks: list[Callable[[], str]] = [where_it_is, every_module, weights, solving, lambda: command(folder)]
        for check in [*checks, *([lambda: stack(folder)] if extras else [])]:
            print(f"ok: {check()}", flush=True)


if __name__ == "__main__":
    main()
