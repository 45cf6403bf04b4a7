"""The options --error-bars and --regions of `pnp reconstruct`: error bars beside the reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import INTERRUPTED, print_error, print_warnings, write_picture
from .problem import is_hdf5, read_picture

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..drivers.checkpoint import Checkpoint
    from ..drivers.result import Result
    from ..io import Measurements, SavedErrorBars
    from ..uncertainty import Bootstrap

    Array = npt.NDArray[Any]

ErrorBars = Annotated[
    int | None,
    typer.Option(
        help="Error bars from so many simulated copies of the measurements, e.g. 24, in 1.83 times as many solves (pnp "
        "osem: as many): in .h5 with 90 % intervals, else a second file, NAME_std."
    ),
]
Regions = Annotated[
    Path | None,
    typer.Option(
        help="Label image (.tif, .npy, .fits, .nii.gz): with --error-bars, the mean of each region above 0 and its "
        "standard deviation, printed, and in the .h5 or in NAME_regions.csv."
    ),
]
MM3_PER_ML = 1000.0
LEVEL = 0.9
"""Probability that the truth lies in an interval."""
WITHIN_BODY: dict[str, Any] = {"moves": ("shift",), "max_shift": 0.02}
"""Moves of SPECT, whose activity must not leave the body that attenuates it."""
PACKED = (".gz",)


@dataclass(frozen=True)
class Wanted:
    """What --error-bars and --regions ask for, checked before the first solve.

    Attributes:
        n: copies; 0: no error bars.
        operator: name of the measurements' operator.
        labels: the region of each pixel; None: no regions.
        overwrite: files may be replaced.
        voxel_ml: volume of a voxel of SPECT; None: of another operator.
    """

    n: int
    operator: str
    labels: Array | None
    overwrite: bool
    voxel_ml: float | None = None

    @classmethod
    def of(cls, n: int | None, regions: Path | None, output: Path, data: Measurements, overwrite: bool) -> Wanted:
        """Check the options against the measurements, and that the further files can be written."""
        from ..io import check_output

        if n is None:
            if regions is not None:
                raise ValueError(f"--regions {regions} needs --error-bars; give e.g. --error-bars 24, too")
            return cls(0, data.operator, None, overwrite)
        size = data.parameters["voxel_size"] if data.operator == "spect" else None
        across, along = size if isinstance(size, tuple) else (size, size)
        voxel_ml = None if size is None else across * across * along / MM3_PER_ML
        if n < 2:
            raise ValueError(f"--error-bars must be 2 copies or more, got {n}; 24 are enough for most images")
        labels = None if regions is None else _read_labels(regions, data)
        if not is_hdf5(output):
            for path in (std_path(output), *([] if labels is None else [regions_path(output)])):
                check_output(path, overwrite=overwrite)
        return cls(n, data.operator, labels, overwrite, voxel_ml)

    def compute(
        self, operator: Any, y: Any, denoiser: Any, result: Result, settings: dict[str, Any], kept: Checkpoint | None
    ) -> Bootstrap | None:
        """Return the error bars of a result; None where none are wanted, or Ctrl-C left too few copies.

        Args:
            operator, y, denoiser: as `solve` took them.
            result: what it returned.
            settings: its further arguments.
            kept: its checkpoint; the copies have one beside it.
        """
        from ..drivers.checkpoint import Checkpoint
        from ..uncertainty import bootstrap

        if not self.n or result.stop.name == "INTERRUPTED":
            return None
        chosen = {"strength": result.strength} if isinstance(result.strength, float) else {}
        moves = WITHIN_BODY if self.operator == "spect" else {}
        path = None if kept is None else Checkpoint(bars_path(kept), minutes=kept.minutes, remove=False)
        options: dict[str, Any] = settings | chosen | moves
        bars, said = None, "bootstrap: interrupted"
        try:
            bars = bootstrap(operator, y, denoiser, n=self.n, result=result, checkpoint=path, progress=True, **options)
        except KeyboardInterrupt as stopped:  # before two copies: the reconstruction is there all the same
            said = str(stopped) or said
        if path is not None and self.lacks(bars) and path.path.exists():
            print_error(f"{said.partition(';')[0]}; the same command resumes from checkpoint {path.path}")
            raise typer.Exit(INTERRUPTED)
        if bars is None:
            print_error(f"{said.partition(';')[0]}; the reconstruction is written without error bars")
        return bars

    def compute_osem(self, operator: Any, y: Any, result: Result, settings: dict[str, Any]) -> Bootstrap | None:
        """Return the error bars of a result of OSEM; None where none are wanted, or Ctrl-C left too few copies.

        Args:
            operator, y, settings: as `osem` took them.
            result: what it returned.
        """
        from ..uncertainty import bootstrap_osem

        if not self.n or result.stop.name == "INTERRUPTED":
            return None
        try:
            return bootstrap_osem(operator, y, n=self.n, result=result, progress=True, **settings)
        except KeyboardInterrupt as stopped:
            print_error(f"{stopped or 'interrupted'}; the reconstruction is written without error bars")
            return None

    def lacks(self, bars: Bootstrap | None) -> bool:
        """Return whether error bars are wanted, and Ctrl-C left none or fewer copies."""
        return self.n > 0 and (bars is None or bars.interrupted)

    def saved(self, bars: Bootstrap | None) -> SavedErrorBars | None:
        """Return what a file of a result holds of error bars."""
        if bars is None:
            return None
        from ..io import SavedErrorBars

        low, high = (end.cpu().numpy() for end in bars.interval(LEVEL))
        one = isinstance(bars.factor, float)
        attributes = {
            "n": bars.n,
            "moves": ", ".join(bars.moves),
            "factor": bars.factor if one else tuple(bars.factor.tolist()),
            "factor_std": bars.factor_std if one else tuple(bars.factor_std.tolist()),
            "hold_out": ", ".join(bars.hold_out) if isinstance(bars.hold_out, tuple) else bars.hold_out or "nothing",
        }
        return SavedErrorBars(bars.std.cpu().numpy(), low, high, LEVEL, attributes, self._regions(bars))

    def _regions(self, bars: Bootstrap) -> dict[str, Any]:
        """Return a row for each region of each image and channel, as columns."""
        import numpy as np
        import torch

        if self.labels is None:
            return {}
        rows = []
        for label in np.unique(self.labels[self.labels > 0]).tolist():
            found = bars.region(self.labels == label)
            value, std = (torch.as_tensor(v).reshape(bars.x.shape[:2]).tolist() for v in found)
            rows += [
                (b, c, int(label), value[b][c], std[b][c])
                for b in range(bars.x.shape[0])
                for c in range(bars.x.shape[1])
            ]
        columns = zip(*rows, strict=True)
        table = dict(zip(("image", "channel", "label", "mean", "std"), map(np.array, columns), strict=True))
        if self.voxel_ml is not None:
            volume = np.array([self.voxel_ml * int((self.labels == label).sum()) for label in table["label"]])
            table |= {"volume_ml": volume, "total": table["mean"] * volume, "total_std": table["std"] * volume}
        return table

    def write(
        self,
        bars: Bootstrap | None,
        saved: SavedErrorBars | None,
        output: Path,
        written: Path,
        data: Any,
        unit: str = "",
    ) -> None:
        """Write the further files of a result that is no HDF5 file, and print what was found.

        Args:
            bars, saved: the error bars, as computed and as a file has them.
            output: the file that was asked for.
            written: that of the result.
            data: the problem.
            unit: of x.
        """
        if bars is None or saved is None:
            return
        print(replace(bars, warnings=()))
        _print_regions(saved.regions, unit)
        print_warnings(replace(bars.result, warnings=bars.warnings))
        if is_hdf5(written):
            print(f"{written}: /error_bars has std, low and high ({100 * LEVEL:.0f} % interval)")
            return
        path = std_path(output)
        write_picture(path, saved.std[0], data, self.overwrite, f"SPECT: standard deviation{f', {unit}' * bool(unit)}")
        print(f"{path}: standard deviation of each pixel; {100 * LEVEL:.0f} % interval: plus or minus 1.645 of it")
        if saved.regions:
            _write_csv(regions_path(output), saved.regions, self.overwrite)
            print(f"{regions_path(output)}: means of regions")


def std_path(output: Path) -> Path:
    """Return the name of the second file: x_std.tif beside x.tif, and beside x.png, which holds [0, 1] alone.

    >>> str(std_path(Path("volume.nii.gz"))), str(std_path(Path("x.png")))
    ('volume_std.nii.gz', 'x_std.tif')
    """
    stem, suffix = _parts(output)
    return output.with_name(f"{stem}_std{'.tif' if suffix.lower() == '.png' else suffix}")


def regions_path(output: Path) -> Path:
    """Return the name of the table of regions: x_regions.csv beside x.tif."""
    return output.with_name(f"{_parts(output)[0]}_regions.csv")


def bars_path(kept: Checkpoint) -> Path:
    """Return the name of the checkpoint of the copies, beside that of the solve."""
    return kept.path.with_name(f"{kept.path.name}.error-bars")


def remove_checkpoints(kept: Checkpoint | None) -> None:
    """Remove the checkpoints of the solve and of its copies, once the output is written."""
    if kept is not None:
        kept.path.unlink(missing_ok=True)
        bars_path(kept).unlink(missing_ok=True)


def _parts(output: Path) -> tuple[str, str]:
    """Return the name without its suffix, and the suffix, .nii.gz as one."""
    n = 2 if output.suffix.lower() in PACKED else 1
    suffix = "".join(output.suffixes[-n:])
    return output.name.removesuffix(suffix), suffix


def _read_labels(path: Path, data: Measurements) -> Array:
    """Read a label image of the size of the reconstruction."""
    import numpy as np

    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"--regions {path}: a picture holds [0, 1], not labels; save them as .tif or .npy")
    found = read_picture(path, data.operator)
    shape = tuple(data.parameters["shape"]) if "shape" in data.parameters else data.y.shape[2:]
    if found.shape != shape:
        raise ValueError(f"--regions {path} must have the size of the image, {shape}, got {found.shape}")
    if not np.array_equal(found, np.round(found)) or not (found > 0).any():
        raise ValueError(f"--regions {path} must hold whole numbers, some above 0, 0 being no region; save labels")
    return found.astype(np.int64)


def _print_regions(regions: dict[str, Any], unit: str) -> None:
    """Print the means of regions as a table, of SPECT with their volumes, of activity with their totals."""
    several = bool(regions) and bool(regions["image"].any() or regions["channel"].any())
    for b, c, label, mean, std, *more in zip(*regions.values(), strict=True):
        where = f"image {b}, channel {c}, " if several else ""
        size = f", {more[0]:.4g} ml" if more else ""
        total = f", total {more[1]:.5g} +- {more[2]:.2g} MBq" if more and unit else ""
        print(f"{where}region {label}: {mean:.5g} +- {std:.2g}{f' {unit}' * bool(unit)}{size}{total}")


def _write_csv(path: Path, regions: dict[str, Any], overwrite: bool) -> None:
    from ..io import atomic

    cells = zip(*(column.tolist() for column in regions.values()), strict=True)
    rows = [",".join(regions), *(",".join(map(repr, row)) for row in cells)]
    with atomic(path, overwrite=overwrite) as part:
        part.write_text("\n".join(rows) + "\n")
