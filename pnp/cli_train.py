"""The `pnp train` command: the networks of this package, on data of your own.

Exit codes: 2 for bad input; 130 for Ctrl-C and 143 for SIGTERM, both after a checkpoint has been written.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .cli_options import Device, Overwrite

__all__ = ["train"]

DEFAULT_MINUTES = 60.0

# Options that both commands share.
Weights = Annotated[Path, typer.Option("--output", "-o", help="Weights to write: a .safetensors file.")]
Steps = Annotated[int | None, typer.Option(help="Budget in optimiser steps: deterministic on the CPU.")]
Minutes = Annotated[float | None, typer.Option(help=f"Budget in minutes of training; default {DEFAULT_MINUTES:g}.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from OUTPUT.checkpoint, where there is one, and replace its OUTPUT.")
]
CheckpointMinutes = Annotated[float, typer.Option(help="Minutes of training between checkpoints.")]

train = typer.Typer(help="Train the networks of this package.", no_args_is_help=True, rich_markup_mode=None)


@train.callback()
def _train() -> None:
    """Train the networks of this package."""


@train.command("denoiser")
def train_denoiser(
    output: Weights,
    kind: Annotated[
        str, typer.Option(help="Architecture and data: gray or color (photographs), convergence (simulated).")
    ] = "gray",
    data: Annotated[Path | None, typer.Option(help="Folder of photographs, searched with its subfolders.")] = None,
    start: Annotated[
        str | None, typer.Option(help="Weights to begin with, of the package or a file: fine-tunes them on your data.")
    ] = None,
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Annotated[
        int | None, typer.Option(help="Images a step, of all processes; default 12, convergence 4.")
    ] = None,
    crop: Annotated[int, typer.Option(help="Side of the crops of photographs in pixels, at most 128.")] = 96,
    optimizer: Annotated[str, typer.Option(help="muon (with AdamW for what is no hidden layer) or adamw.")] = "muon",
    precision: Annotated[
        str, typer.Option(help="auto (bfloat16 where the processor multiplies it), float32 or bfloat16.")
    ] = "auto",
    std: Annotated[
        str, typer.Option(help="Standard deviations of simulated convergence, drawn at random, comma-separated.")
    ] = "0.015,0.02,0.025,0.03",
    pixel_arcmin: Annotated[float, typer.Option(help="Side of a pixel of simulated convergence.")] = 0.29,
    seed: Annotated[int, typer.Option(help="Seed of the weights, the crops and the noise.")] = 0,
    resume: Resume = False,
    checkpoint_minutes: CheckpointMinutes = 3.0,
    validate_minutes: Annotated[
        float | None, typer.Option(help="Minutes of training between validations; default: as checkpoints.")
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Train a denoiser. A run that was stopped goes on with --resume; with a larger budget, so does a finished one.

    With torchrun the processes, a GPU each, share every batch; a run is resumed with as many as began it.

    \b
    Examples:
      pnp train denoiser --data photographs/ --minutes 60 -o gray.safetensors
      pnp train denoiser --data photographs/ --minutes 60 -o gray.safetensors --resume
      pnp train denoiser --data slices/ --start gray --minutes 20 -o slices.safetensors
      pnp train denoiser --data photographs/ --kind color --steps 20000 -o color.safetensors
      pnp train denoiser --kind convergence --std 0.018 -o kappa.safetensors
      torchrun --nproc-per-node=2 $(which pnp) train denoiser --data photographs/ -o gray.safetensors
    """
    checkpoint, minutes = _budget(output, resume, overwrite, steps, minutes)

    import torch

    from denoisers.mlpatch import ARCHITECTURES, MLPatch
    from denoisers.mlpatch.weights import save

    from . import distributed, training
    from .training_sets import convergence_set, photograph_set

    if kind not in ARCHITECTURES:
        raise ValueError(f"--kind must be one of {', '.join(ARCHITECTURES)}, got {kind!r}")
    if kind == "convergence" and data is not None:
        raise ValueError(f"--data {data}: convergence is simulated; leave it out, or choose another --kind")
    if kind != "convergence" and data is None:
        raise ValueError("--data is missing: give a folder of images to train on")
    given: dict[str, Any] = {"steps": steps, "minutes": minutes, "optimizer": optimizer, "seed": seed}
    given |= {} if batch is None else {"batch": batch}
    training.TrainingOptions(**given)
    where = distributed.choose_device(device)
    torch.manual_seed(seed)
    model = MLPatch(**ARCHITECTURES[kind], precision=precision)
    if start is not None:
        begin = MLPatch.from_pretrained(start)
        if begin.config() != model.config():
            raise ValueError(f"--start {start} is another architecture than --kind {kind}; choose the --kind it is of")
        model.load_state_dict(begin.state_dict())
    if data is not None:
        job = photograph_set(data, channels=model.channels, crop=crop)
    else:
        job = convergence_set(_numbers("--std", std), pixel_arcmin)
    with distributed.joined(where) as here:
        try:
            training.train_denoiser(
                model.to(here),
                job.sampler,
                job.levels,
                replace(job.options, **given),
                checkpoint=checkpoint,
                resume=resume,
                validate=job.validate,
                checkpoint_minutes=checkpoint_minutes,
                validate_minutes=validate_minutes,
            )
        except training.Interrupted as stop:
            _interrupted(stop, checkpoint)
        if distributed.rank() > 0:
            return
        state = training.load_checkpoint(checkpoint)
        length = f"{state['step']} steps, {state['seconds'] / 60:.1f} minutes"
        value = f"{job.measure} {job.validate(model):.3f}"
        about = {"command": shlex.join(["pnp", *sys.argv[1:]]), "data": job.about, "length": length, "held out": value}
        save(model, output, about={**about, "processes": str(distributed.size())})
        print(f"{output}: {length}; {value} on held-out images")


