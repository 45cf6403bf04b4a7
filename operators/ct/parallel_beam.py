"""Parallel-beam transform of a volume: every row of the detector sees one slice, and is its Radon transform.

    y[v, r, b] = (1/pitch) int_bin p_v(t) dt,    p_v(t) = int x[r](X, Y) delta(t - X cos theta_v - Y sin theta_v) dX dY

Frame: that of `ConeBeam`, whose source is far away: X = side (column - (W-1)/2), Y = side ((H-1)/2 - row) and
Z = depth (slice - (D-1)/2) for voxel (slice, row, column); Z is the axis of rotation. Row r of the detector is slice r,
and its bin b is centred on t = offset + pitch (b - (n_detectors-1)/2). Slices are projected by `Radon`, in groups, so
that memory beyond x and y does not grow with their number.
"""

from __future__ import annotations

import copy
import math
import operator as op
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..base import LinearOperator, as_buffer, check_images, length
from ..sizes import Sizes
from .radon import Radon, bins_for

_GROUP = 2**22
"""Samples of Fourier space that a group of slices has, at most, if it is more than one slice."""


class RowsRadon(Radon):
    """`Radon` of slices as channels whose detector rows may be shifted, each to its own offset.

    Args:
        offsets: (D,), those of all slices; None: all have `offset`.
        arguments: as of `Radon`.
    """

    TENSORS = ("angles", "offset", "offsets")
    offsets: Tensor | None

    def __init__(self, *arguments: Any, offsets: Any = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if offsets is None:
            self.register_buffer("offsets", None)
        else:
            self._keep("offsets", offsets)
        if self.offsets is not None:
            self._check_rows(self.offsets)

    def _check_rows(self, offsets: Tensor) -> None:
        """Raise where a row sees nothing of its slice."""
        (low, high), (left, right) = self._edges(), self._shadow()
        moved = self._shifts(offsets)[:, None]
        sees = ((left < high + moved) & (right > low + moved)).any(1)
        if not bool(sees.all()):
            d = int(sees.int().argmin())
            raise ValueError(
                f"ParallelBeam: no ray of row {d} meets its slice: offset is {float(offsets[d].detach()):.4g} "
                f"there, the slice's shadow reaches from {float(left.min()):.4g} to {float(right.max()):.4g}; check "
                "offset, pitch and voxel_size, in one unit"
            )

    def _shifts(self, offsets: Tensor) -> Tensor:
        """Return how far the offsets of slices are from `offset`."""
        return offsets.double() - self.offset.detach()

    @property
    def _name(self) -> str:
        return "ParallelBeam"

    @property
    def _spread(self) -> float:
        """How far offsets are from `offset`."""
        return 0.0 if self.offsets is None else float(self._shifts(self.offsets).detach().abs().max())

    @property
    def sees_whole_image(self) -> bool:
        """Whether no row of the detector truncates its slice in any view."""
        (low, high), (left, right), spread = self._edges(), self._shadow(), self._spread
        return bool(left.min() >= (low + spread) * (1 + 1e-9)) and bool(right.max() <= (high - spread) * (1 + 1e-9))

    def _phases(self, omega: Tensor, part: slice) -> Tensor | None:
        """Return exp(i omega (offset_d - offset)) of the slices of a part, (n, 1, n_omega)."""
        if self.offsets is None:
            return None
        return torch.exp(1j * (self._shifts(self.offsets[part]) / self.pixel_size)[:, None, None] * omega)

    def _is_convolution(self) -> bool:
        return super()._is_convolution() and not (self.offsets is not None and self.offsets.requires_grad)

    def project(self, x: Tensor, part: slice) -> Tensor:
        """Project slices (B, n, H, W), a part of all: (B, n, n_angles, n_detectors)."""
        g = self._slices()
        return self._project(x, g, self._phases(g.omega, part))

    def backproject(self, y: Tensor, part: slice) -> Tensor:
        """Apply the adjoint of `project` to y (B, n, n_angles, n_detectors)."""
        g = self._slices()
        return self._backproject(y, g, g.gain, self._phases(g.omega, part))

    def normal(self, x: Tensor, part: slice) -> Tensor:
        """Apply A* A to slices (B, n, H, W); where it is a convolution, shifts of the detector drop out."""
        return self.A_adjoint_A(x) if self._is_convolution() else self.backproject(self.project(x, part), part)

    def of_slice(self, d: int) -> RowsRadon:
        """Return the operator of one slice, on the same detector, without gradients to the geometry."""
        if self.offsets is None:
            return self
        other = copy.copy(self)  # its buffers are in a dict of its own
        other._parameters = {name: p for name, p in self._parameters.items() if name != "offsets"}
        other._buffers |= {"offset": self.offsets.detach()[d].double(), "offsets": None}
        return other

    def n_samples(self) -> int:
        """Return how many numbers a slice takes while it is projected."""
        return max(self._slices().gain.numel(), 4 * math.prod(self.shape))


class ParallelBeam(LinearOperator):
    """Parallel-beam projector: volumes (B, 1, D, H, W) to views (B, 1, n_angles, rows, columns), exact adjoint.

    Rows of the detector are slices, so that rows = D, and a slice and its row are those of `Radon`; columns are its
    bins. The order of axes is that of `ConeBeam`. A prior across slices, and errors of a bin that all views have in
    common, act on the volume as a whole; without them, slices solved by themselves with `Radon` are the same.

    Args:
        shape: (D, H, W) voxels.
        angles: (n_angles,), radians, any order, repeats allowed. A tensor that requires grad is kept as it is, and
            gradients flow to it.
        n_detectors: number of columns; None: the smallest odd number that sees the whole volume.
        pitch: distance between columns and width of a bin, in the unit of voxel_size.
        offset: position of the detector's centre on the t axis (centre of rotation); or (D,), one for each row, as of
            an axis that leans to one side. A tensor that requires grad receives gradients.
        voxel_size: side of a voxel; or (depth, height, width), height and width alike. x is per this unit. The depth,
            the distance of the detector's rows, changes no projection; files and pictures show it.

    Raises:
        TypeError, ValueError: an argument is no number, has the wrong shape or cannot be right.

    >>> A = ParallelBeam((4, 6, 6), [0.0, 0.5])
    >>> A.A(torch.ones(1, 1, 4, 6, 6)).shape
    torch.Size([1, 1, 2, 4, 9])
    """

    shape: tuple[int, int, int]
    """(D, H, W) of the volumes."""
    y_is_sampled = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        angles: Any,
        *,
        n_detectors: int | None = None,
        pitch: float = 1.0,
        offset: float | Tensor = 0.0,
        voxel_size: float | tuple[float, float, float] = 1.0,
    ) -> None:
        super().__init__()
        self.shape = _volume_shape(shape)
        self.voxel_size = _sides(voxel_size)
        offset = as_buffer("ParallelBeam", "offset", offset)
        if offset.shape not in ((), self.shape[:1]):
            raise ValueError(
                f"ParallelBeam: offset must be a number or ({self.shape[0]},), one for each slice, got shape "
                f"{tuple(offset.shape)}"
            )
        pitch, side, plane = length("ParallelBeam", "pitch", pitch), self.voxel_size[1], self.shape[1:]
        mean, offsets = (float(offset.detach().double().mean()), offset) if offset.ndim else (offset, None)
        if offset.ndim and n_detectors is None and bool(offset.isfinite().all()):
            n_detectors = bins_for(plane, pitch, side, float(offset.detach().abs().max()))
        options = {"n_detectors": n_detectors, "pitch": pitch, "pixel_size": side}
        self.plane = RowsRadon(plane, angles, offset=mean, offsets=offsets, **options)

    @classmethod
    def from_slices(cls, slices: Sequence[Radon], *, depth: float | None = None) -> ParallelBeam:
        """Return the operator of a volume from those of its slices, which differ in nothing but their offsets.

        Args:
            slices: one operator for each slice.
            depth: distance of the slices, in the unit of `pitch`; None: a pixel's side.

        Raises:
            ValueError: there are no slices, or one has another grid, detector or other angles than the first.
        """
        if not slices:
            raise ValueError("ParallelBeam.from_slices: slices is empty; give one operator for each slice")
        first = slices[0]
        for d, one in enumerate(slices):
            sizes = [(a.shape, a.n_detectors, a.pitch, a.pixel_size) for a in (one, first)]
            if sizes[0] != sizes[1] or not torch.equal(one.angles, first.angles):
                raise ValueError(
                    f"ParallelBeam.from_slices: slice {d} has another grid, detector or other angles than slice 0; a "
                    "volume has those of one scan"
                )
        offsets = torch.stack([one.offset.detach().double() for one in slices])
        alike = bool((offsets == offsets[0]).all())
        return cls(
            (len(slices), *first.shape),
            first.angles,
            n_detectors=first.n_detectors,
            pitch=first.pitch,
            offset=float(offsets[0]) if alike else offsets,
            voxel_size=(first.pixel_size if depth is None else depth, first.pixel_size, first.pixel_size),
        )

    @property
    def angles(self) -> Tensor:
        """The angles (n_angles,), radians."""
        return self.plane.angles

    @property
    def offset(self) -> Tensor:
        """The offset, () or (D,)."""
        return self.plane.offset if self.plane.offsets is None else self.plane.offsets

    @property
    def n_detectors(self) -> int:
        """Number of columns."""
        return self.plane.n_detectors

    @property
    def pitch(self) -> float:
        """Distance between columns."""
        return self.plane.pitch

    @property
    def x_shape(self) -> Sizes:
        """Sizes (1, D, H, W) of a volume."""
        return (1, *self.shape)

    @property
    def y_shape(self) -> Sizes:
        """Sizes (1, n_angles, rows, columns) of a volume's views."""
        return (1, len(self.angles), self.shape[0], self.n_detectors)

    @property
    def sees_whole_image(self) -> bool:
        """Whether the detector truncates no view of the volume, by the geometry alone; see `is_truncated` for y."""
        return self.plane.sees_whole_image

    def _groups(self, n_images: int) -> Iterator[slice]:
        """Yield parts of the slices, of at most two sizes."""
        together = max(1, _GROUP // (self.plane.n_samples() * max(1, n_images)))
        size = math.ceil(self.shape[0] / math.ceil(self.shape[0] / together))
        for first in range(0, self.shape[0], size):
            yield slice(first, min(first + size, self.shape[0]))

    def _by_groups(self, f: Callable[[Tensor, slice], Tensor], slices: Tensor, out: Tensor) -> Tensor:
        """Fill out (B, D, ...) with f of all slices (B, D, ...), group by group."""
        for part in self._groups(len(slices)):
            out[:, part] = f(slices[:, part], part)
        return out

    # ---------------------------------------------------------------- the operator

    def A(self, x: Tensor, /) -> Tensor:
        """Project volumes x (B, 1, D, H, W), per unit length, to views (B, 1, n_angles, rows, columns).

        Raises:
            TypeError, ValueError: x has another shape, is not floating point or is on another device.
        """
        check_images("ParallelBeam.A", "x", x, self.x_shape, like=self.angles)
        y = x.new_empty(len(x), *self.y_shape)
        self._by_groups(self.plane.project, x[:, 0], _by_slice(y))
        return y

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the exact adjoint to views y (B, 1, n_angles, rows, columns): volumes (B, 1, D, H, W).

        Raises:
            TypeError, ValueError: y has another shape, is not floating point or is on another device.
        """
        check_images("ParallelBeam.A_adjoint", "y", y, self.y_shape, like=self.angles)
        return self._by_groups(self.plane.backproject, _by_slice(y), self._volumes(y))[:, None]

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Apply A* A to volumes x (B, 1, D, H, W), as `Radon` does to every slice."""
        check_images("ParallelBeam.A_adjoint_A", "x", x, self.x_shape, like=self.angles)
        return self._by_groups(self.plane.normal, x[:, 0], self._volumes(x))[:, None]

    def preconditioner(self, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return M(r, alpha), approximately (A* W A + alpha)^-1 r: the circulant of `Radon` for every slice.

        Args:
            weights: scalar, or broadcasting against y (B, 1, n_angles, rows, columns); non-negative. They enter by
                their mean over the views and columns of a row.
        """
        weights = weights.reshape((1,) * (5 - weights.ndim) + tuple(weights.shape))
        means = weights.mean(dim=(-3, -1))[..., None, None]  # (B, 1, D, 1, 1)
        eigenvalues = self.plane.circulant(weights.new_ones(())) * means

        def apply(r: Tensor, alpha: Tensor) -> Tensor:
            spectrum = torch.fft.rfft2(r) / (eigenvalues.to(r.dtype) + alpha)
            out: Tensor = torch.fft.irfft2(spectrum, s=self.shape[1:])
            return out

        return apply

    def fbp(self, y: Tensor, window: str = "ramp", extend: bool = True) -> Tensor:
        """Filtered backprojection of views y (B, 1, n_angles, rows, columns): volumes (B, 1, D, H, W).

        Args:
            y: line integrals.
            window, extend: as of `Radon.fbp`, which reconstructs every slice. Where the views of a slice are truncated
                it has its own ellipse.
        """
        check_images("ParallelBeam.fbp", "y", y, self.y_shape, like=self.angles)

        def group(slices: Tensor, part: slice) -> Tensor:
            if self.plane.offsets is None:  # slices as a batch, so that each has its own ellipse
                found = self.plane.fbp(slices.flatten(0, 1)[:, None], window, extend)
                return found.reshape(*slices.shape[:2], *self.shape[1:])
            of = [self.plane.of_slice(d) for d in range(part.start, part.stop)]
            each = torch.split(slices, 1, 1)
            return torch.cat([one.fbp(s, window, extend) for one, s in zip(of, each, strict=True)], 1)

        return self._by_groups(group, _by_slice(y), self._volumes(y))[:, None]

    def _volumes(self, like: Tensor) -> Tensor:
        """Return room for volumes (B, D, H, W)."""
        return like.new_empty(len(like), *self.shape)

    def is_truncated(self, y: Tensor) -> list[bool]:
        """Whether the object of each volume of y (B, 1, n_angles, rows, columns) reaches beyond the columns.

        The mean of y over the rows is judged as `Radon.is_truncated` judges it.
        """
        return self.plane.is_truncated(_by_slice(y))

    def image_size(self, y: Tensor) -> int:
        """Return how many voxels the sides of square slices need to hold the object; a guess where it is truncated."""
        return self.plane.image_size(_by_slice(y))

    def __repr__(self) -> str:
        """Return the constructor call, without offsets that vary."""
        angles = [str(a) for a in self.angles.tolist()]
        if len(angles) > 6:
            angles = [*angles[:2], "...", angles[-1]]
        depth, side, _ = self.voxel_size
        size = str(side if depth == side else self.voxel_size)
        offset = "<array>" if self.offset.ndim else str(float(self.offset.detach()))
        return (
            f"ParallelBeam({self.shape}, [{', '.join(angles)}], n_detectors={self.n_detectors}, pitch={self.pitch}, "
            f"voxel_size={size}, offset={offset})"
        )


def _by_slice(y: Tensor) -> Tensor:
    """Return views (B, 1, n_angles, rows, columns) as sinograms (B, rows, n_angles, columns)."""
    return y[:, 0].transpose(1, 2)


def _volume_shape(shape: Any) -> tuple[int, int, int]:
    try:
        depth, height, width = (op.index(n) for n in shape)
    except (TypeError, ValueError):
        raise TypeError(
            f"ParallelBeam: shape must be three integers (slices, height, width), got {shape!r:.60}; one slice is "
            "(1, height, width), or use Radon"
        ) from None
    if min(depth, height, width) < 1:
        raise ValueError(f"ParallelBeam: shape must be positive, got {(depth, height, width)}")
    return depth, height, width


def _sides(value: Any) -> tuple[float, float, float]:
    """Return (depth, height, width) of a voxel; a number is all three."""
    several = tuple(value) if isinstance(value, (tuple, list)) or getattr(value, "ndim", 0) == 1 else (value,) * 3
    if len(several) != 3:
        raise ValueError(f"ParallelBeam: voxel_size must be a number or (depth, height, width), got {value!r:.60}")
    depth, height, width = (length("ParallelBeam", "voxel_size", one) for one in several)
    if height != width:
        raise ValueError(
            f"ParallelBeam: voxel_size must have height = width, got {height:.6g} and {width:.6g}; slices have square "
            "pixels"
        )
    return depth, height, width
