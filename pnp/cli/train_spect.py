"""`pnp train spect`: unrolled EM on simulated torsos, or on scans of your own."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .options import Device, Overwrite, choose_device
from .training_options import CheckpointMinutes, Minutes, Resume, Steps, Weights, budget, stoppable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from torch import Tensor

    from ..learned import Scan, UnrolledEM

T = TypeVar("T")
CACHE_BYTES = 2 * 2**30
"""Attenuation factors of all scans and views are kept up to this size, a third of the time; beyond, computed anew."""


def spect(
    context: typer.Context,
    output: Weights,
    data: Annotated[
        Path | None, typer.Option(help="Folder of HDF5 scans with their /reference; default: simulated torsos.")
    ] = None,
    isotope: Annotated[str, typer.Option(help="lu177 or y90: what simulated scans are of.")] = "lu177",
    mode: Annotated[
        str, typer.Option(help="end-to-end, truncated or sequential: where gradients pass (arXiv 2301.09710).")
    ] = "end-to-end",
    scans: Annotated[int, typer.Option(help="Torsos that are simulated.")] = 48,
    size: Annotated[int, typer.Option(help="Their voxels along x and y, 409.6 mm.")] = 64,
    slices: Annotated[int, typer.Option(help="Their voxels along z, as long as they are wide.")] = 40,
    views: Annotated[int, typer.Option(help="Simulated views, uniform over a whole turn.")] = 60,
    iterations: Annotated[int, typer.Option(help="Outer iterations, a network each.")] = 3,
    features: Annotated[int, typer.Option(help="Channels of the networks.")] = 16,
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Annotated[int, typer.Option(help="Scans a step, of all processes.")] = 1,
    rate: Annotated[float, typer.Option(help="Learning rate; of the hidden layers twice as much.")] = 5e-3,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the scans.")] = 0,
    resume: Resume = False,
    checkpoint_minutes: CheckpointMinutes = 3.0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Train unrolled EM for SPECT: three EM iterations after OSEM, each with a small network. A sixth is held out.

    The weights are used from Python: pnp.learned.load_unrolled_em("mine.safetensors")(operator, counts, background).
    They know no units, but voxels, response and counts should be like those of the training. Files are those of
    docs/hdf5_layout.md, operator spect, with the true activity in /reference; the last ones by name are held out.

    \b
    Examples:
      pnp train spect --isotope lu177 --minutes 20 -o lu177.safetensors
      pnp train spect --isotope y90 --mode sequential --minutes 20 -o y90.safetensors --resume
      pnp train spect --data scans/ --steps 500 -o mine.safetensors
    """
    for name in ("isotope", "scans", "size", "slices", "views"):
        source = context.get_parameter_source(name)
        if data is not None and source is not None and source.name != "DEFAULT":
            raise ValueError(f"--{name} is of simulated scans, --data has scans of its own; leave one of them out")
    checkpoint, minutes = budget(output, resume, overwrite, steps, minutes)
    for option, number, least in (
        ("--scans", scans, 2), ("--size", size, 8), ("--slices", slices, 1), ("--views", views, 1),
    ):  # fmt: skip
        if number < least:
            raise ValueError(f"{option} must be at least {least}, got {number}")

    import torch

    from .. import training
    from ..learned import MODES, UnrolledEM, held_out_nrmse, save_unrolled_em, train_unrolled_em
    from ..learned.unrolled_em_training import spent
    from ..metrics import nrmse
    from ..training import processes

    if seed < 0:
        raise ValueError(f"--seed must be at least 0, got {seed}")
    if mode not in MODES:
        raise ValueError(f"--mode must be one of {', '.join(MODES)}, got {mode!r}")
    schedule: dict[str, Any] = {"rate": rate, "muon_rate": 2 * rate, "warmup": 20}
    options = training.TrainingOptions(steps=steps, minutes=minutes, batch=batch, seed=seed, **schedule)
    where = choose_device(device)
    torch.manual_seed(seed)
    model = UnrolledEM(n_outer=iterations, features=features)
    with processes.joined(where) as here:
        if data is not None:
            found, about = _spect_files(data, model, here)
        else:
            found, about = _spect_torsos(isotope, scans, (size, size, slices), views, seed, model, here)
        held_out = max(1, len(found) // 6)
        measure = held_out_nrmse(found[-held_out:])
        with stoppable(checkpoint):
            train_unrolled_em(
                model.to(here),
                found[:-held_out],
                options,
                mode=mode,
                checkpoint=checkpoint,
                resume=resume,
                validate=measure,
                checkpoint_minutes=checkpoint_minutes,
            )
        if processes.rank() > 0:
            return
        taken, seconds = spent(checkpoint, iterations if mode == MODES[2] else 1)
        length = f"{taken} steps, {seconds / 60:.1f} minutes"
        value = f"NRMSE {measure(model):.4f}"
        osem = sum(nrmse(s.start, s.truth) for s in found[-held_out:]) / held_out
        command = shlex.join(["pnp", *sys.argv[1:]])
        facts = {"command": command, "data": about, "mode": mode, "length": length, "held out": value}
        save_unrolled_em(model, output, about=facts)
        print(f"{output}: {length}; {value} on {held_out} held-out scans, OSEM {osem:.4f}")


def _spect_files(folder: Path, model: UnrolledEM, device: torch.device) -> tuple[list[Scan], str]:
    """Read the scans of a folder, with their starts; also return what they are, in words."""
    import torch

    from ..learned import make_scan
    from .problem import background, build_operator, is_hdf5, read_problem

    files = sorted(f for f in folder.rglob("*") if f.is_file() and is_hdf5(f)) if folder.is_dir() else []
    if len(files) < 2:
        raise ValueError(
            f"--data {folder} must be a folder of at least two HDF5 scans (docs/hdf5_layout.md), got {len(files)}"
        )
    found = []
    for file in _bar(files):
        scan = read_problem(file)
        if scan.operator != "spect" or scan.reference is None or len(scan.y) != 1:
            raise ValueError(
                f"--data: {file.name} must hold one scan of operator spect with the true activity in /reference, got "
                f"{scan.operator!r}, {len(scan.y)} of them, {'with' if scan.reference is not None else 'without'} it"
            )
        operator = build_operator(scan.operator, scan.parameters).to(device)
        y, truth = (torch.from_numpy(a).float().to(device) for a in (scan.y, scan.reference))
        found.append(make_scan(model, operator, y, torch.as_tensor(background(scan, y)).to(y), truth))
    return found, f"{len(found)} scans of {folder.resolve().name}"


def _spect_torsos(
    isotope: str,
    count: int,
    shape: tuple[int, int, int],
    views: int,
    seed: int,
    model: UnrolledEM,
    device: torch.device,
) -> tuple[list[Scan], str]:
    """Simulate scans of torsos, every second a virtual patient, with their starts; also return what they are."""
    import torch

    from operators import SPECT, spect_camera

    from ..learned import make_scan
    from ..phantoms import ISOTOPES, emission_scan

    if isotope not in ISOTOPES:
        raise ValueError(f"--isotope must be one of {', '.join(ISOTOPES)}, got {isotope!r}")
    kept = 4 * count * views * shape[0] * shape[1] * shape[2]
    tracer, voxel_mm = ISOTOPES[isotope], 409.6 / shape[0]
    angles = torch.arange(views, dtype=torch.float64) * (2 * torch.pi / views)

    def camera(mu: Tensor, size: float) -> SPECT:
        cached = size == voxel_mm and kept <= CACHE_BYTES  # these are used in every step
        return spect_camera(mu, angles, voxel_size=size, **tracer.sheet, cache_attenuation=cached).to(device)

    found = []
    for i in _bar(range(count)):
        patient = 10**7 * (seed + 1) + i  # not the recipes' and the tables'
        virtual = i % 2 == 1  # what is learned of both is worth more
        scan = emission_scan(
            tracer, camera, shape, voxel_size_mm=voxel_mm, seed=patient, virtual=virtual, device=device
        )
        found.append(make_scan(model, *scan[:4]))
    voxels = " x ".join(map(str, shape))
    about = f"{count} simulated torsos, half of them virtual patients, {isotope}, {voxels} voxels of {voxel_mm:g} mm"
    return found, f"{about}, {views} views"


def _bar(items: Sequence[T]) -> Iterable[T]:
    """Show how many scans are ready."""
    from tqdm import tqdm

    from ..training import processes

    bar: Iterable[T] = tqdm(items, desc="scans", file=sys.stderr, disable=processes.rank() > 0)
    return bar
