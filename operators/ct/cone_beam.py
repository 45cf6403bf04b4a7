"""Cone-beam transform of a volume: a point source and a detector that turn around it, on a circle or a helix.

    y[v, r, c] = 1/(pitch_r pitch_c) int_bin p_v(u, v) du dv

with p_v(u, v) the integral of x along the ray from the source to the point (u, v) of the detector. The projector is in
`cone_tables.py`, filtered back-projection in `fdk.py`.

Frame: X = width (column - (W-1)/2), Y = height ((H-1)/2 - row), Z = depth (slice - (D-1)/2) for voxel (slice, row,
column) of a volume (D, H, W) whose voxels measure (depth, height, width); Z is the axis of rotation. At angle theta the
source is at (source_origin sin(theta), -source_origin cos(theta), shift), the detector's columns lie along
(cos(theta), sin(theta), 0), its rows along Z, and bin (r, c) is centred on

    u = offset + pitch_c (c - (columns-1)/2),    v = row_offset + pitch_r (r - (rows-1)/2)

from the point of the detector opposite the source. It may be turned in its plane, tilted, or a cylinder about the
source; see `cone_detector.py`. Slice by slice this is the frame of Radon and FanBeam; rows of the
detector and slices of the volume run the same way. x is attenuation per unit length, y has no unit.
"""

from __future__ import annotations

import math
import operator as op
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import check_images, length, warn_of_degrees
from ..sizes import Sizes
from .cone_detector import MAX_TURN, check_bins, columns_hold, margins, middle_ends
from .cone_projector import Orbit, backproject, linear, project
from .cone_tables import Bins, Grid, levels_for
from .fan_beam import FanBeam
from .fdk import fan_twin, fdk, flat_views
from .geometry import MovableGeometry
from .projector import MAX_WIDTH, MIN_WIDTH, WINDOWS

Ends = tuple[Tensor, Tensor]

_PRECONDITIONER_EXPONENT = 0.7
"""Exponent of the circulant inverse used as preconditioner."""


