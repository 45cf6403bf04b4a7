"""A CT scan: views of an object from many angles, and the geometry of source and detector."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from operators import ConeBeam, FanBeam, Radon
from operators.base import warn_of_degrees

from ..io.guards import check_finite, check_real, to_float32
from .ct_arguments import KINDS
from .ct_cone_scan import cone_geometry, cone_views

_Image = TypeVar("_Image", Tensor, npt.NDArray[Any])


@dataclass(frozen=True, eq=False)
class CtScan:
    """Views of an object with their angles and geometry.

    Attributes:
        y: (n_angles, n_detectors) or (n_rows, n_angles, n_detectors), float32: line integrals, without unit, raw
            counts, or transmissions, counts over those of the open beam.
        angles: (n_angles,), radians, float64; any order, repeats allowed.
        kind: "line integrals", "counts" or "transmissions".
        flat: counts of the open beam, frame by frame, since their spread gives the gain: (n_frames, n_detectors) or
            (n_rows, n_frames, n_detectors); without an axis of frames, a single frame. None: not measured.
        dark: counts of the closed beam, likewise.
        source_origin_mm: distance from the source to the axis of rotation; None: parallel beam, or not known.
        origin_detector_mm: distance from the axis to the detector.
        pitch_mm: width of a detector bin, on the detector.
        pixel_size_mm: side of the image's pixels that suits the data: a bin, scaled to the axis.
        facts: further entries of the file.
        path: the file, for messages.
        times: (n_angles,), float64: when the views were taken, in any unit from any origin, such as frame numbers.
            None: not known.
        flat_times: (n_flats,), of the flats, likewise; needs times.
        dark_times: (n_darks,), of the darks, likewise; needs times.
        row_pitch_mm: height of a detector bin, on the detector, of a cone beam; None: not known.

    Raises:
        ValueError: axes do not match the angles or each other, values are not finite real numbers, or a geometry is
            incomplete.
    """

    y: npt.NDArray[np.float32] = field(repr=False)
    angles: npt.NDArray[np.float64] = field(repr=False)
    kind: Literal["line integrals", "counts", "transmissions"]
    flat: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    dark: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    source_origin_mm: float | None = None
    origin_detector_mm: float | None = None
    pitch_mm: float | None = None
    pixel_size_mm: float | None = None
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    path: str = ""
    times: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    flat_times: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    dark_times: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    row_pitch_mm: float | None = None

    def __post_init__(self) -> None:
        where = self.path or "CtScan"
        y, angles = to_float32(f"{where}: y", self.y), np.asarray(self.angles)
        check_real(f"{where}: angles", angles.dtype)
        check_finite(f"{where}: angles", angles)
        _check_axes(where, y.shape, angles.shape)
        if self.kind not in KINDS:
            raise ValueError(f"{where}: kind must be one of {KINDS}, got {self.kind!r:.40}")
        for name in ("flat", "dark"):
            if (field_ := getattr(self, name)) is not None:
                object.__setattr__(self, name, _frames(f"{where}: {name}", field_, y.shape))
        self._check_times(where)
        given = [self.source_origin_mm is not None, self.origin_detector_mm is not None]
        if any(given) and not (all(given) and self.pitch_mm is not None):
            raise ValueError(
                f"{where}: a fan beam needs source_origin_mm, origin_detector_mm and pitch_mm, got "
                f"{self.source_origin_mm}, {self.origin_detector_mm} and {self.pitch_mm}"
            )
        warn_of_degrees(where, float(np.ptp(angles)), stacklevel=3)
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "angles", np.ascontiguousarray(angles, dtype=np.float64))

    def _check_times(self, where: str) -> None:
        """Make times (n,) of float64; refuse those that do not match the views or frames."""
        counted = {"times": len(self.angles)}
        for name in ("flat", "dark"):
            frames = getattr(self, name)
            counted[f"{name}_times"] = 0 if frames is None else frames.shape[-2]
        for name, n in counted.items():
            if (value := getattr(self, name)) is None:
                continue
            times = np.asarray(value)
            check_real(f"{where}: {name}", times.dtype)
            check_finite(f"{where}: {name}", times)
            if times.shape != (n,):
                what = "views" if name == "times" else f"frames of {name[:4]}"
                raise ValueError(f"{where}: {name} must be ({n},), one for each of the {what}, got {times.shape}")
            if self.times is None:
                raise ValueError(f"{where}: {name} needs times, those of the views; leave out {name} without them")
            object.__setattr__(self, name, np.ascontiguousarray(times, dtype=np.float64))

    def row(self, k: int) -> CtScan:
        """Return the scan of detector row k alone, y (n_angles, n_detectors); a scan of one row is its row 0."""
        n_rows = 1 if self.y.ndim == 2 else len(self.y)
        if not -n_rows <= k < n_rows:
            raise ValueError(f"CtScan.row: k must be in 0..{n_rows - 1}, got {k}; the scan has {n_rows} detector rows")
        if self.y.ndim == 2:
            return self
        flat, dark = (None if field_ is None else field_[k] for field_ in (self.flat, self.dark))
        numbers = self.detector_rows()
        facts = self.facts if numbers is None else self.facts | {"rows": (numbers[k], numbers[k] + 1, 1)}
        return replace(self, y=self.y[k], flat=flat, dark=dark, facts=facts)

    def detector_rows(self) -> range | None:
        """Return the numbers on the detector of the rows of y, as the reader states them; None: not known."""
        stated = self.facts.get("rows")
        if not isinstance(stated, tuple) or len(stated) != 3:
            return None
        numbers = range(*stated)
        return numbers if len(numbers) == (1 if self.y.ndim == 2 else len(self.y)) else None

    def subset(self, which: slice | npt.ArrayLike) -> CtScan:
        """Return the scan with some of its views: a limited arc, or few of them.

        Args:
            which: slice, indices or boolean mask over the angles, e.g. slice(0, 181) or slice(None, None, 12). A slice
                must lie within the scan: no requested view is left out silently.
        """
        n = len(self.angles)
        if isinstance(which, slice) and any(k is not None and not -n <= k <= n for k in (which.start, which.stop)):
            raise ValueError(f"CtScan.subset: which must be a slice within the {n} views, got {which}")
        index = which if isinstance(which, slice) else np.asarray(which)
        try:
            angles = self.angles[index]
        except IndexError:
            angles = np.empty((0, 0))
        if angles.ndim != 1 or len(angles) == 0:
            raise ValueError(
                f"CtScan.subset: which must be a slice, 1-D indices below {n} or a mask ({n},) that keeps a view of "
                f"the {n}, got {which!r:.80}"
            )
        times = None if self.times is None else self.times[index]
        return replace(self, y=self.y[..., index, :], angles=angles, times=times)

    def binned(self, n: int) -> CtScan:
        """Return the scan of a detector with bins n times as wide, for a coarser image.

        Counts are summed; transmissions and line integrals averaged, which is right where they vary little within n
        bins.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1 or self.y.shape[-1] % n:
            raise ValueError(f"CtScan.binned: n must divide the {self.y.shape[-1]} bins, got {n!r}; crop y first")

        def gather(field_: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            bins = field_.reshape(*field_.shape[:-1], -1, n)
            wider: npt.NDArray[np.float32] = bins.sum(-1) if self.kind == "counts" else bins.mean(-1)
            return wider

        wide: dict[str, Any] = {
            name: gather(value) for name in ("y", "flat", "dark") if (value := getattr(self, name)) is not None
        }
        wide |= {name: n * value for name in ("pitch_mm", "pixel_size_mm") if (value := getattr(self, name))}
        return replace(self, **wide)

    def tensors(self, device: torch.device | str | None = None) -> tuple[Tensor, None]:
        """Return what `solve` takes: y (n_rows, 1, n_angles, n_detectors), and None for a noise_std that is not known.

        Each detector row is an image of the batch. The tensor is a copy.

        Raises:
            ValueError: y are raw counts or transmissions; `pnp.ct.line_integrals(scan).tensors()` converts them and
                gives their noise.
        """
        if self.kind != "line integrals":
            other = ", or give counts to solve with data_term=Transmission(i0)" if self.kind == "counts" else ""
            raise ValueError(
                f"{self.path or 'CtScan'}: tensors gives line integrals, but kind is {self.kind!r}; use "
                f"pnp.ct.line_integrals(scan).tensors(){other}"
            )
        return torch.tensor(self.y, device=device).reshape(-1, 1, *self.y.shape[-2:]), None

    def operator(
        self, shape: tuple[int, int] | None = None, *, offset: float = 0.0, pixel_size: float | None = None
    ) -> Radon | FanBeam:
        """Return the operator from images of this shape to y: `FanBeam` where the distances are known, else `Radon`.

        Of a cone beam, FanBeam is right for the row in the plane of the source's orbit, facts["middle_row"], and less
        so the farther from it; `cone_operator` is right for all rows together. Arguments: see `geometry`.
        """
        make_operator = Radon if self.source_origin_mm is None else FanBeam
        return make_operator(**self.geometry(shape, offset=offset, pixel_size=pixel_size))

    def cone_geometry(
        self,
        shape: tuple[int, int, int] | None = None,
        *,
        offset: float = 0.0,
        row_offset: float = 0.0,
        voxel_size: float | tuple[float, float, float] | None = None,
    ) -> dict[str, Any]:
        """Return the arguments of `cone_operator`'s constructor, for files; lengths are in mm.

        Slices run along the axis of rotation as +Z of `ConeBeam`, the one at the bottom of the detector first.

        Args:
            shape: (D, H, W) of the volume; None: as many voxels as hold what the rows see at the axis, and as many per
                side of a slice as the detector has bins.
            offset: centre of the detector, see `pnp.ct.offset_from_centre`.
            row_offset: height of the detector's middle, of all its rows, over the plane of the source's orbit.
            voxel_size: side of a voxel, or (depth, height, width); None: pixel_size_mm, or a bin scaled to the axis.

        Raises:
            ValueError: the scan lacks what a cone beam needs, a number of which the message names; or its rows leave
                others out between them.
        """
        size = self._pixel_size() if voxel_size is None else voxel_size
        return cone_geometry(self, shape, offset, row_offset, size)

    def cone_operator(
        self,
        shape: tuple[int, int, int] | None = None,
        *,
        offset: float = 0.0,
        row_offset: float = 0.0,
        voxel_size: float | tuple[float, float, float] | None = None,
    ) -> ConeBeam:
        """Return the operator from volumes of this shape to all rows of y together. Arguments: see `cone_geometry`."""
        size = self._pixel_size() if voxel_size is None else voxel_size
        return ConeBeam(**cone_geometry(self, shape, offset, row_offset, size))

    def cone_tensors(self, device: torch.device | str | None = None) -> tuple[Tensor, None]:
        """Return what `solve` takes with `cone_operator`: y (1, 1, n_angles, n_rows, n_detectors), and None.

        Raises:
            ValueError: y are raw counts or transmissions: `record = pnp.ct.line_integrals(scan)` converts them, and
                `scan.cone_views(record.y)` and `scan.cone_views(record.noise_std)` are what `solve` takes.
        """
        if self.kind != "line integrals":
            raise ValueError(
                f"{self.path or 'CtScan'}: cone_tensors gives line integrals, but kind is {self.kind!r}; give record.y "
                "and record.noise_std of record = pnp.ct.line_integrals(scan) to scan.cone_views"
            )
        return self.cone_views(self.y, device), None

    def cone_views(self, y: Any, device: torch.device | str | None = None) -> Tensor:
        """Return values as y is laid out, (n_rows, n_angles, n_detectors), as a copy (1, 1, n_angles, rows, columns).

        The lowest row comes first, as in `cone_operator`: rows that the reader has from the top are turned round.
        """
        return cone_views(self, y, device)

    def geometry(
        self, shape: tuple[int, int] | None = None, *, offset: float = 0.0, pixel_size: float | None = None
    ) -> dict[str, Any]:
        """Return the arguments of `operator`'s constructor, for files; lengths are in mm, or in bins without pitch_mm.

        Args:
            shape: (H, W) of the image; None: as many pixels per side as the detector has bins. Where the detector
                truncates the line integrals, which then do not fall to 0 at its ends, None gives as many more as hold
                the object, as far as it can be guessed (`operators.Radon.image_size`), with a warning: what lies
                outside the field of view needs pixels, too. `crop_to_view` leaves them out.
            offset: centre of the detector, see `pnp.ct.offset_from_centre`.
            pixel_size: side of a pixel; None: pixel_size_mm, or a bin scaled to the axis of rotation.
        """
        n = self.y.shape[-1]
        names = ("source_origin", "origin_detector", "pitch")
        lengths = {name: value for name in names if (value := getattr(self, f"{name}_mm")) is not None}
        sizes = {"offset": offset, "pixel_size": self._pixel_size() if pixel_size is None else pixel_size}
        others = {"angles": self.angles, "n_detectors": n, **lengths, **sizes}
        return {"shape": self._default_shape(others) if shape is None else shape, **others}

    def _default_shape(self, geometry: dict[str, Any]) -> tuple[int, int]:
        """Return (n, n) for n bins, or a larger square where the object reaches beyond the detector."""
        n, size = self.y.shape[-1], 0
        if self.kind == "line integrals":
            y = torch.from_numpy(self.y.reshape(-1, 1, *self.y.shape[-2:]).mean(0, keepdims=True))
            operator = (Radon if self.source_origin_mm is None else FanBeam)((n, n), **geometry)
            size = operator.image_size(y) if any(operator.is_truncated(y)) else 0
        if self.source_origin_mm is not None:  # the source stays outside the image
            size = min(size, int(1.3 * self.source_origin_mm / geometry["pixel_size"]))
        if size <= n:
            return n, n
        size += (size - n) % 2  # so that the field of view is the middle
        warnings.warn(
            f"{self.path or 'CtScan'}: y is not 0 at the ends of the detector, so the object reaches beyond it: the "
            f"image is {(size, size)} for {n} bins, to hold it; crop_to_view gives the field of view",
            stacklevel=4,
        )
        return size, size

    def crop_to_view(self, image: _Image, *, pixel_size: float | None = None) -> _Image:
        """Return the middle of images (..., H, W), tensors or arrays: the square as wide as the detector at the axis.

        Args:
            image: an image on the grid of `operator`.
            pixel_size: side of its pixels; None: as in `geometry`.
        """
        mine = self._pixel_size()
        side = round(self.y.shape[-1] * mine / (mine if pixel_size is None else pixel_size))
        rows, columns = (slice(max(0, (n - side) // 2), max(0, (n - side) // 2) + side) for n in image.shape[-2:])
        return image[..., rows, columns]

    def _pixel_size(self) -> float:
        """Return the side of a pixel that suits the data, in mm, or in bins where no length is known."""
        if self.pitch_mm is not None and self.pixel_size_mm is not None:
            return self.pixel_size_mm
        return bin_at_axis(self)


def bin_at_axis(scan: CtScan) -> float:
    """Return the width of a bin, scaled to the axis of rotation, in mm, or 1 where it is not known."""
    if scan.pitch_mm is None:
        return 1.0
    if scan.source_origin_mm is None or scan.origin_detector_mm is None:
        return scan.pitch_mm
    return scan.pitch_mm * scan.source_origin_mm / (scan.source_origin_mm + scan.origin_detector_mm)


def _frames(where: str, values: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return frames of the detector as (n_rows?, n_frames, n_detectors) for y of this shape."""
    frames = to_float32(where, values)
    pixels = (*shape[:-2], shape[-1])
    if frames.shape == pixels:
        frames = frames[..., None, :]
    if frames.ndim != len(shape) or (*frames.shape[:-2], frames.shape[-1]) != pixels or frames.shape[-2] == 0:
        raise ValueError(
            f"{where} must be {pixels}, one value per detector pixel, or with an axis of frames before the last, got "
            f"{frames.shape}; crop it as y"
        )
    return frames


def _check_axes(where: str, shape: tuple[int, ...], angles: tuple[int, ...]) -> None:
    """Refuse measurements (n_rows?, n_angles, n_detectors) that do not match angles (n_angles,)."""
    if len(angles) != 1 or angles[0] == 0:
        raise ValueError(f"{where}: angles must be a non-empty 1-D array of radians, got shape {angles}")
    (n,) = angles
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"{where}: y must be (n_angles, n_detectors) or (n_rows, n_angles, n_detectors), got {shape}, {n} angles"
        )
    if shape[-2] == n:
        return
    if shape[-1] == n:
        reason = "it is transposed; store or pass y.swapaxes(-2, -1)"
    elif shape[0] == n:
        reason = "the detector rows come first; store or pass np.moveaxis(y, 0, 1)"
    else:
        reason = "views or angles are missing; give every view its angle"
    raise ValueError(
        f"{where}: y must have a view for each of {n} angles, (..., {n}, n_detectors), got {shape}: {reason}"
    )
