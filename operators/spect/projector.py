"""Single-photon emission tomography: volumes of activity to the views of a camera with parallel holes.

    y_v(x, z) = sum_j h_{v,j} * (a_{v,j} . (R_v activity)_j),    a_{v,j} = exp(-dy (sum_{i<=j} mu_i - mu_j/2))

with R_v the rotation that brings the camera of view v to the side of low y, j the planes parallel to it, from the
nearest to the farthest, * a convolution in x and z, h the collimator-detector response, whose sum is 1, and mu the
rotated attenuation map: half of a voxel's own attenuation counts. Model: Zeng, Gullberg, Tsui and Terry, IEEE Trans.
Nucl. Sci. 38 (1991) 693; Li, Dewaraja and Fessler, arXiv 2301.09710. The rotation is in `rotation.py`, the response in
`response.py`.

Frame: X = voxel_size (i - (nx-1)/2), Y = voxel_size (j - (ny-1)/2) for voxel (i, j, k) of a volume (nx, ny, nz); z is
the axis of rotation. At angle theta the camera is at (sin(theta), -cos(theta)), seen from the axis, and its bins lie
along (cos(theta), sin(theta)): the frame of Radon and FanBeam. At 0 it looks from low y to high y; a quarter turn
later the view of np.rot90(volume, -1) is that of the volume at 0. x is the expected number of counts that a voxel would
give each view if nothing were absorbed, y the expected counts of the bins, which are as large as voxels.

Scatter and other backgrounds add to A x: they belong to the data term, `Poisson(background=...)`, not to the operator.
"""

from __future__ import annotations

import copy
import operator as op
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..base import LinearOperator, check_images
from ..sizes import Sizes
from .arguments import check_angles, check_attenuation, check_fwhm, check_psf, check_sizes, check_volume
from .response import gaussian, separable, toeplitz
from .rotation import INTERPOLATIONS, Rotation

_T = TypeVar("_T")