class ConeBeam(MovableGeometry):
    """Cone-beam projector: volumes (B, 1, D, H, W) to views (B, 1, n_angles, rows, columns), exact adjoint.

    Views are computed one at a time and nothing is kept for the backward pass, which is the adjoint: memory does not
    grow with the number of views. A part of the geometry that requires grad receives gradients too; of it, first
    derivatives.

    Args:
        shape: (D, H, W) voxels.
        angles: (n_angles,), radians, any order, repeats and many turns allowed.
        source_origin: distance from the source to the axis of rotation, in any unit of length, e.g. mm, or (n_angles,)
            where it varies; the source stays outside the volume.
        origin_detector: distance from the axis to the detector, likewise; 0 for a detector scaled to the axis.
        detector_shape: (rows, columns), numbers of bins; None: the smallest odd numbers that see the whole volume.
        pitch: distance between bins and width of a bin, on the detector; or (pitch of the rows, pitch of the columns).
        voxel_size: side of a voxel; or (depth, height, width). x is per this unit.
        offset: position of the detector's centre along u, or (n_angles,).
        row_offset: position of the detector's centre along v, or (n_angles,).
        shift: height Z of the source, or (n_angles,) for a helix. The detector moves with it.
        roll: radians by which the detector is turned in its plane, from u to v, about its own middle: its columns
            follow each other along (cos(roll), sin(roll)) in (u, v), its rows along (-sin(roll), cos(roll)); or
            (n_angles,), as the next two. At most 45 degrees each.
        tilt: radians by which its rows, in the order of v, lead away from the source.
        slant: radians by which its columns, in the order of u, do. A detector is first tilted, then slanted, then
            rolled.
        curved: whether the detector is a cylinder about the source, parallel to the axis, with u and the pitch of
            columns counted along the arc: equiangular columns. It has no roll, tilt or slant.

    angles, distances, offsets, shift and turns are kept in float64. A tensor that requires grad is kept as it is.

    Measured against exact bin averages of the voxels' line integrals, a view was off by at most 1.05 % of its norm,
    for rays of up to 45 degrees, and for rows far above or below the source's plane; by 2.04 % where bins are a third
    of the slices, the object is a disc of three slices, and rays cross it at 34 degrees, since the shadow of a slice
    has no slopes. The voxels' own staircase is 1 to 4 % of a smooth object's view.

    Raises:
        TypeError, ValueError: an argument is no number, has the wrong shape or cannot be right.

    >>> A = ConeBeam((4, 6, 6), [0.0, 0.5], source_origin=200.0, origin_detector=100.0, pitch=1.5)
    >>> A.A(torch.ones(1, 1, 4, 6, 6)).shape
    torch.Size([1, 1, 2, 5, 9])
    """

    SIZES = ("detector_shape", "pitch", "voxel_size", "curved")
    TENSORS = ("angles", "source_origin", "origin_detector", "offset", "row_offset", "shift", "roll", "tilt", "slant")
    shape: tuple[int, int, int]
    """(D, H, W) of the volumes."""
    source_origin: Tensor
    origin_detector: Tensor
    offset: Tensor
    row_offset: Tensor
    shift: Tensor
    roll: Tensor
    tilt: Tensor
    slant: Tensor
    y_is_sampled = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        angles: Any,
        *,
        source_origin: Any,
        origin_detector: Any,
        detector_shape: tuple[int, int] | None = None,
        pitch: float | tuple[float, float] = 1.0,
        voxel_size: float | tuple[float, float, float] = 1.0,
        offset: Any = 0.0,
        row_offset: Any = 0.0,
        shift: Any = 0.0,
        roll: Any = 0.0,
        tilt: Any = 0.0,
        slant: Any = 0.0,
        curved: bool = False,
    ) -> None:
        super().__init__()
        self._cache = {}
        self.shape = _counts("shape", shape, ("D", "H", "W"))
        self.voxel_size = _lengths("voxel_size", voxel_size, ("depth", "height", "width"))
        self.pitch = _lengths("pitch", pitch, ("rows", "columns"))
        self._keep("angles", angles)
        if self.angles.ndim != 1 or self.angles.numel() == 0:
            got = tuple(self.angles.shape)
            raise ValueError(f"ConeBeam: angles must be a non-empty 1-D array of radians, got shape {got}")
        if isinstance(curved, str) or curved not in (False, True):
            raise TypeError(f"ConeBeam: curved must be True or False, got {curved!r:.60}")
        self.curved = bool(curved)
        given = (source_origin, origin_detector, offset, row_offset, shift, roll, tilt, slant)
        for name, value in zip(self.TENSORS[1:], given, strict=True):
            self._keep(name, value)
            self._check_part(name)
        self._check_distances()
        self._check_turns(detector_shape)
        if self.shift.ndim == 0:  # helices have many turns
            span = float(self.angles.detach().max() - self.angles.detach().min())
            warn_of_degrees("ConeBeam", span, stacklevel=2)
        across, along = self._shadow()
        if detector_shape is None:
            rows = _odd(along, self.row_offset, self.pitch[0])
            detector_shape = rows, _odd(across, self.offset, self.pitch[1])
        self.detector_shape = _counts("detector_shape", detector_shape, ("rows", "columns"))
        if self._is_turned():
            for v, view in enumerate(self._orbit(fixed=True).different()):
                check_bins(self._bins(), self.pitch, view, v)
        self._check_field(across, along)

    # ---------------------------------------------------------------- the geometry

    @property
    def x_shape(self) -> Sizes:
        """Sizes (1, D, H, W) of a volume."""
        return (1, *self.shape)

    @property
    def y_shape(self) -> Sizes:
        """Sizes (1, n_angles, rows, columns) of a volume's views."""
        return (1, len(self.angles), *self.detector_shape)

    def _check_part(self, name: str) -> None:
        part: Tensor = getattr(self, name)
        if part.shape not in ((), self.angles.shape):
            got, n = tuple(part.shape), len(self.angles)
            raise ValueError(f"ConeBeam: {name} must be a number or ({n},), one for each angle, got shape {got}")
        if part.device != self.angles.device:
            raise ValueError(f"ConeBeam: {name} is on {part.device}, angles on {self.angles.device}; move one")

    def _check_distances(self) -> None:
        radius = math.hypot(self.shape[1] * self.voxel_size[1], self.shape[2] * self.voxel_size[2]) / 2
        nearest = float(self.source_origin.detach().min())
        if nearest <= radius:
            raise ValueError(
                f"ConeBeam: source_origin must exceed half the slices' diagonal, {radius:.4g}, or the source would "
                f"pass through the volume, got {nearest:.6g}; give both in one unit, or make the volume smaller"
            )
        least = float(self.origin_detector.detach().min())
        if least < 0:
            raise ValueError(
                f"ConeBeam: origin_detector must be non-negative, got {least:.6g}; it is counted from the axis, so "
                "subtract source_origin from the distance between source and detector"
            )

    def _check_turns(self, detector_shape: Any) -> None:
        for name in ("roll", "tilt", "slant"):
            turn = getattr(self, name).detach()
            largest = float(turn.abs().max())
            if largest > MAX_TURN:
                raise ValueError(
                    f"ConeBeam: {name} must be in radians, at most {MAX_TURN:.4g} (45 degrees) to either side, got "
                    f"{largest:.6g}; convert degrees with np.deg2rad, or exchange rows and columns of the views"
                )
            if self.curved and largest > 0:
                raise ValueError(f"ConeBeam: {name} of a curved detector must be 0, got {largest:.6g}; resample y")
        if detector_shape is None and self._is_turned():
            raise ValueError(
                "ConeBeam: detector_shape must be given for a detector that is curved, rolled, tilted or slanted, "
                "got None; give (rows, columns)"
            )

    def _is_turned(self) -> bool:
        """Whether the detector is another than the flat one opposite the source, or gradients may turn it."""
        turns = (self.roll, self.tilt, self.slant)
        return self.curved or any(turn.requires_grad or bool(turn.any()) for turn in turns)

    def _bins(self) -> Bins:
        return Bins(self.detector_shape, self.curved)

    def _corners(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return where the volume's four upright edges are in each view, (n_angles, 4) each: u, least and largest v."""
        _, height, width = (n * size / 2 for n, size in zip(self.shape, self.voxel_size, strict=True))
        x = self.angles.new_tensor([-width, width, -width, width], dtype=torch.float64)
        y = self.angles.new_tensor([-height, -height, height, height], dtype=torch.float64)
        parts = (part.detach().expand_as(self.angles)[:, None] for part in self._parts()[:6])
        angle, source, detector, _, _, shift = parts
        magnification = (source + detector) / (source + y * angle.cos() - x * angle.sin())
        half = self.shape[0] * self.voxel_size[0] / 2
        u = (x * angle.cos() + y * angle.sin()) * magnification
        return u, magnification * (-half - shift), magnification * (half - shift)

    def _shadow(self) -> tuple[Ends, Ends]:
        """Return the ends of the volume's shadow in each view, (n_angles,) each, along u and along v."""
        u, low, high = self._corners()
        return (u.amin(1), u.amax(1)), (low.amin(1), high.amax(1))

    def _edges(self, axis: int) -> Ends:
        """Return the detector's ends along v (axis 0) or u (axis 1), () or (n_angles,); if turned, of its middle."""
        if self._is_turned():
            views = self._orbit(fixed=True).different()
            ends = [middle_ends(self._bins(), self.pitch, view)[axis] for view in views]
            return torch.stack([end[0] for end in ends]), torch.stack([end[1] for end in ends])
        middle = (self.row_offset, self.offset)[axis].detach()
        half = self.detector_shape[axis] * self.pitch[axis] / 2
        return middle - half, middle + half

    def _check_field(self, across: Ends, along: Ends) -> None:
        """Raise where no ray meets the volume; warn where the detector's width hardly fits it."""
        met = []
        for what, axis, (left, right) in (("columns", 1, across), ("rows", 0, along)):
            low, high = self._edges(axis)
            met.append((left < high) & (right > low))
            if not bool(met[-1].any()):
                raise ValueError(
                    f"ConeBeam: no ray meets the volume: the detector's {what} reach from {float(low.min()):.4g} to "
                    f"{float(high.max()):.4g}, the volume's shadow from {float(left.min()):.4g} to "
                    f"{float(right.max()):.4g}; check offsets, shift, pitch and voxel_size, in one unit"
                )
        if not bool((met[0] & met[1]).any()):
            raise ValueError(
                "ConeBeam: no ray meets the volume in any view; check offset, row_offset and shift, in one unit"
            )
        share = self.detector_shape[1] * self.pitch[1] / float((across[1] - across[0]).max())
        if not MIN_WIDTH <= share <= MAX_WIDTH:
            warnings.warn(
                f"ConeBeam: the detector is {share:.3g} times as wide as the volume's shadow; are pitch, voxel_size "
                "and distances in one unit?",
                stacklevel=3,
            )

    @property
    def sees_whole_image(self) -> bool:
        """Whether the detector's columns truncate no view of the volume; rows may, see `fbp`."""
        corners, views = self._corners(), self._orbit(fixed=True).different()
        each = zip(*corners, strict=True) if len(views) > 1 else [corners]
        return all(columns_hold(self._bins(), self.pitch, v, *c) for v, c in zip(views, each, strict=True))

    def _parts(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name).double() for name in self.TENSORS)

    def _orbit(self, *, fixed: bool = False) -> Orbit:
        """Return the geometry of the views, without gradients where it is fixed."""
        return Orbit(tuple(part.detach() if fixed else part for part in self._parts()))

    def _grid(self) -> Grid:
        """Return the voxels and the bins."""
        self._refresh()
        return self._cached(("grid", self._is_turned()), self._make_grid)

    def _make_grid(self) -> Grid:
        centres = [
            (torch.arange(n, device=self.angles.device, dtype=torch.float64) - (n - 1) / 2) * size
            for n, size in zip(self.shape, self.voxel_size, strict=True)
        ]
        shape, bins = self.detector_shape, None
        if self._is_turned():
            bins = self._bins()
            more = [margins(bins, self.pitch, view) for view in self._orbit(fixed=True).different()]
            shape = shape[0] + 2 * max(rows for rows, _ in more), shape[1] + 2 * max(columns for _, columns in more)
        grid = Grid(centres[2], -centres[1], centres[0], self.voxel_size, shape, self.pitch, centres[0], bins)
        _, *parts = (part.detach().reshape(-1).cpu() for part in self._parts()[:6])
        source, detector, _, row_offset, shift = (part.expand(max(map(len, parts))) for part in parts)
        # Distance of the farthest slice above or below the source; on the detector those of the nearest row and of the
        # farthest, which counts twice.
        reach = float(grid.z[-1]) + shift.abs()
        tall = shape[0] * self.pitch[0] / 2
        nearest, farthest = (row_offset.abs() - tall).clamp(min=0), 2 * tall + 2 * row_offset.abs()
        rows = zip(nearest.tolist(), farthest.tolist(), strict=True)
        views = zip(source.tolist(), (source + detector).tolist(), reach.tolist(), rows, strict=True)
        levels = max((levels_for(grid, *view) for view in set(views)), key=len)
        return grid._replace(levels=levels.to(self.angles.device))

    # ---------------------------------------------------------------- the operator

    def A(self, x: Tensor, /) -> Tensor:
        """Project volumes x (B, 1, D, H, W), per unit length, to views (B, 1, n_angles, rows, columns).

        Raises:
            TypeError, ValueError: x has another shape, is not floating point or is on another device.
        """
        check_images("ConeBeam.A", "x", x, (1, *self.shape), like=self.angles)
        return linear(x[:, 0], self._grid(), self._orbit(), adjoint=False)[:, None]

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the exact adjoint to views y (B, 1, n_angles, rows, columns): volumes (B, 1, D, H, W).

        Raises:
            TypeError, ValueError: y has another shape, is not floating point or is on another device.
        """
        check_images("ConeBeam.A_adjoint", "y", y, self.y_shape, like=self.angles)
        return linear(y[:, 0], self._grid(), self._orbit(), adjoint=True)[:, None]

    def preconditioner(self, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return M(r, alpha), approximately (A* W A + alpha)^-1 r: one circulant, so two FFTs of the volume.

        Its kernel is A* A of a voxel in the middle, G. Strang's circulant (Stud. Appl. Math. 74 (1986) 171). Off the
        middle A* A differs, so its eigenvalues are kept above the size of their negative ones, and the inverse is
        raised to a power below one. Measured iterations at alpha = ||A* A||/100: 6 in place of 14 for a full turn, 8
        in place of 14 for a short scan, 13 in place of 17 for 90 degrees. The first call takes the time of one A and
        one A*.

        Args:
            weights: scalar, or broadcasting against y (B, 1, n_angles, rows, columns); non-negative.
        """
        mean = weights.mean(dim=(-3, -2, -1), keepdim=True) if weights.ndim >= 3 else weights.mean()
        self._refresh()
        eigenvalues = self._cached("circulant", self._circulant).to(mean.dtype) * mean
        axes = (-3, -2, -1)

        def apply(r: Tensor, alpha: Tensor) -> Tensor:
            gain = eigenvalues.to(r.dtype) + alpha
            typical = gain.mean(dim=axes, keepdim=True)
            gain = gain**_PRECONDITIONER_EXPONENT * typical ** (1 - _PRECONDITIONER_EXPONENT)
            out: Tensor = torch.fft.irfftn(torch.fft.rfftn(r, dim=axes) / gain, s=self.shape, dim=axes)
            return out

        return apply

    def _circulant(self) -> Tensor:
        """Return the eigenvalues (D, H, W//2+1) of A* A of the middle voxel as a circulant, positive."""
        middle = tuple(n // 2 for n in self.shape)
        voxel = self.angles.new_zeros(1, *self.shape, dtype=torch.float64)
        voxel[(0, *middle)] = 1
        grid, orbit = self._grid(), self._orbit(fixed=True)
        kernel = backproject(project(voxel, grid, orbit), grid, orbit)[0]
        spectrum: Tensor = torch.fft.rfftn(kernel.roll([-n for n in middle], (0, 1, 2))).real
        least = max(-float(spectrum.min()), 1e-6 * float(spectrum.max()))
        return spectrum.clamp(min=least)

    def fbp(self, y: Tensor, window: str = "ramp", extend: bool = True) -> Tensor:
        """Filtered backprojection (FDK) of views y (B, 1, n_angles, rows, columns): volumes (B, 1, D, H, W).

        Feldkamp, Davis and Kress, J. Opt. Soc. Am. A 1 (1984) 612; in the plane of a circular orbit it is
        `FanBeam.fbp`, but where voxels are larger than bins at the axis: each is then the mean over its volume, not the
        value at its centre. Every view has its share of the circle, and rays measured twice, from opposite sides, have
        weights that sum to one smoothly: full scans, short scans and detectors off the axis need no setting. Away from
        that plane a circle does not measure all that the volume has: its error grows with the cone angle. Voxels above
        or below the rows of some views, as all are on a helix, are reconstructed from the views that see them.
        Distances and offsets that vary enter the rays' redundancy by their means. Gradients flow to y alone.

        Args:
            y: line integrals.
            window: "ramp" (none), "shepp-logan", "cosine", "hamming" or "hann", from least to most smoothing; along
                the rows, since the filter leaves the columns alone.
            extend: continue truncated views (see `is_truncated`) beyond the detector's columns like those of a uniform
                elliptic cylinder. False, and where y falls to 0 at the first and last columns: beyond, y counts as 0.
        """
        check_images("ConeBeam.fbp", "y", y, self.y_shape, like=self.angles)
        if window not in WINDOWS:
            raise ValueError(f"ConeBeam.fbp: window must be one of {sorted(WINDOWS)}, got {window!r}")
        flat, grid, orbit = flat_views(y[:, 0], self._grid(), self._orbit(fixed=True))
        open_ends = fan_twin(grid, orbit)._open_ends
        ends = open_ends(flat.transpose(1, 2)) if extend else [(False, False)] * len(y)
        if any(map(any, ends)):  # each image has its own ellipse
            images = [fdk(flat[b : b + 1], grid, orbit, window, end) for b, end in enumerate(ends)]
            return torch.cat(images)[:, None]
        return fdk(flat, grid, orbit, window, (False, False))[:, None]

    def is_truncated(self, y: Tensor) -> list[bool]:
        """Whether the object of each volume of y (B, 1, n_angles, rows, columns) reaches beyond the columns.

        The mean of y over the rows is judged as `FanBeam.is_truncated` judges it.
        """
        views, fan = self._fan(y)
        return [any(ends) for ends in fan._open_ends(views)]

    def image_size(self, y: Tensor) -> int:
        """Return how many voxels the sides of square slices need to hold the object; a guess where it is truncated."""
        views, fan = self._fan(y)
        return fan.image_size(views)

    def _fan(self, y: Tensor) -> tuple[Tensor, FanBeam]:
        """Return views as those of a fan whose images are the rows, and the fan in the plane of the orbit."""
        flat, grid, orbit = flat_views(y[:, 0], self._grid(), self._orbit(fixed=True))
        return flat.transpose(1, 2), fan_twin(grid, orbit)

    def __repr__(self) -> str:
        """Return the constructor call, without what varies from view to view."""
        angles = [str(a) for a in self.angles.tolist()]
        if len(angles) > 6:
            angles = [*angles[:2], "...", angles[-1]]
        parts = {name: getattr(self, name).detach() for name in self.TENSORS[1:]}
        options = {name: "<array>" if part.ndim else str(float(part)) for name, part in parts.items()}
        options |= {name: str(getattr(self, name)) for name in self.SIZES}
        listed = ", ".join(f"{name}={value}" for name, value in options.items())
        return f"ConeBeam({self.shape}, [{', '.join(angles)}], {listed})"


def _counts(name: str, value: Any, names: tuple[str, ...]) -> Any:
    """Return a shape as positive ints."""
    try:
        counts = tuple(op.index(n) for n in value)
    except TypeError:
        counts = ()
    if len(counts) != len(names):
        raise TypeError(f"ConeBeam: {name} must be {len(names)} integers ({', '.join(names)}), got {value!r:.60}")
    if min(counts) < 1:
        raise ValueError(f"ConeBeam: {name} must be positive, got {counts}")
    return counts


def _lengths(name: str, value: Any, names: tuple[str, ...]) -> Any:
    """Return lengths as floats, one for each axis; a number is that of every axis."""
    value = value.tolist() if isinstance(value, (np.ndarray, Tensor)) else value
    several = tuple(value) if isinstance(value, (tuple, list)) else (value,) * len(names)
    if len(several) != len(names):
        raise ValueError(f"ConeBeam: {name} must be a number or ({', '.join(names)}), got {value!r:.60}")
    return tuple(length("ConeBeam", name, number) for number in several)


def _odd(shadow: Ends, middle: Tensor, pitch: float) -> int:
    """Return the smallest odd number of bins about the middle that see the shadow in all views."""
    middle = middle.detach().double()
    reach = float(torch.maximum(shadow[1] - middle, middle - shadow[0]).max())
    return 2 * math.ceil(reach / pitch - 0.5 - 1e-9) + 1
