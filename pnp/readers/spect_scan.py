"""A SPECT scan: the counts of a camera at each of its positions around a patient, and the geometry.

Frame: that of `operators.SPECT`. Axes x, y and z are the patient's left, back and head; at the angle theta the camera
is at (sin(theta), -cos(theta)): before the breastbone at 0, at the patient's left at pi/2. Bins lie along
(cos(theta), sin(theta)) and z: a view shows the patient as seen from the camera, with rows that run upwards.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from operators import SPECT, collimator_fwhm
from operators.base import warn_of_degrees

from ..io import Acquisition
from ..io.guards import check_finite, check_real, to_float32
from ..spect import triple_energy_window
from ..spect.collimator import warn_of_collimator


class EnergyWindow(NamedTuple):
    """A window of photon energies; NaN where the file does not state them.

    Attributes:
        name: as the file has it.
        low_kev: lowest energy.
        high_kev: highest energy.
        ranges: (low, high) of each range, where the window has several, as those of 111In at 171 and 245 keV.
    """

    name: str
    low_kev: float
    high_kev: float
    ranges: tuple[tuple[float, float], ...] = ()

    @property
    def width_kev(self) -> float:
        """Width of the window in keV, without the gaps between its ranges; what two ranges share counts once."""
        if not self.ranges:
            return self.high_kev - self.low_kev
        width, covered = 0.0, -math.inf
        for low, high in sorted(self.ranges):
            width += max(high - max(low, covered), 0.0)
            covered = max(covered, high)
        return width

    @property
    def energies(self) -> str:
        """The ranges in words, "157-185 + 225-265 keV"."""
        ranges = self.ranges or ((self.low_kev, self.high_kev),)
        return " + ".join(f"{low:g}-{high:g}" for low, high in ranges) + " keV"


@dataclass(frozen=True, eq=False)
class SpectScan:
    """Views of a patient in one or several energy windows.

    Attributes:
        y: (n_windows, 1, n_views, nx, nz), float32: counts, or expected counts of a simulation, z upwards.
            Those of one window have the shape that `SPECT.A` returns.
        angles: (n_views,), radians, float64, in the frame above.
        pixel_size_mm: (transaxial, axial) size of a bin.
        radius_mm: (n_views,), distance from the axis of rotation to the collimator's face; None: not known.
        windows: an `EnergyWindow` per window.
        centre_mm: where the middle of the volume, on the axis of rotation, lies in the study's own frame (x to the
            left, y back, z to the head, as ImagePositionPatient), in mm; None: not known.
        isotope: as the file names it, or "".
        facts: further entries of the file.
        path: the file, for messages.
        acquisition: when the views were counted, for how long and of which isotope, as far as the file says; None: it
            does not.

    Raises:
        ValueError: shapes do not match each other, counts are negative or not finite, or a length is not positive.
    """

    y: npt.NDArray[np.float32] = field(repr=False)
    angles: npt.NDArray[np.float64] = field(repr=False)
    pixel_size_mm: tuple[float, float]
    radius_mm: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    windows: tuple[EnergyWindow, ...] = ()
    isotope: str = ""
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    path: str = ""
    centre_mm: tuple[float, float, float] | None = None
    acquisition: Acquisition | None = None

    def __post_init__(self) -> None:
        where = self.path or "SpectScan"
        counts, angles = to_float32(f"{where}: y", self.y), np.asarray(self.angles)
        check_real(f"{where}: angles", angles.dtype)
        check_finite(f"{where}: angles", angles)
        if counts.ndim != 5 or 0 in counts.shape or counts.shape[1] != 1 or angles.shape != counts.shape[2:3]:
            raise ValueError(
                f"{where}: y must be (n_windows, 1, n_views, nx, nz) with an angle for each view, got "
                f"{counts.shape} and angles {angles.shape}"
            )
        if counts.min() < 0:
            raise ValueError(
                f"{where}: y must be counts >= 0, got a minimum of {counts.min():.4g}; take the raw views, "
                "without a background subtracted"
            )
        pixel = tuple(float(size) for size in self.pixel_size_mm)
        if len(pixel) != 2 or not all(0 < size < math.inf for size in pixel):
            raise ValueError(
                f"{where}: pixel_size_mm must be two positive sizes (transaxial, axial), got {self.pixel_size_mm}"
            )
        if self.radius_mm is not None:
            radius = np.asarray(self.radius_mm, dtype=np.float64)
            if radius.shape != angles.shape or not ((radius > 0) & (radius < np.inf)).all():
                raise ValueError(
                    f"{where}: radius_mm must be {len(angles)} positive numbers, one per view, got shape "
                    f"{radius.shape} from {radius.min(initial=math.inf):.4g} on"
                )
            object.__setattr__(self, "radius_mm", radius)
        windows = self.windows or tuple(EnergyWindow("", math.nan, math.nan) for _ in counts)
        if len(windows) != len(counts):
            raise ValueError(f"{where}: windows must be {len(counts)}, as many as y has, got {len(windows)}")
        warn_of_degrees(where, float(np.ptp(angles)), stacklevel=3)
        object.__setattr__(self, "y", counts)
        object.__setattr__(self, "angles", np.ascontiguousarray(angles, dtype=np.float64))
        object.__setattr__(self, "pixel_size_mm", pixel)
        object.__setattr__(self, "windows", tuple(windows))

    def window(self, k: int) -> SpectScan:
        """Return the scan of window k alone, counted from 0, y (1, 1, n_views, nx, nz)."""
        self._check_window("k", k)
        return replace(self, y=self.y[k][None], windows=(self.windows[k],))

    def scatter(self, peak: int, lower: int, upper: int | None = None) -> npt.NDArray[np.float32]:
        """Estimate the scatter in the window `peak`, (1, 1, n_views, nx, nz), from the windows beside it.

        See `pnp.spect.triple_energy_window`. The estimate is noisy: smooth it before use as a background.

        Args:
            peak: number of the photopeak's window, counted from 0.
            lower: number of the one below it.
            upper: number of the one above it; None: nothing scatters from above.

        Warns:
            UserWarning: a window has several ranges: which energies are used.

        Raises:
            ValueError: the file does not give the windows' energies, or they are in another order.
        """
        chosen = [k for k in (lower, peak, upper) if k is not None]
        for name, k in zip(("lower", "peak", "upper"), chosen, strict=False):
            self._check_window(name, k)
        windows = [self.windows[k] for k in chosen]
        edges = [(w.low_kev + w.high_kev) / 2 for w in windows]
        if not all(a < b for a, b in pairwise(edges)):  # NaN fails too
            got = ", ".join(w.energies for w in windows)
            raise ValueError(
                f"SpectScan.scatter: lower, peak and upper must be windows of rising energy, got {got}; these are "
                f"{self._listed()}"
            )
        if any(len(w.ranges) > 1 for w in windows):
            sides = " and ".join(self.windows[k].energies for k in chosen if k != peak)
            warnings.warn(
                f"SpectScan.scatter: the photopeak's window is {self.windows[peak].energies}, "
                f"{self.windows[peak].width_kev:g} keV wide without gaps; its scatter is a straight line across it, "
                f"from {sides}",
                stacklevel=2,
            )
        below, above = self.y[lower][None], None if upper is None else self.y[upper][None]
        return triple_energy_window(below, above, [w.width_kev for w in windows])

    def tensors(self, device: torch.device | str | None = None) -> tuple[Tensor, None]:
        """Return what `solve` and `osem` take: a copy of y (n_windows, 1, n_views, nx, nz), and None for noise_std.

        Counts carry their own noise: use `Poisson`. Choose one window first, with `window`.
        """
        return torch.tensor(self.y, device=device), None

    def operator(
        self,
        shape: tuple[int, int, int] | None = None,
        *,
        attenuation: Any = None,
        collimator: Mapping[str, float] | None = None,
        **options: Any,
    ) -> SPECT:
        """Return the operator from volumes of this shape to the views; lengths are in mm.

        Args:
            shape: (nx, ny, nz), nx and nz as the views have them; None: (nx, nx, nz).
            attenuation: (nx, ny, nz), 1/mm; None: nothing is absorbed.
            collimator: hole_diameter, hole_length, septal_attenuation and intrinsic of `operators.collimator_fwhm`, in
                mm and 1/mm; needs radius_mm. None: the response is in options (fwhm or psf), or perfect.
            options: further arguments of `operators.SPECT`.

        Raises:
            ValueError: shape does not fit the views, or a collimator is given and radius_mm is not known.
        """
        arguments = self.geometry(shape)
        if collimator is not None:
            if self.radius_mm is None:
                raise ValueError(
                    "SpectScan.operator: collimator needs radius_mm, got None; use replace(scan, radius_mm=)"
                )
            warn_of_collimator("SpectScan.operator", collimator)
            ny, size = arguments["shape"][1], self.pixel_size_mm[0]
            options["fwhm"] = collimator_fwhm(ny, self.radius_mm, voxel_size=size, **collimator)
        return SPECT(**arguments, attenuation=attenuation, **options)

    def geometry(self, shape: tuple[int, int, int] | None = None) -> dict[str, Any]:
        """Return the arguments of SPECT that the views give: shape, angles and voxel_size in mm; see `operator`."""
        nx, nz = self.y.shape[-2:]
        if shape is not None and (len(shape) != 3 or (shape[0], shape[2]) != (nx, nz)):
            raise ValueError(f"SpectScan: shape must be ({nx}, ny, {nz}), as the views are, got {shape}")
        transaxial, axial = self.pixel_size_mm
        return {
            "shape": (nx, nx, nz) if shape is None else shape,
            "angles": self.angles,
            "voxel_size": transaxial if transaxial == axial else (transaxial, axial),
        }

    def _check_window(self, name: str, k: int) -> None:
        if not -len(self.windows) <= k < len(self.windows):
            raise ValueError(
                f"SpectScan: {name} must be from 0 to {len(self.windows) - 1}, got {k}; these are {self._listed()}"
            )

    def _listed(self) -> str:
        return ", ".join(f"{k}: {w.name[:24]} {w.energies}" for k, w in enumerate(self.windows[:4]))


def join_windows(*scans: SpectScan) -> SpectScan:
    """Return one scan with the energy windows of several files of it, in their order; all else is the first's.

    Raises:
        ValueError: the files are of different scans: other angles, bins or sizes.
    """
    first = scans[0]
    for other in scans[1:]:
        for what, mine, its in (
            ("bins", first.y.shape[1:], other.y.shape[1:]),
            ("pixel_size_mm", first.pixel_size_mm, other.pixel_size_mm),
            ("angles", first.angles, other.angles),
        ):
            if np.shape(mine) != np.shape(its) or not np.allclose(mine, its, rtol=1e-5, atol=1e-5):
                raise ValueError(
                    f"{other.path}: {what} must be as in {first.path}, of which it is another energy window; got "
                    f"{str(its)[:60]} for {str(mine)[:60]}"
                )
    windows = tuple(window for scan in scans for window in scan.windows)
    return replace(first, y=np.concatenate([scan.y for scan in scans]), windows=windows)
