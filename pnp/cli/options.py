"""Options that several commands share, and the functions that read them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import INTERRUPTED, print_error

if TYPE_CHECKING:
    import torch

    from ..algorithms.least_squares import LeastSquares
    from ..drivers.checkpoint import Checkpoint
    from ..drivers.result import Result

OPERATOR_NAMES = (
    "blur",
    "cone_beam",
    "downsample",
    "fan_beam",
    "identity",
    "kaiser_squires",
    "kaiser_squires_eb",
    "mask",
    "parallel_beam",
    "radon",
    "spect",
)
"""Names in `operators.OPERATORS`, listed here because importing that takes torch, which is too slow for --help."""

Operator = Annotated[
    str | None,
    typer.Option(
        help=f"Operator, if the file does not name one: {', '.join(OPERATOR_NAMES[:-1])} or {OPERATOR_NAMES[-1]}."
    ),
]
Denoiser = Annotated[
    str,
    typer.Option(
        help="Denoiser, with its weights after a colon: mlpatch:gray, mlpatch:gray-open, mlpatch:color, "
        "mlpatch:volume, mlpatch:convergence, mlpatch:FILE or tv; the names of weights alone do, too."
    ),
]
NoiseStd = Annotated[
    float | None,
    typer.Option(help="Standard deviation of the measurements' noise; default: from the file, else estimated."),
]
Strength = Annotated[
    str,
    typer.Option(
        help="Strength of the prior: a number, or auto: measurements that are held out choose it, in three to "
        "five times the time."
    ),
]
Algorithm = Annotated[str, typer.Option(help="Algorithm: admm or hqs.")]
Robust = Annotated[
    bool, typer.Option("--robust", help="Leave out outliers: cosmic rays, dead and saturated pixels, salt and pepper.")
]
Bounds = Annotated[str | None, typer.Option(help="Lowest and highest value of the image, e.g. 0,1 or 0,inf.")]
MaxIter = Annotated[int | None, typer.Option(help="Maximum number of iterations.")]
CheckpointFile = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="File for the solver's state: after a stop, the same command resumes from it."),
]
CheckpointMinutes = Annotated[
    float | None, typer.Option(help="Minutes between writes of the --checkpoint; default: 3.", show_default=False)
]
Device = Annotated[str, typer.Option(help="Device: auto (a GPU if there is one), cpu, cuda, cuda:1, ...")]
Rings = Annotated[
    bool | None,
    typer.Option(
        "--rings/--no-rings",
        help="Take errors that all views of a detector bin have in common for noise, not for rings; default: of raw "
        "CT scans only.",
        show_default=False,
    ),
]
Drift = Annotated[
    bool | None,
    typer.Option(
        "--drift/--no-drift",
        help="Take errors that all detector bins of a view have in common, as of a beam that drifts, for noise; "
        "default: of raw CT scans only.",
        show_default=False,
    ),
]
Volume = Annotated[
    bool | None,
    typer.Option(
        "--volume",
        help="Solve the slices of a parallel beam as one volume, denoised across slices, too, or in slabs where memory "
        "does not hold it; a denoiser of volumes implies it.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes on this machine, which share its cores; default: one per core. OMP_NUM_THREADS limits the "
        "threads of each."
    ),
]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a running Dask cluster that can read and write here: tcp://host:8786.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")]


@dataclass(frozen=True)
class SolveOptions:
    """Options of every command that calls `solve`."""

    operator: Operator = None
    denoiser: Denoiser = "mlpatch:gray"
    noise_std: NoiseStd = None
    strength: Strength = "1"
    algorithm: Algorithm = "admm"
    bounds: Bounds = None
    robust: Robust = False
    max_iter: MaxIter = None

    def solver(self) -> dict[str, Any]:
        """Return the arguments of `solve` that these options give whatever the measurements."""
        return {"algorithm": self.algorithm, "strength": parse_strength(self.strength), "max_iter": self.max_iter}


@dataclass(frozen=True)
class CommonErrorOptions:
    """Options for errors that the views of a bin, or the bins of a view, have in common."""

    rings: Rings = None
    drift: Drift = None


@dataclass(frozen=True)
class WorkerOptions:
    """Options for the processes that solve the slices of a stack."""

    workers: Workers = None
    scheduler: Scheduler = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.scheduler is not None:
            raise ValueError("--workers is for this machine, --scheduler has its own workers; give one of them")


def as_typed(name: str) -> str:
    """Return an option as it is typed, from the name of its parameter."""
    return f"--{name.replace('_', '-')}"


def parse_bounds(text: str | None) -> tuple[float | None, float | None] | None:
    """Read "low,high"; an empty side, a low of -inf and a high of inf mean no bound."""
    if text is None:
        return None
    try:
        left, right = text.split(",")
        low, high = float(left.strip() or -math.inf), float(right.strip() or math.inf)
        if not (low < math.inf and high > -math.inf):  # NaN fails too
            raise ValueError
    except ValueError:
        raise ValueError(f"--bounds must be low,high, e.g. 0,1 or 0,inf, got {text!r}") from None
    return (low if math.isfinite(low) else None, high if math.isfinite(high) else None)


def parse_strength(text: str) -> float | str:
    """Read a number or "auto"."""
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--strength must be a number or auto, got {text!r:.60}") from None


def least_squares(robust: bool, errors: CommonErrorOptions) -> LeastSquares:
    """Return the data term of --robust, --rings and --drift."""
    from ..algorithms.least_squares import LeastSquares

    bins, views = ("estimate" if wanted else None for wanted in (errors.rings, errors.drift))
    return LeastSquares(robust=robust or None, bin_std=bins, view_std=views)


def as_checkpoint(path: Path | None, minutes: float | None, output: Path) -> Checkpoint | None:
    """Return the checkpoint of --checkpoint; it is kept until the output is written, whose disk may be full."""
    from ..drivers.checkpoint import Checkpoint

    if path is not None and path.resolve() == output.resolve():
        raise ValueError(f"--checkpoint {path} must differ from the output; give it another name")
    if path is None:
        if minutes is not None:
            raise ValueError("--checkpoint-minutes needs --checkpoint; give both")
        return None
    return Checkpoint(path, remove=False) if minutes is None else Checkpoint(path, minutes=minutes, remove=False)


def exit_if_interrupted(checkpoint: Checkpoint | None, result: Result) -> None:
    """Exit without an output if Ctrl-C stopped a run whose checkpoint was written."""
    if checkpoint is not None and result.stop.name == "INTERRUPTED" and checkpoint.path.exists():
        print_error(
            f"interrupted after {result.n_iter} iterations; the same command resumes from checkpoint {checkpoint.path}"
        )
        raise typer.Exit(INTERRUPTED)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the GPU if there is one, else the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    import torch

    try:
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if where.type not in ("cpu", "cuda"):
            raise RuntimeError("it must be cpu or cuda")
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:  # unknown name; not built with CUDA; no such card
        reason = str(error).splitlines()[0][:150]
        raise ValueError(f"--device {name} is not available here ({reason}); use --device cpu") from error
    return where
