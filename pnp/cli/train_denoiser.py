"""The command `pnp train denoiser`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .option_groups import with_option_groups
from .options import choose_device
from .output import command_line, print_warning
from .training_options import Budget, RunOptions, WeightsFile, checkpoint_of, exit_on_interrupt, print_trained

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Stages:
    """Sizes of MLPatch, of each stage of blocks."""

    spacing: Annotated[
        str | None,
        typer.Option(
            help="Distance of the queries in pixels, of each stage of blocks; default: as --kind has it. 2,4,2 are two "
            "lattices; --features, --hidden and --blocks then have three numbers too."
        ),
    ] = None
    features: Annotated[str | None, typer.Option(help="Features of a query, of each stage, e.g. 80,160,80.")] = None
    hidden: Annotated[
        str | None, typer.Option(help="Width of the blocks' hidden layers, of each stage, e.g. 64,128,64.")
    ] = None
    blocks: Annotated[str | None, typer.Option(help="Number of blocks of each stage, e.g. 4,4,4.")] = None

    def sizes(self) -> dict[str, Any]:
        """Return the sizes that are given, as arguments of MLPatch."""
        given = {name: text for name, text in vars(self).items() if text is not None}
        numbers: dict[str, Any] = {}
        for name, text in given.items():
            values = _numbers(f"--{name}", text)
            if not all(v >= 1 and v.is_integer() for v in values):
                raise ValueError(f"--{name} must be whole numbers from 1 up, one for each stage, got {text!r}")
            numbers[name] = tuple(int(v) for v in values)
        if len({len(v) for v in numbers.values()}) > 1:
            got = ", ".join(f"--{name} {text}" for name, text in given.items())
            raise ValueError(
                f"--spacing, --features, --hidden and --blocks must have a number for each stage, got {got}"
            )
        if "blocks" in numbers:
            numbers["dilations"] = tuple((1,) * n for n in numbers.pop("blocks"))
        return {name: v[0] if len(v) == 1 else v for name, v in numbers.items()}


@with_option_groups
def train_denoiser(
    output: WeightsFile,
    *,
    kind: Annotated[
        str,
        typer.Option(
            help="Architecture and data: gray, color, two-lattices or gray-hq for photographs, convergence for "
            "simulated maps, volume for volumes."
        ),
    ] = "gray",
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of photographs, subfolders included; or synthetic: images, or volumes, that the command makes "
            "itself."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Initial weights to fine-tune on your data: a name, e.g. gray, or a file.")
    ] = None,
    budget: Budget,
    batch: Annotated[
        int | None,
        typer.Option(help="Images per step, over all processes; default: 12, or 4 for convergence and volume."),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(help="Side of the crops in pixels, at most 128, default 96; of volumes at most 96, default 48."),
    ] = None,
    border: Annotated[
        int | None,
        typer.Option(
            help="Pixels that the loss leaves out at the edges of the crops; features beyond them count as zero. "
            "Default: all pixels whose receptive field leaves the crop; 6 for volume. 12 suits wide fields, e.g. of "
            "two-lattices."
        ),
    ] = None,
    coloured: Annotated[
        float,
        typer.Option(
            help="Part of the examples, 0 to 1, whose noise is not white but streaky, smooth, rough or uneven, as the "
            "errors within solve are. 0.5 suits weights for solve."
        ),
    ] = 0.0,
    anisotropy: Annotated[
        float, typer.Option(help="Largest ratio of a voxel's sides in the volumes; above 1, half of them have cubes.")
    ] = 1.0,
    stages: Stages,
    optimizer: Annotated[
        str, typer.Option(help="Optimiser: muon (for hidden layers; AdamW for the rest) or adamw.")
    ] = "muon",
    precision: Annotated[
        str, typer.Option(help="Number format: auto (bfloat16 if the processor supports it), float32 or bfloat16.")
    ] = "auto",
    std: Annotated[
        str, typer.Option(help="Standard deviations of the simulated convergence maps, e.g. 0.015,0.03.")
    ] = "0.015,0.02,0.025,0.03",
    pixel_arcmin: Annotated[float, typer.Option(help="Pixel size of the simulated convergence maps in arcmin.")] = 0.29,
    run: RunOptions,
    validate_minutes: Annotated[
        float | None, typer.Option(help="Minutes of training between validations; default: those between checkpoints.")
    ] = None,
) -> None:
    """Train a denoiser.

    A stopped run resumes with --resume; a finished run can be extended by --resume and a larger budget. Under
    torchrun each process has one GPU and a share of every batch; a run must be resumed with the same number of
    processes.

    Images of --data synthetic are dead leaves, textures, drawings and phantoms, drawn from --seed: weights trained on
    them carry no terms of anybody's photographs. A folder of that name is given as ./synthetic. The volumes are of the
    same kinds in space.

    \b
    Examples:
      pnp train denoiser --data photographs/ --minutes 60 -o gray.safetensors
      pnp train denoiser --data photographs/ --minutes 60 -o gray.safetensors --resume
      pnp train denoiser --data slices/ --start gray --minutes 20 -o slices.safetensors
      pnp train denoiser --data photographs/ --kind color --steps 20000 -o color.safetensors
      pnp train denoiser --data synthetic --minutes 60 -o open.safetensors
      pnp train denoiser --data photographs/ --kind two-lattices --crop 128 --border 12 -o two.safetensors
      pnp train denoiser --kind convergence --std 0.018 -o kappa.safetensors
      pnp train denoiser --kind volume --data synthetic --minutes 240 -o volume.safetensors
      torchrun --nproc-per-node=2 $(which pnp) train denoiser --data photographs/ -o gray.safetensors
    """
    checkpoint = checkpoint_of(output, budget, run)

    import torch

    from denoisers.mlpatch import ARCHITECTURES, MLPatch

    from .. import training
    from ..lensing.training_set import convergence_set
    from ..training import processes
    from ..training.photographs import photograph_set
    from ..training.synthetic import synthetic_set
    from ..training.volumes import volume_set

    if kind not in ARCHITECTURES:
        raise ValueError(f"--kind must be one of {', '.join(ARCHITECTURES)}, got {kind!r}")
    if kind == "convergence" and data is not None:
        raise ValueError(f"--data {data}: convergence maps are simulated; leave --data out, or choose another --kind")
    if kind != "convergence" and data is None:
        raise ValueError("--data is missing: give a folder of images to train on, or synthetic")
    if kind == "volume" and data != "synthetic":
        raise ValueError(f"--data must be synthetic for --kind volume, got {data}; volumes are not read from a folder")
    if kind != "volume" and anisotropy != 1:
        raise ValueError(f"--anisotropy is of voxels, for --kind volume alone, got {anisotropy:g}; leave it out")
    given = budget.arguments() | {"optimizer": optimizer, "seed": run.seed, "coloured": coloured}
    given |= {} if border is None else {"border": border}
    given |= {} if batch is None else {"batch": batch}
    training.TrainingOptions(**given)
    where = choose_device(run.device)
    torch.manual_seed(run.seed)
    try:
        model = MLPatch(**ARCHITECTURES[kind] | stages.sizes(), precision=precision)
    except ValueError as error:
        # MLPatch names its argument, which is the option of this command.
        raise ValueError(str(error).replace("MLPatch: ", "--", 1)) from None
    if start is not None:
        initial = MLPatch.from_pretrained(start)
        if initial.config() != model.config():
            raise ValueError(f"--start {start} has another architecture than --kind {kind}; choose its own --kind")
        model.load_state_dict(initial.state_dict())
    if kind == "volume":
        job = volume_set(crop=48 if crop is None else crop, seed=run.seed, anisotropy=anisotropy)
    elif data == "synthetic":
        job = synthetic_set(channels=model.channels, crop=96 if crop is None else crop, seed=run.seed)
    elif data is not None:
        job = photograph_set(data, channels=model.channels, crop=96 if crop is None else crop)
    else:
        job = convergence_set(_numbers("--std", std), pixel_arcmin)
    with processes.joined(where) as here:
        with exit_on_interrupt(checkpoint):
            training.train_denoiser(
                model.to(here),
                job.sampler,
                job.levels,
                replace(job.options, **given),
                validate=job.validate,
                **run.arguments(checkpoint),
                validate_minutes=validate_minutes,
            )
        if processes.rank() > 0:
            return
        state = training.load_checkpoint(checkpoint)
        length = f"{state['step']} steps, {state['seconds'] / 60:.1f} minutes"
        score = job.validate(model)
        value = f"{job.measure} {score:.3f}"
        about = {"command": command_line(), "data": job.about, "length": length, "held out": value}
        model.save(output, about={**about, "processes": str(processes.size())})
        what = "volumes" if kind == "volume" else "images"
        noisy = job.validate(_Unchanged())
        print_trained(output, length, value, f"{job.n_held_out} {what}", f"noisy {noisy:.3f}")
        if job.measure.startswith("PSNR") and not score > noisy:
            print_warning("this network does not denoise yet; train on, with --resume and more --minutes or --steps")


class _Unchanged:
    """A denoiser that returns its input, for the score of noisy images."""

    def parameters(self) -> tuple[()]:
        return ()

    buffers = parameters

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return x


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be numbers separated by commas, as in the help, got {text!r}") from None