@train.command("glimpse")
def train_glimpse(
    output: Weights,
    views: Annotated[int, typer.Option(help="Views, uniform over half a turn from 0.")] = 30,
    size: Annotated[int, typer.Option(help="Side of the slices in pixels.")] = 128,
    detectors: Annotated[int | None, typer.Option(help="Bins; default: the least that see the whole slice.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of slices, images without negative values; default: simulated chests.")
    ] = None,
    slices: Annotated[int, typer.Option(help="How many slices are simulated.")] = 400,
    noise_db: Annotated[float, typer.Option(help="Decibels by which the noise is below the measurements.")] = 40.0,
    pointwise: Annotated[
        bool, typer.Option("--pointwise", help="The original's kind: no point hears its neighbours.")
    ] = False,
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Annotated[int, typer.Option(help="Slices a step, of all processes.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the weights, the slices and the noise.")] = 0,
    resume: Resume = False,
    checkpoint_minutes: CheckpointMinutes = 3.0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Train GLIMPSE for a parallel-beam scan: pixels of a slice from the projections around their sinusoids.

    Bins are as wide as pixels, the axis is at the detector's middle. The weights are used from Python:
    pnp.learned.load_glimpse("chest30.safetensors")(y), y (B, 1, views, bins), gives attenuation per pixel. For a scan
    with another geometry see docs/bring_your_data_ct.md. The last slices by name are held out.

    \b
    Examples:
      pnp train glimpse --views 30 --size 128 --minutes 30 -o chest30.safetensors
      pnp train glimpse --data slices/ --size 256 --views 60 --minutes 60 -o slices60.safetensors --resume
    """
    checkpoint, minutes = _budget(output, resume, overwrite, steps, minutes)
    if not noise_db > 0:
        raise ValueError(f"--noise-db must be above 0, e.g. 40, got {noise_db}")
    for option, number, least in (("--views", views, 1), ("--size", size, 32), ("--slices", slices, 2)):
        if number < least:
            raise ValueError(f"{option} must be at least {least}, got {number}")

    import torch

    from operators import Radon

    from . import distributed, training
    from .learned import Glimpse, Pairs, add_noise, held_out_psnr, mean_psnr, save_glimpse
    from .learned.slices import ARCHITECTURES, chests, folder_slices

    options = training.TrainingOptions(steps=steps, minutes=minutes, batch=batch, seed=seed)
    where = distributed.choose_device(device)
    kind = "pointwise" if pointwise else "local"
    radon = Radon((size, size), torch.arange(views, dtype=torch.float64) * (torch.pi / views), n_detectors=detectors)
    torch.manual_seed(seed)
    architecture, patches = ARCHITECTURES[kind]
    model = Glimpse(radon.shape, radon.angles, n_detectors=radon.n_detectors, **architecture)
    images, about = folder_slices(data, size) if data is not None else chests(slices, size, seed)
    held_out = min(16, max(1, len(images) // 20))
    sinograms = torch.cat([radon.A(x[None]) for x in images])
    noisy = add_noise(sinograms[-held_out:], noise_db, torch.Generator().manual_seed(10**6))
    measure = held_out_psnr(images[-held_out:], noisy)
    with distributed.joined(where) as here:
        task = Pairs(model.to(here), images[:-held_out], sinograms[:-held_out], noise_db=noise_db, **patches)
        try:
            training.train(
                task,
                options,
                checkpoint=checkpoint,
                resume=resume,
                validate=measure,
                checkpoint_minutes=checkpoint_minutes,
            )
        except training.Interrupted as stop:
            _interrupted(stop, checkpoint)
        if distributed.rank() > 0:
            return
        state = training.load_checkpoint(checkpoint)
        length = f"{state['step']} steps, {state['seconds'] / 60:.1f} minutes"
        value = f"PSNR {measure(model):.2f} dB"
        fbp = mean_psnr(lambda y: radon.fbp(y, window="hann"), noisy, images[-held_out:])
        command = shlex.join(["pnp", *sys.argv[1:]])
        save_glimpse(model, output, about={"command": command, "data": about, "length": length, "held out": value})
        print(f"{output}: {length}; {value} on {held_out} held-out slices, filtered back-projection {fbp:.2f} dB")


@train.command("spect")
def train_spect(
    output: Weights,
    isotope: Annotated[str, typer.Option(help="lu177 or y90: what the simulated scans are of.")] = "lu177",
    mode: Annotated[
        str, typer.Option(help="end-to-end, truncated or sequential: where gradients pass (arXiv 2301.09710).")
    ] = "end-to-end",
    scans: Annotated[int, typer.Option(help="How many torsos are simulated to train on, and a fifth more.")] = 40,
    size: Annotated[int, typer.Option(help="Voxels along x and y; 409.6 mm wide.")] = 64,
    slices: Annotated[int, typer.Option(help="Voxels along z, as long as they are wide.")] = 40,
    views: Annotated[int, typer.Option(help="Views, uniform over a whole turn.")] = 60,
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
    """Train unrolled EM for SPECT: three EM iterations after OSEM, each with a small network, on simulated torsos.

    The weights are used from Python: pnp.learned.load_unrolled_em("mine.safetensors")(operator, counts, background).
    They know no units; voxels, response and counts should be like those of the training.

    \b
    Examples:
      pnp train spect --isotope lu177 --minutes 20 -o lu177.safetensors
      pnp train spect --isotope y90 --mode sequential --minutes 20 -o y90.safetensors --resume
    """
    checkpoint, minutes = _budget(output, resume, overwrite, steps, minutes)
    for option, number, least in (
        ("--scans", scans, 1), ("--size", size, 8), ("--slices", slices, 1), ("--views", views, 1),
    ):  # fmt: skip
        if number < least:
            raise ValueError(f"{option} must be at least {least}, got {number}")

    import torch
    from tqdm import tqdm

    from operators import spect_camera

    from . import distributed, training
    from .learned import MODES, UnrolledEM, held_out_nrmse, make_scan, save_unrolled_em, train_unrolled_em
    from .learned.unrolled_training import spent
    from .metrics import nrmse
    from .phantoms import ISOTOPES, emission_scan

    if isotope not in ISOTOPES:
        raise ValueError(f"--isotope must be one of {', '.join(ISOTOPES)}, got {isotope!r}")
    if mode not in MODES:
        raise ValueError(f"--mode must be one of {', '.join(MODES)}, got {mode!r}")
    schedule: dict[str, Any] = {"rate": rate, "muon_rate": 2 * rate, "warmup": 20}
    options = training.TrainingOptions(steps=steps, minutes=minutes, batch=batch, seed=seed, **schedule)
    where = distributed.choose_device(device)
    torch.manual_seed(seed)
    model = UnrolledEM(n_outer=iterations, features=features)
    sheet, angles = ISOTOPES[isotope], torch.arange(views, dtype=torch.float64) * (2 * torch.pi / views)
    voxel = 409.6 / size
    with distributed.joined(where) as here:

        def camera(mu: torch.Tensor, voxel_mm: float) -> Any:
            lengths = {"voxel_size": voxel_mm, "radius": sheet.radius}
            return spect_camera(mu, angles, **lengths, collimator=sheet.collimator, penetration=sheet.penetration).to(
                here
            )

        def simulate(number: int) -> Any:
            shape = (size, size, slices)
            found = emission_scan(sheet, camera, shape, voxel_size_mm=voxel, seed=number, device=here)
            return make_scan(model, *found[:4])

        held_out = max(1, scans // 5)
        # Each training has its own patients; what is held out never depends on it.
        numbers = [10**6 * (seed + 1) + i for i in range(scans)] + list(range(held_out))
        bar = tqdm(numbers, desc="scans", file=sys.stderr, disable=distributed.rank() > 0)
        found = [simulate(i) for i in bar]
        measure = held_out_nrmse(found[scans:])
        try:
            train_unrolled_em(
                model.to(here),
                found[:scans],
                options,
                mode=mode,
                checkpoint=checkpoint,
                resume=resume,
                validate=measure,
                checkpoint_minutes=checkpoint_minutes,
            )
        except training.Interrupted as stop:
            _interrupted(stop, checkpoint)
        if distributed.rank() > 0:
            return
        taken, seconds = spent(checkpoint)
        length = f"{taken} steps, {seconds / 60:.1f} minutes"
        value = f"NRMSE {measure(model):.4f}"
        osem = sum(nrmse(s.start, s.truth) for s in found[scans:]) / held_out
        about = f"{scans} simulated torsos, {isotope}, {size} x {size} x {slices} voxels of {voxel:g} mm, {views} views"
        command = shlex.join(["pnp", *sys.argv[1:]])
        facts = {"command": command, "data": about, "mode": mode, "length": length, "held out": value}
        save_unrolled_em(model, output, about=facts)
        print(f"{output}: {length}; {value} on {held_out} held-out torsos, OSEM {osem:.4f}")


def _budget(
    output: Path, resume: bool, overwrite: bool, steps: int | None, minutes: float | None
) -> tuple[Path, float | None]:
    """Return the name of the checkpoint, and the minutes; refuse what is cheap to check, before the work."""
    from .io import check_output

    checkpoint = output.with_name(output.name + ".checkpoint")
    if output.suffix != ".safetensors":
        raise ValueError(f"--output must end in .safetensors, got {output.name!r}")
    # Weights beside a checkpoint that is resumed are those of the same run.
    check_output(output, overwrite=overwrite or (resume and checkpoint.exists()))
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} is there already: go on from it with --resume, or remove it to start anew")
    if steps is not None and minutes is not None:
        raise ValueError(f"give --steps or --minutes, got both ({steps} and {minutes:g})")
    return checkpoint, DEFAULT_MINUTES if steps is None and minutes is None else minutes


def _interrupted(stop: Any, checkpoint: Path) -> NoReturn:
    """Say where to go on, and exit as the shell expects it of a signal."""
    from . import distributed

    if distributed.rank() == 0:
        print(f"pnp: {stop}; the checkpoint is {checkpoint}, go on with --resume", file=sys.stderr)
    raise typer.Exit(128 + stop.number) from None


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be numbers with commas between them, e.g. 0.02,0.03, got {text!r}") from None