class SPECT(LinearOperator):
    """SPECT projector: volumes (B, 1, nx, ny, nz) to views (B, 1, n_views, nx, nz), exact adjoint.

    Views are computed one at a time and nothing is kept for the backward pass, which is the adjoint: memory does not
    grow with the number of views. Gradients, of any order, flow to x and y, not to the attenuation or the response.

    Args:
        shape: (nx, ny, nz) voxels. With nx = ny, views a quarter turn apart share a matrix.
        angles: (n_views,), radians, any order, repeats allowed.
        voxel_size: side of a voxel, in any unit of length, e.g. mm; or (transaxial, axial).
        attenuation: (nx, ny, nz), linear attenuation coefficients mu at the photons' energy, per this unit, e.g. 1/mm;
            None: nothing is absorbed.
        fwhm: FWHM of a Gaussian response, in the unit of voxel_size: a number, (ny,) for each plane, the camera's side
            first, or (n_views, ny) where the camera's distance varies; `collimator_fwhm` computes it.
        psf: any response, instead of fwhm, sampled as the bins are: (ny, kx, kz) or (n_views, ny, kx, kz) of odd sizes,
            whose planes sum to 1. A point's image is its plane's kernel, not mirrored.
        psf_rtol: psf is applied as a sum of separable terms; those below this part of the first are left out. Time is
            proportional to the number of terms.
        interpolation: weights of rotated slices, "area" or "bilinear"; "area" conserves counts.
        cache_attenuation: keep the attenuation factors of every view: a third faster, in the memory of n_views volumes.

    Raises:
        ValueError: shapes do not fit each other, values are negative or not finite, or planes of psf do not sum to 1.

    Activity that a rotation moves out of the grid is lost: keep it inside the cylinder that fits into the grid. So is
    attenuation, which is a warning from 2 % on. There is no `preconditioner`: diagonal ones, circulants and their
    products did not make conjugate gradients faster.

    >>> A = SPECT((4, 4, 3), [0.0, torch.pi / 2], voxel_size=4.8, fwhm=6.0)
    >>> A.A(torch.ones(1, 1, 4, 4, 3)).shape
    torch.Size([1, 1, 2, 4, 3])
    """

    shape: tuple[int, int, int]
    """(nx, ny, nz) of the volumes."""
    angles: Tensor
    attenuation: Tensor | None
    across: Tensor | None
    """(1 or n_views, n_terms, ny, kx): factors of the response along x."""
    axial: Tensor | None
    """(1 or n_views, n_terms, ny, kz): factors of the response along z."""
    y_is_sampled = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        angles: Any,
        *,
        voxel_size: float | tuple[float, float],
        attenuation: Any = None,
        fwhm: Any = None,
        psf: Any = None,
        psf_rtol: float = 1e-4,
        interpolation: str = "area",
        cache_attenuation: bool = False,
    ) -> None:
        super().__init__()
        self.shape = check_volume(shape)
        self.voxel_size = check_sizes(voxel_size)
        if interpolation not in INTERPOLATIONS:
            choices = ", ".join(INTERPOLATIONS)
            raise ValueError(f"SPECT: interpolation must be one of {choices}, got {interpolation!r}")
        if not 0 <= psf_rtol < 1:
            raise ValueError(f"SPECT: psf_rtol must be from 0 to less than 1, got {psf_rtol!r}")
        if fwhm is not None and psf is not None:
            raise ValueError("SPECT: give fwhm or psf, not both; a psf holds the whole response")
        self.interpolation = interpolation
        self.cache_attenuation = bool(cache_attenuation)
        self.register_buffer("angles", check_angles(angles))
        device = self.angles.device
        self.register_buffer("attenuation", check_attenuation(attenuation, self.shape, self.voxel_size[0], device))
        across = axial = None
        n_views, (nx, ny, nz) = len(self.angles), self.shape
        if fwhm is not None:
            width = check_fwhm(fwhm, n_views, ny, device)[:, None]
            across, axial = (gaussian(width, size, n) for size, n in zip(self.voxel_size, (nx, nz), strict=True))
        elif psf is not None:
            across, axial = separable(check_psf(psf, n_views, ny, device), psf_rtol)
        self.register_buffer("across", across)
        self.register_buffer("axial", axial)
        self._response = "" if across is None else "fwhm" if psf is None else "psf"
        self._rotation = Rotation((nx, ny), interpolation)
        self._cache: dict[object, Any] = {}

    # ---------------------------------------------------------------- the operator

    @property
    def x_shape(self) -> Sizes:
        """Sizes (1, nx, ny, nz) of a volume."""
        return (1, *self.shape)

    @property
    def y_shape(self) -> Sizes:
        """Sizes (1, n_views, nx, nz) of a volume's views."""
        nx, _, nz = self.shape
        return (1, len(self.angles), nx, nz)

    def A(self, x: Tensor, /) -> Tensor:
        """Project volumes x (B, 1, nx, ny, nz) to views (B, 1, n_views, nx, nz).

        Raises:
            TypeError, ValueError: x has another shape, is not floating point or is on another device.
        """
        check_images("SPECT.A", "x", x, (1, *self.shape), like=self.angles)
        y: Tensor = _Linear.apply(x, self, False)
        return y

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Apply the exact adjoint, back-projection, to views y (B, 1, n_views, nx, nz): volumes (B, 1, nx, ny, nz).

        Raises:
            TypeError, ValueError: y has another shape, is not floating point or is on another device.
        """
        nx, _, nz = self.shape
        check_images("SPECT.A_adjoint", "y", y, (1, len(self.angles), nx, nz), like=self.angles)
        x: Tensor = _Linear.apply(y, self, True)
        return x

    def sensitivity(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return A* 1 (1, 1, nx, ny, nz): the expected counts, in all views together, of one count in a voxel.

        It is 0 for a voxel that no view sees: such a voxel is not measured, and EM leaves it out.
        """
        nx, _, nz = self.shape
        return self.A_adjoint(self.angles.new_ones(1, 1, len(self.angles), nx, nz, dtype=dtype))

    def subset(self, b: int, n: int) -> SPECT:
        """Return the operator of the views b, b + n, b + 2n, ..., for ordered subsets; rotations are shared.

        Cached attenuation factors are not shared: a subset has its own.

        Args:
            b: first view, from 0 to n - 1.
            n: number of subsets, at most that of views; where it does not divide that number, subsets differ by a view.
        """
        try:
            b, n = op.index(b), op.index(n)
        except TypeError:
            raise TypeError(f"SPECT.subset: b and n must be integers, got {b!r} and {n!r}") from None
        if not 0 <= b < n <= len(self.angles):
            raise ValueError(
                f"SPECT.subset: expected 0 <= b < n <= {len(self.angles)}, the number of views, got b = {b} and n = {n}"
            )
        part = copy.copy(self)
        part.angles = self.angles[b::n]
        if self.across is not None and self.axial is not None and len(self.across) > 1:
            part.across, part.axial = self.across[b::n], self.axial[b::n]
        part._rotation = self._rotation
        return part

    # ---------------------------------------------------------------- view by view

    def _project(self, x: Tensor) -> Tensor:
        (nx, ny, nz), batch = self.shape, len(x)
        real = torch.promote_types(x.dtype, torch.float32)
        slices = x.to(real)[:, 0].permute(1, 2, 0, 3)  # the batch beside z: all images rotate alike
        y = x.new_empty(batch, len(self.angles), nx, nz, dtype=real)
        for quarters, views in self._views().items():
            turned = self._rotation.turn(slices, quarters).reshape(nx * ny, -1)
            exponents = self._exponents(quarters, real)
            for v, ticks in views:
                planes = self._rotation.rotate(turned, ticks).view(ny, nx, batch, nz)
                if exponents is not None:
                    planes *= self._factors(v, ticks, exponents)
                y[:, v] = self._blur(planes, v).transpose(0, 1)
        return y[:, None].to(x.dtype)

    def _backproject(self, y: Tensor) -> Tensor:
        (nx, ny, nz), batch = self.shape, len(y)
        real = torch.promote_types(y.dtype, torch.float32)
        x = y.new_zeros(nx, ny, batch, nz, dtype=real)
        for quarters, views in self._views().items():
            exponents, total = self._exponents(quarters, real), torch.zeros_like(x)
            for v, ticks in views:
                planes = self._blur_adjoint(y[:, 0, v].to(real).transpose(0, 1), v)
                if exponents is not None:
                    planes = planes * self._factors(v, ticks, exponents)
                total += self._rotation.rotate_adjoint(planes.reshape(ny * nx, -1), ticks).view_as(x)
            x += self._rotation.turn(total, -quarters)
        return x.permute(2, 0, 1, 3)[:, None].to(y.dtype).contiguous()

    def _views(self) -> dict[int, list[tuple[int, int]]]:
        """Return views and their remaining ticks, grouped by quarter turns."""

        def group() -> dict[int, list[tuple[int, int]]]:
            groups: dict[int, list[tuple[int, int]]] = {}
            for v, angle in enumerate(self.angles.tolist()):
                quarters, ticks = self._rotation.split(angle)
                groups.setdefault(quarters, []).append((v, ticks))
            return groups

        return self._cached("views", group)

    def _exponents(self, quarters: int, dtype: torch.dtype) -> Tensor | None:
        """Return -mu dy/2 of the voxels (nx ny, nz), rotated by a number of quarter turns."""
        if self.attenuation is None:
            return None
        halves = self.attenuation.to(dtype) * (-self.voxel_size[0] / 2)
        return self._rotation.turn(halves, quarters).flatten(0, 1)

    def _factors(self, v: int, ticks: int, exponents: Tensor) -> Tensor:
        """Return the share of each voxel's photons that reaches the camera of view v, (ny, nx, 1, nz)."""

        def make() -> Tensor:
            nx, ny, nz = self.shape
            own = self._rotation.rotate(exponents, ticks).view(ny, nx * nz)
            path = own.clone()
            path[1:] += own[:-1]
            # cumsum is 10 times slower along this axis, and sums in another order on a GPU.
            for nearer, farther in pairwise(path.unbind()):
                farther += nearer
            return path.exp_().view(ny, nx, 1, nz)

        return self._cached(("factors", v, exponents.dtype), make) if self.cache_attenuation else make()

    def _blur(self, planes: Tensor, v: int) -> Tensor:
        """Blur planes (ny, nx, B, nz) and sum over them: (nx, B, nz)."""
        ny, nx, batch, nz = planes.shape
        if self.across is None:
            return planes.sum(0)
        view = planes.new_zeros(nx, batch * nz)
        for across, axial in self._matrices(v, planes.dtype):
            view.addmm_(across, torch.bmm(planes.view(ny, nx * batch, nz), axial.mT).view(ny * nx, batch * nz))
        return view.view(nx, batch, nz)

    def _blur_adjoint(self, view: Tensor, v: int) -> Tensor:
        """Apply the transpose of `_blur` to a view (nx, B, nz): planes (ny, nx, B, nz)."""
        nx, batch, nz = view.shape
        ny = self.shape[1]
        if self.across is None:
            return view.expand(ny, nx, batch, nz)
        planes = view.new_zeros(ny, nx * batch, nz)
        for across, axial in self._matrices(v, view.dtype):
            planes.baddbmm_((across.T @ view.reshape(nx, batch * nz)).view(ny, nx * batch, nz), axial)
        return planes.view(ny, nx, batch, nz)

    def _matrices(self, v: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Return the terms of view v's response: matrices (nx, ny nx), which sum over planes, and (ny, nz, nz)."""
        if self.across is None or self.axial is None:
            return []
        across, axial, (nx, _, nz) = self.across, self.axial, self.shape

        def make() -> list[tuple[Tensor, Tensor]]:
            kernels = zip(across[v % len(across)].to(dtype), axial[v % len(axial)].to(dtype), strict=True)
            return [(toeplitz(x, nx).transpose(0, 1).flatten(1), toeplitz(z, nz)) for x, z in kernels]

        # The matrices of all views together would be larger than all else.
        return self._cached(("matrices", dtype), make) if len(across) == 1 else make()

    # ---------------------------------------------------------------- tables

    def _cached(self, key: object, make: Callable[[], _T]) -> _T:
        """Return a table, made at its first use and again after a buffer was replaced or written to."""
        # Compare the buffers themselves: ids of freed objects are reused.
        held = [(b, 0 if b.is_inference() else b._version) for b in self.buffers()]
        known = self._cache.get("buffers", [])
        if len(known) != len(held) or any(a is not b or v != w for (a, v), (b, w) in zip(known, held, strict=True)):
            self._cache = {"buffers": held}
        if key not in self._cache:
            # Tables outlive this call, whatever its autograd mode.
            with torch.inference_mode(False), torch.no_grad():
                self._cache[key] = make()
        found: _T = self._cache[key]
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SPECT:
        """Move the geometry but keep its precision: `.to(torch.float32)` must not round the angles."""
        for name, before in self._buffers.items():
            if before is not None:
                after = fn(before)
                self._buffers[name] = after if after.dtype == before.dtype else before.to(after.device)
        self._rotation, self._cache = Rotation(self.shape[:2], self.interpolation), {}
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Tables are quickly made again, and a copy may replace its buffers.
        fresh = {"_rotation": Rotation(self.shape[:2], self.interpolation), "_cache": {}}
        return {**self.__dict__, "_buffers": dict(self._buffers), **fresh}

    def __repr__(self) -> str:
        """Return the constructor call, arrays by their shape."""
        angles = [f"{a:.6g}" for a in self.angles.tolist()]
        if len(angles) > 6:
            angles = [*angles[:2], "...", angles[-1]]
        size = self.voxel_size[0] if self.voxel_size[0] == self.voxel_size[1] else self.voxel_size
        options = [f"voxel_size={size}"]
        options += ["attenuation=<array>"] if self.attenuation is not None else []
        options += [f"{self._response}=<array>"] if self._response else []
        options += ["interpolation='bilinear'"] if self.interpolation == "bilinear" else []
        options += ["cache_attenuation=True"] if self.cache_attenuation else []
        return f"SPECT({self.shape}, [{', '.join(angles)}], {', '.join(options)})"


class _Linear(torch.autograd.Function):
    """A or its adjoint: each is the other's derivative, so that gradients of any order need nothing else."""

    @staticmethod
    def forward(x: Tensor, operator: SPECT, adjoint: bool) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # in half precision the adjoint would not be exact
            return operator._backproject(x) if adjoint else operator._project(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, SPECT, bool], output: Tensor) -> None:
        _, ctx.operator, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Linear.apply(gradient, ctx.operator, not ctx.adjoint), None, None
