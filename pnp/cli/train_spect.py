"""The command `pnp train spect`: unrolled EM on simulated torsos, or on scans of your own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .option_groups import with_option_groups
from .options import choose_device
from .output import command_line
from .problem import background, build_operator, is_hdf5, read_problem
from .training_options import Budget, RunOptions, WeightsFile, checkpoint_of, exit_on_interrupt, print_trained

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from torch import Tensor

    from ..learned import Scan, UnrolledEM

T = TypeVar("T")
CACHE_BYTES = 2 * 2**30
"""Attenuation factors of all scans and views are cached up to this size, which saves a third of the time."""


@with_option_groups
def train_spect(
    context: typer.Context,
    output: WeightsFile,
    *,
    data: Annotated[
        Path | None, typer.Option(help="Folder of HDF5 scans with a /reference; default: simulated torsos.")
    ] = None,
    isotope: Annotated[str, typer.Option(help="Isotope of the simulated scans: lu177 or y90.")] = "lu177",
    mode: Annotated[
        str, typer.Option(help="Flow of the gradients: end-to-end, truncated or sequential (arXiv 2301.09710).")
    ] = "end-to-end",
    scans: Annotated[int, typer.Option(help="Number of simulated torsos.")] = 48,
    size: Annotated[int, typer.Option(help="Transaxial size of the simulated volume in voxels (409.6 mm).")] = 64,
    slices: Annotated[int, typer.Option(help="Axial size of the simulated volume in voxels, which are cubes.")] = 40,
    views: Annotated[int, typer.Option(help="Number of simulated views, uniform over a full turn.")] = 60,
    iterations: Annotated[int, typer.Option(help="Number of outer iterations; each has its own network.")] = 3,
    features: Annotated[int, typer.Option(help="Channels of each network.")] = 16,
    budget: Budget,
    batch: Annotated[int, typer.Option(help="Scans per step, over all processes.")] = 1,
    rate: Annotated[float, typer.Option(help="Learning rate; hidden layers take twice as much.")] = 5e-3,
    run: RunOptions,
) -> None:
    """Train unrolled EM for SPECT.

    Each of three EM iterations after OSEM is followed by a small network. Use the weights by
    pnp osem --network mine.safetensors, or from Python:
    pnp.learned.UnrolledEM.from_pretrained("mine.safetensors")(operator, counts, background). They are independent of
    units, but voxels, response and counts should be like those of the training scans. Scans in --data are files of
    docs/hdf5_layout.md with operator spect and the true activity in /reference. The last sixth of the scans, in order
    of name, is held out for validation.

    \b
    Examples:
      pnp train spect --isotope lu177 --minutes 20 -o lu177.safetensors
      pnp train spect --isotope y90 --mode sequential --minutes 20 -o y90.safetensors --resume
      pnp train spect --data scans/ --steps 500 -o mine.safetensors
    """
    for name in ("isotope", "scans", "size", "slices", "views"):
        source = context.get_parameter_source(name)
        if data is not None and source is not None and source.name != "DEFAULT":
            raise ValueError(f"--{name} is for simulated scans, --data has its own scans; leave one of them out")
    checkpoint = checkpoint_of(output, budget, run)
    for option, number, least in (
        ("--scans", scans, 2), ("--size", size, 8), ("--slices", slices, 1), ("--views", views, 1),
    ):  # fmt: skip
        if number < least:
            raise ValueError(f"{option} must be at least {least}, got {number}")

    import torch

    from .. import training
    from ..learned import MODES, UnrolledEM, held_out_nrmse, train_unrolled_em
    from ..learned.domain import domain_of_scans
    from ..learned.unrolled_em_training import spent
    from ..metrics import nrmse
    from ..training import processes

    if run.seed < 0:
        raise ValueError(f"--seed must be at least 0, got {run.seed}")
    if mode not in MODES:
        raise ValueError(f"--mode must be one of {', '.join(MODES)}, got {mode!r}")
    schedule: dict[str, Any] = {"rate": rate, "muon_rate": 2 * rate, "warmup": 20}
    options = training.TrainingOptions(**budget.arguments(), batch=batch, seed=run.seed, **schedule)
    where = choose_device(run.device)
    torch.manual_seed(run.seed)
    model = UnrolledEM(n_outer=iterations, features=features)
    with processes.joined(where) as here:
        if data is not None:
            found, about, tracer = _spect_files(data, model, here)
        else:
            found, about = _spect_torsos(isotope, scans, (size, size, slices), views, run.seed, model, here)
        held_out = max(1, len(found) // 6)
        measure = held_out_nrmse(found[-held_out:])
        with exit_on_interrupt(checkpoint):
            train_unrolled_em(
                model.to(here),
                found[:-held_out],
                options,
                mode=mode,
                validate=measure,
                **run.arguments(checkpoint),
            )
        if processes.rank() > 0:
            return
        taken, seconds = spent(checkpoint, iterations if mode == MODES[2] else 1)
        length = f"{taken} steps, {seconds / 60:.1f} minutes"
        value = f"NRMSE {measure(model):.4f}"
        osem = sum(nrmse(s.start, s.truth) for s in found[-held_out:]) / held_out
        domain = domain_of_scans(found, isotope if data is None else tracer)
        facts = {"command": command_line(), "data": about, "mode": mode, "length": length, "held out": value}
        model.save(output, about=facts | domain.header())
        print_trained(output, length, value, f"{held_out} scans", f"OSEM {osem:.4f}")


def _spect_files(folder: Path, model: UnrolledEM, device: torch.device) -> tuple[list[Scan], str, str]:
    """Read the scans of a folder, with their OSEM starts; also return a description, and their isotope or ""."""
    import torch

    from ..learned import make_scan

    files = sorted(f for f in folder.rglob("*") if f.is_file() and is_hdf5(f)) if folder.is_dir() else []
    if len(files) < 2:
        raise ValueError(
            f"--data {folder} must be a folder of at least two HDF5 scans (docs/hdf5_layout.md), got {len(files)}"
        )
    found, isotopes = [], set[str]()
    for file in _with_progress(files):
        scan = read_problem(file)
        if scan.operator != "spect" or scan.reference is None or len(scan.y) != 1:
            raise ValueError(
                f"--data: {file.name} must hold one scan of operator spect with the true activity in /reference, got "
                f"{scan.operator!r}, {len(scan.y)} of them, {'with' if scan.reference is not None else 'without'} it"
            )
        operator = build_operator(scan.operator, scan.parameters).to(device)
        y, truth = (torch.from_numpy(a).float().to(device) for a in (scan.y, scan.reference))
        found.append(make_scan(model, operator, y, torch.as_tensor(background(scan, y)).to(y), truth))
        isotopes.add("" if scan.acquisition is None else scan.acquisition.isotope)
    return found, f"{len(found)} scans of {folder.resolve().name}", isotopes.pop() if len(isotopes) == 1 else ""


def _spect_torsos(
    isotope: str,
    count: int,
    shape: tuple[int, int, int],
    views: int,
    seed: int,
    model: UnrolledEM,
    device: torch.device,
) -> tuple[list[Scan], str]:
    """Simulate scans of torsos, every second a virtual patient, with their OSEM starts; also return a description."""
    import torch

    from operators import SPECT, spect_camera

    from ..learned import make_scan
    from ..phantoms import ISOTOPES, emission_scan

    if isotope not in ISOTOPES:
        raise ValueError(f"--isotope must be one of {', '.join(ISOTOPES)}, got {isotope!r}")
    n_bytes = 4 * count * views * shape[0] * shape[1] * shape[2]
    tracer, voxel_mm = ISOTOPES[isotope], 409.6 / shape[0]
    angles = torch.arange(views, dtype=torch.float64) * (2 * torch.pi / views)

    def camera(mu: Tensor, size: float) -> SPECT:
        cached = size == voxel_mm and n_bytes <= CACHE_BYTES  # used in every step
        return spect_camera(mu, angles, voxel_size=size, **tracer.camera_options, cache_attenuation=cached).to(device)

    found = []
    for i in _with_progress(range(count)):
        patient = 10**7 * (seed + 1) + i  # differs from the seeds of the recipes and the tables
        virtual = i % 2 == 1  # training on both kinds generalises better
        scan = emission_scan(
            tracer, camera, shape, voxel_size_mm=voxel_mm, seed=patient, virtual=virtual, device=device
        )
        found.append(make_scan(model, *scan[:4]))
    voxels = " x ".join(map(str, shape))
    about = f"{count} simulated torsos, half of them virtual patients, {isotope}, {voxels} voxels of {voxel_mm:g} mm"
    return found, f"{about}, {views} views"


def _with_progress(items: Sequence[T]) -> Iterable[T]:
    """Iterate with a progress bar on stderr."""
    from tqdm import tqdm

    from ..training import processes

    bar: Iterable[T] = tqdm(items, desc="scans", file=sys.stderr, disable=processes.rank() > 0)
    return bar
